"""The checkout worker beside an edge: started, counted, and waited for until nothing that was queued is undecided."""

import asyncio
import contextlib
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from typing import NamedTuple

from benchmarks.backend.field import Field
from benchmarks.backend.servers import process, tally, until_ready
from flashsale.stack.processes import free_port

NAME = "checkout"
LOOK_SECONDS = 0.03  # a look costs the worker, too
SILENT_SECONDS = 60.0  # in which nothing is decided
_DECIDED = re.compile(rb'^flashsale_checkout_decided_total\{verdict="(\w+)"\} ([0-9.e+]+)$', re.MULTILINE)


class Worker(NamedTuple):
    """One that runs."""

    pid: int
    ops_port: int

    async def decided(self) -> Counter[str]:
        """How many attempts it decided how, by its own count."""
        return +await tally(_DECIDED, self.ops_port)  # without the verdicts that nobody got

    async def until_decided(self, least: int, most: int | None = None) -> Counter[str]:
        """Until it has decided so many, each of them ``held``. Raises ``RuntimeError`` when one is not, or it stands still.

        ``most``: with those whose shoppers were told to try later, since the queue may have them all the same.
        """
        told, heard = Counter[str](), time.monotonic()
        while told.total() < least:
            now = await self.decided()
            if now != told:
                told, heard = now, time.monotonic()
            elif time.monotonic() - heard > SILENT_SECONDS:
                raise RuntimeError(f"{least - told.total():,} of {least:,} attempts stay undecided, {dict(told)}")
            await asyncio.sleep(LOOK_SECONDS)
        if not least <= told["held"] <= (most or least) or told.total() > told["held"]:
            raise RuntimeError(f"{least:,} attempts were queued, decided were {dict(told)}")
        return told


@contextlib.asynccontextmanager
async def started(field: Field, cores: Collection[int]) -> AsyncIterator[Worker]:
    """A worker from its first breath: whether it consumes yet is for ``is_ready`` to ask."""
    ops_port = free_port()
    environment = {
        **field.environment,
        "FLASH_ROLE": NAME,
        "FLASH_OPS_PORT": str(ops_port),
        "FLASH_LOG_LEVEL": "warning",
    }
    command = (sys.executable, "-m", "flashsale.queued")
    async with process(NAME, command, environment, cores, ops_port) as pid:
        yield Worker(pid, ops_port)


@contextlib.asynccontextmanager
async def deciding(field: Field, cores: Collection[int]) -> AsyncIterator[Worker]:
    """A worker that consumes."""
    async with started(field, cores) as worker:
        await until_ready(NAME, worker.ops_port)
        yield worker
