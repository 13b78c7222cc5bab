"""Fixtures on real services. ``./flash test`` starts them and says where they are; without it these fail and name the fix."""

import asyncio
import gc
import secrets
from collections.abc import AsyncIterator, Generator, Iterator

import hypothesis
import pytest

from flashsale.authority.client import Authority
from flashsale.authority.migrate import migrate
from tests import mutants
from tests.databases import PASSWORDS, Database, drop_database, execute, given, make_database, patient, url_for
from tests.patience import PATIENCE_SECONDS
from tests.predicates import Predicate
from tests.sharing import pytest_collection_modifyitems, pytest_xdist_make_scheduler

__all__ = ["pytest_collection_modifyitems", "pytest_xdist_make_scheduler"]  # hooks of this file's

FULL_COLLECTIONS_ONE_OF = 1_000  # of the garbage collector's; else one of ten

# An example may take as long as a machine under load stands still, and making ten of them too.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--storm-seconds", type=float, default=3, help="how long tests/contract/test_storm.py storms")
    parser.addoption(
        "--fuzz-seconds", type=float, default=4, help="how long tests/failure/test_loadbalancer_fuzz.py goes on"
    )
    parser.addoption("--fuzz-seed", type=int, default=1, help="what chance it takes; each case follows from it")
    parser.addoption("--predicates", choices=("sample", "all"), default="sample", help="see tests/mutants.py")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(mutants)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected is there to the end, and no garbage: it is not looked through while it grows, nor by the full
    collections that a crowd's generator begins with, and each mutant ends with. By themselves they stay as rare as all of it made them.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTIONS_ONE_OF)
        gc.enable()


@pytest.fixture(scope="session")
def template() -> Iterator[str]:
    """A migrated database that every test's own is a copy of."""
    admin = given("FLASH_TEST_POSTGRES_URL")
    name = f"template_{secrets.token_hex(4)}"

    async def make() -> None:
        await execute(admin, f"CREATE DATABASE {name}")
        await migrate(url_for(admin, database=name), PASSWORDS)

    asyncio.run(make())
    yield name
    asyncio.run(execute(admin, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def mutant(request: pytest.FixtureRequest) -> Predicate | None:
    """What is missing in the database, when this is no ordinary run of the test: see tests/mutants.py."""
    return mutants.mutant_of(request.node)


@pytest.fixture
async def database(template: str, mutant: Predicate | None) -> AsyncIterator[Database]:
    """A fresh migrated database."""
    made = await make_database(template)
    await mutants.put_in(made, mutant)
    yield made
    await drop_database(made)


@pytest.fixture
async def authority(database: Database, mutant: Predicate | None) -> AsyncIterator[Authority]:
    """The authority's client on a fresh database."""
    client = await patient(database, 4, mutants.STATEMENT_S_MAX if mutant else PATIENCE_SECONDS)
    yield client
    await client.close()


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The test run's Redis. Tests keep apart by the names of their sales."""
    return given("FLASH_TEST_REDIS_URL")
