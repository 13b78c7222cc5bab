"""Who comes when: an open loop, drawn from a seed. Pure.

Law 1: equal arguments, equal arrivals, so both backends of a block meet the same shoppers at the same moments. Law 2: an arrival is a
time, fixed before anything is sent; no answer and no lateness moves it.
"""

import random
from typing import NamedTuple

from benchmarks.comparison.scenario import BELL, BURST, CONSTANT, SHOPPERS_MAX, Load
from benchmarks.load.arrivals import RUSH_MEAN, RUSH_SHARE

NS = 1_000_000_000
_KEY_BITS = 96


class Wish(NamedTuple):
    """One shopper's wish for one unit; ``intended_ns`` since the release."""

    intended_ns: int
    buyer: str
    key: str
    sku: str


def wishes(load: Load, skus: list[str], seed: int) -> list[Wish]:
    """Everybody, in order of arrival."""
    dice = random.Random(f"{seed}:who")
    return [
        Wish(
            at,
            f"shopper-{number:06d}-{dice.getrandbits(32):08x}",
            f"{dice.getrandbits(_KEY_BITS):024x}",
            dice.choice(skus),
        )
        for number, at in enumerate(times(load, seed))
    ]


def times(load: Load, seed: int) -> list[int]:
    """The intended times in nanoseconds, in order. Times and identities have dice of their own, so one can change without the other."""
    dice = random.Random(f"{seed}:when")
    if load.model == BURST:
        return [0] * load.shoppers
    if load.model == BELL:
        return sorted(round(_after_the_bell(dice, load.seconds) * NS) for _ in range(load.shoppers))
    if load.model == CONSTANT:
        return [round(number / load.rate * NS) for number in range(int(load.rate * load.seconds))]
    return _poisson(dice, load)


def _poisson(dice: random.Random, load: Load) -> list[int]:
    # Thinning: candidates come at the highest rate, and each stays with the chance that the moment's rate is of it.
    found: list[int] = []
    at = dice.expovariate(load.rate)
    while at < load.seconds and len(found) < SHOPPERS_MAX:
        if load.model != "ramp" or dice.random() * load.rate < rate_at(load, at):
            found.append(round(at * NS))
        at += dice.expovariate(load.rate)
    return found


def rate_at(load: Load, at_s: float) -> float:
    """A ramp's rate: up until the middle, and down again at the same pace."""
    half = load.seconds / 2
    share = 1 - abs(at_s - half) / half
    return load.rate_from + (load.rate - load.rate_from) * share


def _after_the_bell(dice: random.Random, seconds: float) -> float:
    if dice.random() < RUSH_SHARE:
        return min(dice.expovariate(1 / (RUSH_MEAN * seconds)), seconds)
    return dice.uniform(0, seconds)
