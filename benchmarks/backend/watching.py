"""What is written down while a load runs: the server's own counts, CPU and memory, some times a second."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from benchmarks.backend.servers import Server, verdicts
from flashsale.stack.processes import cpu_seconds, rss_bytes


class Sample(NamedTuple):
    """One look. ``verdicts`` since the watch began; CPU seconds and resident MiB by process, without children."""

    at: float
    verdicts: Mapping[str, int]
    cpu_s: Mapping[str, float]
    memory_mib: Mapping[str, float]

    @property
    def answers(self) -> int:
        """All of them."""
        return sum(self.verdicts.values())


@contextlib.asynccontextmanager
async def watching(server: Server, watched: Mapping[str, int], every_s: float) -> AsyncIterator[list[Sample]]:
    """A list that grows until this ends, with a last look then."""
    first = await verdicts(server)
    samples: list[Sample] = []

    async def look() -> None:
        samples.append(
            Sample(
                time.perf_counter(),
                dict(await verdicts(server) - first),
                {name: cpu_seconds(pid) for name, pid in watched.items()},
                {name: rss_bytes(pid) / 2**20 for name, pid in watched.items()},
            )
        )

    async def run() -> None:
        while True:
            await asyncio.sleep(every_s)
            await look()

    await look()
    task = asyncio.create_task(run())
    try:
        yield samples
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended
    await look()


def when(samples: Sequence[Sample], answers: float) -> float:
    """The moment of so many answers, between two looks; the ends' for what lies outside."""
    return _between(samples, answers, [one.at for one in samples])


def cpu_at(samples: Sequence[Sample], answers: float, name: str) -> float:
    """The CPU seconds of a process at so many answers."""
    return _between(samples, answers, [one.cpu_s[name] for one in samples])


def _between(samples: Sequence[Sample], answers: float, values: Sequence[float]) -> float:
    pairs = pairwise(zip(samples, values, strict=True))
    if answers <= samples[0].answers:
        return values[0]
    for (before, low), (after, high) in pairs:
        if before.answers <= answers <= after.answers and after.answers > before.answers:
            return low + (high - low) * (answers - before.answers) / (after.answers - before.answers)
    return values[-1]
