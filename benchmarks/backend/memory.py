"""The memory of one edge: alone, after attempts, and what a thousand open long-polls and a thousand streams add to it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

import psutil

from benchmarks.backend import checkout, drain
from benchmarks.backend.attempts import Attempts
from benchmarks.backend.field import OFF, Field, wish
from benchmarks.backend.report import Section, middle, span
from benchmarks.backend.servers import Server
from benchmarks.backend.shop import PLENTY
from flashsale.contract import wire

SALE, SKU = "memory", "memory"
THOUSAND = 1_000
AT_ONCE = 25  # are opened together: the edge asks PostgreSQL for each, and refuses when too many ask
SETTLES_SECONDS = 2.0  # until what was needed to open them is free again
TRIES = 10
WITHIN_SECONDS = 60.0  # for one answer, or the first words of a stream
STARTED, WARM, POLLS, STREAMS = "started", "after attempts", "long-polls", "streams"


class Effort(NamedTuple):
    """How many."""

    rounds: int
    attempts: int
    open: int


FULL, QUICK = Effort(3, 10_000, THOUSAND), Effort(1, 200, 50)


async def measure(field: Field, effort: Effort) -> Section:
    """New edges in every round. Raises ``RuntimeError`` at an answer that was not asked for, or an attempt left undecided."""
    await field.shop.open_sale(SALE, {SKU: PLENTY})
    rounds = []
    for number in range(effort.rounds):
        rounds.append({**await _polls(field, effort), **await _streams(field, effort)})
        said = ", ".join(f"{name} {mib:.1f} MiB" for name, mib in rounds[-1].items())
        field.say(f"memory, round {number + 1}: {said}")
    return section(rounds, effort)


async def _polls(field: Field, effort: Effort) -> dict[str, float]:
    found = {}
    async with field.queueing(OFF) as edge:
        found[STARTED] = memory_mib(edge.pid)
        queued, most = await drain.fill(field, edge, [SKU], effort.attempts)
        receipts, later = await _receipts(field, edge, effort.open)
        await asyncio.sleep(SETTLES_SECONDS)
        found[WARM] = memory_mib(edge.pid)
        requests = [
            f"GET {wire.PURCHASES_PATH}/{purchase} HTTP/1.1\r\nHost: {edge.host}\r\n{field.identity(OFF)}\r\n"
            f"{wire.RECEIPT_HEADER}: {receipt}\r\nPrefer: wait={wire.WAIT_SECONDS_MAX}\r\n\r\n"
            for purchase, receipt in receipts
        ]
        found[POLLS] = await _waiting_mib(edge, requests) - found[WARM]
    async with checkout.deciding(field, field.all_cores) as worker:
        await worker.until_decided(queued + effort.open, most + effort.open + later)
    return found


async def _waiting_mib(edge: Server, requests: Sequence[str]) -> float:
    # while all of them wait: a PostgreSQL that is slow for a moment has some refused, and then they all come again
    for _ in range(TRIES):
        async with _opened(edge, requests) as answers:
            await asyncio.sleep(SETTLES_SECONDS)
            mib = memory_mib(edge.pid)
            heard = [await answer for answer in answers if answer.done()]
            if not heard:
                return mib
            if other := [head for head in heard if not head.startswith(b"HTTP/1.1 503 ")]:
                raise RuntimeError(f"memory: {len(other)} long-polls did not wait, {other[0]!r}")
    raise RuntimeError(f"memory: {len(heard)} of {len(requests)} long-polls were refused, {TRIES} times")


async def _streams(field: Field, effort: Effort) -> dict[str, float]:
    async with field.queueing(OFF) as edge:
        request = f"GET {wire.STOCK_PATH}/stream?sku={SKU} HTTP/1.1\r\nHost: {edge.host}\r\n\r\n"
        async with _opened(edge, [request]) as answers:  # what the first of them makes is the edge's
            await asyncio.gather(*answers)
        before = memory_mib(edge.pid)
        async with _opened(edge, [request] * effort.open) as answers:
            heads = await asyncio.gather(*answers)
            if refused := [head for head in heads if not head.startswith(b"HTTP/1.1 200 ")]:
                raise RuntimeError(f"memory: {len(refused)} streams were refused, {refused[0]!r}")
            await asyncio.sleep(SETTLES_SECONDS)
            return {STREAMS: memory_mib(edge.pid) - before}


def memory_mib(pid: int) -> float:
    """Of a process and its children; what they share is divided among those who have it."""
    top = psutil.Process(pid)
    return sum(float(one.memory_full_info().pss) for one in (top, *top.children(recursive=True))) / 2**20


def section(rounds: Sequence[Mapping[str, float]], effort: Effort) -> Section:
    """The table, and every round. Pure."""
    rows = []
    for name in (STARTED, WARM, POLLS, STREAMS):
        each = name in {POLLS, STREAMS}
        mib = [found[name] * (THOUSAND / effort.open if each else 1) for found in rounds]
        what = f"{THOUSAND:,} open {name} add" if each else f"an edge, {name}"
        rows.append([what, f"{middle(mib):.1f}", span(mib)])
    return Section(
        "Memory of an edge, its master included",
        ["WHAT", "MIB", "SPREAD"],
        rows,
        [
            (
                f"Memory: {effort.rounds} rounds with edges of their own; {effort.attempts:,} attempts, then {effort.open:,} long-polls on as many"
                f" connections; {effort.open:,} streams of one item at another edge. Proportional set size, without the kernel's sockets."
            )
        ],
        [],
        {"rounds": [dict(found) for found in rounds]},
    )


async def _receipts(field: Field, edge: Server, count: int) -> tuple[list[tuple[str, str]], int]:
    # Of so many attempts by one buyer, one after the other on one connection: id of the purchase, and receipt; and how many
    # were told to try later, which they did.
    one = field.folder / "one-buyer"
    one.write_text(f"{field.identity(OFF)}\n", encoding="ascii")
    request = Attempts([wish(SKU)], one, field.names.prefix()).requests(edge.host)
    found: list[tuple[str, str]] = []
    later = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    while len(found) < count:
        writer.write(request(len(found)))
        async with asyncio.timeout(WITHIN_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
            document = json.loads(await reader.readexactly(int(length.partition(b":")[2])))
        if head.startswith(b"HTTP/1.1 202 "):
            found.append((document["id"], document["receipt"]))
        elif head.startswith(b"HTTP/1.1 503 ") and later < count:
            later += 1
        else:
            raise RuntimeError(f"memory: an attempt was not accepted, {document}")
    writer.close()
    return found, later


@contextlib.asynccontextmanager
async def _opened(edge: Server, requests: Sequence[str]) -> AsyncIterator[list["asyncio.Task[bytes]"]]:
    """A connection for each, and what will come to the end of each answer's head."""
    writers: list[asyncio.StreamWriter] = []
    answers: list[asyncio.Task[bytes]] = []

    async def head(reader: asyncio.StreamReader) -> bytes:
        return await reader.readuntil(b"\r\n\r\n")

    try:
        for number, request in enumerate(requests, 1):
            reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
            writer.write(request.encode())
            writers.append(writer)
            answers.append(asyncio.create_task(head(reader)))
            if number % AT_ONCE == 0:
                await asyncio.sleep(0.1)
        async with asyncio.timeout(WITHIN_SECONDS):
            yield answers
    finally:
        for answer in answers:
            answer.cancel()
        await asyncio.gather(*answers, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
