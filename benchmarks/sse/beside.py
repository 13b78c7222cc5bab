"""A thousand purchases a second while five thousand watch: what viewers take from buyers, with the hub in the server and apart from it."""

import contextlib
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.backend import flood, overload, servers
from benchmarks.backend.cores import shared
from benchmarks.backend.field import OFF, Field, wish
from benchmarks.backend.held import until_relayed
from benchmarks.backend.overload import Meant, Point
from benchmarks.backend.report import Section, at_most, middle, ratios, spread
from benchmarks.backend.servers import OURS, Server
from benchmarks.lb import balancers
from benchmarks.lb.picture import Panel, draw
from benchmarks.lb.report import with_pictures
from benchmarks.sse import crowd
from benchmarks.sse.contestants import OURS_ASKS, SHORT, SKU, Shelf, settings
from benchmarks.sse.fan import SPARE_FILES
from benchmarks.sse.turn import BUSY_MAX, settle

HUB = servers.Contestant("stream", (sys.executable, "-m", "flashsale.stream"), is_ours=True)
NOBODY, APART, INSIDE = "ours: nobody watches", "ours: hub in a process of its own", "ours: hub inside the server"
PLACES = (NOBODY, APART, INSIDE)
HERTZ = 5  # as it is by default
GROWS = 1.5
CONNECTIONS = 64
# The crowd's, which sits at other machines in a real sale and shares these cores for want of them: viewers are told a moment later.
GIVES_WAY = 19
LATER_MAX = 0.01  # may be told try_later: what is refused is not waited for, and makes the others look quick
RELAYED_SECONDS = 10.0  # at most


class Effort(NamedTuple):
    """How long it is measured, with how many, and how many buy."""

    rounds: int
    seconds: float
    viewers: int
    rate: int


FULL, QUICK = Effort(3, 10.0, 5_000, 1_000), Effort(1, 1.0, 200, 50)


class Turn(NamedTuple):
    """One load of purchases."""

    bought: Point
    deliveries: float  # a second, to all viewers
    crowd_busy: float

    @property
    def is_void(self) -> bool:
        """Was one of the generators the limit, or the rate too much for the machine with or without viewers?"""
        return self.bought.is_void or self.crowd_busy > BUSY_MAX or self.bought.later_share > LATER_MAX


async def measure(field: Field, effort: Effort) -> Section:
    """New servers in every round. Raises ``RuntimeError`` when a purchase is refused for good, a stream ends, or a viewer is left behind."""
    effort = effort._replace(viewers=min(effort.viewers, balancers.files() - SPARE_FILES))
    turns: dict[str, list[Turn]] = {place: [] for place in PLACES}
    with shared(field.processes.values(), field.all_cores):
        async with Shelf.open(field) as shelf:
            for number in range(effort.rounds):
                for place in PLACES:
                    turns[place].append(await _turn(field, shelf, place, effort, number))
                    one = turns[place][-1]
                    field.say(
                        f"beside, round {number + 1}: {place}: p50 {one.bought.p50_ms:.1f} ms, p99 {one.bought.p99_ms:.1f} ms,"
                        f" {one.deliveries:,.0f} deliveries/s, crowd {one.crowd_busy:.0%}{', VOID' if one.is_void else ''}"
                    )
    paths = draw(
        f"What {effort.viewers:,} viewers take from {effort.rate:,} purchases a second",
        [
            Panel("p50 of a purchase in ms", {place: [one.bought.p50_ms for one in of] for place, of in turns.items()}),
            Panel("p99 of a purchase in ms", {place: [one.bought.p99_ms for one in of] for place, of in turns.items()}),
        ],
        "Everything on the same cores.",
        field.pictures.with_name(f"{field.pictures.name}-beside"),
    )
    return with_pictures(section(turns, effort), paths)


async def _turn(field: Field, shelf: Shelf, place: str, effort: Effort, number: int) -> Turn:
    environment = {**field.environment, **settings(HERTZ, effort.viewers)}
    await until_relayed(field, RELAYED_SECONDS)  # events of the last load are work for the same cores
    async with servers.running(OURS, OFF, environment, field.all_cores) as server:
        await field.until_gate(server, SHORT)
        if place == NOBODY:
            return Turn(await _buy(field, server, effort, number), 0.0, 0.0)
        async with (
            _hub(place, server, field, environment) as port,
            crowd.gathered(port, OURS_ASKS, field.environment, field.all_cores, gives_way=GIVES_WAY) as viewers,
        ):
            await viewers.open(effort.viewers)
            await viewers.begin()
            bought = await _buy(field, server, effort, number)
            heard = await viewers.end()
            if heard.over:
                raise RuntimeError(f"{heard.over} of {effort.viewers} streams ended")
            await shelf.look()
            await settle(viewers, shelf)
            return Turn(bought, heard.frames / heard.seconds, heard.busy)


