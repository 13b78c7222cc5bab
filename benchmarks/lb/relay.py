"""Thousands of event streams through a balancer: what one event costs it, and how long it takes."""

import asyncio
import contextlib
import re
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import psutil

from benchmarks.backend.flood import quantile
from benchmarks.backend.memory import memory_mib
from benchmarks.backend.report import Section, at_most, middle, ratios, span, spread
from benchmarks.backend.servers import process
from benchmarks.lb import balancers, origin, wants
from benchmarks.lb.balancers import ANSWER_BYTES, NGINX, OURS, Contestant, Upstream
from benchmarks.lb.field import Field
from benchmarks.lb.picture import Panel, draw
from benchmarks.lb.report import with_pictures
from flashsale.stack.processes import free_port

PER_SECOND = 2  # events of one stream
TIMES_NGINX = 1.2
OPENED_AT_ONCE = 50
FOLLOWED_ONE_OF = 50  # streams whose every event is read
WITHIN_SECONDS = 60.0  # until every stream has its first event
SPARE_FILES = 1_000
REQUEST = (
    f"GET {origin.STREAM_PATH}?rate={PER_SECOND} HTTP/1.1\r\nHost: shop.example\r\nAccept: text/event-stream\r\n\r\n"
).encode()
EVENT = re.compile(rb"id: (\d+):(\d+)\n")


class Effort(NamedTuple):
    """How long it is measured, and with how many."""

    rounds: int
    seconds: float
    streams: int


FULL, QUICK = Effort(5, 5.0, 5_000), Effort(1, 1.0, 200)


class Turn(NamedTuple):
    """One balancer in one round. CPU per event; times from the upstream's write to the reader."""

    rate: float
    cpu_us: float
    busy: float
    p50_ms: float
    p99_ms: float
    kib: float  # of its memory, per stream


