"""What uvloop's transports are told."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import TypeVar

Connection = TypeVar("Connection", bound=asyncio.Protocol)

BUFFER_HIGH, BUFFER_LOW = 64 * 1024, 16 * 1024
# What the kernel keeps of an event stream; it would grow both to megabytes for a fast sender. Linux counts double.
STREAM_SENT_BYTES = 16 * 1024
STREAM_RECEIVED_BYTES = 64 * 1024  # what it begins with: less would drop what is under way, and that comes late


UNIX = "unix:"  # what a host begins with that is the path of a socket


async def connect(protocol: Callable[[], Connection], host: str, port: int) -> Connection:
    """A connection to a server. Raises OSError, and UnicodeError for a name that cannot be looked up."""
    loop = asyncio.get_running_loop()
    if host.startswith(UNIX):
        return (await loop.create_unix_connection(protocol, host.removeprefix(UNIX)))[1]
    return (await loop.create_connection(protocol, host, port))[1]


async def open_streams(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As ``connect``, for who is in no hurry."""
    if host.startswith(UNIX):
        return await asyncio.open_unix_connection(host.removeprefix(UNIX))
    return await asyncio.open_connection(host, port)


def set_buffer_limits(transport: asyncio.Transport) -> None:
    """Bound what may wait to be sent. uvloop's own low mark is 16 bytes: it would resume only once all is gone."""
    transport.set_write_buffer_limits(high=BUFFER_HIGH, low=BUFFER_LOW)


def keep_little_received(transport: asyncio.Transport) -> None:
    """From now on the kernel takes no more than STREAM_RECEIVED_BYTES ahead of us."""
    _bound(transport, socket.SO_RCVBUF, STREAM_RECEIVED_BYTES)


def keep_little_unsent(transport: asyncio.Transport) -> None:
    """From now on the kernel takes no more than STREAM_SENT_BYTES; what it does not take asks for a pause."""
    if not transport.is_closing():
        _bound(transport, socket.SO_SNDBUF, STREAM_SENT_BYTES)
        transport.set_write_buffer_limits(high=0)


def reset(transport: asyncio.Transport) -> None:
    """End with a reset: the other side must not take what it got for the whole."""
    with contextlib.suppress(OSError):
        found = transport.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _bound(transport: asyncio.Transport, option: int, size: int) -> None:
    found = transport.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):  # closed meanwhile
            found.setsockopt(socket.SOL_SOCKET, option, size)
