"""The processes of a storm: clients, which are told things and say things, and the engine's own, which are armed and asked nothing."""

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmarks.strategies.strategy import Stores
from flashsale.settings import REPOSITORY
from flashsale.stack.processes import LOOPBACK, dies_with_us, free_port

READY_SECONDS = 180.0  # one that dies is noticed at once
STOP_SECONDS = 15.0
LOOK_SECONDS = 0.02
LINE_BYTES_MAX = 1 << 20
MODULES = {
    "upkeep": "flashsale.upkeep",
    "asyncio_redis": "flashsale.backends.asyncio_redis",
    "gevent_rabbit": "flashsale.backends.gevent_rabbit",
    "checkout": "flashsale.queued",
}


class Client:
    """One client process. What it says goes to ``heard`` with its number; ``gone`` comes last."""

    def __init__(
        self, number: int, environment: Mapping[str, str], heard: "asyncio.Queue[tuple[int, dict[str, Any]]]"
    ) -> None:
        self.number = number
        self._environment, self._heard = environment, heard
        self._child: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start, or start again."""
        self._child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.strategies.client"),
            cwd=REPOSITORY,
            env=dict(self._environment),
            stdin=PIPE,
            stdout=PIPE,
            limit=LINE_BYTES_MAX,
            preexec_fn=dies_with_us(signal.SIGKILL),
        )
        self._reading = asyncio.create_task(self._read(self._child))

    def tell(self, do: str, **more: Any) -> None:
        """One command. It is small, and the process reads: nothing waits."""
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")

    async def kill(self) -> None:
        """Kill -9; everything that it said before has been heard when this returns."""
        assert self._child is not None
        assert self._reading is not None
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()
        await self._child.wait()
        await self._reading

    async def _read(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None
        while line := await child.stdout.readline():
            self._heard.put_nowait((self.number, json.loads(line)))
        self._heard.put_nowait((self.number, {"is": "gone"}))


class Own:
    """One process of the engine."""

    def __init__(self, role: str, environment: Mapping[str, str], folder: Path) -> None:
        self.role = role
        self._log = folder / f"{role}-{secrets.token_hex(4)}.log"
        self.port, self._ops_port = free_port(), free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._environment = {
            **environment,
            "FLASH_ROLE": role,
            "FLASH_PORT": str(self.port),
            "FLASH_OPS_PORT": str(self._ops_port),
            "FLASH_AUTH": "off",
            "FLASH_LOG_LEVEL": "warning",
        }
        self._child: asyncio.subprocess.Process | None = None
        self.is_armed = False

    async def start(self, crash_at: str = "") -> None:
        """Start, or start again, armed or not; ``ready`` says when it serves."""
        self.is_armed = bool(crash_at)
        with self._log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", MODULES[self.role]),
                cwd=REPOSITORY,
                env={**self._environment, "FLASH_CRASH_AT": crash_at},
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=dies_with_us(signal.SIGKILL),
            )

    async def ready(self) -> None:
        """Wait until it says so. Raises ``RuntimeError`` when it never does."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await asyncio.to_thread(self._is_ready):
                    if self.is_dead:
                        raise RuntimeError(f"{self.role} ended at its start:\n{self._log.read_text()}")
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise RuntimeError(f"{self.role} did not get ready within {READY_SECONDS:.0f} s") from None

    @property
    def is_dead(self) -> bool:
        return self._child is not None and self._child.returncode is not None

    @property
    def is_standing(self) -> bool:
        """Has it stopped itself?"""
        assert self._child is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self._child.pid).status() == psutil.STATUS_STOPPED
        return False

    def go_on(self) -> None:
        """Continue, if it stands; it stops itself once."""
        assert self._child is not None
        if not self.is_dead and self.is_standing:
            self.is_armed = False
            self._child.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Kill -9."""
        if self._child is not None and not self.is_dead:
            self._child.kill()
            await self._child.wait()

    async def stop(self) -> None:
        """SIGTERM, and after a while SIGKILL."""
        if self._child is None or self.is_dead:
            return
        self.go_on()
        self._child.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._child.wait()
        except TimeoutError:
            await self.kill()

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self._ops_port, timeout=10)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def environment_of(given: Mapping[str, str], stores: Stores) -> dict[str, str]:
    """What the engine's processes are told of the stores."""
    return {
        **{name: value for name, value in given.items() if name in {"PATH", "HOME", "LANG", "TZ", "TMPDIR"}},
        "PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}",
        "FLASH_POSTGRES_URL": stores.postgres,
        "FLASH_REDIS_URL": stores.redis,
        "FLASH_RABBITMQ_URL": stores.rabbitmq,
        "FLASH_JWT_SECRET": "a-secret-of-the-lab-and-of-nobody-else",
    }
