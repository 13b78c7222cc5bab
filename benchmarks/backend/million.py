"""A million attempts by a million buyers on one server: what it remembers of them, and whether the last cost what the first did."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.backend import load
from benchmarks.backend.attempts import Attempts
from benchmarks.backend.field import OFF, Field, vain_wish, wish
from benchmarks.backend.report import Bar, Section
from benchmarks.backend.watching import Sample, cpu_at, watching, when

SALE, SKU, SHORT = "million", "million", "million-short"
REDIS = "redis"
WITHIN_SECONDS = 900.0
DEARER, LARGER = 1.2, 1.2
SAMPLES_KEPT = 100  # of a result file


class Effort(NamedTuple):
    """How many. Units are gone within the first tenth."""

    attempts: int
    units: int
    look_seconds: float


FULL, QUICK = Effort(1_000_000, 10_000, 0.25), Effort(20_000, 200, 0.05)


class Tenth(NamedTuple):
    """A tenth of all attempts. ``cpu_us`` per attempt and resident ``memory_mib`` at its end, by process."""

    rate: float
    cpu_us: Mapping[str, float]
    memory_mib: Mapping[str, float]


async def measure(field: Field, effort: Effort) -> Section:
    """Send them. Raises ``RuntimeError`` when more was sold than there was, or something unexpected said."""
    await field.shop.open_sale(SALE, {SKU: effort.units, SHORT: 1})
    ends = asyncio.Event()
    async with field.serving(OFF, SHORT) as server:
        watched = {load.SERVER: server.pid} | {name: pid for name, pid in field.processes.items() if name == REDIS}
        async with watching(server, watched, effort.look_seconds) as samples:
            # one after the other of an item that sells out at once, and of one that the gate must be asked about for ever
            attempts = Attempts((wish(SKU), vain_wish(SHORT)), None, field.names.prefix())
            sending = asyncio.create_task(
                load.send(server.url, attempts, int(2 * WITHIN_SECONDS), field.watched(server), ends=ends)
            )
            try:
                await _until_answered(field, effort, samples, sending)
                ends.set()
                one = await sending
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
    books = await field.shop.books(SKU)
    told = samples[-1].verdicts
    if books.held > effort.units or one.answers - one.refusals > effort.units:
        raise RuntimeError(f"million: oversold, {books}")
    if not told.keys() <= {"held", "sold_out", "try_later"} or one.broken:
        raise RuntimeError(f"million: unexpected answers, {told}, {one}")
    return section(samples, effort.attempts)


async def _until_answered(
    field: Field, effort: Effort, samples: Sequence[Sample], sending: "asyncio.Task[load.Seen]"
) -> None:
    ends, said = time.monotonic() + WITHIN_SECONDS, 0
    while (answers := samples[-1].answers) < effort.attempts:
        if sending.done():
            sending.result()
            raise RuntimeError("million: the generator ended before its time")
        if time.monotonic() > ends:
            raise RuntimeError(f"million: {answers:,} answers within {WITHIN_SECONDS:.0f} s")
        if answers * 5 // effort.attempts > said:
            said = answers * 5 // effort.attempts
            field.say(f"million: {answers:,} attempts answered")
        await asyncio.sleep(effort.look_seconds / 2)


def tenths(samples: Sequence[Sample], attempts: int) -> list[Tenth]:
    """What each tenth cost. Pure."""
    found = []
    for number in range(10):
        first, last = attempts * number / 10, attempts * (number + 1) / 10
        seconds = when(samples, last) - when(samples, first)
        cpu = {
            name: (cpu_at(samples, last, name) - cpu_at(samples, first, name)) / (last - first) * 1e6
            for name in samples[0].cpu_s
        }
        after = next((one for one in samples if one.answers >= last), samples[-1])
        found.append(Tenth((last - first) / max(seconds, 1e-9), cpu, after.memory_mib))
    return found


def section(samples: Sequence[Sample], attempts: int) -> Section:
    """The table, the bars, and the curve. Pure."""
    of = tenths(samples, attempts)
    second, last = of[1], of[-1]
    names = list(second.cpu_us)
    rows = [
        [
            f"{number + 1}",
            f"{tenth.rate:,.0f}",
            *(f"{tenth.cpu_us[name]:.1f}" for name in names),
            *(f"{tenth.memory_mib[name]:.1f}" for name in names),
        ]
        for number, tenth in enumerate(of)
    ]
    bars = [
        Bar(
            f"a million attempts: {name}'s {what} of the last tenth at most {most:g} times the second's",
            now / max(then, 1e-9),
            f"{then:,.1f} then {now:,.1f} {unit}",
            now <= most * then,
        )
        for name in names
        for what, most, unit, then, now in (
            ("CPU per attempt", DEARER, "us", second.cpu_us[name], last.cpu_us[name]),
            ("memory", LARGER, "MiB", second.memory_mib[name], last.memory_mib[name]),
        )
    ]
    return Section(
        f"{attempts:,} attempts by as many buyers, auth off; half of them refused at once, half by the gate",
        [
            *("TENTH", "PER SECOND"),
            *(f"{name} CPU US".upper() for name in names),
            *(f"{name} MIB".upper() for name in names),
        ],
        rows,
        [f"Million: most memory, MiB: {', '.join(f'{name} {_most(samples, name):.1f}' for name in names)}."],
        bars,
        {"tenths": [_plain(tenth) for tenth in of], "curve": _curve(samples)},
    )


def _plain(tenth: Tenth) -> dict[str, Any]:
    return {"rate": tenth.rate, "cpu_us": dict(tenth.cpu_us), "memory_mib": dict(tenth.memory_mib)}


def _most(samples: Sequence[Sample], name: str) -> float:
    return max(one.memory_mib[name] for one in samples)


def _curve(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    step = max(len(samples) // SAMPLES_KEPT, 1)
    begun = samples[0].at
    return [
        {"seconds": round(one.at - begun, 2), "answers": one.answers, "memory_mib": dict(one.memory_mib)}
        for one in samples[::step]
    ]
