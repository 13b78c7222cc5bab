"""Who may do what to the authority's tables and functions, read off the database: a new function or table is judged as it is."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from flashsale.authority.migrate import ROLES
from tests.databases import Database

_FUNCTIONS = """
    SELECT p.proname AS name, p.prosecdef AS is_definer, coalesce(p.proargnames, '{}') AS arguments,
           coalesce(p.proconfig, '{}') AS settings, has_function_privilege('public', p.oid, 'EXECUTE') AS is_public,
           ARRAY(SELECT r FROM unnest($1::text[]) r WHERE has_function_privilege(r, p.oid, 'EXECUTE')) AS roles
    FROM pg_proc p WHERE p.pronamespace = 'flash'::regnamespace ORDER BY 1"""
_WRITERS = """
    SELECT r, c.relname, w FROM pg_class c CROSS JOIN unnest($1::text[]) r
    CROSS JOIN unnest('{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) w
    WHERE c.relnamespace = 'flash'::regnamespace AND c.relkind IN ('r', 'v', 'p', 'm') AND has_table_privilege(r, c.oid, w)"""
DEED = {"p_key", "p_operator", "p_reason"}
BEYOND_THE_PAGE = {"forget_buyer", "repair_books"}  # for who sits at the terminal
_READERS = """
    SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'flash'::regnamespace AND c.relkind IN ('r', 'v')
    AND has_table_privilege('flash_admin', c.oid, 'SELECT') ORDER BY 1"""


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    yield connection
    await connection.close()


async def test_nobody_writes_a_table(owner: asyncpg.Connection) -> None:
    assert await owner.fetch(_WRITERS, list(ROLES)) == []


async def test_what_steps_in_is_the_operators_and_names_who_and_why(owner: asyncpg.Connection) -> None:
    functions = await owner.fetch(_FUNCTIONS, list(ROLES))
    for each in functions:
        assert not each["is_public"], each["name"]
        if each["name"] != "iso":
            is_deed = each["is_definer"] and set(each["arguments"]) >= DEED
            assert ("flash_operator" in each["roles"]) == is_deed, each["name"]
            assert not (is_deed and set(each["roles"]) - {"flash_operator", "flash_admin"}), each["name"]
            assert ("flash_admin" in each["roles"]) == (is_deed and each["name"] not in BEYOND_THE_PAGE), each["name"]
            assert "flash_auditor" not in each["roles"], each["name"]
    assert {role for each in functions for role in each["roles"]} == set(ROLES)


async def test_what_runs_as_the_owner_looks_nowhere_but_in_the_schema(owner: asyncpg.Connection) -> None:
    functions = [each for each in await owner.fetch(_FUNCTIONS, list(ROLES)) if each["is_definer"]]
    assert functions
    for each in functions:
        assert "search_path=flash, pg_temp" in each["settings"], each["name"]


async def test_the_admin_page_reads_what_it_shows(owner: asyncpg.Connection) -> None:
    assert [row["relname"] for row in await owner.fetch(_READERS)] == [
        "item", "ledger", "line", "merchant", "operation", "payment", "purchase", "purchase_document", "sale", "stock",
    ]  # fmt: skip
