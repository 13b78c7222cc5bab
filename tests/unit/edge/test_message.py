"""What is read the short way is what a full reading would say; and what is not, is left to that."""

import pytest

from flashsale.edge.message import Fields, Request, Taken, request_of, take_plain
from loadbalancer.http1.head import RequestHead
from loadbalancer.http1.reader import RequestReader

BODY_BYTES_MAX = 64
START = b"POST /purchases HTTP/1.1\r\nHost: x\r\n"
JSON = b"Content-Type: application/json\r\n"
REST = JSON + b"Content-Length: 2\r\n\r\n{}"

PLAIN = {
    "an attempt": START + b"Idempotency-Key: k\r\nBuyer-Id:ana\r\nPrefer: wait=5 \r\n" + REST,
    "a path and a query": START.replace(b"/purchases", b"/a%20b/%C3%A9?c=%20") + REST,
    "no UTF-8": START + b"Buyer-Id: \xff\r\n" + REST,
    "a body to the limit": START + JSON + b"Content-Length: 64\r\n\r\n" + b"x" * 64,
}
UNUSUAL = {
    "another method": START.replace(b"POST", b"PUT") + REST,
    "a URL": START.replace(b"/purchases", b"http://x/purchases") + REST,
    "HTTP/1.0": START.replace(b"1.1", b"1.0") + REST,
    "no body": START + JSON + b"Content-Length: 0\r\n\r\n",
    "half a body": START + REST[:-1],
    "half a head": START + JSON,
    "a body past the limit": START + JSON + b"Content-Length: 65\r\n\r\n" + b"x" * 65,
    "another type": START + REST.replace(b"json", b"xml"),
    "a name that poses as the length": START + b"Content_Length: 3\r\n" + REST,
    "a field twice": START + b"X: y\r\nX: z\r\n" + REST,
    "a wish to close": START + b"Connection: close\r\n" + REST,
    "LF alone": START.replace(b"\r\n", b"\n") + REST,
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_short_reading_is_the_full_one(name: str) -> None:
    said = PLAIN[name]
    request = read_in_full(said)
    assert request is not None
    assert take_plain(said, BODY_BYTES_MAX, "127.0.0.1") == Taken(request, len(said))
    assert take_plain(said + said, BODY_BYTES_MAX, "127.0.0.1") == Taken(request, len(said))


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_not_read_the_short_way(name: str) -> None:
    assert take_plain(UNUSUAL[name], BODY_BYTES_MAX, "127.0.0.1") is None


def read_in_full(said: bytes) -> Request | None:
    reader = RequestReader(BODY_BYTES_MAX)
    reader.feed(said)
    head, body = reader.read(), reader.read()
    return request_of(head, body, "127.0.0.1") if isinstance(head, RequestHead) and isinstance(body, bytes) else None


def test_fields_are_found_by_their_name_in_any_case() -> None:
    fields = Fields({b"buyer-id": "é".encode(), b"x": b"\xff"}, {b"x"})
    assert fields["Buyer-Id"] == fields.get("BUYER-ID") == "é"
    assert fields.get("Receipt") is None
    assert fields.get("Receipt", "none") == "none"
    assert "buyer-ID" in fields
    assert "Receipt" not in fields
    assert fields["X"] == "\udcff"  # kept, for whoever knows what should be there to refuse it
    assert fields.is_repeated("X")
    assert not fields.is_repeated("Buyer-Id")


def test_of_a_field_that_stands_twice_the_first_counts_and_it_shows() -> None:
    request = read_in_full(START + b"X: y\r\nx: z\r\nE:\r\nE:\r\n" + REST)
    assert request is not None
    assert (request.fields["x"], request.fields.is_repeated("X"), request.fields.is_repeated("E")) == ("y", True, True)
    assert not request.fields.is_repeated("Host")


def test_the_part_of_a_path_says_which_one() -> None:
    for path in ("/purchases/7", "/purchases/7/pay"):
        assert Request("GET", path, "", Fields({}), b"", "").part == "7"
