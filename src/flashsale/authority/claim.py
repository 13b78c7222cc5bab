"""The claim to the gates of a database: whoever keeps them keeps them in the same Redis.

Keepers of one database with two Redises would raise the epochs of the same sales against each other for ever. PostgreSQL is
all that they share, so that is where the second one finds out: each holds an advisory lock that names its Redis.
"""

import asyncio
import hashlib
from typing import Self

import asyncpg

from flashsale.authority.client import CALL_SECONDS, CONNECT_SECONDS, AuthorityUnavailable

CLASS = 0x67617465  # "gate": the first half of every lock of this kind, the second names a Redis

_SETTINGS = {
    "application_name": "flashsale claim",
    "lock_timeout": "1000",
    # A keeper frozen while it claims must not keep the others from claiming.
    "idle_in_transaction_session_timeout": "5000",
    # The claim of a machine that vanished without a word lapses after 25 s, not after the kernel's two hours.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

# objsubid tells the locks of two halves from those of one number.
_FOREIGN = """
    SELECT EXISTS (SELECT FROM pg_locks
                   WHERE locktype = 'advisory' AND objsubid = 2 AND classid = $1::int::oid AND objid <> $2::int::oid
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"""


class ClaimRefused(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """The gates of this database are kept in another Redis."""


class Claim:
    """One claim, on a connection of its own; it ends with the connection."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    @classmethod
    async def take(cls, url: str, redis_url: str) -> Self:
        """Claim the gates of the database in ``url`` for one Redis. Raises ``ClaimRefused`` or ``AuthorityUnavailable``."""
        try:
            connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS, server_settings=_SETTINGS)
        except _BROKEN as error:
            raise AuthorityUnavailable(str(error) or type(error).__name__) from error
        try:
            await _lock(connection, _name(redis_url))
        except BaseException as error:
            # Whatever it has locked goes with it.
            connection.terminate()
            if isinstance(error, _BROKEN):
                raise AuthorityUnavailable(str(error) or type(error).__name__) from error
            raise
        return cls(connection)

    async def check(self) -> None:
        """Does it stand? Raises ``AuthorityUnavailable`` when that is not known; then close it and take another."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._connection.execute("SELECT 1")
        except _BROKEN as error:
            raise AuthorityUnavailable(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """Give it up, without waiting for a server that does not answer."""
        self._connection.terminate()


async def _lock(connection: asyncpg.Connection, name: int) -> None:
    async with asyncio.timeout(CALL_SECONDS):
        # One at a time looks and locks, so that of two that start together one is let in. The transaction is the door; the
        # claim itself belongs to the session and outlives it.
        await connection.execute("BEGIN")
        await connection.execute(f"SELECT pg_advisory_xact_lock({CLASS})")
        if await connection.fetchval(_FOREIGN, CLASS, name):
            raise ClaimRefused
        await connection.execute(f"SELECT pg_advisory_lock_shared({CLASS}, {name})")
        await connection.execute("COMMIT")


def _name(redis_url: str) -> int:
    # 32 bits, signed as PostgreSQL wants them: two Redises in four thousand million share a name.
    return int.from_bytes(hashlib.sha256(redis_url.encode()).digest()[:4], signed=True)
