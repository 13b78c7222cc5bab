"""An answer, and how it looks on the wire. Pure."""

import functools
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple


class Answer(NamedTuple):
    """What a client hears. ``fields`` name everything but the framing, the date and the server."""

    status: int
    fields: Mapping[str, str]
    body: bytes


def encode(answer: Answer, tail: bytes) -> bytes:
    """The bytes of the answer; ``tail`` are the fields that say nothing of what was asked, each with its line end."""
    head = _head(answer.status, tuple(answer.fields.items()), len(answer.body))
    return b"%b%b\r\n%b" % (head, tail, answer.body)


def encode_head(status: int, fields: Mapping[str, str], tail: bytes) -> bytes:
    """A head alone: of what has no body, or one that ends in another way than by its length."""
    return b"%b%b\r\n" % (_lines(status, fields).encode("latin-1"), tail)


# What many are told is one object, and stays one: a copy for each would be the most that one who does not read it costs.
@functools.lru_cache(maxsize=64)
def encode_chunk(piece: bytes) -> bytes:
    """One piece, not empty, of a body in chunks."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


# All who are refused alike have the same head: ids have one length. What is somebody's own passes through and is forgotten.
@functools.lru_cache(maxsize=256)
def _head(status: int, fields: tuple[tuple[str, str], ...], length: int) -> bytes:
    return f"{_lines(status, dict(fields))}Content-Length: {length}\r\n".encode("latin-1")


def _lines(status: int, fields: Mapping[str, str]) -> str:
    return _STATUS_LINES[status] + "".join([f"{name}: {value}\r\n" for name, value in fields.items()])


_STATUS_LINES = {int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n" for status in HTTPStatus}
