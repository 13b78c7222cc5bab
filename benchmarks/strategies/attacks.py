"""How each attack is brought about. Everything waits for what is said, and a time bounds only what may never be said.

Each of them is told who its buyers are, one per process, and for how long to wait for what may not come; it answers whether the
attack came about as meant.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType

from benchmarks.strategies.client import ACTED, CHECKED
from benchmarks.strategies.engine import Engine
from benchmarks.strategies.field import PROCESSES
from benchmarks.strategies.processes import Own
from benchmarks.strategies.strategy import Attack, Strategy
from benchmarks.strategies.watch import TOLD_SECONDS, Watch

LOOK_SECONDS = 0.02
How = Callable[[Watch, Sequence[str], float], Awaitable[bool]]


def how(what: Attack, strategy: Strategy) -> How:
    """The way to attack this strategy so."""
    return (_ON_OURS if strategy.is_ours else _ON_OTHERS)[what]


# --- strategies whose processes are the clients


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
    watch.note("Redis is killed -9, and comes back with its old file")
    await watch.field.redis.start()
    if not watch.strategy.is_ours:
        await watch.opened(*range(PROCESSES))
        await watch.field.reopened()
    for number in range(PROCESSES):
        watch.buy(number, [watch.name(f"then-{number}")])
    return True


async def kill_somebody(watch: Watch, delay_ms: float) -> None:
    """Kill -9 one process in the middle of a crowd, whose buyers come again."""
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


# --- ours, whose processes are their own


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
                    watch.note(f"{one.role} killed itself; started again")
                    await one.start()
            await watch.until(lambda: len(watch.told) == len(first), LOOK_SECONDS)
    for number, buyer in enumerate(then, len(first)):
        watch.buy(number, [buyer])
    return have_died


@asynccontextmanager
async def _armed(watch: Watch, what: Attack) -> AsyncIterator[list[Own]]:
    assert isinstance(watch.strategy, Engine)
    arming = watch.strategy.arming[what]
    chosen = watch.field.own(arming.role)[: arming.processes]
    await watch.field.again(chosen, arming.point)
    yield chosen
    await watch.field.again(chosen)


_ON_OTHERS: Mapping[Attack, How] = MappingProxyType(
    {Attack.MEET: _meet, Attack.DIE: _die, Attack.AGAIN: _again, Attack.LOSE: _lose}
)
_ON_OURS: Mapping[Attack, How] = MappingProxyType(
    {Attack.MEET: _meet_ours, Attack.DIE: _die_ours, Attack.AGAIN: _again_ours, Attack.LOSE: _lose}
)
