"""What a purchase attempt costs balancer and backend together: over shared links, over a pool, and with HAProxy before the same backend.

The balancer has its core. The backend is ours and real, and so are its stores; they share the other cores with the client.
"""

import contextlib
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.backend import field as backend
from benchmarks.backend import fsync, load, refusals
from benchmarks.backend.attempts import Attempts, Names
from benchmarks.backend.cores import stopped
from benchmarks.backend.field import OFF, SOLD_OUT, wish
from benchmarks.backend.load import SERVER, Seen
from benchmarks.backend.report import Bar, Section, at_most, cpu_words, middle, rates, ratios, span, spread
from benchmarks.backend.servers import Server, tally, verdicts
from benchmarks.backend.shop import PLENTY, Shop
from benchmarks.lb import balancers, wants
from benchmarks.lb.balancers import HAPROXY, OURS, Balancer, Upstream, ours
from benchmarks.lb.field import Field
from benchmarks.lb.picture import Panel, draw
from benchmarks.lb.report import Cell, Loads, p99s, raw, with_pictures

SALE, GONE, SHORT, SOME = "link", "link-gone", "link-short", "link-some"
BACKEND = "backend"
LINKS = ours("ours, shared links", {"LB_LINK": "POST /purchases"})
CPU_TIMES, P99_TIMES = 0.6, 1.0  # of balancer and backend, of HAProxy's and the same backend's
ACCEPTED_ONE_OF = 10
SOLD, MIXED = "sold out", "one of ten accepted"
EXPECTED = {SOLD: {"sold_out"}, MIXED: {"sold_out", "held", "try_later"}}
_ON_LINKS = re.compile(rb'^loadbalancer_link_requests_total\{server="(\w+)"\} ([0-9.e+]+)$', re.MULTILINE)


class Effort(NamedTuple):
    """How long it is measured, with how many connections, and how much longer a commit takes than it would."""

    rounds: int
    seconds: int
    warm_up_seconds: int
    connections: Sequence[int]
    delays_ms: Sequence[int]


FULL, QUICK = Effort(5, 3, 1, (64, 512), (2,)), Effort(1, 1, 0, (64,), ())


class Scenario(NamedTuple):
    """Who asks for what, with how many others, and what a commit takes meanwhile."""

    told: str
    connections: int
    delay_ms: int | None

    def __str__(self) -> str:
        slow = f", each fsync {self.delay_ms} ms longer" if self.delay_ms else ""
        return f"{self.told}{slow}, {self.connections} connections"


class Found(NamedTuple):
    """The loads of all rounds; how much of each went over links; why some are not there."""

    seen: Loads
    on_links: Mapping[Cell, Sequence[float]]
    later: int  # attempts that were told try_later
    left_out: Sequence[str]


async def measure(field: Field, effort: Effort) -> Section:
    """Everybody in every round. Raises ``RuntimeError`` at an answer that nobody should hear."""
    shop = await Shop.open(field.environment["FLASH_POSTGRES_URL"])
    try:
        behind = backend.Field(
            environment=field.environment,
            processes=field.processes,
            core=field.core,
            folder=field.folder,
            home=field.home,
            pictures=field.pictures,
            shop=shop,
            names=Names(f"{time.time_ns():x}"),
            say=field.say,
        )
        found = await _against(field, behind, effort)
    finally:
        await shop.close()
    paths = draw(
        "What an attempt costs a balancer and the backend behind it",
        [
            Panel(
                f"us of CPU per answer: {what}",
                {cell.balancer: _cpu(loads) for cell, loads in found.seen.items() if cell.what == what},
            )
            for what in dict.fromkeys(cell.what for cell in found.seen)
        ],
        "The backend is asyncio_redis, auth off.",
        field.pictures.with_name(f"{field.pictures.name}-link"),
    )
    return with_pictures(section(found, effort), paths)


async def _against(field: Field, behind: backend.Field, effort: Effort) -> Found:
    contestants, left_out = balancers.find(field)
    contestants = [OURS, LINKS, *(one for one in contestants if one is HAPROXY)]
    delays: Sequence[int | None] = effort.delays_ms
    if delays and (reason := await fsync.why_not(behind)):
        left_out, delays = [*left_out, f"Slow fsync is left out: {reason}."], ()
    scenarios = [Scenario(told, many, None) for told in (SOLD, MIXED) for many in effort.connections]
    scenarios += [Scenario(MIXED, many, delay) for delay in delays for many in effort.connections]
    await behind.shop.open_sale(SALE, {GONE: 1, SHORT: 1, SOME: PLENTY})
    found = Found({}, {}, 0, left_out)
    seen: dict[Cell, list[Seen]] = {}
    on_links: dict[Cell, list[float]] = {}
    later = 0
    async with behind.serving(OFF, SHORT, field.others) as server, contextlib.AsyncExitStack() as stack:
        await refusals.until_told(behind, server, GONE, 1, [(201, None), SOLD_OUT])
        upstream = Upstream(server.pid, server.port, field.folder / "none")
        there = [await stack.enter_async_context(balancers.running(one, field, upstream)) for one in contestants]
        for number in range(-1 if effort.warm_up_seconds else 0, effort.rounds):
            seconds = effort.seconds if number >= 0 else effort.warm_up_seconds
            for scenario in scenarios:
                for balancer in there:
                    await refusals.until_told(behind, server._replace(port=balancer.port), GONE, 1, [SOLD_OUT])
                    with stopped(other.pid for other in there if other is not balancer):
                        one, told, linked = await _load(behind, (server, balancer), scenario, seconds)
                    if number < 0:
                        continue
                    cell = Cell(str(scenario), balancer.contestant.name)
                    seen.setdefault(cell, []).append(one)
                    on_links.setdefault(cell, []).append(linked)
                    later += told.get("try_later", 0)
                    field.say(
                        f"link, round {number + 1}: {', '.join(cell)}: {one.rate:,.0f}/s, CPU {_cpu([one])[0]:.1f} us, p99 {one.p99_ms:.1f} ms"
                    )
    return found._replace(seen=seen, on_links=on_links, later=later)


