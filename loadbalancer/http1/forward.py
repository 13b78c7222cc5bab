"""Heads as they leave: framing written anew, fields of the other connection left behind."""

import re
from typing import NamedTuple

from loadbalancer.http1.head import NO_BODY, UNTIL_CLOSE, Field, RequestHead, ResponseHead
from loadbalancer.http1.plain import PlainRequest

LAST_CHUNK = b"0\r\n\r\n"

# Link-Sequence numbers the requests on one connection to a server: a stranger's would be taken for the balancer's own.
HOP_BY_HOP = frozenset(
    b"connection keep-alive te trailer transfer-encoding content-length upgrade link-sequence".split()
)
# Written by us or by nobody: a client that says from where it comes is not believed.
REPLACED = HOP_BY_HOP | {b"host", b"expect", b"forwarded", b"x-real-ip", b"x-request-id", b"http2-settings"}
_is_request_id = re.compile(rb"[A-Za-z0-9._+/=@:-]{8,128}").fullmatch


class Sender(NamedTuple):
    """What is known of a client, for all its requests."""

    address: bytes
    proto: bytes  # http or https
    via: bytes  # this balancer's own name, by which it knows a request that it had before
    is_trusted: bool  # a proxy of ours: what it says of its clients is believed

    @property
    def lines(self) -> bytes:
        """What those requests say last that say nothing of where they come from."""
        return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nVia: 1.1 %b\r\n" % (self.address, self.proto, self.via)

    def lines_of(self, head: RequestHead) -> bytes:
        """What this request says last: of a proxy of ours its own words, and its address behind those before it."""
        said = head.values
        before = said.get(b"x-forwarded-for")
        host = said.get(b"x-forwarded-host")
        return b"X-Forwarded-For: %b%b\r\nX-Forwarded-Proto: %b\r\n%bVia: 1.1 %b\r\n" % (
            before + b", " if before else b"",
            self.address,
            said.get(b"x-forwarded-proto") or self.proto,
            b"X-Forwarded-Host: %b\r\n" % host if host else b"",
            self.via,
        )


def request_id(head: RequestHead) -> bytes:
    """The id that a proxy of ours gave it, if it is one."""
    said = head.values.get(b"x-request-id", b"")
    return said if _is_request_id(said) else b""


def last(lines: bytes, number: bytes) -> bytes:
    """The end of a request's head: ``lines`` of its sender, and the id it is known by."""
    return b"%bX-Request-Id: %b\r\n\r\n" % (lines, number)


def request(head: RequestHead | PlainRequest, authority: bytes, end: bytes, *, is_resent: bool) -> bytes:
    """The head to send to the server at ``authority``; ``end`` is made by ``last``."""
    if isinstance(head, PlainRequest) and not is_resent:
        return head.lines + end
    parts = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (head.method, head.target, head.host or authority)]
    for lower, name, value in head.fields:
        if lower in REPLACED or lower in head.nominated or lower.startswith((b"x-forwarded-", b"proxy-")):
            continue
        parts.append(b"%b: %b\r\n" % (name, value))
    if head.framing.chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    elif head.framing is not NO_BODY or b"content-length" in head.values:
        parts.append(b"Content-Length: %d\r\n" % (head.framing.length or 0))
    if head.expects_continue:
        parts.append(b"Expect: 100-continue\r\n")
    if is_resent and b"retry-attempt" not in head.values:  # a client that counts its own says more
        parts.append(b"Retry-Attempt: 1\r\n")
    parts.append(end)
    return b"".join(parts)


def response(head: ResponseHead, *, to_minor: int, closes: bool) -> bytes:
    """The head to send to a client that speaks HTTP/1.``to_minor``; ``closes`` if the connection ends with this answer."""
    parts = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason), *_end_to_end(head.fields, head.nominated)]
    if not head.is_interim:
        if head.framing is UNTIL_CLOSE or head.framing.chunked:
            if to_minor:
                parts.append(b"Transfer-Encoding: chunked\r\n")
        elif head.length is not None and head.status != 204:
            parts.append(b"Content-Length: %d\r\n" % head.length)
        if closes:
            parts.append(b"Connection: close\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def is_chunked_to(head: ResponseHead, to_minor: int) -> bool:
    """Does the answer leave in chunks? One that ends with the server's connection does too: its end then shows."""
    return bool(to_minor) and (head.framing is UNTIL_CLOSE or head.framing.chunked)


def chunk(payload: bytes) -> bytes:
    """``payload``, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def _end_to_end(fields: list[Field], nominated: frozenset[bytes]) -> list[bytes]:
    return [
        b"%b: %b\r\n" % (name, value)
        for lower, name, value in fields
        if lower not in HOP_BY_HOP and lower not in nominated and not lower.startswith(b"proxy-")
    ]
