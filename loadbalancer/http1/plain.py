"""The usual message, understood by one regular expression: framed by its length, whole, with nothing in it that stays here.

Such a head leaves as it came. Taken to pieces and written anew, one of twelve fields costs 25 us; matched here, 2 us. What is
not plain, be it wrong or merely rare, is ``head.py``'s to read and to judge: nothing is refused here, and what is taken here
means the same there (tests/unit/loadbalancer/test_plain.py).
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from loadbalancer.http1.grammar import FIELDS_MAX, HEAD_BYTES_MAX, LINE_BYTES_MAX, VALUE, Refused
from loadbalancer.http1.head import LENGTH_DIGITS_MAX, NO_BODY, Field, Framing, RequestHead, parse_request

ANSWER_BYTES_MAX = 64 * 1024  # of one among many

# Fields that a balancer acts on must not pass for ordinary ones, in whatever spelling; nor one with '_', which may pose as
# another. They are told apart by their first letter, so that most names cost a look at one byte.
_NAME_REST = rb"[!#$%&'*+\-.^`|~0-9A-Za-z]*+:" + VALUE + rb"*+\r\n"
_BOTH = (
    rb"[Cc](?!(?i:onnection|ontent-length):)|[Kk](?!(?i:eep-alive):)|[Ll](?!(?i:ink-sequence):)|[Pp](?!(?i:roxy-))"
    rb"|[Tt](?!(?i:e|railer|ransfer-encoding):)|[Uu](?!(?i:pgrade):)"
)
_IN_REQUEST = (
    rb"(?:[!#$%&'*+\-.^`|~0-9AaBbDdGgIiJjMmNnOoQqRrSsWwYyZz]|"
    + _BOTH
    + rb"|[Ee](?!(?i:xpect):)|[Ff](?!(?i:orwarded):)|[Hh](?!(?i:ost|ttp2-settings):)|[Vv](?!(?i:ia):)"
    + rb"|[Xx](?!(?i:-forwarded-|-real-ip:|-request-id:)))"
    + _NAME_REST
)
_IN_RESPONSE = rb"(?:[!#$%&'*+\-.^`|~0-9AaBbDdEeFfGgHhIiJjMmNnOoQqRrSsVvWwXxYyZz]|" + _BOTH + rb")" + _NAME_REST
_PORT = rb"(?::(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[0-5]?[0-9]{1,4}))?+"
_HOST = rb"(?:[A-Za-z0-9._~%-]{1,255}+|\[[0-9A-Fa-f:.]{2,45}\])" + _PORT
_LENGTH = rb"[Cc]ontent-[Ll]ength: ?(0|[1-9][0-9]{0,%d}+)\r\n" % (LENGTH_DIGITS_MAX - 1)
_KEEP_ALIVE = rb"([Cc]onnection: ?[Kk]eep-[Aa]live\r\n)"
# `(?(n)(?!))`: what may be there once is there twice, so this is not plain
_request = re.compile(
    rb"([A-Z]{1,32}+) (/[\x21\x22\x24-\x7e]*+) HTTP/1\.1\r\n(?:" + _IN_REQUEST
    + rb"|(?(3)(?!))[Hh]ost: ?(" + _HOST + rb")\r\n|(?(4)(?!))" + _LENGTH + rb"|(?(5)(?!))" + _KEEP_ALIVE
    + rb"){1,%d}+\r\n" % FIELDS_MAX
).match  # fmt: skip
_response = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: " + VALUE + rb"*+)?\r\n(?:" + _IN_RESPONSE
    + rb"|(?(2)(?!))" + _LENGTH + rb"|(?(3)(?!))" + _KEEP_ALIVE
    + rb"|(?(4)(?!))([Ll]ink-[Ss]equence: ?([0-9]{1,18})\r\n)"
    + rb"){1,%d}+\r\n" % FIELDS_MAX
).match  # fmt: skip
_NO_TUNNEL = frozenset((b"CONNECT", b"TRACE"))
_NO_BODY_STATUS = frozenset((b"204", b"304"))


class PlainRequest:
    """A plain request's head. Says what ``RequestHead`` says; the rarer of it is read only if somebody asks."""

    __slots__ = ("_head", "host", "length", "lines", "method", "target")
    minor = 1
    is_chunked = False
    closes = False
    expects_continue = False
    nominated: frozenset[bytes] = frozenset()

    def __init__(self, method: bytes, target: bytes, host: bytes, length: int, lines: bytes) -> None:
        """``lines``: the request line and the fields as they may leave, without the empty line."""
        self.method = method
        self.target = target
        self.host = host
        self.length = length  # of the body, in bytes
        self.lines = lines
        self._head: RequestHead | None = None

    @property
    def framing(self) -> Framing:
        """By its length."""
        return Framing(self.length, False) if self.length else NO_BODY

    @property
    def fields(self) -> list[Field]:
        """All of them."""
        return self._understood().fields

    @property
    def values(self) -> dict[bytes, bytes]:
        """By lower-case name."""
        return self._understood().values

    def value(self, name: bytes) -> bytes | None:
        """One field's value by its lower-case name, for a tenth of what ``values`` costs."""
        found = _values_of(name)(self.lines)
        return b", ".join([value.rstrip(b" \t") for value in found]) if found else None

    def _understood(self) -> RequestHead:
        if self._head is None:
            self._head = parse_request(self.lines + b"\r\n", self.length)
        return self._head


