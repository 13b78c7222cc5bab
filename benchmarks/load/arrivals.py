"""Who comes when, and how they behave: an open loop, drawn from a seed.

Law 1: arrivals do not wait for answers; a slow server meets the same crowd as a fast one. Law 2: equal arguments, equal crowd.
"""

import random
from enum import StrEnum
from typing import NamedTuple

SHOPPERS_MAX = 100_000  # bounds everything that is kept per shopper: tasks, waiting places, lines of the told file
RUSH_SHARE = 0.6  # of all shoppers come with the opening, the rest evenly over the whole arrival time
RUSH_MEAN = 0.08  # mean of the rush's exponential delay, as a share of the arrival time
SECOND_UNIT_SHARE = 0.3  # of shoppers want more than one unit

_KEY_BITS = 96


class Habit(StrEnum):
    """What a shopper does besides asking once."""

    WALKS_AWAY = "walks_away"  # asks until answered, then leaves; the hold lapses
    PAYS = "pays"  # pays after a moment, and again after a decline, while the hold lives
    PAYS_NOW = "pays_now"  # says so with the purchase
    WANTS_MORE = "wants_more"  # asks again with another key, for the whole limit on top of what it has
    DROPS_MARKED = "drops_marked"  # hangs up before the answer, sends the key again and says that it is a retry
    DROPS_UNMARKED = "drops_unmarked"  # the same, but as an ordinary client: the retry does not say that it is one
    CANCELS = "cancels"  # gives the hold up after a moment
    WATCHES = "watches"  # long-polls the hold until it has lapsed


HABITS = {
    Habit.WALKS_AWAY: 21,
    Habit.PAYS: 24,
    Habit.PAYS_NOW: 10,
    Habit.WANTS_MORE: 12,
    Habit.DROPS_MARKED: 6,
    Habit.DROPS_UNMARKED: 6,
    Habit.CANCELS: 12,
    Habit.WATCHES: 9,
}


class Shopper(NamedTuple):
    """One buyer's plan. ``arrives`` in seconds after the start; ``second_key`` is for the purchase past the limit."""

    arrives: float
    buyer: str
    key: str
    second_key: str
    quantity: int
    habit: Habit
    thinks: float


def crowd(*, sku: str, count: int, seed: int, arrival_seconds: float, buyer_limit: int) -> list[Shopper]:
    """``count`` shoppers in order of arrival. The SKU is part of the seed, so that no two sales see the same keys."""
    dice = random.Random(f"{seed}:{sku}")
    times = sorted(_arrival(dice, arrival_seconds) for _ in range(count))
    habits = dice.choices(list(HABITS), weights=list(HABITS.values()), k=count)
    return [
        Shopper(
            arrives=arrives,
            buyer=f"shopper-{number:06d}-{dice.getrandbits(32):08x}",
            key=_key(dice),
            second_key=_key(dice),
            quantity=dice.randint(2, buyer_limit) if buyer_limit > 1 and dice.random() < SECOND_UNIT_SHARE else 1,
            habit=habit,
            thinks=dice.uniform(0.05, 1.0),
        )
        for number, (arrives, habit) in enumerate(zip(times, habits, strict=True))
    ]


def _arrival(dice: random.Random, arrival_seconds: float) -> float:
    if dice.random() < RUSH_SHARE:
        return min(dice.expovariate(1 / (RUSH_MEAN * arrival_seconds)), arrival_seconds)
    return dice.uniform(0, arrival_seconds)


def _key(dice: random.Random) -> str:
    return f"{dice.getrandbits(_KEY_BITS):024x}"
