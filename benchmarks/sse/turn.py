"""One load of viewers and changes: what a delivery cost, how fresh it was, and that nobody was left behind."""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.backend.flood import quantile
from benchmarks.lb.relay import cpu_seconds
from benchmarks.sse.contestants import Publisher
from benchmarks.sse.crowd import Crowd

WARM_SECONDS = 1.0
STARTS_SECONDS = 1.0  # a process goes on with that after its port is open
REST_SECONDS = 2.0
BUSY_MAX = 0.9  # of the crowd: past it, it measured itself


class Turn(NamedTuple):
    """One load. CPU per delivery, without what servers take while nobody watches; freshness from the moment a change could be told to the moment a viewer knew it."""

    viewers: int
    hertz: int
    published: float  # changes a second, in truth
    told: float  # of the changes, by a frame of their own; the others were overtaken by a newer one
    rate: float  # deliveries a second
    cpu_us: float
    busy: float  # the server's share of its core, while changes were made
    p50_ms: float
    p99_ms: float
    crowd_busy: float

    @property
    def is_void(self) -> bool:
        """Was the crowd the limit?"""
        return self.crowd_busy > BUSY_MAX


class Load(NamedTuple):
    """So many viewers are told of so many changes a second for so long."""

    viewers: int
    hertz: int
    seconds: float


class Servers(NamedTuple):
    """Whose CPU counts, by their pids, and how many seconds of it they take in one while nobody watches."""

    pids: Sequence[int]
    rest: float

    def cpu_seconds(self) -> float:
        """All so far."""
        return sum(map(cpu_seconds, self.pids))


async def resting(*pids: int) -> Servers:
    """Nobody watches now, and all of them have just started."""
    await asyncio.sleep(STARTS_SECONDS)
    servers = Servers(pids, 0.0)
    cpu, began = servers.cpu_seconds(), time.perf_counter()
    await asyncio.sleep(REST_SECONDS)
    return servers._replace(rest=(servers.cpu_seconds() - cpu) / (time.perf_counter() - began))


async def turn(crowd: Crowd, publisher: Publisher, load: Load, servers: Servers) -> Turn:
    """What became of a load.

    Raises ``RuntimeError`` when a stream ends, or somebody does not know the last change in the end.
    """
    viewers, hertz, seconds = load
    await _publish(publisher, hertz, WARM_SECONDS)
    await settle(crowd, publisher)
    first = publisher.seq + 1
    await crowd.begin()
    cpu, began = servers.cpu_seconds(), time.perf_counter()
    moments = await _publish(publisher, hertz, seconds)
    took = time.perf_counter() - began
    busy = (servers.cpu_seconds() - cpu) / took
    moments.append(await settle(crowd, publisher))
    heard = await crowd.end()
    cpu = servers.cpu_seconds() - cpu - servers.rest * (time.perf_counter() - began)
    if heard.over:
        raise RuntimeError(f"{heard.over} of {viewers} streams ended")
    lags = lags_ms(heard.seen, first, moments)
    return Turn(
        viewers=viewers,
        hertz=hertz,
        published=(len(moments) - 1) / took,
        told=heard.frames / (len(moments) * viewers),
        rate=heard.frames / heard.seconds,
        cpu_us=max(cpu, 0.0) / max(heard.frames, 1) * 1e6,
        busy=busy,
        p50_ms=quantile(lags, 0.5),
        p99_ms=quantile(lags, 0.99),
        crowd_busy=heard.busy,
    )


def lags_ms(seen: Sequence[tuple[int, int, int]], first: int, moments: Sequence[int]) -> list[float]:
    """How old each change was when each viewer knew it, or a newer one. Pure.

    ``seen``: viewer, moment in ns, newest change known; ``moments``: of the changes, the first of which is ``first``.
    """
    known: dict[int, int] = {}
    lags = []
    for viewer, moment, newest in seen:
        since = known.get(viewer, first - 1)
        lags += [(moment - moments[seq - first]) / 1e6 for seq in range(since + 1, newest + 1)]
        known[viewer] = max(newest, since)
    return lags


async def settle(crowd: Crowd, publisher: Publisher) -> int:
    """One change more, which everybody is asked for: its moment. Raises ``RuntimeError`` when somebody does not know it in the end."""
    await crowd.read_all()
    moment = await publisher.publish()
    await publisher.flush()
    if behind := await crowd.settle(publisher.seq):
        raise RuntimeError(f"{behind} viewers do not know the last change")
    return moment


async def _publish(publisher: Publisher, hertz: int, seconds: float) -> list[int]:
    # an open loop: what comes late does not put off what follows
    moments = []
    start = time.perf_counter()
    for number in range(round(hertz * seconds)):
        await asyncio.sleep(max(start + number / hertz - time.perf_counter(), 0.0))
        moments.append(await publisher.publish())
    await asyncio.sleep(max(start + seconds - time.perf_counter(), 0.0))
    return moments
