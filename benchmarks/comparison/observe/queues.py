"""What waits where, as each process says of itself, and as PostgreSQL and Redis say."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import aiohttp
import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

ASK_S = 2.0
_BUSY = """
    SELECT count(*) FILTER (WHERE state = 'active' AND pid <> pg_backend_pid()) AS connections,
           count(*) FILTER (WHERE wait_event_type = 'Lock') AS lock_waits,
           (SELECT sum(xact_commit)::bigint FROM pg_stat_database WHERE datname = $1) AS commits
    FROM pg_stat_activity WHERE datname = $1"""
# What a process's own page says, under which word here; of several samples the sum.
_AT_THE_BALANCER = {
    "loadbalancer_server_active": "in_hand",
    "loadbalancer_queued": "waiting",
    "loadbalancer_server_peak": "peak",
    "loadbalancer_refused_total": "refused",
    "loadbalancer_retries_total": "retries",
    "loadbalancer_clients": "clients",
}
_AT_A_SERVER = {"flashsale_in_flight": "in_hand"}
_DEPTH = "flashsale_queue_depth"
_SAMPLE = re.compile(r"^([a-z_]+)(?:\{([^}]*)\})? ([0-9.e+-]+|NaN)$", re.MULTILINE)
_QUEUE = re.compile(r'queue="([^"]+)"')

Pages = Callable[[], Iterable[tuple[str, str]]]  # of each process: its place, and the address of its metrics


class Queues:
    """Rows of ``QUEUES``. ``books`` is a connection of who may see what others' do, and ``database`` the one that is looked at."""

    period_s = 0.5

    def __init__(
        self, session: aiohttp.ClientSession, pages: Pages, books: asyncpg.Connection, database: str, gate: Redis
    ) -> None:
        self._session = session
        self._pages = pages
        self._books = books
        self._database = database
        self._gate = gate
        self.rows: list[tuple[object, ...]] = []

    async def look(self, t_ns: int) -> None:
        pages = list(self._pages())
        texts = await asyncio.gather(*(self._read(address) for _, address in pages))
        # of a queue every front says the same
        seen = {row[:2]: row for (place, _), text in zip(pages, texts, strict=True) for row in said(place, text)}
        self.rows += [(t_ns, *row) for row in seen.values()]
        with contextlib.suppress(asyncpg.PostgresError, OSError, TimeoutError):
            busy = await self._books.fetchrow(_BUSY, self._database, timeout=ASK_S)
            self.rows += [(t_ns, "postgres", metric, value) for metric, value in dict(busy or {}).items()]
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            told: Mapping[str, object] = await self._gate.info()
            self.rows.append((t_ns, "redis", "clients", told.get("connected_clients")))
            self.rows.append((t_ns, "redis", "commands", told.get("total_commands_processed")))

    async def _read(self, address: str) -> str:
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with self._session.get(address) as answer:
                return await answer.text()
        return ""


def said(place: str, text: str) -> Iterator[tuple[str, str, float]]:
    """Place, metric and value of what one page says."""
    words = _AT_THE_BALANCER if place == "lb" else _AT_A_SERVER
    sums: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        if value == "NaN":
            continue
        if name in words:
            sums[words[name]] = sums.get(words[name], 0.0) + float(value)
        elif name == _DEPTH and (queue := _QUEUE.search(labels)):
            yield f"rabbitmq:{queue[1]}", "depth", float(value)
    yield from ((place, metric, value) for metric, value in sums.items())
