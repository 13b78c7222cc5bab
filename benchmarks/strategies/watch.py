"""What is heard of an item while its trial lasts, and how its buyers are told what to do."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from benchmarks.strategies.field import Field
from benchmarks.strategies.oracle import Told
from benchmarks.strategies.strategy import Strategy

TOLD_SECONDS = 240.0  # until everybody has an answer; longer than a buyer of ours tries


class Step(NamedTuple):
    """A line of the trace."""

    ns: int
    process: int
    attempt: str
    step: str


class Watch:
    """What is heard of one item while its trial lasts."""

    def __init__(self, field: Field, strategy: Strategy, item: str) -> None:
        self.field, self.strategy, self.item = field, strategy, item
        self.told: dict[str, Told] = {}
        self.asked: dict[str, int] = {}  # attempt → its process
        self.held: dict[str, int] = {}  # attempt → the process that holds it
        self.steps: list[Step] = []
        self.ms: list[float] = []
        self.again = self.deadlocks = 0

    def note(self, step: str, process: int = -1) -> None:
        """What the storm did, in the trace."""
        self.steps.append(Step(time.monotonic_ns(), process, self.name("-"), step))

    def name(self, who: object) -> str:
        """An attempt's."""
        return f"{self.item}-{who}"

    def buy(
        self,
        number: int,
        attempts: Sequence[str],
        hold: Sequence[str] = (),
        delay_ms: float = 0,
        after_ms: float = 0,
    ) -> None:
        """A process is told to."""
        for attempt in attempts:
            self.asked[attempt] = number
            self.told.pop(attempt, None)
        self.field.clients[number].tell(
            "buy", item=self.item, attempts=list(attempts), hold=list(hold), delay_ms=delay_ms, after_ms=after_ms
        )

    async def until(self, happened: Callable[[], bool], within_s: float = TOLD_SECONDS) -> bool:
        """Listen until it has, or the time is up; has it?"""
        ends = time.monotonic() + within_s
        while not happened():
            left = ends - time.monotonic()
            if left <= 0:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, 1.0)):
                    self.hear(*await self.field.heard.get())
        return True

    async def all_told(self, attempts: Sequence[str] | None = None) -> None:
        """Raises ``RuntimeError`` when somebody never is."""
        waited = list(self.asked) if attempts is None else attempts
        if not await self.until(lambda: all(attempt in self.told for attempt in waited)):
            missing = [attempt for attempt in waited if attempt not in self.told]
            raise RuntimeError(f"{self.strategy.name()}: no answer to {missing} within {TOLD_SECONDS:.0f} s")

    async def opened(self, *numbers: int) -> None:
        """These processes are connected anew."""
        await self.field.opened(numbers, self.hear)

    async def kill(self, number: int, hold: Sequence[str] = (), delay_ms: float = 0) -> list[str]:
        """Kill -9 a client and start it again; whose buyers were waiting with it, and now know nothing."""
        self.note("killed -9", number)
        await self.field.restarted(number, self.hear)
        self.note("started again", number)
        self.held = {attempt: by for attempt, by in self.held.items() if by != number}
        if self.strategy.serves and number == self.field.server:
            await self.field.served(hold, delay_ms, self.hear)
        lost = [attempt for attempt, by in self.asked.items() if by == number and attempt not in self.told]
        self.told |= dict.fromkeys(lost, Told.UNKNOWN)
        return lost

    def go(self) -> None:
        """Nobody is held any more."""
        self.held.clear()
        for client in self.field.clients:
            client.tell("go")

    def hear(self, number: int, said: dict[str, Any]) -> None:
        """One line of a client's. Raises ``RuntimeError`` when it was its last."""
        what, attempt = said["is"], said.get("attempt", "")
        if what == "gone":
            raise RuntimeError(f"client {number} ended by itself")
        if not attempt.startswith(f"{self.item}-"):
            return  # an earlier trial's
        if what == "step":
            self.steps.append(Step(said["ns"], number, attempt, said["step"]))
        elif what == "held":
            self.held[attempt] = number
        elif what == "again":
            self.again += 1
        elif what == "told":
            self.told[attempt] = Told(said["word"])
            self.ms.append(said["ms"])
            self.deadlocks += said["deadlock"]


class Together:
    """Several watches on one field."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._watches = watches

    def hear(self, number: int, said: dict[str, Any]) -> None:
        """See ``Watch.hear``: each takes what is its own."""
        for watch in self._watches:
            watch.hear(number, said)

    async def all_told(self) -> None:
        """Raises ``RuntimeError`` when somebody never is."""
        try:
            async with asyncio.timeout(TOLD_SECONDS):
                while any(len(watch.told) < len(watch.asked) for watch in self._watches):
                    self.hear(*await self._watches[0].field.heard.get())
        except TimeoutError:
            name = self._watches[0].strategy.name()
            raise RuntimeError(f"{name}: somebody in a race has no answer within {TOLD_SECONDS:.0f} s") from None
