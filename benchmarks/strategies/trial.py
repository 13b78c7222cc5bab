"""One trial: a fresh item, an attack or a crowd, a last call, and the oracle's word."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from random import Random
from typing import Any, NamedTuple

from benchmarks.strategies.client import ACTED, CHECKED
from benchmarks.strategies.engine import Arming, Engine
from benchmarks.strategies.field import PROCESSES, Field, Hear
from benchmarks.strategies.oracle import Found, Kind, Ledger, Told, judge
from benchmarks.strategies.strategy import Attack, Strategy

TOLD_SECONDS = 240.0  # until everybody has an answer; longer than a buyer of ours tries
PATIENCE_SECONDS = 0.25  # for an attack to come about; doubled when it should have and did not
PATIENCE_SECONDS_MAX = 60.0
LOOK_SECONDS = 0.02


class Crowd(NamedTuple):
    """How large a storm is. ``spread_ms``: within which everybody comes, drawn by lot; 0: at once."""

    stock: int
    buyers: int
    spread_ms: int = 0


RUSH, RACE = Crowd(6, 24), Crowd(1, 4, 800)
SIDE_BY_SIDE = 20  # races at a time: a hundred buyers a second, by whom no store is busy


class Step(NamedTuple):
    """A line of the trace."""

    ns: int
    process: int
    attempt: str
    step: str


class Trial(NamedTuple):
    """What came of one. ``arranged``: the attack came about as meant."""

    item: str
    ledger: Ledger
    found: Found
    arranged: bool
    again: int
    deadlocks: int
    seconds: float
    ms: Sequence[float]
    steps: Sequence[Step]

    def trace(self, kind: Kind, attack: Attack, number: int) -> dict[str, Any]:
        """For the result; see the package."""
        short = len(self.item) + 1  # attempts are named after the item
        first = min((step.ns for step in self.steps), default=0)
        return {
            "kind": kind,
            "attack": attack,
            "trial": number,
            "units": self.found.wrongs[kind],
            "stock": self.ledger.stock,
            "told": {attempt[short:]: word for attempt, word in self.ledger.told.items()},
            "recorded": [attempt[short:] for attempt in self.ledger.finally_recorded],
            "steps": [
                {
                    "ms": round((step.ns - first) / 1e6, 2),
                    "process": step.process,
                    "attempt": step.attempt[short:],
                    "step": step.step,
                }
                for step in sorted(self.steps)
            ],
        }


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
        self.steps.append(Step(time.monotonic_ns(), number, self.name("-"), "killed -9"))
        await self.field.restarted(number, self.hear)
        self.steps.append(Step(time.monotonic_ns(), number, self.name("-"), "started again"))
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
        async with asyncio.timeout(TOLD_SECONDS):
            while any(len(watch.told) < len(watch.asked) for watch in self._watches):
                self.hear(*await self._watches[0].field.heard.get())


async def attack(field: Field, strategy: Strategy, what: Attack, number: int, patience_s: float) -> Trial:
    """One attack on one strategy. Raises ``RuntimeError`` when somebody never has an answer."""
    stock = 1 if what in {Attack.MEET, Attack.DIE} else 2
    async with _watching(field, strategy, f"{what}-{number}-{time.monotonic_ns():x}", stock) as watch:
        buyers = [watch.name(n) for n in range(PROCESSES)]
        how = _OF_OURS if isinstance(strategy, Engine) else _OF_OTHERS
        began = time.monotonic()
        arranged = await how[what](watch, buyers, patience_s)
        await watch.all_told()
        return await _judged(watch, stock, time.monotonic() - began, arranged=arranged)


async def storm(field: Field, strategy: Strategy, number: int, delay_ms: float, *, killed: bool) -> Trial:
    """A rush, held up between check and act; when ``killed``, a process of it dies in the middle and its buyers come again."""
    async with _watching(field, strategy, f"storm-{number}-{time.monotonic_ns():x}", RUSH.stock) as watch:
        async with _delayed(field, strategy, delay_ms, watch.hear):
            began = time.monotonic()
            for process in range(PROCESSES):
                watch.buy(process, [watch.name(n) for n in range(process, RUSH.buyers, PROCESSES)], delay_ms=delay_ms)
            if killed:
                await watch.until(lambda: len(watch.told) >= RUSH.buyers // 3)
                await _kill_somebody(watch, delay_ms)
            await watch.all_told()
            seconds = time.monotonic() - began
        return await _judged(watch, RUSH.stock, seconds, arranged=True)


async def races(field: Field, strategy: Strategy, chance: Random, delay_ms: float) -> list[Trial]:
    """Several items side by side, each with one unit and a buyer per process who comes when chance will have it."""
    mark = f"{time.monotonic_ns():x}"
    async with AsyncExitStack() as stack:
        watching = [_watching(field, strategy, f"race-{n}-{mark}", RACE.stock) for n in range(SIDE_BY_SIDE)]
        watches = await asyncio.gather(*map(stack.enter_async_context, watching))
        everybody = Together(watches)
        async with _delayed(field, strategy, delay_ms, everybody.hear):
            began = time.monotonic()
            for watch in watches:
                for number in range(RACE.buyers):
                    after_ms = chance.uniform(0, RACE.spread_ms)
                    watch.buy(number % PROCESSES, [watch.name(number)], delay_ms=delay_ms, after_ms=after_ms)
            await everybody.all_told()
            seconds = time.monotonic() - began
        return [await _judged(watch, RACE.stock, seconds, arranged=True) for watch in watches]


@asynccontextmanager
async def _delayed(field: Field, strategy: Strategy, delay_ms: float, hear: Hear) -> AsyncIterator[None]:
    if strategy.serves:
        await field.served((), delay_ms, hear)
    field.way.delay_ms = delay_ms if strategy.is_ours else 0
    try:
        yield
    finally:
        field.way.delay_ms = 0


@asynccontextmanager
async def _watching(field: Field, strategy: Strategy, item: str, stock: int) -> AsyncIterator[Watch]:
    await strategy.prepare(item, stock)
    if isinstance(strategy, Engine):
        await field.gate_of(item)
    yield Watch(field, strategy, item)


async def _judged(watch: Watch, stock: int, seconds: float, *, arranged: bool) -> Trial:
    recorded, ms, again = await watch.strategy.recorded(watch.item), list(watch.ms), watch.again
    strangers: list[str] = []
    while len(strangers) < stock + PROCESSES:
        strangers.append(watch.name(f"last-{len(strangers)}"))
        watch.buy(0, strangers[-1:])
        await watch.all_told(strangers)
        if watch.told[strangers[-1]] is not Told.SOLD:
            break
    ledger = Ledger(stock, watch.told, recorded, await watch.strategy.recorded(watch.item), frozenset(strangers))
    return Trial(watch.item, ledger, judge(ledger), arranged, again, watch.deadlocks, seconds, ms, watch.steps)


# --- attacks on strategies whose processes are the clients


async def _meet(watch: Watch, buyers: Sequence[str], patience_s: float) -> bool:
    hold = (CHECKED,)
    if watch.strategy.serves:
        await watch.field.served(hold, 0, watch.hear)
    for number, buyer in enumerate(buyers):
        watch.buy(number, [buyer], hold)
    await watch.until(lambda: len(watch.held) + len(watch.told) == len(buyers), patience_s)
    have_met = len(watch.held) == len(buyers)
    watch.go()
    return have_met


async def _die(watch: Watch, buyers: Sequence[str], patience_s: float) -> bool:
    first, *others = buyers
    await _first_is_held(watch, first, CHECKED)
    for number, buyer in enumerate(others, 1):
        watch.buy(number, [buyer])
    have_answers = await watch.until(lambda: all(buyer in watch.told for buyer in others), patience_s)
    if first not in watch.held:
        return False  # there is no such moment
    await watch.kill(watch.held[first])
    return have_answers


async def _again(watch: Watch, buyers: Sequence[str], _: float) -> bool:
    first, *others = buyers
    await _first_is_held(watch, first, ACTED)
    if has_moment := first in watch.held:
        if await watch.kill(watch.held[first]):
            watch.buy(1, [first])  # it has heard nothing, and asks another server
        await watch.all_told([first])
    for number, buyer in enumerate(others, 1):
        watch.buy(number, [buyer])
    return has_moment


async def _first_is_held(watch: Watch, first: str, moment: str) -> None:
    if watch.strategy.serves:
        await watch.field.served((moment,), 0, watch.hear)
    watch.buy(0, [first], (moment,))
    if not await watch.until(lambda: first in watch.held or first in watch.told):
        raise RuntimeError(f"{watch.strategy.name()}: the first buyer neither gets to {moment} nor has an answer")


async def _lose(watch: Watch, buyers: Sequence[str], _: float) -> bool:
    await watch.field.redis.save()
    for number, buyer in enumerate(buyers):
        watch.buy(number, [buyer])
    await watch.all_told()
    await watch.field.redis.kill()
    watch.steps.append(
        Step(time.monotonic_ns(), -1, watch.name("-"), "Redis is killed -9, and comes back with its old file")
    )
    await watch.field.redis.start()
    if not watch.strategy.is_ours:
        await watch.opened(*range(PROCESSES))
        await watch.field.reopened()
    for number in range(PROCESSES):
        watch.buy(number, [watch.name(f"then-{number}")])
    return True


async def _kill_somebody(watch: Watch, delay_ms: float) -> None:
    if isinstance(watch.strategy, Engine):
        victim = watch.field.own(watch.strategy.behind[0] if watch.strategy.behind else watch.strategy.servers[0])[0]
        await victim.kill()
        await victim.start()
        await victim.ready()
        return
    number = watch.field.server if watch.strategy.serves else 1
    lost = await watch.kill(number, delay_ms=delay_ms)
    if lost:
        watch.buy(number, lost, delay_ms=delay_ms)


# --- attacks on ours, whose processes are their own


async def _meet_ours(watch: Watch, buyers: Sequence[str], patience_s: float) -> bool:
    async with _armed(watch, Attack.MEET) as armed:
        for number, buyer in enumerate(buyers):
            watch.buy(number, [buyer])
        ends = time.monotonic() + 4 * patience_s  # it is a way of several processes to the moment
        while not (have_met := all(one.is_standing for one in armed)) and time.monotonic() < ends:
            await watch.until(lambda: False, LOOK_SECONDS)
        while len(watch.told) < len(buyers):  # one that was not there yet stops when it comes
            for one in armed:
                one.go_on()
            await watch.until(lambda: len(watch.told) == len(buyers), 10 * LOOK_SECONDS)
    return have_met


async def _die_ours(watch: Watch, buyers: Sequence[str], _: float) -> bool:
    return await _killed_ours(watch, Attack.DIE, buyers, [])


async def _again_ours(watch: Watch, buyers: Sequence[str], _: float) -> bool:
    return await _killed_ours(watch, Attack.AGAIN, buyers[:1], buyers[1:])


async def _killed_ours(watch: Watch, what: Attack, first: Sequence[str], then: Sequence[str]) -> bool:
    # Whoever dies is started again unarmed; the buyer, who is alive, asks again by itself.
    async with _armed(watch, what) as armed:
        for number, buyer in enumerate(first):
            watch.buy(number, [buyer])
            if not number:
                await watch.until(lambda: any(one.is_dead for one in armed) or bool(watch.told), TOLD_SECONDS)
        have_died = any(one.is_dead for one in armed)
        while len(watch.told) < len(first):
            for one in armed:
                if one.is_dead:
                    have_died = True
                    watch.steps.append(
                        Step(time.monotonic_ns(), -1, watch.name("-"), f"{one.role} killed itself; started again")
                    )
                    await one.start()
            await watch.until(lambda: len(watch.told) == len(first), LOOK_SECONDS)
    for number, buyer in enumerate(then, len(first)):
        watch.buy(number, [buyer])
    return have_died


@asynccontextmanager
async def _armed(watch: Watch, what: Attack) -> AsyncIterator[list[Any]]:
    assert isinstance(watch.strategy, Engine)
    arming: Arming = watch.strategy.arming[what]
    chosen = watch.field.own(arming.role)[: arming.processes]
    await watch.field.again(chosen, arming.point)
    yield chosen
    await watch.field.again(chosen)


How = Callable[[Watch, Sequence[str], float], Awaitable[bool]]
_OF_OTHERS: dict[Attack, How] = {Attack.MEET: _meet, Attack.DIE: _die, Attack.AGAIN: _again, Attack.LOSE: _lose}
_OF_OURS: dict[Attack, How] = {
    Attack.MEET: _meet_ours,
    Attack.DIE: _die_ours,
    Attack.AGAIN: _again_ours,
    Attack.LOSE: _lose,
}


def middle(values: Sequence[float]) -> float:
    """The median; 0 of nothing."""
    return statistics.median(values) if values else 0.0
