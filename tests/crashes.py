"""One sale, a server of ``asyncio_redis`` that may be armed to die, and an upkeep in this process, whose time is the test's."""

import asyncio
import contextlib
import re
import signal
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp
import asyncpg
import pytest
from redis.asyncio import Redis

from flashsale.contract import wire
from flashsale.gate.client import Gate, GateUnavailable, GateView
from flashsale.proof.auditor import audit
from flashsale.proof.evidence import ToldCall
from flashsale.upkeep import gate_keeper
from tests.contract.drivers import HttpDriver
from tests.databases import Database, patient
from tests.failure.test_gate_accidents import kept
from tests.patience import PATIENCE_SECONDS
from tests.servers import JWT_SECRET, Process

POLL_SECONDS = 0.03  # a look at every store costs milliseconds of those that are looked at
LATER_SECONDS = 0.2  # a client that is told to try later waits a second; a test need not
WITHOUT_REPAIR_SECONDS = 4.0  # for what takes a tenth of one; on a slow machine a control may pass for the wrong reason
UNITS, LIMIT = 12, 2
Answer = TypeVar("Answer")
# Never, until the test says that the janitor's time has come.
NEVER_MS = 10**9
YES = {200, 201}  # 200 if a busy machine answered "later" first, and meant "bought"


class Heard(NamedTuple):
    """An answer; ``said`` is the verdict of a refusal, and of a yes the purchase's id."""

    status: int
    said: str


async def until(condition: Callable[[], Awaitable[bool]], why: str, patience_s: float = PATIENCE_SECONDS) -> None:
    """Poll. Fails with ``why``."""
    try:
        async with asyncio.timeout(patience_s):
            while not await condition():
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        pytest.fail(f"never came: {why}")


LATER = Heard(503, "try_later")


