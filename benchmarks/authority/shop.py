"""Databases of their own with a sale in them, filled with a past, and the batches that are decided there."""

import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from flashsale.authority.client import Attempt
from flashsale.authority.migrate import migrate
from flashsale.contract.wire import Cart, Line, attempt_id, purchase_id

SALE, GONE = "bench", "gone"  # GONE is an item without a unit
UNITS = 1_000_000_000
REPLAYS, REFUSALS = 3, 3  # of ten attempts of a mixed batch
HOURS = 12  # a hold must not lapse under the measurement
SEED_SECONDS = 900.0

# Three fifths of the past still hold their units, the others lapsed. Its events were sent long ago.
_PAST = """
    INSERT INTO purchase (id, sale_id, buyer, key, fingerprint, state, version, generation, deadline, total_minor, history)
    SELECT md5('p' || n)::uuid, 'bench', 'old-' || n, 'key-of-the-past-' || n, sha256(n::text::bytea),
           CASE WHEN n % 5 < 3 THEN 'HELD' ELSE 'EXPIRED' END, 1, 1,
           now() + make_interval(hours => 12, secs => n % 3600), 100,
           '[{"state": "HELD", "version": 1, "at": "2026-01-01T00:00:00.000Z"}]'
    FROM generate_series(1, PAST) n;
    INSERT INTO attempt (rid, purchase_id, verdict)
    SELECT md5('r' || n)::uuid, md5('p' || n)::uuid, 'held' FROM generate_series(1, PAST) n;
    INSERT INTO quota (sale_id, buyer, active)
    SELECT 'bench', 'old-' || n, CASE WHEN n % 5 < 3 THEN 1 ELSE 0 END FROM generate_series(1, PAST) n;
    INSERT INTO line (purchase_id, sku, quantity, unit_price_minor, seq)
    SELECT md5('p' || n)::uuid, 'sku-0', 1, 100, 1 + n FROM generate_series(1, PAST) n;
    INSERT INTO ledger (sku, seq, kind, reason, delta, purchase_id, generation, at)
    SELECT 'sku-0', 1 + n, 'hold', 'held', -1, md5('p' || n)::uuid, 1, now() FROM generate_series(1, PAST) n;
    INSERT INTO ledger (sku, seq, kind, reason, delta, purchase_id, generation, at)
    SELECT 'sku-0', 1 + PAST + row_number() OVER (ORDER BY n), 'return', 'expired', 1, md5('p' || n)::uuid, 1, now()
    FROM generate_series(1, PAST) n WHERE n % 5 >= 3;
    INSERT INTO outbox (topic, subject, version, at, sent_at)
    SELECT 'purchase.held', md5('p' || n), 1, now(), now() FROM generate_series(1, PAST) n;
    UPDATE stock SET (available, seq) = (SELECT sum(delta), max(seq) FROM ledger WHERE sku = 'sku-0') WHERE sku = 'sku-0'"""


class Shop(NamedTuple):
    """One database, a connection to it as its owner, and the server process behind that."""

    url: str
    connection: asyncpg.Connection
    pid: int


@contextlib.asynccontextmanager
async def opened(owner_url: str, *, skus: int = 1, past: int = 0) -> AsyncIterator[Shop]:
    """A fresh database with one open sale of ``skus`` items and ``past`` purchases; it is dropped at the end."""
    name = f"bench_{secrets.token_hex(4)}"
    await _run(owner_url, f"CREATE DATABASE {name}")
    url = urlunsplit(urlsplit(owner_url)._replace(path=f"/{name}"))
    try:
        await migrate(url, {})
        connection = await asyncpg.connect(url, server_settings={"search_path": "flash"})
        try:
            await _fill(connection, skus, past)
            yield Shop(url, connection, await connection.fetchval("SELECT pg_backend_pid()"))
        finally:
            await connection.close(timeout=5)
    finally:
        await _run(owner_url, f"DROP DATABASE {name} WITH (FORCE)")


async def _fill(connection: asyncpg.Connection, skus: int, past: int) -> None:
    now = datetime.now(UTC)
    await connection.execute(
        "SELECT create_sale($1, 'bench', 'bench', $2, $3, 1000000, $4, 'EUR')",
        *(SALE, now - timedelta(minutes=1), now + timedelta(hours=HOURS), HOURS * 3600),
    )
    await connection.execute("SELECT add_item($1, $2, 'Nothing', 100, 0)", SALE, GONE)
    await connection.execute(
        "SELECT add_item($1, 'sku-' || n, 'Sneaker', 100, $2) FROM generate_series(0, $3 - 1) n",
        *(SALE, UNITS, skus),
        timeout=SEED_SECONDS,
    )
    if past:
        await connection.execute(_PAST.replace("PAST", str(past)), timeout=SEED_SECONDS)
        await connection.execute("VACUUM ANALYZE", timeout=SEED_SECONDS)  # as autovacuum would have, by and by


async def _run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=5)


class Batches:
    """Attempts of buyers who come once, for one unit of each of ``skus`` SKUs in turn."""

    def __init__(self, skus: int = 1) -> None:
        self._skus = [f"sku-{number}" for number in range(skus)]
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count()
        self._held: list[Attempt] = []  # of the latest mixed batch

    def fresh(self, size: int) -> list[Attempt]:
        """Every one is a hold."""
        return [self._attempt() for _ in range(size)]

    def mixed(self, size: int) -> list[Attempt]:
        """Of ten attempts four are holds, three repeat the key of an earlier one, and three find nothing left."""
        known = iter(self._held)
        batch, self._held = [], []
        for position in range(size):
            again = next(known, None) if position % 10 < REPLAYS else None
            is_refused = REPLAYS <= position % 10 < REPLAYS + REFUSALS
            batch.append(again._replace(rid=attempt_id()) if again else self._attempt(GONE if is_refused else None))
            if not is_refused:
                self._held.append(batch[-1])
        return batch

    def _attempt(self, sku: str | None = None) -> Attempt:
        number = next(self._numbers)
        buyer, key = f"buyer-{self._run}-{number}", f"key-{self._run}-{number:012}"
        cart = Cart((Line(sku or self._skus[number % len(self._skus)], 1),))
        return Attempt(attempt_id(), purchase_id(buyer, key), buyer, key, cart)


def arguments(attempts: list[Attempt]) -> list[object]:
    """The parameters of ``reserve_batch`` for carts of one line."""
    rid, purchase, buyer, key, carts, epoch, queued_until = (list(column) for column in zip(*attempts, strict=True))
    lines = [cart.lines[0] for cart in carts]
    fingerprints = [cart.fingerprint for cart in carts]
    positions = list(range(1, 1 + len(attempts)))
    skus, quantities = [line.sku for line in lines], [line.quantity for line in lines]
    return [rid, purchase, buyer, key, fingerprints, epoch, queued_until, positions, skus, quantities]
