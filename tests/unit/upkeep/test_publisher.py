"""Events on their way to the broker: the bytes are what AMQP's own reader reads, and each event meets its own fate."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aio_pika import DeliveryMode
from aiormq.abc import ChannelFrame
from aiormq.exceptions import DeliveryError, PublishError
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.frame import unmarshal
from pamqp.header import ContentHeader

from flashsale.payments.queues import BrokerUnavailable
from flashsale.upkeep.publisher import Publication, Publisher, Refused
from tests.patience import PATIENCE_SECONDS

PUBLICATION = Publication("purchase.held", "1-x", b"{}", is_mandatory=False)


class Channel:
    """What a publisher needs of the driver's channel; the test plays the broker."""

    number = 3

    def __init__(self, max_content_size: int = 1_000) -> None:
        self.max_content_size = max_content_size
        self.lock = asyncio.Lock()
        self.delivery_tag = 0
        self.confirmations: dict[int, asyncio.Future[object]] = {}
        self.message_id_delivery_tag: dict[str, int] = {}
        self.write_queue: asyncio.Queue[ChannelFrame] = asyncio.Queue()

    def create_future(self) -> asyncio.Future[object]:
        return asyncio.get_running_loop().create_future()

    def frames(self) -> list[Any]:
        payload, found = self.write_queue.get_nowait().payload, []
        while payload:
            length, channel, frame = unmarshal(payload)
            assert channel == self.number
            found.append(frame)
            payload = payload[length:]
        return found


def publisher(channel: Channel) -> Publisher:
    return Publisher(cast("Any", channel), "flash.events", "application/json")


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)


@given(
    st.lists(st.builds(Publication, texts, texts, st.binary(max_size=60), st.booleans()), min_size=1, max_size=4),
    st.integers(min_value=1, max_value=70),
)
def test_the_frames_are_what_the_protocols_reader_reads(batch: list[Publication], most: int) -> None:
    async def published() -> list[Any]:
        channel = Channel(most)
        telling = asyncio.create_task(publisher(channel).publish(batch, PATIENCE_SECONDS))
        await asyncio.sleep(0)
        for confirmation in channel.confirmations.values():
            confirmation.set_result(Basic.Ack())
        assert await telling == [None] * len(batch)
        return channel.frames()

    frames = asyncio.run(published())
    for topic, number, body, is_mandatory in batch:
        method, header = cast("Basic.Publish", frames.pop(0)), cast("ContentHeader", frames.pop(0))
        assert (method.exchange, method.routing_key, method.mandatory) == ("flash.events", topic, is_mandatory)
        assert header.body_size == len(body)
        assert {name: value for name, value in header.properties if value not in {None, ""}} == {
            "content_type": "application/json",
            "delivery_mode": DeliveryMode.PERSISTENT,
            "message_id": number,
            "message_type": topic,
        }
        parts = [cast("ContentBody", frames.pop(0)).value for _ in range(0, len(body), most)]
        assert b"".join(parts) == body
        assert all(len(part) <= most for part in parts)
    assert not frames


def returned(confirmation: asyncio.Future[object]) -> None:
    delivery = Basic.Return(312, "NO_ROUTE", "flash.events", "purchase.held")
    confirmation.set_exception(PublishError(cast("Any", SimpleNamespace(delivery=delivery)), cast("Any", delivery)))


@pytest.mark.parametrize(
    ("happens", "fate"),
    [
        (lambda confirmation: confirmation.set_exception(DeliveryError(None, cast("Any", Basic.Nack(1)))), Refused),
        (returned, BrokerUnavailable),
        (lambda confirmation: confirmation.set_exception(ConnectionError("gone")), BrokerUnavailable),
        (lambda confirmation: confirmation.set_exception(Exception), BrokerUnavailable),
        (lambda confirmation: confirmation.cancel(), BrokerUnavailable),
    ],
)
async def test_each_meets_its_own_fate(happens: Callable[[asyncio.Future[object]], object], fate: type) -> None:
    channel = Channel()
    batch = [PUBLICATION._replace(number=number) for number in ("a", "b", "c")]
    telling = asyncio.create_task(publisher(channel).publish(batch, PATIENCE_SECONDS))
    await asyncio.sleep(0)
    assert channel.message_id_delivery_tag == {"a": 1, "b": 2, "c": 3}
    assert channel.write_queue.qsize() == 1, "one write for all"
    first, second, third = channel.confirmations.values()
    happens(second)
    first.set_result(Basic.Ack())
    third.set_result(Basic.Ack())
    assert [type(one) for one in await telling] == [type(None), fate, type(None)]
    assert not channel.message_id_delivery_tag


async def test_who_is_not_confirmed_in_time_is_not_published() -> None:
    channel = Channel()
    batch = [PUBLICATION._replace(number=number) for number in ("a", "b")]
    telling = asyncio.create_task(publisher(channel).publish(batch, 0.05))
    await asyncio.sleep(0)
    first, second = channel.confirmations.values()
    first.set_result(Basic.Ack())
    fates = await telling
    assert [type(one) for one in fates] == [type(None), BrokerUnavailable]
    assert second.cancelled()


async def test_what_cannot_even_be_written_is_not_published() -> None:
    class Closed(Channel):
        def create_future(self) -> asyncio.Future[object]:
            raise RuntimeError("the channel is closed")  # as the driver says

    fates = await publisher(Closed()).publish([PUBLICATION, PUBLICATION], PATIENCE_SECONDS)
    assert [type(one) for one in fates] == [BrokerUnavailable] * 2
