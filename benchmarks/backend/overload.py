"""More attempts than can be decided: an open loop at half to ten times of what one server can do.

One attempt of twenty wants a unit that is there, the others one that is not and that the gate must be asked about. Rates are of
the server alone on its core; the generator, Redis and PostgreSQL share the others, so each point says whether the generator kept up.
"""

import asyncio
import itertools
import random
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.backend import flood, peers
from benchmarks.backend.field import OFF, Field, vain_wish, wish
from benchmarks.backend.picture import draw
from benchmarks.backend.report import Bar, Section, middle, span
from benchmarks.backend.servers import Server, running, verdicts
from benchmarks.backend.shop import PLENTY

SALE, SKU, SHORT = "overload", "overload-plenty", "overload-short"
WANTS_ONE_OF = 20
TIMES = (0.5, 1.0, 2.0, 5.0, 10.0)
CONNECTIONS = 128  # times 64 worked on at once: twice what a server takes in hand, so that it must refuse
DEPTH = 4  # of a connection, where capacity is measured
OF_ITS_PEAK = 0.9
LATE_SECONDS, SENT_SHARE = 0.05, 0.95  # a generator that is later, or sends less of what is due, is the limit itself
SILENT_SECONDS = 60.0
WARM_SHARE = 0.2  # of a window, after which it is counted
HELD, REFUSED, LATER = 201, 409, 503


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    seconds: float
    requests_max: int  # of one point; a window is shorter where it would be more
    capacity_seconds: float


FULL, QUICK = Effort(3, 3.0, 300_000, 2.0), Effort(1, 0.5, 10_000, 0.5)


class Meant(NamedTuple):
    """A load to be: how many times of what the server can do, and which moments."""

    times: float
    capacity: float
    seed: str

    @property
    def rate(self) -> float:
        """Attempts per second."""
        return self.times * self.capacity


class Point(NamedTuple):
    """One load. Rates per second of the window, latencies in ms of what was decided in it, from due and from sent."""

    times: float
    intended: float
    offered: float
    held: float
    refused: float
    later: float
    later_share: float  # of the answers in the window
    p50_ms: float
    p99_ms: float
    sent_p99_ms: float
    lag_p99_ms: float  # of the generator: from due to sent
    generator_busy: float
    statuses: Mapping[int, int]  # of all requests, the drain after the window included

    @property
    def goodput(self) -> float:
        """Final verdicts."""
        return self.held + self.refused

    @property
    def is_void(self) -> bool:
        """Was the generator the limit?"""
        return self.offered < SENT_SHARE * self.intended or self.lag_p99_ms > LATE_SECONDS * 1e3


class Found(NamedTuple):
    """Points by round; what the server and the generator can do, per second."""

    rounds: Sequence[Sequence[Point]]
    capacity: Sequence[float]
    ceiling: float


async def measure(field: Field, effort: Effort) -> Section:
    """All points in every round. Raises ``RuntimeError`` when an answer is missing, unexpected, or not in the books."""
    found = await points(field, effort)
    picture = field.pictures.with_name(f"{field.pictures.name}-overload")
    return section(found, draw(found_by_times(found), found.capacity, found.ceiling, picture))


async def points(field: Field, effort: Effort) -> Found:
    """The loads."""
    await field.shop.open_sale(SALE, {SKU: PLENTY, SHORT: 1})
    async with running(peers.NOTHING, OFF, field.environment, {field.core}) as nothing:
        ceiling = await _capacity(field, nothing, effort)
        field.say(f"overload: the generator sends {ceiling:,.0f}/s to who does nothing")
    rounds: list[list[Point]] = []
    capacities = []
    told: Counter[int] = Counter()
    async with field.serving(OFF, SHORT) as server:
        before = await verdicts(server)
        await _capacity(field, server, effort, told)  # warm
        for number in range(effort.rounds):
            capacity = await _capacity(field, server, effort, told)
            capacities.append(capacity)
            rounds.append([])
            for times in TIMES:
                point = await _point(field, server, effort, Meant(times, capacity, f"{number}:{times}"))
                rounds[-1].append(point)
                told.update(point.statuses)
                field.say(
                    f"overload, round {number + 1}: {times:g} times {capacity:,.0f}/s: {point.goodput:,.0f}/s decided,"
                    f" {point.later_share:.0%} told try_later, p99 {point.p99_ms:,.0f} ms{', VOID' if point.is_void else ''}"
                )
        _check(told, await verdicts(server) - before, (await field.shop.books(SKU)).held)
    return Found(rounds, capacities, ceiling)


