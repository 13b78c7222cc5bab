# What a client may send, and the precise refusal of everything else; the same however its bytes are split.
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadbalancer.http1.grammar import FIELDS_MAX, HEAD_BYTES_MAX, LINE_BYTES_MAX, Refused
from loadbalancer.http1.head import RequestHead
from loadbalancer.http1.reader import END, RequestReader

BODY_MAX = 1000

Told = tuple[list[tuple[bytes, bytes, bytes]], int | None, bytes]  # messages, refused with, unread


def tell(pieces: list[bytes]) -> Told:
    """Every request in ``pieces`` as (method, target, body), the status of the refusal, and what was left."""
    reader = RequestReader(BODY_MAX)
    messages: list[tuple[bytes, bytes, bytes]] = []
    head, body = None, b""
    for piece in pieces:
        reader.feed(piece)
        try:
            while (event := reader.read()) is not None:
                if isinstance(event, RequestHead):
                    head, body = event, b""
                elif event is END:
                    assert head is not None
                    messages.append((head.method, head.target, body))
                    head = None
                else:
                    assert isinstance(event, bytes)
                    assert event
                    body += event
        except Refused as refusal:
            return messages, refusal.status, body if head else b""
    return messages, None, body if head else b""


def everywhere(data: bytes) -> Told:
    """What ``data`` says, having checked that it says so under every split in two, and byte by byte."""
    whole = tell([data])
    assert tell([data[i : i + 1] for i in range(len(data))]) == whole
    if len(data) < 600:
        for i in range(1, len(data)):
            assert tell([data[:i], data[i:]]) == whole, data[:i]
    return whole


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: shop\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def post(body: bytes, *fields: bytes) -> bytes:
    return get(*fields, line=b"POST /p HTTP/1.1") + body


CHUNKED = b"Transfer-Encoding: chunked"

GOOD: list[tuple[bytes, list[tuple[bytes, bytes, bytes]]]] = [
    (get(), [(b"GET", b"/", b"")]),
    (b"\r\n" + get(), [(b"GET", b"/", b"")]),
    (get() + get(line=b"HEAD /x HTTP/1.1"), [(b"GET", b"/", b""), (b"HEAD", b"/x", b"")]),
    (b"GET / HTTP/1.0\r\n\r\n", [(b"GET", b"/", b"")]),
    (get(line=b"FOO /%00/../\\?a=b&c HTTP/1.1"), [(b"FOO", b"/%00/../\\?a=b&c", b"")]),
    (get(line=b"OPTIONS * HTTP/1.1"), [(b"OPTIONS", b"*", b"")]),
    (get(line=b"GET http://there:80/p?q HTTP/1.1"), [(b"GET", b"/p?q", b"")]),
    (get(line=b"GET http://there HTTP/1.1"), [(b"GET", b"/", b"")]),
    (get(line=b"GET HTTP://there?q HTTP/1.1"), [(b"GET", b"/?q", b"")]),
    (get(line=b"OPTIONS http://there HTTP/1.1"), [(b"OPTIONS", b"*", b"")]),
    (get(host=b"hOsT:\t [::1]:80 \r\n"), [(b"GET", b"/", b"")]),
    (get(b"Empty:", b"X: \t a\xffb \t"), [(b"GET", b"/", b"")]),
    (get(b"Upgrade: websocket", b"Connection: Upgrade"), [(b"GET", b"/", b"")]),
    (get(b"Connection: keep-alive, , X-Foo"), [(b"GET", b"/", b"")]),
    (post(b"hello", b"Content-Length: 5"), [(b"POST", b"/p", b"hello")]),
    (post(b"", b"Content-Length: 0") + get(), [(b"POST", b"/p", b""), (b"GET", b"/", b"")]),
    (get(b"Content-Length: 5") + b"hello" + get(), [(b"GET", b"/", b"hello"), (b"GET", b"/", b"")]),
    (post(b"x" * BODY_MAX, b"Content-Length: 1000"), [(b"POST", b"/p", b"x" * BODY_MAX)]),
    (post(b"5\r\nhello\r\n0\r\n\r\n" + get(), CHUNKED), [(b"POST", b"/p", b"hello"), (b"GET", b"/", b"")]),
    (post(b"00005\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n", CHUNKED), [(b"POST", b"/p", b"hello0123456789")]),
    (post(b'1;a=b;c="d\\"e"\r\nx\r\n0;z\r\nTrailer: x\r\nHost: y\r\n\r\n', CHUNKED), [(b"POST", b"/p", b"x")]),
    (post(b"0\r\n\r\n", b"transfer-encoding: \tCHUNKED "), [(b"POST", b"/p", b"")]),
    (get(*[b"X: y"] * (FIELDS_MAX - 1)), [(b"GET", b"/", b"")]),
]


@pytest.mark.parametrize(("data", "messages"), GOOD)
def test_what_is_well_formed_is_read_the_same_however_it_is_split(
    data: bytes, messages: list[tuple[bytes, bytes, bytes]]
) -> None:
    assert everywhere(data) == (messages, None, b"")


