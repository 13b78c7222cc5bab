"""How long a verdict takes from PostgreSQL to the buyer who waits for it, while nobody else is there.

One after the other, each with ``Prefer: wait``. The verdict's moment is the one that the purchase's history has, taken when its statement
began: so the statement and its commit are in, and the figure is never too small. Both clocks are this machine's.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import aiohttp

from benchmarks.backend import checkout
from benchmarks.backend.cores import shared
from benchmarks.backend.field import OFF, Field, wish
from benchmarks.backend.flood import quantile
from benchmarks.backend.report import Section, at_most, middle, span
from benchmarks.backend.servers import Server
from benchmarks.backend.shop import PLENTY
from flashsale.contract import wire

SALE = SKU = "telling"
WAIT_SECONDS = 20
PAUSE_SECONDS = 0.05  # at most, between two buyers, or they would meet the worker at always the same moment
P99_MS = 50.0


class Effort(NamedTuple):
    """How many buyers, and how often."""

    rounds: int
    buyers: int


FULL, QUICK = Effort(5, 200), Effort(1, 10)


class Round(NamedTuple):
    """Milliseconds, of every buyer: until the verdict was there since it was asked for, and since it was given."""

    whole_ms: Sequence[float]
    told_ms: Sequence[float]


async def measure(field: Field, effort: Effort) -> Section:
    """Raises ``RuntimeError`` at an answer that is not a hold."""
    await field.shop.open_sale(SALE, {SKU: PLENTY})
    with shared(field.processes.values(), field.all_cores):
        async with (
            field.queueing(OFF, field.all_cores) as edge,
            checkout.deciding(field, field.all_cores),
            aiohttp.ClientSession() as session,
        ):
            rounds = []
            for number in range(effort.rounds):
                found = [await _buy(field, session, edge) for _ in range(effort.buyers)]
                rounds.append(Round(*zip(*found, strict=True)))
                field.say(f"telling, round {number + 1}: p99 {quantile(rounds[-1].told_ms, 0.99):.1f} ms")
    return section(rounds, effort)


async def _buy(field: Field, session: aiohttp.ClientSession, edge: Server) -> tuple[float, float]:
    await asyncio.sleep(random.uniform(0, PAUSE_SECONDS))
    name, _, value = field.identity(OFF).partition(": ")
    headers = {
        name: value,
        wire.KEY_HEADER: field.names.prefix() + "0000000000",
        "Content-Type": wire.JSON_TYPE,
        "Prefer": f"wait={WAIT_SECONDS}",
    }
    began = time.time()
    async with session.post(edge.url + wire.PURCHASES_PATH, data=wish(SKU), headers=headers) as answer:
        told = await answer.read()
        ended = time.time()
    if answer.status != 201:
        raise RuntimeError(f"telling: {answer.status} {told!r:.300}")
    given = datetime.fromisoformat(json.loads(told)["history"][0]["at"]).timestamp()
    return (ended - began) * 1e3, (ended - given) * 1e3


def section(rounds: Sequence[Round], effort: Effort) -> Section:
    """The table, the bar, and every figure. Pure."""
    of = {
        "asked for until told": [one.whole_ms for one in rounds],
        "given until told": [one.told_ms for one in rounds],
    }
    rows = []
    for what, times in of.items():
        found = [[quantile(one, q) for one in times] for q in (0.5, 0.95, 0.99, 1.0)]
        rows.append([what, *(f"{middle(each):.1f}" for each in found), span(found[2])])
    p99s = [quantile(one.told_ms, 0.99) for one in rounds]
    return Section(
        "A verdict on its way, nobody else there",
        ["FROM", "P50 MS", "P95 MS", "P99 MS", "MOST MS", "SPREAD OF P99"],
        rows,
        [
            f"Telling: {effort.rounds} rounds of {effort.buyers} buyers, one after the other, who wait for their verdict."
        ],
        [at_most(P99_MS, p99s, "a verdict is told: p99 in ms", "nobody else there")],
        {"rounds": [one._asdict() for one in rounds]},
    )
