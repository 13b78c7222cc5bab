"""How long after its deadline a hold ends, with the sweepers of upkeep and nobody else to end it."""

import asyncio
import math

from benchmarks.authority.shop import Batches, Shop
from flashsale.authority.client import Authority
from flashsale.upkeep.expiry import Expiry
from flashsale.upkeep.metrics import Metrics

SWEEPERS = 2  # as many as two upkeeps would run
LEAD_SECONDS = 1.0  # from setting the deadlines to the first of them
SHARES = {"p50": 0.5, "p99": 0.99, "max": 1.0}
PATIENCE_SECONDS = 60.0  # beyond the last deadline; a hold that stays longer is stuck

_ANY_HELD = "SELECT EXISTS (SELECT FROM purchase WHERE state = 'HELD')"
# From the deadline to the movement that returned the units.
_LATE = """
    SELECT 1000 * extract(epoch FROM l.at - p.deadline)::float8 AS ms FROM ledger l JOIN purchase p ON p.id = l.purchase_id
    WHERE l.reason = 'expired' ORDER BY 1"""


async def lateness_ms(shop: Shop, holds: int, within_s: float) -> dict[str, float]:
    """Percentiles of the lateness of ``holds`` holds, whose deadlines are scattered over ``within_s`` seconds."""
    authority = await Authority.connect(shop.url, size=SWEEPERS)
    try:
        await authority.reserve_batch(Batches().fresh(holds))
        await shop.connection.execute(
            "UPDATE purchase SET deadline = clock_timestamp() + make_interval(secs => $1 + random() * $2)",
            *(LEAD_SECONDS, within_s),
        )
        sweeping = [asyncio.create_task(_sweep(authority)) for _ in range(SWEEPERS)]
        try:
            async with asyncio.timeout(LEAD_SECONDS + within_s + PATIENCE_SECONDS):
                while await shop.connection.fetchval(_ANY_HELD):  # noqa: ASYNC110 - the sweepers end them
                    await asyncio.sleep(0.1)
        finally:
            for task in sweeping:
                task.cancel()
            await asyncio.wait(sweeping)
    finally:
        await authority.close()
    late = [row["ms"] for row in await shop.connection.fetch(_LATE)]
    return {name: round(late[math.ceil(share * len(late)) - 1], 1) for name, share in SHARES.items()}


async def _sweep(authority: Authority) -> None:
    expiry = Expiry(authority, Metrics())
    while True:  # noqa: ASYNC110 - as upkeep does
        await asyncio.sleep(await expiry.round())
