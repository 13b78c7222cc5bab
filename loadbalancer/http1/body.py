"""Where a body ends. ``feed`` takes bytes and returns the payload in them and the rest, which belongs to what follows."""

import re
from collections.abc import Callable
from typing import Protocol

from loadbalancer.http1.grammar import LINE_BYTES_MAX, TOKEN, Refused, is_field_line

SIZE_LINE_BYTES_MAX = 256
EXTENSION_BYTES_MAX = 4 * 1024  # of a whole body: nobody uses them, so a body made of them is an attack
TRAILER_BYTES_MAX = 8 * 1024

_QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_EXTENSION = rb";" + TOKEN + rb"++(?:=(?:" + TOKEN + rb"++|" + _QUOTED + rb"))?"
# 13 hexadecimal digits are 2^52: no counter anywhere overflows
_size_line = re.compile(rb"([0-9A-Fa-f]{1,13}+)((?:" + _EXTENSION + rb")*+)\r\n").fullmatch


class Body(Protocol):
    """The payload of one message, as it comes."""

    done: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Payload and rest of ``data``, which is not empty. Raises Refused."""


class LengthBody:
    """So many bytes."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Payload and rest."""
        payload = data[: self.left]
        self.left -= len(payload)
        self.done = self.left == 0
        return payload, data[len(payload) :]


class EndlessBody:
    """Everything until the connection ends."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """All of it."""
        return data, b""


class ChunkedBody:
    """Chunks until the one of no bytes. Extensions and trailers are read, judged, and not passed on.

    Trailers may be dropped (RFC 9110, 6.5.1), and nobody behind was told that they are welcome: TE is not forwarded.
    """

    __slots__ = ("_extensions", "_left", "_room", "_step", "_trailers", "done")

    def __init__(self, payload_max: int | None) -> None:
        """``payload_max`` in bytes; None is for answers, which may stream for ever."""
        self.done = False
        self._room = payload_max
        self._left = 0
        self._step: Callable[[bytes, list[bytes]], int] = self._size
        self._extensions = 0
        self._trailers = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Payload and rest. What is wrong behind a good part is raised by the next call, as if it had come later."""
        pieces: list[bytes] = []
        while data and not self.done:
            try:
                taken = self._step(data, pieces)
            except Refused:
                if not pieces:
                    raise
                break
            if not taken:
                break
            data = data[taken:]
        return b"".join(pieces), data

    # Each step returns how many bytes it took; none means that it needs more.

    def _size(self, data: bytes, _: list[bytes]) -> int:
        line = _line(data, SIZE_LINE_BYTES_MAX, 400, "a chunk's size line is too long")
        if not line:
            return 0
        match = _size_line(line)
        if match is None:
            raise Refused(400, "not the size of a chunk")
        self._extensions += len(match[2])
        if self._extensions > EXTENSION_BYTES_MAX:
            raise Refused(400, "too many chunk extensions")
        self._left = int(match[1], 16)
        if self._room is not None:
            self._room -= self._left
            if self._room < 0:
                raise Refused(413, "the body is too large")
        self._step = self._data if self._left else self._trailer
        return len(line)

    def _data(self, data: bytes, pieces: list[bytes]) -> int:
        piece = data[: self._left]
        pieces.append(piece)
        self._left -= len(piece)
        if not self._left:
            self._step = self._data_end
        return len(piece)

    def _data_end(self, data: bytes, _: list[bytes]) -> int:
        end = data[:2]
        if end == b"\r\n":
            self._step = self._size
            return 2
        if end == b"\r":
            return 0
        raise Refused(400, "a chunk is longer than its size")

    def _trailer(self, data: bytes, _: list[bytes]) -> int:
        line = _line(data, LINE_BYTES_MAX, 431, "a trailer line is too long")
        if not line:
            return 0
        if line == b"\r\n":
            self.done = True
            return 2
        if is_field_line(line) is None:
            raise Refused(400, "not a trailer field")
        self._trailers += len(line)
        if self._trailers > TRAILER_BYTES_MAX:
            raise Refused(431, "the trailers are too large")
        return len(line)


def _line(data: bytes, bytes_max: int, status: int, detail: str) -> bytes:
    end = data.find(b"\n", 0, bytes_max) + 1
    if not end and len(data) >= bytes_max:
        raise Refused(status, detail)
    return data[:end]
