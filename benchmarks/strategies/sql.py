"""What strategies on PostgreSQL share: a schema with a shelf and a record of sales."""

from typing import ClassVar, Self

import asyncpg

from benchmarks.strategies.strategy import Strategy

CONNECTIONS = 6  # of each client process, at most; the first rush opens them


class Sql(Strategy):
    """On PostgreSQL, in a schema of its own."""

    stores: ClassVar[tuple[str, ...]] = ("postgres",)
    tables = """
        CREATE TABLE shelf (item text PRIMARY KEY, available int NOT NULL, version int NOT NULL DEFAULT 0);
        CREATE TABLE sold (item text NOT NULL, attempt text NOT NULL);
        CREATE INDEX ON sold (item)"""
    pool: asyncpg.Pool

    async def __aenter__(self) -> Self:
        self.pool = await asyncpg.create_pool(
            self.at.postgres,
            min_size=1,
            max_size=CONNECTIONS,
            server_settings={"search_path": self.name(), "application_name": self.name()},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.pool.terminate()

    async def install(self) -> None:
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(f"DROP SCHEMA IF EXISTS {self.name()} CASCADE")
            await connection.execute(f"CREATE SCHEMA {self.name()}")
            await connection.execute(self.tables)

    async def prepare(self, item: str, stock: int) -> None:
        await self.pool.execute("INSERT INTO shelf (item, available) VALUES ($1, $2)", item, stock)

    async def recorded(self, item: str) -> list[str]:
        return [row["attempt"] for row in await self.pool.fetch("SELECT attempt FROM sold WHERE item = $1", item)]
