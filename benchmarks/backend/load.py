"""One load: a closed loop of wrk's on one server, what it saw, and the CPU that everybody took meanwhile."""

import asyncio
import contextlib
import json
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil

from benchmarks.backend import flood
from benchmarks.backend.attempts import Attempts

SCRIPT = Path(__file__).with_name("attempts.lua")
CONNECTIONS = 64
SPARE_SECONDS = 60.0  # beyond its duration; a wrk that needs longer hangs
SERVER, GENERATOR = "server", "generator"


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


async def send(
    url: str,
    attempts: Attempts,
    seconds: int,
    watched: Mapping[str, int],
    *,
    connections: int = CONNECTIONS,
    ends: asyncio.Event | None = None,
) -> Seen:
    """Load ``url``, for ``seconds`` or until ``ends``. ``watched``: pids by name, children included; SERVER is the one loaded.

    Raises ``RuntimeError`` when the generator fails. Without wrk it is ours, which takes more CPU for the same.
    """
    generate = _by_wrk if has_wrk() else _by_ours
    return await seen(lambda: generate(url, attempts, seconds, connections, ends or asyncio.Event()), watched)


async def seen(generate: Callable[[], Awaitable[dict[str, Any]]], watched: Mapping[str, int]) -> Seen:
    """What a generator says that it saw, and what everybody in ``watched`` took meanwhile."""
    before = {name: cpu_seconds(pid) for name, pid in watched.items()}
    own = _own_seconds()
    found = await generate()
    used = {name: cpu_seconds(pid) - before[name] for name, pid in watched.items()}
    used[GENERATOR] = _own_seconds() - own
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
        memory_mib={name: round(resident_bytes(pid) / 2**20, 1) for name, pid in watched.items()},
    )


def counted(one: Seen, wanted: str, told: Mapping[str, int]) -> Seen:
    """The same at the rate of one verdict. Raises ``RuntimeError`` when any other was told, and 503 of who came too much. Pure."""
    if one.broken or not told.keys() <= {wanted, "try_later"}:
        raise RuntimeError(f"unexpected answers, {dict(told)}, {one}")
    return one._replace(rate=one.rate * (one.answers - one.refusals) / max(one.answers, 1))


def has_wrk() -> bool:
    """Is there one?"""
    return shutil.which("wrk") is not None


def cpu_seconds(pid: int) -> float:
    """What the process and its children took so far."""
    return float(sum(times.user + times.system for times in _of_all(pid, psutil.Process.cpu_times)))


def resident_bytes(pid: int) -> int:
    """The memory that they have."""
    return int(sum(memory.rss for memory in _of_all(pid, psutil.Process.memory_info)))


async def wrk(
    url: str, seconds: int, connections: int, script: Sequence[str], ends: asyncio.Event | None = None
) -> dict[str, Any]:
    """After ``seconds`` or when ``ends``: the JSON of the last line of a ``script``, a path and its arguments. Raises ``RuntimeError``."""
    path, *words = script
    child = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", path, url, "--", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    stopping = asyncio.create_task(_interrupt(child, ends or asyncio.Event()))
    try:
        async with asyncio.timeout(seconds + SPARE_SECONDS):
            said, _ = await child.communicate()
    finally:
        stopping.cancel()
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        raise RuntimeError(f"wrk ended with {child.returncode}: {said.decode(errors='replace')[-500:]}")
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


async def _by_wrk(url: str, attempts: Attempts, seconds: int, connections: int, ends: asyncio.Event) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", encoding="ascii", suffix=".bodies") as bodies:
        bodies.writelines(f"{body}\n" for body in attempts.bodies)
        bodies.flush()
        identities = str(attempts.identities or "")
        script = [str(SCRIPT), attempts.line, attempts.prefix, bodies.name, identities, attempts.more]
        return await wrk(url, seconds, connections, script, ends)


async def _interrupt(child: asyncio.subprocess.Process, ends: asyncio.Event) -> None:
    await ends.wait()
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGINT)  # it says what it saw until here


async def _by_ours(url: str, attempts: Attempts, seconds: int, connections: int, ends: asyncio.Event) -> dict[str, Any]:
    parts = urlsplit(url)
    assert parts.port is not None
    return await ours(parts.port, attempts.requests(parts.netloc), seconds, connections, ends)


async def ours(
    port: int, request: Callable[[int], bytes], seconds: int, connections: int, ends: asyncio.Event | None = None
) -> dict[str, Any]:
    """The same as ``wrk``, by our own generator: from a number to the request with that number."""
    ends = ends or asyncio.Event()
    async with flood.opened(port, connections) as one:
        timer = asyncio.get_running_loop().call_later(seconds, ends.set)
        record, start = await one.closed_loop(request, 1, ends, SPARE_SECONDS)
        timer.cancel()
    took = [done - sent for sent, done in zip(record.sent, record.done, strict=True)]
    return {
        "answers": len(took),
        "seconds": time.perf_counter() - start,
        "p50_ms": flood.quantile(took, 0.5) * 1e3,
        "p99_ms": flood.quantile(took, 0.99) * 1e3,
        "refusals": sum(status >= 400 for status in record.statuses),
        "broken": 0,
    }


def _of_all(pid: int, ask: Callable[[psutil.Process], Any]) -> list[Any]:
    # the process and its children, of which some may end meanwhile
    top = psutil.Process(pid)
    found = []
    for process in (top, *top.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(ask(process))
    return found


def _own_seconds() -> float:
    # wrk's, which is the only child that ends while something is measured, and our own: we are the generator without it
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
