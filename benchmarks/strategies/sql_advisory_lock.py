"""Take an advisory lock named after the item, count what is sold, record one more. The lock ends with the transaction.

Why it holds: one at a time, and the count is a statement of its own behind the lock. That last is what makes it right: under REPEATABLE
READ the snapshot is taken with the lock statement, before the wait for it ends, and the race is back. The price: whoever forgets the lock is not
stopped by anything, and counting costs more with every sale.

What it does not do: know a buyer who asks again because the answer was lost. The mend is a key of the buyer's, unique in the table.
"""

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.sql import Sql
from benchmarks.strategies.strategy import Moment, breaks

_LEFT = """SELECT available - (SELECT count(*) FROM sold WHERE sold.item = shelf.item) FROM shelf WHERE item = $1"""


class AdvisoryLock(Sql):
    """As shops do it whose stock is a sum over many tables."""

    title = "SQL: advisory lock, then count"
    claims = breaks(again=(Kind.DUPLICATE,))

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        async with self.pool.acquire() as connection:
            async with connection.transaction(isolation="read_committed"):
                await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", item)
                left = await connection.fetchval(_LEFT, item)
                if left < 1:
                    moment.note(f"locked, counted {left}: refused")
                    return False
                await moment.checked(f"locked, counted {left}")
                await connection.execute("INSERT INTO sold VALUES ($1, $2)", item, attempt)
            moment.note("committed: sold")
            await moment.acted()
            return True
