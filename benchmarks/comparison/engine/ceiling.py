"""What the generator can do at all, at a server that does nothing; and what wrk says of the same server, as a second opinion.

Two numbers of each: how much they send and hear in a second, and the least wait they ever measure. wrk is C and a closed loop, so it shows
that the server could do more than our ceiling, and that our floor is the machine's and not our own making.
"""

import asyncio
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.comparison.engine.crew import child, shoppers
from benchmarks.comparison.scenario import Load

# About as much as it can do at all, on as many connections as a server's pool has: what comes of it is the ceiling. With less, what was
# asked for would be; drowned in twice as much, it opens connections and does half.
FLOOD = Load(model="constant", rate=50_000.0, seconds=1.0, connections=256)
TRICKLE = Load(model="constant", rate=200.0, seconds=1.0, connections=8)  # nobody waits for anybody
WITHIN_S = 120.0
WRK_SECONDS = 1
_RATE = re.compile(r"Requests/sec: +([0-9.]+)")
_MEDIAN = re.compile(r"50% +([0-9.]+)(us|ms|s)")
_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Ceiling:
    """None: there is no wrk here, or it did not say."""

    per_s: float
    floor_ms: float | None  # median, from the intended time
    wrk_per_s: float | None
    wrk_floor_ms: float | None

    def document(self) -> dict[str, Any]:
        return asdict(self)


async def measure(environment: Mapping[str, str]) -> Ceiling:
    """Takes some seconds. Raises StackError when the generator does not come back."""
    async with child(environment, "benchmarks.comparison.null") as null:
        assert null.stdout is not None
        target = f"http://127.0.0.1:{int(await null.stdout.readline())}"
        flood = await _ours(environment, target, FLOOD)
        trickle = await _ours(environment, target, TRICKLE)
        rate, _ = await _wrk(target, FLOOD.connections)
        _, floor = await _wrk(target, 1)
    per_s = round(flood["planned"] / flood["load_s"], 1)
    return Ceiling(per_s, trickle["response_p50_ms"], rate, floor)


async def _ours(environment: Mapping[str, str], target: str, load: Load) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        async with shoppers(environment, Path(folder), load=load, skus=["nothing"], seed=1, targets=target) as crowd:
            crowd.release()
            return await crowd.result(WITHIN_S)


async def _wrk(target: str, connections: int) -> tuple[float | None, float | None]:
    program = shutil.which("wrk")
    if program is None:
        return None, None
    wrk = await asyncio.create_subprocess_exec(
        *(program, "-t1", f"-c{connections}", f"-d{WRK_SECONDS}s", "--latency", target),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            said, _ = await wrk.communicate()
    except TimeoutError:
        wrk.kill()
        await wrk.wait()
        return None, None
    return read_wrk(said.decode(errors="replace"))


def read_wrk(said: str) -> tuple[float | None, float | None]:
    """Requests per second, and the median in milliseconds, of what wrk prints."""
    rate, median = _RATE.search(said), _MEDIAN.search(said)
    return float(rate[1]) if rate else None, round(float(median[1]) * _MS[median[2]], 4) if median else None
