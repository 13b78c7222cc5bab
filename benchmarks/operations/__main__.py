"""``python -m benchmarks.operations``: started by ``./flash bench``. Progress on stderr, one JSON line on stdout.

A shop that nobody buys from stands still, but for what its processes do by themselves; how much more CPU they take while the
operations page's stream is open is what the page costs. All ways have a turn in every round, and differences are taken within one.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil

from flashsale.admin.passwords import hashed
from flashsale.admin.users import Role
from flashsale.stack.state import Instance

NOBODY = "nobody looks"
WAYS = {NOBODY: 0, "one looks": 1, "eight look": 8}
ADMIN = "admin"
SETTLE_SECONDS = 3.0  # its first frame costs connections, and its last their ends
INSTANCE, NAME = "bench", "viewer"
ALL = "all together"

Cpu = Mapping[str, float]  # seconds of CPU per second, by role


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    seconds: float  # of one turn


FULL, QUICK = Effort(5, 15.0), Effort(1, 2.0)


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operations", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--home", type=Path, required=True)
    options, _ = parser.parse_known_args()  # what else `bench` tells is for others
    effort = QUICK if options.quick else FULL
    state = Instance(options.home.parent, INSTANCE).read()
    [address] = state["admin"]
    processes = [(row["role"], row["pid"]) for row in state["processes"] if row["pid"]]
    with a_viewer(options.home / "operators.json") as password:
        rounds = await measured(address, password, processes, effort)
    print(json.dumps(report(rounds, effort)))
    return 0


async def measured(
    address: str, password: str, processes: Sequence[tuple[str, int]], effort: Effort
) -> list[dict[str, Cpu]]:
    """Every round's ways."""
    rounds: list[dict[str, Cpu]] = []
    async with aiohttp.ClientSession(address, cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        who = {"name": NAME, "password": password}
        async with session.post("/api/session", json=who, headers={"Origin": address}) as answer:
            answer.raise_for_status()
        for number in range(effort.rounds):
            rounds.append({way: await _turn(session, viewers, processes, effort) for way, viewers in WAYS.items()})
            told = ", ".join(f"{way} {1000 * sum(cpu.values()):.0f} ms/s" for way, cpu in rounds[-1].items())
            print(f"round {number + 1}: {told}", file=sys.stderr)
    return rounds


@contextlib.contextmanager
def a_viewer(users: Path) -> Iterator[str]:
    """Somebody who may look, until then; the password."""
    password = secrets.token_urlsafe(24)
    users.write_text(json.dumps({NAME: {"role": Role.VIEWER, "password": hashed(password)}}), encoding="utf-8")
    try:
        yield password
    finally:
        users.unlink()


async def _turn(
    session: aiohttp.ClientSession, viewers: int, processes: Sequence[tuple[str, int]], effort: Effort
) -> Cpu:
    async with contextlib.AsyncExitStack() as stack:
        limit = aiohttp.ClientTimeout(total=None)
        for _ in range(viewers):
            stream = session.get("/api/operations/stream", timeout=limit)
            answer = await stack.enter_async_context(stream)
            reading = asyncio.create_task(_read(answer.content))
            stack.callback(reading.cancel)
        await asyncio.sleep(SETTLE_SECONDS)
        before, loop = cpu_seconds(processes), asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(effort.seconds)
        took = loop.time() - began
        return {role: (seconds - before[role]) / took for role, seconds in cpu_seconds(processes).items()}


async def _read(content: aiohttp.StreamReader) -> None:
    while await content.readany():
        pass


def cpu_seconds(processes: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Of each role, its processes' children and those that have ended among them included."""
    found: dict[str, float] = {}
    for role, pid in processes:
        main = psutil.Process(pid)
        for process in (main, *main.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                own = times.user + times.system + times.children_user + times.children_system
                found[role] = found.get(role, 0.0) + own
    return found


def report(rounds: Sequence[Mapping[str, Cpu]], effort: Effort) -> dict[str, Any]:
    """The table: what each role takes while nobody looks, and what is added; medians of the rounds."""
    roles = [*rounds[0][NOBODY], ALL]
    whole = [{way: {**cpu, ALL: sum(cpu.values())} for way, cpu in turns.items()} for turns in rounds]

    def added(way: str, role: str) -> float:
        return 1000 * statistics.median(turns[way][role] - turns[NOBODY][role] for turns in whole)

    looked = [way for way in WAYS if way != NOBODY]
    rows = [
        [
            role,
            f"{1000 * statistics.median(turns[NOBODY][role] for turns in whole):.1f}",
            *(f"{added(way, role):+.1f}" for way in looked),
        ]
        for role in roles
    ]
    return {
        "table": {"header": ["ms of CPU per second", NOBODY, *looked], "rows": rows},
        "notes": [
            f"medians of {len(rounds)} rounds, {effort.seconds:g} s each way; what is added is taken within a round"
        ],
        "added_ms_per_s": {way: {role: round(added(way, role), 2) for role in roles} for way in looked},
    }


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
