"""Drives the observers: each looks at its own pace, and a look that takes long only makes its next one late."""

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol


class Observer(Protocol):
    """Looks when it is told to, and remembers what it saw."""

    period_s: float
    rows: list[tuple[object, ...]]

    @property
    def look(self) -> Callable[[int], Any]: ...


@contextlib.asynccontextmanager
async def watching(observers: Sequence[Observer], release_ns: int) -> AsyncIterator[None]:
    """They look as long as the body runs, and once more at its end."""
    stopping = asyncio.Event()
    tasks = [asyncio.create_task(_watch(observer, release_ns, stopping)) for observer in observers]
    try:
        yield
    finally:
        # not cancelled: a question that is under way on a kept connection comes to its end
        stopping.set()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ended:
        if isinstance(end, Exception):
            raise end


async def _watch(observer: Observer, release_ns: int, stopping: asyncio.Event) -> None:
    while True:
        is_last = stopping.is_set()
        seen = observer.look(time.monotonic_ns() - release_ns)
        if inspect.isawaitable(seen):
            await seen
        if is_last:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), observer.period_s)
