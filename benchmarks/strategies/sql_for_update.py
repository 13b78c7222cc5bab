"""Lock the row at the reading (SELECT … FOR UPDATE), then subtract and record in the same transaction.

Why it holds: whoever comes second waits at the reading, and then reads what the first has written. A holder that dies rolls back, and
its lock goes with its connection. The price: everybody stands in line for the whole transaction, round trips and all, and a holder that
merely stalls stops the sale. Carts that lock two rows in different order deadlock; sort them.

What it does not do: know a buyer who asks again because the answer was lost. The mend is a key of the buyer's, unique in the table.
"""

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.sql import Sql
from benchmarks.strategies.strategy import Moment, breaks


class ForUpdate(Sql):
    """A pessimistic lock."""

    title = "SQL: SELECT FOR UPDATE"
    claims = breaks(again=(Kind.DUPLICATE,))

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        async with self.pool.acquire() as connection:
            async with connection.transaction():
                left = await connection.fetchval("SELECT available FROM shelf WHERE item = $1 FOR UPDATE", item)
                if left < 1:
                    moment.note(f"locked, read {left}: refused")
                    return False
                await moment.checked(f"locked, read {left}")
                await connection.execute("UPDATE shelf SET available = $2 WHERE item = $1", item, left - 1)
                await connection.execute("INSERT INTO sold VALUES ($1, $2)", item, attempt)
            moment.note(f"wrote {left - 1}: sold")
            await moment.acted()
            return True
