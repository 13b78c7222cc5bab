"""A cancellation that a driver kept to itself.

``asyncio.wait_for`` before Python 3.12 forgets a cancellation that comes in the same turn as the answer, and aiormq waits with it. The
task goes on as if nobody had told it to end, and its group, or its process, waits for it for ever: one in thirty checkout workers
that were stopped while they began did.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def heed() -> None:
    """Raise ``CancelledError`` if this task was told to end. For where a driver was waited for and a wait without a bound begins."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def apart(work: Coroutine[Any, Any, Result]) -> Result:
    """Await ``work`` in a task of its own, so that its caller can heed.

    A task group before 3.13 that fails while it ends leaves its task as if told to end, and a loop that heeded would stop with
    the first outage.
    """
    return await asyncio.create_task(work)
