# What the one regular expression takes means the same to the careful reader; and nothing that stays here passes with it.
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadbalancer.http1 import forward
from loadbalancer.http1.grammar import FIELDS_MAX, LINE_BYTES_MAX, Refused
from loadbalancer.http1.head import RequestHead, ResponseHead
from loadbalancer.http1.plain import PlainRequest, closing, plain_answer, plain_answers, plain_request
from loadbalancer.http1.reader import END, RequestReader, ResponseReader
from tests import hostile
from tests.attacks import ATTACKS
from tests.fuzzing import case
from tests.oracle import requests

BODY_MAX = 1000
LAST = forward.last(forward.Sender(b"192.0.2.7", b"http", b"lb-1", is_trusted=False).lines, b"id-1")
BROWSER = (
    b"POST /purchases?x=1 HTTP/1.1\r\nHost: shop.example:8000\r\nUser-Agent: Mozilla/5.0 (X11)\r\nAccept: */*\r\n"
    b"Accept-Encoding: gzip, br\r\nContent-Type: application/json\r\nContent-Length: 2\r\nOrigin: http://shop.example\r\n"
    b"Cookie: a=b\r\nIdempotency-Key: 0123456789abcdef\r\nConnection: keep-alive\r\nTraceparent: 00-1-2-01\r\n\r\n{}"
)
ANSWER = (
    b"HTTP/1.1 409 Conflict\r\nContent-Type: application/problem+json\r\nContent-Length: 2\r\nConnection: keep-alive\r\n"
    b"Date: Mon, 30 Nov 2026 04:00:00 GMT\r\nServer: x\r\n\r\n{}"
)
NAMES = (  # noqa: SIM905 - read as words
    "host content-length connection transfer-encoding te trailer upgrade keep-alive expect forwarded x-forwarded-for "
    "x-forwarded-proto x-real-ip proxy-authorization proxy-connection http2-settings link-sequence transfer_encoding "
    "content_length via accept cookie content-type hosts connections tea expects upgrades x-real idempotency-key cache-control"
).split()
VALUES = "keep-alive close 0 2 02 +2 chunked 100-continue shop shop:99999 a@b h2c idempotency-key x;y=z é".split()  # noqa: SIM905
line_ends = st.sampled_from(("\r\n",) * 9 + ("\n",))


@st.composite
def fields(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(NAMES))
    name = draw(st.sampled_from((name, name.title(), name.upper(), name.replace("-", "_"))))
    space = draw(st.sampled_from((" ",) * 5 + ("", "  ", "\t")))
    return f"{name}:{space}{draw(st.sampled_from(VALUES))}{draw(st.sampled_from(('',) * 5 + (' ', chr(0), chr(9))))}"


def message(first: str, lines: list[str], ends: list[str], body: str) -> bytes:
    parts = [first, *lines, ""]
    return ("".join(part + end for part, end in zip(parts, ends, strict=True)) + body).encode("latin-1")


@st.composite
def messages(draw: st.DrawFn, firsts: tuple[str, ...], always: str) -> bytes:
    lines = draw(st.lists(fields(), max_size=4))
    lines.insert(draw(st.integers(0, len(lines))), always)
    if draw(st.booleans()):
        lines.append("Content-Length: 2")
    ends = draw(st.lists(line_ends, min_size=len(lines) + 2, max_size=len(lines) + 2))
    return message(
        draw(st.sampled_from(firsts)), lines, ends, draw(st.sampled_from(("{}", "", "{}GET / HTTP/1.1\r\n")))
    )


REQUESTS = messages(
    ("GET / HTTP/1.1",) * 3
    + ("POST /a?b HTTP/1.1", "HEAD / HTTP/1.1", "TRACE / HTTP/1.1", "CONNECT / HTTP/1.1", "GET / HTTP/1.0", "get / HTTP/1.1")
    + ("GET http://x/ HTTP/1.1", "OPTIONS * HTTP/1.1", "GET /# HTTP/1.1"),
    "Host: shop",
)  # fmt: skip
ANSWERS = messages(
    ("HTTP/1.1 200 OK",) * 3
    + ("HTTP/1.1 409", "HTTP/1.0 200 OK", "HTTP/1.1 100 Continue", "HTTP/1.1 204 No", "HTTP/1.1 304 N"),
    "Date: now",
)  # fmt: skip


