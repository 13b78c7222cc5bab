"""Long-polling: many requests wait for a purchase to change, one query asks for all of them."""

import asyncio
import uuid
from collections import defaultdict

from flashsale.authority.client import Authority, AuthorityUnavailable

POLL_SECONDS = 0.1  # how late a waiter may learn of a change; one query per process, however many wait
WAITERS_MAX = 2_000  # past this a request is answered at once with what is known, which the preference allows


class Watch:
    """Tells who waits when a purchase's version is no longer the one they know."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._waiters: defaultdict[uuid.UUID, set[tuple[int, asyncio.Event]]] = defaultdict(set)
        self._attempts: defaultdict[uuid.UUID, set[asyncio.Event]] = defaultdict(set)
        self._count = 0
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    async def wait_change(self, purchase: uuid.UUID, known_version: int, timeout_s: float) -> None:
        """Return when the purchase has another version, after ``timeout_s``, or at once when too many wait."""
        if self._closed or self._count >= WAITERS_MAX:
            return
        waiter = (known_version, asyncio.Event())
        self._waiters[purchase].add(waiter)
        self._count += 1
        if self._task is None:
            self._task = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(timeout_s):
                await waiter[1].wait()
        except TimeoutError:
            pass
        finally:
            self._count -= 1
            self._waiters[purchase].discard(waiter)
            if not self._waiters[purchase]:
                del self._waiters[purchase]

    async def wait_decided(self, rid: uuid.UUID, timeout_s: float) -> None:
        """Return when the attempt is decided, after ``timeout_s``, or at once when too many wait."""
        if self._closed or self._count >= WAITERS_MAX:
            return
        decided = asyncio.Event()
        self._attempts[rid].add(decided)
        self._count += 1
        if self._task is None:
            self._task = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(timeout_s):
                await decided.wait()
        except TimeoutError:
            pass
        finally:
            self._count -= 1
            self._attempts[rid].discard(decided)
            if not self._attempts[rid]:
                del self._attempts[rid]

    def close(self) -> None:
        """Answer everybody who waits, and who comes to wait, so that a stopping process does not hold its clients."""
        self._closed = True
        for waiters in self._waiters.values():
            for _, changed in waiters:
                changed.set()
        for events in self._attempts.values():
            for decided in events:
                decided.set()
        if self._task is not None:
            self._task.cancel()

    async def _poll(self) -> None:
        try:
            while self._waiters or self._attempts:
                await self._tell()
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._task = None  # whatever ended it, the next waiter starts it again

    async def _tell(self) -> None:
        try:
            versions = await self._authority.versions(list(self._waiters)) if self._waiters else {}
            rids = await self._authority.verdicts(list(self._attempts)) if self._attempts else set()
        except AuthorityUnavailable:
            return  # they go on waiting; their own time-out bounds it
        for rid in rids:
            for decided in self._attempts.get(rid, ()):
                decided.set()
        for purchase, version in versions.items():
            for known_version, changed in self._waiters.get(purchase, ()):
                if version != known_version:
                    changed.set()
