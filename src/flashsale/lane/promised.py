"""An answer that is not there yet: whoever gives it, a callback or a task, and whoever waits for it, the lane or a coroutine."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from flashsale.lane.answer import Answer


class Promised:
    """``tell`` is called once, in a later turn than the one that made this: with the answer, or None when there will be none.

    Whoever waits sets it. A promise is no future: to wake a task takes as long as to refuse somebody.
    """

    __slots__ = ("_task", "tell")

    def __init__(self) -> None:
        self.tell: Callable[[Answer | None], None] = _nobody
        self._task: asyncio.Task[None] | None = None

    def come_from(self, coroutine: Coroutine[Any, Any, Answer]) -> None:
        """Let a task of its own find the answer."""
        self._task = asyncio.get_running_loop().create_task(self._wait(coroutine))

    async def answer(self) -> Answer:
        """For one who waits. Raises ``RuntimeError`` when there will be none."""
        told: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()

        def tell(answer: Answer | None) -> None:
            if not told.done():  # who waited was cancelled
                told.set_result(answer)

        self.tell = tell
        answer = await told
        if answer is None:
            raise RuntimeError("an attempt ended without an answer")
        return answer

    async def _wait(self, coroutine: Coroutine[Any, Any, Answer]) -> None:
        answer = None
        try:
            answer = await coroutine
        finally:
            self.tell(answer)


def _nobody(_: Answer | None) -> None:
    """Nobody waits."""
