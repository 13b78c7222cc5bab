# The drill: Redis and RabbitMQ lose everything in the middle of a sale, and PostgreSQL brings it back. Law: the shoppers go by the
# shop's own wire, and what became of them is read in PostgreSQL and judged by the auditor; only upkeep's question about payments of
# which nobody heard for a minute is asked at once.
from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import asyncpg

from flashsale.authority.client import UNHURRIED_SECONDS, Authority
from flashsale.contract import wire
from flashsale.proof.auditor import audit
from flashsale.proof.stores import Journal
from flashsale.settings import ASYNCIO_REDIS, GEVENT_RABBIT, Settings
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.roles import GATEWAYS
from flashsale.stack.running import PAYMENTS, Stack, running_stack
from flashsale.stack.state import Instance

INSTANCE = "drill"
LOST = ("redis", "rabbitmq")
SERVERS = ("upkeep", ASYNCIO_REDIS, GEVENT_RABBIT, *GATEWAYS.values())
# Behind the queues. They are not there before the loss, so that what is in a queue is nowhere else.
WORKERS = ("checkout", PAYMENTS)
HELD, PAYING, QUEUED = 3, 3, 4
UNITS = HELD + PAYING + QUEUED + 1
HOLD_SECONDS = 600
PRICE_MINOR = 12_900
WITHIN_S = 240.0
POLL_S = 0.1

_BOOKS = "SELECT id, history FROM flash.purchase ORDER BY id"
_UNSENT = "SELECT count(*) FROM flash.payment WHERE sent_at IS NULL"


@dataclass(frozen=True)
class _Sale:
    id: str
    sku: str


class _Shopper:
    def __init__(self, session: aiohttp.ClientSession, sale: _Sale, number: int) -> None:
        self._session = session
        self._sale = sale
        self.name = f"drill-{number}"
        self.key = secrets.token_urlsafe(16)
        self.id = wire.purchase_id(self.name, self.key)
        self.receipt = ""

    async def buy(self, server: str, *statuses: int, wait_s: int = 5) -> dict[str, Any]:
        """Ask, with the receipt if there is one; a 202 brings one."""
        headers = {wire.KEY_HEADER: self.key, "Prefer": f"wait={wait_s}"}
        if self.receipt:
            headers[wire.RECEIPT_HEADER] = self.receipt
        body = {"items": [{"sku": self._sale.sku, "quantity": 1}]}
        found = await self._post(f"{server}{wire.PURCHASES_PATH}", body, headers, statuses)
        self.receipt = found.get("receipt", self.receipt)
        return found

    async def pay(self, server: str) -> None:
        headers = {wire.KEY_HEADER: self.key}
        await self._post(f"{server}{wire.PURCHASES_PATH}/{self.id}/pay", {"method": "card"}, headers, (202,))

    async def _post(self, url: str, body: object, headers: dict[str, str], statuses: tuple[int, ...]) -> dict[str, Any]:
        # A server that was just started, or a queue that it still claims, says try_later: as any shopper, this one does.
        deadline = time.monotonic() + WITHIN_S
        while True:
            async with self._session.post(url, json=body, headers=headers | {wire.BUYER_HEADER: self.name}) as answer:
                found: dict[str, Any] = await answer.json(content_type=None)
                if answer.status in statuses:
                    return found
            if answer.status not in {202, 503} or time.monotonic() > deadline:
                raise StackError(f"{self.name} was answered {answer.status}: {found}")
            await asyncio.sleep(POLL_S)


