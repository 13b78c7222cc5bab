"""Sources: what one of them does not survive is nothing to the others, and what it said is not shown for ever."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from flashsale.admin.operations import collector, frame, sources
from flashsale.admin.operations.sources import Source
from flashsale.operate import watching
from flashsale.operate.context import Context
from tests.patience import PATIENCE_SECONDS
from tests.unit.admin import operations_inputs as inputs
from tests.unit.admin.test_looks import NOWHERE


class Broken(Source):
    """Raises what no source should."""

    every_s = 0.001

    def __init__(self) -> None:
        super().__init__()
        self.looked_at = 0

    async def looks(self) -> AsyncGenerator[None, None]:
        """Never one."""
        self.looked_at += 1
        if self.looked_at:
            raise ZeroDivisionError("of all things")
        yield


class Hanging(Source):
    """One look, and then no answer; nor is it closed."""

    every_s = 0.001

    def __init__(self) -> None:
        super().__init__()
        self.is_closing = asyncio.Event()

    async def looks(self) -> AsyncGenerator[None, None]:
        """One."""
        yield
        try:
            await asyncio.Event().wait()
        finally:
            self.is_closing.set()
            await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def kept(*all_of_them: Source) -> AsyncIterator[None]:
    """Looked at, the way the collector does it."""
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        tasks = [group.create_task(source.keep()) for source in all_of_them]
        yield
        for task in tasks:
            task.cancel()


async def test_a_source_that_raises_what_nobody_expects_ends_no_other() -> None:
    broken, hanging = Broken(), Hanging()
    async with kept(broken, hanging):
        await hanging.looked.wait()
        while broken.looked_at < 3:
            await asyncio.sleep(0.001)
        assert broken.away == "it cannot be looked at: ZeroDivisionError('of all things')"
        assert hanging.away == ""


async def test_what_was_seen_is_not_shown_while_a_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ANSWER_SECONDS", 0.01)
    hanging = Hanging()
    async with kept(hanging):
        await hanging.is_closing.wait()
        while not hanging.away:
            await asyncio.sleep(0.001)
        assert hanging.away == sources.LATE


async def test_a_broker_that_hangs_keeps_neither_the_first_frame_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    is_asked = asyncio.Event()

    async def hanging(_: Context) -> AsyncGenerator[watching.Queues, None]:
        is_asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()
        yield watching.Queues({}, {})

    monkeypatch.setattr(watching, "queues", hanging)
    monkeypatch.setattr(sources, "ANSWER_SECONDS", PATIENCE_SECONDS)  # the look itself is not given up
    for bound in ("ANSWER_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(collector, bound, 0.1)
    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_SECONDS):
        made = collector.Collector(collector.Where(NOWHERE, {}, "", Path("/nonexistent")), session)
        with made.watched():
            first = await made.after(0)
            await is_asked.wait()
            assert first is not None
            assert json.loads(first.data)["queues"]["away"]
            await made.close()


@pytest.mark.parametrize(
    "more", ['flash_process_info{pid="none"} 1', 'flashsale_commit_seconds_bucket{le="soon"} 1'], ids=["pid", "bucket"]
)
def test_what_no_frame_can_be_made_of_is_found_at_once(more: str) -> None:
    text = "\n".join(line for line in inputs.asyncio_server(0, 1).splitlines() if "flash_process_info" not in line)
    with pytest.raises(ValueError, match=r"none|soon"):
        frame.check(inputs.seen("asyncio_redis", 0, f"{text}\n{more}", f"{text}\n{more}"))
