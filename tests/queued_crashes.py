"""One sale of the queued backend, with a front and checkout workers that may be armed to die, or lack a repair."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
import psutil

from flashsale.authority.client import Attempt
from flashsale.contract import wire
from flashsale.proof.auditor import audit
from flashsale.proof.evidence import ToldCall
from flashsale.queued import topology
from flashsale.settings import REPOSITORY
from tests.contract.drivers import HttpDriver
from tests.crashes import end, until
from tests.databases import given
from tests.patience import PATIENCE_SECONDS
from tests.queued_shop import Answer, Shopper
from tests.queues import broker, drop_queues, ready_messages
from tests.servers import JWT_SECRET, Process
from tests.sessions import patient_session
from tests.stages import Stage, staged

FRONT, WORKER = "gevent_rabbit", "checkout"
YES = {200, 201}
Told = TypeVar("Told")
AGAIN_SECONDS = 0.05
WITHOUT_REPAIR_SECONDS = 4.0  # for what takes a tenth of one; on a slow machine a control may pass for the wrong reason
AT_ONCE = 16

# What a front refuses at once is never queued, and these rows are about the queue.
QUEUES_ALL = """
from flashsale.stream import refusals

refusals.Refusals.refuse = lambda *_: None
"""
# A confirm that comes too late is 503, and its attempt is queued all the same: beside the one of the shopper who comes again, where a
# row says what each attempt becomes. What becomes of confirms is the matter of the rows that have a broker of their own.
CONFIRMS_COME = f"""
from flashsale.backends.gevent_rabbit import dispatch

dispatch.CONFIRM_SECONDS = {PATIENCE_SECONDS}
"""


@dataclass(frozen=True)
class Lacks:
    """What a control takes from the processes, as Python that they run first, and from the rest at the row's own moment."""

    front: str = ""
    worker: str = ""
    again: Callable[["Scene"], Awaitable[None]] | None = None


