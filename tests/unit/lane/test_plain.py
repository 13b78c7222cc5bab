"""The short looks at a request see in it what the full reading does, or do not see it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flashsale.lane.plain import reader, skimmer
from loadbalancer.http1.grammar import FIELDS_MAX, Refused
from loadbalancer.http1.head import RequestHead, parse_request

LINE = b"POST /purchases HTTP/1.1\r\n"
NAMES = ("Idempotency-Key", "Authorization", "Link-Sequence")
skim, read = skimmer(LINE), reader(LINE, NAMES)

names = st.sampled_from(
    [
        *(
            "Content-Length",
            "content-length",
            "Content-Length ",
            " Content-Length",
            "Content_Length",
            "Transfer-Encoding",
        ),
        *("transfer-encoding", "Transfer-Encoding\t", "Connection", "CONNECTION", "Te", "Trailer", "Upgrade", "Expect"),
        *("Host", "Idempotency-Key", "X", "", "Content-Lengthy", "Xcontent-Length", "Link-Sequence"),
    ]
)
values = st.sampled_from(
    [
        *(
            "5",
            "0",
            "05",
            "+5",
            "-5",
            "5,5",
            "5, 5",
            "5 5",
            "0x5",
            "5.0",
            "1" * 9,
            "1" * 10,
            "\t5\t",
            "5\x00",
            "\u0665",
        ),
        *("chunked", "close", "keep-alive", "100-continue", "h", "a\r\n b", "x\ny", "x\ry", "", " "),
    ]
)
ends = st.sampled_from(["\r\n", "\n", "\r", "\r\n\r\n"])
fields = st.lists(st.builds("{}:{}{}".format, names, values, st.just("\r\n") | ends), max_size=6)


def in_full(raw: bytes, but: str) -> RequestHead | None:
    """What the full reading finds; None, if it refuses for the reason that is excused."""
    try:
        return parse_request(raw, 10**10)
    except Refused as refused:
        if refused.detail != but:
            raise
        return None


@given(fields)
@example(["Content-Length:5\r\n", "Content-Length:6\r\n"])
@example(["Content-Length: 5 \r\n"])
@example(["X:\r\n", "CONTENT-LENGTH:\t5\r\n", "X:h\r\n"])
@example(["Content-Length:5\r\n", "Transfer-Encoding:chunked\r\n"])
@example(["Content-Length:5\r\n", "Content_Length:6\r\n"])
@example(["Content-Length:5\r\n", "Host:h\r\n"])
@example(["Content-Length:5\r\n", "transfer_Encoding:chunked\r\n"])
def test_it_ends_where_the_full_reading_says(lines: list[str]) -> None:
    raw = LINE + b"Host: h\r\n" + "".join(lines).encode("latin-1", "replace") + b"\r\n"
    found = skim(raw + b"12345", 0)
    if found is None:
        return
    head = in_full(raw[: found.end()], "more than one Host")  # for which it ends nowhere else
    if head is None:
        return
    assert head.framing.length == int(found[1])
    assert not head.expects_continue
    assert not head.closes


@pytest.mark.parametrize("lines", ["Content-Length: 5\r\n", "Idempotency-Key: 1\r\ncontent-length:5 \r\nX: y\r\n"])
def test_a_plain_one_is_seen(lines: str) -> None:
    found = skim(b"before" + LINE + lines.encode() + b"\r\n", len(b"before"))
    assert found is not None
    assert found[1] == b"5"


@pytest.mark.parametrize(
    "line", [b"GET /purchases HTTP/1.1\r\n", b"POST /purchases HTTP/1.0\r\n", b"POST /purchasesXHTTP/1.1\r\n"]
)
def test_another_line_is_not(line: bytes) -> None:
    assert skim(line + b"Content-Length: 5\r\n\r\n", 0) is None


def test_very_many_fields_are_the_full_readings_to_refuse() -> None:
    raw = LINE + b"Content-Length: 5\r\n" + b"X: y\r\n" * (2 * FIELDS_MAX) + b"\r\n"
    assert skim(raw, 0) is None
    with pytest.raises(Refused):
        parse_request(raw, 10)


GOOD = ["Host: h\r\n", "Content-Type: application/json\r\n", "Content-Length: 5\r\n"]


@given(st.lists(st.sampled_from(GOOD) | st.builds("{}:{}{}".format, names, values, ends), max_size=8), st.booleans())
@example([*GOOD, "Idempotency-Key: a b\t \r\n", "X:\r\n", "AUTHORIZATION:\r\n", "X:\r\n"], False)
@example([*GOOD, "Link-Sequence: 1\r\n", "Link-Sequence: 1\r\n"], False)
@example([*GOOD, "Host: h\r\n"], False)
@example(["Host: 5,5\r\n", *GOOD[1:]], False)
@example([*GOOD, "Content-Type: application/json\r\n"], False)
@example(["Content-Type: application/json; charset=utf-8\r\n", GOOD[0], GOOD[2]], False)
@example([*GOOD, "X: \u00e9\r\n"], False)
@example([*GOOD, "AUTHORIZATION: \u00e9\r\n"], False)
@example([*GOOD, "Content_Length: 6\r\n"], False)
@example([*GOOD, "TRANSFER_ENCODING: chunked\r\n"], False)
def test_what_it_asks_for_is_what_the_full_reading_finds(lines: list[str], is_good: bool) -> None:  # noqa: FBT001 - drawn
    raw = LINE + "".join([*lines, *(GOOD if is_good else [])]).encode("latin-1", "replace") + b"\r\n"
    found = read(raw.decode("latin-1") + "12345", 0)
    if found is None:
        return
    head = in_full(raw[: found.end()], "Host is not a host")  # which nobody here wants to know
    if head is None:
        return
    assert head.framing.length == int(found[1])
    assert not any((head.expects_continue, head.closes, head.nominated))
    assert head.host == found[2].encode()
    assert head.values[b"content-type"] == b"application/json"
    told = [None if value is None else value.encode("ascii") for value in found.groups()[3:]]
    assert told == [head.values.get(name.lower().encode()) for name in NAMES]
    stands = [name for name, _, _ in head.fields]
    assert all(stands.count(name.lower().encode()) <= 1 for name in (*NAMES, "Host", "Content-Type", "Content-Length"))


@given(st.permutations([*GOOD, "idempotency-key:k 1 \r\n", "X: 1\r\n", "X: 2\r\n", "AUTHORIZATION: \t b\r\n"]))
def test_a_plain_one_may_be_in_any_order(lines: list[str]) -> None:
    found = read("before" + LINE.decode() + "".join(lines) + "\r\n12345", len("before"))
    assert found is not None
    assert found.groups() == ("5", "h", "application/json", "k 1", "b", None)


@pytest.mark.parametrize("left_out", GOOD)
def test_one_without_what_every_plain_one_has_is_not_seen(left_out: str) -> None:
    assert read(LINE.decode() + "".join(line for line in GOOD if line != left_out) + "\r\n", 0) is None
