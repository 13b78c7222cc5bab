"""Each constraint of the tables alone refuses what it is there for, and without it nothing does.

The list is read off the database: a new key, reference or NOT NULL is tried as it is; a new CHECK without a line in BREAKS fails.
"""

import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import asyncpg
import pytest

from flashsale.authority.client import Authority
from tests.contract.test_events import Scene
from tests.databases import Database

# What breaks a CHECK, on every side it has: what follows UPDATE ... SET.
BREAKS: dict[str, tuple[str, ...]] = {
    "item_price_minor_check": ("price_minor = -1", "price_minor = 1000000000001"),
    "item_sku_check": ("sku = ''", "sku = 'a b'", "sku = repeat('a', 65)"),
    "ledger_check": (
        "delta = 0 WHERE kind = 'hold'",
        "delta = 0 WHERE kind = 'return'",
        "delta = 1 WHERE kind = 'sale'",
        "delta = 0 WHERE kind = 'restock'",
    ),
    "ledger_check1": (
        "purchase_id = NULL WHERE kind = 'hold'",
        "generation = NULL WHERE kind = 'return'",
        "purchase_id = gen_random_uuid(), generation = 1 WHERE kind = 'restock'",
    ),
    "ledger_kind_check": ("kind = 'gift'",),
    "lifecycle_units_check": ("units = 2", "units = -2"),
    "line_quantity_check": ("quantity = 0",),
    "line_unit_price_minor_check": ("unit_price_minor = -1",),
    "merchant_id_check": ("id = ''", "id = 'a b'", "id = repeat('a', 65)"),
    "operation_key_check": ("key = repeat('k', 15)", "key = repeat('k', 65)", "key = repeat(' ', 16)"),
    "operation_operator_check": ("operator = ''", "operator = 'a b'", "operator = repeat('a', 65)"),
    "operation_reason_check": ("reason = ' '", "reason = repeat('a', 501)"),
    "payment_amount_minor_check": ("amount_minor = -1",),
    "payment_method_check": ("method = 'shells'",),
    "payment_state_check": ("state = 'STOLEN'",),
    "payment_try_check": ("try = 0", "try = 4"),
    "purchase_state_check": ("state = 'SOLD'",),
    "purchase_total_minor_check": ("total_minor = -1",),
    "purchase_version_check": ("version = 0",),
    "quota_active_check": ("active = -1",),
    "sale_buyer_limit_check": ("buyer_limit = 0", "buyer_limit = 1000001"),
    "sale_check": ("closes = opens",),
    "sale_currency_check": ("currency = 'eur'", "currency = 'EURO'"),
    "sale_epoch_check": ("epoch = 0",),
    "sale_hold_seconds_check": ("hold_seconds = 0", "hold_seconds = 86401"),
    "sale_id_check": ("id = ''", "id = 'a b'", "id = repeat('a', 65)"),
    "sale_state_check": ("state = 'SHUT'",),
    "stock_available_check": ("available = -1",),
    "stock_check": ("available = total + 1",),
    "stock_seq_check": ("seq = -1",),
    "stock_total_check": ("total = -1",),
}

_CONSTRAINTS = """
    SELECT c.conname AS name, c.contype::text AS kind, t.relname AS table,
           ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = t.oid AND attnum = ANY (c.conkey)) AS columns
    FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
    WHERE c.connamespace = 'flash'::regnamespace AND c.contype IN ('c', 'u', 'p', 'f') ORDER BY t.relname, c.conname"""
_OTHER_UNIQUE = """
    SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
    WHERE t.relnamespace = 'flash'::regnamespace AND (i.indisunique OR i.indisexclusion)
      AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)"""
_NOT_NULL = """
    SELECT t.relname, a.attname FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid
    WHERE t.relnamespace = 'flash'::regnamespace AND t.relkind = 'r' AND a.attnum > 0 AND a.attnotnull AND a.attidentity = ''"""
_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'flash'::regnamespace AND relkind = 'r'"


class Constraint(NamedTuple):
    name: str
    kind: str  # c: check, u: unique, p: primary key, f: reference
    table: str
    columns: list[str]

    @property
    def breaks(self) -> list[str]:
        """Statements that it must refuse."""
        if self.kind in {"u", "p"}:
            known = " AND ".join(f"{column} IS NOT NULL" for column in self.columns)
            return [
                f"INSERT INTO {self.table} OVERRIDING SYSTEM VALUE SELECT * FROM {self.table} WHERE {known} LIMIT 1"
            ]
        if self.kind == "f":
            return [f"UPDATE {self.table} SET {column} = 'nobodys-' || {column}" for column in self.columns]
        return [f"UPDATE {self.table} SET {change}" for change in BREAKS.get(self.name, ())]


@pytest.fixture
async def owner(database: Database, authority: Authority) -> AsyncIterator[asyncpg.Connection]:
    """The owner of a database with a row of every kind in it."""
    connection = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    await Scene(authority, connection).play_everything()
    yield connection
    await connection.close()


async def constraints(owner: asyncpg.Connection) -> list[Constraint]:
    return [Constraint(*row) for row in await owner.fetch(_CONSTRAINTS)]


async def drop(owner: asyncpg.Connection, *dropped: Constraint) -> None:
    for one in dropped:
        await owner.execute(f"ALTER TABLE {one.table} DROP CONSTRAINT IF EXISTS {one.name} CASCADE")


async def test_every_constraint_alone_refuses_what_nothing_else_does(owner: asyncpg.Connection) -> None:
    known = await constraints(owner)
    for one in known:
        assert one.breaks, f"BREAKS says nothing of {one.name}"
        for statement in one.breaks:
            with pytest.raises(asyncpg.IntegrityConstraintViolationError):
                await owner.execute(statement)
            transaction = owner.transaction()
            await transaction.start()
            # a reference stands on the key it names
            await drop(owner, *(o for o in known if o != one and not (one.kind == "f" and o.kind in {"u", "p"})))
            with pytest.raises(asyncpg.IntegrityConstraintViolationError) as caught:
                async with owner.transaction():
                    await owner.execute(statement)
            assert caught.value.constraint_name == one.name, statement
            await drop(owner, one)
            done = await owner.execute(statement)
            assert int(re.findall(r"\d+$", done)[0]) > 0, f"{statement}: changes no row, and so proves nothing"
            await transaction.rollback()
    assert set(BREAKS) == {one.name for one in known if one.kind == "c"}


async def test_no_unique_index_hides_beside_the_constraints(owner: asyncpg.Connection) -> None:
    assert await owner.fetch(_OTHER_UNIQUE) == []


async def test_what_must_be_known_cannot_be_forgotten(owner: asyncpg.Connection) -> None:
    for table, column in await owner.fetch(_NOT_NULL):
        with pytest.raises(asyncpg.NotNullViolationError) as caught:
            await owner.execute(f"UPDATE {table} SET {column} = NULL")
        assert (caught.value.table_name, caught.value.column_name) == (table, column)


async def test_the_scene_leaves_a_row_in_every_table(owner: asyncpg.Connection) -> None:
    empty = [row[0] for row in await owner.fetch(_TABLES) if not await owner.fetchval(f"SELECT count(*) FROM {row[0]}")]
    assert empty == []
