"""The sale that is loaded, and the identities that load it. The merchant's part: the shoppers know the wire alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from flashsale import identity
from flashsale.authority.client import Authority
from flashsale.contract import wire

SALE = "bench"
SHORT, GONE, PLENTY = "short", "gone", "plenty"
UNITS = {SHORT: 1, GONE: 1, PLENTY: 1_000_000_000}
BUYERS = 10_000  # each comes again after so many attempts: no server is measured by what it remembers of the last one
HOURS = 12  # a hold must not lapse under the measurement


class Scenario(NamedTuple):
    """Who is asked for what, and what everybody must hear."""

    name: str
    sku: str
    quantity: int
    status: int
    verdict: str | None  # None: a purchase
    has_peers: bool


SCENARIOS = (
    # one unit is left, and everybody wants two: no flag can say so, for the item is not sold out
    Scenario("sold out, by the gate", SHORT, 2, 409, "sold_out", has_peers=True),
    # nothing is left, which a server that keeps a copy of the stock needs ask nobody for
    Scenario("sold out, at once", GONE, 1, 409, "sold_out", has_peers=False),
    Scenario("held and committed", PLENTY, 1, 201, None, has_peers=False),
)


async def open_sale(postgres_url: str) -> None:
    """Create the sale, open now."""
    now = datetime.now(UTC)
    authority = await Authority.connect(postgres_url, size=1)
    try:
        await authority.create_sale(
            SALE,
            merchant="bench",
            name="bench",
            opens=now - timedelta(minutes=1),
            closes=now + timedelta(hours=HOURS),
            buyer_limit=1_000_000,
            hold_seconds=HOURS * 3600,
            currency="EUR",
        )
        for sku, units in UNITS.items():
            await authority.add_item(SALE, sku, sku, 100, units)
    finally:
        await authority.close()


def write_identities(path: Path, auth: str, secret: str) -> None:
    """One header line per buyer."""
    lines = (
        f"Authorization: Bearer {identity.mint(secret, f'buyer-{number}', 'buyer', HOURS * 3600)}"
        if auth == "jwt"
        else f"{wire.BUYER_HEADER}: buyer-{number}"
        for number in range(BUYERS)
    )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
