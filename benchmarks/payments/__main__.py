"""``python -m benchmarks.payments``: started by ``./flash bench``. Progress on stderr, one JSON line on stdout.

Law 1: all contestants have a turn in every round, and ratios are taken within a round. Law 2: every hold that was settled must be
PAID afterwards, and every payment captured, or its figures are worth nothing. FLASH_POSTGRES_URL is the owner's, who may create
databases.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aio_pika
import aiohttp

from benchmarks.authority.shop import Batches, Shop, arguments, opened
from flashsale.payments import queues

BAR = 2000  # holds settled per second
BATCH = 128
BARE, INSTANT, HTTP = "bare", "instant", "http"
WORDS = {
    BARE: "the same messages, consumed and acknowledged only",
    INSTANT: "one worker, gateway that answers at once",
    HTTP: "one worker, simulated gateway over HTTP, no latency",
}
TURN_SECONDS = 300.0
GATEWAY_SECONDS = 30.0

_ASKED = """SELECT start_payment(id, buyer, 'key-of-the-payment', 'card') FROM purchase WHERE state = 'HELD'"""
_BOOKS = """
    SELECT count(*) FROM purchase p JOIN payment y ON y.purchase_id = p.id
    WHERE p.state = 'PAID' AND y.state = 'CAPTURED' AND p.id = ANY ($1)"""


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    holds: int  # of one turn


FULL = Effort(5, 6_000)
QUICK = Effort(1, 256)


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.payments", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true")
    options, _ = parser.parse_known_args()  # what else `bench` tells is for others
    print(json.dumps(await bench(QUICK if options.quick else FULL)))
    return 0


async def bench(effort: Effort) -> dict[str, Any]:
    """Measure everything. Raises ``RuntimeError`` when the books of a measured turn are wrong."""
    turns: dict[str, list[dict[str, float]]] = {how: [] for how in WORDS}
    async with opened(os.environ["FLASH_POSTGRES_URL"]) as shop, gateway() as url:
        batches = Batches()
        for number in range(effort.rounds):
            for how in WORDS:
                turn = await _turn(how, shop, batches, url, effort.holds)
                turns[how].append(turn)
                print(f"round {number + 1}: {how} {turn['per_second']:,.0f}/s", file=sys.stderr)
    return _report(turns, effort)


async def _turn(how: str, shop: Shop, batches: Batches, url: str, holds: int) -> dict[str, float]:
    purchases = [uuid.uuid4() for _ in range(holds)] if how == BARE else await _asked(shop, batches, holds)
    await _publish([json.dumps({"subject": str(p), "data": {"try": 1}}).encode() for p in purchases])
    environment = os.environ | {"FLASH_POSTGRES_URL": shop.url, "FLASH_GATEWAY_CARD_URL": url}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.payments.worker", how, str(len(purchases))),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(TURN_SECONDS):
            said, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
    told: dict[str, float] = json.loads(said.splitlines()[-1])  # behind the worker's log
    if how != BARE and await shop.connection.fetchval(_BOOKS, purchases) != len(purchases):
        raise RuntimeError(f"after {how} not every hold is paid for once")
    return {
        "per_second": len(purchases) / told["seconds"],
        "cpu_us": told["cpu_seconds"] / len(purchases) * 1e6,
    }


async def _asked(shop: Shop, batches: Batches, holds: int) -> list[uuid.UUID]:
    # Holds whose buyers asked to pay; no relay runs here, so what it would have published is published by the caller.
    purchases = []
    for _ in range(0, holds, BATCH):
        batch = batches.fresh(BATCH)
        await shop.connection.fetch("SELECT * FROM reserve_batch($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)", *arguments(batch))
        purchases += [attempt.purchase for attempt in batch]
    await shop.connection.execute(_ASKED, timeout=TURN_SECONDS)
    await shop.connection.execute("TRUNCATE outbox")
    return purchases


async def _publish(bodies: list[bytes]) -> None:
    async with await aio_pika.connect(os.environ["FLASH_RABBITMQ_URL"]) as connection:
        channel = await connection.channel(publisher_confirms=True)
        _, queue = await queues.declare(channel)
        await queue.purge()
        for start in range(0, len(bodies), 500):
            await asyncio.gather(
                *(
                    channel.default_exchange.publish(aio_pika.Message(body, delivery_mode=2), queues.PAYMENTS)
                    for body in bodies[start : start + 500]
                )
            )


@contextlib.asynccontextmanager
async def gateway() -> AsyncIterator[str]:
    """The simulated gateway for cards, without latency, faults and webhooks; its URL."""
    port, ops_port = 18_480, 18_481
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLASH_GATEWAY")}
        environment |= {
            "FLASH_PORT": str(port),
            "FLASH_OPS_PORT": str(ops_port),
            "FLASH_GATEWAY_JOURNAL": str(Path(folder) / "journal.jsonl"),
            "FLASH_GATEWAY_LATENCY_MS": "0",
            "FLASH_GATEWAY_DECLINES_PERCENT": "0",
        }
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flashsale.payments.gateway"),
            env=environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await _ready(f"http://127.0.0.1:{ops_port}/readyz")
            yield f"http://127.0.0.1:{port}"
        finally:
            child.terminate()
            await child.wait()


async def _ready(url: str) -> None:
    async with asyncio.timeout(GATEWAY_SECONDS), aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.05)


def _report(turns: dict[str, list[dict[str, float]]], effort: Effort) -> dict[str, Any]:
    rows = []
    for how, words in WORDS.items():
        rates = [turn["per_second"] for turn in turns[how]]
        ratios = [turn["per_second"] / bare["per_second"] for turn, bare in zip(turns[how], turns[BARE], strict=True)]
        cpu = statistics.median(turn["cpu_us"] for turn in turns[how])
        rows.append(
            [
                words,
                f"{statistics.median(rates):,.0f}",
                f"{min(rates):,.0f}-{max(rates):,.0f}",
                f"{statistics.median(ratios):.2f}",
                f"{cpu:,.0f}",
            ]
        )
    settled = statistics.median(turn["per_second"] for turn in turns[INSTANT])
    return {
        "table": {"header": ["what", "per second", "of rounds", "of bare", "CPU us each"], "rows": rows},
        "notes": [
            f"a hold is settled by two calls of the gateway and three statements, shared with others in hand; {effort.holds} per turn",
            f"the bar is {BAR} a second with instant gateways: {'reached' if settled >= BAR else 'not reached'} in this run",
        ],
        "turns": turns,
    }


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
