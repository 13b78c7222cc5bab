"""``flash operations``: what was done by hand, the latest last."""

import argparse
import json

from flashsale.operate.context import Context, show

SHOWN_MAX = 1_000
_LIST = """
    SELECT * FROM (SELECT id, at, operator, action, subject, reason, detail, key FROM operation
                   WHERE $1::text IS NULL OR subject = $1 ORDER BY id DESC LIMIT $2) latest ORDER BY id
"""


def options(parser: argparse.ArgumentParser) -> None:
    """What may be asked for."""
    parser.add_argument("--subject", help="only what was done to this sale, SKU, purchase or buyer")
    parser.add_argument(
        "--last",
        type=_number,
        default=50,
        metavar="N",
        help=f"1 to {SHOWN_MAX} (default 50)",
    )


def _number(text: str) -> int:
    # Not argparse's choices, which a refusal lists one and all.
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= SHOWN_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {SHOWN_MAX}")
    return int(text)


async def run(parsed: argparse.Namespace, context: Context) -> None:
    """Print them. Raises ``OperationError``."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres) as connection:
        rows = [
            dict(row) | {"detail": json.loads(row["detail"])}
            for row in await connection.fetch(_LIST, parsed.subject, parsed.last)
        ]
    show(context, rows, ("at", "operator", "action", "subject", "reason", "key"))
