"""What a head may look like, and the precise refusal of one that does not.

A good head costs one regular expression. A bad one is walked line by line, in order, so that the refusal names the first
thing wrong and is the same however the bytes were split on their way.
"""

import re
from typing import NoReturn

HEAD_BYTES_MAX = 16 * 1024  # both proxies people know use one such buffer; a browser's cookies fit
LINE_BYTES_MAX = 8 * 1024  # RFC 9112 asks for 8000
FIELDS_MAX = 100


class Refused(Exception):  # noqa: N818 - a verdict about a message, not a mishap of ours
    """A message that is not taken. ``status`` is what a client is to hear; from a server it means a bad gateway."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
VALUE = rb"[\t\x20-\x7e\x80-\xff]"
# Printable ASCII without '#': a fragment never leaves the browser that knows what a request is.
REQUEST_LINE = rb"(" + TOKEN + rb"{1,32}+) ([\x21\x22\x24-\x7e]++) HTTP/1\.([01])\r\n"
STATUS_LINE = rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: (" + VALUE + rb"*+))?\r\n"
FIELD_LINE = TOKEN + rb"++:" + VALUE + rb"*+\r\n"

_request_line = re.compile(REQUEST_LINE)
_status_line = re.compile(STATUS_LINE)
_field_line = re.compile(FIELD_LINE)
match_request = re.compile(REQUEST_LINE + rb"((?:" + FIELD_LINE + rb")*+)\r\n").fullmatch
match_response = re.compile(STATUS_LINE + rb"((?:" + FIELD_LINE + rb")*+)\r\n").fullmatch
split_fields = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n").findall
is_token = re.compile(TOKEN + rb"++").fullmatch
is_field_line = _field_line.fullmatch

_version = re.compile(rb".* HTTP/([0-9])\.([0-9])\r\n", re.DOTALL)


def judge_line(line: bytes, number: int, *, of_request: bool) -> None:
    """Raise Refused if ``line``, the ``number``-th of a head (0 is the first) with its line end, is not well-formed."""
    judge_length(len(line), number, of_request=of_request)
    if number > FIELDS_MAX and line != b"\r\n":
        raise Refused(431, f"more than {FIELDS_MAX} header fields")
    if line[-2:] != b"\r\n":
        raise Refused(400, "a line ends with LF alone")
    if b"\r" in line[:-2]:
        raise Refused(400, "CR without LF")
    if number == 0:
        _judge_first(line, of_request=of_request)
    elif line != b"\r\n" and _field_line.fullmatch(line) is None:
        _refuse_field(line)


def judge_length(length: int, number: int, *, of_request: bool) -> None:
    """Raise Refused if a line is too long, which shows before its end does."""
    if length > LINE_BYTES_MAX:
        if of_request and number == 0:
            raise Refused(414, f"the request line is longer than {LINE_BYTES_MAX} bytes")
        raise Refused(431, f"a header line is longer than {LINE_BYTES_MAX} bytes")


def judge_head(head: bytes, *, of_request: bool) -> None:
    """Raise Refused for the first line of ``head`` that is not well-formed."""
    for number, line in enumerate(_lines(head)):
        judge_line(line, number, of_request=of_request)


def _lines(head: bytes) -> list[bytes]:
    # LF alone ends a line here: bytes.splitlines would also break at a lone CR
    return [line + b"\n" for line in head.split(b"\n")[:-1]]


def _judge_first(line: bytes, *, of_request: bool) -> None:
    if not of_request:
        if _status_line.fullmatch(line) is None:
            raise Refused(400, "not a status line of HTTP/1.1")
        return
    if _request_line.fullmatch(line) is not None:
        return
    version = _version.fullmatch(line)
    if version is not None and (version[1] != b"1" or version[2] not in b"01"):
        raise Refused(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    raise Refused(400, "the request line is not 'METHOD target HTTP/1.1'")


def _refuse_field(line: bytes) -> NoReturn:
    if line[:1] in b" \t":
        raise Refused(400, "a header field is folded over several lines")
    name, colon, value = line[:-2].partition(b":")
    if not colon:
        raise Refused(400, "a header line without a colon")
    if name != name.rstrip(b" \t"):
        raise Refused(400, "white space between a field's name and its colon")
    if is_token(name) is None:
        raise Refused(400, "a field name with characters that no name may have")
    assert re.search(rb"[^\t\x20-\x7e\x80-\xff]", value)
    raise Refused(400, "a field value with control characters")
