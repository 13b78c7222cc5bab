import contextlib
import json
import subprocess
import sys
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale.contract import wire
from flashsale.contract.verdict import Verdict
from tests.patience import PATIENCE_SECONDS


def cart_of(*quantities: str) -> str:
    return '{"items":[' + ",".join(f'{{"sku":"a","quantity":{quantity}}}' for quantity in quantities) + "]}"


def refusal(body: bytes | str) -> wire.Refusal:
    with pytest.raises(wire.Refusal) as caught:
        wire.parse_cart(body.encode() if isinstance(body, str) else body)
    return caught.value


@pytest.mark.parametrize(
    ("quantity", "named"),
    [
        ("0", "0"),
        ("-1", "-1"),
        ("1.5", "1.5"),
        ("1.0", "1.0"),
        ('"1"', "'1'"),
        ("true", "true"),
        ("null", "null"),
        ("1e3", "1e3"),
        ("1000000000000", "1000000000000"),
        ("1" + "0" * 400, "out of range"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("[1]", "[1]"),
    ],
)
def test_a_quantity_that_is_no_small_integer_is_named(quantity: str, named: str) -> None:
    refused = refusal(cart_of(quantity))
    assert refused.verdict is Verdict.MALFORMED
    assert named in refused.detail


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"{}",
        b'{"items":[]}',
        b'{"items":{}}',
        b'{"items":[1]}',
        b'{"items":[{"sku":"a"}]}',
        b'{"items":[{"quantity":1}]}',
        b'{"items":[{"sku":"a","quantity":1,"price":1}]}',
        b'{"items":[{"sku":"a","quantity":1}],"state":"PAID"}',
        b'{"items":[{"sku":"a","quantity":1}],"items":[{"sku":"a","quantity":2}]}',
        b'{"items":[{"sku":"a","quantity":1,"quantity":2}]}',
        b'{"items":[{"sku":"","quantity":1}]}',
        b'{"items":[{"sku":"a b","quantity":1}]}',
        b'{"items":[{"sku":"a\\n","quantity":1}]}',
        b'{"items":[{"sku":"{a}","quantity":1}]}',
        b'{"items":[{"sku":"%s","quantity":1}]}' % (b"a" * 65),
        b'{"items":[{"sku":"\xff","quantity":1}]}',
        b'{"items":[{"sku":"a","quantity":1}]} x',
        b"[" * 4000,
        json.dumps({"items": [{"sku": f"s{n}", "quantity": 1} for n in range(17)]}).encode(),
    ],
)
def test_a_broken_body_is_malformed(body: bytes) -> None:
    assert refusal(body).verdict is Verdict.MALFORMED


def test_one_sku_on_two_lines_is_its_own_refusal() -> None:
    assert refusal(cart_of("1", "2")).verdict is Verdict.DUPLICATE_SKU


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(body: bytes) -> None:
    with contextlib.suppress(wire.Refusal):
        wire.parse_cart(body)


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.integers(1, wire.QUANTITY_MAX)), min_size=1, unique_by=lambda x: x[0]
    )
)
def test_the_same_wish_in_another_order_has_the_same_fingerprint(lines: list[tuple[str, int]]) -> None:
    def cart(pairs: list[tuple[str, int]]) -> wire.Cart:
        return wire.parse_cart(json.dumps({"items": [{"sku": s, "quantity": q} for s, q in pairs]}).encode())

    assert cart(lines).fingerprint == cart(lines[::-1]).fingerprint
    more = [(lines[0][0], lines[0][1] % wire.QUANTITY_MAX + 1), *lines[1:]]
    assert cart(more).fingerprint != cart(lines).fingerprint


@pytest.mark.parametrize(
    "key", [None, "", "short", "x" * 15, "x" * 65, "with space 123456", "ключключключключ", "x" * 16 + "\n"]
)
def test_a_key_of_the_wrong_form_is_refused(key: str | None) -> None:
    with pytest.raises(wire.Refusal) as caught:
        wire.parse_key(key)
    assert caught.value.verdict is Verdict.MALFORMED


