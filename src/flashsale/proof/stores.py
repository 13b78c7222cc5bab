"""Reads the stores: PostgreSQL in one snapshot, the gates in Redis, the queues of RabbitMQ, the gateways' journals.

Law 1: nothing is written anywhere. Law 2: a snapshot is held while PostgreSQL is asked and not while another store is, because an
open transaction keeps the hot row's dead versions. Law 3: gates are read before the snapshot and journals after it, so a movement
can be missing from the first and extra in the second, and never the other way round.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import aio_pika
import aiohttp
import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from flashsale.proof import findings, invariants
from flashsale.proof.evidence import (
    Booked,
    EvidenceError,
    Gate,
    GateStock,
    JournalLines,
    PaymentRow,
    SaleRow,
    StockRow,
    ToldCall,
)
from flashsale.proof.findings import Tallies, Tally, Till
from flashsale.proof.invariants import Rule

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0  # a snapshot of 100,000 purchases takes a few
CHUNK = 5_000  # ids asked about at once
JOURNAL_CHUNK_BYTES = 1 << 20
SESSION = {
    "application_name": "flash-auditor",
    "search_path": "flash",
    "timezone": "UTC",
    "work_mem": "16MB",  # per hash table, of which a pass has some fifteen; larger ones go to disk
    "jit": "off",
    # The shared scans have no statistics: a join guessed small would be a loop of all over all.
    "enable_nestloop": "off",
    "max_parallel_workers_per_gather": "0",  # one core at most, whoever else is at work
}
# The names by which the broker knows what is still to be done, and what was set aside; a test compares them with the engine's.
WORKING_QUEUES = (
    "payments",
    *(f"payments.retry.{delay_ms}" for delay_ms in (500, 1_000, 2_000, 4_000, 8_000, 15_000)),
    *(f"checkout.{shard}" for shard in range(4)),
)
DEAD_QUEUES = ("payments.dead", "checkout.dead")

_SALES = """
    SELECT s.id, s.state, s.closes, s.epoch, coalesce(p.held, 0) FROM sale s
    LEFT JOIN (SELECT sale_id, count(*) AS held FROM purchase WHERE version > 0 GROUP BY 1) p ON p.sale_id = s.id
    WHERE $1::text IS NULL OR s.id = $1"""
_STOCK = (
    "SELECT sku, sale_id, total, available, seq FROM stock WHERE $1::text IS NULL OR sale_id = $1 ORDER BY sale_id, sku"
)
_NAMES = """SELECT s.id, array_agg(k.sku ORDER BY k.sku) FILTER (WHERE k.sku IS NOT NULL) FROM sale s LEFT JOIN stock k ON k.sale_id = s.id
    WHERE ($1::text IS NULL OR s.id = $1) AND (NOT $2 OR s.state <> 'ENDED' AND s.closes > now()) GROUP BY s.id"""
_SCOPE = """SELECT (SELECT count(*) FROM purchase WHERE $1::text IS NULL OR sale_id = $1) AS purchases,
    (SELECT count(*) FROM ledger WHERE $1::text IS NULL OR sku IN (SELECT sku FROM stock WHERE sale_id = $1)) AS ledger_rows"""
_UNKNOWN = "SELECT w FROM unnest($1::text[]) w LEFT JOIN purchase p ON p.id = w::uuid WHERE p.id IS NULL ORDER BY w"
_DECIDED = "SELECT DISTINCT purchase_id::text FROM attempt WHERE purchase_id = ANY ($1::uuid[]) AND verdict <> 'void'"
_BOOKED = """
    SELECT p.id::text, p.buyer, p.key, p.state, l.lines, m.holds FROM purchase p
    LEFT JOIN (SELECT purchase_id, array_agg((sku, quantity) ORDER BY sku) AS lines FROM line
               WHERE purchase_id = ANY ($1::uuid[]) GROUP BY 1) l ON l.purchase_id = p.id
    LEFT JOIN (SELECT purchase_id, array_agg((sku, -delta, seq) ORDER BY sku, seq) AS holds FROM ledger
               WHERE purchase_id = ANY ($1::uuid[]) AND kind = 'hold' GROUP BY 1) m ON m.purchase_id = p.id
    WHERE p.id = ANY ($1::uuid[])"""
_IDS = "SELECT id::text FROM purchase WHERE version > 0 AND ($1::text IS NULL OR sale_id = $1)"
_PAYMENTS = """
    SELECT coalesce(y.purchase_id, p.id)::text, coalesce(y.try, 0), coalesce(y.state, ''), coalesce(y.method, ''), p.state,
           p.total_minor, s.currency
    FROM payment y FULL JOIN purchase p ON p.id = y.purchase_id LEFT JOIN sale s ON s.id = p.sale_id
    WHERE CASE WHEN $1::text IS NULL THEN y.try IS NOT NULL ELSE p.sale_id = $1 END"""


Item = TypeVar("Item")


class StoreUnreachableError(Exception):
    """PostgreSQL, Redis, RabbitMQ or a gateway does not answer, or does not let the auditor read."""


@dataclass
class Told:
    """What shoppers were told, with what is asked about it again and again worked out once."""

    calls: Sequence[ToldCall]
    shown: list[ToldCall] = field(init=False)
    accepted: dict[str, ToldCall] = field(init=False)
    asked_for: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.shown = [call for call in self.calls if call.shows_purchase and call.purchase is not None]
        self.accepted = findings.accepted(self.calls)
        self.asked_for = findings.asked_for(self.calls)


@dataclass
class Books:
    """What one snapshot of PostgreSQL said; ``at`` on its own clock."""

    at: datetime
    sales: list[SaleRow]
    stock: list[StockRow]
    tallies: list[Tally]
    scope: dict[str, int]
    payments: list[PaymentRow] = field(default_factory=list)

    def stock_of(self, sale: str) -> list[StockRow]:
        return [row for row in self.stock if row.sale == sale]


@contextlib.asynccontextmanager
async def reading(url: str) -> AsyncIterator[asyncpg.Connection]:
    """One snapshot of PostgreSQL, read only. Raises StoreUnreachableError."""
    try:
        connection = await asyncpg.connect(
            url, timeout=CONNECT_SECONDS, command_timeout=READ_SECONDS, server_settings=SESSION
        )
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection
        finally:
            await connection.close(timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StoreUnreachableError(f"PostgreSQL: {error!r}") from error


async def read_books(
    connection: asyncpg.Connection,
    sale: str | None,
    rules: Sequence[Rule],
    *,
    told: Told | None = None,
    gates: Iterable[Gate] = (),
    with_payments: bool = False,
) -> Books:
    """Everything that is asked of PostgreSQL in one look. The caller's transaction makes it one moment."""
    at = await connection.fetchval("SELECT clock_timestamp()")
    rows = await connection.fetch(invariants.query(rules), *invariants.arguments(sale)) if rules else []
    tallies = [Tally(rule, number, tuple(subjects), tuple(texts)) for rule, number, subjects, texts in rows]
    scope = dict(await connection.fetchrow(_SCOPE, sale) or {})
    books = Books(
        at=at,
        sales=[SaleRow(*row) for row in await connection.fetch(_SALES, sale)],
        stock=[StockRow(*row) for row in await connection.fetch(_STOCK, sale)],
        tallies=tallies,
        scope=scope,
    )
    found = Tallies()
    for gate in gates:
        found.add(findings.won_unknown(gate, await _unknown(connection, gate.won or ())))
    if told is not None:
        await _hold_against(connection, sale, told, found)
        found.add(findings.oversold_as_told({row.sku: row.total for row in books.stock}, told.calls))
    books.tallies += found.all()
    if with_payments:
        async for row in connection.cursor(_PAYMENTS, sale, prefetch=CHUNK):
            books.payments.append(PaymentRow(*row))
    return books