class Scene:
    """What a test of a crash needs. The janitor fences nobody until ``rests`` is called."""

    def __init__(self, database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
        self.database = database
        self.redis_url = redis_url
        self.monkeypatch = monkeypatch
        self.told: list[ToldCall] = []
        self._put_off: list[str] = []  # who heard that it is to be tried later, and has not come again
        self.epoch = 0
        self.never = ""  # how a row fails that lacks its repair: what does not come then is not waited for long
        self._settings = {
            "FLASH_POSTGRES_URL": database.app_url,
            "FLASH_REDIS_URL": redis_url,
            "FLASH_AUTH": "off",
            "FLASH_JWT_SECRET": JWT_SECRET,
            **settings,
        }
        self._stack = contextlib.AsyncExitStack()
        self._keeping = contextlib.AsyncExitStack()
        self.server = self.process("asyncio_redis")

    async def __aenter__(self) -> Self:
        """The sale is open and has its gate; nothing serves it yet."""
        try:
            self.monkeypatch.setattr(gate_keeper, "ABANDONED_MS", NEVER_MS)
            self.monkeypatch.setattr(gate_keeper, "SLOW_PAUSE_SECONDS", 0.05)
            self.authority = await patient(self.database, 4)
            self._stack.push_async_callback(self.authority.close)
            self.owner = await asyncpg.connect(self.database.owner_url)
            self._stack.push_async_callback(self.owner.close)
            self.redis = Redis.from_url(self.redis_url)
            self._stack.push_async_callback(self.redis.aclose)
            self.gate = await Gate.connect(self.redis_url, PATIENCE_SECONDS)
            self._stack.push_async_callback(self.gate.close)
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self.session = await self._stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            self.shop = HttpDriver(self.authority, self.owner, self.session, [self.server.url])
            self.sale, self.sku = self.shop.own("s"), self.shop.own("a")
            await self.shop.open("s", {"a": UNITS}, LIMIT)
            await self.keep()
            await until(self.is_equal, "the first gate")
            self.epoch = await self.read_epoch()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Everything ends, and every process well unless it killed itself."""
        await self._keeping.aclose()
        await self._stack.aclose()

    def process(self, role: str, **settings: str) -> Process:
        """A process of the product on this scene's stores, ended with it."""
        process = Process(role, self._settings | settings)
        self._stack.push_async_callback(end, process)
        return process

    async def reconnect(self) -> None:
        """PostgreSQL was away: the test's own connection, which nothing else renews."""
        self.owner = await asyncpg.connect(self.database.owner_url)
        self._stack.push_async_callback(self.owner.close)

    async def serve(self, crash_at: str = "") -> None:
        """Start the server, or start it again."""
        self.server.tell_environment({"FLASH_CRASH_AT": crash_at})
        await (self.server.start() if self.server.child is None else self.server.restart())

    async def keep(self) -> None:
        """Upkeep starts."""
        self.metrics = await self._keeping.enter_async_context(kept(self.authority, self.redis_url))

    async def leave_alone(self) -> None:
        """Upkeep ends: from now on the gate knows of nothing that it did not do itself."""
        await self._keeping.aclose()

    # --- shoppers

    def asking(self, who: str, **more: Any) -> asyncio.Task[Heard | None]:
        """``buy``, and not waited for."""
        return self._soon(self.buy(who, **more))

    def getting(self, who: str, **more: Any) -> asyncio.Task[Heard]:
        """``gets``, and not waited for."""
        return self._soon(self.gets(who, **more))

    async def buy(
        self, who: str, *, key: str = "", quantity: int = 1, marked: bool = False, server: Process | None = None
    ) -> Heard | None:
        """One POST; None: the connection broke, and nobody knows."""
        key = self.shop.key(key or who)
        headers = {wire.BUYER_HEADER: self.shop.own(who), wire.KEY_HEADER: key}
        headers |= {wire.RETRY_HEADER: "1"} if marked else {}
        url = (server or self.server).url + wire.PURCHASES_PATH
        sent, status, document = time.time(), None, {}
        body = {"items": [{"sku": self.sku, "quantity": quantity}]}
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            async with self.session.post(url, json=body, headers=headers) as answer:
                document, status = await answer.json(content_type=None), answer.status
        self.note(who, key, quantity, sent, (status, document))
        return None if status is None else Heard(status, str(document.get("id") or document["verdict"]))

    async def gets(self, who: str, **more: Any) -> Heard:
        """Send the same again until it is decided."""
        heard: list[Heard] = []

        async def is_decided() -> bool:
            answer = await self.buy(who, **more)
            if answer is None or answer == LATER:
                await asyncio.sleep(LATER_SECONDS)
                return False
            heard.append(answer)
            return True

        await until(is_decided, f"an answer to {who}")
        return heard[0]

    async def asked_until(
        self,
        happened: Callable[[str], Awaitable[bool]],
        *,
        first: Callable[[str], Awaitable[None]] | None = None,
        **more: Any,
    ) -> tuple[str, asyncio.Task[Heard | None]]:
        """Somebody buys, and it happens: who, and their request.

        On a busy machine they may hear ``try_later`` instead. Then they come again, or somebody else does if the gate has a debit of
        theirs, which it would know them by; and it may yet happen to the one before. ``first`` is done before each try, and must bear
        it.
        """
        asked: dict[str, asyncio.Task[Heard | None]] = {}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                who = f"ana-{len(self._put_off)}"
                if first is not None:
                    await first(who)
                request = asked[who] = self.asking(who, **more)
                while not request.done() or request.result() != LATER:
                    for one in reversed(asked):
                        if await happened(one):
                            return one, asked[one]
                    await asyncio.sleep(POLL_SECONDS)
                await asyncio.sleep(LATER_SECONDS)
                if await self.pending(who):
                    self._put_off.append(who)

    async def dead(self, _: str) -> bool:
        """For ``asked_until``: the server has killed itself."""
        return self.server.is_dead

    async def standing(self, _: str) -> bool:
        """For ``asked_until``: the server has stopped itself."""
        return self.server.is_standing

    def id(self, who: str, key: str = "") -> str:
        """The purchase that this wish makes."""
        return str(wire.purchase_id(self.shop.own(who), self.shop.key(key or who)))

    # --- what must be so

    async def view(self) -> GateView:
        return await self.gate.look(self.sale, [self.sku], 99)

    async def pending(self, who: str) -> list[uuid.UUID]:
        """The attempts of this wish that the gate has debited and nobody has settled."""
        return [attempt.rid for attempt in (await self.view()).pending if str(attempt.purchase) == self.id(who)]

    async def state(self, who: str) -> str | None:
        return await self.owner.fetchval("SELECT state FROM flash.purchase WHERE id = $1", uuid.UUID(self.id(who)))  # type: ignore[no-any-return] # the driver has no types

    async def verdicts(self, who: str) -> list[str]:
        """What PostgreSQL has recorded of this wish's attempts."""
        recorded = "SELECT verdict FROM flash.attempt WHERE purchase_id = $1 ORDER BY at"
        return [row["verdict"] for row in await self.owner.fetch(recorded, uuid.UUID(self.id(who)))]

    async def read_epoch(self) -> int:
        return int(await self.owner.fetchval("SELECT epoch FROM flash.sale WHERE id = $1", self.sale))

    async def is_equal(self) -> bool:
        """Is the gate in order, up to date and equal to PostgreSQL, with nothing pending?"""
        with contextlib.suppress(GateUnavailable):
            view = await self.view()
            row = await self.owner.fetchrow("SELECT seq, available FROM flash.stock WHERE sku = $1", self.sku)
            right = not view.damage and view.same_run and view.epoch == await self.read_epoch()
            return right and not view.pending_count and view.items[self.sku] == tuple(row or ())
        return False

    async def repaired(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for what only a repair brings about."""
        is_in_vain = self.never and re.search(self.never, f"never came: {what}")
        await until(condition, what, WITHOUT_REPAIR_SECONDS if is_in_vain else PATIENCE_SECONDS)

    async def rests(self) -> None:
        """The janitor's time comes; the gate becomes PostgreSQL's equal, and by being put right, not by being replaced."""
        with self.monkeypatch.context() as now:
            now.setattr(gate_keeper, "ABANDONED_MS", 0)
            await self.repaired(self.is_equal, "the gate equals PostgreSQL, nothing pending")
        assert await self.read_epoch() == self.epoch, "the gate was replaced"

    async def is_well(self) -> None:
        """The end of every row: at rest; no unit is stuck, for strangers get every one that is left; the audit is clean."""
        await self.rests()
        for who in self._put_off:
            await self.gets(who)
        left = await self.owner.fetchval("SELECT available FROM flash.stock WHERE sku = $1", self.sku)
        for number in range(left):
            assert (await self.gets(f"stranger-{number}")).status in YES
        assert await self.gets("too-late", marked=True) == (409, "sold_out")
        await self.rests()
        await self.owner.execute(
            "UPDATE flash.outbox SET sent_at = now() WHERE sent_at IS NULL"
        )  # there is no broker here
        report = await audit(self.database.auditor_url, self.redis_url, told=self.told)
        assert report.clean, report.document()

    def _soon(self, answer: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
        task = asyncio.create_task(answer)
        self._stack.callback(task.cancel)
        return task

    def note(self, who: str, key: str, asked: int, sent: float, heard: tuple[int | None, dict[str, Any]]) -> None:
        """Who was told what, for the audit."""
        status, document = heard
        shown = document if "lines" in document else {}
        self.told.append(
            ToldCall(
                buyer=self.shop.own(who),
                call="buy",
                key=key,
                asked=((self.sku, asked),),
                sent=sent,
                answered=None if status is None else time.time(),
                status=status,
                purchase=shown.get("id"),
                state=shown.get("state"),
                lines=tuple((line["sku"], line["quantity"], line["seq"]) for line in shown.get("lines", ())),
                deadline=datetime.fromisoformat(shown["deadline"]).timestamp() if shown else None,
            )
        )


async def end(process: Process) -> None:
    """Stop a process if it was ever started, also one that stands."""
    if process.child is None:
        return
    if process.child.returncode is None:
        process.send(signal.SIGCONT)  # a failed test may have left it standing
    await process.stop()
