"""A head understood: what it asks for, how its body is framed, and whether the connection lives on."""

import re
from typing import NamedTuple

from loadbalancer.http1 import grammar
from loadbalancer.http1.grammar import FIELDS_MAX, LINE_BYTES_MAX, Refused, is_token

Field = tuple[bytes, bytes, bytes]  # lower-case name, name as it came, value

_is_length = re.compile(rb"0|[1-9][0-9]*").fullmatch
_is_host = re.compile(rb"((?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~%-]{1,255}))(?::([0-9]{1,5}))?").fullmatch
_absolute = re.compile(rb"http://([^/?]+)(/?.*)", re.IGNORECASE).fullmatch

LENGTH_DIGITS_MAX = 15
# Naming one of these in Connection would make us drop what the server decides by.
END_TO_END = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"cookie", b"authorization", b"idempotency-key", b"forwarded")
)
FRAMING_LOOKALIKES = frozenset((b"content_length", b"transfer_encoding"))


class Framing(NamedTuple):
    """How a body ends: after ``length`` bytes, or by chunks, or (both unset, of an answer) with the connection."""

    length: int | None
    chunked: bool


NO_BODY = Framing(0, False)
CHUNKED = Framing(None, True)
UNTIL_CLOSE = Framing(None, False)


class RequestHead(NamedTuple):
    """A request as the balancer forwards it: ``target`` in origin form (or ``*``), ``host`` checked, empty in 1.0 alone."""

    method: bytes
    target: bytes
    minor: int
    host: bytes
    fields: list[Field]
    values: dict[bytes, bytes]
    framing: Framing
    nominated: frozenset[bytes]
    closes: bool
    expects_continue: bool

    @property
    def is_chunked(self) -> bool:
        """Does its body come in chunks?"""
        return self.framing.chunked

    def value(self, name: bytes) -> bytes | None:
        """One field's value by its lower-case name."""
        return self.values.get(name)


class ResponseHead(NamedTuple):
    """An answer of a server. ``length`` is the Content-Length it named, also where no body follows."""

    status: int
    reason: bytes
    fields: list[Field]
    values: dict[bytes, bytes]
    framing: Framing
    length: int | None
    nominated: frozenset[bytes]
    closes: bool

    @property
    def is_interim(self) -> bool:
        """Is the real answer still to come?"""
        return self.status < 200


def parse_request(raw: bytes, body_bytes_max: int) -> RequestHead:
    """The request head in ``raw``, which ends with its empty line. Raises Refused."""
    match = grammar.match_request(raw)
    if match is None or len(raw) > LINE_BYTES_MAX:
        grammar.judge_head(raw, of_request=True)
    assert match is not None, "a head that nothing is wrong with"
    method, target, version, lines = match.groups()
    fields, values = _fields(lines, of_request=True)
    minor = version[0] - 48
    _judge_method(method)
    target, host = _route(method, target, minor, values.get(b"host"))
    nominated, closes = _connection(values)
    if not nominated.isdisjoint(END_TO_END) or any(name.startswith(b"x-forwarded") for name in nominated):
        raise Refused(400, "Connection names a field that is not of the connection")
    framing = _request_framing(values, minor, body_bytes_max)
    expects = False
    if minor and (expectation := values.get(b"expect")) is not None:
        if expectation.lower() != b"100-continue":
            raise Refused(417, "the only expectation known is 100-continue")
        expects = framing != NO_BODY
    # RFC 9112, 9.3: no lasting connection with a client of HTTP/1.0, which may be a proxy that does not know the word
    return RequestHead(method, target, minor, host, fields, values, framing, nominated, closes or not minor, expects)


def parse_response(raw: bytes, method: bytes) -> ResponseHead:
    """The head of an answer to ``method`` in ``raw``, which ends with its empty line. Raises Refused."""
    match = grammar.match_response(raw)
    if match is None or len(raw) > LINE_BYTES_MAX:
        grammar.judge_head(raw, of_request=False)
    assert match is not None, "a head that nothing is wrong with"
    version, status_text, reason, lines = match.groups()
    status = int(status_text)
    fields, values = _fields(lines, of_request=False)
    nominated, closes = _connection(values)
    length = _length(values[b"content-length"]) if b"content-length" in values else None
    coding = values.get(b"transfer-encoding")
    if coding is not None and (length is not None or version == b"0"):
        raise Refused(400, "Transfer-Encoding together with Content-Length, or in HTTP/1.0")
    if status < 200 or status in {204, 304} or method == b"HEAD":
        framing = NO_BODY
    elif coding is not None:
        if coding.lower() != b"chunked":
            raise Refused(400, "a transfer coding other than chunked")
        framing = CHUNKED
    else:
        framing = UNTIL_CLOSE if length is None else Framing(length, False)
    closes = closes or version == b"0" or framing is UNTIL_CLOSE
    return ResponseHead(status, reason or b"", fields, values, framing, length, nominated, closes)


