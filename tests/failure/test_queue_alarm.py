"""A broker with a memory alarm takes nothing new and says so; what it has is decided all the same."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flashsale.queued import topology
from flashsale.settings import Settings
from flashsale.stack.running import Stack, running_stack
from tests.patience import PATIENCE_SECONDS
from tests.queued_shop import Shopper, shop_on
from tests.stages import staged


class Broker:
    """A RabbitMQ of this test's own, with its operator."""

    def __init__(self, stack: Stack) -> None:
        self.url = stack.urls.rabbitmq
        (self._spec,) = (process.spec for process in stack.processes if process.role == "rabbitmq")

    async def alarm(self, *, is_on: bool) -> None:
        """Memory is short, or is not; takes effect before it returns."""
        await self._control("set_vm_memory_high_watermark", "absolute", "1" if is_on else "1GB")

    async def messages(self) -> int:
        """How many attempts it still has, those in a worker's hand included."""
        listed = await self._control("list_queues", "name", "messages", "--formatter", "json")
        return sum(queue["messages"] for queue in json.loads(listed))

    async def _control(self, *arguments: str) -> str:
        program = Path(self._spec.command[0]).with_name("rabbitmqctl")
        node = self._spec.environment["RABBITMQ_NODENAME"]
        child = await asyncio.create_subprocess_exec(
            program,
            *("--quiet", "-n", node, *arguments),
            env=dict(self._spec.environment),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await child.communicate()
        assert child.returncode == 0, err.decode()
        return out.decode()


@pytest.fixture
async def own_broker(tmp_path: Path) -> AsyncIterator[Broker]:
    # an alarm is the whole broker's, so it may not be that of the other tests
    tmp_path.chmod(0o711)
    settings = Settings.load({"FLASH_HOME": str(tmp_path), "FLASH_APT": "off"})
    services = running_stack(settings, instance="alarm", services=("rabbitmq",), roles=(), say=lambda _: None)
    async with services as stack:
        yield Broker(stack)


@pytest.mark.slow
async def test_an_alarm_is_503_and_what_is_queued_is_decided(template: str, redis_url: str, own_broker: Broker) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1, rabbitmq_url=own_broker.url) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 5}, 2)
        (worker,) = stage.workers
        worker.send(signal.SIGSTOP)
        # more than a worker may have in hand, so that some come only once the broker has heard its acknowledgements
        shoppers = [Shopper(shop, f"b{n}") for n in range(topology.PREFETCH + 100)]
        queued = [await shopper.buy(stage.urls[0]) for shopper in shoppers]  # all at once, some confirms would be late
        assert {answer.status for answer in queued} == {202}

        await own_broker.alarm(is_on=True)
        refused = [await Shopper(shop, f"c{n}").buy(stage.urls[0], hasty=True) for n in range(3)]
        refused += await asyncio.gather(*(Shopper(shop, f"d{n}").buy(stage.urls[0], hasty=True) for n in range(50)))
        assert {answer.status for answer in refused} == {503}  # heard while the alarm lasts: nobody waited for its end
        worker.send(signal.SIGCONT)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await stage.owner.fetchval("SELECT count(*) FROM flash.attempt") < len(shoppers):
                await asyncio.sleep(0.1)
        decided = [await s.decided(stage.urls[0], a.receipt) for s, a in zip(shoppers, queued, strict=True)]
        assert sorted(answer.status for answer in decided) == [200] * 5 + [409] * (len(shoppers) - 5)
        async with asyncio.timeout(
            PATIENCE_SECONDS
        ):  # decided and acknowledged: an alarm must not keep a queue from getting shorter
            while await own_broker.messages():
                await asyncio.sleep(0.1)

        await own_broker.alarm(is_on=False)
        sold = await Shopper(shop, "eve").settled(stage.urls[0])
        assert sold.body["verdict"] == "sold_out"
