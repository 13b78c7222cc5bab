"""One trial: a fresh item, an attack or a crowd, a last call, and the oracle's word."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any, NamedTuple

from benchmarks.strategies.attacks import how, kill_somebody
from benchmarks.strategies.engine import Engine
from benchmarks.strategies.field import PROCESSES, Field, Hear
from benchmarks.strategies.oracle import Found, Kind, Ledger, Told, judge
from benchmarks.strategies.strategy import Attack, Strategy
from benchmarks.strategies.watch import Step, Together, Watch


class Crowd(NamedTuple):
    """How large a storm is. ``spread_ms``: within which everybody comes, drawn by lot; 0: at once."""

    stock: int
    buyers: int
    spread_ms: int = 0


RUSH, RACE = Crowd(6, 24), Crowd(1, 4, 800)
SIDE_BY_SIDE = 20  # races at a time: a hundred buyers a second, by whom no store is busy


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


async def attack(field: Field, strategy: Strategy, what: Attack, number: int, patience_s: float) -> Trial:
    """One attack on one strategy. Raises ``RuntimeError`` when somebody never has an answer."""
    stock = 1 if what in {Attack.MEET, Attack.DIE} else 2
    async with _watching(field, strategy, f"{what}-{number}-{time.monotonic_ns():x}", stock) as watch:
        buyers = [watch.name(n) for n in range(PROCESSES)]
        began = time.monotonic()
        arranged = await how(what, strategy)(watch, buyers, patience_s)
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
                await kill_somebody(watch, delay_ms)
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
