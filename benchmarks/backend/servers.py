"""The servers that are compared: how each is started, on which cores, and how it shows that it answers."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from benchmarks.backend.attempts import body
from flashsale.contract import wire
from flashsale.settings import ASYNCIO_REDIS, GEVENT_RABBIT, REPOSITORY
from flashsale.stack.processes import dies_with_us, free_port

READY_SECONDS = 180.0  # a server that dies is noticed at once
STOP_SECONDS = 15.0
LUA = REPOSITORY / "src" / "flashsale" / "gate" / "lua" / "reserve.lua"
_ATTEMPTS = re.compile(rb'^flashsale_attempts_total\{verdict="(\w+)"\} ([0-9.e+]+)$', re.MULTILINE)
_AT_THE_GATE = re.compile(rb'^flashsale_gate_answers_total\{answer="(\w+)"\} ([0-9.e+]+)$', re.MULTILINE)
# confirms, and the attempts that the broker has not answered for
_AT_THE_BROKER = re.compile(
    rb'^flashsale_(?:confirms_total\{outcome=")?(confirmed|late|unconfirmed)(?:"\})? ([0-9.e+]+)$', re.MULTILINE
)


class Contestant(NamedTuple):
    """A server under a name: ``command`` serves FLASH_PORT, with FLASH_AUTH, the stores' URLs and RESERVE_LUA in its environment."""

    name: str
    command: Sequence[str]
    path: str = ""  # before everything else on PYTHONPATH
    is_ours: bool = False  # has an operations port, which it opens last


OURS = Contestant(ASYNCIO_REDIS, (sys.executable, "-m", "flashsale.backends.asyncio_redis"), is_ours=True)
EDGE = Contestant(GEVENT_RABBIT, (sys.executable, "-m", "flashsale.backends.gevent_rabbit"), is_ours=True)


class Server(NamedTuple):
    """One that runs."""

    contestant: Contestant
    auth: str
    pid: int
    port: int
    ops_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def running(
    contestant: Contestant, auth: str, environment: Mapping[str, str], cores: Collection[int]
) -> AsyncIterator[Server]:
    """Start it on ``cores``; it accepts connections when this yields. Raises ``RuntimeError`` when it never does."""
    port, ops_port = free_port(), free_port()
    path = ":".join(part for part in (contestant.path, environment.get("PYTHONPATH", "")) if part)
    given = {
        **environment,
        "PYTHONPATH": path,
        "FLASH_ROLE": contestant.name if contestant.is_ours else "",
        "FLASH_AUTH": auth,
        "FLASH_PORT": str(port),
        "FLASH_OPS_PORT": str(ops_port),
        "FLASH_LOG_LEVEL": "warning",
        "RESERVE_LUA": str(LUA),
    }
    last = ops_port if contestant.is_ours else port
    async with process(contestant.name, contestant.command, given, cores, last) as pid:
        if contestant.is_ours:
            await until_ready(contestant.name, ops_port)
        yield Server(contestant, auth, pid, port, ops_port)


@contextlib.asynccontextmanager
async def process(
    name: str, command: Sequence[str], environment: Mapping[str, str], cores: Collection[int], port: int
) -> AsyncIterator[int]:
    """One child's pid, once it accepts connections at ``port``. Raises ``RuntimeError`` when it never does."""
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=REPOSITORY,
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=sys.stderr,
        preexec_fn=_on(cores),
    )
    try:
        await _until_accepting(name, child, port)
        yield child.pid
    finally:
        await _stop(child)


def ask(server: Server, identity: str, key: str, sku: str, quantity: int) -> tuple[int, str | None]:
    """One attempt: status and verdict (None for a purchase)."""
    name, _, value = identity.partition(": ")
    headers = {"Content-Type": wire.JSON_TYPE, wire.KEY_HEADER: key, name: value}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("POST", wire.PURCHASES_PATH, body(sku, quantity), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()).get("verdict")
    finally:
        connection.close()


async def verdicts(server: Server) -> Counter[str]:
    """How many attempts it answered how, by its own count."""
    return await tally(_ATTEMPTS, server.ops_port)


async def gate_answers(server: Server) -> Counter[str]:
    """What the gate told it so far."""
    return await tally(_AT_THE_GATE, server.ops_port)


async def at_the_broker(server: Server) -> Counter[str]:
    """How many attempts it has ``confirmed``, how many ``late``, and how many it has yet to answer for: ``unconfirmed``."""
    return await tally(_AT_THE_BROKER, server.ops_port)


async def tally(pattern: re.Pattern[bytes], ops_port: int) -> Counter[str]:
    """The series of a process that match, as ``(word, count)``."""
    _, page = await asyncio.to_thread(_page, ops_port, "/metrics")
    return Counter({word.decode(): int(float(count)) for word, count in pattern.findall(page)})


async def until_ready(name: str, ops_port: int) -> None:
    """A process says that it is. Raises ``RuntimeError`` when it never does."""
    ends = time.monotonic() + READY_SECONDS
    while not await is_ready(ops_port):
        if time.monotonic() > ends:
            raise RuntimeError(f"{name} did not get ready within {READY_SECONDS:.0f} s")
        await asyncio.sleep(0.05)


async def is_ready(ops_port: int) -> bool:
    """Does it say so now?"""
    try:
        status, _ = await asyncio.to_thread(_page, ops_port, "/readyz")
    except OSError:
        return False
    return status == 200


def _page(ops_port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", ops_port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _on(cores: Collection[int]) -> Callable[[], None]:
    die = dies_with_us(signal.SIGTERM)

    def before_exec() -> None:
        die()
        os.sched_setaffinity(0, cores)

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
