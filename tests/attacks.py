"""What strangers send to have two readers of one stream disagree, and what must come of it: one table for every level.

The rows are numbered as in the list they come from; 0 is what is well-formed and must pass. Each is read by the reader
alone under every split, and sent through a real balancer to a server that records, and to other proxies.
"""

from typing import NamedTuple

BODY_MAX = 1000  # LB_BODY_MAX wherever these are sent
LINE_MAX = 8 * 1024
HEAD_MAX = 16 * 1024
FIELDS_MAX = 100

Request = tuple[bytes, bytes, bytes]  # method, target, body

CONTROLS = [*range(1, 9), *range(0x0B, 0x0D), *range(0x0E, 0x20), 0x7F]  # without NUL, TAB, LF and CR
CLIENTS_NUMBER = b"7"  # as a client would like to have it on a shared link
CHUNKED = b"Transfer-Encoding: chunked"


class Attack(NamedTuple):
    """``data`` is sent. ``passes`` are the requests a server may see of it; then comes ``refused``, a status and the end of
    the connection. With None nothing is refused: all of it was read, or, ``waits``, the last request never is complete.
    """

    row: int
    name: str
    data: bytes
    passes: tuple[Request, ...] = ()
    refused: int | None = None
    waits: bool = False

    @property
    def closes(self) -> bool:
        """Does its last good request ask for the end of the connection?"""
        return b"HTTP/1.0\r\n" in self.data or b"Connection: close" in self.data


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: shop\r\n") -> bytes:
    """A request without a body."""
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def post(body: bytes, *fields: bytes, line: bytes = b"POST /p HTTP/1.1") -> bytes:
    """A request with one, framed by ``fields``."""
    return get(*fields, line=line) + body


SMUGGLED = get(line=b"GET /smuggled HTTP/1.1")
GET_SMUGGLED = (b"GET", b"/smuggled", b"")
PLAIN = (b"GET", b"/", b"")
EMPTY = (b"POST", b"/p", b"")
HELLO = (b"POST", b"/p", b"hello")
LAST = b"0\r\n\r\n"


def _passes(row: int, name: str, data: bytes, *requests: Request, waits: bool = False) -> Attack:
    return Attack(row, name, data, requests, None, waits)


def _refused(row: int, name: str, status: int, *vectors: bytes) -> list[Attack]:
    return [Attack(row, name, data, (), status) for data in vectors]


def _head_of(size: int) -> bytes:
    long = [b"A: " + b"a" * 8000, b"B: " + b"b" * 8000]
    return get(*long, b"C: " + b"c" * (size - len(get(*long, b"C: "))))


def _generated() -> list[Attack]:
    """One byte at four places of a Transfer-Encoding: before and after its name, before and after its value."""
    attacks = []
    for byte in [*range(0x01, 0x20), *range(0x7F, 0x100)]:
        one = bytes([byte])
        for name, field in (
            ("before its name", one + CHUNKED),
            ("after its name", b"Transfer-Encoding" + one + b": chunked"),
            ("before its value", b"Transfer-Encoding:" + one + b"chunked"),
            ("after its value", CHUNKED + one),
        ):
            data = post(LAST + SMUGGLED, field)
            if byte == 0x09 and "value" in name:
                attacks.append(_passes(8, f"a byte {name}", data, EMPTY, GET_SMUGGLED))
            else:
                attacks += _refused(8, f"a byte {name}", 400, data)
    return attacks


def _codings(*codings: bytes) -> list[bytes]:
    return [post(LAST + SMUGGLED, b"Transfer-Encoding: " + coding) for coding in codings]


def _lengths(*lengths: bytes) -> list[bytes]:
    return [post(b"hello" + SMUGGLED, b"Content-Length: " + length) for length in lengths]


def _sizes(*sizes: bytes) -> list[bytes]:
    return [post(size + b"\r\nhello\r\n" + LAST + SMUGGLED, CHUNKED) for size in sizes]


