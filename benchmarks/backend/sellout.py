"""A sale that sells out in the middle of a load: how fast it goes before and after, and that exactly the stock is sold."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.backend import load
from benchmarks.backend.field import JWT, Field, wish
from benchmarks.backend.report import Section, middle, ratios, span, spread
from benchmarks.backend.shop import Books
from benchmarks.backend.watching import Sample, watching

SELLS_WITHIN_SECONDS = 300.0
LOOK_SECONDS = 0.1
SETTLES_SECONDS = 0.5  # after the last unit, until the copies know


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    stock: int
    seconds_after: float
    connections: int = load.CONNECTIONS


FULL, QUICK = Effort(5, 20_000, 3.0), Effort(1, 1_000, 1.0)


class Turn(NamedTuple):
    """One sale. ``told_held`` by the generator's count, ``verdicts`` by the server's; rates in answers per second."""

    stock: int
    books: Books
    told_held: int
    answers: int
    verdicts: Mapping[str, int]
    before: float
    after: float
    p99_ms: float


async def measure(field: Field, effort: Effort) -> Section:
    """Sell out once a round. Raises ``RuntimeError`` when anything but the stock was sold, or told."""
    turns = []
    for number in range(effort.rounds):
        turn = await _turn(field, effort, f"sellout-{number}")
        if wrong := complaint(turn):
            raise RuntimeError(f"sellout, round {number + 1}: {wrong}: {turn}")
        turns.append(turn)
        field.say(f"sellout, round {number + 1}: {turn.before:,.0f}/s before, {turn.after:,.0f}/s after")
    return section(turns)


async def _turn(field: Field, effort: Effort, sku: str) -> Turn:
    short = f"{sku}-short"
    await field.shop.open_sale(sku, {sku: effort.stock, short: 1})
    ends = asyncio.Event()
    async with field.serving(JWT, short) as server:
        async with watching(server, {load.SERVER: server.pid}, LOOK_SECONDS) as samples:
            # longer than it can take: it is ended, not waited for
            sending = asyncio.create_task(
                load.send(
                    server.url,
                    field.attempts(JWT, wish(sku)),
                    int(2 * SELLS_WITHIN_SECONDS),
                    field.watched(server),
                    connections=effort.connections,
                    ends=ends,
                )
            )
            try:
                gone = await _until_gone(field, sku, sending)
                await asyncio.sleep(SETTLES_SECONDS + effort.seconds_after)
                ends.set()
                one = await sending
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        return Turn(
            effort.stock,
            await field.shop.books(sku),
            one.answers - one.refusals,
            one.answers,
            samples[-1].verdicts,
            *speeds(samples, gone),
            one.p99_ms,
        )


async def _until_gone(field: Field, sku: str, sending: "asyncio.Task[load.Seen]") -> float:
    # the last moment at which something was left; nothing returns, for no hold ends before the benchmark does
    ends, left = time.monotonic() + SELLS_WITHIN_SECONDS, time.perf_counter()
    while await field.shop.available(sku):
        left = time.perf_counter()
        if sending.done():
            sending.result()
        if time.monotonic() > ends:
            raise RuntimeError(f"{sku} did not sell out within {SELLS_WITHIN_SECONDS:.0f} s")
        await asyncio.sleep(LOOK_SECONDS / 2)
    return left


def speeds(samples: Sequence[Sample], gone: float) -> tuple[float, float]:
    """Answers per second while units were left, and from a while after the last one on. Pure."""
    working = [one for one in samples if one.answers]
    before = [one for one in working if one.at <= gone]
    after = [one for one in working if one.at >= gone + SETTLES_SECONDS]
    return _speed(before), _speed(after)


def _speed(samples: Sequence[Sample]) -> float:
    if len(samples) < 2:
        return 0.0  # too short for two looks
    return (samples[-1].answers - samples[0].answers) / (samples[-1].at - samples[0].at)


def complaint(turn: Turn) -> str:
    """What is wrong with it, or nothing. Pure.

    Who was told try_later may have been held all the same, for the decision came too late for the answer; nobody else.
    """
    if turn.books.held > turn.stock or turn.told_held > turn.stock:
        return "oversold"
    if turn.books.available or turn.books.held != turn.stock:
        return "the books do not say that exactly the stock was sold"
    counted = turn.verdicts.get("held", 0)
    if counted > turn.stock or turn.stock - counted > turn.verdicts.get("try_later", 0):
        return "the server does not say that exactly the stock was sold"
    if not 0 <= counted - turn.told_held <= load.CONNECTIONS:  # an answer per connection may be on its way at the end
        return "the server and its clients do not count the same holds"
    if not turn.verdicts.keys() <= {"held", "sold_out", "try_later"}:
        return "a verdict that nobody should hear"
    return ""


def section(turns: Sequence[Turn]) -> Section:
    """The table, and every round. Pure."""
    before, after = [turn.before for turn in turns], [turn.after for turn in turns]
    rows: list[list[str]] = [
        ["while units are left", f"{middle(before):,.0f}", span(before), ""],
        ["sold out", f"{middle(after):,.0f}", span(after), spread(ratios(after, before))],
    ]
    told: dict[str, int] = {}
    for turn in turns:
        for verdict, count in turn.verdicts.items():
            told[verdict] = told.get(verdict, 0) + count
    return Section(
        "Sells out in the middle, auth jwt; the server alone on its core, everything else on the others",
        ["WHAT", "ANSWERS PER SECOND", "SPREAD", "TIMES BEFORE"],
        rows,
        [
            (
                f"Sells out: {len(turns)} sales of {turns[0].stock:,} units; held in the books {sum(t.books.held for t in turns):,},"
                f" told held {sum(t.told_held for t in turns):,}; all verdicts: {', '.join(f'{w} {n:,}' for w, n in sorted(told.items()))}."
            )
        ],
        [],
        {"rounds": [_plain(turn) for turn in turns]},
    )


def _plain(turn: Turn) -> dict[str, Any]:
    return {**turn._asdict(), "books": turn.books._asdict(), "verdicts": dict(turn.verdicts)}
