"""A real balancer process in front of small real servers, and clients that speak bytes."""

import asyncio
import contextlib
import json
import os
import re
import signal
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, Self

from flashsale.settings import REPOSITORY
from flashsale.stack.roles import BALANCER
from tests import nursery
from tests.listeners import shut
from tests.patience import PATIENCE_SECONDS
from tests.servers import free_port

PROBLEM = "application/problem+json"


class Message(NamedTuple):
    """A request or an answer as it came."""

    first: str
    fields: dict[str, str]  # lower-case names; several of one name are joined
    body: bytes

    @property
    def status(self) -> int:
        return int(self.first.split()[1])

    @property
    def method(self) -> str:
        return self.first.split()[0]

    @property
    def target(self) -> str:
        return self.first.split()[1]


async def read_head(reader: asyncio.StreamReader) -> Message:
    """A head. Raises IncompleteReadError if the other side closes first."""
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        fields[name.lower()] = f"{fields[name.lower()]}, {value}" if name.lower() in fields else value
    return Message(first, fields, b"")


async def read_body(reader: asyncio.StreamReader, head: Message, *, is_endless: bool = False) -> bytes:
    """Its body, by what the head says of it."""
    if head.fields.get("transfer-encoding") == "chunked":
        assert "content-length" not in head.fields
        pieces = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append(await reader.readexactly(size))
            assert await reader.readexactly(2) == b"\r\n"
        assert await reader.readexactly(2) == b"\r\n"
        return b"".join(pieces)
    if "content-length" in head.fields:
        return await reader.readexactly(int(head.fields["content-length"]))
    return await reader.read() if is_endless else b""


