"""Where a frame's figures come from: each source is looked at again and again, at its own pace, and none waits for another."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from flashsale.admin.figures import whole_body
from flashsale.admin.operations import bench, exposition, frame, servers
from flashsale.admin.operations.window import Window
from flashsale.operate import balancer, watching
from flashsale.operate.context import AwayError, Context, OperationError

EVERY_SECONDS = 1.0
QUEUES_EVERY_SECONDS = 2.0  # what a broker says of its depths is older than that under load
ANSWER_SECONDS = 5.0  # a process that is busy answers late; it is shown as it was for so long, and no longer
LATE = f"it takes longer than {ANSWER_SECONDS:g} seconds"
BODY_BYTES_MAX = 4 * 1024 * 1024


log = structlog.get_logger()


class Source:
    """Something that is looked at. What a look found is kept by the subclass; ``away`` says why there is none."""

    every_s = EVERY_SECONDS

    def __init__(self) -> None:
        self._why = "not looked at yet"
        self._seen_at = 0.0
        self.looked = asyncio.Event()  # once, whatever came of it

    @property
    def away(self) -> str:
        """Why nothing is known; empty while something is."""
        # By its age: a connection that hangs is waited for once more, when it is closed.
        is_old = time.monotonic() - self._seen_at > self.every_s + ANSWER_SECONDS
        return self._why or (LATE if is_old else "")

    async def keep(self) -> None:
        """Look for ever."""
        while True:
            try:
                async with contextlib.aclosing(self.looks()) as looks:
                    while True:
                        async with asyncio.timeout(ANSWER_SECONDS):
                            await anext(looks)
                        self._why, self._seen_at = "", time.monotonic()
                        self.looked.set()
                        await asyncio.sleep(self.every_s)
            except OperationError as error:
                self._why = str(error)
            except TimeoutError:
                self._why = LATE
            except Exception as error:  # whatever it is, the other sources are none the worse for it
                self._why = f"it cannot be looked at: {error!r}"
                log.exception("operations.source_failed", source=type(self).__name__)
            self.looked.set()
            await asyncio.sleep(self.every_s)

    def looks(self) -> AsyncGenerator[None, None]:
        """One look whenever the next is asked for. Raises ``OperationError``."""
        raise NotImplementedError


class Target(Source):
    """A process of the shop, by its metrics."""

    def __init__(self, role: str, number: int, url: str, session: aiohttp.ClientSession) -> None:
        super().__init__()
        self._process = frame.Process(role, number)
        self._url = f"{url}/metrics"
        self._session = session
        self._window: Window[frame.Key] = Window()

    @property
    def process(self) -> frame.Process:
        """As it was seen last."""
        return self._process._replace(away=self.away)

    async def looks(self) -> AsyncGenerator[None, None]:
        """See ``Source``."""
        while True:
            text = await _get(self._session, self._url)
            try:
                says = exposition.read(text.decode(), frame.NAMES)
                counters = {key: value for key, value in says.items() if key[0] in frame.COUNTERS}
                self._window.hear(time.monotonic(), counters, says.get((frame.STARTED, "")))
                process = self._process._replace(says=says, change=self._window.change)
                frame.check(process)
            except (ValueError, IndexError) as error:
                raise AwayError(f"its metrics cannot be read: {error}") from error
            self._process = process
            yield


class Balancer(Source):
    """The balancer, by its statistics."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._window: Window[servers.Counter] = Window()
        self._lives: dict[int, Window[str]] = {}
        self.part: frame.Part = {}
        self.processes: list[frame.Part] = []  # its own

    async def looks(self) -> AsyncGenerator[None, None]:
        """See ``Source``."""
        while True:
            stats, now = await balancer.stats(self._context), time.monotonic()
            try:
                self._window.hear(now, servers.counters(stats), stats["pid"])
                lives = dict(servers.lives(stats))
                self._lives = {pid: self._lives.get(pid) or Window() for pid in lives}
                for pid, life in lives.items():
                    self._lives[pid].hear(now, {servers.CPU: life["cpu_seconds"]}, pid)
                changes = {pid: change for pid, life in self._lives.items() if (change := life.change) is not None}
                self.part = servers.balancer(stats, self._window.change)
                self.processes = servers.processes(stats, changes, time.time())
            except (KeyError, TypeError) as error:
                raise AwayError(f"the balancer answers as another version does: {error!r}") from error
            yield


class Audit(Source):
    """The auditor on watch, by its report."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        super().__init__()
        self._url = url
        self._session = session
        self.part: frame.Part = {}

    async def looks(self) -> AsyncGenerator[None, None]:
        """See ``Source``."""
        if not self._url:
            raise AwayError("no auditor is known here; run `./flash audit`")
        while True:
            try:
                self.part = frame.audit(json.loads(await _get(self._session, f"{self._url}/report")))
            except (ValueError, KeyError, TypeError) as error:
                raise AwayError(f"the auditor answers as another version does: {error!r}") from error
            yield


class Queues(Source):
    """RabbitMQ's queues."""

    every_s = QUEUES_EVERY_SECONDS

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.worked: Mapping[str, tuple[int, int] | None] = {}
        self.aside: Mapping[str, tuple[int, int] | None] = {}

    async def looks(self) -> AsyncGenerator[None, None]:
        """See ``Source``."""
        async with contextlib.aclosing(watching.queues(self._context)) as looks:
            async for self.worked, self.aside in looks:
                yield


class Books(Source):
    """PostgreSQL: sales, and what is done by hand, behind the deed with the id ``since``."""

    def __init__(self, context: Context, since: int) -> None:
        super().__init__()
        self._context = context
        self.since = since
        self.sales: list[frame.Part] = []
        self._deeds: list[dict[str, Any]] = []

    def deeds(self) -> list[dict[str, Any]]:
        """Those that nobody has been told yet."""
        told, self._deeds = self._deeds, []
        return told

    async def looks(self) -> AsyncGenerator[None, None]:
        """See ``Source``."""
        async with contextlib.aclosing(watching.books(self._context, self.since)) as looks:
            async for found in looks:
                self.sales = found.sales
                self._deeds = [*self._deeds, *found.deeds][-watching.DEEDS_MAX :]
                self.since = found.deeds[-1]["id"] if found.deeds else self.since
                yield


def progress(path: Path, at: float) -> frame.Part | None:
    """How far the comparison that runs has come. A small file, written whole: to read it takes no longer than to ask whether to."""
    try:
        with path.open("rb") as file:
            return bench.progress(file.read(bench.BYTES_MAX), at)
    except OSError:
        return None


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    try:
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise AwayError(f"it answers {answer.status}")
            return await whole_body(answer.content, BODY_BYTES_MAX)
    except (aiohttp.ClientError, ValueError) as error:
        raise AwayError(f"it does not answer: {str(error) or type(error).__name__}") from error
