"""One statement that checks and acts: UPDATE … SET available = available - 1 WHERE available >= 1; no row means sold out.

Why it holds: PostgreSQL locks the row, and whoever waited for it has the condition judged again on what the other committed. The
lock is held from the statement to the commit, so the record of the sale belongs into the same transaction, and as little else as can be.

What it does not do: know a buyer who asks again because the answer was lost. The mend is a key of the buyer's, unique in the table.
"""

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.sql import Sql
from benchmarks.strategies.strategy import Moment, breaks


class ConditionalUpdate(Sql):
    """The shortest that is right."""

    title = "SQL: conditional UPDATE"
    claims = breaks(again=(Kind.DUPLICATE,))

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        async with self.pool.acquire() as connection:
            async with connection.transaction():
                left = await connection.fetchval(
                    "UPDATE shelf SET available = available - 1 WHERE item = $1 AND available >= 1 RETURNING available",
                    item,
                )
                if left is None:
                    moment.note("no row: refused")
                    return False
                await moment.checked(f"updated to {left}, not committed")
                await connection.execute("INSERT INTO sold VALUES ($1, $2)", item, attempt)
            moment.note("committed: sold")
            await moment.acted()
            return True
