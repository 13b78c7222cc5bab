"""The shoppers' process and the watchers', and what they say: ready, then the result."""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.comparison.scenario import Load
from flashsale.settings import REPOSITORY
from flashsale.stack.exits import StackError
from flashsale.stack.processes import dies_with_us
from flashsale.stack.running import python_environment

ENDS_WITHIN_S = 3.0
STOP_WITHIN_S = 10.0
ARM_WITHIN_S = 180.0
RELEASE_IN_NS = 200_000_000  # so that who waits for it and who looks on have begun
LINE_BYTES_MAX = 1 << 20


@contextlib.asynccontextmanager
async def child(
    environment: Mapping[str, str], module: str, *arguments: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python module of ours as a process, ended when the body is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module, *arguments),
        cwd=REPOSITORY,
        env=python_environment(environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
        preexec_fn=dies_with_us(signal.SIGKILL),
    )
    try:
        yield process
    finally:
        # All of them end by themselves when nothing more can be told to them; a signal is for who is in the middle of something.
        # (Sent to one that has just ended, it would reap it under asyncio's hands, which then does not know its child.)
        assert process.stdin is not None
        process.stdin.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None and process.returncode is None:
                process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), ENDS_WITHIN_S if number is None else STOP_WITHIN_S)


class Shoppers:
    """One load: its process is armed when this has been made, and nobody has come yet."""

    def __init__(self, process: asyncio.subprocess.Process, armed: int) -> None:
        self.pid = process.pid
        self.armed = armed
        self._process = process

    def release(self) -> int:
        """Let them come; returns the release, a moment ahead, in nanoseconds of CLOCK_MONOTONIC."""
        assert self._process.stdin is not None
        release = time.monotonic_ns() + RELEASE_IN_NS
        self._process.stdin.write(f"{release}\n".encode())
        return release

    async def result(self, within_s: float) -> dict[str, Any]:
        """What they came to, once the last has been answered and all is written down. Raises StackError."""
        return await _said(self._process, within_s)


@contextlib.asynccontextmanager
async def shoppers(
    environment: Mapping[str, str], folder: Path, *, load: Load, skus: list[str], seed: int, targets: str
) -> AsyncIterator[Shoppers]:
    """Whoever comes in this trial; ``folder`` is where their rows go."""
    spec = folder / "load.json"
    given = {"load": asdict(load), "skus": skus, "seed": seed, "targets": targets, "folder": str(folder)}
    spec.write_text(json.dumps(given), encoding="utf-8")
    async with child(environment, "benchmarks.comparison.generate", str(spec)) as process:
        yield Shoppers(process, (await _said(process, ARM_WITHIN_S))["armed"])


class Watchers:
    """People who only watch; all of them have been shown the stock when this has been made."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process

    async def result(self) -> dict[str, Any]:
        """What they saw until now. Raises StackError."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await _said(self._process, STOP_WITHIN_S * 6)


@contextlib.asynccontextmanager
async def watchers(environment: Mapping[str, str], targets: str, sku: str, count: int) -> AsyncIterator[Watchers]:
    """``count`` viewers of the live stock. Raises StackError when not all of them are shown it."""
    async with child(environment, "benchmarks.comparison.watch", targets, sku, str(count)) as process:
        watching = (await _said(process, ARM_WITHIN_S))["watching"]
        if watching < count:
            raise StackError(f"only {watching} of {count} watchers were shown the stock")
        yield Watchers(process)


async def _said(process: asyncio.subprocess.Process, within_s: float) -> dict[str, Any]:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(within_s):
            line = await process.stdout.readline()
        found: dict[str, Any] = json.loads(line)
    except (TimeoutError, ValueError) as error:
        raise StackError(f"a process of the crew said nothing usable ({process.returncode}): {error!r}") from error
    return found
