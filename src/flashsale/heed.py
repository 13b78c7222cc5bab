"""A cancellation that a driver kept to itself.

``asyncio.wait_for`` before Python 3.12 forgets a cancellation that comes in the same turn as the answer, and aiormq waits with it. The
task goes on as if nobody had told it to end, and its group, or its process, waits for it for ever: one in thirty checkout workers
that were stopped while they began did.
"""

import asyncio


def heed() -> None:
    """Raise ``CancelledError`` if this task was told to end. For where a driver was waited for and a wait without a bound begins."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
