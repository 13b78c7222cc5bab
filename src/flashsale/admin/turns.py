"""So many at work at once, so many who wait for a place, and nobody more."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class FullError(Exception):
    """Everybody's place is taken, and so is every place to wait."""


class Turns:
    """Places to work, and places to wait for one."""

    def __init__(self, working: int, waiting: int) -> None:
        self._working = asyncio.Semaphore(working)
        self._free = waiting

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A place, in the order of asking. Raises ``FullError`` at once when too many wait already."""
        if self._working.locked() and self._free == 0:
            raise FullError("too much is asked at once")
        self._free -= 1
        try:
            await self._working.acquire()
        finally:
            self._free += 1
        try:
            yield
        finally:
            self._working.release()
