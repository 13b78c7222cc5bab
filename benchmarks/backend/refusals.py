"""Refusals per second of one server alone on its core, beside others': by the gate, and at once where nobody need be asked."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.backend import load, peers
from benchmarks.backend.attempts import body
from benchmarks.backend.cores import stopped
from benchmarks.backend.field import AUTHS, GATE_SECONDS, OFF, SOLD_OUT, Field
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
    rates,
    ratios,
)
from benchmarks.backend.servers import OURS, Contestant, Server, ask, running

SALE = "bench"  # peers know it by this name
SHORT, GONE = "short", "gone"
BY_GATE, AT_ONCE = "sold out, by the gate", "sold out, at once"
TIMES = {peers.NODE: 1.3, peers.PLAIN: 5.0}  # what our rate by the gate should be of theirs
AT_ONCE_PER_S, P99_MS = 45_000, 4.0
# What peers did per second, auth off, on the day these two bars were set: a machine's speed drifts, and theirs with it.
THAT_DAY = {peers.PLAIN: 7_100, peers.NODE: 28_000}


class Scenario(NamedTuple):
    """Who asks for what; everybody must hear ``sold_out``."""

    name: str
    sku: str
    quantity: int
    has_peers: bool


SCENARIOS = (
    # one unit is left, and everybody wants two: no flag can say so, for the item is not sold out
    Scenario(BY_GATE, SHORT, 2, has_peers=True),
    # nothing is left, which a server that keeps a copy of the stock needs ask nobody for
    Scenario(AT_ONCE, GONE, 1, has_peers=False),
)


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    seconds: int
    warm_up_seconds: int
    auths: Sequence[str]


FULL, QUICK = Effort(5, 4, 2, AUTHS), Effort(1, 1, 0, (OFF,))


async def measure(field: Field, effort: Effort) -> Section:
    """Everybody in every round. Raises ``RuntimeError`` at an answer that was not asked for."""
    contestants, left_out = peers.find(field.home, field.say)
    return section(await against(field, effort, [peers.NOTHING, *contestants]), effort, left_out)


async def against(field: Field, effort: Effort, contestants: Sequence[Contestant]) -> dict[Cell, list[load.Seen]]:
    """The loads of all rounds."""
    await field.shop.open_sale(SALE, {SHORT: 1, GONE: 1})
    seen: dict[Cell, list[load.Seen]] = {}
    async with contextlib.AsyncExitStack() as stack:
        servers = {
            (contestant, auth): await stack.enter_async_context(
                running(contestant, auth, field.environment, {field.core})
            )
            for auth in effort.auths
            for contestant in (OURS, *contestants)
        }
        await _make_ready(field, servers)
        for number in range(-1 if effort.warm_up_seconds else 0, effort.rounds):
            seconds = effort.seconds if number >= 0 else effort.warm_up_seconds
            for scenario, auth, contestant in _turns(effort.auths, contestants):
                cell = Cell(scenario.name, auth, contestant.name)
                server = servers[contestant, auth]
                await until_told(field, server, scenario.sku, scenario.quantity, [SOLD_OUT])
                attempts = field.attempts(auth, body(scenario.sku, scenario.quantity))
                with stopped(other.pid for other in servers.values() if other is not server):
                    one = await load.send(server.url, attempts, seconds, field.watched(server))
                if one.broken or one.refusals != one.answers:
                    raise RuntimeError(f"{cell}: unexpected answers, {one}")
                if number >= 0:
                    seen.setdefault(cell, []).append(one)
                    field.say(
                        f"refusals, round {number + 1}: {', '.join(cell)}: {one.rate:,.0f}/s, p99 {one.p99_ms:.1f} ms"
                    )
    return seen


def section(seen: Mapping[Cell, Sequence[load.Seen]], effort: Effort, left_out: Sequence[str]) -> Section:
    """The table, the bars, and every round. Pure."""
    rows, cells, bars = [], [], []
    for cell, loads in seen.items():
        mine = seen[cell._replace(server=OURS.name)]
        is_ours = cell.server == OURS.name
        rows.append(load_row(cell, loads, None if is_ours else mine))
        cells.append({**cell._asdict(), "rounds": [one._asdict() for one in loads]})
        bars += _bars(cell, loads) if is_ours else _compared(cell, mine, loads)
    return Section(
        "Refused, one server alone on its core",
        LOAD_HEADER,
        rows,
        [
            (
                f"Refusals: {effort.rounds} rounds of {effort.seconds} s, each everybody's turn; closed loop, {load.CONNECTIONS} connections;"
                f" medians, least and most. The load is {'wrk' if load.has_wrk() else 'our own, for there is no wrk'}."
            ),
            f"{peers.NOTHING.name} is no peer: it says the same to whatever comes, which is what socket and generator allow at most.",
            *_drift(seen),
            BUSY_IS,
            *left_out,
        ],
        bars,
        {"cells": cells},
    )


def _bars(cell: Cell, loads: Sequence[load.Seen]) -> list[Bar]:
    name = f"{cell.what}, auth {cell.auth}"
    bars = [at_most(P99_MS, [one.p99_ms for one in loads], f"{name}: p99 in ms", f"{load.CONNECTIONS} connections")]
    if cell.what == AT_ONCE:
        bars.append(
            at_least(AT_ONCE_PER_S, rates(loads), f"{name}: per second and core", "the server's core is its own")
        )
    return bars


def _compared(cell: Cell, mine: Sequence[load.Seen], theirs: Sequence[load.Seen]) -> list[Bar]:
    if cell.server not in TIMES:
        return []
    name = f"{cell.what}, auth {cell.auth}: times {cell.server}"
    beside = f"ours {middle(rates(mine)):,.0f}/s, theirs {middle(rates(theirs)):,.0f}/s"
    return [at_least(TIMES[cell.server], ratios(rates(mine), rates(theirs)), name, beside)]


def _drift(seen: Mapping[Cell, Sequence[load.Seen]]) -> list[str]:
    """What the day's machine is, by those who were measured on the day of the bars."""
    found = {name: seen.get(Cell(BY_GATE, OFF, name)) for name in THAT_DAY}
    words = [
        f"{name} {middle(rates(loads)):,.0f} of {THAT_DAY[name]:,} ({middle(rates(loads)) / THAT_DAY[name]:.2f})"
        for name, loads in found.items()
        if loads
    ]
    return [f"Per second today, and on the day when bars without a peer were set: {', '.join(words)}."] if words else []