Answer = Callable[[Message, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def ok(body: bytes = b"", *fields: bytes) -> bytes:
    """A plain answer."""
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(line + b"\r\n" for line in fields)
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


class Upstream:
    """A server: answers every request with its own name until a test gives it another ``answer``; checks apart."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.requests: list[Message] = []
        self.connections = 0  # that carried a request
        self.closed = 0  # of these
        self.reads_body = True
        self.answer: Answer = self._by_name
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self) -> Self:
        """Listen, on the same port as before."""
        self.port = self.port or free_port()
        self._server = await asyncio.start_server(self.accept, "127.0.0.1", self.port)
        return self

    async def kill(self) -> None:
        """As after kill -9: no listener, every connection broken."""
        if self._server is not None:
            await shut(self._server)
            self._server = None
        for task, writer in list(self._open.items()):
            task.cancel()
            writer.transport.abort()  # a task that never ran closes nothing
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _by_name(self, _: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(self.name.encode()))

    def check(self) -> bytes:
        """The answer to a check."""
        return ok()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection; also for a listener of a test's own."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(lambda ended: self._open.pop(ended, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        counted = False
        try:
            while not writer.transport.is_closing():
                head = await read_head(reader)
                if head.target == "/livez":
                    writer.write(self.check())
                    continue
                if not counted:
                    counted = True
                    self.connections += 1
                if self.reads_body:
                    head = head._replace(body=await read_body(reader, head))
                self.requests.append(head)
                await self.answer(head, reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            self.closed += counted
            writer.transport.abort()


@dataclass
class Client:
    """One connection to the balancer."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, data: bytes) -> Message:
        """Send a request, read its answer."""
        self.writer.write(data)
        return await self.answer(is_head=data.startswith(b"HEAD"))

    async def answer(self, *, is_head: bool = False) -> Message:
        """The next answer."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await read_head(self.reader)
            if is_head or head.status < 200:
                return head
            is_endless = head.fields.get("connection") == "close"
            return head._replace(body=await read_body(self.reader, head, is_endless=is_endless))

    async def rest(self) -> bytes:
        """Everything until the balancer closes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.read()

    def leave(self) -> None:
        """Be gone."""
        self.writer.transport.abort()


@dataclass
class Balancer:
    """``python -m loadbalancer``, born as the product's other processes are. Its workers it starts itself, from nothing."""

    child: nursery.Child
    socket: Path  # of its administration
    log: asyncio.StreamReader  # of requests, if it has one
    log_pipe: asyncio.ReadTransport
    tls: ssl.SSLContext | None = None  # what clients speak
    port: int = 0
    ops_port: int = 0
    is_told: bool = False
    said: list[dict[str, object]] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        """A new connection."""
        made = Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=2**20, ssl=self.tls))
        self.clients.append(made)
        return made

    async def ask(self, data: bytes) -> Message:
        """One request on a connection of its own."""
        client = await self.client()
        try:
            return await client.ask(data)
        finally:
            client.leave()

    async def ops(self, path: str, method: str = "GET", *fields: str) -> Message:
        """Ask the operations listener."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.ops_port))
        own = "" if any(name.startswith("Host:") for name in fields) else f"Host: localhost:{self.ops_port}\r\n"
        lines = "".join(f"{line}\r\n" for line in fields)
        try:
            return await client.ask(f"{method} {path} HTTP/1.1\r\n{own}{lines}\r\n".encode())
        finally:
            client.leave()

    async def admin(self, path: str, method: str = "POST") -> Message:
        """Ask through the unix socket, where things can be changed."""
        client = Client(*await asyncio.open_unix_connection(str(self.socket)))
        try:
            return await client.ask(f"{method} {path} HTTP/1.1\r\nHost: lb\r\n\r\n".encode())
        finally:
            client.leave()

    async def stats(self) -> dict[str, Any]:
        """Everything it knows of itself."""
        found: dict[str, Any] = json.loads((await self.ops("/stats")).body)
        return found

    async def workers(self, state: str = "serving") -> list[int]:
        """The pids of its workers, by slot."""
        return [worker["pid"] for worker in (await self.stats())["workers"] if worker["state"] == state]

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of one family's values with these labels."""
        text = (await self.ops("/metrics")).body.decode()
        total = 0.0
        for line in text.splitlines():
            match = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? (\S+)", line)
            if match and match[1] == name:
                found = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
                if labels.items() <= found.items():
                    total += float(match[3])
        return total

    async def states(self) -> dict[str, str]:
        """Every server's state."""
        return {server["name"]: server["state"] for server in json.loads((await self.ops("/servers")).body)}

    async def until(self, is_true: Callable[[], Awaitable[bool]]) -> None:
        """Wait for something that will be."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await is_true():
                await asyncio.sleep(0.02)

    def terminate(self) -> None:
        """SIGTERM, once: a second one may meet a process that has stopped listening for it."""
        if not self.is_told and self.child.returncode is None:
            self.is_told = True
            with contextlib.suppress(ProcessLookupError):  # it has ended, and we have not heard of it yet
                self.child.send_signal(signal.SIGTERM)

    async def stop(self) -> int:
        """The exit status after SIGTERM."""
        self.terminate()
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.child.wait()


class Server(Protocol):
    """Who stands behind the balancer."""

    name: str
    port: int

    async def start(self) -> object:
        """Listen."""

    async def kill(self) -> None:
        """Be gone."""


@contextlib.asynccontextmanager
async def balanced(*servers: Server, **environ: str) -> AsyncIterator[Balancer]:
    """Servers that are started if they are not, a balancer in front, and nothing left of either afterwards."""
    for server in servers:
        if not server.port:
            await server.start()
    directory = tempfile.TemporaryDirectory(prefix="lb-")
    path = Path(directory.name) / "admin"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "LB_PORT": "0",
        "LB_OPS_PORT": "0",
        "LB_ADMIN_SOCKET": str(path),
        "LB_CHECK_INTERVAL": "0.1",
        # A loaded machine is no accident: what a test does not ask for must not happen because of it.
        "LB_CHECK_TIMEOUT": "10",
        "LB_CONNECT_TIMEOUT": "10",
        "LB_EJECT_ERRORS": "0",
        "LB_SLOW_START": "0",
        "LB_HEAD_TIMEOUT": "60",
        "LB_POOL_TIMEOUT": "60",
        "LB_GRACE": "40",
        "LB_SERVERS": ",".join(f"{server.name}=127.0.0.1:{server.port}" for server in servers),
        **environ,
    }
    log, log_pipe, output = await _pipe()
    events, events_pipe, errors = await _pipe()
    try:
        with output, errors:
            child = await nursery.bear(BALANCER.module, environment, output, errors)
    except BaseException:
        log_pipe.close()
        events_pipe.close()
        raise
    balancer = Balancer(child, path, log, log_pipe)
    started = asyncio.Event()
    listening = asyncio.create_task(_listen(balancer, events, started))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await started.wait()
        assert balancer.port, f"ended with {await child.wait()}: {balancer.said}"
        yield balancer
        for client in balancer.clients:
            client.leave()
        assert await balancer.stop() == 0
    finally:
        for client in balancer.clients:
            client.leave()
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
        for server in servers:
            await server.kill()
        await listening
        log_pipe.close()
        directory.cleanup()
    assert not [line for line in balancer.said if line["level"] not in {"info", "warning"}], balancer.said


async def _pipe() -> tuple[asyncio.StreamReader, asyncio.ReadTransport, IO[bytes]]:
    # Both ends, of which one is read here.
    ours, theirs = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", buffering=0)
    )
    return reader, transport, os.fdopen(theirs, "wb", buffering=0)


async def _listen(balancer: Balancer, events: asyncio.StreamReader, started: asyncio.Event) -> None:
    async for line in events:
        said = json.loads(line)
        balancer.said.append(said)
        if said["event"] == "loadbalancer.started":
            balancer.port, balancer.ops_port = said["port"], said["ops_port"]
            started.set()
    started.set()  # it has ended, and there is nothing to wait for