async def _hold_against(connection: asyncpg.Connection, sale: str | None, told: Told, found: Tallies) -> None:
    for calls in _chunks(told.shown):
        ids = [call.purchase for call in calls if _is_uuid(call.purchase)]
        rows = await connection.fetch(_BOOKED, ids)
        books = {row[0]: _booked(row) for row in rows}
        found.add(findings.told_not_so(calls, books))
    decided: set[str] = set()
    for accepted in _chunks(list(told.accepted)):
        decided.update(row[0] for row in await connection.fetch(_DECIDED, accepted))
    found.add(findings.accepted_undecided(told.accepted, decided))
    async for row in connection.cursor(_IDS, sale, prefetch=CHUNK):
        if row[0] not in told.asked_for:
            found.add(findings.never_asked_for([row[0]]))


def _booked(row: asyncpg.Record) -> Booked:
    lines, holds = ([tuple(item) for item in items or ()] for items in (row[4], row[5]))
    return Booked(row[0], row[1], row[2], row[3], tuple(lines), tuple(holds))


async def _unknown(connection: asyncpg.Connection, won: Sequence[str]) -> list[str]:
    unknown = [purchase for purchase in won if not _is_uuid(purchase)]
    for ids in _chunks([purchase for purchase in won if _is_uuid(purchase)]):
        unknown += [row[0] for row in await connection.fetch(_UNKNOWN, ids)]
    return unknown


async def read_gates(
    postgres_url: str, redis_url: str, sale: str | None, *, live_only: bool = False
) -> dict[str, Gate]:
    """The gates of the sales in the books, those that exist. ``live_only``: of sales that are not over, and without the winners."""
    async with reading(postgres_url) as connection:
        names = await connection.fetch(_NAMES, sale, live_only)
    redis: Redis = Redis.from_url(
        redis_url, decode_responses=True, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=READ_SECONDS
    )
    try:
        life = (await redis.info("server"))["run_id"]
        found = [await _read_gate(redis, name, skus or [], life, with_won=not live_only) for name, skus in names]
        return {gate.sale: gate for gate in found if gate is not None}
    except (OSError, TimeoutError, RedisError) as error:
        raise StoreUnreachableError(f"Redis: {error!r}") from error
    finally:
        await redis.aclose()