def _turns(auths: Sequence[str], contestants: Sequence[Contestant]) -> Iterator[tuple[Scenario, str, Contestant]]:
    for scenario in SCENARIOS:
        for auth in auths:
            for contestant in (OURS, *contestants):
                if scenario.has_peers or contestant in {OURS, peers.NOTHING}:
                    yield scenario, auth, contestant


async def _make_ready(field: Field, servers: Mapping[tuple[Contestant, str], Server]) -> None:
    # The gate is made, the last unit of one SKU goes, and then everybody answers as they should: every script's cache is made.
    ours = [server for (contestant, _), server in servers.items() if contestant is OURS]
    for server in ours:
        await field.until_gate(server, SHORT)
    await until_told(field, ours[0], GONE, 1, [(201, None), SOLD_OUT])
    for server in servers.values():
        for scenario in SCENARIOS[: 2 if server.contestant is OURS else 1]:
            await until_told(field, server, scenario.sku, scenario.quantity, [SOLD_OUT])


async def until_told(
    field: Field, server: Server, sku: str, quantity: int, wanted: Sequence[tuple[int, str | None]]
) -> None:
    """An attempt hears one of these. Raises ``RuntimeError`` when it never does."""
    ends = time.monotonic() + GATE_SECONDS
    while True:
        key = field.names.prefix() + "0000000000"
        told = ask(server, field.identity(server.auth), key, sku, quantity)
        if told in wanted:
            return
        if time.monotonic() > ends:
            raise RuntimeError(f"{server.contestant.name} says {told} for {quantity} of {sku}")
        await asyncio.sleep(0.1)
