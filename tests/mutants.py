"""The list of predicates (tests/contract/predicates.tsv) as tests: each without its predicate, and its test must notice.

A line names a condition of the SQL (see ``tests/predicates.py``) and the test that fails without it. That test is run once
more on a database without the condition, and is then expected to fail. ``--predicates`` says which lines:

sample  every test as it is, and beside them those lines whose name's checksum is a multiple of ``SAMPLE`` (the default)
all     every line, and nothing else

A new condition's line is written by hand, and proved by ``all``. A line may say ``equivalent: why`` instead, where no test could tell, or ``open: what is missing``.
"""

import gc
import sys
import warnings
from collections.abc import Generator
from functools import cache
from pathlib import Path
from zlib import crc32

import asyncpg
import pytest

from flashsale.authority.client import AuthorityUnavailable, BadBatch
from flashsale.operate.context import OperationError
from flashsale.proof.repair import RepairError
from tests.databases import Database, execute
from tests.predicates import Predicate, predicates

LIST = Path(__file__).parent / "contract" / "predicates.tsv"
SAMPLE = 16
# What a test that notices raises. Anything else is an accident of the test run, and a failure.
NOTICED = (
    pytest.fail.Exception, AssertionError, ValueError, KeyError, TypeError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError,
    AuthorityUnavailable, BadBatch, OperationError, RepairError,
)  # fmt: skip
STATEMENT_S_MAX = 20  # a mutant that would wait for ever ends, and is noticed
_noticed = pytest.StashKey[bool]()


class MutantError(Exception):
    """The mutant is no SQL."""


def lines() -> dict[str, str]:
    """By the name of each predicate: the test, named from tests/contract on, or why there is none."""
    return dict(line.split("\t") for line in LIST.read_text("utf-8").splitlines())


def is_a_test(killer: str) -> bool:
    return not killer.startswith(("equivalent: ", "open: "))


async def put_in(database: Database, mutant: Predicate | None) -> None:
    """Takes the predicate out of a test's own database; nothing for None."""
    if mutant is None:
        return
    name = database.owner_url.rpartition("/")[2]
    try:
        await execute(
            database.owner_url,
            f"ALTER DATABASE {name} SET statement_timeout = '{STATEMENT_S_MAX}s'",
            "SET search_path = flash",
            mutant.statement,
        )
    except asyncpg.PostgresError as error:
        raise MutantError(f"{mutant.name}: {error}") from error


@cache
def _chosen(which: str) -> dict[str, list[Predicate]]:
    """By test and function, as ``file::function``: what is to be taken out under it."""
    known = lines()
    chosen: dict[str, list[Predicate]] = {}
    for predicate in predicates():
        killer = known.get(predicate.name, "open: ")
        if is_a_test(killer) and (which == "all" or crc32(predicate.name.encode()) % SAMPLE == 0):
            chosen.setdefault(killer.partition("[")[0], []).append(predicate)
    return chosen


def _file(path: Path) -> str:
    return path.name if path.parent == LIST.parent else ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    which = metafunc.config.getoption("--predicates")
    mine = _chosen(which).get(f"{_file(metafunc.definition.path)}::{metafunc.function.__name__}", [])
    if "mutant" in metafunc.fixturenames and mine:
        mutants = [pytest.param(each, id=_id(each)) for each in mine]
        metafunc.parametrize("mutant", [pytest.param(None, id=pytest.HIDDEN_PARAM), *mutants], indirect=True)


def _id(mutant: Predicate) -> str:
    return f"without {mutant.name}"


def mutant_of(item: pytest.Item) -> Predicate | None:
    """What is missing while this test runs."""
    callspec = getattr(item, "callspec", None)
    mutant: Predicate | None = callspec.params.get("mutant") if callspec else None
    return mutant


def _plain_id(item: pytest.Item) -> str:
    """The test as the list names it."""
    function, bracket, variant = item.nodeid.rpartition("/")[2].partition("[") if _file(item.path) else ("", "", "")
    mutant = mutant_of(item)
    if mutant is not None:
        variant = variant.removeprefix(_id(mutant)).removeprefix("-")
        bracket = "" if variant == "]" else bracket
        variant = variant if bracket else ""
    return function + bracket + variant


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = lines()
    which = config.getoption("--predicates")
    kept = [item for item in items if (mutant := mutant_of(item)) is None or known[mutant.name] == _plain_id(item)]
    items[:] = [item for item in kept if which != "all" or mutant_of(item)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    mutant = mutant_of(item)
    if mutant is None:
        return report
    if call.when == "setup":
        item.stash[_noticed] = False
    if call.excinfo is not None and call.excinfo.errisinstance(NOTICED):
        item.stash[_noticed] = True
    if item.stash[_noticed]:
        report.outcome, report.longrepr = "passed", None
    elif call.when == "call" and call.excinfo is None:
        report.outcome, report.longrepr = (
            "failed",
            f"everything comes out as if nothing were missing, without {mutant.name}",
        )
    if call.when == "teardown":
        _forget_what_failed()
    return report


def _forget_what_failed() -> None:
    """A test that ended in the middle leaves connections; that they are not closed must not be told to the next test."""
    for name in ("last_exc", "last_value", "last_traceback"):
        if hasattr(sys, name):
            delattr(sys, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
