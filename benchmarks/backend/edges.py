"""The HTTP of a front alone, on one core: our worker of gunicorn's beside gunicorn's own, each saying the same 202 to an attempt.

Which worker a front should have is a question of what a request costs before anything is done about it, and of how evenly keep-alive
connections are served. Only gevent's come into question: what stands behind the HTTP waits for brokers and databases on greenlets.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.backend import load
from benchmarks.backend.field import OFF, Field, wish
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
    ratios,
)
from benchmarks.backend.servers import Contestant, running

WHAT = "a constant 202"
OWN, OTHERS = "ours", ("gevent_pywsgi", "gevent")  # as gunicorn calls them
TIMES_OTHERS, P99_OF_P50 = 2.0, 4.0
CONTESTANTS = tuple(
    Contestant(f"gunicorn, {worker}", (sys.executable, "-m", "benchmarks.peers.gunicorn_constant", worker))
    for worker in (OWN, *OTHERS)
)


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    seconds: int
    warm_up_seconds: int


FULL, QUICK = Effort(5, 3, 1), Effort(1, 1, 0)


async def measure(field: Field, effort: Effort) -> Section:
    """Everybody in every round. Raises ``RuntimeError`` at an answer that was not asked for."""
    seen: dict[Cell, list[load.Seen]] = {}
    async with contextlib.AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(running(contestant, OFF, field.environment, {field.core}))
            for contestant in CONTESTANTS
        ]
        for number in range(-1 if effort.warm_up_seconds else 0, effort.rounds):
            seconds = effort.seconds if number >= 0 else effort.warm_up_seconds
            for server in servers:
                cell = Cell(WHAT, OFF, server.contestant.name)
                one = await load.send(server.url, field.attempts(OFF, wish("edge")), seconds, field.watched(server))
                if one.broken or one.refusals or not one.answers:
                    raise RuntimeError(f"{cell}: unexpected answers, {one}")
                if number >= 0:
                    seen.setdefault(cell, []).append(one)
                    field.say(
                        f"edges, round {number + 1}: {cell.server}: {one.rate:,.0f}/s, p50 {one.p50_ms:.1f} p99 {one.p99_ms:.1f} ms"
                    )
    return section(seen, effort)


def section(seen: Mapping[Cell, Sequence[load.Seen]], effort: Effort) -> Section:
    """The table, the bars, and every round. Pure."""
    mine = seen[Cell(WHAT, OFF, CONTESTANTS[0].name)]
    rows, cells, bars = [], [], [_evenly(mine)]
    for cell, loads in seen.items():
        rows.append(load_row(cell, loads, None if loads is mine else mine))
        cells.append({**cell._asdict(), "rounds": [one._asdict() for one in loads]})
        if loads is not mine:
            bars.append(_compared(cell, mine, loads))
    return Section(
        "A front's HTTP and nothing behind it, one server alone on its core",
        LOAD_HEADER,
        rows,
        [
            (
                f"Edges: {effort.rounds} rounds of {effort.seconds} s, each everybody's turn; closed loop, {load.CONNECTIONS} keep-alive connections."
                " Everybody reads the attempt's head and body and says the same 202."
            ),
            BUSY_IS,
        ],
        bars,
        {"cells": cells},
    )


def _evenly(mine: Sequence[load.Seen]) -> Bar:
    tail = [one.p99_ms / max(one.p50_ms, 1e-9) for one in mine]
    beside = f"p50 {middle([one.p50_ms for one in mine]):.1f} ms, p99 {middle([one.p99_ms for one in mine]):.1f} ms"
    return at_most(P99_OF_P50, tail, f"{WHAT}: p99 of p50", beside)


def _compared(cell: Cell, mine: Sequence[load.Seen], theirs: Sequence[load.Seen]) -> Bar:
    costs = [[one.cpu_us[load.SERVER] for one in loads] for loads in (theirs, mine)]
    beside = f"ours {middle(costs[1]):,.0f} us, theirs {middle(costs[0]):,.0f} us"
    return at_least(TIMES_OTHERS, ratios(*costs), f"{WHAT}: CPU of {cell.server}, times ours", beside)
