"""Read what is left, subtract in the program, write the result. Two statements, no lock.

What breaks it: two processes read before either has written. ::

    A  SELECT available      1
    B  SELECT available      1
    A  UPDATE available = 0  sold
    B  UPDATE available = 0  sold: two units of one, and the stock says that all is well

A transaction around it changes nothing under READ COMMITTED. The mend: one conditional UPDATE, or FOR UPDATE at the reading.
"""

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.sql import Sql
from benchmarks.strategies.strategy import WITHOUT_KEY, Moment, breaks


class ReadThenWrite(Sql):
    """As the first draft of every shop."""

    title = "SQL: read, then write"
    claims = breaks(meet=(Kind.OVERSOLD,), again=(Kind.DUPLICATE,))
    also = WITHOUT_KEY

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        async with self.pool.acquire() as connection:
            left = await connection.fetchval("SELECT available FROM shelf WHERE item = $1", item)
            if left < 1:
                moment.note(f"read {left}: refused")
                return False
            await moment.checked(f"read {left}")
            async with connection.transaction():
                await connection.execute("UPDATE shelf SET available = $2 WHERE item = $1", item, left - 1)
                await connection.execute("INSERT INTO sold VALUES ($1, $2)", item, attempt)
            moment.note(f"wrote {left - 1}: sold")
            await moment.acted()
            return True