def test_attempt_ids_are_in_order_of_their_milliseconds_and_never_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for millisecond in (0, 1, 2**47):
        monkeypatch.setattr("flashsale.contract.wire.time.time_ns", lambda at=millisecond: at * 1_000_000 + 999_999)
        made.append([wire.attempt_id() for _ in range(100)])
        assert {rid.int >> 80 for rid in made[-1]} == {millisecond}
    every = [rid for rids in made for rid in rids]
    assert len(set(every)) == 300
    assert {(rid.version, rid.variant) for rid in every} == {(7, uuid.RFC_4122)}
    assert sorted(made[2] + made[0] + made[1])[:100] == sorted(made[0])


def test_a_forked_process_draws_other_attempt_ids() -> None:
    # in a process of its own: forking one that has threads is no clean thing to do
    forking = (
        "import os, sys\n"
        "from flashsale.contract.wire import attempt_id\n"
        "attempt_id()\n"
        "is_parent = os.fork()\n"
        "os.write(1, b'%d\\n' % (attempt_id().int & (1 << 60) - 1))\n"
        "is_parent and os.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", forking], capture_output=True, check=True, timeout=PATIENCE_SECONDS)
    drawn = done.stdout.split()
    assert len(drawn) == 2
    assert len(set(drawn)) == 2


def test_purchase_ids_are_equal_everywhere_and_differ_by_buyer_and_key() -> None:
    made = wire.purchase_id("ana", "key-0123456789ab")
    assert made.version == 8
    assert made == wire.purchase_id("ana", "key-0123456789ab")
    assert len({wire.purchase_id(*pair) for pair in [("a", "b:c"), ("a:b", "c"), ("ab", "c"), ("a", "bc")]}) == 4
    assert made.variant == uuid.RFC_4122
    assert str(made) == "314754cd-d23d-8111-bcce-07176bc453e6"  # ids are in the books, for ever


@given(st.text(max_size=8), st.text(max_size=8))
def test_a_purchase_s_path_shows_its_id(buyer: str, key: str) -> None:
    path = wire.purchase_path(wire.purchase_number(buyer, key))
    assert path == f"{wire.PURCHASES_PATH}/{wire.purchase_id(buyer, key)}"


@pytest.mark.parametrize(
    "text", ["", "x", "9A2D9E7E-1111-8111-8111-111111111111", "{9a2d9e7e-1111-8111-8111-111111111111}"]
)
def test_an_id_in_any_other_form_names_no_purchase(text: str) -> None:
    with pytest.raises(wire.Refusal) as caught:
        wire.parse_purchase_id(text)
    assert caught.value.verdict is Verdict.UNKNOWN_PURCHASE


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("respond-async", 0),
        ("wait=5", 5),
        ("respond-async, wait=7", 7),
        ('wait="9"', 9),
        ("wait = 3", 3),
        ("WAIT=4", 4),
        ("wait=-1", 0),
        ("wait=1.5", 0),
        ("wait=x", 0),
        ("wait=99999999999999999999", wire.WAIT_SECONDS_MAX),
        ("wait=2; foo=bar", 2),
    ],
)
def test_prefer_wait(prefer: str | None, seconds: float) -> None:
    assert wire.parse_wait(prefer) == seconds


def test_timestamps_are_utc_with_milliseconds() -> None:
    assert wire.timestamp(datetime(2026, 1, 2, 3, 4, 5, 6789, tzinfo=UTC)) == "2026-01-02T03:04:05.006Z"


def test_what_is_queued_says_so_and_where_to_ask() -> None:
    purchase = uuid.uuid4()
    body = wire.queued_body(purchase, "AZaz09-_")
    assert json.loads(body) == {"id": str(purchase), "state": "QUEUED", "receipt": "AZaz09-_"}
