"""What live stock is made of: one reading of PostgreSQL, as everybody who shows it hands it on."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple


class Watched(NamedTuple):
    """One item after its movement ``seq``, with its sale; ``state`` is SCHEDULED, OPEN, PAUSED or ENDED when it was read."""

    sku: str
    available: int
    seq: int
    sale: str
    state: str
    opens: datetime
    closes: datetime


class Reading(NamedTuple):
    """Items of one moment. ``as_of``, by PostgreSQL's clock: whatever was committed before it is in here.

    A SKU that was asked for and is missing is no item.
    """

    as_of: datetime
    items: Mapping[str, Watched]


class Held(NamedTuple):
    """A row of a ledger: its place, and the purchase as a number if it is a hold."""

    seq: int
    purchase: int | None


class Copy(NamedTuple):
    """One SKU: its stock row, and what followed a cursor in its ledger, oldest first and perhaps not to the end."""

    available: int
    seq: int
    state: str  # what the merchant wants: OPEN still waits for ``opens``
    opens: datetime
    closes: datetime
    rows: Sequence[Held]


class Copies(NamedTuple):
    """Several SKUs of one moment, which is not before ``as_of``. ``next_deadline`` is the earliest of any hold."""

    as_of: datetime
    next_deadline: datetime | None
    items: Mapping[str, Copy]
