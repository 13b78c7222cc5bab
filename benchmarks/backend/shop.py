"""The sales that are loaded, and the identities that load them. The merchant's part: the shoppers know the wire alone."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import asyncpg

from flashsale import identity
from flashsale.authority.client import Authority
from flashsale.contract import wire

PLENTY = 1_000_000_000
BUYERS = 10_000  # each comes again after so many attempts: no server is measured by what it remembers of the last one
HOURS = 12  # a hold must not lapse under the measurement
LIMIT = 1_000_000

_BOOKS = """
    SELECT k.available, coalesce(sum(l.quantity) FILTER (WHERE p.state = 'HELD'), 0) AS held
    FROM stock k LEFT JOIN line l ON l.sku = k.sku LEFT JOIN purchase p ON p.id = l.purchase_id
    WHERE k.sku = $1 GROUP BY k.available"""
_AVAILABLE = "SELECT available FROM stock WHERE sku = $1"
_UNSENT = "SELECT count(*) FROM (SELECT FROM outbox WHERE sent_at IS NULL LIMIT 1) waiting"


class Books(NamedTuple):
    """Of one SKU, by PostgreSQL."""

    available: int
    held: int


class Shop:
    """The merchant's desk."""

    def __init__(self, authority: Authority, connection: asyncpg.Connection) -> None:
        self._authority = authority
        self._connection = connection

    @classmethod
    async def open(cls, postgres_url: str) -> "Shop":
        """Raises what a connection raises."""
        authority = await Authority.connect(postgres_url, size=1)
        connection = await asyncpg.connect(postgres_url, server_settings={"search_path": "flash"})
        return cls(authority, connection)

    async def close(self) -> None:
        """Go home."""
        await self._connection.close()
        await self._authority.close()

    async def open_sale(self, sale: str, units: Mapping[str, int]) -> None:
        """Create the sale of so many units per SKU, open now."""
        now = datetime.now(UTC)
        await self._authority.create_sale(
            sale,
            merchant="bench",
            name=sale,
            opens=now - timedelta(minutes=1),
            closes=now + timedelta(hours=HOURS),
            buyer_limit=LIMIT,
            hold_seconds=HOURS * 3600,
            currency="EUR",
        )
        for sku, count in units.items():
            await self._authority.add_item(sale, sku, sku, 100, count)

    async def available(self, sku: str) -> int:
        """What is left."""
        return int(await self._connection.fetchval(_AVAILABLE, sku, timeout=60))

    async def books(self, sku: str) -> Books:
        """What is left, and what is held, each from its own table."""
        row = await self._connection.fetchrow(_BOOKS, sku, timeout=300)
        assert row is not None, "a SKU of ours"
        return Books(row["available"], row["held"])

    async def has_unsent_events(self) -> bool:
        """Has the relay anything to do?"""
        return bool(await self._connection.fetchval(_UNSENT, timeout=300))


def write_identities(path: Path, auth: str, secret: str) -> None:
    """One header line per buyer."""
    lines = (
        f"Authorization: Bearer {identity.mint(secret, f'buyer-{number}', 'buyer', HOURS * 3600)}"
        if auth == "jwt"
        else f"{wire.BUYER_HEADER}: buyer-{number}"
        for number in range(BUYERS)
    )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
