"""Which trials a run has, and in which order. Pure.

A *block* is one machine weather: everything that a scenario compares happens once in it, close together, with one seed. The order within
it is drawn, and turned round in the next block, so that whoever goes first in one goes last in the other (AB BA). Blocks of all
scenarios, and those that compare a backend with itself, are spread evenly over the run: a slow quarter of an hour is everybody's.

A pair of which one trial is void is no pair, and one pair too few decides nothing. So a block with a void trial is made again, at the
end: whole, because the machine has other weather by then.
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from benchmarks.comparison.contract import LABELS, Planned, trial_name
from benchmarks.comparison.scenario import Load, Scenario, ScenarioError, expected_shoppers, load_seconds

NOISE_PAIRS = (("A", "A2"), ("B", "B2"))
# Seconds of a trial besides its load, on a quiet machine: roles up, gate, arming, rest, audit, roles down. A run goes by what its
# own trials took so far, as soon as there are any.
AROUND_S = 15.0
AGAIN = 100  # block 104 is block 4 made again, and 204 is 104
AGAIN_MAX = 2  # times: a machine that spoils one in four is done with nearly all, and one that spoils all ends
DRAINED_PER_S = 400.0  # what is decided by the slower backend on two cores: how long a burst goes on


class Block(NamedTuple):
    """A scenario's trials of one block, and where in the run they come, from 0 to 1."""

    place: float
    scenario: str
    trials: list[Planned]


def plan(scenarios: Sequence[Scenario], size: str, seed: int, blocks: int | None = None) -> list[Planned]:
    """All trials in order. ``blocks``: of each scenario, instead of what its file says. Raises ScenarioError for too many."""
    found: list[Block] = []
    for number, scenario in enumerate(scenarios):
        dice = random.Random(f"{seed}:{scenario.name}:order")
        count = scenario.blocks.of(size) if blocks is None else blocks
        noise = scenario.noise.of(size)
        if count + noise >= AGAIN:
            raise ScenarioError([f"{scenario.name}: {count + noise} blocks, and a run numbers fewer than {AGAIN}"])
        items = [(label, variant) for variant, _ in scenario.variants() for label in scenario.labels]
        shift = (number + 1) / (
            len(scenarios) + 1
        )  # so that not all scenarios' first blocks come before all second ones
        orders = _orders(items, count, dice)
        orders += [_orders([(label, "") for label in NOISE_PAIRS[index % 2]], 1, dice)[0] for index in range(noise)]
        for index, order in enumerate(orders):
            place = (index + shift) / count if index < count else (index - count + shift) / noise
            trials = [
                Planned(
                    trial_name(scenario.name, index + 1, position, label),
                    scenario.name,
                    index + 1,
                    position,
                    label,
                    LABELS[label],
                    variant,
                )
                for position, (label, variant) in enumerate(order)
            ]
            found.append(Block(place, scenario.name, trials))
    return [trial for block in sorted(found, key=lambda block: block.place) for trial in block.trials]


def again(planned: Sequence[Planned], void: Collection[str]) -> list[list[Planned]]:
    """
    The blocks that are due once more, since one of their trials is among ``void``. Those of the scenario with the most blocks come first:
    there a pair more or less decides. Nothing asks what a trial found, only whether it may be believed.
    """
    blocks: dict[tuple[str, int], list[Planned]] = {}
    for each in planned:
        blocks.setdefault((each.scenario, each.block), []).append(each)
    many = Counter(scenario for scenario, block in blocks if block < AGAIN)
    due = [
        [_again(each) for each in block]
        for (name, number), block in blocks.items()
        if any(each.trial in void for each in block)
        and number < AGAIN * AGAIN_MAX
        and (name, number + AGAIN) not in blocks
    ]
    return sorted(due, key=lambda block: -many[block[0].scenario])


def _again(planned: Planned) -> Planned:
    block = planned.block + AGAIN
    return replace(planned, trial=trial_name(planned.scenario, block, planned.position, planned.label), block=block)


def block_seed(seed: int, scenario: str, block: int) -> int:
    """What the arrivals of a block are drawn from: the same for all its trials."""
    return random.Random(f"{seed}:{scenario}:{block}").getrandbits(32)


def seconds(load: Load, around_s: float = AROUND_S) -> float:
    """About how long a trial takes."""
    return around_s + max(load_seconds(load), expected_shoppers(load) / DRAINED_PER_S)


def total_seconds(planned: Sequence[Planned], scenarios: Mapping[str, Scenario], around_s: float = AROUND_S) -> float:
    """About how long all of these take."""
    return sum(seconds(variant_of(scenarios[each.scenario], each).load, around_s) for each in planned)


def variant_of(scenario: Scenario, planned: Planned) -> Scenario:
    """The scenario as this trial has it. One that compares a backend with itself has the file's own values."""
    return dict(scenario.variants()).get(planned.variant, scenario)


def _orders(items: Sequence[tuple[str, str]], count: int, dice: random.Random) -> list[list[tuple[str, str]]]:
    # drawn for every other block, and turned round in the one after it
    orders: list[list[tuple[str, str]]] = []
    for index in range(count):
        orders.append(orders[-1][::-1] if index % 2 else dice.sample(list(items), len(items)))
    return orders