def _check(told: Counter[int], counted: Counter[str], held: int) -> None:
    # Who was told try_later may be held all the same: the decision came too late for the answer.
    if not told.keys() <= {HELD, REFUSED, LATER}:
        raise RuntimeError(f"overload: unexpected answers, {dict(told)}")
    if (told[HELD], told[REFUSED]) != (counted["held"], counted["sold_out"]):
        raise RuntimeError(f"overload: told {dict(told)}, counted {dict(counted)}")
    if not told[HELD] <= held <= told[HELD] + told[LATER]:
        raise RuntimeError(f"overload: {held:,} units are held in the books, {told[HELD]:,} were told so")


async def _capacity(field: Field, server: Server, effort: Effort, told: Counter[int] | None = None) -> float:
    # What is decided per second while so many wait that batches are large, and not so many that any is refused.
    request = field.attempts(OFF, *_bodies()).requests(server.host)
    ends = asyncio.Event()
    async with flood.opened(server.port, CONNECTIONS) as one:
        asyncio.get_running_loop().call_later(effort.capacity_seconds, ends.set)
        record, start = await one.closed_loop(request, DEPTH, ends, SILENT_SECONDS)
    if told is not None:
        told.update(record.statuses)
    seconds = effort.capacity_seconds
    in_time = sum(
        WARM_SHARE * seconds <= done - start < seconds and status != LATER
        for done, status in zip(record.done, record.statuses, strict=True)
    )
    return max(in_time / (seconds * (1 - WARM_SHARE)), 1.0)


async def _point(field: Field, server: Server, effort: Effort, meant: Meant) -> Point:
    due = arrivals(meant.rate, min(effort.seconds, effort.requests_max / meant.rate), meant.seed)
    request = field.attempts(OFF, *_bodies()).requests(server.host)
    requests = [request(number) for number in range(len(due))]
    async with flood.opened(server.port, CONNECTIONS) as one:
        busy = time.process_time()
        record, start = await one.open_loop(requests, due, SILENT_SECONDS)
        busy = time.process_time() - busy
    return point(meant, due, record, start, busy)


def arrivals(rate: float, seconds: float, seed: str) -> list[float]:
    """When attempts are due, in seconds: at random moments, as independent shoppers come. Equal arguments, equal moments. Pure."""
    dice = random.Random(seed)
    gaps = (dice.expovariate(rate) for _ in itertools.count())
    return list(itertools.takewhile(lambda moment: moment < seconds, itertools.accumulate(gaps)))


def point(meant: Meant, due: Sequence[float], record: flood.Record, start: float, busy_s: float) -> Point:
    """From a record to a point. Counted is what was answered within the window, after its first fifth. Pure."""
    window = due[-1] if due else 0.0
    first = window * WARM_SHARE
    seconds = max(window - first, 1e-9)
    decided: list[tuple[float, float]] = []  # seconds since due, and since sent
    told: Counter[int] = Counter()
    for when_due, sent, done, status in zip(due, record.sent, record.done, record.statuses, strict=True):
        if first <= done - start < window:
            told[status] += 1
            if status != LATER:
                decided.append((done - start - when_due, done - sent))
    sent_by_then = sum(first <= sent - start < window for sent in record.sent)
    due_by_then = len(due) - bisect_left(due, first)
    lag = [sent - start - when_due for when_due, sent in zip(due, record.sent, strict=True)]
    last = max(record.done, default=start) - start
    return Point(
        times=meant.times,
        intended=meant.rate,
        offered=sent_by_then / max(due_by_then, 1) * meant.rate,
        held=told[HELD] / seconds,
        refused=told[REFUSED] / seconds,
        later=told[LATER] / seconds,
        later_share=told[LATER] / max(told.total(), 1),
        p50_ms=flood.quantile([since_due for since_due, _ in decided], 0.5) * 1e3,
        p99_ms=flood.quantile([since_due for since_due, _ in decided], 0.99) * 1e3,
        sent_p99_ms=flood.quantile([since_sent for _, since_sent in decided], 0.99) * 1e3,
        lag_p99_ms=flood.quantile(lag, 0.99) * 1e3,
        generator_busy=busy_s / max(last, 1e-9),
        statuses=dict(record.counts()),
    )


