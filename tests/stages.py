"""A database, upkeep and servers of a backend on it, and what a test needs to talk to them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import asyncpg
from redis.asyncio import Redis

from flashsale.authority.client import Authority
from tests.databases import Address, Database, drop_database, given, make_database, patient
from tests.patience import PATIENCE_SECONDS
from tests.queues import drop_queues
from tests.servers import JWT_SECRET, Process, running
from tests.sessions import patient_session


@dataclass
class Stage:
    """``owner`` is a superuser's connection: the tests' way to look behind the scenes and to move deadlines."""

    database: Database
    authority: Authority
    owner: asyncpg.Connection
    session: aiohttp.ClientSession
    redis: Redis
    upkeep: Process
    servers: list[Process] = field(default_factory=list)  # those that shoppers talk to, of either backend
    workers: list[Process] = field(default_factory=list)  # of the queued backend
    streams: list[Process] = field(default_factory=list)  # with viewers and nothing else

    async def gate_opens(self, *sales: str) -> None:
        """Wait until upkeep has given these sales a gate; until then PostgreSQL decides alone."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.redis.exists(*(f"{{{sale}}}:gate" for sale in sales)) < len(sales):
                await asyncio.sleep(0.02)

    def urls_of(self, backend: str) -> list[str]:
        """The addresses of one backend's servers."""
        return [server.url for server in self.servers if server.role == backend]

    @property
    def urls(self) -> list[str]:
        """The servers' addresses."""
        return [server.url for server in self.servers]


@contextlib.asynccontextmanager
async def staged(
    template: str,
    redis_url: str,
    *,
    servers: int = 1,
    queued_servers: int = 0,
    workers: int = 1,
    streams: int = 0,
    auth: str = "off",
    postgres_url: str | None = None,
    rabbitmq_url: str | None = None,
    settings: dict[str, str] | None = None,
) -> AsyncIterator[Stage]:
    """Start everything on a fresh database. ``postgres_url`` (with {} for the database) leads processes another way.

    ``servers`` of asyncio_redis; ``queued_servers`` of gevent_rabbit and, if there are any, ``workers`` behind their queues;
    ``streams`` with viewers alone.
    """
    database = await make_database(template)
    name = database.app_url.rpartition("/")[2]
    environment = {
        "FLASH_POSTGRES_URL": Address(postgres_url.format(name)) if postgres_url else database.app_url,
        "FLASH_REDIS_URL": redis_url,
        "FLASH_AUTH": auth,
        "FLASH_JWT_SECRET": JWT_SECRET,
        **(settings or {}),
    }
    roles = ["upkeep", *["asyncio_redis"] * servers]
    if queued_servers:
        await drop_queues()
        environment["FLASH_RABBITMQ_URL"] = rabbitmq_url or given("FLASH_TEST_RABBITMQ_URL")
        roles += ["checkout"] * workers + ["gevent_rabbit"] * queued_servers
    roles += ["stream"] * streams
    async with contextlib.AsyncExitStack() as stack:  # closed whatever happens, or the next test is blamed for it
        stack.push_async_callback(drop_database, database)
        authority = await patient(database, 4)
        stack.push_async_callback(authority.close)
        owner = await asyncpg.connect(database.owner_url)
        stack.push_async_callback(owner.close)
        redis = Redis.from_url(given("FLASH_TEST_REDIS_URL"))  # not the processes' way, which may be led through faults
        stack.push_async_callback(redis.aclose)
        session = await stack.enter_async_context(patient_session())
        upkeep, *others = await stack.enter_async_context(running(roles, environment))
        fronts = [process for process in others if process.role not in {"checkout", "stream"}]
        behind = [process for process in others if process.role == "checkout"]
        shown = [process for process in others if process.role == "stream"]
        yield Stage(database, authority, owner, session, redis, upkeep, fronts, behind, shown)