WELL_FORMED: list[Attack] = [
    _passes(0, "plain", get(), PLAIN),
    _passes(0, "plain, HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", PLAIN),
    _passes(0, "an empty line first", b"\r\n" + get(), PLAIN),
    _passes(0, "two", get() + get(line=b"HEAD /x HTTP/1.1"), PLAIN, (b"HEAD", b"/x", b"")),
    _passes(0, "space around values", get(host=b"hOsT:\t [::1]:80 \r\n") + get(b"E:", b"X: \t a\xffb \t"), PLAIN, PLAIN),
    _passes(0, "a length", post(b"hello", b"Content-Length: 5") + get(), HELLO, PLAIN),
    _passes(0, "a length of nothing", post(b"", b"Content-Length: 0") + get(), EMPTY, PLAIN),
    _passes(0, "the largest body", post(b"x" * BODY_MAX, b"Content-Length: 1000"), (b"POST", b"/p", b"x" * BODY_MAX)),
    _passes(0, "chunks", post(b"5\r\nhello\r\n" + LAST, CHUNKED) + get(), HELLO, PLAIN),
    _passes(0, "a size in letters", post(b"a\r\n0123456789\r\nA\r\n0123456789\r\n" + LAST, CHUNKED), (b"POST", b"/p", b"0123456789" * 2)),
    _passes(0, "chunks with zeros before the size", post(b"00005\r\nhello\r\n" + LAST, CHUNKED), HELLO),
    _passes(0, "chunked, in capitals", post(LAST, b"transfer-encoding: \tCHUNKED "), EMPTY),
    _passes(0, "trailers", post(b"5\r\nhello\r\n0\r\nTrailer: x\r\nHost: y\r\n\r\n", CHUNKED), HELLO),
    _passes(0, "a request as a body", post(SMUGGLED, b"Content-Length: %d" % len(SMUGGLED)), (b"POST", b"/p", SMUGGLED)),
]  # fmt: skip

