"""A second opinion: the requests that a strict reader may take out of a client's stream, the answer out of a server's.

It shares no code with ours, has no limits and no taste, only the grammar and the rules of framing. So ours may refuse what this
takes, and must not take what this does not.
"""

import re

from tests.attacks import Request

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_line = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/1\.([01])").fullmatch
_field = re.compile(rb"(" + _TOKEN + rb"):([\t -~\x80-\xff]*)").fullmatch
_size = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t -~\x80-\xff]*)?").fullmatch
_status = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t -~\x80-\xff]*)?").fullmatch
_absolute = re.compile(rb"[Hh][Tt][Tt][Pp]://[^/?]+(.*)").fullmatch


class _NoMessage(Exception):  # noqa: N818 - what was found
    """Here is none, or not the whole of it."""


def requests(data: bytes) -> tuple[list[Request], bool]:
    """The requests, and whether the last of them asks for the end of its connection."""
    taken: list[Request] = []
    try:
        while True:
            request, data, closes = _take(data.removeprefix(b"\r\n"))
            taken.append(request)
            if closes:
                return taken, True
    except _NoMessage:
        return taken, False


def answer(data: bytes, *, ends: bool) -> tuple[int, bytes] | None:
    """The status and body of the first final answer to a GET in ``data``, behind which the connection ends, or does not; None
    if there is none, or not the whole of it.
    """
    try:
        while True:
            lines, data = _lines(data)
            match = _status(lines[0]) if lines else None
            if match is None or match[2] == b"101":
                return None
            values = _values(lines[1:])
            status = int(match[2])
            if status >= 200:
                break
        lengths, codings = values.get(b"content-length", []), values.get(b"transfer-encoding", [])
        if status in {204, 304}:
            return status, b""
        if lengths or codings:
            return status, _body(lengths, codings, match[1], data)[0]
    except _NoMessage:
        return None
    return (status, data) if ends else None


def _lines(data: bytes) -> tuple[list[bytes], bytes]:
    # up to an empty line, which is not among them
    lines: list[bytes] = []
    while True:
        line, end, data = data.partition(b"\r\n")
        if not end or b"\r" in line or b"\n" in line:
            raise _NoMessage
        if not line:
            return lines, data
        lines.append(line)


def _take(data: bytes) -> tuple[Request, bytes, bool]:
    lines, rest = _lines(data)
    match = _line(lines[0]) if lines else None
    if match is None:
        raise _NoMessage
    method, target, minor = match.groups()
    values = _values(lines[1:])
    hosts = len(values.get(b"host", []))
    if hosts > 1 or (minor == b"1" and not hosts) or method in {b"CONNECT", b"TRACE"}:
        raise _NoMessage
    body, rest = _body(values.get(b"content-length", []), values.get(b"transfer-encoding", []), minor, rest)
    words = b",".join(values.get(b"connection", [])).lower().split(b",")
    closes = minor == b"0" or b"close" in [word.strip(b" \t") for word in words]
    return (method, _target(method, target), body), rest, closes


def _values(lines: list[bytes]) -> dict[bytes, list[bytes]]:
    values: dict[bytes, list[bytes]] = {}
    for line in lines:
        field = _field(line)
        if field is None:
            raise _NoMessage
        values.setdefault(field[1].lower(), []).append(field[2].strip(b" \t"))
    return values


def _target(method: bytes, target: bytes) -> bytes:
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    absolute = _absolute(target)
    if absolute is None:
        raise _NoMessage
    path = absolute[1]
    if not path and method == b"OPTIONS":
        return b"*"
    return path if path.startswith(b"/") else b"/" + path


def _body(lengths: list[bytes], codings: list[bytes], minor: bytes, data: bytes) -> tuple[bytes, bytes]:
    if len(lengths) + len(codings) > 1:
        raise _NoMessage
    if codings:
        if codings[0].lower() != b"chunked" or minor == b"0":
            raise _NoMessage
        return _chunks(data)
    if not lengths:
        return b"", data
    if re.fullmatch(rb"0|[1-9][0-9]*", lengths[0]) is None or len(data) < int(lengths[0]):
        raise _NoMessage
    return data[: int(lengths[0])], data[int(lengths[0]) :]


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        match = _size(line)
        if not end or match is None:
            raise _NoMessage
        size = int(match[1], 16)
        if not size:
            trailers, data = _lines(data)
            if None in map(_field, trailers):
                raise _NoMessage
            return body, data
        if data[size : size + 2] != b"\r\n":
            raise _NoMessage
        body += data[:size]
        data = data[size + 2 :]