def found_by_times(found: Found) -> dict[float, list[Point]]:
    """The rounds of each point. Pure."""
    return {times: [one for points in found.rounds for one in points if one.times == times] for times in TIMES}


def kept(points: Sequence[Point]) -> float:
    """The least goodput from capacity on, of the most anywhere; of points that are not void. 0 when none is left. Pure."""
    valid = [one for one in points if not one.is_void]
    beyond = [one.goodput for one in valid if one.times >= 1]
    return min(beyond, default=0.0) / max([one.goodput for one in valid], default=1.0)


def section(found: Found, pictures: Sequence[Path]) -> Section:
    """The table, the bar, and every round. Pure."""
    rows = []
    for times, of in found_by_times(found).items():
        valid = [one for one in of if not one.is_void]
        goodput = [one.goodput for one in of]
        rows.append(
            [
                f"{times:g}",
                f"{middle([one.intended for one in of]):,.0f}",
                f"{middle([one.offered for one in of]):,.0f}",
                f"{middle(goodput):,.0f} ({span(goodput)})",
                f"{middle([one.held for one in of]):,.0f}",
                f"{middle([one.refused for one in of]):,.0f}",
                f"{middle([one.later_share for one in of]):.0%}",
                f"{middle([one.p50_ms for one in of]):,.1f}",
                f"{middle([one.p99_ms for one in of]):,.1f}",
                f"{middle([one.sent_p99_ms for one in of]):,.1f}",
                f"{middle([one.generator_busy for one in of]):.0%}",
                "" if len(valid) == len(of) else f"{len(of) - len(valid)} of {len(of)}",
            ]
        )
    reached = [max((one.times for one in points if not one.is_void), default=0.0) for points in found.rounds]
    shares = [kept(points) for points in found.rounds]
    bar = Bar(
        f"overload: goodput from 1 to 10 times capacity at least {OF_ITS_PEAK} of its peak",
        middle(shares),
        f"rounds {span(shares)}; without void points, which leaves {min(reached):g} times as the most in every round",
        middle(shares) >= OF_ITS_PEAK and min(reached) == max(TIMES),
    )
    return Section(
        "Overload: open loop, auth off; the server alone on its core",
        [
            *("TIMES CAPACITY", "DUE PER SECOND", "OFFERED", "DECIDED (SPREAD)", "HELD", "REFUSED", "TOLD 503"),
            *("P50 MS", "P99 MS", "P99 MS SINCE SENT", "GENERATOR BUSY", "VOID"),
        ],
        rows,
        [
            (
                f"Overload: capacity {middle(found.capacity):,.0f}/s ({span(found.capacity)}), measured before each round with"
                f" {CONNECTIONS * DEPTH} attempts waiting; one attempt of {WANTS_ONE_OF} wants a unit that is there."
            ),
            (
                f"Open loop: seeded random arrivals on {CONNECTIONS} pipelined connections; latency counts from the moment an attempt was due,"
                " so beyond capacity it grows with the window: nobody waits less than the queue is long."
            ),
            (
                f"The generator's ceiling on this machine is {found.ceiling:,.0f}/s, against a server that does nothing. A point is void where it sent"
                f" less than {SENT_SHARE:.0%} of what was due in time, or was {LATE_SECONDS * 1e3:.0f} ms late (p99)."
            ),
            *(f"Drawn as {picture}" for picture in pictures),
        ],
        [bar],
        {
            "capacity": list(found.capacity),
            "ceiling": found.ceiling,
            "rounds": [[_plain(one) for one in points] for points in found.rounds],
            "pictures": [str(picture) for picture in pictures],
        },
    )


def _plain(one: Point) -> dict[str, Any]:
    return {**one._asdict(), "statuses": dict(one.statuses), "goodput": one.goodput, "is_void": one.is_void}


def _bodies() -> list[str]:
    return [wish(SKU), *[vain_wish(SHORT)] * (WANTS_ONE_OF - 1)]
