"""Databases of their own for tests, on the PostgreSQL that ``./flash test`` started."""

import os
import secrets
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from flashsale.authority import client
from flashsale.authority.client import Authority
from flashsale.authority.migrate import ROLES
from flashsale.settings import mask_url
from tests.patience import PATIENCE_SECONDS

PASSWORDS = {role: secrets.token_hex(16) for role in ROLES}


class Address(str):
    """A URL with a password in it. pytest shows the arguments of what failed, and of this one everything else."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(mask_url(self))


class Database(NamedTuple):
    """One test's own database, as each role reaches it."""

    owner_url: str
    app_url: str
    auditor_url: str
    operator_url: str
    admin_url: str


def worker() -> int:
    """Which of pytest's workers this process is, from 0 on; 0 when it is the only one."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def told(variable: str) -> str:
    """What ``./flash test`` says. Fails, and never skips: a test that did not run proves nothing."""
    text = os.environ.get(variable)
    if not text:
        pytest.fail(f"{variable} is not set; run the tests with `./flash test [pytest arguments]`", pytrace=False)
    return text


def given(variable: str) -> str:
    """The address of this worker's own service. Fails as ``told`` does, and for a worker that has none."""
    urls = told(variable).split()
    if len(urls) <= worker():
        pytest.fail(
            f"{variable} has no address for pytest's worker {worker()}; several workers are for `./flash test` alone",
            pytrace=False,
        )
    return Address(urls[worker()])


def url_for(url: str, *, database: str, user: str | None = None, password: str | None = None) -> str:
    """``url`` with another database and, if given, another user."""
    parts = urlsplit(url)
    authority = parts.netloc if user is None else f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"
    return Address(urlunsplit(parts._replace(netloc=authority, path=f"/{database}")))


async def execute(url: str, *statements: str) -> None:
    """Run statements as the user in ``url``, each on its own."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def patient(database: Database, size: int, seconds: float = PATIENCE_SECONDS) -> Authority:
    """The authority's client as the servers use it, but one that waits as long as a test does: for an answer on a machine
    under load, and for a lock, so that PostgreSQL can tell a deadlock (after 1 s) from a queue.
    """
    return await _patient(database.app_url, size, seconds)


async def _patient(url: str, size: int, seconds: float = PATIENCE_SECONDS) -> Authority:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "CONNECT_SECONDS", PATIENCE_SECONDS)
        # a dictionary of its own: the pool keeps it, for whichever connection it opens later
        within = f"{seconds:.0f}s"
        patch.setattr(client, "_SETTINGS", {**client._SETTINGS, "lock_timeout": within, "statement_timeout": within})
        return await Authority.connect(url, size, call_s=seconds)


class Patient:
    """Stands for ``Authority`` in a program that connects by itself and is no server."""

    connect = staticmethod(_patient)


async def make_database(template: str) -> Database:
    """A fresh copy of the template."""
    admin = given("FLASH_TEST_POSTGRES_URL")
    name = f"test_{secrets.token_hex(6)}"
    await execute(admin, f"CREATE DATABASE {name} TEMPLATE {template}")
    others = [url_for(admin, database=name, user=role, password=PASSWORDS[role]) for role in ROLES]
    return Database(url_for(admin, database=name), *others)


async def drop_database(database: Database) -> None:
    """Remove a copy, whoever is still connected to it."""
    name = urlsplit(database.owner_url).path.removeprefix("/")
    await execute(given("FLASH_TEST_POSTGRES_URL"), f"DROP DATABASE {name} WITH (FORCE)")
