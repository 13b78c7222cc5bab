"""Deliveries, read off the connection's bytes before the driver sees them.

The driver makes three frames, a message and a task of each: more than half of what a worker took for an attempt. Here it costs
three looks at the bytes. Everything that is not a delivery to a channel that was asked for goes to the driver as it came:
its handshake, its answers, cancels and closes stay its own.
"""

import asyncio
import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from pamqp.header import ContentHeader
from yarl import URL

from flashsale.amqp import BASIC, BODY, END, FRAME, HEADER, METHOD

_DELIVER = struct.pack(">HH", BASIC, 60)
_TAG = struct.Struct(">QB")  # behind the consumer's tag: the delivery's, and whether it came again
_BODY_BYTES = struct.Struct(">Q")
_BODY_BYTES_AT = 4  # behind class and weight
_SMALLEST = FRAME.size + len(END)
# A broker that delivers sends no heartbeats, and the driver would take it for dead.
_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
HEARTBEAT_SECONDS = 1.0


class Delivery(NamedTuple):
    """A message as it came. ``header``: the payload of its header frame, for who has to know more."""

    tag: int
    is_redelivered: bool
    header: bytes
    body: bytes

    @property
    def properties(self) -> Any:
        """What its publisher said of it. Raises ``ValueError`` when that cannot be read."""
        header = ContentHeader()
        header.unmarshal(self.header)
        return header.properties


Take = Callable[[Delivery], None]


class _Channel:
    """One whose deliveries are taken, and the one that is not whole yet."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._is_open = False
        self._tag = 0
        self._is_redelivered = False
        self._header = b""
        self._missing = 0  # bytes of its body
        self._parts: list[bytes] = []

    def is_taken(self, kind: int, buffer: bytes, at: int, size: int) -> bool:
        """Is a frame with this payload a delivery's?"""
        if kind == METHOD:
            if buffer[at : at + 4] != _DELIVER:
                return False
            self._tag, bits = _TAG.unpack_from(buffer, at + 5 + buffer[at + 4])
            self._is_open, self._is_redelivered, self._missing, self._parts = True, bool(bits & 1), -1, []
            return True
        if not self._is_open:
            return False  # the content of something else
        if kind == HEADER:
            self._header = buffer[at : at + size]
            (self._missing,) = _BODY_BYTES.unpack_from(buffer, at + _BODY_BYTES_AT)
        elif kind == BODY:
            self._parts.append(buffer[at : at + size])
            self._missing -= size
        if self._missing == 0:
            self._is_open = False
            self._take(Delivery(self._tag, self._is_redelivered, self._header, b"".join(self._parts)))
        return True


class Tap(asyncio.Protocol):
    """Between a connection's transport and the driver's protocol."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self._inner = inner
        self._channels: dict[int, _Channel] = {}
        self._carried = b""
        self._heard = 0.0

    def take(self, channel: int, take: Take) -> None:
        """Deliveries on ``channel`` go to ``take`` from now on, and to the driver no more."""
        self._channels[channel] = _Channel(take)

    def data_received(self, data: bytes) -> None:
        """Bytes of the broker's, cut anywhere."""
        buffer = self._carried + data if self._carried else data
        at = passed_on = 0
        end = len(buffer)
        while end - at >= _SMALLEST:
            kind, number, size = FRAME.unpack_from(buffer, at)
            after = at + _SMALLEST + size
            if after > end:
                break
            channel = self._channels.get(number)
            if channel is not None and channel.is_taken(kind, buffer, at + FRAME.size, size):
                if passed_on < at:
                    self._inner.data_received(buffer[passed_on:at])
                passed_on = after
            at = after
        if passed_on < at:
            self._inner.data_received(buffer[passed_on:at])
        self._carried = buffer[at:]
        if self._channels and (now := time.monotonic()) - self._heard > HEARTBEAT_SECONDS:
            self._heard = now
            self._inner.data_received(_HEARTBEAT)

    def eof_received(self) -> bool | None:
        """The driver's."""
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The driver's."""
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The driver's."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The driver's."""
        self._inner.resume_writing()


class Tapping(TransportFactory):
    """Opens a connection as the driver does, and taps it."""

    def __init__(self) -> None:
        self.tap: Tap

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """For the driver."""
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **options)
        # nothing was read yet: a broker speaks once it is spoken to
        self.tap = Tap(cast("asyncio.Protocol", writer.transport.get_protocol()))
        writer.transport.set_protocol(self.tap)
        return reader, writer