FRAMING: list[Attack] = [
    *_refused(1, "CL.TE", 400, post(b"0\r\n\r\nX" + SMUGGLED, b"Content-Length: 6", CHUNKED)),
    *_refused(2, "TE.CL", 400, post(b"5c\r\n" + SMUGGLED + b"\r\n" + LAST, CHUNKED, b"Content-Length: 4")),
    *_refused(3, "chunked is not the last coding", 400, *_codings(b"chunked, identity", b"chunked,")),
    *_refused(3, "chunked twice", 400, *_codings(b"chunked, chunked"), post(LAST + SMUGGLED, CHUNKED, CHUNKED)),
    *_refused(3, "two codings in two fields", 400, post(LAST + SMUGGLED, CHUNKED, b"Transfer-Encoding: identity")),
    *_refused(4, "an empty coding first", 400, *_codings(b",chunked")),
    *_refused(4, "a coding before chunked", 501, *_codings(b"gzip, chunked", b"cow, chunked", b"identity, chunked")),
    *_refused(4, "chunked with a parameter", 400, *_codings(b"chunked;ext=1")),
    *_refused(5, "another coding", 501, *_codings(b"xchunked", b"'chunked'", b"chunk", b"identity", b"gzip")),
    *_refused(5, "what is no coding", 400, *_codings(b'"chunked"', b"\x0bchunked", b"\xffchunked", b"")),
    *_refused(6, "chunked in HTTP/1.0", 400, post(LAST + SMUGGLED, CHUNKED, line=b"POST /p HTTP/1.0")),
    *_refused(6, "chunked in HTTP/1.0, and a length", 400, post(LAST + SMUGGLED, CHUNKED, b"Content-Length: 5", line=b"POST /p HTTP/1.0")),
    *_refused(7, "space before the colon", 400,
              post(LAST + SMUGGLED, b"Transfer-Encoding : chunked"), post(LAST + SMUGGLED, b"Transfer-Encoding\t: chunked"),
              post(b"hello" + SMUGGLED, b"Content-Length : 5")),
    *_refused(7, "space before the first field", 400, b"POST /p HTTP/1.1\r\n " + CHUNKED + b"\r\nHost: shop\r\n\r\n" + LAST + SMUGGLED),
    *_refused(7, "space before a later field", 400, post(LAST + SMUGGLED, b" " + CHUNKED), post(LAST + SMUGGLED, b"X: y", b"\t" + CHUNKED)),
    *_generated(),
    *_refused(9, "a field behind a lone CR", 400, post(LAST + SMUGGLED, b"X: X\r" + CHUNKED)),
    *_refused(9, "a field behind a lone LF", 400, post(LAST + SMUGGLED, b"X: X\n" + CHUNKED)),
    *_refused(9, "a byte in its name", 400, post(LAST + SMUGGLED, b"Transf\x82r-Encoding: chunked")),
    *_refused(10, "folded", 400,
              post(LAST + SMUGGLED, b"Transfer-Encoding:\r\n chunked"), post(b"hello" + SMUGGLED, b"Content-Length:\r\n\t5"),
              get(host=b"Host:\r\n shop\r\n") + SMUGGLED, get(b"X: a", b" folded") + SMUGGLED, get(b"X: a", b"\tfolded") + SMUGGLED),
    *_refused(10, "folded within the name", 400, post(LAST + SMUGGLED, b"Transfer-\r\nEncoding: chunked")),
    *_refused(11, "two lengths", 400, post(SMUGGLED, b"Content-Length: 0", b"Content-Length: %d" % len(SMUGGLED))),
    *_refused(11, "one length twice", 400, post(b"hello", b"Content-Length: 5", b"Content-Length: 5"), *_lengths(b"5, 5")),
    *_refused(11, "an empty length", 400, post(b"hello", b"Content-Length:", b"Content-Length: 5"), *_lengths(b"")),
    *_refused(12, "a length that is no number", 400,
              *_lengths(b"+5", b"-1", b"-0", b"0x5", b"5_0", b"0o5", b"5Z", b'"5"', b"5;", b"5 0", b"5,", b"5.0", b"\xb2")),
    *_refused(12, "a length too large", 413,
              *_lengths(b"1001", b"9" * 20, b"9223372036854775808", b"18446744073709551615", b"18446744073709551621", b"9" * 3000)),
    *_refused(13, "a length with zeros before it", 400, *_lengths(b"05", b"00", b"0200")),
    _passes(14, "a length larger than the body", post(b"hello", b"Content-Length: 99"), waits=True),
    _passes(14, "a length smaller than the body", post(b"hello" + SMUGGLED, b"Content-Length: 5"), HELLO, GET_SMUGGLED),
    *_refused(15, "framing with '_' for '-'", 400, post(LAST + SMUGGLED, b"Transfer_Encoding: chunked"), post(b"hello" + SMUGGLED, b"Content_Length: 5")),
    *_refused(15, "a length with a byte in its name", 400, post(b"hello" + SMUGGLED, b"Content-Length\x85: 5")),
    _passes(15, "another name with '_'", get(b"X_Y: z"), PLAIN),
]  # fmt: skip

