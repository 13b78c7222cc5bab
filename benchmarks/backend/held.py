"""Holds per second, committed before the answer and their events written, with everything on the same cores; payments off and on."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.backend import load
from benchmarks.backend.attempts import body
from benchmarks.backend.cores import shared
from benchmarks.backend.field import AUTHS, OFF, Field, wish
from benchmarks.backend.report import BUSY_IS, LOAD_HEADER, Cell, Section, at_least, load_row, rates
from benchmarks.backend.servers import OURS, Server, process, until_ready, verdicts
from benchmarks.backend.shop import PLENTY
from flashsale.contract.wire import WEBHOOK_PATH
from flashsale.stack.processes import free_port

SALE, SKU, SHORT = "held", "held-plenty", "held-short"
WITHOUT, WITH = "held, payment workers off", "held, payment workers on"
PAYS_ONE_OF = 20
PER_S = 8_000
WORKERS = ("gateway", "payments")


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    seconds: int
    auths: Sequence[str]
    settle_seconds: float  # at most, until the relay has sent the events of the load before


FULL, QUICK = Effort(5, 4, AUTHS, 10.0), Effort(1, 1, (OFF,), 0.0)


class Found(NamedTuple):
    """The loads of all rounds, and how many attempts were told try_later."""

    seen: Mapping[Cell, Sequence[load.Seen]]
    unheld: int
    settled: Sequence[float]  # seconds waited for the relay before each load


async def measure(field: Field, effort: Effort) -> Section:
    """Both ways in every round. Raises ``RuntimeError`` at an answer that nobody should hear."""
    await field.shop.open_sale(SALE, {SKU: PLENTY, SHORT: 1})
    seen: dict[Cell, list[load.Seen]] = {}
    unheld, settled = 0, []
    with shared(field.processes.values(), field.all_cores):
        async with contextlib.AsyncExitStack() as stack:
            servers = [
                await stack.enter_async_context(field.serving(auth, SHORT, field.all_cores)) for auth in effort.auths
            ]
            for number in range(effort.rounds):
                for what in (WITHOUT, WITH):
                    async with _workers(field) if what == WITH else _nobody() as workers:
                        for server in servers:
                            settled.append(await until_relayed(field, effort.settle_seconds))
                            one = await _load(field, server, workers, effort.seconds)
                            unheld += one.refusals
                            seen.setdefault(Cell(what, server.auth, OURS.name), []).append(one)
                            field.say(
                                f"held, round {number + 1}: {what}, auth {server.auth}: {one.rate:,.0f}/s, p99 {one.p99_ms:.1f} ms"
                            )
    return section(Found(seen, unheld, settled), effort)


async def until_relayed(field: Field, within_s: float) -> float:
    """Return when the relay has sent all events, or after ``within_s``: how long that took."""
    began = time.monotonic()
    while await field.shop.has_unsent_events():
        if time.monotonic() - began >= within_s:
            break
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def _load(field: Field, server: Server, workers: Mapping[str, int], seconds: int) -> load.Seen:
    paying = [body(SKU, 1, {"pay_now": "card"})] if workers else []
    attempts = field.attempts(server.auth, *[wish(SKU)] * (PAYS_ONE_OF - len(paying)), *paying)
    before = await verdicts(server)
    one = await load.send(server.url, attempts, seconds, field.watched(server, workers))
    return load.counted(one, "held", await verdicts(server) - before)


def section(found: Found, effort: Effort) -> Section:
    """The table, the bars, and every round. Pure."""
    rows = [load_row(cell, loads) for cell, loads in found.seen.items()]
    bars = [
        at_least(
            PER_S,
            rates(loads),
            f"{cell.what}, auth {cell.auth}: per second",
            "server, PostgreSQL, Redis, upkeep, RabbitMQ and generator share the cores",
        )
        for cell, loads in found.seen.items()
    ]
    return Section(
        "Held: committed in PostgreSQL before the answer, its event written with it; nothing is pinned",
        LOAD_HEADER,
        rows,
        [
            (
                f"Held: {effort.rounds} rounds of {effort.seconds} s; only holds are counted"
                f" ({found.unheld:,} attempts were told try_later). With payment workers one attempt of {PAYS_ONE_OF} pays at once."
            ),
            (
                f"Before each load the relay had up to {effort.settle_seconds:.0f} s to send the events of the last one;"
                f" it took {max(found.settled, default=0.0):.1f} s at most. The events of a load are relayed beside it, which costs it."
            ),
            BUSY_IS,
        ],
        bars,
        {
            "cells": [
                {**cell._asdict(), "rounds": [one._asdict() for one in loads]} for cell, loads in found.seen.items()
            ],
            "told_try_later": found.unheld,
            "relay_seconds": list(found.settled),
        },
    )


@contextlib.asynccontextmanager
async def _nobody() -> AsyncIterator[dict[str, int]]:
    yield {}


@contextlib.asynccontextmanager
async def _workers(field: Field) -> AsyncIterator[dict[str, int]]:
    # The payment worker and the simulated gateway for cards, as the launcher starts them; their pids by name.
    ports = {name: (free_port(), free_port()) for name in WORKERS}
    gateway, payments = ports["gateway"], ports["payments"]
    given = {**field.environment, "FLASH_WEBHOOK_SECRET": "a-secret-of-the-benchmark"}
    own = {
        "gateway": {
            "FLASH_GATEWAY_METHOD": "card",
            "FLASH_GATEWAY_JOURNAL": str(field.folder / f"journal-{gateway[0]}.jsonl"),
            "FLASH_GATEWAY_DECLINES_PERCENT": "0",
            "FLASH_WEBHOOK_URL": f"http://127.0.0.1:{payments[0]}{WEBHOOK_PATH}",
        },
        "payments": {"FLASH_GATEWAY_CARD_URL": f"http://127.0.0.1:{gateway[0]}"},
    }
    modules = {"gateway": "flashsale.payments.gateway", "payments": "flashsale.payments"}
    pids = {}
    async with contextlib.AsyncExitStack() as stack:
        for name in WORKERS:
            port, ops_port = ports[name]
            environment = {
                **given,
                **own[name],
                "FLASH_PORT": str(port),
                "FLASH_OPS_PORT": str(ops_port),
                "FLASH_LOG_LEVEL": "warning",
            }
            command = (sys.executable, "-m", modules[name])
            pids[name] = await stack.enter_async_context(process(name, command, environment, field.all_cores, port))
            await until_ready(name, ops_port)
        yield pids
