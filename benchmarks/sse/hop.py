"""The same stream through a balancer: what the extra hop costs, on the server's own core."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.backend.field import Field
from benchmarks.backend.report import Section, middle, ratios, span, spread
from benchmarks.lb import balancers
from benchmarks.lb import field as lb
from benchmarks.lb.balancers import NGINX, OURS, Contestant, Upstream
from benchmarks.sse import crowd
from benchmarks.sse.contestants import ASYNCIO, Streaming
from benchmarks.sse.fan import SPARE_FILES, words
from benchmarks.sse.turn import Load, Turn, resting, turn

DIRECT = "none"


class Effort(NamedTuple):
    """How long it is measured, with how many, and how often each of them is told."""

    rounds: int
    seconds: float
    viewers: int
    hertz: int


FULL, QUICK = Effort(3, 5.0, 5_000, 2), Effort(1, 1.0, 200, 5)


async def measure(field: Field, effort: Effort) -> Section:
    """New servers and balancers in every round. Raises ``RuntimeError`` when a stream ends, or somebody is left behind."""
    # a stream costs its balancer two
    effort = effort._replace(viewers=min(effort.viewers, (balancers.files() - SPARE_FILES) // 2))
    found, left_out = balancers.find(_of_lb(field))
    between: list[Contestant | None] = [None, *(one for one in found if one in {OURS, NGINX})]
    turns: dict[str, list[Turn]] = {DIRECT if one is None else one.name: [] for one in between}
    for number in range(effort.rounds):
        for one in between:
            name = DIRECT if one is None else one.name
            turns[name].append(await _turn(field, one, effort))
            field.say(f"hop, round {number + 1}: {name}: {words(turns[name][-1])}")
    return section(turns, effort, left_out)


async def _turn(field: Field, between: Contestant | None, effort: Effort) -> Turn:
    async with (
        ASYNCIO.start(field, effort.hertz, effort.viewers) as server,
        _through(field, between, server) as (port, pids),
        crowd.gathered(port, server.asks, field.environment, field.others) as viewers,
    ):
        rest = await resting(*pids)
        await viewers.open(effort.viewers)
        return await turn(viewers, server.publisher, Load(effort.viewers, effort.hertz, effort.seconds), rest)


@contextlib.asynccontextmanager
async def _through(
    field: Field, between: Contestant | None, server: Streaming
) -> AsyncIterator[tuple[int, Sequence[int]]]:
    # where to connect, and whose CPU counts
    if between is None:
        yield server.port, [server.pid]
        return
    upstream = Upstream(server.pid, server.port, field.folder / "none", streams=True)
    async with balancers.running(between, _of_lb(field), upstream) as balancer:
        yield balancer.port, [server.pid, balancer.pid]


def _of_lb(field: Field) -> lb.Field:
    return lb.Field(
        environment=field.environment,
        processes=field.processes,
        core=field.core,
        folder=field.folder,
        home=field.home,
        pictures=field.pictures,
        say=field.say,
    )


def section(turns: Mapping[str, Sequence[Turn]], effort: Effort, left_out: Sequence[str]) -> Section:
    """The table, and every round. Pure."""
    direct = turns[DIRECT]
    rows = []
    for name, of in turns.items():
        cpu, p99 = [one.cpu_us for one in of], [one.p99_ms for one in of]
        more = [hop - alone for hop, alone in zip(cpu, (one.cpu_us for one in direct), strict=True)]
        rows.append(
            [
                *(name, f"{middle([one.rate for one in of]):,.0f}", f"{middle([one.told for one in of]):.0%}"),
                *(f"{middle(cpu):.1f}", span(cpu), "" if of is direct else spread(more)),
                *(f"{middle([one.p50_ms for one in of]):,.0f}", f"{middle(p99):,.0f}"),
                "" if of is direct else spread(ratios(p99, [one.p99_ms for one in direct])),
                *(f"{middle([one.busy for one in of]):.0%}", f"{middle([one.crowd_busy for one in of]):.0%}"),
                str(sum(one.is_void for one in of) or ""),
            ]
        )
    return Section(
        f"{effort.viewers:,} viewers of our asyncio server through a balancer, both on one core; {effort.hertz} changes a second",
        [
            *("BALANCER", "DELIVERIES/S", "TOLD", "CPU US", "SPREAD", "US OF THE HOP", "P50 MS", "P99 MS"),
            *("x TIMES DIRECT", "BUSY", "CROWD BUSY", "VOID"),
        ],
        rows,
        [
            (
                f"Hop: {effort.rounds} rounds of {effort.seconds:g} s. CPU US is that of server and balancer together, per delivery to a viewer, without"
                " what they take while nobody watches; US OF THE HOP is how much more that is than without a balancer in the same round."
            ),
            *left_out,
        ],
        [],
        {"viewers": effort.viewers, "turns": {name: [one._asdict() for one in of] for name, of in turns.items()}},
    )
