"""What a broken or hostile server answers, and what a client may see of it. The rows go on where tests/attacks.py ends."""

from typing import NamedTuple

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
POISON = OK + b"Content-Length: 6\r\n\r\npoison"


class Hostile(NamedTuple):
    """``data`` is answered to ``method``, and ``closes`` ends the connection behind it. A client gets an answer of ``status``
    with ``body``; or, with ``is_cut``, its head and not the end. ``is_kept``: the connection may carry another request.
    """

    row: int
    name: str
    data: bytes
    status: int = 502
    body: bytes = b""
    method: bytes = b"GET"
    is_cut: bool = False
    is_kept: bool = False
    closes: bool = False


def _refused(row: int, name: str, *answers: bytes) -> list[Hostile]:
    return [Hostile(row, name, data) for data in answers]


ANSWERS: list[Hostile] = [
    Hostile(0, "plain", OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi", is_kept=True),
    Hostile(0, "plain, and the end", OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi", closes=True),
    Hostile(0, "chunks", CHUNKED + b"2\r\nhi\r\n0\r\nX: y\r\n\r\n", 200, b"hi", is_kept=True),
    *_refused(41, "two lengths", OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!", OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi"),
    *_refused(41, "a length that is no number", *[OK + b"Content-Length: %b\r\n\r\nhi" % length for length in (b"+2", b"2, 2", b"02", b"", b"0x2", b"-1", b"9" * 20)]),
    *_refused(42, "a length and chunks", OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n"),
    *_refused(42, "chunks in HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    *_refused(43, "folded", OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n", OK + b"Content-Length:\r\n 0\r\n\r\n"),
    *_refused(43, "lines that end with LF", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", OK + b"X: y\nContent-Length: 0\r\n\r\n"),
    *_refused(43, "space before the colon", OK + b"Content-Length : 0\r\n\r\n", OK + b"X\t: y\r\nContent-Length: 0\r\n\r\n"),
    *_refused(43, "control characters", OK + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n", OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n", OK + b"X\xff: y\r\nContent-Length: 0\r\n\r\n"),
    *_refused(44, "a status that is none", *[b"HTTP/1.1 %b OK\r\nContent-Length: 0\r\n\r\n" % status for status in (b"1000", b"99", b"2x0", b"000", b"600", b"-20", b" 200")]),
    *_refused(44, "no HTTP/1.1", b"SSH-2.0-x\r\n\r\n", b"ICY 200 OK\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n", b"\r\n" + POISON),
    Hostile(45, "a body too short", OK + b"Content-Length: 10\r\n\r\nhalf", 200, b"half", is_cut=True, closes=True),
    Hostile(45, "no last chunk", CHUNKED + b"4\r\nhalf\r\n", 200, b"half", is_cut=True, closes=True),
    Hostile(45, "half a last chunk", CHUNKED + b"4\r\nhalf\r\n0\r\n", 200, b"half", is_cut=True, closes=True),
    Hostile(45, "half a chunk", CHUNKED + b"8\r\nhalf", 200, b"half", is_cut=True, closes=True),
    Hostile(46, "a body too long", OK + b"Content-Length: 2\r\n\r\nhi!", 200, b"hi"),
    Hostile(46, "a second answer", OK + b"Content-Length: 2\r\n\r\nhi" + POISON, 200, b"hi"),
    Hostile(46, "a second answer behind chunks", CHUNKED + b"2\r\nhi\r\n0\r\n\r\n" + POISON, 200, b"hi"),
    Hostile(47, "eight interim answers", INTERIM * 8 + OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi", is_kept=True),
    *_refused(47, "a hundred interim answers", INTERIM * 100 + POISON),
    *_refused(48, "another protocol", b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + POISON),
    *_refused(49, "a field of a megabyte", OK + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n"),
    *_refused(49, "fields without end", OK + b"X: y\r\n" * 20_000 + b"\r\n"),
    *_refused(49, "a reason of a megabyte", b"HTTP/1.1 200 " + b"y" * 1_000_000 + b"\r\n\r\n"),
    *[Hostile(50, "a chunk that is none", CHUNKED + b"4\r\nhalf" + wrong + POISON, 200, b"half", is_cut=True)
      for wrong in (b"X\r\n", b"\n0\r\n\r\n", b"\r\nzz\r\n", b"\r\n0x0\r\n\r\n", b"\r\n\r\n", b"\r\n-1\r\n", b"\r\n" + b"F" * 16 + b"\r\n", b"\r\n4;" + b"x" * 300 + b"\r\n", b"\r\n0\r\nno colon\r\n\r\n")],
    Hostile(52, "204 with a body", b"HTTP/1.1 204 No\r\nContent-Length: 6\r\n\r\npoison", 204),
    Hostile(52, "204 with chunks", b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n6\r\npoison\r\n0\r\n\r\n", 204),
    Hostile(52, "304 with a body", b"HTTP/1.1 304 No\r\nContent-Length: 6\r\n\r\npoison", 304),
    Hostile(52, "HEAD with a body", POISON, 200, method=b"HEAD"),
    Hostile(52, "HEAD with chunks", CHUNKED + b"6\r\npoison\r\n0\r\n\r\n", 200, method=b"HEAD"),
    Hostile(52, "HEAD without a body", OK + b"Content-Length: 6\r\n\r\n", 200, method=b"HEAD", is_kept=True),
    *_refused(53, "another coding", *[OK + b"Transfer-Encoding: %b\r\n\r\npoison" % coding for coding in (b"gzip", b"gzip, chunked", b"chunked, gzip", b"identity", b"", b"chunked, chunked")]),
    Hostile(54, "until the end", OK + b"\r\nuntil the end", 200, b"until the end", closes=True),
    Hostile(54, "until the end, HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end", closes=True),
    Hostile(54, "HTTP/1.0 that says it stays", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi"),
    Hostile(54, "the end is announced", OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi"),
    Hostile(56, "nothing, and the end", b"", 502, closes=True),
]  # fmt: skip
