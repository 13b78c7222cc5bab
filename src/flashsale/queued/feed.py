"""The verdict feed: one message per decided batch, to everybody who has shoppers waiting.

It wakes and never proves: who is woken by a yes reads PostgreSQL. Lost or late messages cost a waiter half a second.
"""

import json
import uuid
from collections.abc import Iterable
from typing import NamedTuple


class Told(NamedTuple):
    """An attempt's verdict; ``version`` of the purchase it made or met, 0 when there is none."""

    rid: uuid.UUID
    verdict: str
    purchase: uuid.UUID
    version: int


def encode(batch: Iterable[Told]) -> bytes:
    """The body of the feed's message for a batch."""
    return json.dumps([[told.rid.hex, told.verdict, told.purchase.hex, told.version] for told in batch]).encode()


def decode(body: bytes) -> list[Told]:
    """The batch in ``body``. Raises ``ValueError`` for anything that is not one."""
    try:
        return [
            Told(uuid.UUID(hex=rid), str(verdict), uuid.UUID(hex=purchase), int(version))
            for rid, verdict, purchase, version in json.loads(body)
        ]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError("not a batch of verdicts") from error
