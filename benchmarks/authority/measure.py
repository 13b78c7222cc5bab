"""Contestants, one after the other, round by round: wall time, and the CPU that the server process behind each took."""

import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.authority.ladder import BARE_STATEMENT, rung_name
from benchmarks.authority.shop import Batches, Shop, arguments
from flashsale.authority.client import Attempt, Authority
from flashsale.contract.verdict import Verdict


class Seen(NamedTuple):
    """One contestant's turn in one round."""

    holds: int
    attempts: int
    wall_s: float
    cpu_s: float  # of the server process; the client's is not in it

    @property
    def holds_per_s(self) -> float:
        """What was committed, per second of wall time."""
        return self.holds / self.wall_s

    @property
    def wall_us(self) -> float:
        """Per hold."""
        return self.wall_s / self.holds * 1e6

    @property
    def cpu_us(self) -> float:
        """Per hold."""
        return self.cpu_s / self.holds * 1e6


class Contestant(NamedTuple):
    """``make`` prepares a batch, which is not measured; ``call`` has it committed and says how many holds came of it."""

    name: str
    size: int
    pid: int
    make: Callable[[int], Any]
    call: Callable[[Any], Awaitable[int]]


async def by_statement(
    name: str, shop: Shop, make: Callable[[int], list[Attempt]], size: int, cut: int = 0
) -> Contestant:
    """``reserve_batch``, with the first ``cut`` rungs of the ladder cut out, called as any driver does."""
    query = f"SELECT * FROM {rung_name(cut)}($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)"  # noqa: S608 - a name of ours
    statement = await shop.connection.prepare(query)

    async def call(parameters: list[object]) -> int:
        return sum(row["verdict"] == "held" for row in await statement.fetch(*parameters))

    return Contestant(name, size, shop.pid, lambda count: arguments(make(count)), call)


async def by_client(name: str, authority: Authority, make: Callable[[int], list[Attempt]], size: int) -> Contestant:
    """The servers' own way: parameters and answers as they use them. ``authority`` has one connection."""
    pid = await authority.pool.fetchval("SELECT pg_backend_pid()")

    async def call(batch: list[Attempt]) -> int:
        return sum(decision.verdict is Verdict.HELD for decision in await authority.reserve_batch(batch))

    return Contestant(name, size, pid, make, call)


async def by_bare_statement(name: str, shop: Shop, batches: Batches, size: int) -> Contestant:
    """Insert, update, commit, of tables like the shop's."""
    statement = await shop.connection.prepare(BARE_STATEMENT)

    async def call(parameters: list[list[object]]) -> int:
        await statement.fetch(*parameters)
        return len(parameters[0])

    return Contestant(name, size, shop.pid, lambda count: arguments(batches.fresh(count))[1:5], call)


async def turn(contestant: Contestant, batches: int) -> Seen:
    """So many batches, one after the other."""
    prepared = [contestant.make(contestant.size) for _ in range(batches)]
    cpu, began = _cpu_s(contestant.pid), time.perf_counter()
    holds = 0
    for batch in prepared:
        holds += await contestant.call(batch)
    wall_s = time.perf_counter() - began
    return Seen(holds, batches * contestant.size, wall_s, _cpu_s(contestant.pid) - cpu)


async def rounds(contestants: Sequence[Contestant], count: int, batches: int) -> dict[str, list[Seen]]:
    """By name, what was seen in each round. Every round has everybody; the first turn of all is not counted."""
    for contestant in contestants:
        await turn(contestant, batches)
    seen: dict[str, list[Seen]] = {contestant.name: [] for contestant in contestants}
    for _ in range(count):
        for contestant in contestants:
            seen[contestant.name].append(await turn(contestant, batches))
    return seen


def memory_mib(backend: int) -> float | None:
    """Of the whole PostgreSQL, shared pages counted once; None where this user may not look."""
    try:
        postmaster = psutil.Process(backend).parent()
        if postmaster is None:
            return None
        server = [postmaster, *postmaster.children(recursive=True)]
        return float(sum(process.memory_full_info().pss for process in server)) / (1 << 20)
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return None


def _cpu_s(pid: int) -> float:
    # nanoseconds on a core; the ticks of /proc/*/stat are too coarse for a few batches
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9
