"""Real processes for tests: servers of a backend and their upkeep, on free ports, on the test run's own services."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self

import aiohttp
import psutil

from flashsale.stack.processes import dies_with_us, port_is_free
from flashsale.stack.roles import ROLE_BY_NAME
from tests import nursery
from tests.databases import worker
from tests.patience import PATIENCE_SECONDS

PORT_FIRST, PORTS = 10_000, 2_500  # of each of four workers, below the launcher's and below the kernel's source ports
JWT_SECRET = "a secret that only the tests know, long enough".replace(" ", "-")


def _ports() -> Iterator[int]:
    first, start = PORT_FIRST + worker() * PORTS, random.randrange(PORTS)
    return (first + (start + number) % PORTS for number in itertools.count())


_own_ports = _ports()


def free_port() -> int:
    """A port nobody listens on now, and that nobody else takes before it is used: no other worker and no launcher of this
    run, and not the kernel for a connection.
    """
    return next(port for port in _own_ports if port_is_free("127.0.0.1", port))


class Process:
    """One process of the product, as the launcher starts it. ``first``: what it does before, as Python."""

    def __init__(self, role: str, environment: dict[str, str], *, first: str = "") -> None:
        self.role = role
        self.first = first
        self.module = ROLE_BY_NAME[role].module
        self.port, self.ops_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        handle, path = tempfile.mkstemp(prefix=f"{role}-", suffix=".log")
        os.close(handle)  # a thousand of them are more than select may look at
        self.log = Path(path)
        self._environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": nursery.PATH,
            "FLASH_PORT": str(self.port),
            "FLASH_OPS_PORT": str(self.ops_port),
            **environment,
        }
        self.child: asyncio.subprocess.Process | nursery.Child | None = None
        self.ended: int | None = None  # exit status, once stopped
        self._is_told = False  # to stop, by SIGTERM

    def tell_environment(self, more: dict[str, str]) -> None:
        """Settings that were not known when it was made, for its next start."""
        self._environment |= more

    async def start(self) -> Self:
        """Start, or start again, and wait until it says it is ready. Fails with its log."""
        await self.spawn()
        await self.ready()
        return self

    async def spawn(self) -> None:
        """Start, or start again; when it will be ready is not for it to say."""
        self.ended, self._is_told = None, False
        # A front's worker dies a moment after its master, and has the ports until then.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not all(port_is_free("127.0.0.1", port) for port in (self.port, self.ops_port)):
                await asyncio.sleep(0.01)
        with self.log.open("ab") as log:
            if self.module in nursery.KIND and self._environment["PYTHONPATH"] == nursery.PATH:
                self.child = await nursery.bear(self.module, self._environment, log, first=self.first)
            else:  # what has modules of its own is not born with the product's
                assert not self.first
                self.child = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", self.module, env=self._environment, stdout=log, stderr=log,
                    preexec_fn=dies_with_us(signal.SIGKILL),
                )  # fmt: skip

    async def ready(self) -> None:
        """Wait until it says it is ready. Fails with its log."""
        async with aiohttp.ClientSession() as session:
            try:
                async with asyncio.timeout(2 * PATIENCE_SECONDS):  # who dies is noticed at once
                    while not await self.is_ready(session):
                        await asyncio.sleep(0.05)
            except TimeoutError:
                raise AssertionError(f"{self.module} is not ready:\n{self.log.read_text()}") from None

    async def is_ready(self, session: aiohttp.ClientSession) -> bool:
        """Does it say so? Fails with its log if it has ended."""
        assert self.child is not None
        assert self.child.returncode is None, f"{self.module} ended at its start:\n{self.log.read_text()}"
        try:
            async with session.get(f"http://127.0.0.1:{self.ops_port}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def dies(self) -> None:
        """Wait until it is killed, be it by itself."""
        assert self.child is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await self.child.wait() == -signal.SIGKILL, self.log.read_text()

    @property
    def is_dead(self) -> bool:
        return self.child is not None and self.child.returncode is not None

    @property
    def is_standing(self) -> bool:
        """Has it stopped, be it by itself?"""
        return self.child is not None and psutil.Process(self.child.pid).status() == psutil.STATUS_STOPPED

    async def stands(self) -> None:
        """Wait until it has stopped."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.is_standing:
                await asyncio.sleep(0.01)

    async def restart(self, **settings: str) -> Self:
        """Kill -9 unless it is dead, then start again on the same ports, with other settings if there are any."""
        assert self.child is not None
        if self.child.returncode is None:
            self.child.kill()
            await self.child.wait()
        self.tell_environment(settings)
        return await self.start()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process and no other."""
        assert self.child is not None
        self._is_told |= number == signal.SIGTERM
        self.child.send_signal(number)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit status. What it logged about errors of its own is shown, since tests hide nothing."""
        assert self.child is not None
        if self.ended is not None:
            return self.ended
        # SIGTERM once: a second one may meet a process that has stopped listening for it, and dies of it.
        if self.child.returncode is None and not (self._is_told and number == signal.SIGTERM):
            self.send(number)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                self.ended = await self.child.wait()
        except TimeoutError:
            self.child.kill()
            await self.child.wait()
            raise AssertionError(f"{self.module} did not stop on {number.name}:\n{self.log.read_text()}") from None
        logged = self.log.read_text()
        self.log.unlink()
        assert "Traceback" not in logged, logged
        assert '"level": "error"' not in logged, logged
        return self.ended


@contextlib.asynccontextmanager
async def running(roles: list[str], environment: dict[str, str]) -> AsyncIterator[list[Process]]:
    """Start one process per role, in order; stop them in reverse, whatever happened meanwhile."""
    processes = [Process(role, environment) for role in roles]
    try:
        yield [await process.start() for process in processes]
    finally:
        ended = [process.stop() for process in reversed(processes) if process.child is not None]
        problems = [p for p in await asyncio.gather(*ended, return_exceptions=True) if isinstance(p, BaseException)]
        if problems:
            raise BaseExceptionGroup("processes did not end well", problems)