async def _read_gate(redis: Redis, sale: str, skus: list[str], life: str, *, with_won: bool) -> Gate | None:
    base = f"{{{sale}}}:"
    async with redis.pipeline(transaction=True) as reads:  # one moment
        reads.hgetall(base + "gate")
        reads.hlen(base + "pending")
        reads.scard(base + "won")
        for sku in skus:
            reads.hgetall(f"{base}stock:{sku}")
        head, pending, won_number, *copies = await reads.execute()
    if not head:
        return None
    won = [_canonical(item) async for item in redis.sscan_iter(base + "won", count=CHUNK)] if with_won else None
    return Gate(
        sale=sale,
        epoch=int(head.get("epoch", 0)),
        this_life=head.get("run_id") == life,
        stock={
            sku: GateStock(int(copy["available"]), int(copy["pending"]), int(copy["cursor"]))
            for sku, copy in zip(skus, copies, strict=True)
            if {"available", "pending", "cursor"} <= copy.keys()
        },
        pending=pending,
        won_number=won_number,
        won=None if won is None else tuple(won),
    )


async def read_queues(url: str) -> dict[str, int]:
    """Messages that wait in each queue that exists; what a consumer has in hand is not among them. Raises StoreUnreachableError."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            connection = await aio_pika.connect(url, timeout=CONNECT_SECONDS)
            async with connection:
                return {
                    name: number
                    for name in (*WORKING_QUEUES, *DEAD_QUEUES)
                    if (number := await _waiting(connection, name)) is not None
                }
    except (OSError, TimeoutError, RuntimeError, aio_pika.exceptions.AMQPError) as error:
        raise StoreUnreachableError(f"RabbitMQ: {error!r}") from error


async def _waiting(connection: aio_pika.abc.AbstractConnection, name: str) -> int | None:
    channel = await connection.channel()  # of its own: a question about a queue that is not there closes it
    try:
        queue = await channel.declare_queue(name, passive=True)
        return queue.declaration_result.message_count
    except aio_pika.exceptions.ChannelNotFoundEntity:
        return None
    finally:
        await channel.close()


class Journal:
    """One gateway's journal, at its base URL or in a file, read on from where the last look ended."""

    def __init__(self, source: str | Path, method: str = "card") -> None:
        self.till = Till(method)
        self._source = source
        self._lines = JournalLines(f"the journal of {method}")

    async def read(self) -> Till:
        """What is there now. Raises StoreUnreachableError, EvidenceError."""
        self._lines.restart()
        if isinstance(self._source, Path):
            await asyncio.to_thread(self._read_file, self._source)
        else:
            await self._fetch(self._source)
        return self.till

    def _read_file(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._must_reach(file.seek(0, 2))
                file.seek(self._lines.taken)
                while data := file.read(JOURNAL_CHUNK_BYTES):
                    self.till.add(self._lines.feed(data))
        except OSError as error:
            raise EvidenceError(f"{path} is no usable journal: {error!r}") from error

    async def _fetch(self, url: str) -> None:
        taken = self._lines.taken
        # From the last byte that is known, so that a journal without news is an answer and not an error.
        asked = {"Range": f"bytes={taken - 1}-"} if taken else {}
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(READ_SECONDS)) as session,
                session.get(f"{url.rstrip('/')}/journal", headers=asked) as answer,
            ):
                if answer.status == 416:
                    self._must_reach(0)
                answer.raise_for_status()
                skip = (1 if answer.status == 206 else taken) if taken else 0
                async for data in answer.content.iter_chunked(JOURNAL_CHUNK_BYTES):
                    self.till.add(self._lines.feed(data[skip:]))
                    skip = max(0, skip - len(data))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise StoreUnreachableError(f"{self.till.name}: {error!r}") from error

    def _must_reach(self, size: int) -> None:
        if size < self._lines.taken:
            raise EvidenceError(
                f"the journal of {self.till.name} was {self._lines.taken} bytes long, and is shorter now"
            )


def _chunks(items: Sequence[Item]) -> Iterable[Sequence[Item]]:
    return (items[at : at + CHUNK] for at in range(0, len(items), CHUNK))


def _is_uuid(text: str | None) -> bool:
    try:
        return text is not None and str(UUID(text)) == text
    except ValueError:
        return False


def _canonical(purchase: str) -> str:
    # The gate leaves the dashes out. What is no id at all stays as it is, and no purchase will match it.
    try:
        return str(UUID(purchase))
    except ValueError:
        return purchase
