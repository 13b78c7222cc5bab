# Who is killed when, and what becomes of a victim that is not up at its moment.
from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from flashsale.settings import ASYNCIO_REDIS
from flashsale.stack import soak
from flashsale.stack.exits import StackError
from flashsale.stack.options import SoakOptions
from flashsale.stack.running import Stack
from flashsale.stack.soak import Kill


@dataclass(frozen=True)
class Spec:
    index: int = 0


@dataclass
class Victim:
    """A process that gets ready after it was asked for some times."""

    role: str
    asked_before_ready: int
    spec: Spec = field(default_factory=Spec)
    ready_at: float = field(default_factory=lambda: time.time() - soak.SERVES_S)

    @property
    def state(self) -> str:
        self.asked_before_ready -= 1
        return "ready" if self.asked_before_ready < 0 else "starting"


class StubStack:
    """Kills whoever is ready, as Stack does, and remembers it."""

    def __init__(self, *victims: Victim) -> None:
        self.processes = victims
        self.killed: list[str] = []

    async def kill(self, role: str, index: int) -> int:
        if not any(v.role == role and v.spec.index == index and v.asked_before_ready <= 0 for v in self.processes):
            raise StackError("not ready")
        self.killed.append(role)
        return 4711


class Away(StubStack):
    """Whoever was killed is ready again 0.4 s later."""

    async def kill(self, role: str, index: int) -> int:
        pid = await super().kill(role, index)
        for victim in self.processes:
            victim.ready_at = time.time() + 0.4
        return pid


async def storm(stack: StubStack, *kills: Kill) -> list[dict[str, Any]]:
    return await soak._storm(cast("Stack", stack), kills, lambda _: None)


def test_counted_kills_are_as_many_as_asked_each_role_in_turn_and_apart() -> None:
    times = {"asyncio_redis": 200, "redis": 50}
    victims = [("asyncio_redis", 0), ("asyncio_redis", 1), ("redis", 0), ("upkeep", 0)]
    kills = soak.counted(7, times, victims)
    assert kills == soak.counted(7, times, victims) != soak.counted(8, times, victims)
    assert Counter(kill.role for kill in kills) == times
    for role, processes in (("asyncio_redis", 2), ("redis", 1)):
        numbers = [kill.number for kill in kills if kill.role == role]
        assert numbers == [place % processes for place in range(len(numbers))]
    low, high = soak.COUNTED_GAP_S
    gaps = [later.at_s - sooner.at_s for sooner, later in itertools.pairwise(kills)]
    assert all(low - 0.01 <= gap <= high + 0.01 for gap in gaps)
    assert all(kill.is_counted for kill in kills)
    assert "redis" in {kill.role for kill in kills[:20]}, "one after the other would be two storms"


def test_shoppers_arrive_as_long_as_processes_are_killed() -> None:
    asked = SoakOptions(
        backend=ASYNCIO_REDIS, seconds=120, seed=1, shoppers=1, kill={"asyncio_redis": 200, "redis": 50}, json=True
    )
    last = soak.counted(1, asked.counted, [("asyncio_redis", 0), ("redis", 0)])[-1]
    assert last.at_s < soak.arrival_seconds(asked) < 2 * last.at_s
    few = replace(asked, kill={"asyncio_redis": 3, "upkeep": None})
    assert few.counted == {"asyncio_redis": 3}
    assert soak.arrival_seconds(few) == 120


async def test_a_counted_victim_is_waited_for_and_any_other_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "POLL_S", 0.0)
    stack = StubStack(Victim("redis", 20), Victim("upkeep", 20))
    done = await storm(stack, Kill(0, "upkeep", 0), Kill(0, "redis", 0, is_counted=True))
    assert stack.killed == ["redis"]
    assert [kill["pid"] for kill in done] == [None, 4711]
    assert soak.missing({"redis": 1}, [kill for kill in done if kill["pid"]]) == {}


async def test_who_waits_puts_off_the_kills_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "POLL_S", 0.05)
    stack = StubStack(Victim("redis", 4), Victim("upkeep", 0))
    first, second = await storm(stack, Kill(0, "redis", 0, is_counted=True), Kill(0.3, "upkeep", 0))
    assert first["after_s"] >= 0.15
    assert second["after_s"] - first["after_s"] >= 0.25


async def test_a_victim_has_served_before_it_dies_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "SERVES_S", 0.5)
    victim = Victim("redis", 0, ready_at=time.time())
    (kill,) = await storm(StubStack(victim), Kill(0, "redis", 0, is_counted=True))
    assert kill["pid"] is not None
    assert time.time() - victim.ready_at >= 0.5


async def test_a_victim_has_served_as_long_as_it_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "SERVES_S", 0.0)
    monkeypatch.setattr(soak, "POLL_S", 0.01)
    kills = [Kill(0, "redis", 0), Kill(0, "redis", 0, is_counted=True)]
    first, again = await storm(Away(Victim("redis", 0)), *kills)
    assert again["pid"] is not None
    assert again["after_s"] - first["after_s"] >= 0.7


async def test_a_victim_that_never_comes_back_is_missing_from_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "UP_WITHIN_S", 0.1)
    stack = StubStack(Victim("redis", 1_000_000))
    done = await storm(stack, Kill(0, "redis", 0, is_counted=True))
    assert [kill["pid"] for kill in done] == [None]
    killed = [kill for kill in done if kill["pid"] is not None]
    assert soak.missing({"redis": 1, "upkeep": 2}, killed) == {"redis": 1, "upkeep": 2}


async def test_a_storm_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "STORM_S_MAX", 0.05)
    stack = StubStack(Victim("redis", 0))
    done = await storm(stack, Kill(0, "redis", 0, is_counted=True), Kill(0.1, "redis", 0, is_counted=True))
    assert len(done) == 1
    killed = {"role": "redis", "counted": True}
    assert soak.missing({"redis": 2}, [killed]) == {"redis": 1}
    assert soak.missing({"redis": 1}, [killed | {"counted": False}]) == {"redis": 1}, "by chance is not by count"
