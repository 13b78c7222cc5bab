"""A RabbitMQ that only one test knows, with its operator: it may be short of something, or die."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import MappingProxyType

from flashsale.settings import Settings
from flashsale.stack.running import Stack, running_stack
from tests.patience import PATIENCE_SECONDS

# What is short → how the operator brings that about, and ends it.
ALARMS = MappingProxyType(
    {
        "memory": (
            ("set_vm_memory_high_watermark", "absolute", "1"),
            ("set_vm_memory_high_watermark", "absolute", "1GB"),
        ),
        "disk": (("set_disk_free_limit", str(10**15)), ("set_disk_free_limit", str(10**6))),
    }
)


class OwnBroker:
    """One node, which comes back by itself when it is killed, on the same port and the same files."""

    def __init__(self, stack: Stack) -> None:
        self.url = stack.urls.rabbitmq
        self._stack = stack
        (self._spec,) = (process.spec for process in stack.processes if process.role == "rabbitmq")

    async def keeps_its_queues(self) -> None:
        """Wait until every quorum queue would be there after a kill.

        For three seconds after it was declared one may not be: until then its name is in memory alone (Erlang's dets), and
        what it has confirmed is lost with it.
        """
        listed = json.loads(await self._control("list_queues", "name", "type", "--formatter", "json"))
        names = [f"%2F_{queue['name']}".encode() for queue in listed if queue["type"] == "quorum"]
        assert names
        environment = self._spec.environment
        node = environment["RABBITMQ_NODENAME"]
        file = Path(environment["RABBITMQ_MNESIA_BASE"]) / node / "quorum" / node / "names.dets"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not all(name in file.read_bytes() for name in names):
                await asyncio.sleep(0.1)

    async def kill(self) -> None:
        """Kill -9."""
        await self._stack.kill("rabbitmq")

    async def alarm(self, short_of: str, *, is_on: bool) -> None:
        """Something is short, or is not any more; takes effect before it returns."""
        await self._control(*ALARMS[short_of][not is_on])

    async def _control(self, *arguments: str) -> str:
        program = Path(self._spec.command[0]).with_name("rabbitmqctl")
        node = self._spec.environment["RABBITMQ_NODENAME"]
        child = await asyncio.create_subprocess_exec(
            program, *("--quiet", "-n", node, *arguments), env=dict(self._spec.environment),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, error = await child.communicate()
        assert child.returncode == 0, error.decode()
        return out.decode()


@contextlib.asynccontextmanager
async def own_broker(home: Path) -> AsyncIterator[OwnBroker]:
    """Started in the directory ``home``, which others may enter, and gone afterwards."""
    settings = Settings.load({"FLASH_HOME": str(home), "FLASH_APT": "off"})
    services = running_stack(settings, instance="broker", services=("rabbitmq",), roles=(), say=lambda _: None)
    async with services as stack:
        yield OwnBroker(stack)
