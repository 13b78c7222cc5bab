"""What every part of the benchmark is given, and how a server of ours gets ready for it."""

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks import parts
from benchmarks.backend.attempts import Attempts, Names, body
from benchmarks.backend.load import SERVER
from benchmarks.backend.servers import EDGE, OURS, Server, ask, gate_answers, running
from benchmarks.backend.shop import Shop, write_identities

AUTHS = OFF, JWT = "off", "jwt"
GATE_SECONDS = 60.0  # until the gate of a new sale is made
SOLD_OUT = (409, "sold_out")


class Field(NamedTuple):
    """The services, the cores, and places for files."""

    environment: Mapping[str, str]
    processes: Mapping[str, int]  # pids of services and roles, by name
    core: int  # the server's own
    folder: Path  # ends with the run
    home: Path  # stays
    pictures: Path  # the first part of their names
    shop: Shop
    names: Names
    say: Callable[[str], None]

    @property
    def all_cores(self) -> set[int]:
        """The server's, and ours."""
        return {self.core, *os.sched_getaffinity(0)}

    @property
    def others(self) -> set[int]:
        """Those that are not the server's."""
        return os.sched_getaffinity(0) - {self.core}

    def identities(self, auth: str) -> Path:
        """A file with a header line per buyer."""
        path = self.folder / auth
        if not path.exists():
            write_identities(path, auth, self.environment["FLASH_JWT_SECRET"])
        return path

    def identity(self, auth: str) -> str:
        """One of them."""
        with self.identities(auth).open(encoding="ascii") as file:
            return file.readline().rstrip("\n")

    def attempts(self, auth: str, *bodies: str) -> Attempts:
        """With new keys, by ten thousand buyers."""
        return Attempts(bodies, self.identities(auth), self.names.prefix())

    def watched(self, server: Server, more: Mapping[str, int] | None = None) -> dict[str, int]:
        """Whose CPU is counted."""
        return {SERVER: server.pid, **self.processes, **(more or {})}

    @contextlib.asynccontextmanager
    async def serving(self, auth: str, short: str, cores: Collection[int] | None = None) -> AsyncIterator[Server]:
        """A server of ours whose gate knows the sale of ``short``, a SKU of one unit."""
        async with running(OURS, auth, self.environment, cores or {self.core}) as server:
            await self.until_gate(server, short)
            yield server

    @contextlib.asynccontextmanager
    async def queueing(self, auth: str, cores: Collection[int] | None = None) -> AsyncIterator[Server]:
        """An edge of ours. Nobody decides what it queues; see ``checkout``."""
        async with running(EDGE, auth, self.environment, cores or {self.core}) as server:
            yield server

    async def until_gate(self, server: Server, short: str) -> None:
        """Two units of which there is one: first PostgreSQL says that they are not there, and then the gate."""
        ends = time.monotonic() + GATE_SECONDS
        while True:
            before = (await gate_answers(server))["sold_out"]
            answer = ask(server, self.identity(server.auth), self.names.prefix() + "0000000000", short, 2)
            if answer == SOLD_OUT and (await gate_answers(server))["sold_out"] > before:
                return
            if time.monotonic() > ends:
                raise RuntimeError(f"the gate of {short} was not made")
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def opened(options: argparse.Namespace, environment: Mapping[str, str]) -> AsyncIterator[Field]:
    """A field of its own, by what `bench` told; FLASH_POSTGRES_URL in the environment is the owner's."""
    shop = await Shop.open(environment["FLASH_POSTGRES_URL"])
    try:
        with tempfile.TemporaryDirectory(prefix="flash-bench-") as folder:
            yield Field(
                environment=environment,
                processes=options.processes,
                core=options.core,
                folder=Path(folder),
                home=options.home,
                pictures=options.pictures,
                shop=shop,
                names=Names(f"{time.time_ns():x}"),
                say=parts.say,
            )
    finally:
        await shop.close()


def wish(sku: str) -> str:
    """The body of who wants one."""
    return body(sku, 1)


def vain_wish(short: str) -> str:
    """The body of who wants two of the last one: no flag can refuse it, for the item is not sold out; the gate does."""
    return body(short, 2)