BAD: list[tuple[int, bytes]] = [
    # lines
    (400, b"GET / HTTP/1.1\nHost: shop\n\n"),
    (400, b"\n" + get()),
    (400, b"\r\n\r\n" + get()),
    (400, b"GET / HTTP/1.1\r\nHost: shop\nX: y\r\n\r\n"),
    (400, b"GET / HTTP/1.1\rHost: shop\r\r\n"),
    (400, get(b"X: a\rTransfer-Encoding: chunked")),
    (400, get(b"X: a\nTransfer-Encoding: chunked")),
    (400, get(b"X: a\r")),
    (400, b"GET / HTTP/1.1\r\nHost: shop\r\n\r\r\n"),
    # the request line
    (400, b"GET /\r\n"),
    (400, get(line=b"GET  / HTTP/1.1")),
    (400, get(line=b"GET\t/\tHTTP/1.1")),
    (400, get(line=b"GET / HTTP/1.1 ")),
    (400, get(line=b" GET / HTTP/1.1")),
    (400, get(line=b"GET / http/1.1")),
    (400, get(line=b"GET / HTTP/1")),
    (400, get(line=b"GET / HTTP/01.1")),
    (400, get(line=b"GET / HTTP/1.10")),
    (400, get(line=b"GET / RTSP/1.0")),
    (505, get(line=b"GET / HTTP/1.2")),
    (505, get(line=b"GET / HTTP/2.0")),
    (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (400, get(line=b"GET /#fragment HTTP/1.1")),
    (400, get(line=b"GET /a\x00 HTTP/1.1")),
    (400, get(line=b"GET /\xc3\xa9 HTTP/1.1")),
    (400, get(line=b"GET * HTTP/1.1")),
    (400, get(line=b"GET shop/ HTTP/1.1")),
    (400, get(line=b"GET https://there/ HTTP/1.1")),
    (400, get(line=b"GET http:/x HTTP/1.1")),
    (400, get(line=b"GET http://u@there/ HTTP/1.1")),
    (400, get(line=b"G(T / HTTP/1.1")),
    (400, get(line=b"X" * 33 + b" / HTTP/1.1")),
    (501, get(line=b"get / HTTP/1.1")),
    (405, get(line=b"CONNECT shop:443 HTTP/1.1")),
    (405, get(line=b"TRACE / HTTP/1.1")),
    (414, get(line=b"GET /" + b"a" * LINE_BYTES_MAX + b" HTTP/1.1")),
    (414, b"A" * (LINE_BYTES_MAX + 1)),
    # fields
    (400, get(b" Folded: first", host=b"")),
    (400, get(b"X: a", b" folded")),
    (400, get(b"X: a", b"\tfolded")),
    (400, get(b"Content-Length : 5")),
    (400, get(b"Transfer-Encoding\t: chunked")),
    (400, get(b"no colon")),
    (400, get(b": no name")),
    (400, get(b"X[]: y")),
    (400, get(b"X\x00: y")),
    (400, get(b"Transf\x82r: y")),
    *[(400, get(b"X: a" + bytes([c]) + b"b")) for c in [*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F]],
    (431, get(b"X: " + b"a" * LINE_BYTES_MAX)),
    (431, get(*[b"X: y"] * FIELDS_MAX)),
    (431, get(*[b"X: " + b"a" * 4000] * 5)),
    (431, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000),
    # host
    (400, get(host=b"")),
    (400, get(b"Host: shop")),
    (400, get(b"Host: other")),
    (400, b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
    *[
        (400, get(host=b"Host: " + host + b"\r\n"))
        for host in (b"", b"a,b", b"u@h", b"h/p", b"h:99999", b"h:", b"[::1", b"h h", b"a#b")
    ],
    # where a body ends
    (400, post(b"0\r\n\r\nX", b"Content-Length: 6", CHUNKED)),
    (400, post(b"0\r\n\r\nX", CHUNKED, b"Content-Length: 6")),
    (400, post(b"hello", b"Content-Length: 5", b"Content-Length: 5")),
    (400, post(b"hello", b"Content-Length: 5", b"Content-Length: 6")),
    *[
        (400, post(b"hello", b"Content-Length: " + length))
        for length in (b"", b"+5", b"-1", b"-0", b"0x5", b"5_0", b"5Z", b'"5"', b"5;", b"5 0", b"5, 5", b"05", b"00")
    ],
    (413, post(b"", b"Content-Length: 1001")),
    (413, post(b"", b"Content-Length: 18446744073709551616")),
    (413, post(b"", b"Content-Length: " + b"9" * 3000)),
    (400, post(b"", b"Content_Length: 5")),
    (400, post(b"", b"Transfer_Encoding: chunked")),
    (400, post(b"", CHUNKED, CHUNKED)),
    *[
        (400, post(b"", b"Transfer-Encoding: " + coding))
        for coding in (
            b"",
            b",chunked",
            b"chunked,",
            b"chunked, chunked",
            b"chunked, identity",
            b"chunked;ext=1",
            b'"chunked"',
            b"\xffchunked",
        )
    ],
    *[
        (501, post(b"", b"Transfer-Encoding: " + coding))
        for coding in (b"gzip, chunked", b"gzip", b"identity", b"xchunked", b"'chunked'")
    ],
    (400, b"POST / HTTP/1.0\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n"),
    *[
        (400, post(size + b"\r\nhello\r\n0\r\n\r\n", CHUNKED))
        for size in (b"", b"0x5", b"+5", b"-5", b"5_0", b" 5", b"5 ", b"5;", b"5;a=", b"5;[", b'5;a="\r\n"', b"5;a\x00")
    ],
    (400, post(b"00000000000005\r\nhello\r\n0\r\n\r\n", CHUNKED)),
    (400, post(b"FFFFFFFFFFFFFFFFF\r\n", CHUNKED)),
    (400, post(b"5\nhello\r\n0\r\n\r\n", CHUNKED)),
    (400, post(b"5;" + b"a" * 300 + b"\r\nhello\r\n", CHUNKED)),
    (400, post((b"1;" + b"a" * 200 + b"\r\nx\r\n") * 30, CHUNKED)),
    (413, post(b"3E9\r\n", CHUNKED)),
    (413, post(b"3E8\r\n" + b"x" * BODY_MAX + b"\r\n1\r\nx\r\n", CHUNKED)),
    (400, post(b"5\r\nhello!\r\n0\r\n\r\n", CHUNKED)),
    (400, post(b"5\r\nhello\n0\r\n\r\n", CHUNKED)),
    (400, post(b"5\r\nhello\rX0\r\n\r\n", CHUNKED)),
    (400, post(b"0\r\nno colon\r\n\r\n", CHUNKED)),
    (431, post(b"0\r\n" + b"X: y\r\n" * 2000, CHUNKED)),
    (431, post(b"0\r\nX: " + b"y" * LINE_BYTES_MAX, CHUNKED)),
    # what the connection may and may not say
    *[
        (400, get(b"Connection: " + name))
        for name in (
            b"Host",
            b"close, Content-Length",
            b"Cookie",
            b"Authorization",
            b"Idempotency-Key",
            b"X-Forwarded-For",
            b"a b",
        )
    ],
    (417, post(b"", b"Content-Length: 5", b"Expect: 200-ok")),
    (417, post(b"", b"Content-Length: 5", b"Expect: 100-continue, x")),
]


@pytest.mark.parametrize(("status", "data"), BAD)
def test_what_is_not_is_refused_the_same_however_it_is_split(status: int, data: bytes) -> None:
    messages, refused, _ = everywhere(data)
    assert (messages, refused) == ([], status)


def test_a_good_request_before_a_bad_one_is_taken() -> None:
    assert everywhere(get() + b"G T / HTTP/1.1\r\n\r\n") == ([(b"GET", b"/", b"")], 400, b"")


def test_the_largest_head_is_taken_and_one_byte_more_is_not() -> None:
    def head(size: int) -> bytes:
        long = [b"A: " + b"a" * 8000, b"B: " + b"b" * 8000]
        return get(*long, b"C: " + b"c" * (size - len(get(*long, b"C: "))))

    assert len(head(HEAD_BYTES_MAX)) == HEAD_BYTES_MAX
    assert everywhere(head(HEAD_BYTES_MAX))[1] is None
    assert everywhere(head(HEAD_BYTES_MAX + 1))[1] == 431


def test_what_a_head_says() -> None:
    reader = RequestReader(BODY_MAX)
    reader.feed(
        b"POST http://There:81/p HTTP/1.1\r\nHost: elsewhere\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: 2\r\nA_B: c\r\n"
        b"Connection: close, X-Foo\r\nExpect: 100-Continue\r\n\r\n"
    )
    head = reader.read()
    assert isinstance(head, RequestHead)
    assert head.host == b"There:81", "the URL says where to, and Host is not looked at"
    assert head.values[b"x-a"] == b"1, 2"
    assert b"a_b" not in head.values, "a server may read it as A-B"
    assert (head.closes, head.nominated, head.expects_continue) == (True, frozenset({b"x-foo"}), True)


def test_a_client_of_http_1_0_is_not_kept() -> None:
    reader = RequestReader(BODY_MAX)
    reader.feed(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head = reader.read()
    assert isinstance(head, RequestHead)
    assert head.closes


FRAGMENTS = [
    *(data for data, _ in GOOD),
    *(data for _, data in BAD if len(data) < 300),
    *(b"\r\n", b"\r", b"\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b": ", b"\x00", b"GET / HTTP/1.1\r\n", b"Host: a\r\n"),
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=4), max_size=6), st.data())
def test_any_bytes_say_the_same_under_any_split(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert tell(pieces) == tell([whole])
