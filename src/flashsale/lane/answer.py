"""An answer, and how it looks on the wire. Pure."""

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
    fields = "".join([f"{name}: {value}\r\n" for name, value in answer.fields.items()])
    head = f"{_STATUS_LINES[answer.status]}{fields}Content-Length: {len(answer.body)}\r\n"
    return b"%b%b\r\n%b" % (head.encode("latin-1"), tail, answer.body)


_STATUS_LINES = {int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n" for status in HTTPStatus}
