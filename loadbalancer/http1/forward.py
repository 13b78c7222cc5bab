"""Heads as they leave: framing written anew, fields of the other connection left behind."""

from loadbalancer.http1.head import NO_BODY, UNTIL_CLOSE, Field, RequestHead, ResponseHead
from loadbalancer.http1.plain import PlainRequest

VIA = b"1.1 loadbalancer"
LAST_CHUNK = b"0\r\n\r\n"

# Link-Sequence numbers the requests on one connection to a server: a stranger's would be taken for the balancer's own.
HOP_BY_HOP = frozenset(
    b"connection keep-alive te trailer transfer-encoding content-length upgrade link-sequence".split()
)
# Written by us or by nobody: a client that says from where it comes is not believed.
REPLACED = HOP_BY_HOP | {b"host", b"expect", b"forwarded", b"x-real-ip", b"http2-settings"}


def forwarded(client: bytes) -> bytes:
    """What every request of the client at the address ``client`` says last, and the end of its head."""
    return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: http\r\nVia: %b\r\n\r\n" % (client, VIA)


def request(head: RequestHead | PlainRequest, authority: bytes, last: bytes, *, is_resent: bool) -> bytes:
    """The head to send to the server at ``authority``; ``last`` is made by ``forwarded``."""
    if isinstance(head, PlainRequest) and not is_resent:
        return head.lines + last
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
    parts.append(last)
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
