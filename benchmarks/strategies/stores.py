"""What the lab has for itself: a database, a Redis that may die, and a way to PostgreSQL that can be slow."""

import asyncio
import contextlib
import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from flashsale.stack.processes import dies_with_us, free_port

READY_SECONDS = 120.0
CHUNK_BYTES = 65_536


@contextlib.asynccontextmanager
async def database(owner_url: str) -> AsyncIterator[str]:
    """A database's URL; it is dropped at the end, whoever is still connected."""
    name = f"lab_{secrets.token_hex(4)}"
    await _run(owner_url, f"CREATE DATABASE {name}")
    try:
        yield urlunsplit(urlsplit(owner_url)._replace(path=f"/{name}"))
    finally:
        await _run(owner_url, f"DROP DATABASE {name} WITH (FORCE)")


async def _run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=5)


class OwnRedis:
    """A redis-server whose file is written when it is told to, and at no other time: what it has then is what it comes back with."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start, or start again, and wait until it answers. Raises ``RuntimeError`` when it never does."""
        self._child = await asyncio.create_subprocess_exec(
            *(
                "redis-server",
                "--port",
                str(self._port),
                "--bind",
                "127.0.0.1",
                "--dir",
                str(self._folder),
                "--save",
                "",
            ),
            stdout=asyncio.subprocess.DEVNULL,
            preexec_fn=dies_with_us(signal.SIGKILL),
        )
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await self._answers():  # noqa: ASYNC110 - another process does
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise RuntimeError("redis-server does not answer") from None

    async def save(self) -> None:
        """Write the file."""
        async with Redis.from_url(self.url) as client:
            await client.save()

    async def exists(self, key: str) -> bool:
        """Is there such a key?"""
        async with Redis.from_url(self.url) as client:
            return bool(await client.exists(key))

    async def kill(self) -> None:
        """Kill -9."""
        assert self._child is not None
        if self._child.returncode is None:
            self._child.kill()
        await self._child.wait()

    async def _answers(self) -> bool:
        with contextlib.suppress(RedisError, OSError):
            async with Redis.from_url(self.url) as client:
                return bool(await client.ping())
        return False


@contextlib.asynccontextmanager
async def redis(folder: Path) -> AsyncIterator[OwnRedis]:
    """One that runs."""
    own = OwnRedis(folder)
    try:
        await own.start()
        yield own
    finally:
        await own.kill()


class SlowWay:
    """A TCP proxy to PostgreSQL that keeps what comes back for ``delay_ms``: for processes that have no hook to be held up by."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname, parts.port or 5432
        self._port = free_port()
        user, at, _ = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self._port}"))
        self.delay_ms = 0.0

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator["SlowWay"]:
        """Until it is left."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection(*self._target)
            with contextlib.closing(there_writer):
                ways = [
                    asyncio.create_task(self._pump(reader, there_writer, is_slow=False)),
                    asyncio.create_task(self._pump(there_reader, writer, is_slow=True)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_slow: bool) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if is_slow and self.delay_ms:
                await asyncio.sleep(self.delay_ms / 1000)
            writer.write(data)
            await writer.drain()