@dataclass
class Scene:
    """What a row of the table needs. Everything that shoppers are told is written down for the audit."""

    stage: Stage
    session: aiohttp.ClientSession
    directory: Path
    settings: dict[str, str]
    redis_url: str
    first: str = QUEUES_ALL  # what a front does before all else
    told: list[ToldCall] = field(default_factory=list)
    lacks: Lacks = field(default_factory=Lacks)
    never: str = ""  # what does not come without a repair
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    def __post_init__(self) -> None:
        self._processes: list[Process] = []
        self.shop = HttpDriver(self.stage.authority, self.stage.owner, self.session, [])
        self.front = self.process(FRONT, self.first + self.lacks.front)
        self.shop.urls = [self.front.url]
        self._shoppers: dict[str, Shopper] = {}
        self.receipts: dict[str, str] = {}  # the first of each

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Every process ends, and well unless it killed itself."""
        await self._stack.aclose()

    # --- processes

    def process(self, role: str, lacks: str = "", *, main: str = "", **settings: str) -> Process:
        """A process of the product on this scene's stores, ended with it. ``main``: another than the product's."""
        process = Process(role, self.settings | settings, first="" if main else lacks)
        if main:
            process.module = f"lacking_{uuid.uuid4().hex}"
            (self.directory / f"{process.module}.py").write_text(main.replace("LACKS", lacks))
            process.tell_environment({"PYTHONPATH": f"{self.directory}:{REPOSITORY / 'src'}"})
        self._processes.append(process)
        self._stack.push_async_callback(end, process)
        return process

    async def serves(self, crash_at: str = "") -> Process:
        """Start the front, or start it again."""
        self.front.tell_environment({"FLASH_CRASH_AT": crash_at})
        await (self.front.start() if self.front.child is None else self.front.restart())
        if not crash_at:
            self.front.log.write_text("")  # where gunicorn calls the death that was wanted an error
        return self.front

    async def works(self, crash_at: str = "", **settings: str) -> Process:
        """One more worker, which consumes from every shard."""
        worker = await self.process(WORKER, self.lacks.worker, FLASH_CRASH_AT=crash_at, **settings).start()
        await until(self.is_consumed, "a consumer of every shard")
        return worker

    async def works_until(self, crash_at: str, *, main: str = "") -> Process:
        """One more worker, which is not waited for: it may be dead before it is ready."""
        worker = self.process(WORKER, self.lacks.worker, main=main, FLASH_CRASH_AT=crash_at)
        await worker.spawn()
        return worker

    async def front_stands(self) -> psutil.Process:
        """Wait until the front has stopped itself: the process behind the one that was started."""
        assert self.front.child is not None
        master = psutil.Process(self.front.child.pid)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with contextlib.suppress(psutil.NoSuchProcess):
                    for child in master.children():
                        if child.status() == psutil.STATUS_STOPPED:
                            return child
                await asyncio.sleep(0.05)  # each look reads all processes of the machine

    async def abandon(self) -> None:
        """Kill every process: what lacks a repair need not end well."""
        for process in self._processes:
            if process.child is not None and process.ended is None:
                with contextlib.suppress(ProcessLookupError):
                    process.child.kill()
                process.ended = await process.child.wait()

    async def comes_again(self) -> None:
        """The row's own moment: what has been under way comes once more, and a control may have taken its repair away."""
        if self.lacks.again is not None:
            await self.lacks.again(self)

    # --- shoppers

    def shopper(self, who: str) -> Shopper:
        return self._shoppers.setdefault(who, Shopper(self.shop, who))

    async def asks(self, who: str, *, server: str = "", hasty: bool = False, **headers: str) -> Answer | None:
        """One POST; None: the connection broke, and nobody knows."""
        sent, answer = time.time(), None
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            answer = await self.shopper(who).buy(server or self.front.url, hasty=hasty, **headers)
        self.note(who, "buy", sent, answer)
        if answer is not None and answer.status == 202:
            self.receipts.setdefault(who, answer.receipt)
        return answer

    async def queues(self, *shoppers: str) -> None:
        """They ask, one after the other, and each hears 202."""
        for who in shoppers:
            answer = await self.asks(who)
            assert answer is not None
            assert answer.status == 202, answer.body

    async def crowd(self, *shoppers: str) -> None:
        """The same, some at once."""
        for at in range(0, len(shoppers), AT_ONCE):
            await asyncio.gather(*map(self.queues, shoppers[at : at + AT_ONCE]))

    def soon(self, *answers: Coroutine[Any, Any, Told]) -> list[asyncio.Task[Told]]:
        """Under way, and not waited for."""
        tasks = [asyncio.create_task(answer) for answer in answers]
        for task in tasks:
            self._stack.callback(task.cancel)
        return tasks

    async def gets(self, who: str, **headers: str) -> Answer:
        """Send the same again until it is decided."""
        while True:
            answer = await self.asks(who, hasty=False, Prefer="wait=5", **headers)
            if answer is not None and answer.status != 202:
                return answer
            await asyncio.sleep(AGAIN_SECONDS)

    async def looks(self, who: str) -> str:
        """What a receipt's holder is shown: a state, or the verdict of a refusal."""
        seen = await self.shopper(who).look(self.front.url, Receipt=self.receipts[who])
        return str(seen.body.get("state") or seen.body["verdict"])

    async def cancels(self, who: str) -> None:
        """Give the unit back."""
        sent = time.time()
        assert await self.shop.cancel(who, who) == "CANCELLED"
        self.note(who, "cancel", sent, None)

    async def buys_elsewhere(self, who: str) -> None:
        """Somebody buys a unit through the other backend."""
        buyer, key, sent = self.shop.own(who), self.shop.key(who), time.time()
        cart = wire.Cart((wire.Line(self.shop.own("a"), 1),))
        attempt = Attempt(uuid.uuid4(), self.id(who), buyer, key, cart)
        (decision,) = await self.stage.authority.reserve_batch([attempt])
        assert decision.purchase is not None
        shown = await self.shopper(who).look(self.front.url)
        self.note(who, "buy", sent, Answer(201, shown.body, shown.seconds))

    def id(self, who: str) -> uuid.UUID:
        """The purchase that this wish makes."""
        return self.shopper(who).purchase

    def note(self, who: str, call: str, sent: float, answer: Answer | None) -> None:
        """Who was told what, for the audit. A cancel counts from when it was sent, whatever came of it."""
        shown = answer.body if answer and "lines" in answer.body else {}
        self.told.append(
            ToldCall(
                buyer=self.shop.own(who),
                call=call,
                key=self.shop.key(who),
                asked=((self.shop.own("a"), 1),) if call == "buy" else (),
                sent=sent,
                answered=None if answer is None else time.time(),
                status=None if answer is None else answer.status,
                purchase=str(self.id(who)) if call == "cancel" else shown.get("id"),
                state=shown.get("state"),
                lines=tuple((line["sku"], line["quantity"], line["seq"]) for line in shown.get("lines", ())),
                deadline=datetime.fromisoformat(shown["deadline"]).timestamp() if shown else None,
            )
        )

    # --- what must be so

    async def verdicts(self, who: str) -> list[str]:
        """What PostgreSQL has recorded of this wish's attempts."""
        recorded = "SELECT verdict FROM flash.attempt WHERE purchase_id = $1 ORDER BY at"
        return [row["verdict"] for row in await self.stage.owner.fetch(recorded, self.id(who))]

    async def holds(self) -> int:
        """How often a unit was taken."""
        return int(await self.stage.owner.fetchval("SELECT count(*) FROM flash.ledger WHERE kind = 'hold'"))

    async def available(self) -> int:
        sku = self.shop.own("a")
        return int(await self.stage.owner.fetchval("SELECT available FROM flash.stock WHERE sku = $1", sku))

    async def repaired(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for what a repair brings about."""
        await until(condition, what, WITHOUT_REPAIR_SECONDS if what == self.never else PATIENCE_SECONDS)

    async def decided(self, *shoppers: str) -> None:
        """Each of them, and without coming again."""
        ids = [self.id(who) for who in shoppers]
        recorded = "SELECT count(DISTINCT purchase_id) FROM flash.attempt WHERE purchase_id = ANY ($1)"

        async def all_are() -> bool:
            return bool(await self.stage.owner.fetchval(recorded, ids) == len(ids))

        await self.repaired(all_are, "the decision of what was accepted")

    @property
    def broker_url(self) -> str:
        return self.settings["FLASH_RABBITMQ_URL"]

    @property
    def queue(self) -> str:
        return topology.queue_of(self.shop.own("a"))

    async def is_consumed(self) -> bool:
        """Has every shard a consumer?"""
        async with broker(self.broker_url) as channel:
            found = [await channel.declare_queue(shard.name, passive=True) for shard in topology.SHARD_QUEUES]
        return all(queue.declaration_result.consumer_count for queue in found)

    async def waiting(self, queue: str = "") -> int:
        """How many messages wait in the queue of the item, or in another; those in a worker's hand not counted."""
        return await ready_messages(queue or self.queue, self.broker_url)

    async def is_well(self) -> None:
        """The end of every row: everybody hears how it ended; nothing was set aside; strangers get every unit that is left;
        the audit is clean.
        """
        everybody = list(self._shoppers)
        for at in range(0, len(everybody), AT_ONCE):
            await asyncio.gather(*map(self.gets, everybody[at : at + AT_ONCE]))
        assert await self.waiting(topology.DEAD) == 0, "a dead letter"
        for number in range(await self.available()):
            assert (await self.gets(f"stranger-{number}")).status in YES
        assert (await self.gets("too-late", Retry_Attempt="1")).body["verdict"] == "sold_out"

        async def is_clean() -> bool:
            report = await audit(self.stage.database.auditor_url, self.redis_url, told=self.told)
            assert not report.findings["oversold"].number, report.document()
            return report.clean

        await until(is_clean, "a clean audit")


@contextlib.asynccontextmanager
async def scene_on(
    template: str,
    redis_url: str,
    directory: Path,
    *,
    units: int,
    lacks: Lacks | None = None,
    rabbitmq_url: str = "",
    way: Callable[[str], str] | None = None,
) -> AsyncIterator[Scene]:
    """A sale of so many units, one per buyer; nothing serves it yet. ``way``: how processes reach PostgreSQL."""
    broker_url = rabbitmq_url or given("FLASH_TEST_RABBITMQ_URL")
    own = {"FLASH_RABBITMQ_URL": broker_url}
    if not rabbitmq_url:
        await drop_queues()
    async with (
        staged(template, redis_url, servers=0, settings=own) as stage,
        patient_session(force_close=True) as session,
    ):
        settings = {
            "FLASH_POSTGRES_URL": way(stage.database.app_url) if way else stage.database.app_url,
            "FLASH_REDIS_URL": redis_url,
            "FLASH_AUTH": "off",
            "FLASH_JWT_SECRET": JWT_SECRET,
            **own,
        }
        first = QUEUES_ALL if rabbitmq_url else QUEUES_ALL + CONFIRMS_COME
        async with Scene(stage, session, directory, settings, redis_url, first, lacks=lacks or Lacks()) as scene:
            await scene.shop.open("s", {"a": units}, 1)
            await stage.gate_opens(scene.shop.own("s"))
            yield scene
