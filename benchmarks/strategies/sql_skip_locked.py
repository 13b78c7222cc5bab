"""A row per unit: take one that nobody has locked (FOR UPDATE SKIP LOCKED LIMIT 1); none means sold out.

It cannot oversell, for a row has one owner, and nobody waits for anybody. But who skips a lock takes it for a sale. ::

    A  locks the last row
    B  skips it, finds none: refused
    A  is killed: PostgreSQL rolls back, the row is free, and B went home

The mend: on finding none, count the rows that are free or locked, and wait for them or say "try later" if there are enough.

What it does not do either: know a buyer who asks again because the answer was lost.
"""

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.sql import Sql
from benchmarks.strategies.strategy import WITHOUT_KEY, Moment, breaks


class SkipLocked(Sql):
    """As ticket shops do it."""

    title = "SQL: a row per unit, SKIP LOCKED"
    tables = """
        CREATE TABLE unit (item text NOT NULL, number int NOT NULL, attempt text, PRIMARY KEY (item, number));
        CREATE INDEX ON unit (item) WHERE attempt IS NULL"""
    claims = breaks(die=(Kind.UNDERSOLD,), again=(Kind.DUPLICATE,))
    also = WITHOUT_KEY

    async def prepare(self, item: str, stock: int) -> None:
        await self.pool.execute("INSERT INTO unit SELECT $1, n FROM generate_series(1, $2::int) n", item, stock)

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        async with self.pool.acquire() as connection:
            async with connection.transaction():
                number = await connection.fetchval(
                    "SELECT number FROM unit WHERE item = $1 AND attempt IS NULL LIMIT 1 FOR UPDATE SKIP LOCKED", item
                )
                if number is None:
                    moment.note("no row that is not locked: refused")
                    return False
                await moment.checked(f"locked unit {number}")
                await connection.execute(
                    "UPDATE unit SET attempt = $3 WHERE item = $1 AND number = $2", item, number, attempt
                )
            moment.note(f"took unit {number}: sold")
            await moment.acted()
            return True

    async def recorded(self, item: str) -> list[str]:
        rows = await self.pool.fetch("SELECT attempt FROM unit WHERE item = $1 AND attempt IS NOT NULL", item)
        return [row["attempt"] for row in rows]
