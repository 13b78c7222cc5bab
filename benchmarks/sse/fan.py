"""Who tells many viewers of a change: ours on one loop, nginx with nchan, ours on greenlets."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.backend.field import Field
from benchmarks.backend.memory import memory_mib
from benchmarks.backend.report import Bar, Section, at_most, middle, ratios, span, spread
from benchmarks.lb import balancers
from benchmarks.lb.picture import Panel, draw
from benchmarks.lb.report import with_pictures
from benchmarks.sse import contestants, crowd
from benchmarks.sse.contestants import ASYNCIO, GEVENT, NCHAN, Contestant
from benchmarks.sse.turn import BUSY_MAX, Load, Turn, resting, turn

KIB, GEVENT_KIB = 2.5, 30.0
FIRST = 10  # viewers before memory is looked at: what the first of them make is the server's
SPARE_FILES = 1_000


class Effort(NamedTuple):
    """How long it is measured, and with how many; ``viewers`` grows."""

    rounds: int
    seconds: float
    viewers: Sequence[int]
    hertz: Sequence[int]


FULL, QUICK = Effort(3, 5.0, (1_000, 5_000), (5, 20)), Effort(1, 1.0, (100, 300), (5, 20))


class Round(NamedTuple):
    """One contestant in one round."""

    turns: Sequence[Turn]
    kib: Sequence[float]  # of memory per viewer, after the load, at each rate


Rounds = Mapping[str, Sequence[Round]]


async def measure(field: Field, effort: Effort) -> Section:
    """New servers in every round. Raises ``RuntimeError`` when a stream ends, or somebody does not know the last change."""
    everybody, left_out = contestants.find(field)
    most = balancers.files() - SPARE_FILES
    effort = effort._replace(viewers=[min(count, most) for count in effort.viewers])
    rounds: dict[str, list[Round]] = {one.name: [] for one in everybody}
    for number in range(effort.rounds):
        for one in everybody:
            rounds[one.name].append(await _round(field, one, effort, number))
    paths = draw(
        f"What a delivery costs with {effort.viewers[-1]:,} viewers and {effort.hertz[-1]} changes a second",
        [
            Panel("us of CPU per delivery", _values(rounds, lambda one: one.turns[-1].cpu_us)),
            Panel("p99 in ms, change to viewer", _values(rounds, lambda one: one.turns[-1].p99_ms)),
            Panel("KiB of memory per viewer", _values(rounds, lambda one: max(one.kib))),
        ],
        "One core; memory without the kernel's sockets.",
        field.pictures.with_name(f"{field.pictures.name}-fan"),
    )
    return with_pictures(section(rounds, effort, left_out), paths)


async def _round(field: Field, one: Contestant, effort: Effort, number: int) -> Round:
    turns, kib = [], []
    for hertz in effort.hertz:
        async with (
            one.start(field, hertz, effort.viewers[-1]) as server,
            crowd.gathered(server.port, server.asks, field.environment, field.others) as viewers,
        ):
            rest = await resting(server.pid)
            await viewers.open(FIRST)
            before, have = memory_mib(server.pid), FIRST
            for count in effort.viewers:
                await viewers.open(count - have)
                have = count
                load = Load(count, hertz, effort.seconds)
                turns.append(await turn(viewers, server.publisher, load, rest))
                field.say(f"fan, round {number + 1}: {one.name}: {words(turns[-1])}")
            kib.append((memory_mib(server.pid) - before) * 1024 / (have - FIRST))
            field.say(f"fan, round {number + 1}: {one.name}: {kib[-1]:.1f} KiB per viewer")
    return Round(turns, kib)


def words(of: Turn) -> str:
    """One line of progress. Pure."""
    return (
        f"{of.viewers:,} viewers at {of.hertz}/s: {of.rate:,.0f} deliveries/s, CPU {of.cpu_us:.1f} us, p99 {of.p99_ms:.0f} ms, told"
        f" {of.told:.0%}, server {of.busy:.0%}, crowd {of.crowd_busy:.0%}{', VOID' if of.is_void else ''}"
    )


def section(rounds: Rounds, effort: Effort, left_out: Sequence[str]) -> Section:
    """The table, the bars, and every round. Pure."""
    mine = rounds[ASYNCIO.name]
    loads = [(one.viewers, one.hertz) for one in mine[0].turns]
    rows = []
    for place, (viewers, hertz) in enumerate(loads):
        for name, of in rounds.items():
            turns = [one.turns[place] for one in of]
            kib = [one.kib[effort.hertz.index(hertz)] for one in of]
            cpu = [one.cpu_us for one in turns]
            voids = sum(one.is_void for one in turns)
            rows.append(
                [
                    *(f"{viewers:,}", str(hertz), name, f"{middle([one.rate for one in turns]):,.0f}"),
                    *(f"{middle([one.told for one in turns]):.0%}", f"{middle(cpu):.1f}", span(cpu)),
                    "" if name == ASYNCIO.name else spread(ratios([one.turns[place].cpu_us for one in mine], cpu)),
                    f"{middle([one.p50_ms for one in turns]):,.1f}",
                    *(f"{middle([one.p99_ms for one in turns]):,.1f}", span([one.p99_ms for one in turns])),
                    f"{middle([one.busy for one in turns]):.0%}",
                    f"{middle([one.crowd_busy for one in turns]):.0%}",
                    f"{middle(kib):.1f}" if viewers == effort.viewers[-1] else "",
                    f"{voids} of {len(turns)}" if voids else "",
                ]
            )
    return Section(
        "Viewers of one item that changes: a server alone on its core",
        [
            *("VIEWERS", "CHANGES/S", "SERVER", "DELIVERIES/S", "TOLD", "CPU US", "SPREAD", "OURS IS x TIMES"),
            *("P50 MS", "P99 MS", "SPREAD", "BUSY", "CROWD BUSY", "KIB EACH", "VOID"),
        ],
        rows,
        [
            (
                f"Fan: {effort.rounds} rounds of {effort.seconds:g} s with servers of their own. CPU US is the server's per delivery, without what it takes while nobody watches; P50 and P99 are"
                " from the moment a change could be told (ours: PostgreSQL had committed it; nchan: it was posted) to the moment a viewer knew it or"
                " a newer one. Ours is asked by what waits in Redis and reads PostgreSQL; SSE_HZ is the rate of changes."
            ),
            (
                "TOLD is the share of changes that came in a frame of their own; the others were overtaken by a newer one. Every viewer knew the last"
                " change in the end, and of nchan's messages none was missing."
            ),
            (
                "KIB EACH is what the proportional set size grew by, per viewer, without the kernel's sockets, after the load. A row is void where the"
                f" crowd ran, or waited for its core, for more than {BUSY_MAX:.0%} of the time."
            ),
            *left_out,
        ],
        bars(rounds, effort),
        {
            "rounds": {
                name: [{"turns": [turn._asdict() for turn in one.turns], "kib": list(one.kib)} for one in of]
                for name, of in rounds.items()
            }
        },
    )


def bars(rounds: Rounds, effort: Effort) -> list[Bar]:
    """What is wanted of ours. Void loads count for nothing. Pure."""
    found = []
    mine = rounds[ASYNCIO.name]
    for place, load in enumerate(mine[0].turns if NCHAN in rounds else ()):
        pairs = [(one.turns[place], other.turns[place]) for one, other in zip(mine, rounds[NCHAN], strict=True)]
        pairs = [pair for pair in pairs if not any(one.is_void for one in pair)]
        what = f"{load.viewers:,} viewers, {load.hertz}/s:"
        for figure, unit in (("cpu_us", "us of CPU per delivery"), ("p99_ms", "p99 in ms")):
            own, theirs = ([getattr(pair[which], figure) for pair in pairs] for which in (0, 1))
            beside = f"ours {middle(own):,.1f}, theirs {middle(theirs):,.1f}"
            bar = at_most(1.0, ratios(own, theirs), f"{what} {unit}, times nchan's,", beside)
            found.append(bar if pairs else bar._replace(is_met=False, beside="every round is void"))
    for name, most in ((ASYNCIO.name, KIB), (GEVENT.name, GEVENT_KIB)):
        kib = [max(one.kib) for one in rounds[name]]
        found.append(at_most(most, kib, f"{name}: KiB per viewer", f"{effort.viewers[-1]:,} viewers"))
    return found


def _values(rounds: Rounds, of: Callable[[Round], float]) -> dict[str, list[float]]:
    return {name: [of(one) for one in some] for name, some in rounds.items()}
