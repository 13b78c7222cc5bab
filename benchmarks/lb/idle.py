"""Ten thousand clients that keep their connections: what one costs in memory, and what they cost those who ask."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.backend import load
from benchmarks.backend.load import Seen
from benchmarks.backend.memory import memory_mib
from benchmarks.backend.report import Section, at_least, at_most, middle, rates, ratios, span, spread
from benchmarks.lb import balancers, crowd, wants
from benchmarks.lb.balancers import OURS, Contestant, Upstream
from benchmarks.lb.field import Field
from benchmarks.lb.report import cpu, p99s

KEPT_SHARE, KIB = 0.8, 4.0
SETTLES_SECONDS = 1.0
SPARE_FILES = 1_000


class Effort(NamedTuple):
    """How long it is measured, and with how many."""

    rounds: int
    seconds: float
    clients: int


FULL, QUICK = Effort(5, 3.0, 10_000), Effort(1, 0.5, 500)


class Turn(NamedTuple):
    """One balancer in one round: 64 clients alone, the same number among many, and what each of the many has of its memory."""

    few: Seen
    many: Seen
    kib: float


async def measure(field: Field, effort: Effort) -> Section:
    """New balancers in every round. Raises ``RuntimeError`` at an answer that was not asked for."""
    contestants, left_out = balancers.find(field)
    clients = min(effort.clients, balancers.files() - SPARE_FILES)
    turns: dict[str, list[Turn]] = {one.name: [] for one in contestants}
    async with balancers.serving(field) as upstream:
        for number in range(effort.rounds):
            for one in contestants:
                turn = await _turn(field, upstream, one, effort._replace(clients=clients))
                turns[one.name].append(turn)
                field.say(
                    f"idle, round {number + 1}: {one.name}: {turn.kib:.1f} KiB each; {turn.few.rate:,.0f}/s, among many"
                    f" {turn.many.rate:,.0f}/s"
                )
    return section(turns, effort._replace(clients=clients), left_out)


async def _turn(field: Field, upstream: Upstream, contestant: Contestant, effort: Effort) -> Turn:
    request = wants.request(wants.POST)
    async with balancers.running(contestant, field, upstream) as balancer:
        balancers.until_answering(balancer, request)
        watched = {load.SERVER: balancer.pid, "upstream": upstream.pid}
        async with crowd.opened(balancer.port, load.CONNECTIONS, load.CONNECTIONS, request) as few:
            alone = await load.seen(lambda: few.ask(load.CONNECTIONS, effort.seconds), watched)
        await asyncio.sleep(SETTLES_SECONDS)
        before = memory_mib(balancer.pid)
        async with crowd.opened(balancer.port, effort.clients, load.CONNECTIONS, request) as many:
            await asyncio.sleep(SETTLES_SECONDS)
            added = memory_mib(balancer.pid) - before
            among = await load.seen(lambda: many.ask(load.CONNECTIONS, effort.seconds), watched)
    return Turn(alone, among, added * 1024 / effort.clients)


def section(turns: Mapping[str, Sequence[Turn]], effort: Effort, left_out: Sequence[str]) -> Section:
    """The table, the bars, and every round. Pure."""
    rows = []
    for name, of in turns.items():
        few, many, kib = [one.few for one in of], [one.many for one in of], [one.kib for one in of]
        rows.append(
            [
                *(name, f"{middle(kib):.2f}", span(kib)),
                *(f"{middle(rates(few)):,.0f}", f"{middle(rates(many)):,.0f}", spread(ratios(rates(many), rates(few)))),
                *(f"{middle(cpu(few)):.1f}", f"{middle(cpu(many)):.1f}", spread(ratios(cpu(many), cpu(few)))),
                *(f"{middle(p99s(few)):.2f}", f"{middle(p99s(many)):.2f}"),
            ]
        )
    mine = turns[OURS.name]
    beside = f"{effort.clients:,} clients"
    shares = ratios(rates([one.many for one in mine]), rates([one.few for one in mine]))
    return Section(
        f"{effort.clients:,} clients with kept connections, of which {load.CONNECTIONS} ask at a time, each in its turn",
        [
            *("BALANCER", "KIB EACH", "SPREAD", "PER SECOND, FEW", "MANY", "MANY OF FEW"),
            *("CPU US, FEW", "MANY", "MANY OF FEW", "P99 MS, FEW", "MANY"),
        ],
        rows,
        [
            (
                f"Idle: {effort.rounds} rounds with balancers of their own; few are {load.CONNECTIONS} clients and no others there. KIB EACH is"
                " what the proportional set size grew by when the many had connected and asked once, per client, without the kernel's"
                " sockets. The generator is ours."
            ),
            *left_out,
        ],
        [
            at_least(KEPT_SHARE, shares, "many clients: rate, of that with few", beside),
            at_most(KIB, [one.kib for one in mine], "many clients: KiB per idle connection", beside),
        ],
        {
            "clients": effort.clients,
            "turns": {
                name: [{"few": one.few._asdict(), "many": one.many._asdict(), "kib": one.kib} for one in of]
                for name, of in turns.items()
            },
        },
    )
