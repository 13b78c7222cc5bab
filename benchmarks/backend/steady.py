"""The highest rate at which edge, broker, worker and PostgreSQL keep up on the same cores, and what an attempt then costs whom.

An open loop. A rate is kept up with while no more and more attempts are due and not decided: whether they wait in a connection,
the edge or the queue is all the same to who waits. One attempt of twenty waits for its verdict as a shopper does, by
``Prefer: wait``, on connections of its own.
"""

import asyncio
import contextlib
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.backend import checkout, flood
from benchmarks.backend.attempts import Attempts
from benchmarks.backend.cores import shared
from benchmarks.backend.field import OFF, Field, wish
from benchmarks.backend.load import GENERATOR, cpu_seconds
from benchmarks.backend.overload import LATE_SECONDS, SENT_SHARE, arrivals
from benchmarks.backend.report import Section, cpu_words, spread
from benchmarks.backend.servers import EDGE, Server, verdicts
from benchmarks.backend.shop import PLENTY

SALE = "steady"
SKUS = tuple(f"steady-{number}" for number in range(8))
WAITS_ONE_OF = 20
CONNECTIONS = 256
WAIT_SECONDS = 20
SILENT_SECONDS = 60.0
LOOK_SECONDS = 0.05
GROWS_SHARE, GROWS = 0.02, 10.0  # of what is due, or attempts per second: less is the noise of batches
HIGHEST = 1.1  # of what a closed loop gets decided: the rate is sought below
FIRST_OF = 4  # the first is a quarter of it, and of that again until one is kept up with
STEPS = 5  # from there on the distance is halved: to a twentieth of the rate
ACCEPTED, HELD, LATER = 202, 201, 503


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    seconds: float
    steps: int


FULL, QUICK = Effort(5, 4.0, STEPS), Effort(1, 0.5, 1)


class Point(NamedTuple):
    """One rate per second. ``growth``: attempts per second by which those due and undecided became more; times in ms since due."""

    rate: float
    growth: float
    later: int  # were told 503
    lag_p99_ms: float
    sent_share: float
    accepted_ms: Mapping[str, float]
    decided_ms: Mapping[str, float]
    cpu_us: Mapping[str, float]  # per attempt that was decided, by process

    @property
    def is_sent(self) -> bool:
        """Was the load as it should be?"""
        return self.sent_share >= SENT_SHARE and self.lag_p99_ms <= LATE_SECONDS * 1e3

    @property
    def is_kept_up(self) -> bool:
        """And does nothing grow?"""
        return self.is_sent and not self.later and self.growth <= max(GROWS_SHARE * self.rate, GROWS)


async def measure(field: Field, effort: Effort) -> Section:
    """Seek it once a round. Raises ``RuntimeError`` at an answer that nobody should hear, or an attempt left undecided."""
    await field.shop.open_sale(SALE, dict.fromkeys(SKUS, PLENTY))
    with shared(field.processes.values(), field.all_cores):
        async with field.queueing(OFF, field.all_cores) as edge, checkout.deciding(field, field.all_cores) as worker:
            bench = _Bench(field, edge, worker)
            rounds = [await _seek(bench, effort, number) for number in range(effort.rounds)]
    return section(rounds, effort)


class _Bench(NamedTuple):
    field: Field
    edge: Server
    worker: checkout.Worker

    @property
    def watched(self) -> dict[str, int]:
        return {EDGE.name: self.edge.pid, checkout.NAME: self.worker.pid, **self.field.processes}


async def _seek(bench: _Bench, effort: Effort, number: int) -> list[Point]:
    # What is kept up with is a floor, what is not a ceiling.
    low, high, points = 0.0, HIGHEST * await _guess(bench, effort.seconds / 2), []
    for step in range(effort.steps + 1):
        rate = (low * high) ** 0.5 if low else high / FIRST_OF
        point = await _point(bench, rate, effort.seconds, f"{number}:{step}")
        points.append(point)
        bench.field.say(
            f"steady, round {number + 1}: {rate:,.0f}/s, {'kept up' if point.is_kept_up else 'not kept up'}: grows by"
            f" {point.growth:,.0f}/s, decided p99 {point.decided_ms['p99']:,.0f} ms, {point.later} told 503"
            f"{'' if point.is_sent else ', the generator was late'}"
        )
        low, high = (rate, high) if point.is_kept_up else (low, rate)
    return points


