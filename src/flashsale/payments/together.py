"""Makes one statement of many calls: one is in flight, and everybody who came meanwhile goes in the next.

No timer: the first call of a quiet moment leaves in the next loop turn, and under load a batch is as large as the last one took
long. Bounded by its callers, each of whom waits for an answer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Together(Generic[Asked, Answer]):
    """``call`` answers a batch of at most ``most``, in its order; what it raises, every caller of the batch hears."""

    def __init__(self, call: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer]]], most: int) -> None:
        self._call = call
        self._most = most
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, asked: Asked) -> Answer:
        """Its own answer."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answered))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await answered

    async def _run(self) -> None:
        batch: list[tuple[Asked, asyncio.Future[Answer]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                try:
                    answers = await self._call([asked for asked, _ in batch])
                except Exception as error:  # noqa: BLE001 - whatever it is, it is theirs
                    for _, answered in batch:
                        if not answered.done():
                            answered.set_exception(error)
                else:
                    for (_, answered), answer in zip(batch, answers, strict=True):
                        if not answered.done():  # its caller may have been cancelled by a stopping process
                            answered.set_result(answer)
        finally:
            self._task = None
            for _, answered in batch + self._waiting:  # only when the loop itself is being taken down
                answered.cancel()