_ONCE = frozenset((b"content-length", b"transfer-encoding", b"host"))


def _fields(lines: bytes, *, of_request: bool) -> tuple[list[Field], dict[bytes, bytes]]:
    found = grammar.split_fields(lines)
    if len(found) > FIELDS_MAX:
        raise Refused(431, f"more than {FIELDS_MAX} header fields")
    fields: list[Field] = []
    values: dict[bytes, bytes] = {}
    for name, text in found:
        value = text.rstrip(b" \t")
        lower = name.lower()
        if lower in values:
            if lower in _ONCE:
                raise Refused(400, f"more than one {name.decode()}")
            values[lower] += b", " + value
        else:
            values[lower] = value
        if of_request and b"_" in lower:
            # The gateways behind us read '_' and '-' alike, so such a name could pose as another.
            if lower in FRAMING_LOOKALIKES:
                raise Refused(400, "a field that poses as the framing of the body")
            del values[lower]
            continue
        fields.append((lower, name, value))
    return fields, values


def _judge_method(method: bytes) -> None:
    if method in {b"CONNECT", b"TRACE"}:
        raise Refused(405, "this is neither a tunnel nor a mirror")
    if not method.isupper():
        raise Refused(501, "methods are written in capitals")


def _route(method: bytes, target: bytes, minor: int, host: bytes | None) -> tuple[bytes, bytes]:
    if host is None and minor:
        raise Refused(400, "Host is missing")
    if host is not None:
        _judge_host(host)
    if target[:1] == b"/":
        return target, host or b""
    if target == b"*" and method == b"OPTIONS":
        return target, host or b""
    absolute = _absolute(target)
    if absolute is None:
        raise Refused(400, "the target is neither a path nor an http URL")
    # RFC 9112, 3.2.2: then the URL says where to, and Host is not looked at
    host, path = absolute.groups()
    _judge_host(host)
    if path[:1] != b"/":
        path = b"*" if method == b"OPTIONS" and not path else b"/" + path
    return path, host


def _judge_host(host: bytes) -> None:
    match = _is_host(host)
    if match is None or (match[2] is not None and int(match[2]) > 65535):
        raise Refused(400, "Host is not a host")


def _connection(values: dict[bytes, bytes]) -> tuple[frozenset[bytes], bool]:
    text = values.get(b"connection")
    if text is None:
        return frozenset(), False
    options = {option for part in text.lower().split(b",") if (option := part.strip(b" \t"))}
    if not all(is_token(option) for option in options):
        raise Refused(400, "Connection is not a list of names")
    return frozenset(options - {b"close", b"keep-alive"}), b"close" in options


def _request_framing(values: dict[bytes, bytes], minor: int, body_bytes_max: int) -> Framing:
    coding = values.get(b"transfer-encoding")
    text = values.get(b"content-length")
    if coding is None:
        if text is None:
            return NO_BODY
        length = _length(text)
        if length > body_bytes_max:
            raise Refused(413, "the body is too large")
        return Framing(length, False) if length else NO_BODY
    if text is not None:
        raise Refused(400, "both Content-Length and Transfer-Encoding")
    if not minor:
        raise Refused(400, "Transfer-Encoding in HTTP/1.0")
    codings = [part.strip(b" \t") for part in coding.lower().split(b",")]
    if codings == [b"chunked"]:
        return CHUNKED
    # only the last coding may be chunked, and where it is another the end of the body cannot be known
    if not all(is_token(name) for name in codings) or b"chunked" in codings[:-1]:
        raise Refused(400, "not a list of transfer codings that ends in chunked")
    raise Refused(501, "the only transfer coding known is chunked")


def _length(text: bytes) -> int:
    if _is_length(text) is None:
        raise Refused(400, "Content-Length is not a number")
    if len(text) > LENGTH_DIGITS_MAX:
        raise Refused(413, "the body is too large")
    return int(text)
