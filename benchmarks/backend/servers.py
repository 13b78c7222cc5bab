"""The servers that are compared: how each is started, alone on its core, and how it shows that it answers."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NamedTuple

from flashsale.contract import wire
from flashsale.settings import ASYNCIO_REDIS, REPOSITORY
from flashsale.stack.processes import dies_with_us, free_port

READY_SECONDS = 60.0
STOP_SECONDS = 15.0
LUA = REPOSITORY / "src" / "flashsale" / "gate" / "lua" / "reserve.lua"


class Contestant(NamedTuple):
    """A server under a name: ``command`` serves FLASH_PORT, with FLASH_AUTH, FLASH_REDIS_URL and RESERVE_LUA in its environment."""

    name: str
    command: Sequence[str]
    path: str = ""  # before everything else on PYTHONPATH


OURS = Contestant(ASYNCIO_REDIS, (sys.executable, "-m", "flashsale.backends.asyncio_redis"))


class Server(NamedTuple):
    """One that runs."""

    contestant: Contestant
    auth: str
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def running(
    contestant: Contestant, auth: str, environment: Mapping[str, str], core: int
) -> AsyncIterator[Server]:
    """Start it on ``core``; it accepts connections when this yields. Raises ``RuntimeError`` when it never does."""
    port, ops_port = free_port(), free_port()
    path = ":".join(part for part in (contestant.path, environment.get("PYTHONPATH", "")) if part)
    child = await asyncio.create_subprocess_exec(
        *contestant.command,
        cwd=REPOSITORY,
        env={
            **environment,
            "PYTHONPATH": path,
            "FLASH_AUTH": auth,
            "FLASH_PORT": str(port),
            "FLASH_OPS_PORT": str(ops_port),
            "RESERVE_LUA": str(LUA),
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=sys.stderr,
        preexec_fn=_alone_on(core),
    )
    try:
        await _until_accepting(contestant.name, child, port)
        yield Server(contestant, auth, child.pid, port)
    finally:
        await _stop(child)


def ask(server: Server, identity: str, key: str, sku: str, quantity: int) -> tuple[int, str | None]:
    """One attempt: status and verdict (None for a purchase)."""
    name, _, value = identity.partition(": ")
    body = json.dumps({"items": [{"sku": sku, "quantity": quantity}]})
    headers = {"Content-Type": wire.JSON_TYPE, wire.KEY_HEADER: key, name: value}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request("POST", wire.PURCHASES_PATH, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()).get("verdict")
    finally:
        connection.close()


def _alone_on(core: int) -> Callable[[], None]:
    die = dies_with_us(signal.SIGTERM)

    def before_exec() -> None:
        die()
        os.sched_setaffinity(0, {core})

    return before_exec


async def _stop(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


async def _until_accepting(name: str, child: asyncio.subprocess.Process, port: int) -> None:
    ends = time.monotonic() + READY_SECONDS
    while time.monotonic() < ends:
        if child.returncode is not None:
            raise RuntimeError(f"{name} ended with {child.returncode} at its start")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{name} did not listen within {READY_SECONDS:.0f} s")
