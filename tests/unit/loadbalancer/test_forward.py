# What leaves: framing written anew, and nothing of the other connection.
from loadbalancer.http1 import forward
from loadbalancer.http1.head import RequestHead, ResponseHead
from loadbalancer.http1.reader import RequestReader, ResponseReader

SENDER = forward.Sender(b"192.0.2.7", b"http", b"lb-1", is_trusted=False)


def request(data: bytes, *, is_resent: bool = False, is_trusted: bool = False) -> list[bytes]:
    reader = RequestReader(1000)
    reader.feed(data)
    head = reader.read()
    assert isinstance(head, RequestHead)
    said = SENDER.lines_of(head) if is_trusted else SENDER.lines
    return lines(forward.request(head, b"10.0.0.1:80", forward.last(said, b"id-1"), is_resent=is_resent))


def response(data: bytes, *, method: bytes = b"GET", to_minor: int = 1, closes: bool = False) -> list[bytes]:
    reader = ResponseReader(method)
    reader.feed(data)
    head = reader.read()
    assert isinstance(head, ResponseHead)
    return lines(forward.response(head, to_minor=to_minor, closes=closes))


def lines(head: bytes) -> list[bytes]:
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


OURS = [b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-Proto: http", b"Via: 1.1 lb-1", b"X-Request-Id: id-1"]


def test_a_request_goes_on_as_it_was_understood() -> None:
    assert request(b"POST http://There/p?q HTTP/1.1\r\nHOST: x\r\nAccept:  a,b \r\naccept: c\r\ncontent-length: 5\r\n\r\n") == [
        b"POST /p?q HTTP/1.1",
        b"Host: There",
        b"Accept: a,b",
        b"accept: c",
        b"Content-Length: 5",
        *OURS,
    ]  # fmt: skip


def test_fields_of_the_clients_connection_stay_behind() -> None:
    told = request(
        b"POST / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Mine, HTTP2-Settings\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n"
        b"TE: trailers\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\nHTTP2-Settings: a\r\n"
        b"Proxy-Connection: a\r\nProxy-Authorization: b\r\nX-Yours: 2\r\n\r\n"
    )
    assert told == [b"POST / HTTP/1.1", b"Host: h", b"X-Yours: 2", b"Transfer-Encoding: chunked", *OURS]


def test_a_client_does_not_say_where_it_comes_from() -> None:
    told = request(
        b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Host: a\r\nForwarded: for=b\r\n"
        b"X-Real-IP: c\r\nX_Forwarded_For: d\r\nX-Request-Id: e-1234567\r\nVia: 1.1 e\r\n\r\n"
    )
    assert told == [b"GET / HTTP/1.1", b"Host: h", b"Via: 1.1 e", *OURS]


def test_a_proxy_of_ours_is_believed_and_stands_in_the_chain_itself() -> None:
    said = b"X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nx-forwarded-proto: https\r\nX-Forwarded-Host: shop\r\nX-Forwarded-Port: 1\r\n"
    assert request(b"GET / HTTP/1.1\r\nHost: h\r\n" + said + b"\r\n", is_trusted=True) == [
        b"GET / HTTP/1.1",
        b"Host: h",
        b"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.7",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: shop",
        *OURS[2:],
    ]
    assert request(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", is_trusted=True) == [b"GET / HTTP/1.1", b"Host: h", *OURS]


def test_an_id_is_kept_if_it_is_one() -> None:
    for said, kept in (
        (b"e-1234567", b"e-1234567"),
        (b"short", b""),
        (b"a" * 129, b""),
        (b"12345678, 87654321", b""),
        (b"", b""),
    ):
        reader = RequestReader(1000)
        reader.feed(b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-ID: " + said + b"\r\n\r\n")
        head = reader.read()
        assert isinstance(head, RequestHead)
        assert forward.request_id(head) == kept


def test_the_number_of_a_request_on_a_link_is_nobodys_but_the_links() -> None:
    assert request(b"GET / HTTP/1.1\r\nHost: h\r\nlink-Sequence: 7\r\n\r\n") == [b"GET / HTTP/1.1", b"Host: h", *OURS]
    assert response(OK + b"Link-Sequence: 7\r\nContent-Length: 3\r\n\r\n") == [
        b"HTTP/1.1 200 Fine",
        b"Content-Length: 3",
    ]


def test_an_old_client_without_host_gets_one() -> None:
    assert request(b"GET / HTTP/1.0\r\n\r\n") == [b"GET / HTTP/1.1", b"Host: 10.0.0.1:80", *OURS]


def test_a_body_of_nothing_is_said_to_be_one_if_the_client_said_so() -> None:
    assert b"Content-Length: 0" in request(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")


def test_a_resent_request_is_marked_and_a_clients_own_count_stands() -> None:
    get = b"GET / HTTP/1.1\r\nHost: h\r\n"
    assert b"Retry-Attempt: 1" in request(get + b"\r\n", is_resent=True)
    assert b"Retry-Attempt: 1" not in request(get + b"\r\n")
    again = request(get + b"Retry-Attempt: 3\r\n\r\n", is_resent=True)
    assert [line for line in again if line.startswith(b"Retry")] == [b"Retry-Attempt: 3"]


def test_an_expectation_goes_on() -> None:
    told = request(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert told.count(b"Expect: 100-continue") == 1


OK = b"HTTP/1.1 200 Fine\r\n"


def test_an_answer_goes_on_as_it_was_understood() -> None:
    assert response(
        OK
        + b"Set-Cookie: a\r\nSet-Cookie: b\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 2\r\ncontent-length: 3\r\n\r\n"
    ) == [b"HTTP/1.1 200 Fine", b"Set-Cookie: a", b"Set-Cookie: b", b"Content-Length: 3"]


def test_an_answer_whose_end_is_not_known_leaves_in_chunks_or_with_the_connection() -> None:
    for framing in (b"", b"Transfer-Encoding: chunked\r\n"):
        assert response(OK + framing + b"\r\n") == [b"HTTP/1.1 200 Fine", b"Transfer-Encoding: chunked"]
        assert response(OK + framing + b"\r\n", to_minor=0, closes=True) == [b"HTTP/1.1 200 Fine", b"Connection: close"]


def test_what_answers_head_keeps_its_length_and_204_has_none() -> None:
    assert b"Content-Length: 9" in response(OK + b"Content-Length: 9\r\n\r\n", method=b"HEAD")
    assert response(b"HTTP/1.1 204 None\r\nContent-Length: 0\r\n\r\n") == [b"HTTP/1.1 204 None"]


def test_an_interim_answer_says_nothing_of_framing() -> None:
    assert response(b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n", closes=True) == [b"HTTP/1.1 103 Hints", b"Link: a"]
