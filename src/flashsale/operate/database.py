"""PostgreSQL as an operation meets it: one connection, one statement, and refusals in words."""

import contextlib
from collections.abc import AsyncIterator

import asyncpg

from flashsale.operate.context import OperationError

CONNECT_SECONDS = 3.0
CALL_SECONDS = 30.0  # a person waits; the locks it takes are waited for no longer than the server allows
LOCK_MS = 5_000


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection whose errors are for people: ``OperationError`` for what the database refuses or cannot do now."""
    try:
        connection = await asyncpg.connect(
            url,
            timeout=CONNECT_SECONDS,
            command_timeout=CALL_SECONDS,
            server_settings={"search_path": "flash", "lock_timeout": str(LOCK_MS), "timezone": "UTC"},
        )
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise OperationError(f"PostgreSQL does not answer: {str(error) or type(error).__name__}") from error
    try:
        yield connection
    except (OSError, TimeoutError, asyncpg.InterfaceError) as error:
        raise OperationError(
            f"PostgreSQL was lost: {str(error) or type(error).__name__}. Repeat the command with the same --key"
        ) from error
    except asyncpg.PostgresError as error:
        raise OperationError(str(error)) from error
    finally:
        await connection.close(timeout=CONNECT_SECONDS)
