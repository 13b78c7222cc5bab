"""Where trials take place: the stores, four client processes, and one strategy at a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.strategies.catalogue import strategy
from benchmarks.strategies.engine import Engine
from benchmarks.strategies.processes import Client, Own, environment_of
from benchmarks.strategies.stores import OwnRedis, SlowWay, database, redis
from benchmarks.strategies.strategy import Stores, Strategy

PROCESSES = 4
SAID_SECONDS = 120.0
GATE_SECONDS = 120.0
Hear = Callable[[int, dict[str, Any]], None]


class Field:
    """See ``opened``."""

    server = PROCESSES  # the number of the process that decides, for strategies that have one

    def __init__(
        self, stores: Stores, redis: OwnRedis, way: SlowWay, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.stores, self.redis, self.way = stores, redis, way
        self.heard: asyncio.Queue[tuple[int, dict[str, Any]]] = asyncio.Queue()
        self.clients = [Client(number, environment, self.heard) for number in range(PROCESSES + 1)]
        self._environment = environment_of(environment, stores._replace(postgres=way.url))
        self._folder, self._ours = folder, list[Own]()
        self._strategy: Strategy | None = None

    @contextlib.asynccontextmanager
    async def trying(self, name: str) -> AsyncIterator[Strategy]:
        """Everything is there for this strategy's trials: installed, clients connected, its servers started."""
        kind = strategy(name)
        async with contextlib.AsyncExitStack() as stack:
            stores = self.stores
            if issubclass(kind, Engine):
                await kind(stores).install()
                stack.push_async_callback(self._stop_ours)
                await self._start_ours(kind)
                urls = tuple(own.url for role in dict.fromkeys(kind.servers) for own in self.own(role))
                stores = stores._replace(servers=urls)
            self._strategy = await stack.enter_async_context(kind(stores))
            if not issubclass(kind, Engine):
                await self._strategy.install()
            await self.opened(range(PROCESSES + 1), _nothing)
            yield self._strategy

    def own(self, role: str) -> list[Own]:
        """The engine's processes of a role."""
        return [own for own in self._ours if own.role == role]

    async def gate_of(self, item: str) -> None:
        """Wait until upkeep has made the gate of a sale. Raises ``RuntimeError`` when it never does."""
        try:
            async with asyncio.timeout(GATE_SECONDS):
                while not await self.redis.exists(f"{{{item}}}:gate"):  # noqa: ASYNC110 - another process makes it
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise RuntimeError(f"the gate of {item} was not made within {GATE_SECONDS:.0f} s") from None

    async def again(self, chosen: Sequence[Own], crash_at: str = "") -> None:
        """Kill these and start them again, armed or not; those that are as wanted stay."""
        for own in chosen:
            if own.is_armed or own.is_dead or crash_at:
                await own.kill()
                await own.start(crash_at)
        await asyncio.gather(*(own.ready() for own in chosen))

    async def reopened(self) -> None:
        """The strategy as it stands here is connected anew."""
        assert self._strategy is not None
        await self._strategy.__aexit__()
        await self._strategy.__aenter__()

    async def opened(self, numbers: Collection[int], hear: Hear) -> None:
        """These clients are connected, anew if they were."""
        assert self._strategy is not None
        stores = self._strategy.at
        for number in numbers:
            turned = stores.servers[number % 2 :] + stores.servers[: number % 2]  # each asks another server first
            told = stores._replace(servers=turned)._asdict()
            self.clients[number].tell("open", strategy=self._strategy.name(), stores=told)
        await self._said("opened", numbers, hear)

    async def served(self, hold: Sequence[str], delay_ms: float, hear: Hear) -> None:
        """The process that decides does, and is held up so."""
        self.clients[self.server].tell("serve", hold=list(hold), delay_ms=delay_ms)
        await self._said("serving", [self.server], hear)

    async def restarted(self, number: int, hear: Hear) -> None:
        """Kill -9 a client, and start it again."""
        await self.clients[number].kill()
        await self._said("gone", [number], hear)
        await self.clients[number].start()
        await self.opened([number], hear)

    async def _said(self, what: str, numbers: Collection[int], hear: Hear) -> None:
        missing = set(numbers)
        try:
            async with asyncio.timeout(SAID_SECONDS):
                while missing:
                    number, said = await self.heard.get()
                    if said["is"] == what and number in missing:
                        missing.discard(number)
                    else:
                        hear(number, said)
        except TimeoutError:
            raise RuntimeError(f"clients {sorted(missing)} do not say {what!r}") from None

    async def _start_ours(self, kind: type[Engine]) -> None:
        self._ours = [Own(role, self._environment, self._folder) for role in ("upkeep", *kind.behind, *kind.servers)]
        for own in self._ours:
            await own.start()
        await asyncio.gather(*(own.ready() for own in self._ours))

    async def _stop_ours(self) -> None:
        await asyncio.gather(*(own.stop() for own in self._ours))
        self._ours = []


@contextlib.asynccontextmanager
async def opened(
    postgres_url: str, rabbitmq_url: str, folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[Field]:
    """A field of one's own: a new database on this PostgreSQL, whose URL is the owner's, and a Redis that may die."""
    async with database(postgres_url) as url, redis(folder) as own, SlowWay(url).opened() as way:
        field = Field(Stores(url, own.url, rabbitmq_url), own, way, folder, environment)
        async with contextlib.AsyncExitStack() as stack:
            for client in field.clients:
                stack.push_async_callback(client.kill)
                await client.start()
            yield field


def _nothing(_: int, said: dict[str, Any]) -> None:
    if said["is"] == "gone":
        raise RuntimeError("a client ended at its start")
