"""Attempts accepted per second by one edge alone on its core, while nobody decides: beside itself answering a constant, and others.

Accepted is confirmed by RabbitMQ. Workers are not there while a load runs; after each they come and decide all that was queued,
since an attempt that is accepted and never decided is worth nothing.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.backend import checkout, load, peers
from benchmarks.backend.field import AUTHS, OFF, Field, wish
from benchmarks.backend.report import (
    BUSY_IS,
    LOAD_HEADER,
    Bar,
    Cell,
    Section,
    at_least,
    at_most,
    load_row,
    middle,
    per_core,
    ratios,
)
from benchmarks.backend.servers import EDGE, Contestant, Server, running, verdicts
from benchmarks.backend.shop import PLENTY

SALE = "accept"
SKUS = tuple(f"accept-{number}" for number in range(8))  # of all shards
ACCEPTED, CONSTANT = "accepted", "a constant"
CONSTANT_LINE = "GET /livez"  # with the head and the body of an attempt, so that no more than the answer is another
ON_THE_WAY_SECONDS = 1.5  # when a load ends, who is on the way is confirmed or refused within a second
LOOK_SECONDS = 0.2
OF_A_CONSTANT, P99_OF_P50, TIMES_PEERS = 0.7, 4.0, 3.0


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    seconds: int
    warm_up_seconds: int
    auths: Sequence[str]


FULL, QUICK = Effort(5, 3, 1, AUTHS), Effort(1, 1, 0, (OFF,))


async def measure(field: Field, effort: Effort) -> Section:
    """Everybody in every round. Raises ``RuntimeError`` at an answer that was not asked for, or an attempt left undecided."""
    return section(await against(field, effort, peers.that_queue(field.home, field.say)), effort)


async def against(field: Field, effort: Effort, contestants: Sequence[Contestant]) -> dict[Cell, list[load.Seen]]:
    """The loads of all rounds."""
    await field.shop.open_sale(SALE, dict.fromkeys(SKUS, PLENTY))
    seen: dict[Cell, list[load.Seen]] = {}
    async with contextlib.AsyncExitStack() as stack:
        servers = {
            (contestant, auth): await stack.enter_async_context(
                running(contestant, auth, field.environment, {field.core})
            )
            for auth in effort.auths
            for contestant in (EDGE, *contestants)
        }
        for number in range(-1 if effort.warm_up_seconds else 0, effort.rounds):
            seconds = effort.seconds if number >= 0 else effort.warm_up_seconds
            for auth in effort.auths:
                for what, contestant in ((CONSTANT, EDGE), (ACCEPTED, EDGE), *((ACCEPTED, one) for one in contestants)):
                    one = await _load(field, servers[contestant, auth], what, seconds)
                    if number < 0:
                        continue
                    cell = Cell(what, auth, contestant.name)
                    seen.setdefault(cell, []).append(one)
                    field.say(
                        f"accept, round {number + 1}: {', '.join(cell)}: {one.rate:,.0f}/s, p50 {one.p50_ms:.1f} p99 {one.p99_ms:.1f} ms"
                    )
    return seen


async def _load(field: Field, server: Server, what: str, seconds: int) -> load.Seen:
    attempts = field.attempts(server.auth, *map(wish, SKUS))
    if what == CONSTANT:
        attempts = attempts._replace(line=CONSTANT_LINE)
    queues = what == ACCEPTED and server.contestant.is_ours
    before = await verdicts(server) if queues else None
    one = await load.send(server.url, attempts, seconds, field.watched(server))
    if before is None:
        if one.broken or one.refusals:
            raise RuntimeError(f"{server.contestant.name}, {what}: unexpected answers, {one}")
        return one
    told = await _at_rest(server) - before
    async with checkout.deciding(field, field.all_cores) as worker:
        await worker.until_decided(told["queued"], told.total())
    return load.counted(one, "queued", told)


async def _at_rest(server: Server) -> Counter[str]:
    await asyncio.sleep(ON_THE_WAY_SECONDS)
    told = await verdicts(server)
    async with asyncio.timeout(checkout.SILENT_SECONDS):
        while True:  # on a busy machine some are on the way for longer
            await asyncio.sleep(LOOK_SECONDS)
            before, told = told, await verdicts(server)
            if told == before:
                return told


def section(seen: Mapping[Cell, Sequence[load.Seen]], effort: Effort) -> Section:
    """The table, the bars, and every round. Pure."""
    rows, cells, bars = [], [], []
    for cell, loads in seen.items():
        mine = seen[cell._replace(what=ACCEPTED, server=EDGE.name)]
        rows.append(load_row(cell, loads, None if loads is mine else mine))
        cells.append({**cell._asdict(), "rounds": [one._asdict() for one in loads]})
        bars += _own(cell, loads) if loads is mine else [_compared(cell, mine, loads)]
    return Section(
        "Accepted (202 after RabbitMQ's confirm), one edge alone on its core, nobody decides",
        LOAD_HEADER,
        rows,
        [
            (
                f"Accept: {effort.rounds} rounds of {effort.seconds} s, each everybody's turn; closed loop, {load.CONNECTIONS} keep-alive connections."
                " Per core is per second of the server's CPU. Everything accepted by the edge was decided after its load."
            ),
            f"A constant is {CONSTANT_LINE} with the head and the body of an attempt, at the same process.",
            BUSY_IS,
        ],
        bars,
        {"cells": cells},
    )


def _own(cell: Cell, loads: Sequence[load.Seen]) -> list[Bar]:
    tail = [one.p99_ms / max(one.p50_ms, 1e-9) for one in loads]
    beside = f"p50 {middle([one.p50_ms for one in loads]):.1f} ms, p99 {middle([one.p99_ms for one in loads]):.1f} ms"
    return [at_most(P99_OF_P50, tail, f"accepted, auth {cell.auth}: p99 of p50", beside)]


def _compared(cell: Cell, mine: Sequence[load.Seen], theirs: Sequence[load.Seen]) -> Bar:
    wanted, whose = (OF_A_CONSTANT, CONSTANT) if cell.what == CONSTANT else (TIMES_PEERS, cell.server)
    beside = f"ours {middle(per_core(mine)):,.0f}/s, {whose} {middle(per_core(theirs)):,.0f}/s"
    what = f"accepted per core, auth {cell.auth}: times {whose}"
    return at_least(wanted, ratios(per_core(mine), per_core(theirs)), what, beside)
