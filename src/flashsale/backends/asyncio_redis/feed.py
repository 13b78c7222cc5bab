"""The stock feed of what this server refuses by itself: reads PostgreSQL ten times a second, and when told that something moved.

On a connection of its own: behind other readers it would be late, and a word that is late is none.
"""

import asyncio
import contextlib
import time
from collections.abc import Collection

from flashsale.authority.client import Authority, AuthorityUnavailable
from flashsale.stream.refusals import BEAT_SECONDS, ROWS_MAX, Refusals

PAUSE_SECONDS = 0.02  # between two readings, however often it is woken
CATCH_UP_SECONDS = 0.002  # between two slices of ids: purchases have as much of the loop as they need
SALES_SECONDS = 1.0  # a new sale may wait so long for its first word


class Feed:
    """Keeps ``refusals`` fed. ``task`` ends only with the process: whoever runs it must watch it."""

    def __init__(self, authority: Authority, refusals: Refusals) -> None:
        self._authority = authority
        self._refusals = refusals
        self._sales_due = 0.0
        self._read_soon = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    def wake(self, skus: Collection[str] | None) -> None:
        """These SKUs moved; None: any may have."""
        if self._refusals.wake(skus, time.monotonic()):
            self._read_soon.set()

    def close(self) -> None:
        """Stop."""
        self.task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                is_behind = await self._read()
            except AuthorityUnavailable:
                is_behind = False  # what is known grows old by itself; there is nothing to take back
            if is_behind:
                await asyncio.sleep(CATCH_UP_SECONDS)
                continue
            # the pause first: what moves in it is read of once
            await asyncio.sleep(PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS - PAUSE_SECONDS):
                    await self._read_soon.wait()

    async def _read(self) -> bool:
        # Is there more to be read at once?
        if time.monotonic() >= self._sales_due:
            self._refusals.expect({sale.sale: sale.skus for sale in await self._authority.live_sales()})
            self._sales_due = time.monotonic() + SALES_SECONDS
        self._read_soon.clear()
        wished = self._refusals.wish()
        begun = time.monotonic()
        copies = await self._authority.read_copies(wished, ROWS_MAX) if wished else None
        return copies is not None and self._refusals.learn(wished, copies, begun)