def passed_on(head: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a head as it leaves; the order of different names means nothing."""
    split = (line.partition(b":") for line in head[:-4].split(b"\r\n")[1:])
    return sorted((name.lower(), value.strip(b" \t")) for name, _, value in split)


def understood(data: bytes) -> tuple[RequestHead, bytes]:
    """The one request in ``data``."""
    reader = RequestReader(BODY_MAX)
    reader.feed(data)
    head, body = reader.read(), b""
    assert isinstance(head, RequestHead)
    while (event := reader.read()) is not END:
        assert isinstance(event, bytes)
        body += event
    assert not reader.waiting_bytes
    return head, body


@given(REQUESTS)
@example(BROWSER)
def test_a_plain_request_means_what_the_careful_reader_reads(data: bytes) -> None:
    plain = plain_request(data, BODY_MAX)
    if plain is None:
        return
    head, body = understood(data)  # which raises what it refuses
    quick = plain[0]
    assert (quick.method, quick.target, quick.host, quick.framing, plain[1]) == (
        head.method,
        head.target,
        head.host,
        head.framing,
        body,
    )
    assert (quick.minor, quick.closes, quick.expects_continue, quick.nominated) == (
        head.minor,
        head.closes,
        head.expects_continue,
        head.nominated,
    )
    assert passed_on(forward.request(quick, b"s", LAST, is_resent=False)) == passed_on(
        forward.request(head, b"s", LAST, is_resent=False)
    )
    assert quick.values == {name: value for name, value in head.values.items() if name != b"connection"}
    assert all(quick.value(name) == value for name, value in quick.values.items())


@given(ANSWERS)
@example(ANSWER)
def test_a_plain_answer_means_what_the_careful_reader_reads(data: bytes) -> None:
    answer = plain_answer(data)
    if answer is None:
        return
    reader = ResponseReader(b"GET")
    reader.feed(data)
    head, body = reader.read(), b""
    assert isinstance(head, ResponseHead)
    while (event := reader.read()) is not END:
        assert isinstance(event, bytes)
        body += event
    assert not head.closes
    assert not reader.waiting_bytes
    assert answer.status == head.status
    assert plain_answers(data * 2) == ([answer] * 2, b"")
    quick, _, quick_body = answer.data.partition(b"\r\n\r\n")
    assert quick_body == body
    assert passed_on(quick + b"\r\n\r\n") == passed_on(forward.response(head, to_minor=1, closes=False))


def test_the_usual_messages_are_plain() -> None:
    plain = plain_request(BROWSER, BODY_MAX)
    assert plain is not None
    assert b"onnection" not in forward.request(plain[0], b"s", LAST, is_resent=False)
    answer = plain_answer(ANSWER)
    assert answer is not None
    assert b"onnection" not in answer.data


@pytest.mark.parametrize("wrong", [
    BROWSER[:-1], BROWSER + b"G", b"\r\n" + BROWSER,  # not whole, not alone
    BROWSER.replace(b"Origin", b"Link-Sequence"), BROWSER.replace(b"Cookie", b"Co_okie"),
    BROWSER.replace(b"Content-Length: 2", b"Content-Length: 1001"), BROWSER.replace(b"keep-alive", b"cookie"),
    BROWSER.replace(b"a=b", b"a" * LINE_BYTES_MAX), BROWSER.replace(b"Cookie: a=b", b"A: b\r\n" * FIELDS_MAX + b"A: b"),
    BROWSER.replace(b"shop.example:8000", b"shop.example:65536"), BROWSER.replace(b"Host: shop.example:8000\r\n", b""),
])  # fmt: skip
def test_what_is_rare_or_wrong_is_left_to_the_careful_reader(wrong: bytes) -> None:
    assert plain_request(BROWSER, BODY_MAX) is not None
    assert plain_request(wrong, BODY_MAX) is None


@pytest.mark.parametrize("port", [0, 9, 80, 65534, 65535])
def test_every_port_is_a_port(port: int) -> None:
    assert plain_request(b"GET / HTTP/1.1\r\nHost: a:%d\r\n\r\n" % port, BODY_MAX) is not None


def test_a_link_s_number_is_read_and_cut_out() -> None:
    numbered = ANSWER.replace(b"Date:", b"Link-Sequence: 12\r\nDate:")
    assert plain_answer(numbered) is None  # a number means nothing to who has a connection to himself
    [answer], rest = plain_answers(numbered + ANSWER[:10])
    assert answer == (409, 12, ANSWER.replace(b"Connection: keep-alive\r\n", b""))
    assert rest == ANSWER[:10]


def test_the_last_answer_of_a_connection_says_so() -> None:
    reader = ResponseReader(b"GET")
    reader.feed(closing(ANSWER.replace(b"Connection: keep-alive\r\n", b"")))
    head = reader.read()
    assert isinstance(head, ResponseHead)
    assert head.closes


def test_an_answer_that_is_not_whole_is_not_taken() -> None:
    assert plain_answer(ANSWER[:-1]) is None


def test_what_is_plain_can_still_be_refused_for_its_body() -> None:
    plain = PlainRequest(b"GET", b"/", b"a", 0, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n")
    with pytest.raises(Refused):  # nothing that was made by hand passes for understood
        assert plain.values


def test_no_attack_is_plain_unless_a_stricter_reader_takes_all_of_it_for_one_request() -> None:
    chances = [b"".join(case(3, number)) for number in range(6000)]
    plain = 0
    for data in (*(attack.data for attack in ATTACKS), *chances):
        taken = plain_request(data, BODY_MAX)
        if taken is not None:
            plain += 1
            head, body = taken
            assert requests(data) == ([(head.method, head.target, body)], False), data
    assert plain > 50


def test_no_hostile_answer_is_plain() -> None:
    for answer in hostile.ANSWERS:
        taken = plain_answer(answer.data) if answer.method != b"HEAD" else None
        if taken is not None:
            assert (taken.status, taken.data.endswith(b"\r\n\r\n" + answer.body)) == (answer.status, True), answer.name
            assert answer.is_kept or answer.closes, answer.name
