"""What viewers ask and hear, to the byte, and what hostile ones get."""

import json
from datetime import UTC, datetime

import pytest

from flashsale.contract.stock import Watched
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import Refusal
from flashsale.stream import wakeup, wire

AT = datetime(2026, 11, 20, 9, 0, 0, 120_999, tzinfo=UTC)
LATER = datetime(2026, 11, 21, tzinfo=UTC)
A = Watched("a", 17, 5, "s", "OPEN", AT, LATER)
B = Watched("b", 0, 4, "s", "OPEN", AT, LATER)


@pytest.mark.parametrize(
    ("query", "header", "skus", "last_id"),
    [
        ("sku=a", None, ("a",), ""),
        ("sku=b,a", None, ("a", "b"), ""),
        ("sku=b%2Ca", None, ("a", "b"), ""),
        ("sku=a&lastEventId=a:17", None, ("a",), "a:17"),
        ("sku=a&lastEventId=a%3A17", "", ("a",), ""),  # the browser says that it has seen nothing
        ("sku=a&lastEventId=a:17", "a:18", ("a",), "a:18"),
        ("sku=a&other=1", None, ("a",), ""),
        ("sku=" + ",".join(f"s{n}" for n in range(16)), None, tuple(sorted(f"s{n}" for n in range(16))), ""),
    ],
)
def test_a_watch(query: str, header: str | None, skus: tuple[str, ...], last_id: str) -> None:
    assert wire.parse_watch(query, header) == wire.Watch(skus, last_id)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "send sku once"),
        ("sku=a&sku=b", "send sku once"),
        ("skus=a", "send sku once"),
        ("sku=", "each SKU"),
        ("sku=a,,b", "each SKU"),
        ("sku=a,", "each SKU"),
        ("sku=a%20", "each SKU"),
        ("sku=%FF", "each SKU"),
        ("sku=a%0Aevent:x", "each SKU"),
        ("sku=a%00", "each SKU"),
        ("sku=" + "x" * 65, "each SKU"),
        ("sku=%D0%B0", "each SKU"),
        ("sku=a,b,a", "a stands twice"),
        ("sku=" + ",".join(f"s{n}" for n in range(17)), "1 to 16"),
        ("sku=" + "," * 100_000, "1 to 16"),
        ("sku=a" + "&x=1" * 100, "fields"),
    ],
)
def test_a_watch_that_cannot_be_read_is_malformed(query: str, said: str) -> None:
    with pytest.raises(Refusal) as caught:
        wire.parse_watch(query, None)
    assert caught.value.verdict is Verdict.MALFORMED
    assert said in caught.value.detail


def test_the_frames() -> None:
    assert wire.snapshot([A, B], LATER, AT) == (
        b'event: snapshot\nid: a:5,b:4\ndata: {"now":"2026-11-21T00:00:00.000Z","as_of":"2026-11-20T09:00:00.120Z",'
        b'"stock":[{"sku":"a","available":17,"seq":5,"as_of":"2026-11-20T09:00:00.120Z"},'
        b'{"sku":"b","available":0,"seq":4,"as_of":"2026-11-20T09:00:00.120Z"}],'
        b'"sales":[{"sale":"s","state":"OPEN","opens":"2026-11-20T09:00:00.120Z","closes":"2026-11-21T00:00:00.000Z"}]}\n\n'
    )
    assert wire.stock(A, AT, "a:5,b:4") == (
        b'event: stock\nid: a:5,b:4\ndata: {"sku":"a","available":17,"seq":5,"as_of":"2026-11-20T09:00:00.120Z"}\n\n'
    )
    assert wire.sale(A) == (
        b'event: sale\ndata: {"sale":"s","state":"OPEN","opens":"2026-11-20T09:00:00.120Z",'
        b'"closes":"2026-11-21T00:00:00.000Z"}\n\n'
    )
    assert wire.beat(LATER, AT) == (
        b'event: beat\ndata: {"now":"2026-11-21T00:00:00.000Z","as_of":"2026-11-20T09:00:00.120Z"}\n\n'
    )
    assert wire.retry(1234) == b"retry: 1234\n\n"


@pytest.mark.parametrize("known", [(), (("a", 17),), tuple((f"s{n}", 10**18 - 1) for n in range(16))])
def test_an_id_tells_the_seqs_that_it_was_made_of(known: tuple[tuple[str, int], ...]) -> None:
    assert wire.seqs(wire.event_id(known)) == dict(known)


@pytest.mark.parametrize(
    "known", ["", "a", "a:", ":1", "a:1,", "a:1,b", "a:-1", "a:\u0661", "a:1\n", "a: 1", "a:" + "9" * 5000, "," * 5000]
)
def test_an_id_that_nobody_of_ours_wrote_tells_nothing(known: str) -> None:
    assert wire.seqs(known) == {}


def test_no_name_breaks_out_of_its_line() -> None:
    frame = wire.snapshot([A._replace(sku='a"\r\nevent: bye\r\n', state="\u2028\n")], AT, AT)
    (data,) = [line for line in frame.split(b"\n") if line.startswith(b"data: ")]
    assert json.loads(data.removeprefix(b"data: "))["sales"][0]["state"] == "\u2028\n"


@pytest.mark.parametrize(
    ("message", "skus"),
    [
        (b"a b", {"a", "b"}),
        (b"", set()),
        (b"*", None),
        (b"x" * (wakeup.BYTES_MAX + 1), None),
        ("a", None),
        (None, None),
        (1, None),
    ],
)
def test_a_wake_up_that_cannot_be_read_wakes_everybody(message: object, skus: set[str] | None) -> None:
    assert wakeup.decode(message) == skus


@pytest.mark.parametrize("count", [1, wakeup.SKUS_MAX, wakeup.SKUS_MAX + 1])
def test_a_wake_up_is_bounded_and_reaches_whom_it_should(count: int) -> None:
    skus = {str(n).rjust(64, "x") for n in range(count)}
    message = wakeup.encode(skus).encode()
    assert len(message) <= wakeup.BYTES_MAX
    assert wakeup.decode(message) == (skus if count <= wakeup.SKUS_MAX else None)
