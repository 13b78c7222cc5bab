"""Puts a frame together once a second, for all who look, and only while somebody does."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import structlog

from flashsale.admin.operations import frame, happenings
from flashsale.admin.operations.sources import ANSWER_SECONDS, Audit, Balancer, Books, Queues, Source, Target, progress
from flashsale.operate.context import Context

EVERY_SECONDS = 1.0
CLOSE_SECONDS = 3.0  # a stop waits for the viewers' last words after it

log = structlog.get_logger()


class Frame(NamedTuple):
    """One frame as it is sent. ``number`` only grows, also over a restart of this process."""

    number: int
    data: bytes


class Where(NamedTuple):
    """Whom to ask."""

    context: Context
    targets: Mapping[tuple[str, int], str]
    auditor: str
    progress: Path


class Collector:
    """The frames of one process. What has happened is remembered when nobody looks any more; what was between nobody has seen."""

    def __init__(self, where: Where, session: aiohttp.ClientSession) -> None:
        self._where = where
        self._session = session
        self._viewers = 0
        self._run: asyncio.Task[None] | None = None
        self._runs: set[asyncio.Task[None]] = set()  # also those that end
        self._frame: Frame | None = None
        self._news = asyncio.Event()  # another one after each frame
        self._timeline = happenings.Timeline()
        self._deed = 0  # the id of the last that was told
        self.is_closed = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Somebody looks."""
        self._viewers += 1
        if self._run is None or self._run.done():
            self._frame = None
            self._run = asyncio.create_task(self._collect())
            self._runs.add(self._run)
            self._run.add_done_callback(self._ended)
        try:
            yield
        finally:
            self._viewers -= 1
            if not self._viewers and self._run is not None:
                self._run.cancel()
                self._run = None

    async def after(self, number: int) -> Frame | None:
        """The latest frame, once there is one behind ``number``; None when there will be none."""
        while not self.is_closed and self._run is not None:
            if self._frame is not None and self._frame.number > number:
                return self._frame
            await self._news.wait()
        return None

    async def close(self) -> None:
        """Nobody looks any more."""
        self.is_closed = True
        self._tell()
        for run in self._runs:
            run.cancel()
        if self._runs:
            # They close connections to stores, which may hang. What is left ends with the process.
            await asyncio.wait(self._runs, timeout=CLOSE_SECONDS)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _ended(self, run: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        if not run.cancelled() and (error := run.exception()) is not None:
            log.error("operations.failed", error=repr(error))
        if run is self._run:
            self._run = None
        self._tell()

    async def _collect(self) -> None:
        where = self._where
        targets = [Target(role, n, url, self._session) for (role, n), url in where.targets.items()]
        sources = _Sources(targets, Balancer(where.context), Audit(where.auditor, self._session), Queues(where.context),
                           Books(where.context, self._deed))  # fmt: skip
        async with asyncio.TaskGroup() as group:
            for source in sources.all:
                group.create_task(source.keep())
            # A frame before would say of everything that it is away, and the next that it is back. Who takes longer than any
            # look may is away.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await asyncio.gather(*(source.looked.wait() for source in sources.all))
            before: Mapping[str, Any] | None = None
            while True:
                at = time.time()
                parts = sources.parts(at)
                if before is not None:
                    for event in happenings.between(before, parts):
                        self._timeline.add(at, event)
                for deed in sources.books.deeds():
                    self._deed = deed["id"]
                    self._timeline.add(deed["at"], happenings.deed(deed))
                before = happenings.known(before, parts)
                whole = frame.whole(at, parts, self._timeline.parts(), progress(where.progress, at))
                number = max(int(at * 1000), self._frame.number + 1 if self._frame else 0)
                self._frame = Frame(number, json.dumps(whole, separators=(",", ":"), allow_nan=False).encode())
                self._tell()
                await asyncio.sleep(EVERY_SECONDS)


class _Sources(NamedTuple):
    targets: list[Target]
    balancer: Balancer
    audit: Audit
    queues: Queues
    books: Books

    @property
    def all(self) -> list[Source]:
        """Every one of them."""
        return [*self.targets, self.balancer, self.audit, self.queues, self.books]

    def parts(self, at: float) -> Mapping[str, Any]:
        """What the frame is made of."""
        seen = [target.process for target in self.targets]
        own = [] if self.balancer.away else self.balancer.processes
        nobody = {} if seen else {"away": "no process is known here"}
        return {
            "audit": _away(self.audit) or self.audit.part,
            "sales": _away(self.books) or self.books.sales,
            "backends": nobody or frame.backends(seen),
            "balancer": _away(self.balancer) or self.balancer.part,
            "queues": _away(self.queues) or frame.queues(self.queues.worked),
            "dead_letters": _away(self.queues) or frame.dead_letters(self.queues.aside),
            "gate": nobody or frame.gate(seen, at),
            "commit_lag": nobody or frame.commit_lag(seen),
            "processes": nobody or [*own, *(frame.process(one, at) for one in seen)],
        }


def _away(source: Source) -> frame.Part:
    return {"away": source.away} if source.away else {}
