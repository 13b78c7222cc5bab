"""An attempt survives the trip through the queue, and nothing else passes for one."""

import json
import uuid
from datetime import UTC, datetime

import pytest

from flashsale.contract.wire import BODY_BYTES_MAX, LINES_MAX, Cart, Line, purchase_id
from flashsale.queued import feed, topology
from flashsale.queued.message import Message, Unreadable, decode, encode

KEY = "0123456789abcdef"
ATTEMPT = Message(
    uuid.UUID(int=7),
    purchase_id("ana", KEY),
    "ana",
    KEY,
    Cart((Line("a", 1), Line("b", 2)), "card"),
    datetime(2030, 1, 1, 12, 30, 0, 250_000, tzinfo=UTC),
)


def changed(**fields: object) -> bytes:
    document = json.loads(encode(ATTEMPT)) | fields
    kept = {name: value for name, value in document.items() if value != "gone"}
    return json.dumps(kept, separators=(",", ":")).encode()  # or it would be refused for its spaces alone


def test_there_and_back() -> None:
    assert decode(encode(ATTEMPT)) == ATTEMPT
    plain = ATTEMPT._replace(cart=Cart((Line("a", 10_000),)))
    assert decode(encode(plain)) == plain


def test_what_changes_nothing_is_read() -> None:
    assert decode(changed()) == ATTEMPT


def test_the_largest_attempt_fits() -> None:
    buyer, key = "b" * 128, "k" * 64
    lines = tuple(Line(f"{number:02}".ljust(64, "x"), 10_000) for number in range(LINES_MAX))
    largest = Message(uuid.uuid4(), purchase_id(buyer, key), buyer, key, Cart(lines, "card"), ATTEMPT.queued_until)
    assert len(encode(largest)) <= BODY_BYTES_MAX // 2
    assert decode(encode(largest)) == largest


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b"[" * 4000,
        b" " * BODY_BYTES_MAX,
        changed(v=2),
        changed(v="1"),
        changed(extra=1),
        changed(rid="gone"),
        changed(rid="nonsense"),
        changed(rid=7),
        changed(purchase=str(uuid.UUID(int=1))),
        changed(buyer="ben"),
        changed(buyer="a b"),
        changed(buyer=None),
        changed(key="short"),
        changed(key=["0123456789abcdef"]),
        changed(fingerprint="00" * 16),
        changed(fingerprint="zz"),
        changed(fingerprint=None),
        changed(lines=[]),
        changed(lines=None),
        changed(lines=[["a", 1]]),
        changed(lines=[["b", 2], ["a", 1]]),
        changed(lines=[["a", 1], ["a", 1]]),
        changed(lines=[["a", True], ["b", 2]]),
        changed(lines=[["a", 1.0], ["b", 2]]),
        changed(lines=[["a", 0], ["b", 2]]),
        changed(lines=[["a", 10_001], ["b", 2]]),
        changed(lines=[["a"], ["b", 2]]),
        changed(lines=[["{x}", 1], ["b", 2]]),
        changed(lines=[[f"s{n:02}", 1] for n in range(LINES_MAX + 1)]),
        changed(pay_now="gold"),
        changed(pay_now=None),
        changed(pay_now=["card"]),
        changed(queued_until="soon"),
        changed(queued_until=10**30),
        changed(queued_until=1.5),
        changed(queued_until=True),
    ],
)
def test_anything_else_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(body)


def of(*lines: tuple[str, int], pay_now: str | None = None) -> bytes:
    """An attempt that belongs together, whatever its cart is."""
    return encode(ATTEMPT._replace(cart=Cart(tuple(Line(*line) for line in lines), pay_now)))


@pytest.mark.parametrize(
    "body",
    [
        of(),
        of(("b", 2), ("a", 1)),
        of(("a", 1), ("a", 1)),
        of(("a", 0)),
        of(("a", -1)),
        of(("a", 10_001)),
        of(("a", 10**10)),
        of(("a b", 1)),
        of(('a",1],["b', 1), ("c", 1)),  # a SKU that would be two
        of(("s" * 65, 1)),
        of(*((f"s{n:02}", 1) for n in range(LINES_MAX + 1))),
        of(("a", 1), pay_now="gold"),
        of(("a", 1)).replace(b'["a",1]', b'["a",01]'),
        of(("a", 1)).replace(b'"v":1', b'"v":1 '),
        of(("a", 1)) + b"\n",
        encode(ATTEMPT).replace(ATTEMPT.rid.hex[-4:].encode(), b"AAAA", 1),
        encode(ATTEMPT._replace(buyer="an\xe4", purchase=purchase_id("an\xe4", KEY))),
        encode(ATTEMPT._replace(key="short", purchase=purchase_id("ana", "short"))),
    ],
)
def test_what_belongs_together_may_still_be_no_attempt(body: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(body)


def test_a_shard_is_the_same_in_every_process() -> None:
    # hash() differs between processes; whoever changes this moves attempts past each other during a deployment
    assert [topology.queue_of(sku) for sku in ("sneaker-42", "a", "b", "c")] == [
        "checkout.2",
        "checkout.3",
        "checkout.1",
        "checkout.3",
    ]
    assert {topology.queue_of(f"sku-{n}") for n in range(200)} == {queue.name for queue in topology.SHARD_QUEUES}


def test_every_queue_keeps_what_it_confirmed() -> None:
    for queue in topology.QUEUES:
        assert queue.arguments["x-queue-type"] == "quorum"
        assert queue.arguments["x-overflow"] == "reject-publish"
        assert queue.arguments["x-max-length"]
    for queue in topology.SHARD_QUEUES:
        assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
        assert queue.arguments["x-delivery-limit"]
        assert queue.arguments["x-single-active-consumer"] is True


def test_the_feed_there_and_back() -> None:
    batch = [
        feed.Told(uuid.UUID(int=1), "held", uuid.UUID(int=2), 1),
        feed.Told(uuid.UUID(int=3), "sold_out", uuid.UUID(int=4), 0),
    ]
    assert feed.decode(feed.encode(batch)) == batch


@pytest.mark.parametrize("body", [b"", b"\xff", b"7", b"[7]", b'[["x","held","y",1]]', b"[[1,2,3,4]]", b"null"])
def test_what_is_no_batch_of_verdicts_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a batch"):
        feed.decode(body)


def test_a_claim_names_a_database_however_it_is_opened() -> None:
    ours = topology.claim_of("postgresql://flash_app:secret@db:5432/flash")
    assert ours == topology.claim_of("postgresql://flash_owner:other@db/flash?sslmode=require")
    theirs = [topology.claim_of(f"postgresql://a:b@{where}") for where in ("db:5433/flash", "db2/flash", "db/shop")]
    assert len({str(claim.arguments) for claim in (ours, *theirs)}) == 4
    assert "secret" not in str(ours)
    assert {claim.name for claim in theirs} == {ours.name}
