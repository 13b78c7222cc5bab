"""The queued front's own decisions: by whose clock it queues, and what it believes of what the broker says."""

import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import gevent
import pika
import pytest
from gevent.event import Event

from flashsale.authority import green
from flashsale.authority.green import AuthorityUnavailable, GreenAuthority
from flashsale.backends.gevent_rabbit import dispatch, metrics
from flashsale.backends.gevent_rabbit.checkout import Checkout
from flashsale.backends.gevent_rabbit.dispatch import Dispatcher, QueueUnavailable
from flashsale.backends.gevent_rabbit.routes import Routes
from flashsale.backends.gevent_rabbit.watch import Watch
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import Cart, Line, Refusal, purchase_id
from flashsale.edge.message import Fields, Request
from flashsale.queued import topology
from flashsale.queued.message import QUEUED_SECONDS_MAX, Message
from flashsale.queued.receipt import Receipts
from flashsale.stream.refusals import Refusals
from tests.patience import PATIENCE_SECONDS

CART = Cart((Line("hat", 1),))
KEY = "0123456789abcdef"
FAR = datetime(2040, 1, 1, tzinfo=UTC)  # PostgreSQL's clock, and nobody else's


class FarAuthority(GreenAuthority):
    """Its clock is years ahead of this machine's, and it answers once it is let."""

    def _call(self, query: str, arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
        gevent.sleep(0.05)
        assert (query, arguments) != ("", ())
        return [{"ids": [], "versions": [], "rids": [], "said": [], "at": FAR}]


class Taking(Dispatcher):
    """Takes everything and writes it down."""

    def __init__(self) -> None:
        self.taken: list[Message] = []

    def submit(self, attempt: Message) -> None:
        self.taken.append(attempt)


def test_an_attempt_is_queued_until_so_late_by_postgresql_s_clock() -> None:
    authority, taking = FarAuthority("", 1), Taking()
    checkout = Checkout(taking, authority, Watch.__new__(Watch), Receipts("x" * 32), Refusals(), in_flight_max=10)
    assert abs(authority.now() - datetime.now(UTC)) < timedelta(minutes=1)  # nothing heard yet
    authority.news([], [])
    assert checkout.purchase(purchase_id("ana", KEY), "ana", KEY, CART, is_retry=False).verdict is Verdict.QUEUED
    (attempt,) = taking.taken
    assert timedelta(0) <= attempt.queued_until - FAR - timedelta(seconds=QUEUED_SECONDS_MAX) < timedelta(minutes=1)


class Holding(Dispatcher):
    """Takes everything, and confirms it once it is let."""

    def __init__(self) -> None:
        self.lets = Event()

    def submit(self, attempt: Message) -> None:
        assert self.lets.wait(PATIENCE_SECONDS), attempt


class SoldOut(Refusals):
    """Has one word for everybody."""

    def refuse(self, lines: Sequence[Line], purchase: int, now: float) -> Verdict | None:
        assert (len(lines), purchase > 0, now > 0) == (1, True, True)
        return Verdict.SOLD_OUT


def front(dispatcher: Dispatcher, in_flight_max: int, refusals: Refusals | None = None) -> Checkout:
    watch, receipts = Watch.__new__(Watch), Receipts("x" * 32)
    return Checkout(
        dispatcher, FarAuthority("", 1), watch, receipts, refusals or Refusals(), in_flight_max=in_flight_max
    )


def buys(checkout: Checkout, who: str) -> Verdict:
    return checkout.purchase(purchase_id(who, KEY), who, KEY, CART, is_retry=False).verdict


def test_one_attempt_too_many_is_told_so_until_another_is_confirmed() -> None:
    holding = Holding()
    checkout = front(holding, 1)
    assert not checkout.is_full()
    buying = gevent.spawn(buys, checkout, "ana")
    gevent.sleep(0)
    assert checkout.is_full()
    assert buys(checkout, "ben") is Verdict.TRY_LATER
    holding.lets.set()
    assert buying.get(timeout=PATIENCE_SECONDS) is Verdict.QUEUED
    assert not checkout.is_full()
    assert buys(checkout, "ben") is Verdict.QUEUED


def test_a_full_front_looks_at_nothing_and_counts_who_came() -> None:
    routes = Routes.__new__(Routes)
    routes._checkout = front(Taking(), 0)
    before = metrics.attempts[Verdict.TRY_LATER]
    with pytest.raises(Refusal) as refused:  # it has no key, and nobody minds
        routes.post_purchase(Request("POST", "/purchases", "", Fields({}), b"no json", "127.0.0.1"))
    assert refused.value.verdict is Verdict.TRY_LATER
    assert metrics.attempts[Verdict.TRY_LATER] == before + 1


def test_what_can_be_refused_at_once_is_unless_the_attempt_is_being_queued() -> None:
    holding, ana = Holding(), purchase_id("ana", KEY)
    checkout = front(holding, 9, SoldOut())
    refused = checkout.refuse(ana, CART)
    assert refused is not None
    assert refused.verdict is Verdict.SOLD_OUT
    buying = gevent.spawn(buys, checkout, "ana")
    gevent.sleep(0)
    assert checkout.refuse(ana, CART) is None
    assert checkout.refuse(purchase_id("ben", KEY), CART) is not None
    holding.lets.set()
    assert buying.get(timeout=PATIENCE_SECONDS) is Verdict.QUEUED


def test_calls_that_wait_for_postgresql_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(green, "WAITING_MAX", 3)
    authority = FarAuthority("", 1)
    calls = [gevent.spawn(authority.news, [], []) for _ in range(4)]
    gevent.joinall(calls[:3])
    assert [call.successful() for call in calls] == [True, True, True, False]
    assert isinstance(calls[3].exception, AuthorityUnavailable)
    authority.news([], [])  # and the places are free again


class Prompt(GreenAuthority):
    """Answers at once; counts how often it was asked."""

    asked = 0

    def _call(self, query: str, arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
        self.asked += 1
        return [{"ids": [query], "versions": [len(arguments)], "rids": [], "said": [], "at": FAR}]


def test_who_waited_long_for_a_turn_has_all_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(green, "CALL_SECONDS", 0.05)
    monkeypatch.setattr(green, "TURN_SECONDS", PATIENCE_SECONDS)
    authority = Prompt("", 1)
    authority._turns.acquire()
    call = gevent.spawn(authority.news, [], [])
    gevent.sleep(4 * green.CALL_SECONDS)
    assert not call.ready()
    authority._turns.release()
    call.get()
    assert authority.asked == 1


def test_who_gets_no_turn_in_time_hears_so_and_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(green, "TURN_SECONDS", 0.05)
    authority = Prompt("", 1)
    authority._turns.acquire()
    with pytest.raises(AuthorityUnavailable, match="no connection was free"):
        authority.news([], [])
    authority._turns.release()
    assert authority.asked == 0
    authority.news([], [])
    assert authority.asked == 1


class Channel:
    """What a dispatcher needs of a channel; the test plays the broker, and reads what is sent to it as the driver would."""

    is_open = True
    channel_number = 3

    def __init__(self) -> None:
        self.connection = SimpleNamespace(
            add_on_connection_blocked_callback=self._keep("block"),
            add_on_connection_unblocked_callback=self._keep("unblock"),
            channel=lambda on_open_callback: None,  # noqa: ARG005 - nobody asks how deep a queue is
            _output_marshaled_frames=self._take,
        )
        self.writes = 0
        self.add_on_return_callback = self._keep("returned")
        self.published: list[pika.BasicProperties] = []
        self.callbacks: dict[str, Callable[..., None]] = {}

    def confirm_delivery(self, confirm: Callable[..., None], callback: Callable[..., None]) -> None:
        self.callbacks["confirm"] = confirm
        callback(None)

    def _take(self, written: list[bytes]) -> None:
        self.writes += 1
        (sent,) = written
        while sent:
            taken, frame = pika.frame.decode_frame(sent)
            sent = sent[taken:]
            if isinstance(frame, pika.frame.Header):
                self.published.append(frame.properties)

    def say(self, event: str, *arguments: object) -> None:
        self.callbacks[event](*arguments)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        self.say("confirm", SimpleNamespace(method=pika.spec.Basic.Ack(tag, multiple)))

    def _keep(self, name: str) -> Callable[[Callable[..., None]], None]:
        def keep(callback: Callable[..., None]) -> None:
            self.callbacks[name] = callback

        return keep


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def dispatcher(monkeypatch: pytest.MonkeyPatch, channel: Channel) -> Dispatcher:
    def opened_at_once(_: str, __: object, ___: str, on_open: Callable[[Any], None], ____: object) -> None:
        gevent.spawn(on_open, channel)

    monkeypatch.setattr(dispatch, "Link", opened_at_once)
    monkeypatch.setattr(dispatch, "CONFIRM_SECONDS", 1.0)  # long enough for a busy test to say its confirm in time
    monkeypatch.setattr(dispatch, "LOOK_SECONDS", 0.02)
    made = Dispatcher("", topology.claim_of(""), 10)
    gevent.sleep(0)
    return made


def put(dispatcher: Dispatcher, rid: uuid.UUID | None = None) -> gevent.Greenlet:
    attempt = Message(rid or uuid.uuid4(), purchase_id("ana", KEY), "ana", KEY, CART, FAR)
    greenlet = gevent.spawn(dispatcher.submit, attempt)
    gevent.sleep(0)  # it publishes
    gevent.sleep(0)  # and that is written
    return greenlet


def outcome(greenlet: gevent.Greenlet) -> str:
    greenlet.join(5)
    assert greenlet.dead
    return str(greenlet.exception) if isinstance(greenlet.exception, QueueUnavailable) else "confirmed"


def test_a_return_is_of_one_publication_and_not_of_its_rid(dispatcher: Dispatcher, channel: Channel) -> None:
    rid = uuid.uuid4()
    first = put(dispatcher, rid)
    assert outcome(first) == "late"
    second = put(dispatcher, rid)
    for properties in channel.published:
        channel.say("returned", channel, None, properties, b"")
    channel.ack(2, multiple=True)
    assert outcome(second) == "returned"


def test_one_confirm_covers_all_before_it_but_what_was_returned(dispatcher: Dispatcher, channel: Channel) -> None:
    waiting = [put(dispatcher) for _ in range(4)]
    channel.say("returned", channel, None, channel.published[1], b"")
    channel.ack(3, multiple=True)
    channel.say("confirm", SimpleNamespace(method=pika.spec.Basic.Nack(4)))
    assert [outcome(one) for one in waiting] == ["confirmed", "returned", "confirmed", "nacked"]


def test_a_blocked_connection_takes_nothing_until_it_is_unblocked(dispatcher: Dispatcher, channel: Channel) -> None:
    held_up = put(dispatcher)
    channel.say("block")
    began = time.monotonic()
    assert outcome(put(dispatcher)) == "refused"
    assert len(channel.published) == 1
    assert outcome(held_up) == "late"
    assert time.monotonic() - began < 5
    channel.say("unblock")
    taken = put(dispatcher)
    channel.ack(2, multiple=True)
    assert outcome(taken) == "confirmed"


def test_what_waits_for_a_confirm_is_bounded(dispatcher: Dispatcher, channel: Channel) -> None:
    waiting = [put(dispatcher) for _ in range(11)]
    assert outcome(waiting[-1]) == "refused"
    assert len(channel.published) == 10
    assert {outcome(one) for one in waiting[:10]} == {"late"}
    # late ones keep their places until the broker has answered: it may still take them
    assert outcome(put(dispatcher)) == "refused"
    channel.ack(10, multiple=True)
    taken = put(dispatcher)
    channel.ack(11)
    assert outcome(taken) == "confirmed"


def test_what_is_published_in_one_turn_is_one_write(dispatcher: Dispatcher, channel: Channel) -> None:
    attempts = [Message(uuid.uuid4(), purchase_id("ana", KEY), "ana", KEY, CART, FAR) for _ in range(5)]
    waiting = [gevent.spawn(dispatcher.submit, attempt) for attempt in attempts]
    gevent.sleep(0)
    gevent.sleep(0)
    assert [properties.message_id for properties in channel.published] == [str(attempt.rid) for attempt in attempts]
    assert channel.writes == 1
    channel.ack(5, multiple=True)
    assert [outcome(one) for one in waiting] == ["confirmed"] * 5


def test_nothing_is_written_to_a_channel_that_ended_in_the_same_turn(dispatcher: Dispatcher, channel: Channel) -> None:
    attempt = Message(uuid.uuid4(), purchase_id("ana", KEY), "ana", KEY, CART, FAR)
    waiting = gevent.spawn(dispatcher.submit, attempt)
    gevent.sleep(0)
    channel.is_open = False
    gevent.sleep(0)
    assert not channel.writes
    dispatcher._lost()
    assert outcome(waiting) == "lost"


def test_what_an_old_channel_did_not_send_is_not_sent_on_the_new_one(dispatcher: Dispatcher, channel: Channel) -> None:
    attempt = Message(uuid.uuid4(), purchase_id("ana", KEY), "ana", KEY, CART, FAR)
    waiting = gevent.spawn(dispatcher.submit, attempt)
    gevent.sleep(0)
    dispatcher._lost()
    dispatcher._opened(channel)
    gevent.sleep(0)
    assert not channel.writes
    assert outcome(waiting) == "lost"


def test_who_left_before_the_confirm_disturbs_nobody(dispatcher: Dispatcher, channel: Channel) -> None:
    gone, waiting = put(dispatcher), put(dispatcher)
    gone.kill()
    channel.ack(2, multiple=True)
    assert outcome(waiting) == "confirmed"
    again = put(dispatcher)
    channel.ack(3)
    assert outcome(again) == "confirmed"


def counted(name: str) -> float:
    found = metrics.registry.get_sample_value(name)
    assert found is not None
    return found


def test_who_is_late_is_told_once_and_keeps_nobody_from_being_late(dispatcher: Dispatcher, channel: Channel) -> None:
    first = put(dispatcher)
    assert outcome(first) == "late"
    assert outcome(put(dispatcher)) == "late"
    confirmed = counted("flashsale_confirm_seconds_count")
    assert counted("flashsale_unconfirmed") == 2
    channel.ack(2, multiple=True)
    # a time that nobody waited for is no confirm's
    assert counted("flashsale_confirm_seconds_count") == confirmed
    assert counted("flashsale_unconfirmed") == 0


def test_nobody_is_late_before_the_time(
    dispatcher: Dispatcher, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "CONFIRM_SECONDS", 3600.0)
    confirmed, waiting = counted("flashsale_confirm_seconds_count"), put(dispatcher)
    gevent.sleep(10 * dispatch.LOOK_SECONDS)
    assert not waiting.dead
    channel.ack(1)
    assert outcome(waiting) == "confirmed"
    assert counted("flashsale_confirm_seconds_count") == confirmed + 1