async def measure(field: Field, effort: Effort) -> Section:
    """New balancers in every round. Raises ``RuntimeError`` when an event is missing or a stream ends."""
    contestants, left_out = balancers.find(field)
    # a stream costs its balancer two
    effort = effort._replace(streams=min(effort.streams, (balancers.files() - SPARE_FILES) // 2))
    turns: dict[str, list[Turn]] = {one.name: [] for one in contestants}
    upstream = Upstream(0, free_port(), field.folder / "none", streams=True)
    command = (sys.executable, "-m", "benchmarks.lb.origin", str(upstream.port), str(ANSWER_BYTES))
    async with process("origin", command, field.environment, field.others, upstream.port) as pid:
        for number in range(effort.rounds):
            for one in contestants:
                turn = await _turn(field, upstream._replace(pid=pid), one, effort)
                turns[one.name].append(turn)
                field.say(
                    f"relay, round {number + 1}: {one.name}: {turn.rate:,.0f} events/s, CPU {turn.cpu_us:.1f} us, p99 {turn.p99_ms:.1f} ms"
                )
    paths = draw(
        f"What an event costs a balancer with {effort.streams:,} streams",
        [
            Panel("us of CPU per event", {name: [one.cpu_us for one in of] for name, of in turns.items()}),
            Panel("p99 in ms, upstream to reader", {name: [one.p99_ms for one in of] for name, of in turns.items()}),
        ],
        f"{PER_SECOND} events a second on each stream.",
        field.pictures.with_name(f"{field.pictures.name}-relay"),
    )
    return with_pictures(section(turns, effort, left_out), paths)


async def _turn(field: Field, upstream: Upstream, contestant: Contestant, effort: Effort) -> Turn:
    async with balancers.running(contestant, field, upstream) as balancer:
        balancers.until_answering(balancer, wants.request(wants.GET))  # whoever listens may have no worker yet
        before = memory_mib(balancer.pid)
        readers: list[_Reader] = []
        try:
            await _open(readers, balancer.port, effort.streams)
            events, cpu, began = _events(readers), cpu_seconds(balancer.pid), time.perf_counter()
            for reader in readers:
                reader.lags_ms.clear()
            await asyncio.sleep(effort.seconds)
            events, cpu = _events(readers) - events, cpu_seconds(balancer.pid) - cpu
            took = time.perf_counter() - began
            kib = (memory_mib(balancer.pid) - before) * 1024 / effort.streams
            if complaint := complaint_of(
                events, [reader.gaps for reader in readers], sum(one.is_over for one in readers)
            ):
                raise RuntimeError(f"{contestant.name}: {complaint}")
            lags = [lag for reader in readers for lag in reader.lags_ms]
        finally:
            for reader in readers:
                reader.close()
    return Turn(events / took, cpu / max(events, 1) * 1e6, cpu / took, quantile(lags, 0.5), quantile(lags, 0.99), kib)


def complaint_of(events: int, gaps: Sequence[int], ended: int) -> str:
    """Why a turn is worthless; empty if it is not. Pure."""
    if ended:
        return f"{ended} streams ended"
    if not events:
        return "no event came"
    return f"{sum(map(abs, gaps))} events are missing or came twice" if any(gaps) else ""


def cpu_seconds(pid: int) -> float:
    """What a process and its children took so far, by a clock of ns; /proc/PID/stat counts hundredths of a second."""
    top = psutil.Process(pid)
    tasks = [
        Path(f"/proc/{one.pid}/task/{thread.id}")
        for one in (top, *top.children(recursive=True))
        for thread in one.threads()
    ]
    nanoseconds = 0
    for task in tasks:
        with contextlib.suppress(FileNotFoundError):  # it ended since
            nanoseconds += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return nanoseconds / 1e9


def section(turns: Mapping[str, Sequence[Turn]], effort: Effort, left_out: Sequence[str]) -> Section:
    """The table, the bar, and every round. Pure."""
    cpu = {name: [max(one.cpu_us, 0.1) for one in of] for name, of in turns.items()}
    rows = [
        [
            *(name, f"{middle([one.rate for one in of]):,.0f}", f"{middle(cpu[name]):.1f}", span(cpu[name])),
            "" if name == OURS.name else spread(ratios(cpu[OURS.name], cpu[name])),
            *(f"{middle([one.p50_ms for one in of]):.2f}", f"{middle([one.p99_ms for one in of]):.2f}"),
            *(f"{middle([one.busy for one in of]):.0%}", f"{middle([one.kib for one in of]):.1f}"),
        ]
        for name, of in turns.items()
    ]
    bars = []
    if NGINX.name in turns:
        beside = f"ours {middle(cpu[OURS.name]):.1f} us, theirs {middle(cpu[NGINX.name]):.1f} us"
        times = ratios(cpu[OURS.name], cpu[NGINX.name])
        bars.append(at_most(TIMES_NGINX, times, "relayed events: cpu, times nginx's", beside))
    return Section(
        f"{effort.streams:,} event streams through a balancer that is alone on its core",
        [
            *("BALANCER", "EVENTS PER SECOND", "CPU US", "SPREAD", "OURS IS x TIMES", "P50 MS", "P99 MS", "BUSY"),
            "KIB PER STREAM",
        ],
        rows,
        [
            (
                f"Relay: {effort.rounds} rounds of {effort.seconds:g} s with balancers of their own; {PER_SECOND} events a second on each"
                f" stream, handed out every {origin.TICK_SECONDS * 1000:.0f} ms; times from the upstream's write to the reader, of one"
                f" stream in {FOLLOWED_ONE_OF}, whose events must be all there. Upstream and readers share the other core."
            ),
            *left_out,
        ],
        bars,
        {"streams": effort.streams, "turns": {name: [one._asdict() for one in of] for name, of in turns.items()}},
    )


def _events(readers: "Sequence[_Reader]") -> int:
    return sum(reader.events for reader in readers)


async def _open(readers: "list[_Reader]", port: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    for first in range(0, count, OPENED_AT_ONCE):
        numbers = range(first, min(first + OPENED_AT_ONCE, count))
        made = await asyncio.gather(
            *(
                loop.create_connection(partial(_Reader, is_followed=not number % FOLLOWED_ONE_OF), "127.0.0.1", port)
                for number in numbers
            )
        )
        readers += [reader for _, reader in made]
    ends = time.monotonic() + WITHIN_SECONDS
    while silent := sum(not reader.events for reader in readers):
        if time.monotonic() > ends or any(reader.is_over for reader in readers):
            raise RuntimeError(f"{silent} of {count} streams are silent, {sum(one.is_over for one in readers)} ended")
        await asyncio.sleep(0.05)


class _Reader(asyncio.Protocol):
    """Counts the events of one stream; of one that is followed it reads each."""

    def __init__(self, *, is_followed: bool) -> None:
        self.events = 0
        self.gaps = 0
        self.lags_ms: list[float] = []
        self.is_over = False
        self._is_followed = is_followed
        self._transport: asyncio.Transport
        self._last = 0
        self._carried = b""

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(REQUEST)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        self.is_over = True

    def data_received(self, data: bytes) -> None:
        heard = self._carried + data
        whole, end, self._carried = heard.rpartition(b"\n\n")
        if not end:
            return
        self.events += whole.count(b"\n\n") + 1
        if self._is_followed:
            now = time.perf_counter_ns()
            for number, sent in EVENT.findall(whole):
                if self._last:
                    self.gaps += int(number) - self._last - 1
                self._last = int(number)
                self.lags_ms.append((now - int(sent)) / 1e6)