async def run(settings: Settings, say: Callable[[str], None], *, as_json: bool) -> Exit:
    """OK only if everything came back. Raises StackError when it cannot be played to its end."""
    began = time.monotonic()
    # The shoppers name themselves, which is only believed on this machine; what is wiped must be the drill's own.
    settings = replace(
        settings,
        auth="off",
        host="127.0.0.1",
        postgres_url="",
        redis_url="",
        rabbitmq_url="",
        gateway_card_url="",
        gateway_wallet_url="",
        gateway_transfer_url="",
        gateway_declines_percent=0,
        gateway_silent_percent=0,
        upkeep_processes=1,
        asyncio_redis_processes=1,
        gevent_rabbit_processes=1,
        checkout_processes=1,
        payments_processes=1,
        gateway_processes=1,
    )
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60.0)) as session:
        async with _stack(settings, say, SERVERS, fresh=True) as (stack, owner):
            sale = await _open_sale(stack)
            held, paying, queued = await _shop(stack, owner, session, sale)
            before = await _books(owner)
            say(f"{HELD} holds, {PAYING} payments in RabbitMQ alone, {QUEUED} purchases in RabbitMQ alone")
        place = Instance(settings.home, INSTANCE)
        with place.locked():
            place.forget(LOST)
            if any(place.data(service).exists() for service in LOST):
                raise StackError("a store could not be wiped, so nothing would be proved")
        lost_at = time.monotonic()
        say("Redis and RabbitMQ have lost everything; starting again")
        async with _stack(settings, say, (*SERVERS, *WORKERS), fresh=False) as (stack, owner):
            checks = await _examine(stack, owner, sale, before, held=held, paying=paying, queued=queued)
    document = {
        "ok": all(checks.values()),
        "checks": checks,
        "back_after_s": round(time.monotonic() - lost_at, 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        print(json.dumps(document))
    else:
        for name, holds in checks.items():
            print(f"{'ok    ' if holds else 'FAILED'} {name}")
        print(f"{document['seconds']} s, {document['back_after_s']} s of them after the loss")
    return Exit.OK if document["ok"] else Exit.FAILED


@contextlib.asynccontextmanager
async def _stack(
    settings: Settings, say: Callable[[str], None], roles: tuple[str, ...], *, fresh: bool
) -> AsyncIterator[tuple[Stack, asyncpg.Connection]]:
    async with running_stack(settings, instance=INSTANCE, services=(), roles=roles, say=say, fresh=fresh) as stack:
        owner = await asyncpg.connect(stack.urls.postgres_owner, timeout=WITHIN_S, command_timeout=WITHIN_S)
        try:
            yield stack, owner
        finally:
            owner.terminate()


async def _open_sale(stack: Stack) -> _Sale:
    sale = _Sale("drill", "drill-sneaker")
    now = datetime.now(UTC)
    authority = await Authority.connect(stack.urls.postgres_app, 1, UNHURRIED_SECONDS)
    try:
        await authority.create_sale(
            sale.id,
            merchant="drill",
            name="Drill",
            opens=now - timedelta(seconds=1),
            closes=now + timedelta(hours=1),
            buyer_limit=1,
            hold_seconds=HOLD_SECONDS,
            currency="EUR",
        )
        await authority.add_item(sale.id, sale.sku, "Sneaker", PRICE_MINOR, UNITS)
    finally:
        await authority.close()
    return sale


async def _shop(
    stack: Stack, owner: asyncpg.Connection, session: aiohttp.ClientSession, sale: _Sale
) -> tuple[list[_Shopper], list[_Shopper], list[_Shopper]]:
    server, front = stack.address(ASYNCIO_REDIS), stack.address(GEVENT_RABBIT)
    shoppers = [_Shopper(session, sale, number) for number in range(HELD + PAYING + QUEUED)]
    held, paying, queued = shoppers[:HELD], shoppers[HELD : HELD + PAYING], shoppers[HELD + PAYING :]
    for shopper in (*held, *paying):
        await shopper.buy(server, 200, 201)
    for shopper in paying:
        await shopper.pay(server)
    for shopper in queued:
        await shopper.buy(front, 202, wait_s=0)  # nobody decides it yet
    await _until(lambda: _is_zero(owner, _UNSENT), "the payments did not reach RabbitMQ")
    return held, paying, queued


async def _examine(
    stack: Stack,
    owner: asyncpg.Connection,
    sale: _Sale,
    before: dict[uuid.UUID, list[Any]],
    *,
    held: list[_Shopper],
    paying: list[_Shopper],
    queued: list[_Shopper],
) -> dict[str, bool]:
    # What came back, by what it is called. upkeep is ready, so every gate is rebuilt; the auditor says whether rightly.
    # A start that took a minute has upkeep ask about the payments by itself: what was so then must have been so, and may go on.
    after = await _books(owner)
    kept = all(after.get(purchase, [])[: len(history)] == history for purchase, history in before.items())
    checks = {"PostgreSQL has every purchase as it was": kept and after.keys() == before.keys()}
    server, front = stack.address(ASYNCIO_REDIS), stack.address(GEVENT_RABBIT)
    # a 202 whose message is gone: its receipt puts the same attempt in again, at either backend, as often as one likes
    for shopper, first, second in zip(queued, (server, front) * QUEUED, (front, server) * QUEUED, strict=False):
        answers = [await shopper.buy(where, 200, 201) for where in (first, second)]
        if {answer["id"] for answer in answers} != {str(shopper.id)}:
            raise StackError(f"{shopper.name} was answered with another purchase: {answers}")
    checks["every queued purchase is decided by its receipt, once"] = (
        await owner.fetchval("SELECT count(*) FROM flash.purchase WHERE id = ANY ($1)", [each.id for each in queued])
        == QUEUED
    )
    replayed = [await shopper.buy(front, 200) for shopper in held]
    checks["every hold is still its buyer's"] = all(answer["state"] == "HELD" for answer in replayed)
    authority = await Authority.connect(stack.urls.postgres_app, 1, UNHURRIED_SECONDS)
    try:
        await authority.resume_payments(PAYING, timedelta(0))  # as upkeep does, which waits a minute first
    finally:
        await authority.close()
    try:
        await _until(functools.partial(_all_paid, owner, paying), "the payments")
        checks["every payment is finished"] = True
    except StackError:
        checks["every payment is finished"] = False
    report = await audit(
        stack.urls.postgres_auditor,
        stack.urls.redis,
        sale=sale.id,
        journals=[Journal(stack.address(role), method) for method, role in GATEWAYS.items()],
    )
    checks["the audit finds nothing, in gates and journal neither"] = report.clean
    return checks


async def _books(owner: asyncpg.Connection) -> dict[uuid.UUID, list[Any]]:
    return {row["id"]: json.loads(row["history"]) for row in await owner.fetch(_BOOKS)}


async def _all_paid(owner: asyncpg.Connection, paying: list[_Shopper]) -> bool:
    query = "SELECT count(*) FROM flash.purchase WHERE id = ANY ($1) AND state = 'PAID'"
    return bool(await owner.fetchval(query, [each.id for each in paying]) == len(paying))


async def _is_zero(owner: asyncpg.Connection, query: str) -> bool:
    return bool(await owner.fetchval(query) == 0)


async def _until(holds: Callable[[], Any], otherwise: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not await holds():
        if time.monotonic() > deadline:
            raise StackError(f"{otherwise} within {WITHIN_S:.0f} s")
        await asyncio.sleep(POLL_S)
