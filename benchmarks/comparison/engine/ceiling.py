"""What the generator can do at all: as many requests as it sends and hears in a second at a server that does nothing."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.comparison.engine.crew import child, shoppers
from benchmarks.comparison.scenario import Load

# More than it can do, on as many connections as a server's pool has: what comes of it is the ceiling.
FLOOD = Load(model="constant", rate=20_000.0, seconds=1.0, connections=256)
WITHIN_S = 120.0


async def measure(environment: Mapping[str, str]) -> float:
    """Requests per second. Raises StackError when the generator does not come back."""
    with tempfile.TemporaryDirectory() as folder:
        async with child(environment, "benchmarks.comparison.null") as null:
            assert null.stdout is not None
            target = f"http://127.0.0.1:{int(await null.stdout.readline())}"
            async with shoppers(
                environment, Path(folder), load=FLOOD, skus=["nothing"], seed=1, targets=target
            ) as crowd:
                crowd.release()
                found = await crowd.result(WITHIN_S)
    return float(found["planned"] / found["load_s"])
