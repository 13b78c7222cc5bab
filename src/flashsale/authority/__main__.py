"""``python -m flashsale.authority migrate | seed``: one-shot commands that the launcher runs before anything serves."""

import argparse
import asyncio
import json
import os
import sys
from datetime import UTC, datetime, timedelta

import asyncpg

from flashsale.authority.client import UNHURRIED_SECONDS, Authority, AuthorityUnavailable
from flashsale.authority.migrate import MigrationError, migrate
from flashsale.settings import Settings

SAMPLE_SALE = "sample"
SAMPLE_SKU = "sneaker-42"
SAMPLE_DAYS = 30  # a sample that closes while somebody tries it out explains nothing


def main() -> int:
    """Exit status 0 done, 1 refused by the database, 3 not reachable."""
    parser = argparse.ArgumentParser(prog="python -m flashsale.authority", description=__doc__)
    parser.add_argument("command", choices=("migrate", "seed"))
    command = parser.parse_args().command
    settings = Settings.load(os.environ)
    try:
        print(json.dumps(asyncio.run(_migrate(settings) if command == "migrate" else _seed(settings))))
    except (MigrationError, asyncpg.PostgresError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    except (AuthorityUnavailable, OSError) as error:
        print(f"{command}: PostgreSQL does not answer: {error}", file=sys.stderr)
        return 3
    return 0


async def _migrate(settings: Settings) -> dict[str, object]:
    passwords = {
        "flash_app": settings.postgres_app_password,
        "flash_auditor": settings.postgres_auditor_password,
        "flash_operator": settings.postgres_operator_password,
        "flash_admin": settings.postgres_admin_password,
    }
    return {"applied": await migrate(settings.postgres_url, {role: word for role, word in passwords.items() if word})}


async def _seed(settings: Settings) -> dict[str, object]:
    authority = await Authority.connect(settings.postgres_url, 1, UNHURRIED_SECONDS)
    try:
        sales = await authority.read_sales()
        if not sales:
            now = datetime.now(UTC)
            await authority.create_sale(
                SAMPLE_SALE,
                merchant="sample-merchant",
                name="The sample sale",
                opens=now - timedelta(minutes=1),
                closes=now + timedelta(days=SAMPLE_DAYS),
                buyer_limit=settings.buyer_limit,
                hold_seconds=settings.hold_seconds,
                currency="EUR",
            )
            await authority.add_item(SAMPLE_SALE, SAMPLE_SKU, "Sneaker, size 42", 12_900, settings.stock)
            sales = await authority.read_sales()
        return {"sale": sales[0].id, "skus": [item.sku for item in sales[0].items]}
    finally:
        await authority.close()


if __name__ == "__main__":
    sys.exit(main())
