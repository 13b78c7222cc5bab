"""The HTTP of a front alone, on one core: our worker of gunicorn's beside gunicorn's own, each saying the same 202 to an attempt.

Which worker a front should have is a question of what a request costs before anything is done about it, and of how evenly keep-alive
connections are served. Only gevent's come into question: what stands behind the HTTP waits for brokers and databases on greenlets.

How evenly is counted, since a percentile of times is also of whoever shares the machine: each connection asks again as soon as it is
answered, and where everybody is served in turn, one has heard as many answers of the others as there are others. A slow machine
changes nothing about that.
"""

import asyncio
import contextlib
import selectors
import socket
import sys
import time
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
    spread,
)
from benchmarks.backend.servers import Contestant, running

WHAT = "a constant 202"
OWN, OTHERS = "ours", ("gevent_pywsgi", "gevent")  # as gunicorn calls them
TIMES_OTHERS, TURNS = 2.0, 4.0
RECEIVE_BYTES = 65_536
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


class Found(NamedTuple):
    """The loads of all rounds; of each round, how many turns of the others the worst-off connection waited."""

    loads: Mapping[Cell, Sequence[load.Seen]]
    turns: Mapping[Cell, Sequence[float]]


async def measure(field: Field, effort: Effort) -> Section:
    """Everybody in every round. Raises ``RuntimeError`` at an answer that was not asked for."""
    loads: dict[Cell, list[load.Seen]] = {}
    turns: dict[Cell, list[float]] = {}
    async with contextlib.AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(running(contestant, OFF, field.environment, {field.core}))
            for contestant in CONTESTANTS
        ]
        for number in range(-1 if effort.warm_up_seconds else 0, effort.rounds):
            seconds = effort.seconds if number >= 0 else effort.warm_up_seconds
            for server in servers:
                cell = Cell(WHAT, OFF, server.contestant.name)
                attempts = field.attempts(OFF, wish("edge"))
                one = await load.send(server.url, attempts, seconds, field.watched(server))
                if one.broken or one.refusals or not one.answers:
                    raise RuntimeError(f"{cell}: unexpected answers, {one}")
                waited = await asyncio.to_thread(_turns, server.port, attempts.requests(server.host)(0), effort.seconds)
                if number >= 0:
                    loads.setdefault(cell, []).append(one)
                    turns.setdefault(cell, []).append(waited)
                    field.say(
                        f"edges, round {number + 1}: {cell.server}: {one.rate:,.0f}/s, p99 {one.p99_ms:.1f} ms, {waited:.1f} turns"
                    )
    return section(Found(loads, turns), effort)


def _turns(port: int, request: bytes, seconds: float) -> float:
    # The most answers that others had between two of one connection, by the number of connections.
    answers, worst = 0, 0
    last = [0] * load.CONNECTIONS
    with contextlib.ExitStack() as stack:
        ready = stack.enter_context(selectors.DefaultSelector())
        for number in range(load.CONNECTIONS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.register(client, selectors.EVENT_READ, (client, number))
            client.sendall(request)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for key, _ in ready.select(1.0):
                client, number = key.data
                heard = client.recv(RECEIVE_BYTES)
                if not heard:
                    raise RuntimeError("a connection was closed")
                if heard.endswith(b"}"):  # its body may come by itself
                    answers += 1
                    worst = max(worst, answers - last[number])
                    last[number] = answers
                    client.sendall(request)
    return max(worst, *(answers - one for one in last)) / load.CONNECTIONS


def section(found: Found, effort: Effort) -> Section:
    """The table, the bars, and every round. Pure."""
    own = Cell(WHAT, OFF, CONTESTANTS[0].name)
    mine = found.loads[own]
    rows, cells = [], []
    bars = [
        at_most(TURNS, found.turns[own], f"{WHAT}: turns that a connection waited", "1 where all are served in turn")
    ]
    for cell, loads in found.loads.items():
        rows.append(load_row(cell, loads, None if cell == own else mine))
        rounds = [{**one._asdict(), "turns": waited} for one, waited in zip(loads, found.turns[cell], strict=True)]
        cells.append({**cell._asdict(), "rounds": rounds})
        if cell != own:
            bars.append(_compared(cell, mine, loads))
    waits = ", ".join(f"{cell.server} {spread(turns)}" for cell, turns in found.turns.items())
    return Section(
        "A front's HTTP and nothing behind it, one server alone on its core",
        LOAD_HEADER,
        rows,
        [
            (
                f"Edges: {effort.rounds} rounds of {effort.seconds} s, each everybody's turn; closed loop, {load.CONNECTIONS} keep-alive connections."
                " Everybody reads the attempt's head and body and says the same 202."
            ),
            f"Turns of all connections between two answers of one, at most: {waits}.",
            BUSY_IS,
        ],
        bars,
        {"cells": cells},
    )


def _compared(cell: Cell, mine: Sequence[load.Seen], theirs: Sequence[load.Seen]) -> Bar:
    costs = [[one.cpu_us[load.SERVER] for one in loads] for loads in (theirs, mine)]
    beside = f"ours {middle(costs[1]):,.0f} us, theirs {middle(costs[0]):,.0f} us"
    return at_least(TIMES_OTHERS, ratios(*costs), f"{WHAT}: CPU of {cell.server}, times ours", beside)
