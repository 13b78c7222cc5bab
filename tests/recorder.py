"""A server that keeps every byte it is sent, by connection, and a client that sends bytes and keeps every byte it hears.

The server reads by rules of its own, written from the standard and stricter: what it cannot read in exactly one way it
keeps as ``malformed``. So what stands behind a proxy is judged by somebody who shares no code with it.
"""

import asyncio
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import NamedTuple, Self

from tests.attacks import Request
from tests.listeners import shut
from tests.patience import PATIENCE_SECONDS
from tests.servers import free_port

END = b"GET /end HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"  # asks a proxy that is still there for the end
# Behind everything: whoever still waits for a body has it, and whoever does not, has what nobody takes for a request.
FILLER = bytes(4000) + b"\r\n\r\n"
ENDED: Request = (b"GET", b"/end", b"")
PIECES_APART_S = 0.001  # for who is to read them apart; a test that needs them apart would be wrong

_head = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.[01]\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t]*[\t -~\x80-\xff]*\r\n)*)\r\n"
).match
_chunk = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n").match


class Seen(NamedTuple):
    """One request as the server read it."""

    request: Request
    fields: list[tuple[bytes, bytes]]  # names in small letters

    def values(self, name: bytes) -> list[bytes]:
        """Each value that the name has."""
        return [value for lower, value in self.fields if lower == name]


class Malformed(Exception):  # noqa: N818 - what was found, not what went wrong here
    """Bytes that can be read in no way, or in two."""


def take(data: bytes) -> tuple[Seen, int] | None:
    """The first request of ``data`` and where it ends, None while it is incomplete. Raises Malformed."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    match = _head(data)
    if match is None or match.end() != end:
        raise Malformed(data[:end])
    fields = [
        (name.lower(), value.strip(b" \t"))
        for name, _, value in (line.partition(b":") for line in match[3].split(b"\r\n")[:-1])
    ]
    seen = Seen((match[1], match[2], b""), fields)
    lengths, codings = seen.values(b"content-length"), seen.values(b"transfer-encoding")
    if len(lengths) + len(codings) > 1 or not all(map(bytes.isdigit, lengths)):
        raise Malformed(data[:end])
    body: tuple[bytes, int] | None = b"", end
    if codings:
        if codings[0].lower() != b"chunked":
            raise Malformed(data[:end])
        body = _chunks(data, end)
    elif lengths:
        till = end + int(lengths[0])
        body = (data[end:till], till) if till <= len(data) else None
    return body and (seen._replace(request=(match[1], match[2], body[0])), body[1])


def _chunks(data: bytes, at: int) -> tuple[bytes, int] | None:
    body = b""
    while True:
        if data.find(b"\n", at) < 0:
            return None
        match = _chunk(data, at)
        if match is None:
            raise Malformed(data[at:])
        at, size = match.end(), int(match[1], 16)
        if len(data) < at + size + 2:
            return None
        body += data[at : at + size]
        at += size
        if data[at : at + 2] != b"\r\n":  # after the last chunk as well: no trailers
            raise Malformed(data[at:])
        at += 2
        if not size:
            return body, at


@dataclass
class Stream:
    """What one connection brought."""

    unread: bytes = b""
    heard: int = 0  # requests
    malformed: bytes | None = None
    closed: bool = False

    def hear(self, data: bytes) -> list[Seen]:
        """More of it; the requests that are complete now."""
        self.unread += data
        come: list[Seen] = []
        try:
            while self.malformed is None and (taken := take(self.unread)):
                come.append(taken[0])
                self.unread = self.unread[taken[1] :]
        except Malformed:
            self.malformed = self.unread
        self.heard += len(come)
        return come


class Recorder:
    """Answers what it understood with what that was, so that a client knows whose answer it has."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.streams: list[Stream] = []
        self.seen: list[Seen] = []  # every whole request, in the order they came
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Transport, asyncio.Event] = {}  # each is set when it has ended

    async def start(self) -> Self:
        """Listen."""
        self.port = free_port()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        return self

    async def kill(self) -> None:
        """As after kill -9: no listener, every connection broken."""
        if self._server is not None:
            await shut(self._server)
        ends = list(self._open.items())
        for transport, ended in ends:
            transport.abort()
            await ended.wait()

    def forget(self) -> None:
        """What comes from now on is another trial's; connections go on."""
        self.streams = [stream for stream in self.streams if not stream.closed]
        self.seen = []

    @property
    def requests(self) -> list[Request]:
        """What came, as a table has it."""
        return [seen.request for seen in self.seen]


class _Connection(asyncio.Protocol):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._stream = Stream()
        self._is_check = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._recorder.streams.append(self._stream)
        self._recorder._open[transport] = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        if not self._stream.heard and data.startswith(b"GET /livez "):
            self._recorder.streams.remove(self._stream)
            self._is_check = True
        for seen in self._stream.hear(data):
            if not self._is_check:
                self._recorder.seen.append(seen)
            method, target, _ = seen.request
            said = b"" if method == b"HEAD" else method + b" " + target
            number = b"".join(b"Link-Sequence: %b\r\n" % number for number in seen.values(b"link-sequence"))
            self._transport.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (number, len(said), said))
        if self._stream.malformed is not None:
            self._transport.write(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        self._stream.closed = True
        self._recorder._open.pop(self._transport).set()


class Heard(NamedTuple):
    """One answer."""

    status: int
    fields: dict[bytes, bytes]  # names in small letters
    body: bytes


async def deliver(
    port: int, pieces: Sequence[bytes], *, leaves: bool = False, patience: float = PATIENCE_SECONDS
) -> bytes:
    """Send, piece by piece, and hear everything until the other side ends it. ``leaves`` ends our sending after the last."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(patience):
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(client, ("127.0.0.1", port))
            try:
                for number, piece in enumerate(pieces):
                    if number:
                        await asyncio.sleep(PIECES_APART_S)
                    await loop.sock_sendall(client, piece)
                if leaves:
                    client.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has said why
            return await hear(client)


async def hear(client: socket.socket) -> bytes:
    """Everything until the other side ends it, in good order or not: a StreamReader forgets what came before a reset."""
    heard = b""
    try:
        while data := await asyncio.get_running_loop().sock_recv(client, 65_536):
            heard += data
    except OSError:
        pass  # bytes of ours were left unread
    return heard


def answers(data: bytes, methods: Iterable[bytes] = ()) -> tuple[list[Heard], bytes]:
    """The whole final answers in ``data``, to requests of ``methods`` (GET where none is named), and what is left."""
    asked = chain(methods, repeat(b"GET"))
    heard: list[Heard] = []
    while (end := data.find(b"\r\n\r\n") + 4) > 3:
        first, *lines = data[: end - 4].split(b"\r\n")
        status = int(first.split(b" ", 2)[1])
        if status < 200:
            data = data[end:]
            continue
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        body: tuple[bytes, int] | None = b"", end
        if next(asked) != b"HEAD" and status not in {204, 304}:
            if b"transfer-encoding" in fields:
                body = _chunks(data, end)
            elif (till := end + int(fields.get(b"content-length", len(data) - end))) > len(data):
                body = None
            else:
                body = data[end:till], till
        if body is None:
            break
        heard.append(Heard(status, fields, body[0]))
        data = data[body[1] :]
    return heard, data
