"""Read the stock with its version, and write only if the version still stands; else begin anew.

Why it holds: of all who read one version exactly one finds it when writing. The price: on one hot item everybody else has worked in
vain, and tries again; the work grows with the square of the crowd, and nobody's turn is certain. So the tries are bounded here, and a
wait that is drawn by lot stands between them.

What it does not do: know a buyer who asks again because the answer was lost. The mend is a key of the buyer's, unique in the table.
"""

import asyncio
import random

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.sql import Sql
from benchmarks.strategies.strategy import TRIES_MAX, Moment, breaks

PAUSE_SECONDS = 0.002

_WRITE = """UPDATE shelf SET available = available - 1, version = version + 1
    WHERE item = $1 AND version = $2 RETURNING available"""


class Optimistic(Sql):
    """A lock that nobody holds."""

    title = "SQL: optimistic version"
    claims = breaks(again=(Kind.DUPLICATE,))

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        async with self.pool.acquire() as connection:
            for _ in range(TRIES_MAX):
                row = await connection.fetchrow("SELECT available, version FROM shelf WHERE item = $1", item)
                assert row is not None, "an item of ours"
                left, version = row
                if left < 1:
                    moment.note(f"read {left}: refused")
                    return False
                await moment.checked(f"read {left}, version {version}")
                async with connection.transaction():
                    left = await connection.fetchval(_WRITE, item, version)
                    if left is not None:
                        await connection.execute("INSERT INTO sold VALUES ($1, $2)", item, attempt)
                if left is not None:
                    moment.note(f"wrote {left}, version {version + 1}: sold")
                    await moment.acted()
                    return True
                moment.again(f"version {version} is gone")
                await asyncio.sleep(random.uniform(0, PAUSE_SECONDS))
        raise RuntimeError(f"no version stood in {TRIES_MAX} tries")