async def _load(
    behind: backend.Field, there: tuple[Server, Balancer], scenario: Scenario, seconds: int
) -> tuple[Seen, Mapping[str, int], float]:
    server, balancer = there
    bodies = [wish(GONE)] * (ACCEPTED_ONE_OF - 1) + [wish(SOME) if scenario.told == MIXED else wish(GONE)]
    watched = {SERVER: balancer.pid, BACKEND: server.pid, **behind.processes}
    async with _delayed(behind, scenario.delay_ms):
        before, linked = await verdicts(server), await _on_links(balancer)
        one = await load.send(
            f"http://127.0.0.1:{balancer.port}",
            attempts(behind.attempts(OFF, *bodies)),
            seconds,
            watched,
            connections=scenario.connections,
        )
        told, linked = await verdicts(server) - before, await _on_links(balancer) - linked
    if is_unexpected(one, told, scenario.told):
        raise RuntimeError(f"{balancer.contestant.name}, {scenario}: unexpected answers, {dict(told)}, {one}")
    return one, told, min(linked / one.answers, 1.0)  # what is under way at the end is no answer yet


def attempts(bare: Attempts) -> Attempts:
    """As a browser sends them. Pure."""
    return bare._replace(more="".join(f"{line}\r\n" for line in wants.BROWSERS))


def is_unexpected(one: Seen, told: Mapping[str, int], what: str) -> bool:
    """Did anybody hear what they should not, from the balancer or from the backend? Pure."""
    # The backend's verdicts are all that a client heard, but for what was under way at the end; a balancer's own are refusals too many.
    refused = sum(count for verdict, count in told.items() if verdict != "held")
    return bool(one.broken) or not one.answers or not told.keys() <= EXPECTED[what] or one.refusals > refused


async def _on_links(balancer: Balancer) -> float:
    if balancer.contestant is HAPROXY:
        return 0
    return sum((await tally(_ON_LINKS, balancer.ops_port)).values())


@contextlib.asynccontextmanager
async def _delayed(behind: backend.Field, delay_ms: int | None) -> AsyncIterator[None]:
    if delay_ms is None:
        yield
        return
    async with fsync.slowed(behind.processes[fsync.POSTGRES], delay_ms, behind.folder / "strace"):
        yield


def section(found: Found, effort: Effort) -> Section:
    """The table, the bars, and every round. Pure."""
    rows, bars = [], list[Bar]()
    for cell, loads in found.seen.items():
        theirs = found.seen.get(cell._replace(balancer=HAPROXY.name))
        is_compared = theirs is not None and theirs is not loads
        rows.append(
            [
                *(*cell, f"{middle(rates(loads)):,.0f}", f"{middle(_cpu(loads)):.1f}", span(_cpu(loads))),
                spread(ratios(_cpu(loads), _cpu(theirs))) if theirs and is_compared else "",
                *(f"{middle(p99s(loads, 'p50_ms')):.2f}", f"{middle(p99s(loads)):.2f}"),
                spread(ratios(p99s(loads), p99s(theirs))) if theirs and is_compared else "",
                f"{middle(found.on_links[cell]):.0%}",
                cpu_words([one.cpu_us for one in loads]),
            ]
        )
        if theirs and cell.balancer == LINKS.name:
            beside = f"ours {middle(_cpu(loads)):.1f} us, theirs {middle(_cpu(theirs)):.1f} us"
            what = f"shared links, {cell.what}"
            bars += [
                at_most(CPU_TIMES, ratios(_cpu(loads), _cpu(theirs)), f"{what}: cpu, times HAProxy's", beside),
                at_most(P99_TIMES, ratios(p99s(loads), p99s(theirs)), f"{what}: p99, times HAProxy's", "same backend"),
            ]
    return Section(
        "A purchase attempt through a balancer, and our backend asyncio_redis behind it",
        [
            *("WHAT", "BALANCER", "PER SECOND", "CPU US, BOTH", "SPREAD", "x HAPROXY'S", "P50 MS", "P99 MS"),
            *("x HAPROXY'S", "ON LINKS", "CPU US OF ALL"),
        ],
        rows,
        [
            (
                f"Link: {effort.rounds} rounds of {effort.seconds} s, each everybody's turn, before one and the same backend; auth off,"
                f" {wants.FIELDS} request fields."
                " CPU US is balancer and backend together, per answer. What is sold out is known to the backend, which asks nobody;"
                f" an accepted purchase is committed before its answer. {found.later:,} attempts were told try_later."
            ),
            *found.left_out,
        ],
        bars,
        {
            **raw(found.seen),
            "on_links": [{**cell._asdict(), "shares": list(of)} for cell, of in found.on_links.items()],
            "told_try_later": found.later,
        },
    )


def _cpu(loads: Sequence[Seen]) -> list[float]:
    return [one.cpu_us[SERVER] + one.cpu_us[BACKEND] for one in loads]