async def _guess(bench: _Bench, seconds: float) -> float:
    # what is decided per second while the edge takes all it can
    request = bench.field.attempts(OFF, *map(wish, SKUS)).requests(bench.edge.host)
    ends = asyncio.Event()
    async with flood.opened(bench.edge.port, CONNECTIONS // 4) as one:
        before = (await bench.worker.decided()).total()
        asyncio.get_running_loop().call_later(seconds, ends.set)
        record, start = await one.closed_loop(request, 1, ends, SILENT_SECONDS)
        decided = (await bench.worker.decided()).total() - before
        took = time.perf_counter() - start
    _check(record.counts(), ACCEPTED)
    await _until_decided(bench)
    return max(decided / took, 20.0)


async def _point(bench: _Bench, rate: float, seconds: float, seed: str) -> Point:
    field, host = bench.field, bench.edge.host
    # of one crowd every twentieth waits; both are as random as the whole
    due = arrivals(rate, seconds, seed)
    waiting, leaving = due[::WAITS_ONE_OF], [one for number, one in enumerate(due) if number % WAITS_ONE_OF]
    bodies = field.attempts(OFF, *map(wish, SKUS))
    wait = f"Prefer: wait={WAIT_SECONDS}\r\n"
    async with (
        flood.opened(bench.edge.port, CONNECTIONS) as leave,
        flood.opened(bench.edge.port, CONNECTIONS) as stay,
        _counting(bench.worker) as counts,
    ):
        used = _used(bench)
        start = time.perf_counter()
        (left, _), (stayed, _) = await asyncio.gather(
            leave.open_loop(_requests(bodies, len(leaving), host), leaving, SILENT_SECONDS, chunk=1),
            stay.open_loop(
                _requests(field.attempts(OFF, *map(wish, SKUS)), len(waiting), host, wait), waiting, SILENT_SECONDS, 1
            ),
        )
        await _until_decided(bench)
        used = {name: seconds_used - used[name] for name, seconds_used in _used(bench).items()}
    _check(left.counts(), ACCEPTED)
    _check(stayed.counts(), HELD)
    return point(rate, Crowd(start, leaving, left), Crowd(start, waiting, stayed), counts, used)


class Crowd(NamedTuple):
    """Who came when, in seconds after ``start``, and what became of them."""

    start: float
    due: Sequence[float]
    record: flood.Record

    def times_ms(self, status: int) -> dict[str, float]:
        """From due to an answer of this status."""
        found = [
            (done - self.start - due) * 1e3
            for due, done, heard in zip(self.due, self.record.done, self.record.statuses, strict=True)
            if heard == status
        ]
        return {f"p{q}": flood.quantile(found, q / 100) for q in (50, 95, 99)}


def point(
    rate: float,
    leaving: Crowd,
    waiting: Crowd,
    counts: Sequence[tuple[float, int]],
    used_s: Mapping[str, float],
) -> Point:
    """From records to a point. ``counts``: how many were decided at which moment. Pure."""
    due = sorted([*leaving.due, *waiting.due])
    window = due[-1] if due else 0.0
    sent = [moment - leaving.start for moment in leaving.record.sent]
    lag = [moment - when for moment, when in zip(sent, leaving.due, strict=True)]
    decided = max(counts[-1][1] - counts[0][1], 1)
    return Point(
        rate=rate,
        growth=growth(due, leaving.start, counts, window),
        later=leaving.record.statuses.count(LATER) + waiting.record.statuses.count(LATER),
        lag_p99_ms=flood.quantile(lag, 0.99) * 1e3,
        sent_share=sum(moment <= window for moment in sent) / max(len(sent), 1),
        accepted_ms=leaving.times_ms(ACCEPTED),
        decided_ms=waiting.times_ms(HELD),
        cpu_us={name: seconds / decided * 1e6 for name, seconds in used_s.items()},
    )


def growth(due: Sequence[float], start: float, counts: Sequence[tuple[float, int]], window: float) -> float:
    """By how many per second more were due and undecided in the last third of the window than in the second. Pure."""
    first = counts[0][1]
    thirds: tuple[list[int], list[int]] = ([], [])
    for moment, decided in counts:
        at = moment - start
        if window / 3 <= at < window:
            thirds[at >= window * 2 / 3].append(bisect_right(due, at) - (decided - first))
    if not all(thirds):
        return 0.0
    before, after = (sum(third) / len(third) for third in thirds)
    return (after - before) / max(window / 3, 1e-9)


def section(rounds: Sequence[Sequence[Point]], effort: Effort) -> Section:
    """The table, and every point. Pure."""
    best = [max((one for one in points if one.is_kept_up), key=lambda one: one.rate, default=None) for points in rounds]
    rows = [
        [str(number), *(["nothing was kept up with", *[""] * 7] if one is None else _row(one))]
        for number, one in enumerate(best, 1)
    ]
    found = [one.rate for one in best if one is not None]
    return Section(
        "Steady: the highest rate at which nothing grows; everything on the same cores, nothing is pinned",
        [
            *("ROUND", "PER SECOND", "ACCEPTED P50 MS", "P95", "P99", "DECIDED P50 MS", "P95", "P99"),
            "CPU US PER ATTEMPT",
        ],
        rows,
        [
            (
                f"Steady: {spread(found)} attempts per second in {effort.rounds} rounds, found by halving {effort.steps} times in open loops of"
                f" {effort.seconds:g} s; times from the intended send. It grows when those due and undecided become more by {GROWS_SHARE:.0%} of the rate and {GROWS:g}/s."
            ),
            f"Steady: one attempt of {WAITS_ONE_OF} waits for its verdict, which is what decided is measured by; the others leave with their 202.",
        ],
        [],
        {"rounds": [[_plain(one) for one in points] for points in rounds]},
    )


def _row(one: Point) -> list[str]:
    times = [f"{value:,.1f}" for times in (one.accepted_ms, one.decided_ms) for value in times.values()]
    return [f"{one.rate:,.0f}", *times, cpu_words([one.cpu_us])]


def _plain(one: Point) -> dict[str, Any]:
    return {**one._asdict(), "is_kept_up": one.is_kept_up}


def _requests(attempts: Attempts, count: int, host: str, more: str = "") -> list[bytes]:
    request = attempts.requests(host, more)
    return [request(number) for number in range(count)]


def _check(heard: Counter[int], wanted: int) -> None:
    # who is told later comes too much, and who waits in vain is still queued; both only past what is kept up with
    if heard.keys() - {wanted, LATER, ACCEPTED}:
        raise RuntimeError(f"steady: unexpected answers, {dict(heard)}")


def _used(bench: _Bench) -> dict[str, float]:
    return {name: cpu_seconds(pid) for name, pid in bench.watched.items()} | {GENERATOR: time.process_time()}


async def _until_decided(bench: _Bench) -> None:
    # whoever was queued since the processes began; both have counted from there
    told = await verdicts(bench.edge)
    yes = told.total() - told["try_later"]
    await bench.worker.until_decided(yes, told.total())


@contextlib.asynccontextmanager
async def _counting(worker: checkout.Worker) -> AsyncIterator[list[tuple[float, int]]]:
    # moments and how many were decided then, until this ends
    counts = [(time.perf_counter(), (await worker.decided()).total())]

    async def look() -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            decided = (await worker.decided()).total()
            counts.append((time.perf_counter(), decided))

    task = asyncio.create_task(look())
    try:
        yield counts
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended
