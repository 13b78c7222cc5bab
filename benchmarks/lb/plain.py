"""What one request costs: a closed loop of wrk's through one balancer after the other, each alone on its core."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from benchmarks.backend import load
from benchmarks.backend.cores import stopped
from benchmarks.backend.load import Seen
from benchmarks.backend.report import Bar, Section, at_least, middle, ratios
from benchmarks.lb import balancers, loop, peers, wants
from benchmarks.lb.balancers import (
    ANSWER_BYTES,
    HAPROXY,
    HAPROXY_UNIX,
    NGINX,
    OURS,
    OURS_UNIX,
    Balancer,
    Contestant,
    Upstream,
)
from benchmarks.lb.field import Field
from benchmarks.lb.picture import Panel, draw
from benchmarks.lb.report import HEADER, Cell, Loads, compared, cpu, p99s, raw, row, with_pictures

DIRECT = "none: the upstream alone"
MOST = {name: {"cpu": 1.5, "p99": 1.5} for name in (HAPROXY.name, HAPROXY_UNIX.name)}
BESIDE = {HAPROXY_UNIX.name: OURS_UNIX}  # which of ours stands beside whom; beside all others, the plain one
PYTHON_TIMES = 5.0  # what a request costs the others in Python, of what it costs ours


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    seconds: int
    warm_up_seconds: int
    methods: Sequence[str]


FULL, QUICK = Effort(5, 4, 2, (wants.POST, wants.GET)), Effort(1, 1, 0, (wants.POST,))


async def measure(field: Field, effort: Effort) -> Section:
    """Everybody in every round. Raises ``RuntimeError`` at an answer that was not asked for."""
    contestants, left_out = balancers.find(field)
    everybody = [*contestants, *by_path(contestants), *peers.find(field.home, field.say)]
    seen = await against(field, effort, everybody)
    paths = draw(
        "What a request costs a balancer that is alone on its core",
        [
            Panel(
                f"{label}, {method}", {cell.balancer: of(loads) for cell, loads in seen.items() if drawn(cell, method)}
            )
            for label, of in {"us of CPU per request": cpu, "p99 in ms": p99s}.items()
            for method in effort.methods
        ],
        f"{load.CONNECTIONS} keep-alive connections, {wants.FIELDS} request fields, answers of {ANSWER_BYTES} bytes.",
        field.pictures.with_name(f"{field.pictures.name}-plain"),
    )
    return with_pictures(section(seen, effort, left_out), paths)


def by_path(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Those of them that reach the upstream over Unix-domain sockets as well, if it is nginx, which listens on one. Pure."""
    local = {OURS: OURS_UNIX, HAPROXY: HAPROXY_UNIX}
    return [local[one] for one in contestants if one in local] if NGINX in contestants else []


def drawn(cell: Cell, method: str) -> bool:
    """Is it a balancer's?"""
    return cell.what == method and cell.balancer != DIRECT


async def against(field: Field, effort: Effort, contestants: Sequence[Contestant]) -> dict[Cell, list[Seen]]:
    """The loads of all rounds."""
    seen: dict[Cell, list[Seen]] = {}
    async with balancers.serving(field) as upstream, all_running(field, upstream, contestants) as running:
        for number in range(-1 if effort.warm_up_seconds else 0, effort.rounds):
            seconds = effort.seconds if number >= 0 else effort.warm_up_seconds
            for method, balancer in itertools.product(effort.methods, (None, *running)):
                one = await _turn(field, (upstream, running), balancer, method, seconds)
                if number >= 0:
                    name = balancer.contestant.name if balancer else DIRECT
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
        found = [await stack.enter_async_context(balancers.running(one, field, upstream)) for one in contestants]
        for balancer in found:
            for method in (wants.POST, wants.GET):
                balancers.until_answering(balancer, wants.request(method, _base(balancer, upstream)))
        yield found


async def _turn(
    field: Field, there: tuple[Upstream, Sequence[Balancer]], whose: Balancer | None, method: str, seconds: int
) -> Seen:
    upstream, everybody = there
    with stopped(other.pid for other in everybody if other is not whose):
        if whose is None:
            file = wants.file_of(method, field.folder)
            return await loop.through(DIRECT, upstream.port, file, seconds, {load.SERVER: upstream.pid})
        file = wants.file_of(method, field.folder, _base(whose, upstream))
        watched = {load.SERVER: whose.pid, "upstream": upstream.pid}
        return await loop.through(whose.contestant.name, whose.port, file, seconds, watched)


def _base(balancer: Balancer, upstream: Upstream) -> str:
    return upstream.url if balancer.contestant.wants_urls else ""


def section(seen: Loads, effort: Effort, left_out: Sequence[str]) -> Section:
    """The table, the bars, and every round. Pure."""
    rows, bars = [], list[Bar]()
    for cell, loads in seen.items():
        mine = seen[cell._replace(balancer=BESIDE.get(cell.balancer, OURS).name)]
        is_peer = cell.balancer not in {OURS.name, DIRECT}
        rows.append(row(cell, loads, mine if is_peer else None))
        bars += compared(f"plain, {cell.what}", mine, cell.balancer, loads, MOST.get(cell.balancer, {}))
        if cell.balancer in {peers.TUNED, peers.PROXY_PY}:
            what = f"plain, {cell.what}: CPU of {cell.balancer}, times ours"
            bars.append(
                at_least(PYTHON_TIMES, ratios(cpu(loads), cpu(mine)), what, f"ours {middle(cpu(mine)):,.1f} us")
            )
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
            (
                f"{peers.PROXY_PY} is asked as a forward proxy, for a URL, and passes on what it is sent; the others check, and write"
                " heads anew."
            ),
            "CPU US is the balancer's per request, by its process's times, system calls included.",
            *left_out,
        ],
        bars,
        raw(seen),
    )
