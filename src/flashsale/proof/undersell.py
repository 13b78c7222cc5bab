"""Undersell: units that stood on the shelf while shoppers were told that there were none.

Overselling is a wrong that an audit proves. Underselling is one of degree: a unit that came back is told to nobody for some
milliseconds, whatever the engine. So it is measured, not judged, and only for certain: a refusal is false if at no moment
between the question and the answer fewer units were on the shelf than were asked for.
"""

import gzip
import itertools
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flashsale.contract.verdict import Verdict

BUYING = "buy"


class Movement(NamedTuple):
    """One row of a SKU's ledger. ``at`` in Unix seconds."""

    at: float
    delta: int


class Refusal(NamedTuple):
    """Somebody was told that ``quantity`` units are not to be had; it was decided between ``since`` and ``until``."""

    since: float
    until: float
    quantity: int


class Undersell(NamedTuple):
    """``idle_unit_seconds``: how long units stood on the shelf that somebody falsely refused would have had.

    It counts from the refusal until the unit is held by anybody, or none is left and refusing is right again.
    """

    sold_outs: int
    false_sold_outs: int
    idle_unit_seconds: float


def read_refusals(path: Path, sku: str) -> list[Refusal]:
    """What the shoppers of a told file heard of this SKU; the file is one that ``read_told`` has found to be whole."""
    with gzip.open(path, "rt", encoding="ascii") as lines:
        offset = float(json.loads(next(lines))["wall_minus_monotonic"])
        stories = (json.loads(line) for line in lines)
        return [
            Refusal(refusal.since + offset, refusal.until + offset, refusal.quantity)
            for story in stories
            for refusal in refusals(story.get("calls", ()), sku)
        ]


def refusals(calls: Iterable[dict[str, Any]], sku: str) -> Iterator[Refusal]:
    """What one shopper, whose calls these are in order, was told of carts with this SKU alone.

    A queued attempt is decided between its question and the answer to whoever follows it; and a question that is asked again
    under its key may be answered by what was decided the first time. Told twice is refused once.
    """
    asked: dict[str, dict[str, Any]] = {}
    for call in calls:
        if call["call"] == BUYING:
            asked.setdefault(call["key"], call)
        if call["verdict"] != Verdict.SOLD_OUT or call["answered"] is None:
            continue
        question = asked.pop(call["key"], None)
        if question is not None and [line for line, _ in question["lines"]] == [sku]:
            yield Refusal(question["sent"], call["answered"], question["lines"][0][1])


def undersell(ledger: Sequence[Movement], told: Iterable[Refusal], ends: float) -> Undersell:
    """Of one SKU: its ledger in order of ``seq``, what shoppers were told, and when the last of them had left (Unix seconds).

    The two clocks are one machine's; where they are not, their difference is in every figure.
    """
    # two transactions may read the clock in the other order than they take the row
    times = list(itertools.accumulate((movement.at for movement in ledger), max))
    levels = list(itertools.accumulate(movement.delta for movement in ledger))
    every = list(told)
    false = [refusal for refusal in every if _is_false(refusal, times, levels)]
    return Undersell(len(every), len(false), _idle(ledger, times, false, ends))


def _is_false(refusal: Refusal, times: Sequence[float], levels: Sequence[int]) -> bool:
    first = bisect_right(times, refusal.since) - 1
    last = bisect_right(times, refusal.until) - 1
    return first >= 0 and all(levels[position] >= refusal.quantity for position in range(first, last + 1))


def _idle(ledger: Sequence[Movement], times: Sequence[float], false: Sequence[Refusal], ends: float) -> float:
    # Unit-seconds of what is on the shelf and missed, whichever is less.
    changes = [(at, movement.delta, 0) for at, movement in zip(times, ledger, strict=True)]
    changes += [(refusal.until, 0, refusal.quantity) for refusal in false]
    idle, since, level, missed = 0.0, 0.0, 0, 0
    for at, delta, quantity in [*sorted(changes, key=lambda change: change[0]), (ends, 0, 0)]:
        idle += min(level, missed) * max(0.0, min(at, ends) - since)
        since, level = at, level + delta
        missed += quantity
        if delta < 0:
            missed = max(0, missed + delta)  # somebody has it now
        if level == 0:
            missed = 0  # from here on a refusal is right
    return idle
