"""``python -m benchmarks.authority``: started by ``./flash bench``. Progress on stderr, one JSON line on stdout.

Law 1: all contestants have a turn in every round, and ratios are taken within a round. Law 2: the sale that was measured must
add up, or its figures are worth nothing. FLASH_POSTGRES_URL is the owner's, who may create databases.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
from typing import NamedTuple

from benchmarks.authority import ladder, measure
from benchmarks.authority.lateness import lateness_ms
from benchmarks.authority.report import CLIENT, MIXED, SINGLE, Found, report
from benchmarks.authority.shop import Batches, Shop, opened
from flashsale.authority.client import Authority

BATCH = 128
PURCHASES, SKUS = "purchases before", "SKUs"

_BOOKS = """
    SELECT count(*) FROM stock k
    LEFT JOIN (SELECT sku, sum(delta) AS units FROM ledger GROUP BY sku) folded USING (sku)
    LEFT JOIN (SELECT l.sku, sum(l.quantity) AS units FROM line l JOIN purchase p ON p.id = l.purchase_id
               WHERE p.state = 'HELD' GROUP BY l.sku) held USING (sku)
    WHERE k.available <> coalesce(folded.units, 0) OR k.available <> k.total - coalesce(held.units, 0)"""


class Effort(NamedTuple):
    """How long it is measured, and how large a shop."""

    rounds: int
    batches: int  # of one turn
    pasts: tuple[int, ...]
    skus: tuple[int, ...]
    due: int
    due_within_s: float


FULL = Effort(7, 30, (1_000, 10_000, 100_000, 1_000_000), (1, 100, 10_000), 1_000, 20.0)
QUICK = Effort(1, 2, (100, 1_000), (1, 100), 50, 0.5)


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.authority", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true")
    options, _ = parser.parse_known_args()  # what else `bench` tells is for others
    print(json.dumps(report(await bench(os.environ["FLASH_POSTGRES_URL"], QUICK if options.quick else FULL))))
    return 0


async def bench(owner_url: str, effort: Effort) -> Found:
    """Measure everything. Raises ``RuntimeError`` when the books of a measured sale are wrong."""
    memory: dict[str, float | None] = {}
    async with opened(owner_url) as shop:
        memory["at the start"] = measure.memory_mib(shop.pid)
        hot = await _hot(shop, effort)
        memory["after the hot SKU"] = measure.memory_mib(shop.pid)
    _say("how late holds end")
    async with opened(owner_url) as shop:
        late = await lateness_ms(shop, effort.due, effort.due_within_s)
        await _check_books(shop)
    scale = await _scale(owner_url, effort, memory)
    return Found(hot, scale, late, memory)


async def _hot(shop: Shop, effort: Effort) -> dict[str, list[measure.Seen]]:
    # One SKU, everybody in one database. The rungs write a part of what they should, so they come when all else is done.
    _say("one hot SKU")
    batches = Batches()
    await shop.connection.execute(ladder.BARE_TABLES)
    authority = await Authority.connect(shop.url, size=1)
    try:
        bare = await measure.by_bare_statement(ladder.BARE, shop, batches, BATCH)
        everything = await measure.by_statement(ladder.EVERYTHING, shop, batches.fresh, BATCH)
        contestants = [
            bare,
            everything,
            await measure.by_client(CLIENT, authority, batches.fresh, BATCH),
            await measure.by_statement(MIXED, shop, batches.mixed, BATCH),
            await measure.by_statement(SINGLE, shop, batches.fresh, 1),
        ]
        seen = await measure.rounds(contestants, effort.rounds, effort.batches)
    finally:
        await authority.close()
    await _check_books(shop)
    _say("the ladder")
    rungs = []
    for number, (rung, function) in enumerate(zip(ladder.RUNGS, ladder.functions(), strict=True), 1):
        await shop.connection.execute(function)
        rungs.append(await measure.by_statement(f"without {rung.feature}", shop, batches.fresh, BATCH, number))
    again = everything._replace(name=ladder.TOP)
    return seen | await measure.rounds([again, *rungs], effort.rounds, effort.batches)


async def _scale(
    owner_url: str, effort: Effort, memory: dict[str, float | None]
) -> dict[str, dict[int, list[measure.Seen]]]:
    # The smallest shop is the first of both; the others differ from it in one thing.
    sizes = [(PURCHASES, past, past, effort.skus[0]) for past in effort.pasts]
    sizes += [(SKUS, skus, effort.pasts[0], skus) for skus in effort.skus[1:]]
    contestants = {}
    async with contextlib.AsyncExitStack() as stack:
        shops = []
        for what, size, past, skus in sizes:
            _say(f"a shop with {size:,} {what}")
            shop = await stack.enter_async_context(opened(owner_url, skus=skus, past=past))
            shops.append(shop)
            contestants[what, size] = await measure.by_statement(f"{size} {what}", shop, Batches(skus).fresh, BATCH)
        seen = await measure.rounds([*contestants.values()], effort.rounds, effort.batches)
        memory["with all shops"] = measure.memory_mib(shops[0].pid)
        for shop in shops:
            await _check_books(shop)
    first = seen[contestants[PURCHASES, effort.pasts[0]].name]
    return {
        PURCHASES: {past: seen[contestants[PURCHASES, past].name] for past in effort.pasts},
        SKUS: {effort.skus[0]: first} | {skus: seen[contestants[SKUS, skus].name] for skus in effort.skus[1:]},
    }


async def _check_books(shop: Shop) -> None:
    if wrong := await shop.connection.fetchval(_BOOKS, timeout=600):
        raise RuntimeError(f"the books of {wrong} SKUs are wrong")


def _say(text: str) -> None:
    print(f"bench authority: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
