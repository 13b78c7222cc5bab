"""Holds per second while every commit's fsync takes milliseconds longer: what batching is for.

strace stops PostgreSQL's processes at the end of fdatasync and fsync and lets them go on later. Stopping costs something by
itself, so it is attached without a delay as well.
"""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.backend import load
from benchmarks.backend.cores import shared
from benchmarks.backend.field import OFF, Field, wish
from benchmarks.backend.report import (
    BUSY_IS,
    LOAD_HEADER,
    Cell,
    Section,
    load_row,
    middle,
    rates,
    ratios,
    spread,
)
from benchmarks.backend.servers import OURS, verdicts
from benchmarks.backend.shop import PLENTY

SALE, SKU, SHORT = "fsync", "fsync-plenty", "fsync-short"
POSTGRES = "postgres"
CONNECTIONS = 256  # who waits for a slow disk waits together: one batch, if the server takes that many
CALLS = "fdatasync,fsync"
UNTOUCHED, WATCHED = "held, nothing attached", "held, strace attached, no delay"
ATTACH_SECONDS = 60.0


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    seconds: int
    delays_ms: Sequence[int]


FULL, QUICK = Effort(5, 3, (2, 5)), Effort(1, 1, (2, 5))


async def measure(field: Field, effort: Effort) -> Section:
    """Every delay in every round. Raises ``RuntimeError`` at an answer that nobody should hear."""
    if reason := await why_not(field):
        return Section("Slow fsync", ["WHAT"], [["left out"]], [f"Slow fsync is left out: {reason}."], [], {})
    await field.shop.open_sale(SALE, {SKU: PLENTY, SHORT: 1})
    ways: dict[str, int | None] = {UNTOUCHED: None, WATCHED: 0, **{slow(ms): ms for ms in effort.delays_ms}}
    seen: dict[Cell, list[load.Seen]] = {}
    with shared(field.processes.values(), field.all_cores):
        async with field.serving(OFF, SHORT, field.all_cores) as server:
            for number in range(effort.rounds):
                for what, delay_ms in ways.items():
                    async with slowed(field.processes[POSTGRES], delay_ms, field.folder / "strace"):
                        before = await verdicts(server)
                        attempts = field.attempts(OFF, wish(SKU))
                        one = await load.send(
                            server.url, attempts, effort.seconds, field.watched(server), connections=CONNECTIONS
                        )
                    one = load.counted(one, "held", await verdicts(server) - before)
                    seen.setdefault(Cell(what, OFF, OURS.name), []).append(one)
                    field.say(f"fsync, round {number + 1}: {what}: {one.rate:,.0f}/s, p99 {one.p99_ms:.1f} ms")
    return section(seen, effort)


def slow(delay_ms: int) -> str:
    """The name of a row."""
    return f"held, each fsync {delay_ms} ms longer"


def section(seen: Mapping[Cell, Sequence[load.Seen]], effort: Effort) -> Section:
    """The table, and every round. Pure."""
    by_what = {cell.what: loads for cell, loads in seen.items()}
    notes = [
        (
            f"fsync: {effort.rounds} rounds of {effort.seconds} s, {CONNECTIONS} connections; nothing is pinned. strace alone leaves"
            f" {spread(ratios(rates(by_what[WATCHED]), rates(by_what[UNTOUCHED])))} of the rate."
        ),
        *(
            f"fsync: {ms} ms longer leave {spread(ratios(rates(by_what[slow(ms)]), rates(by_what[WATCHED])))} of the rate with strace;"
            f" one attempt a commit would be at most {1000 / ms:,.0f}/s, this is {middle(rates(by_what[slow(ms)])) * ms / 1000:,.0f} attempts a delay."
            for ms in effort.delays_ms
        ),
        BUSY_IS,
    ]
    return Section(
        "Held while fsync is slow, auth off",
        LOAD_HEADER,
        [load_row(cell, loads) for cell, loads in seen.items()],
        notes,
        [],
        {"cells": [{**cell._asdict(), "rounds": [one._asdict() for one in loads]} for cell, loads in seen.items()]},
    )


async def why_not(field: Field) -> str:
    """Why PostgreSQL cannot be slowed down here; empty if it can."""
    if POSTGRES not in field.processes:
        return "PostgreSQL is not ours to slow down"
    if shutil.which("strace") is None:
        return "there is no strace"
    try:  # containers may forbid it
        async with slowed(field.processes[POSTGRES], 0, field.folder / "strace"):
            return ""
    except RuntimeError as error:
        return str(error)


@contextlib.asynccontextmanager
async def slowed(postgres: int, delay_ms: int | None, complaints: Path) -> AsyncIterator[None]:
    """PostgreSQL's processes, those to come included, under strace for a while. None: untouched."""
    if delay_ms is None:
        yield
        return
    pids = [postgres, *(child.pid for child in psutil.Process(postgres).children(recursive=True))]
    inject = ("-e", f"inject={CALLS}:delay_exit={delay_ms * 1000}") if delay_ms else ()
    with complaints.open("w+", encoding="utf-8", errors="replace") as said:
        strace = await asyncio.create_subprocess_exec(
            *("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={CALLS}", *inject),
            *(word for pid in pids for word in ("-p", str(pid))),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        try:
            await _until_attached(strace, pids, complaints)
            yield
        finally:
            if strace.returncode is None:
                strace.terminate()  # lets go of them
                await strace.wait()


async def _until_attached(strace: asyncio.subprocess.Process, pids: Sequence[int], complaints: Path) -> None:
    ends = time.monotonic() + ATTACH_SECONDS
    while not all(_is_traced(pid) for pid in pids):
        if strace.returncode is not None or time.monotonic() > ends:
            raise RuntimeError(f"strace does not attach: {_tail(complaints)}")
        await asyncio.sleep(0.05)


def _tail(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-500:]


def _is_traced(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # it ended meanwhile
    return "\nTracerPid:\t0\n" not in status
