"""Ten thousand viewers who stay: does memory?"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from benchmarks.backend.field import Field
from benchmarks.backend.memory import memory_mib
from benchmarks.backend.report import Section, at_most, middle
from benchmarks.lb import balancers
from benchmarks.sse import crowd
from benchmarks.sse.contestants import ASYNCIO
from benchmarks.sse.fan import FIRST, KIB, SPARE_FILES, words
from benchmarks.sse.turn import Load, Turn, resting, turn

HERTZ = 1  # each of them is told: no more than a core has time for
GROWS = 0.01  # of its memory, from the first fifth to the last
FIFTHS = 5


class Effort(NamedTuple):
    """How long it is measured, and with how many."""

    seconds: float
    viewers: int
    every_s: float  # memory is looked at


FULL, QUICK = Effort(300.0, 10_000, 2.0), Effort(4.0, 500, 0.2)


async def measure(field: Field, effort: Effort) -> Section:
    """One server. Raises ``RuntimeError`` when a stream ends, or somebody does not know the last change."""
    effort = effort._replace(viewers=min(effort.viewers, balancers.files() - SPARE_FILES))
    async with (
        ASYNCIO.start(field, HERTZ, effort.viewers) as server,
        crowd.gathered(server.port, server.asks, field.environment, field.others) as viewers,
    ):
        rest = await resting(server.pid)
        await viewers.open(FIRST)
        empty = memory_mib(server.pid)
        await viewers.open(effort.viewers - FIRST)
        field.say(f"long: {effort.viewers:,} viewers, for {effort.seconds:.0f} s")
        async with _watched(server.pid, effort.every_s) as mib:
            found = await turn(viewers, server.publisher, Load(effort.viewers, HERTZ, effort.seconds), rest)
    field.say(f"long: {words(found)}, memory {mib[0]:.1f} MiB at first, {mib[-1]:.1f} MiB at last")
    return section(found, mib, empty, effort)


@contextlib.asynccontextmanager
async def _watched(pid: int, every_s: float) -> AsyncIterator[list[float]]:
    found = [memory_mib(pid)]

    async def look() -> None:
        while True:
            await asyncio.sleep(every_s)
            found.append(memory_mib(pid))

    task = asyncio.create_task(look())
    try:
        yield found
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended


def section(found: Turn, mib: Sequence[float], empty: float, effort: Effort) -> Section:
    """The table, the bars, and every look. Pure."""
    size = max(len(mib) // FIFTHS, 1)
    fifths = [middle(mib[size * number : size * (number + 1)]) for number in range(FIFTHS)]
    grown = fifths[-1] / fifths[0] - 1
    kib = (max(mib) - empty) * 1024 / (effort.viewers - FIRST)
    return Section(
        f"{effort.viewers:,} viewers for {effort.seconds / 60:,.1f} minutes, {HERTZ} change a second: memory of the server, MiB",
        [
            "VIEWERS",
            *(f"FIFTH {number}" for number in range(1, FIFTHS + 1)),
            "GROWN",
            "KIB EACH",
            "CPU US",
            "P50 MS",
            "P99 MS",
            "BUSY",
        ],
        [
            [
                f"{effort.viewers:,}",
                *(f"{one:.1f}" for one in fifths),
                *(f"{grown:.2%}", f"{kib:.2f}", f"{found.cpu_us:.1f}"),
                *(f"{found.p50_ms:,.0f}", f"{found.p99_ms:,.0f}", f"{found.busy:.0%}"),
            ]
        ],
        [
            (
                f"Long: proportional set size, without the kernel's sockets, {len(mib)} looks; each fifth of the time by its median. Before the viewers"
                f" came it was {empty:.1f} MiB; KIB EACH is from there to the most it ever was. {found.told:.0%} of the changes came in a frame of"
                f" their own; the crowd was {found.crowd_busy:.0%} busy."
            )
        ],
        [
            at_most(
                GROWS,
                [grown],
                f"{effort.viewers:,} viewers: growth of memory from the first fifth to the last",
                "share of it",
            ),
            at_most(KIB, [kib], f"{effort.viewers:,} viewers: KiB per viewer", "at the most"),
        ],
        {"viewers": effort.viewers, "turn": found._asdict(), "mib": list(mib), "empty_mib": empty},
    )