LINES: list[Attack] = [
    *_refused(16, "no name", 400, get(b": x") + SMUGGLED),
    *_refused(16, "no colon", 400, get(b"no colon") + SMUGGLED, get(b"x") + SMUGGLED),
    *_refused(16, "a name of no token", 400, get(b"X[]: y") + SMUGGLED, get(b"X\x00: y") + SMUGGLED, get(b"X\xe9: y") + SMUGGLED, get(b"X Y: z") + SMUGGLED),
    *_refused(17, "NUL in a value", 400, get(b"X: a\x00b") + SMUGGLED),
    *_refused(17, "a control character in a value", 400, *[get(b"X: a" + bytes([byte]) + b"b") + SMUGGLED for byte in CONTROLS]),
    *_refused(17, "a lone CR in a value", 400, get(b"X: a\rb") + SMUGGLED, get(b"X: a\r") + SMUGGLED),
    *_refused(18, "every line ends with LF", 400, get().replace(b"\r", b"") + SMUGGLED),
    *_refused(18, "one line ends with LF", 400, b"GET / HTTP/1.1\r\nHost: shop\nX: y\r\n\r\n" + SMUGGLED, b"GET / HTTP/1.1\nHost: shop\r\n\r\n" + SMUGGLED),
    *_refused(18, "an LF first", 400, b"\n" + get()),
    *_refused(18, "every line ends with CR", 400, get().replace(b"\n", b"") + SMUGGLED),
    *_refused(18, "the empty line is LF", 400, b"GET / HTTP/1.1\r\nHost: shop\r\n\n" + SMUGGLED),
    *_refused(19, "an end of CR LF CR", 400, b"GET / HTTP/1.1\r\nHost: shop\r\n\rX" + SMUGGLED, b"GET / HTTP/1.1\r\nHost: shop\r\n\r\r\n" + SMUGGLED),
]  # fmt: skip

CHUNKS: list[Attack] = [
    *_refused(20, "a size that is none", 400, *_sizes(b"0x5", b"+5", b"-5", b"5_0", b" 5", b"5 ", b"5\t", b"", b"5.", b"G", b"5 5", b"\xb5")),
    *_refused(20, "a size of 17 digits", 400, *_sizes(b"0" * 16 + b"5", b"1" + b"0" * 15 + b"5", b"F" * 16)),
    *_refused(20, "a size too large", 413, *_sizes(b"3E9", b"F" * 13)),
    *_refused(20, "sizes too large together", 413, post(b"3E8\r\n" + b"x" * BODY_MAX + b"\r\n1\r\nx\r\n" + LAST, CHUNKED)),
    _passes(20, "a size with nine zeros", post(b"0000000005\r\nhello\r\n" + LAST, CHUNKED), HELLO),
    *_refused(20, "a size that ends with LF", 400, post(b"5\nhello\r\n" + LAST + SMUGGLED, CHUNKED), post(b"5\r\nhello\r\n0\n\r\n" + SMUGGLED, CHUNKED)),
    *_refused(20, "a size that ends with CR", 400, post(b"5\rhello\r\n" + LAST + SMUGGLED, CHUNKED)),
    *_refused(21, "an extension that is none", 400, *_sizes(b"5;", b"5;a=", b"5;[", b"5;a\x00", b"5;a\rb", b"5;a\nb", b'5;a="\r\n"', b"5;a b", b"5 ;a", b'5;a="b')),
    *_refused(21, "a long extension", 400, *_sizes(b"5;" + b"a" * 300, b"5;" + b"a" * 65536)),
    *_refused(21, "many extensions", 400, post((b"1;" + b"a" * 200 + b"\r\nx\r\n") * 30 + LAST, CHUNKED)),
    _passes(22, "extensions", post(b'5;a=b;c="d\\"e"\r\nhello\r\n0;z\r\n\r\n', CHUNKED) + get(), HELLO, PLAIN),
    *_refused(23, "a chunk longer than its size", 400, post(b"5\r\nhello!\r\n" + LAST + SMUGGLED, CHUNKED), post(b"5\r\nhelloXX\r\n" + LAST + SMUGGLED, CHUNKED)),
    *_refused(23, "a chunk that ends with LF", 400, post(b"5\r\nhello\n" + LAST + SMUGGLED, CHUNKED)),
    *_refused(23, "a chunk that ends with CR", 400, post(b"5\r\nhello\rX" + LAST + SMUGGLED, CHUNKED)),
    _passes(24, "no last chunk", post(b"5\r\nhello\r\n", CHUNKED), waits=True),
    _passes(24, "half a last chunk", post(b"5\r\nhello\r\n0\r\n", CHUNKED), waits=True),
    _passes(24, "framing, Host and who asks as trailers", post(b"5\r\nhello\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nHost: b\r\nAuthorization: c\r\n\r\n", CHUNKED) + get(), HELLO, PLAIN),
    *_refused(24, "what is no trailer", 400, post(b"0\r\nno colon\r\n\r\n" + SMUGGLED, CHUNKED), post(b"0\r\nX : y\r\n\r\n" + SMUGGLED, CHUNKED), post(b"0\r\nX: y\n\r\n" + SMUGGLED, CHUNKED)),
    *_refused(24, "a hundred thousand trailers", 431, post(b"0\r\n" + b"X: y\r\n" * 100_000 + b"\r\n" + SMUGGLED, CHUNKED)),
    *_refused(24, "a long trailer", 431, post(b"0\r\nX: " + b"y" * LINE_MAX + b"\r\n\r\n" + SMUGGLED, CHUNKED)),
    *[_passes(25, "a body where none is usual", post(b"hello", b"Content-Length: 5", line=method + b" /p HTTP/1.1") + get(), (method, b"/p", b"hello"), PLAIN)
      for method in (b"GET", b"OPTIONS", b"DELETE")],
    _passes(25, "HEAD with a body", post(b"hello", b"Content-Length: 5", line=b"HEAD /p HTTP/1.1") + get(), (b"HEAD", b"/p", b"hello"), PLAIN),
    Attack(26, "bytes behind a length of nothing", post(b"hello", b"Content-Length: 0") + SMUGGLED, (EMPTY,), 501),
    _passes(26, "a request behind a length of nothing", post(SMUGGLED, b"Content-Length: 0"), EMPTY, GET_SMUGGLED),
]  # fmt: skip

