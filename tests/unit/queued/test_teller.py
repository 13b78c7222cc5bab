"""The feed may lose anything and may hold nobody up."""

import asyncio
import uuid
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aio_pika.abc import AbstractConnection

from flashsale.queued import feed, teller
from tests.patience import PATIENCE_SECONDS


def told(number: int) -> list[feed.Told]:
    return [feed.Told(uuid.UUID(int=number), "held", uuid.UUID(int=number), 1)]


class Broker:
    """One exchange, which may be stuck."""

    def __init__(self) -> None:
        self.flows = asyncio.Event()
        self.heard: list[list[feed.Told]] = []

    async def channel(self, *, publisher_confirms: bool) -> Any:
        assert not publisher_confirms
        return SimpleNamespace(get_exchange=self.get_exchange)

    async def get_exchange(self, _: str, *, ensure: bool) -> Any:
        assert not ensure
        return SimpleNamespace(publish=self.publish)

    async def publish(self, message: Any, **options: Any) -> None:
        assert (options["routing_key"], options["mandatory"]) == ("", False)
        async with asyncio.timeout(options["timeout"]):
            await self.flows.wait()
        self.heard.append(feed.decode(message.body))


async def test_a_stuck_broker_loses_news_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teller, "PUBLISH_SECONDS", 0.1)
    broker, telling = Broker(), teller.Teller()
    task = asyncio.create_task(telling.run(cast("AbstractConnection", broker)))
    for number in range(2 * teller.UNTOLD_MAX):
        telling.tell(told(number))
    await asyncio.sleep(0.3)  # some of them are given up on meanwhile
    assert not task.done()
    broker.flows.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not broker.heard or broker.heard[-1] != told(teller.UNTOLD_MAX - 1):
            await asyncio.sleep(0.01)
    assert len(broker.heard) < teller.UNTOLD_MAX
    telling.tell(told(7))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while broker.heard[-1] != told(7):
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
