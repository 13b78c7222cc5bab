"""``python -m benchmarks.payments.worker HOW COUNT``: one payment worker, until COUNT messages are settled; one JSON line on stdout.

HOW is ``bare`` (the same messages consumed and acknowledged, and nothing done), ``instant`` (a gateway in this process that answers
at once) or ``http`` (the gateway at FLASH_GATEWAY_CARD_URL).
"""

import asyncio
import json
import os
import sys
import time

import aio_pika
import uvloop
from aiormq.abc import DeliveredMessage

from flashsale.authority.client import Authority, Payment, Told
from flashsale.payments import queues
from flashsale.payments.client import Gateways
from flashsale.payments.consumer import IN_HAND_MAX, Acks, Consumer
from flashsale.payments.metrics import Metrics
from flashsale.payments.worker import Worker

CONNECTIONS = 6  # as the worker's own process
LOOK_SECONDS = 0.01

OUTCOMES = {"authorize": "authorized", "capture": "captured"}


class Instant:
    """A gateway that does at once what it is asked."""

    async def do(self, operation: str, payment: Payment) -> Told:
        return Told(payment.purchase, payment.number, OUTCOMES[operation], payment.amount_minor, payment.currency)


async def bare(count: int) -> tuple[float, float]:
    """Begin and end, in seconds of this process's clock."""
    connection = await aio_pika.connect(os.environ["FLASH_RABBITMQ_URL"])
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=IN_HAND_MAX)
        underlay = await channel.get_underlay_channel()
        acks, left, done = Acks(underlay), count, asyncio.Event()

        async def arrive(message: DeliveredMessage) -> None:
            nonlocal left
            acks.add(message.delivery_tag or 0)
            left -= 1
            if not left:
                done.set()

        acking = asyncio.create_task(acks.run())
        began = time.perf_counter()
        await underlay.basic_consume(queues.PAYMENTS, arrive)
        await done.wait()
        ended = time.perf_counter()
        await asyncio.sleep(0.2)  # the last acknowledgements are on their way
        acking.cancel()
        await asyncio.gather(acking, return_exceptions=True)
    return began, ended


async def worker(count: int, gateway: Instant | Gateways) -> tuple[float, float]:
    """The same of a worker as it is."""
    metrics = Metrics()
    authority = await Authority.connect(os.environ["FLASH_POSTGRES_URL"], CONNECTIONS)
    consumer = Consumer(os.environ["FLASH_RABBITMQ_URL"], authority, Worker(authority, gateway), metrics)
    consuming = asyncio.create_task(consumer.run())
    while not consumer.is_consuming:  # noqa: ASYNC110 - the worker is measured as it is, and looked at from outside
        await asyncio.sleep(LOOK_SECONDS)
    began = time.perf_counter()
    while metrics.registry.get_sample_value("flash_payments_settled_total") != count:  # noqa: ASYNC110 - the same
        await asyncio.sleep(LOOK_SECONDS)
    ended = time.perf_counter()
    await asyncio.sleep(0.2)
    consuming.cancel()
    await asyncio.gather(consuming, return_exceptions=True)
    await authority.close()
    return began, ended


async def main() -> None:
    how, count = sys.argv[1], int(sys.argv[2])
    cpu = time.process_time()
    if how == "bare":
        began, ended = await bare(count)
    elif how == "instant":
        began, ended = await worker(count, Instant())
    else:
        gateways = Gateways({"card": os.environ["FLASH_GATEWAY_CARD_URL"]})
        began, ended = await worker(count, gateways)
        await gateways.close()
    print(json.dumps({"seconds": ended - began, "cpu_seconds": time.process_time() - cpu}))


if __name__ == "__main__":
    uvloop.run(main())