@contextlib.asynccontextmanager
async def _hub(place: str, server: Server, field: Field, environment: Mapping[str, str]) -> AsyncIterator[int]:
    if place == INSIDE:
        yield server.port
        return
    async with servers.running(HUB, OFF, environment, field.all_cores) as hub:
        yield hub.port


async def _buy(field: Field, server: Server, effort: Effort, number: int) -> Point:
    # the same moments in every place of a round
    meant = Meant(1.0, effort.rate, f"beside:{number}")
    due = overload.arrivals(effort.rate, effort.seconds, meant.seed)
    request = field.attempts(OFF, wish(SKU)).requests(server.host)
    requests = [request(place) for place in range(len(due))]
    async with flood.opened(server.port, CONNECTIONS) as one:
        record, start = await one.open_loop(requests, due, overload.SILENT_SECONDS)
    if strange := record.counts().keys() - {overload.HELD, overload.LATER}:
        raise RuntimeError(f"purchases were answered {sorted(strange)}")
    return overload.point(meant, due, record, start, 0.0)


def section(turns: Mapping[str, Sequence[Turn]], effort: Effort) -> Section:
    """The table, the bar, and every round. Pure."""
    alone = [one.bought.p99_ms for one in turns[NOBODY]]
    rows = [
        [
            *(place.removeprefix("ours: "), f"{middle([one.bought.offered for one in of]):,.0f}"),
            *(f"{middle([one.bought.p50_ms for one in of]):.1f}", f"{middle([one.bought.p99_ms for one in of]):.1f}"),
            "" if place == NOBODY else spread(ratios([one.bought.p99_ms for one in of], alone)),
            f"{sum(one.bought.statuses.get(overload.LATER, 0) for one in of):,}",
            f"{middle([one.deliveries for one in of]):,.0f}",
            f"{middle([one.crowd_busy for one in of]):.0%}",
            str(sum(one.is_void for one in of) or ""),
        ]
        for place, of in turns.items()
    ]
    pairs = [
        (own, apart)
        for own, apart in zip(turns[NOBODY], turns[APART], strict=True)
        if not (own.is_void or apart.is_void)
    ]
    times = [apart.bought.p99_ms / own.bought.p99_ms for own, apart in pairs]
    bar = at_most(
        GROWS,
        times,
        "hub in a process of its own: p99 of a purchase, times that with nobody watching,",
        f"{effort.viewers:,} viewers, {effort.rate:,} purchases/s, nothing is pinned",
    )
    return Section(
        f"{effort.rate:,} purchases a second while {effort.viewers:,} watch; open loop, everything on the same cores",
        [
            *(
                "VIEWERS",
                "PURCHASES/S",
                "P50 MS",
                "P99 MS",
                "P99 IS x TIMES",
                "TOLD 503",
                "DELIVERIES/S",
                "CROWD BUSY",
                "VOID",
            ),
        ],
        rows,
        [
            (
                f"Beside: {effort.rounds} rounds of {effort.seconds:g} s with servers of their own. Purchases were held, committed before the answer,"
                f" and each moved the stock that everybody watches, who are told {HERTZ} times a second; the crowd gives way to whoever else wants a core (nice {GIVES_WAY}); latency counts from the moment a purchase was due,"
                " in the same seeded moments in all rows of a round. A row is void where a generator was late or too busy,"
                f" or more than {LATER_MAX:.0%} were told try_later."
            )
        ],
        [bar if pairs else bar._replace(is_met=False, beside="every round is void")],
        {
            "viewers": effort.viewers,
            "turns": {
                place: [
                    {
                        **one._asdict(),
                        "bought": {**one.bought._asdict(), "statuses": dict(one.bought.statuses)},
                        "is_void": one.is_void,
                    }
                    for one in of
                ]
                for place, of in turns.items()
            },
        },
    )
