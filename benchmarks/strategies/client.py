"""``python -m benchmarks.strategies.client``: one process of a storm. Commands on stdin, what happens on stdout, JSON lines both ways.

Every line is written at once and by one system call: what a process said before it was killed is heard. Commands::

    {"do": "open", "strategy": name, "stores": {...}}     be connected for it, anew
    {"do": "serve", "hold": [moment, ...], "delay_ms": n} decide from now on, for a strategy that has a process of its own for that
    {"do": "buy", "item": i, "attempts": [...], "hold": [moment, ...], "delay_ms": n, "after_ms": n}
    {"do": "go"}                                          nobody is held any more

and what is said::

    {"is": "opened"}   {"is": "serving"}
    {"is": "step", "ns": monotonic, "attempt": a, "step": text}
    {"is": "held", "attempt": a, "at": moment}            waits for "go"
    {"is": "again", "attempt": a}                         begins anew
    {"is": "told", "attempt": a, "word": sold|refused|unknown, "ms": since it asked, "deadlock": bool}
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Collection
from typing import Any, Final

import asyncpg

from benchmarks.strategies.catalogue import strategy as strategy_called
from benchmarks.strategies.oracle import Told
from benchmarks.strategies.strategy import Stores, Strategy

CHECKED, ACTED = "checked", "acted"  # the moments


def say(**words: Any) -> None:
    """One line, whole."""
    os.write(1, json.dumps(words).encode() + b"\n")


class Held:
    """The storm for the attempts of one command: see ``strategy.Moment``."""

    def __init__(self, attempt: str, hold: Collection[str], delay_ms: float, opened: asyncio.Event) -> None:
        self._attempt, self._hold, self._delay_s, self._opened = attempt, hold, delay_ms / 1000, opened

    def note(self, step: str) -> None:
        say(**{"is": "step", "ns": time.monotonic_ns(), "attempt": self._attempt, "step": step})

    async def checked(self, seen: str) -> None:
        self.note(seen)
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        await self._wait(CHECKED)

    async def acted(self) -> None:
        await self._wait(ACTED)

    def again(self, why: str) -> None:
        self.note(f"again: {why}")
        say(**{"is": "again", "attempt": self._attempt})

    async def _wait(self, moment: str) -> None:
        if moment in self._hold and not self._opened.is_set():
            say(**{"is": "held", "attempt": self._attempt, "at": moment})
            await self._opened.wait()


class Client:
    """Does what it is told."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._hold: Collection[str] = ()
        self._delay_ms = 0.0
        self._strategy: Strategy | None = None
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    def of(self, attempt: str) -> Held:
        """See ``strategy.Moments``."""
        return Held(attempt, self._hold, self._delay_ms, self._opened)

    async def run(self) -> None:
        """Until stdin ends."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        try:
            while line := await reader.readline():
                command = json.loads(line)
                await getattr(self, f"do_{command.pop('do')}")(**command)
        finally:
            await self._close()

    async def do_open(self, strategy: str, stores: dict[str, Any]) -> None:
        await self._close()
        self._strategy = await strategy_called(strategy)(Stores(**stores)).__aenter__()
        say(**{"is": "opened"})

    async def do_serve(self, hold: Collection[str], delay_ms: float) -> None:
        assert self._strategy is not None
        is_new = not self._tasks
        self._hold, self._delay_ms, self._opened = hold, delay_ms, asyncio.Event()
        if is_new:
            self._start(self._strategy.serve(self))
        say(**{"is": "serving"})

    async def do_buy(
        self, item: str, attempts: list[str], hold: Collection[str], delay_ms: float, after_ms: float
    ) -> None:
        self._opened = asyncio.Event()
        for attempt in attempts:
            self._start(self._buy(item, attempt, Held(attempt, hold, delay_ms, self._opened), after_ms / 1000))

    async def do_go(self) -> None:
        self._opened.set()

    async def _buy(self, item: str, attempt: str, moment: Held, after_s: float) -> None:
        assert self._strategy is not None
        await asyncio.sleep(after_s)
        began, word, is_deadlock = time.monotonic_ns(), Told.UNKNOWN, False
        moment.note("asks")
        try:
            word = Told.SOLD if await self._strategy.buy(item, attempt, moment) else Told.REFUSED
        except Exception as error:  # noqa: BLE001 - whatever it is, the buyer hears nothing
            is_deadlock = isinstance(error, asyncpg.DeadlockDetectedError)
            moment.note(f"no answer: {type(error).__name__}: {error}")
        moment.note(f"told: {word}")
        ms = (time.monotonic_ns() - began) / 1e6
        say(**{"is": "told", "attempt": attempt, "word": word, "ms": ms, "deadlock": is_deadlock})

    def _start(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a task of the storm ended", "exception": error}
            )
            os._exit(1)  # the storm is told, and does not wait for what nobody does any more

    async def _close(self) -> None:
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._strategy is not None:
            with contextlib.suppress(OSError):
                await self._strategy.__aexit__()
            self._strategy = None


if __name__ == "__main__":
    asyncio.run(Client().run())
