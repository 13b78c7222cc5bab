"""PostgreSQL as an operation meets it: one connection, one statement, and refusals in words.

A rehearsal is the same statement taken back: what the database itself has made of it is what an operation would change, and
no rule stands in two places. It holds the locks of the deed for two round trips, a few milliseconds; shoppers wait for them
as they wait for the deed itself. A process that stands still in the middle of one loses its connection within two seconds.
"""

import contextlib
from collections.abc import AsyncIterator

import asyncpg

from flashsale.operate.context import AwayError, OperationError

CONNECT_SECONDS = 10.0  # who is not there says so at once; a machine under load takes its time
END_SECONDS = 2.0  # a farewell: who does not take it is left
CALL_SECONDS = 30.0  # a person waits; the locks it takes are waited for no longer than the server allows
LOCK_MS = 5_000
REHEARSAL_LOCK_MS = 1_000  # who only looks gives way
REHEARSAL_IDLE_MS = 2_000
REHEARSAL_STATEMENT_MS = 5_000  # each of its statements, its waits for locks included
# Busy, or stopped while it ran: what a later call may well do.
_PASSING = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.InvalidTransactionStateError,
)


@contextlib.asynccontextmanager
async def connected(url: str, call_seconds: float = CALL_SECONDS) -> AsyncIterator[asyncpg.Connection]:
    """A connection whose errors are for people: ``OperationError`` for what the database refuses, ``AwayError`` for what it
    cannot do now.
    """
    try:
        connection = await asyncpg.connect(
            url,
            timeout=CONNECT_SECONDS,
            command_timeout=call_seconds,
            server_settings={"search_path": "flash", "lock_timeout": str(LOCK_MS), "timezone": "UTC"},
        )
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise AwayError(f"PostgreSQL does not answer: {str(error) or type(error).__name__}") from error
    try:
        yield connection
    except (OSError, TimeoutError, asyncpg.InterfaceError) as error:
        raise AwayError(
            f"PostgreSQL was lost: {str(error) or type(error).__name__}. Repeat the command with the same --key"
        ) from error
    except _PASSING as error:
        raise AwayError(f"PostgreSQL did not come to it: {error}") from error
    except asyncpg.PostgresError as error:
        raise OperationError(str(error)) from error
    finally:
        with contextlib.suppress(TimeoutError):  # it is cut off then, and what was done before is as it was
            await connection.close(timeout=END_SECONDS)


@contextlib.asynccontextmanager
async def rehearsed(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Whatever is done inside is taken back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(
            f"SET LOCAL lock_timeout = {REHEARSAL_LOCK_MS}; SET LOCAL statement_timeout = {REHEARSAL_STATEMENT_MS}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {REHEARSAL_IDLE_MS}"
        )
        yield
    finally:
        if not connection.is_closed():
            await transaction.rollback()
