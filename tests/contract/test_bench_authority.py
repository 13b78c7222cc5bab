"""The authority's benchmark on a real PostgreSQL, small: every contestant sells what it says it sells, and the books add up."""

import asyncpg
import pytest

from benchmarks.authority import __main__ as bench
from benchmarks.authority.report import MIXED, SINGLE, report
from benchmarks.authority.shop import opened
from tests.databases import Database

TINY = bench.Effort(rounds=1, batches=1, pasts=(10,), skus=(1, 3), due=5, due_within_s=0.1)


async def test_everything_is_measured_once(database: Database) -> None:
    found = await bench.bench(database.owner_url, TINY)
    holds = {name: seen[0].holds for name, seen in found.hot.items()}
    mixed, single = holds.pop(MIXED), holds.pop(SINGLE)
    assert set(holds.values()) == {bench.BATCH}
    assert (mixed, single) == (50, 1)  # of 128 attempts, 39 replays and 39 refusals
    assert [seen[0].holds for sizes in found.scale.values() for seen in sizes.values()] == [bench.BATCH] * 3
    assert list(found.late_ms) == ["p50", "p99", "max"]
    assert report(found)["table"]["rows"]


async def test_books_that_do_not_add_up_end_it(database: Database) -> None:
    async with opened(database.owner_url) as shop:
        await bench._check_books(shop)
        await shop.connection.execute("UPDATE stock SET available = available - 1 WHERE sku = 'sku-0'")
        with pytest.raises(RuntimeError, match="the books of 1 SKUs are wrong"):
            await bench._check_books(shop)
    connection = await asyncpg.connect(database.owner_url)
    try:  # nothing is left of its databases
        assert not await connection.fetch("SELECT FROM pg_database WHERE datname = $1", shop.url.rpartition("/")[2])
    finally:
        await connection.close()
