"""One load: wrk with 64 connections on one server, what it saw, and the CPU that everybody took meanwhile."""

import asyncio
import contextlib
import json
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

SCRIPT = Path(__file__).with_name("attempts.lua")
CONNECTIONS = 64
SPARE_SECONDS = 30.0  # beyond its duration; a wrk that needs longer hangs
SERVER, GENERATOR = "server", "generator"


class Attempts(NamedTuple):
    """What is sent: so many units of ``sku`` in each attempt, by one of the identities in the file, under fresh keys."""

    sku: str
    quantity: int
    identities: Path
    prefix: str  # ten digits follow, which make it a key


class Seen(NamedTuple):
    """One load. Times in ms; ``cpu_us`` per answer and ``memory_mib``, by process; ``busy`` is the server's share of its core."""

    rate: float
    p50_ms: float
    p99_ms: float
    answers: int
    refusals: int  # answers of 4xx and 5xx
    broken: int  # connections and answers that did not come about
    cpu_us: dict[str, float]
    busy: float
    memory_mib: dict[str, float]  # resident, afterwards; shared pages count for each process that has them


async def send(url: str, attempts: Attempts, seconds: int, watched: Mapping[str, int]) -> Seen:
    """Load ``url``. ``watched``: pids by name, children included; SERVER is the one loaded.

    Raises ``RuntimeError`` when wrk fails.
    """
    before = {name: _cpu_seconds(pid) for name, pid in watched.items()}
    own = _children_seconds()
    wrk = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s", "-s", str(SCRIPT), url),
        *("--", attempts.prefix, attempts.sku, str(attempts.quantity), str(attempts.identities)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds + SPARE_SECONDS):
            said, _ = await wrk.communicate()
    finally:
        if wrk.returncode is None:
            wrk.kill()
            await wrk.wait()
    if wrk.returncode != 0:
        raise RuntimeError(f"wrk ended with {wrk.returncode}: {said.decode(errors='replace')[-500:]}")
    found = json.loads(said.splitlines()[-1])
    used = {name: _cpu_seconds(pid) - before[name] for name, pid in watched.items()}
    used[GENERATOR] = _children_seconds() - own
    answers = max(found["answers"], 1)
    return Seen(
        rate=found["answers"] / found["seconds"],
        p50_ms=found["p50_ms"],
        p99_ms=found["p99_ms"],
        answers=found["answers"],
        refusals=found["refusals"],
        broken=found["broken"],
        cpu_us={name: seconds_used / answers * 1e6 for name, seconds_used in used.items()},
        busy=used[SERVER] / found["seconds"],
        memory_mib={name: round(_resident_bytes(pid) / 2**20, 1) for name, pid in watched.items()},
    )


def _cpu_seconds(pid: int) -> float:
    return float(sum(times.user + times.system for times in _of_all(pid, psutil.Process.cpu_times)))


def _resident_bytes(pid: int) -> int:
    return int(sum(memory.rss for memory in _of_all(pid, psutil.Process.memory_info)))


def _of_all(pid: int, ask: Callable[[psutil.Process], Any]) -> list[Any]:
    # the process and its children, of which some may end meanwhile
    top = psutil.Process(pid)
    found = []
    for process in (top, *top.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(ask(process))
    return found


def _children_seconds() -> float:
    # of those that were waited for: wrk is the only child that ends while something is measured
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
