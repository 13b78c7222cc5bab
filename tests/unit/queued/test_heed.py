"""Who is told to end ends, though the driver kept it to itself: asyncio.wait_for before Python 3.12 forgets a cancellation."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from flashsale.payments.consumer import Acks
from flashsale.payments.consumer import Consumer as PaymentsConsumer
from flashsale.payments.queues import BrokerUnavailable
from flashsale.queued.teller import Teller
from flashsale.queued.worker import SessionLost, Shard, Worker
from flashsale.upkeep.rounds import run_rounds
from flashsale.webhooks.consumer import Consumer as WebhooksConsumer
from tests.patience import PATIENCE_SECONDS


class Driver:
    """Waits for an answer that comes in the turn of the first cancellation."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()

    async def swallows(self, *_: object, **__: object) -> Any:
        forgets = [] if self.is_asked.is_set() else [asyncio.CancelledError]
        self.is_asked.set()
        with contextlib.suppress(*forgets):
            await asyncio.Event().wait()
        return SimpleNamespace(get_exchange=_nothing)

    def loses(self, why: Exception) -> Callable[..., Coroutine[Any, Any, None]]:
        """The same, and then the broker is lost."""

        async def session(*_: object) -> None:
            await self.swallows()
            raise why

        return session


async def _nothing(*_: object, **__: object) -> Any:
    return SimpleNamespace(consume=_nothing, number=1, on_consumer_cancel_callbacks=set())


def teller(driver: Driver) -> Coroutine[Any, Any, None]:
    return Teller().run(SimpleNamespace(channel=driver.swallows))  # type: ignore[arg-type] # as much of one as it asks


def shard(driver: Driver) -> Coroutine[Any, Any, None]:
    channel = SimpleNamespace(
        set_qos=driver.swallows, close_callbacks=set(), get_underlay_channel=_nothing, get_queue=_nothing
    )
    one = Shard(SimpleNamespace(), channel, "checkout.0", Teller())  # type: ignore[arg-type] # the same
    return one.run(SimpleNamespace(take=lambda *_: None))  # type: ignore[arg-type] # the same


def worker(driver: Driver) -> Coroutine[Any, Any, None]:
    one = Worker(SimpleNamespace(ping=_nothing), "amqp://nowhere", SimpleNamespace(), 1)  # type: ignore[arg-type] # the same
    one._session = driver.loses(SessionLost("gone"))  # type: ignore[method-assign]
    return one.run()


def acks(driver: Driver) -> Coroutine[Any, Any, None]:
    one = Acks(SimpleNamespace(basic_ack=driver.swallows))  # type: ignore[arg-type] # the same
    one.add(1)
    return one.run()


def payments(driver: Driver) -> Coroutine[Any, Any, None]:
    one = PaymentsConsumer("", SimpleNamespace(ping=_nothing), SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type] # the same
    one._session = driver.loses(BrokerUnavailable("gone"))  # type: ignore[method-assign]
    return one.run()


def webhooks(driver: Driver) -> Coroutine[Any, Any, None]:
    one = WebhooksConsumer("", SimpleNamespace(), ())  # type: ignore[arg-type] # the same
    one._session = driver.loses(BrokerUnavailable("gone"))  # type: ignore[method-assign]
    return one.run()


def upkeep(driver: Driver) -> Coroutine[Any, Any, None]:
    async def work() -> float:
        await driver.swallows()
        return 0.0

    return run_rounds("outbox", work)


@pytest.mark.parametrize("begun", [teller, shard, worker, acks, payments, webhooks, upkeep])
async def test_who_is_told_to_end_ends_though_the_driver_forgets_it(
    begun: Callable[[Driver], Coroutine[Any, Any, None]],
) -> None:
    driver = Driver()
    task = asyncio.create_task(begun(driver))
    await asyncio.wait_for(driver.is_asked.wait(), PATIENCE_SECONDS)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5)  # what goes on instead waits for ever
    task.cancel()
    assert done, "it goes on as if nobody had asked"
    assert task.cancelled()


async def test_who_was_told_nothing_goes_on_after_a_session_that_failed_while_it_ended() -> None:
    sessions = 0
    are_enough = asyncio.Event()

    async def session() -> None:
        nonlocal sessions
        sessions += 1
        if sessions == 3:
            are_enough.set()

        async def lose() -> None:
            await asyncio.sleep(0)  # until the group ends, and waits
            raise SessionLost("gone")

        async with asyncio.TaskGroup() as group:
            group.create_task(lose())

    one = Worker(SimpleNamespace(ping=_nothing), "amqp://nowhere", SimpleNamespace(), 1)  # type: ignore[arg-type] # as much of one as it asks
    one._session = session  # type: ignore[method-assign]
    task = asyncio.create_task(one.run())
    enough = asyncio.create_task(are_enough.wait())
    await asyncio.wait((task, enough), timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    enough.cancel()
    task.cancel()
    await asyncio.wait({task})
    assert sessions == 3
