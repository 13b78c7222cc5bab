"""The list of predicates is complete: each condition of the SQL has a line, and each line a test or a reason.

That the tests notice is shown by running them without the predicate, see tests/mutants.py.
"""

import ast

import asyncpg
import pytest

from tests.databases import Database
from tests.mutants import LIST, is_a_test, lines
from tests.predicates import migrations, predicates, units_of

_UNITS = """
    SELECT proname FROM pg_proc WHERE pronamespace = 'flash'::regnamespace
    UNION SELECT viewname FROM pg_views WHERE schemaname = 'flash'
    UNION SELECT tgname || ' on ' || tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal"""


def test_every_condition_has_a_line_and_every_line_a_condition() -> None:
    there = [predicate.name for predicate in predicates()]
    assert len(set(there)) == len(there)
    listed = lines()
    assert [name for name in there if name not in listed] == [], (
        "each needs a line: the test that fails without it, which `--predicates all` proves"
    )
    assert [name for name in listed if name not in there] == [], "their lines go"
    assert list(listed) == there, "in the order of the migrations"
    assert len(LIST.read_text("utf-8").splitlines()) == len(listed)


def test_every_line_names_a_test_or_says_why_there_is_none(request: pytest.FixtureRequest) -> None:
    collected = {item.nodeid.rpartition("/")[2] for item in request.session.items}
    functions = {name.partition("[")[0] for name in collected}
    read: dict[str, set[str]] = {}  # by file; each is named by a hundred lines
    for name, killer in lines().items():
        if not is_a_test(killer):
            assert len(killer.partition(": ")[2]) > 10, name
            continue
        file, _, test = killer.partition("::")
        if file not in read:
            body = ast.parse((LIST.parent / file).read_text("utf-8")).body
            read[file] = {each.name for each in body if isinstance(each, ast.AsyncFunctionDef)}
        assert test.partition("[")[0] in read[file], name
        # which variants of a test there are is known where its file was collected, as in a full run
        assert killer in collected or killer.partition("[")[0] not in functions, name


async def test_every_function_view_and_trigger_is_read(database: Database) -> None:
    connection = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    try:
        there = {row[0] for row in await connection.fetch(_UNITS)}
    finally:
        await connection.close()
    assert {unit for sql in migrations() for unit, _ in units_of(sql)} == there
