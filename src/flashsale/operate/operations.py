"""``flash operations``: what was done by hand, the latest last."""

import argparse
import json
from typing import Any

from flashsale.operate.context import Context, show

SHOWN_MAX = 1_000
_LIST = """
    SELECT id, at, operator, action, subject, reason, detail, key FROM operation
    WHERE ($1::text IS NULL OR subject = $1) AND ($2::bigint IS NULL OR id < $2) AND ($3::text IS NULL OR key = $3)
    ORDER BY id DESC LIMIT $4"""


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
    rows = await latest(context, parsed.last, subject=parsed.subject)
    show(context, rows[::-1], ("at", "operator", "action", "subject", "reason", "key"))


async def latest(
    context: Context, last: int, *, subject: str | None = None, before: int | None = None, key: str | None = None
) -> list[dict[str, Any]]:
    """The last operations, the latest first: of a subject, before the one with this id, or done under this key."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres) as connection:
        rows = await connection.fetch(_LIST, subject, before, key, last)
    return [dict(row) | {"detail": json.loads(row["detail"])} for row in rows]
