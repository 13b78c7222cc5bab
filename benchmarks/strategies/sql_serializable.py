"""Count what is sold and record one more under SERIALIZABLE; what PostgreSQL cannot put in an order it refuses, and is tried again.

Why it holds: the race of two who count before either records is no serial order, so one of them fails with 40001, at the latest when it
commits. A refusal is part of the order too, and counts once it has committed. The price: the retry is the program's, forgotten in half of the programs, and
on one hot item nearly everybody retries.

What it does not do: know a buyer who asks again because the answer was lost. The mend is a key of the buyer's, unique in the table.
"""

import asyncio
import random

import asyncpg

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.sql import Sql
from benchmarks.strategies.strategy import TRIES_MAX, Moment, breaks

PAUSE_SECONDS = 0.004

_LEFT = """SELECT available - (SELECT count(*) FROM sold WHERE sold.item = shelf.item) FROM shelf WHERE item = $1"""


class Serializable(Sql):
    """Correct by the database's own proof."""

    title = "SQL: SERIALIZABLE with retry"
    claims = breaks(again=(Kind.DUPLICATE,))

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        async with self.pool.acquire() as connection:
            for _ in range(TRIES_MAX):
                try:
                    async with connection.transaction(isolation="serializable"):
                        left = await connection.fetchval(_LEFT, item)
                        if left >= 1:
                            await moment.checked(f"counted {left}")
                            await connection.execute("INSERT INTO sold VALUES ($1, $2)", item, attempt)
                except asyncpg.SerializationError as error:
                    moment.again(f"{error.sqlstate}: no serial order")
                    await asyncio.sleep(random.uniform(0, PAUSE_SECONDS))
                    continue
                moment.note(f"committed, had counted {left}: {'sold' if left >= 1 else 'refused'}")
                if left >= 1:
                    await moment.acted()
                return bool(left >= 1)
        raise RuntimeError(f"no serial order in {TRIES_MAX} tries")
