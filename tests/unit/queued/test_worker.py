"""What a worker tells of a batch, and what it does with an attempt that breaks the database's rules."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, cast

import pytest
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from flashsale.authority.client import Attempt, Authority, BadBatch, Decision
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import Cart, Line, Purchase, purchase_id
from flashsale.queued import metrics, topology
from flashsale.queued import worker as queued_worker
from flashsale.queued.deliveries import Delivery, Tap
from flashsale.queued.message import QUEUED_SECONDS_MAX, Message, encode, queued_at
from flashsale.queued.teller import Teller
from flashsale.queued.worker import SessionLost, Shard, Worker, lasting
from tests.patience import PATIENCE_SECONDS

KEY = "0123456789abcdef"
SOON = datetime(2030, 1, 1, tzinfo=UTC)


class Books(Authority):
    """Holds everything, and cannot bear one buyer."""

    def __init__(self) -> None:
        self.__dict__.update(voided=[], asked=[], batches=0)

    async def reserve_batch(self, attempts: Sequence[Attempt]) -> list[Decision]:
        self.__dict__["batches"] += 1
        if any(attempt.buyer == "poison" for attempt in attempts):
            raise BadBatch("value out of range")
        return [Decision(Verdict.HELD, self.held(attempt)) for attempt in attempts]

    async def void_attempts(self, attempts: Sequence[tuple[uuid.UUID, uuid.UUID]]) -> dict[uuid.UUID, str]:
        self.__dict__["voided"] += attempts
        return {rid: "void" for rid, _ in attempts}

    async def start_payment(self, purchase: uuid.UUID, buyer: str, key: str, method: str) -> None:
        self.__dict__["asked"].append((purchase, buyer, key, method))

    def held(self, attempt: Attempt) -> Purchase:
        state = "PAID" if attempt.buyer == "paid" else "HELD"
        return Purchase(attempt.purchase, "s", state, 1, 1, SOON, (), 0, "EUR", ())


def attempt(buyer: str, **cart: Any) -> Message:
    wish = Cart((Line("a", 1),), **cart)
    return Message(uuid.uuid4(), purchase_id(buyer, KEY), buyer, KEY, wish, SOON)


def worker(books: Books, batch_max: int = 256) -> Worker:
    return Worker(books, "", topology.claim_of(""), batch_max)


async def test_poison_is_fenced_and_its_neighbours_are_held() -> None:
    books = Books()
    batch = [attempt("poison" if tag == 3 else f"b{tag}") for tag in range(1, 6)]
    told = await worker(books).decide(batch)
    assert [one.verdict for one in told] == ["held", "held", "malformed", "held", "held"]
    assert [one.rid for one in told] == [one.rid for one in batch]
    assert books.__dict__["voided"] == [(batch[2].rid, batch[2].purchase)]


async def test_a_batch_is_never_larger_than_it_may_be() -> None:
    books = Books()
    assert len(await worker(books, 4).decide([attempt(f"b{tag}") for tag in range(10)])) == 10
    assert books.__dict__["batches"] == 3


async def test_only_an_unpaid_hold_is_paid() -> None:
    books = Books()
    await worker(books).decide([attempt("ana", pay_now="card"), attempt("ben"), attempt("paid", pay_now="card")])
    assert books.__dict__["asked"] == [(purchase_id("ana", KEY), "ana", KEY, "card")]


class Silent:
    """A channel, and a queue that has no leader: what asks to consume from it is never answered."""

    number = 1
    close_callbacks: ClassVar[set[object]] = set()
    on_consumer_cancel_callbacks: ClassVar[set[object]] = set()

    async def set_qos(self, **_: int) -> None:
        pass

    async def get_underlay_channel(self) -> "Silent":
        return self

    async def get_queue(self, _: str, **__: bool) -> "Silent":
        return self

    async def consume(self, _: object, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the driver's own
        async with asyncio.timeout(timeout):
            await asyncio.Event().wait()


async def test_a_queue_that_nobody_may_consume_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashsale.queued.worker.CONNECT_SECONDS", 0.01)
    shard = Shard(worker(Books()), cast("Any", Silent()), "checkout.0", Teller())
    with pytest.raises(SessionLost, match=r"checkout\.0"):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await shard.run(Tap(asyncio.Protocol()))


async def test_a_task_that_the_driver_cancels_ends_its_session() -> None:
    async def waits_for_a_channel_that_closes() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.cancel)
        await future

    with pytest.raises(SessionLost):
        await lasting("checkout.0", waits_for_a_channel_that_closes())
    with pytest.raises(SessionLost):
        await lasting("checkout.0", asyncio.sleep(0))


async def test_a_bare_exception_of_the_driver_is_a_lost_session_and_anything_else_is_itself() -> None:
    async def fails(error: Exception) -> None:
        raise error

    with pytest.raises(SessionLost):
        await lasting("checkout.0", fails(Exception()))
    with pytest.raises(KeyError):
        await lasting("checkout.0", fails(KeyError()))


async def test_a_task_that_is_told_to_stop_stops() -> None:
    task = asyncio.create_task(lasting("checkout.0", asyncio.sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_oldest_in_hand_is_older_every_moment_also_between_sessions() -> None:
    one = worker(Books())
    age = "flashsale_checkout_oldest_age_seconds"
    assert metrics.registry.get_sample_value(age) == 0
    queued = attempt("ana")._replace(queued_until=datetime.now(UTC) + timedelta(seconds=QUEUED_SECONDS_MAX))
    one.oldest = {"checkout.0": queued_at(queued), "checkout.1": queued_at(queued) - 60}
    first = metrics.registry.get_sample_value(age)
    assert first is not None
    assert 60 <= first < 3600
    assert (metrics.registry.get_sample_value(age) or 0) > first


class Underlay:
    """A channel; says what it was told."""

    def __init__(self) -> None:
        self.acked: list[tuple[int, bool]] = []
        self.rejected: list[tuple[int, bool]] = []

    async def get_underlay_channel(self) -> "Underlay":
        return self

    async def basic_ack(self, tag: int, *, multiple: bool) -> None:
        self.acked.append((tag, multiple))

    async def basic_reject(self, tag: int, *, requeue: bool) -> None:
        self.rejected.append((tag, requeue))


def delivered(tag: int, body: bytes) -> Delivery:
    return Delivery(tag, False, ContentHeader(0, len(body)).marshal(), body)


async def test_what_is_acknowledged_ends_with_what_was_kept() -> None:
    underlay = Underlay()
    shard = Shard(worker(Books()), cast("Any", underlay), "checkout.0", Teller())
    good = encode(attempt("ana"))
    await shard._decide([delivered(1, good), delivered(2, b"?")])
    assert (underlay.acked, underlay.rejected) == ([(1, True)], [(2, False)])
    # a tag that was rejected is no more the broker's to be acknowledged, and to try it ends the channel
    await shard._decide([delivered(3, b"?")])
    assert (underlay.acked, underlay.rejected[-1]) == ([(1, True)], (3, False))
    await shard._decide([delivered(4, b"?"), delivered(5, good)])
    assert underlay.acked == [(1, True), (5, True)]


async def test_nothing_is_acknowledged_over_a_gap() -> None:
    shard = Shard(worker(Books()), cast("Any", Underlay()), "checkout.0", Teller())
    with pytest.raises(AssertionError):
        await shard._decide([delivered(2, encode(attempt("ana")))])


async def test_a_shard_takes_what_is_there_and_no_more_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued_worker, "BATCH_MAX", 3)
    shard = Shard(worker(Books()), cast("Any", Underlay()), "checkout.0", Teller())
    collecting = asyncio.create_task(shard._collect())
    await asyncio.sleep(0)
    for tag in range(1, 6):
        shard._arrive(delivered(tag, b""))
    assert [one.tag for one in await collecting] == [1, 2, 3]
    assert [one.tag for one in await shard._collect()] == [4, 5]
    shard._arrive(delivered(6, b""))
    shard._ended()
    with pytest.raises(SessionLost):  # what it has may be another's by now
        await shard._collect()


NAMED = Basic.Properties(message_id=str(uuid.UUID(int=7)), headers={topology.PURCHASE_HEADER: str(uuid.UUID(int=8))})
BROKEN = ContentHeader(0, 0, Basic.Properties(headers={"a": "b"})).marshal().replace(b"S", b"Z")  # a type that is none


@pytest.mark.parametrize(
    ("header", "voided"),
    [
        (ContentHeader(0, 0, NAMED).marshal(), [(uuid.UUID(int=7), uuid.UUID(int=8))]),
        (ContentHeader(0, 0, Basic.Properties(message_id="7")).marshal(), []),
        (ContentHeader(0, 0, Basic.Properties(message_id=NAMED.message_id)).marshal(), []),
        (ContentHeader(0, 0).marshal(), []),
        (BROKEN, []),
    ],
)
async def test_what_cannot_be_read_is_recorded_by_what_its_header_says(
    header: bytes, voided: list[tuple[uuid.UUID, uuid.UUID]]
) -> None:
    books = Books()
    await worker(books).set_aside(Delivery(1, False, header, b"?"), "for a test")
    assert books.__dict__["voided"] == voided
