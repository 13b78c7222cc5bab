"""Webhooks: tells the shop what became of a key, signed, a bounded number of times. A shop that never hears asks itself.

Nobody promises order: four senders race, and what ``Chance`` calls late is overtaken by what comes after it.
"""

import asyncio
import json
import random
import time
from datetime import UTC, datetime

import aiohttp
import structlog

from flashsale.payments.gateway.rules import Chance, Entry
from flashsale.payments.signature import HEADER, sign

WAITING_MAX = 10_000  # notices not yet sent; past it the oldest news is not worth more than the newest
SENDERS = 4  # webhooks under way at once: they must not crowd out the shop's own calls
TRIES_MAX = 5
BACKOFF_SECONDS = 0.2  # doubled after each try, so a notice lives about six seconds
SEND_SECONDS = 2.0

log = structlog.get_logger()


class Notices:
    """A bounded queue and its senders. ``later_s``: how long a late one is held back, on average."""

    def __init__(self, url: str, secret: str, chance: Chance, later_s: float) -> None:
        self._url = url
        self._secret = secret
        self._chance = chance
        self._later_s = later_s
        self._held = 0
        self._waiting: asyncio.Queue[Entry] = asyncio.Queue(WAITING_MAX)
        self.dropped = 0

    def tell(self, entry: Entry) -> None:
        """Send it in a moment; counted as dropped when too many wait."""
        for _ in range(1 + self._chance.repeats(entry.key, entry.state)):
            if not self._chance.is_late(entry.key, entry.state):
                self._put(entry)
            elif self._held < WAITING_MAX:
                self._held += 1
                delay = self._later_s * (0.5 + self._chance.share(entry.key, "late by"))
                asyncio.get_running_loop().call_later(delay, self._release, entry)
            else:
                self.dropped += 1

    def _release(self, entry: Entry) -> None:
        self._held -= 1
        self._put(entry)

    def _put(self, entry: Entry) -> None:
        try:
            self._waiting.put_nowait(entry)
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Send for ever."""
        timeout = aiohttp.ClientTimeout(SEND_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as senders:
            for _ in range(SENDERS):
                senders.create_task(self._send_all(session))

    async def _send_all(self, session: aiohttp.ClientSession) -> None:
        while True:
            entry = await self._waiting.get()
            body = notice(entry)
            for tries in range(TRIES_MAX):
                if await self._send(session, body):
                    break
                await asyncio.sleep(BACKOFF_SECONDS * 2**tries * random.uniform(0.5, 1.0))
            else:
                self.dropped += 1
                log.warning("notice.dropped", key=entry.key, state=entry.state)

    async def _send(self, session: aiohttp.ClientSession, body: bytes) -> bool:
        headers = {HEADER: sign(self._secret, int(time.time()), body), "Content-Type": "application/json"}
        try:
            if self._chance.is_away(time.time()):
                return False
            async with session.post(self._url, data=body, headers=headers) as answer:
                return answer.status < 300
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False


def notice(entry: Entry) -> bytes:
    """The body of the webhook about one change; its id is the same however often it is sent."""
    document = {
        "id": f"{entry.key}:{entry.state}",
        "type": f"payment.{entry.state}",
        "time": datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds"),
        "data": {
            "key": entry.key,
            "purchase": entry.purchase,
            "state": entry.state,
            "amount_minor": entry.amount_minor,
            "currency": entry.currency,
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()
