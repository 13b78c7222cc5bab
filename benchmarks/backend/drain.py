"""How long it takes to decide what is queued, while the edge is idle: all of one item, and spread over eight on all shards."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.backend import checkout, flood
from benchmarks.backend.cores import shared
from benchmarks.backend.field import OFF, Field, wish
from benchmarks.backend.load import cpu_seconds
from benchmarks.backend.report import Section, at_most, cpu_words, middle, span
from benchmarks.backend.servers import Server, at_the_broker, is_ready, verdicts
from benchmarks.backend.shop import PLENTY

SALE = "drain"
SKUS = tuple(f"drain-{number}" for number in range(8))
ITEMS = {"one item": SKUS[:1], "eight items": SKUS}
CONNECTIONS = 64
SILENT_SECONDS = 60.0
PER_SECONDS, SECONDS = 20_000, 3.0
LOOK_SECONDS = 0.005
ACCEPTED, LATER = 202, 503


class Effort(NamedTuple):
    """How many are queued, and how often."""

    rounds: int
    attempts: int


FULL, QUICK = Effort(5, 20_000), Effort(1, 1_000)


class Turn(NamedTuple):
    """One queue. ``cpu_us`` per attempt, by process."""

    attempts: int
    seconds: float
    cpu_us: Mapping[str, float]


async def measure(field: Field, effort: Effort) -> Section:
    """Both in every round. Raises ``RuntimeError`` at an answer that was not asked for, or an attempt left undecided."""
    await field.shop.open_sale(SALE, dict.fromkeys(SKUS, PLENTY))
    turns: dict[str, list[Turn]] = {}
    with shared(field.processes.values(), field.all_cores):
        async with field.queueing(OFF, field.all_cores) as edge:
            for number in range(effort.rounds):
                for items, skus in ITEMS.items():
                    queued, most = await fill(field, edge, skus, effort.attempts)
                    turn = await _turn(field, queued, most)
                    turns.setdefault(items, []).append(turn)
                    field.say(f"drain, round {number + 1}: {items}: {turn.attempts:,} decided in {turn.seconds:.2f} s")
        held = sum([(await field.shop.books(sku)).held for sku in SKUS])
    if held != (decided := sum(turn.attempts for of in turns.values() for turn in of)):
        raise RuntimeError(f"drain: {held:,} units are held in the books, {decided:,} attempts were decided so")
    return section(turns, effort)


async def fill(field: Field, edge: Server, skus: Sequence[str], attempts: int) -> tuple[int, int]:
    """Queue them. How many are queued, and how many may be with those that were told to try later. Raises ``RuntimeError``."""
    before, queued = await verdicts(edge), await _queued(edge)
    request = field.attempts(OFF, *map(wish, skus)).requests(edge.host)
    requests = [request(number) for number in range(attempts)]
    async with flood.opened(edge.port, CONNECTIONS) as one:
        record, _ = await one.open_loop(requests, [0.0] * attempts, SILENT_SECONDS)
    heard, told = record.counts(), await verdicts(edge) - before
    if heard.keys() - {ACCEPTED, LATER} or (heard[ACCEPTED], heard[LATER]) != (told["queued"], told["try_later"]):
        raise RuntimeError(f"unexpected answers, heard {dict(heard)}, told {dict(told)}")
    return await _queued(edge) - queued, told.total()


async def _queued(edge: Server) -> int:
    # with those whose shoppers were told to try later because the confirm took too long: it came in the end
    async with asyncio.timeout(SILENT_SECONDS):
        while True:
            told = await at_the_broker(edge)
            if not told["unconfirmed"]:
                return told["confirmed"] + told["late"]
            await asyncio.sleep(LOOK_SECONDS)


async def _turn(field: Field, queued: int, most: int) -> Turn:
    async with checkout.started(field, field.all_cores) as worker:
        began = time.perf_counter()
        while not await is_ready(worker.ops_port):  # it began to consume after the last look that says it did not
            began = time.perf_counter()
            await asyncio.sleep(LOOK_SECONDS)
        watched = {checkout.NAME: worker.pid, **field.processes}
        before = {name: cpu_seconds(pid) for name, pid in watched.items()}
        decided = (await worker.until_decided(queued, most)).total()
        seconds = time.perf_counter() - began
        used = {name: (cpu_seconds(pid) - before[name]) / decided * 1e6 for name, pid in watched.items()}
    return Turn(decided, seconds, used)


def section(turns: Mapping[str, Sequence[Turn]], effort: Effort) -> Section:
    """The table, the bars, and every round. Pure."""
    rows, bars = [], []
    for items, of in turns.items():
        seconds = [turn.seconds / turn.attempts * PER_SECONDS for turn in of]
        rows.append(
            [
                items,
                f"{middle([turn.attempts / turn.seconds for turn in of]):,.0f}",
                span([turn.attempts / turn.seconds for turn in of]),
                f"{middle(seconds):.2f}",
                cpu_words([turn.cpu_us for turn in of]),
            ]
        )
        bars.append(
            at_most(
                SECONDS, seconds, f"drain, {items}: seconds for {PER_SECONDS:,} queued", "everything on the same cores"
            )
        )
    return Section(
        "Drained: decided and committed while the edge is idle; nothing is pinned",
        ["QUEUED FOR", "DECIDED PER SECOND", "SPREAD", f"SECONDS FOR {PER_SECONDS:,}", "CPU US PER ATTEMPT"],
        rows,
        [
            (
                f"Drain: {effort.rounds} rounds of {effort.attempts:,} attempts; from the moment the worker consumes to the last verdict."
                " One item is one shard; eight lie on all."
            )
        ],
        bars,
        {"turns": {items: [_plain(turn) for turn in of] for items, of in turns.items()}},
    )


def _plain(turn: Turn) -> dict[str, Any]:
    return {**turn._asdict(), "cpu_us": dict(turn.cpu_us)}
