"""The bytes of a publication are the driver's own, to the last one; and they fit into the smallest frame that a broker may ask for."""

import uuid
from datetime import UTC, datetime

import pika
import pytest

from flashsale.contract.wire import LINES_MAX, Cart, Line, purchase_id
from flashsale.queued import topology
from flashsale.queued.frames import Frames
from flashsale.queued.message import Message, encode

QUEUES = [queue.name for queue in topology.SHARD_QUEUES]
RID, PURCHASE = str(uuid.uuid4()), str(uuid.uuid4())
TAGS = [1, 10, 2**31, 10**19 - 1]


@pytest.mark.parametrize("channel", [1, 2, 65_535])
@pytest.mark.parametrize("queue", QUEUES)
def test_they_are_what_the_driver_would_write(channel: int, queue: str) -> None:
    frames = Frames(channel, QUEUES)
    for tag in TAGS:
        for body in (b"{}", b"x" * 4000):
            properties = pika.BasicProperties(
                delivery_mode=topology.PERSISTENT,
                message_id=RID,
                correlation_id=f"{tag:019}",
                headers={topology.PURCHASE_HEADER: PURCHASE},
            )
            publish = pika.spec.Basic.Publish(exchange="", routing_key=queue, mandatory=True)
            by_the_driver = (
                pika.frame.Method(channel, publish).marshal(),
                pika.frame.Header(channel, len(body), properties).marshal(),
                pika.frame.Body(channel, body).marshal(),
            )
            assert frames.of(queue, body, tag, RID, PURCHASE) == b"".join(by_the_driver)


def test_the_largest_attempt_is_one_frame_of_any_broker_s() -> None:
    buyer, key = "b" * 128, "k" * 64
    lines = tuple(Line(f"{number:02}".ljust(64, "x"), 10_000) for number in range(LINES_MAX))
    cart, until = Cart(lines, "card"), datetime(2030, 1, 1, tzinfo=UTC)
    largest = encode(Message(uuid.uuid4(), purchase_id(buyer, key), buyer, key, cart, until))
    assert len(largest) + pika.spec.FRAME_HEADER_SIZE + pika.spec.FRAME_END_SIZE <= pika.spec.FRAME_MIN_SIZE
