"""What one request costs: a closed loop of wrk's through one balancer after the other, each alone on its core."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.backend import load
from benchmarks.backend.cores import stopped
from benchmarks.backend.load import Seen
from benchmarks.backend.report import Bar, Section
from benchmarks.lb import wants
from benchmarks.lb.balancers import (
    ANSWER_BYTES,
    HAPROXY,
    NGINX,
    OURS,
    Balancer,
    Contestant,
    Upstream,
    running,
    serving,
    until_answering,
)
from benchmarks.lb.field import Field
from benchmarks.lb.report import HEADER, Cell, Loads, compared, raw, row

SCRIPT = Path(__file__).with_name("same.lua")
DIRECT = "none: the upstream alone"
MOST = {HAPROXY.name: {"cpu": 1.5, "p99": 1.5}}
CONTESTANTS: tuple[Contestant, ...] = (OURS, HAPROXY, NGINX)


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    seconds: int
    warm_up_seconds: int
    methods: Sequence[str]


FULL, QUICK = Effort(5, 4, 2, (wants.POST, wants.GET)), Effort(1, 1, 1, (wants.POST,))


async def measure(field: Field, effort: Effort) -> Section:
    """Everybody in every round. Raises ``RuntimeError`` at an answer that was not asked for."""
    return section(await against(field, effort, CONTESTANTS), effort)


async def against(field: Field, effort: Effort, contestants: Sequence[Contestant]) -> dict[Cell, list[Seen]]:
    """The loads of all rounds."""
    seen: dict[Cell, list[Seen]] = {}
    async with serving(field) as upstream, all_running(field, upstream, contestants) as balancers:
        files = {method: wants.file_of(method, field.folder) for method in effort.methods}
        for number in range(-1 if effort.warm_up_seconds else 0, effort.rounds):
            seconds = effort.seconds if number >= 0 else effort.warm_up_seconds
            for method, file in files.items():
                for name, port, pid in [
                    (DIRECT, upstream.port, upstream.pid),
                    *((one.contestant.name, one.port, one.pid) for one in balancers),
                ]:
                    watched = {load.SERVER: pid, "upstream": upstream.pid}
                    with stopped(other.pid for other in balancers if other.pid != pid):
                        one = await through(name, port, file, seconds, watched)
                    if number >= 0:
                        seen.setdefault(Cell(method, name), []).append(one)
                        field.say(
                            f"plain, round {number + 1}: {method}, {name}: {one.rate:,.0f}/s,"
                            f" CPU {one.cpu_us[load.SERVER]:.1f} us, p99 {one.p99_ms:.1f} ms"
                        )
    return seen


@contextlib.asynccontextmanager
async def all_running(
    field: Field, upstream: Upstream, contestants: Sequence[Contestant]
) -> AsyncIterator[list[Balancer]]:
    """Everybody, each shown to answer."""
    async with contextlib.AsyncExitStack() as stack:
        balancers = [await stack.enter_async_context(running(one, field, upstream)) for one in contestants]
        for balancer in balancers:
            for method in (wants.POST, wants.GET):
                until_answering(balancer.contestant.name, balancer.port, wants.request(method))
        yield balancers


async def through(name: str, port: int, file: Path, seconds: int, watched: Mapping[str, int]) -> Seen:
    """One load. Raises ``RuntimeError`` at an answer that was not asked for."""
    script = [str(SCRIPT), str(file)]
    url = f"http://127.0.0.1:{port}"
    one = await load.seen(lambda: load.wrk(url, seconds, load.CONNECTIONS, script), watched)
    if one.broken or one.refusals or not one.answers:
        raise RuntimeError(f"{name}: unexpected answers, {one}")
    return one


def section(seen: Loads, effort: Effort) -> Section:
    """The table, the bars, and every round. Pure."""
    rows, bars = [], list[Bar]()
    for cell, loads in seen.items():
        mine = seen[cell._replace(balancer=OURS.name)]
        is_peer = cell.balancer not in {OURS.name, DIRECT}
        rows.append(row(cell, loads, mine if is_peer else None))
        if most := MOST.get(cell.balancer):
            bars += compared(f"plain pool, {cell.what}", mine, cell.balancer, loads, most)
    return Section(
        "A request through a balancer that is alone on its core",
        HEADER,
        rows,
        [
            (
                f"Plain: {effort.rounds} rounds of {effort.seconds} s, each everybody's turn; closed loop of wrk's, {load.CONNECTIONS}"
                f" keep-alive connections; {wants.FIELDS} request fields, answers of {ANSWER_BYTES} bytes by nginx, which shares the"
                " other core with wrk; medians, least and most."
            ),
            "CPU US is the balancer's per request, by its process's times, system calls included.",
        ],
        bars,
        raw(seen),
    )
