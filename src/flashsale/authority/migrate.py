"""Brings a database up to date: every numbered file of ``migrations/`` once, in order, each in a transaction of its own.

Fifty lines instead of a library because both candidates bring a second database driver, and what must be right here is
little: one runner at a time, no file twice, and no file that changed after it ran.
"""

import hashlib
from importlib import resources

import asyncpg

LOCK = 0x666C617368  # "flash": two starts at once run the migrations one after the other
ROLES = ("flash_app", "flash_auditor", "flash_operator", "flash_admin")  # what the last migration grants to


class MigrationError(Exception):
    """The database and the files disagree; the text says how."""


async def migrate(url: str, passwords: dict[str, str]) -> list[str]:
    """Apply what is missing, as the owner in ``url``; the names of the files applied. ``passwords`` is by role.

    Raises ``MigrationError``, or asyncpg's errors when the database does not answer.
    """
    connection = await asyncpg.connect(url, timeout=5, command_timeout=60)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        await _make_roles(connection, passwords)
        await connection.execute("CREATE SCHEMA IF NOT EXISTS flash")
        await connection.execute("SET search_path = flash")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migration (name text PRIMARY KEY, digest text NOT NULL, at timestamptz DEFAULT now())",
        )
        known = {row["name"]: row["digest"] for row in await connection.fetch("SELECT name, digest FROM migration")}
        applied = []
        for name, text in _files():
            digest = hashlib.sha256(text.encode()).hexdigest()
            if known.get(name, digest) != digest:
                raise MigrationError(f"{name} has changed since this database ran it; `./flash clean` starts afresh")
            if name not in known:
                async with connection.transaction():
                    await connection.execute(text)
                    await connection.execute("INSERT INTO migration (name, digest) VALUES ($1, $2)", name, digest)
                applied.append(name)
        return applied
    finally:
        await connection.close(timeout=5)


async def _make_roles(connection: asyncpg.Connection, passwords: dict[str, str]) -> None:
    for role in ROLES:
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
            await connection.execute(f"CREATE ROLE {role} LOGIN")
        if role in passwords:
            # utility statements take no parameters; format(%L) quotes the password on the server
            statement = await connection.fetchval(
                f"SELECT format('ALTER ROLE {role} PASSWORD %L', $1::text)", passwords[role]
            )
            await connection.execute(statement)


def _files() -> list[tuple[str, str]]:
    folder = resources.files("flashsale.authority") / "migrations"
    return sorted((file.name, file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".sql"))
