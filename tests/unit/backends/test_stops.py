"""A server of asyncio_redis that is told to stop: whoever comes late is not kept, and what was opened is closed."""

import asyncio
import signal
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Self

import pytest

from flashsale.authority.client import CALL_SECONDS, Authority, AuthorityUnavailable
from flashsale.backends.asyncio_redis import app
from flashsale.backends.asyncio_redis.watch import Watch
from flashsale.settings import Settings
from tests.patience import PATIENCE_SECONDS

WAIT_SECONDS = 10 * PATIENCE_SECONDS  # so that whoever is answered within a test's patience did not wait in vain

Wait = Callable[[Watch], Awaitable[None]]
both_waits = pytest.mark.parametrize(
    "wait",
    [
        lambda watch: watch.wait_change(uuid.uuid4(), 1, WAIT_SECONDS),
        lambda watch: watch.wait_decided(uuid.uuid4(), WAIT_SECONDS),
    ],
    ids=["change", "decided"],
)


class Quiet(Authority):
    """Has no news."""

    def __init__(self) -> None:
        self.asked = 0

    async def versions(self, purchases: Iterable[uuid.UUID]) -> dict[uuid.UUID, int]:  # noqa: ARG002
        self.asked += 1
        return {}

    async def verdicts(self, rids: Iterable[uuid.UUID]) -> set[uuid.UUID]:  # noqa: ARG002
        self.asked += 1
        return set()


@both_waits
async def test_a_stop_answers_who_waits(wait: Wait) -> None:
    authority = Quiet()
    watch = Watch(authority)
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(wait(watch))  # type: ignore[arg-type]
        while not authority.asked:
            await asyncio.sleep(0.01)
        watch.close()


@both_waits
async def test_who_comes_to_wait_during_a_stop_is_answered_at_once_and_nothing_is_polled(wait: Wait) -> None:
    authority = Quiet()
    watch = Watch(authority)
    watch.close()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await wait(watch)
    assert not authority.asked


class Pools(Authority):
    """PostgreSQL goes away after so many pools, and then the server is told to stop."""

    until = 0
    opened = 0
    closed = 0

    def __init__(self) -> None:
        pass

    @classmethod
    async def connect(cls, url: str, size: int, call_s: float = CALL_SECONDS) -> Self:  # noqa: ARG003
        if cls.opened == cls.until:
            signal.raise_signal(signal.SIGTERM)
            raise AuthorityUnavailable
        cls.opened += 1
        return cls()

    async def close(self) -> None:
        type(self).closed += 1


@pytest.mark.parametrize("until", [0, 1, 2])
async def test_a_stop_before_postgresql_has_answered_closes_what_is_open(
    monkeypatch: pytest.MonkeyPatch, until: int
) -> None:
    for name, value in {"until": until, "opened": 0, "closed": 0}.items():
        monkeypatch.setattr(Pools, name, value)
    monkeypatch.setattr(app, "Authority", Pools)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await app.serve(Settings.load({}))
    assert (Pools.opened, Pools.closed) == (until, until)
