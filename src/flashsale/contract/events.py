"""What the shop tells the world: CloudEvents 1.0 in JSON, structured mode. ``events.schema.json`` beside this file is the promise.

Law 1: an event may come twice and in any order; its ``id`` says what is the same, its ``sequence`` what is newer. Law 2: no
buyer is in it. Whoever must know the buyer asks the shop for the purchase that ``subject`` names.
"""

import json
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from flashsale.contract import wire

CONTENT_TYPE = "application/cloudevents+json"
SCHEMA = "events.schema.json"
# The families of topics whose version says which of two events of one subject is newer; a try's number does not.
ORDERED = frozenset({"purchase", "sale", "item", "stock"})
SEQUENCE_DIGITS = 19  # of the largest bigint, so that texts sort as numbers do

Document = dict[str, Any]


def document(
    *, number: int, topic: str, subject: str, version: int, at: datetime, sale: str | None, data: dict[str, Any]
) -> Document:
    """One event. ``number`` is its row of the outbox, ``version`` the subject's after the change; ``at`` is when it happened."""
    told: Document = {
        "specversion": "1.0",
        # with its time, because a database that was restored from a backup counts its rows from there again
        "id": f"{number}-{at.astimezone(UTC):%Y%m%dT%H%M%S%f}",
        "source": f"/sales/{sale}" if sale is not None else "/shop",
        "type": topic,
        "subject": subject,
        "time": wire.timestamp(at),
        "datacontenttype": "application/json",
    }
    if topic.partition(".")[0] in ORDERED:
        told["sequence"] = f"{version:0{SEQUENCE_DIGITS}d}"
    return told | {"data": data}


def encode(told: Document) -> bytes:
    """The bytes that travel."""
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of every event, by topic."""
    found: dict[str, Any] = json.loads((resources.files("flashsale.contract") / SCHEMA).read_text("utf-8"))
    return found