class PlainAnswer(NamedTuple):
    """A plain answer: its status, the number that it repeats (or None), and its bytes as they may leave."""

    status: int
    number: int | None
    data: bytes


def plain_request(data: bytes, body_bytes_max: int) -> tuple[PlainRequest, bytes] | None:
    """``data`` as one whole plain request and its body, nothing behind it; None if it is anything else."""
    match = _request(data)
    if match is None:
        return None
    method, target, host, text, keep_alive = match.groups()
    end = match.end()
    length = int(text) if text else 0
    if (
        host is None
        or len(data) != end + length
        or end > LINE_BYTES_MAX
        or length > body_bytes_max
        or method in _NO_TUNNEL
    ):
        return None
    if keep_alive:
        cut, resumed = match.span(5)
        lines = data[:cut] + data[resumed : end - 2]
    else:
        lines = data[: end - 2]
    return PlainRequest(method, target, host, length, lines), data[end:]


def plain_answer(data: bytes) -> PlainAnswer | None:
    """``data`` as one whole plain answer to a request other than HEAD, without a number; None if it is anything else."""
    match = _response(data)
    if match is None:
        return None
    status, text, keep_alive, _, number = match.groups()
    if (
        text is None
        or number is not None
        or status in _NO_BODY_STATUS
        or match.end() + int(text) != len(data)
        or match.end() > LINE_BYTES_MAX
    ):
        return None
    return PlainAnswer(int(status), None, data if keep_alive is None else _without(match, data, 0))


def plain_answers(data: bytes) -> tuple[list[PlainAnswer], bytes]:
    """
    The plain answers in ``data``, one behind the other, and the beginning of another one. Raises Refused if the next is neither
    plain nor the beginning of a plain one no larger than ANSWER_BYTES_MAX; those before it are lost to the caller, who has no
    reason to trust them.
    """
    found: list[PlainAnswer] = []
    at = 0
    while at < len(data):
        match = _response(data, at)
        if match is None:
            if data.find(b"\r\n\r\n", at) >= 0 or len(data) - at > HEAD_BYTES_MAX:
                raise Refused(400, "an answer that is not plain")
            break
        status, text, _, _, number = match.groups()
        if text is None or status in _NO_BODY_STATUS or match.end() - at > LINE_BYTES_MAX:
            raise Refused(400, "an answer that is not plain")
        end = match.end() + int(text)
        if end - at > ANSWER_BYTES_MAX:
            raise Refused(400, "an answer that is too large")
        if end > len(data):
            break
        found.append(
            PlainAnswer(int(status), None if number is None else int(number), _without(match, data[at:end], at))
        )
        at = end
    return found, data[at:]


def closing(data: bytes) -> bytes:
    """A plain answer that says it is the connection's last."""
    return data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)


def _without(match: re.Match[bytes], answer: bytes, at: int) -> bytes:
    # ``answer`` begins at ``at`` of what was matched; out of it what is of that connection alone
    for start, end in sorted((match.span(3), match.span(4)), reverse=True):
        if start >= 0:
            answer = answer[: start - at] + answer[end - at :]
    return answer


@lru_cache(maxsize=64)  # of the names that the configuration asks for
def _values_of(name: bytes) -> Callable[[bytes], list[bytes]]:
    return re.compile(rb"\n" + re.escape(name) + rb":[\t ]*+([^\r]*+)", re.IGNORECASE).findall