ROUTING: list[Attack] = [
    *_refused(27, "no Host", 400, get(host=b"") + SMUGGLED),
    *_refused(27, "two Hosts", 400, get(b"Host: shop") + SMUGGLED, get(b"Host: other") + SMUGGLED, b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n" + SMUGGLED),
    *_refused(27, "a Host that is none", 400,
              *[get(host=b"Host: " + host + b"\r\n") + SMUGGLED
                for host in (b"a,b", b"u@h", b"h/p", b"h:99999", b"h:", b"[::1", b"h h", b"a#b", b"h:x", b"h?q", b"h\\p")]),
    *_refused(27, "an empty Host", 400, get(host=b"Host:\r\n") + SMUGGLED),
    _passes(28, "a URL", get(line=b"GET http://there:80/p?q HTTP/1.1"), (b"GET", b"/p?q", b"")),
    _passes(28, "a URL without a path", get(line=b"GET http://there HTTP/1.1") + get(line=b"GET HTTP://there?q HTTP/1.1"), PLAIN, (b"GET", b"/?q", b"")),
    _passes(28, "OPTIONS of a URL", get(line=b"OPTIONS http://there HTTP/1.1"), (b"OPTIONS", b"*", b"")),
    _passes(28, "two slashes", get(line=b"GET //evil/p HTTP/1.1"), (b"GET", b"//evil/p", b"")),
    *_refused(28, "a URL that is none", 400, *[get(line=b"GET %b HTTP/1.1" % url) + SMUGGLED
              for url in (b"http:/x", b"https://there/", b"http://", b"http://u@there/", b"shop/", b"ftp://there/")]),
    *_refused(29, "a target with a character it may not have", 400,
              *[get(line=b"GET /a%b HTTP/1.1" % text) + SMUGGLED for text in (b" b", b"\tb", b"\x00", b"\xc3\xa9", b"#frag", b"\x7f", b"\x0b")]),
    *[_passes(29, "a target byte for byte", get(line=b"GET %b HTTP/1.1" % target), (b"GET", target, b""))
      for target in (b"/a\\b", b"/%00", b"/%0d%0aX:%20y", b"/a/../b", b"/%2e%2e/b", b"/?a=b&c;d", b'/"<>^`{|}')],
    *_refused(30, "two spaces", 400, get(line=b"GET  / HTTP/1.1") + SMUGGLED, get(line=b"GET /  HTTP/1.1") + SMUGGLED),
    *_refused(30, "TAB for a space", 400, get(line=b"GET\t/\tHTTP/1.1") + SMUGGLED),
    *_refused(30, "space around the line", 400, get(line=b"GET / HTTP/1.1 ") + SMUGGLED, get(line=b" GET / HTTP/1.1") + SMUGGLED),
    *_refused(31, "a version that is none", 400, *[get(line=b"GET / " + version) + SMUGGLED
              for version in (b"HTTP/1.", b"HTTP/01.1", b"HTTP/1.10", b"http/1.1", b"RTSP/1.0", b"ICE/1.0", b"HTTP/1", b"HTTP/1.1x")]),
    *_refused(31, "a version too new", 505, get(line=b"GET / HTTP/1.2") + SMUGGLED, get(line=b"GET / HTTP/2.0") + SMUGGLED),
    *_refused(31, "the preface of HTTP/2", 505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    *_refused(31, "no version", 400, b"GET /\r\n" + SMUGGLED),
    *_refused(32, "GET *", 400, get(line=b"GET * HTTP/1.1") + SMUGGLED),
    _passes(32, "OPTIONS *", get(line=b"OPTIONS * HTTP/1.1"), (b"OPTIONS", b"*", b"")),
    *_refused(32, "CONNECT", 405, get(line=b"CONNECT shop:443 HTTP/1.1") + SMUGGLED),
    *_refused(32, "TRACE", 405, get(line=b"TRACE / HTTP/1.1") + SMUGGLED),
    *_refused(32, "a method in small letters", 501, get(line=b"get / HTTP/1.1") + SMUGGLED),
    *_refused(32, "a method that is none", 400, get(line=b"G(T / HTTP/1.1") + SMUGGLED, get(line=b"X" * 33 + b" / HTTP/1.1") + SMUGGLED),
    *_refused(32, "a method of ten thousand letters", 414, get(line=b"X" * 10_000 + b" / HTTP/1.1") + SMUGGLED),
    _passes(32, "a method nobody knows", get(line=b"FOO /p HTTP/1.1"), (b"FOO", b"/p", b"")),
]  # fmt: skip

LIMITS: list[Attack] = [
    _passes(33, "the largest head", _head_of(HEAD_MAX - 1) + _head_of(HEAD_MAX), PLAIN, PLAIN),
    *_refused(33, "a head one byte larger", 431, _head_of(HEAD_MAX + 1) + SMUGGLED),
    _passes(33, "a hundred fields", get(*[b"X: y"] * (FIELDS_MAX - 1)), PLAIN),
    *_refused(33, "a hundred and one fields", 431, get(*[b"X: y"] * FIELDS_MAX) + SMUGGLED),
    *_refused(33, "a hundred and one fields, and no end", 431, get(*[b"X: y"] * FIELDS_MAX)[:-2]),
    *_refused(33, "ten thousand fields", 431, get(*[b"X: y"] * 10_000) + SMUGGLED),
    *_refused(33, "a value of 300 KB", 431, get(b"X: " + b"a" * 300_000) + SMUGGLED),
    *_refused(33, "a line one byte too long", 431, get(b"X: " + b"a" * (LINE_MAX - 4)) + SMUGGLED),
    _passes(33, "the longest line", get(b"X: " + b"a" * (LINE_MAX - 5)), PLAIN),
    _passes(33, "a target of 8000 bytes", get(line=b"GET /%b HTTP/1.1" % (b"a" * 7999)), (b"GET", b"/" + b"a" * 7999, b"")),
    *_refused(33, "a target too long", 414, get(line=b"GET /" + b"a" * LINE_MAX + b" HTTP/1.1") + SMUGGLED, b"A" * (LINE_MAX + 1)),
    *_refused(33, "ten thousand empty lines first", 400, b"\r\n" * 10_000 + get()),
    *_refused(33, "two empty lines first", 400, b"\r\n\r\n" + get()),
]  # fmt: skip

CONNECTION: list[Attack] = [
    _passes(34, "fifty at once", get() * 50, *[PLAIN] * 50),
    Attack(34, "two good ones and a bad one", get() + get() + b"G T / HTTP/1.1\r\n\r\n" + SMUGGLED, (PLAIN, PLAIN), 400),
    _passes(35, "bytes after the last request", get(b"Connection: close") + SMUGGLED, PLAIN),
    _passes(35, "close and keep-alive", get(b"Connection: close, keep-alive") + SMUGGLED, PLAIN),
    _passes(35, "keep-alive in HTTP/1.0", get(b"Connection: keep-alive", line=b"GET / HTTP/1.0") + SMUGGLED, PLAIN),
    *_refused(36, "a field that is not of the connection", 400,
              *[post(SMUGGLED, b"Content-Length: %d" % len(SMUGGLED), b"Connection: " + name)
                for name in (b"Host", b"close, Content-Length", b"Cookie", b"Authorization", b"X-Forwarded-For", b"Idempotency-Key", b"Transfer-Encoding")]),
    *_refused(36, "what is no list of names", 400, get(b"Connection: a b") + SMUGGLED),
    _passes(36, "a field of the connection", get(b"Connection: keep-alive, , X-Foo", b"X-Foo: bar"), PLAIN),
    _passes(36, "a number of a link", get(b"Link-Sequence: " + CLIENTS_NUMBER), PLAIN),
    _passes(36, "a number of a link, named", get(b"Connection: Link-Sequence", b"link-sequence: " + CLIENTS_NUMBER), PLAIN),
    _passes(37, "websocket", get(b"Upgrade: websocket", b"Connection: Upgrade") + SMUGGLED, PLAIN, GET_SMUGGLED),
    _passes(37, "an upgrade that Connection does not name", get(b"Upgrade: websocket"), PLAIN),
    _passes(37, "an upgrade with a body", post(SMUGGLED, b"Content-Length: %d" % len(SMUGGLED), b"Upgrade: websocket", b"Connection: Upgrade"), (b"POST", b"/p", SMUGGLED)),
    _passes(37, "h2c", get(b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAAQAAP__") + SMUGGLED, PLAIN, GET_SMUGGLED),
    _passes(37, "an upgrade in HTTP/1.0", get(b"Upgrade: websocket", b"Connection: Upgrade", line=b"GET / HTTP/1.0"), PLAIN),
    _passes(38, "an expectation", post(b"hello", b"Content-Length: 5", b"Expect: 100-continue"), HELLO),
    _passes(38, "an expectation in other letters", post(b"hello", b"Content-Length: 5", b"eXpEcT: 100-CONTINUE"), HELLO),
    _passes(38, "an expectation and no body", post(b"", b"Content-Length: 0", b"Expect: 100-continue") + get(), EMPTY, PLAIN),
    _passes(38, "an expectation in HTTP/1.0", post(b"hello", b"Content-Length: 5", b"Expect: 100-continue", line=b"POST /p HTTP/1.0"), HELLO),
    *_refused(38, "another expectation", 417, *[post(b"hello" + SMUGGLED, b"Content-Length: 5", b"Expect: " + text) for text in (b"200-ok", b"100-continue, x", b"")]),
]  # fmt: skip

ATTACKS: list[Attack] = [*WELL_FORMED, *FRAMING, *LINES, *CHUNKS, *ROUTING, *LIMITS, *CONNECTION]
