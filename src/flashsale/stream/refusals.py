"""What a server may refuse without asking anybody: ``sold_out``, and ``sale_not_open`` before the doors. Pure: no loop, no clock.

A sale's *word* comes from one reading of PostgreSQL and from nothing else, least of all from an answer of the gate. Law 1:
nobody whose purchase was ever held hears it, so there is no word until the ids of all holds up to that very reading
are known; a gap in a ledger, one that falls back, or more ids than may be kept, and there is none. Law 2: it is never older than
``STALE_SECONDS``, counted from the moment its reading was begun, and is gone at once when anything moves. Law 3: it says
nothing while a hold is overdue: then nobody ends holds, and only the authority, which does so itself, can free the unit.

Ids are read only for sales that are sold out or not yet open, so a sale that sells costs a reading of its stock rows and no more.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from flashsale.contract.stock import Copies, Copy
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import Line

BEAT_SECONDS = 0.1  # between two readings; a returned unit waits no longer, and mostly a wake-up's time
STALE_SECONDS = 0.25  # a reading and a half may fail before the gate is asked again
GUARD = timedelta(milliseconds=200)  # this close to a bell the authority's clock decides, as in reserve.lua
OVERDUE = timedelta(milliseconds=250)  # expiry ends a hold within 100 ms; longer, and nobody is at it
IDS_MAX = 200_000  # of all sales, some 100 bytes each
ROWS_MAX = 512  # ledger rows per SKU and reading: a slice of two milliseconds, and the next follows at once
NO_ROWS = 1 << 62  # a cursor behind which no ledger goes


class Word(NamedTuple):
    """``verdict`` for whoever wants one of ``skus``, until the moment ``until``."""

    verdict: Verdict
    skus: frozenset[str]
    until: float


SILENCE = Word(Verdict.TRY_LATER, frozenset(), float("-inf"))


class _Sale:
    __slots__ = ("cursors", "is_followed", "is_too_large", "skus", "woken_at", "won", "word")

    def __init__(self, skus: Sequence[str]) -> None:
        self.skus = tuple(skus)
        self.cursors = dict.fromkeys(skus, 0)
        self.won: set[int] = set()
        self.word = SILENCE
        self.woken_at = float("-inf")
        self.is_followed = False  # are its ids read?
        self.is_too_large = False

    def forget(self) -> None:
        self.cursors = dict.fromkeys(self.skus, 0)
        self.won = set()
        self.word = SILENCE


class Refusals:
    """The words of one process. Moments are of a monotonic clock, in seconds."""

    def __init__(self, ids_max: int = IDS_MAX) -> None:
        self._ids_max = ids_max
        self._sales: dict[str, _Sale] = {}
        self._sale_of: dict[str, _Sale] = {}

    def refuse(self, lines: Sequence[Line], purchase: int, now: float) -> Verdict | None:
        """The word for this purchase, known by its number, if all ``lines`` are of one sale; None: ask."""
        known = self._sale_of.get(lines[0].sku)
        if known is None:
            return None
        verdict, skus, until = known.word
        if now >= until or purchase in known.won:
            return None
        is_gone = False
        for sku, _ in lines:
            if self._sale_of.get(sku) is not known:
                return None
            is_gone = is_gone or sku in skus
        return verdict if is_gone else None

    def expect(self, sales: Mapping[str, Sequence[str]]) -> None:
        """These are the live sales and their SKUs; one that is not, or has other SKUs, is forgotten."""
        kept = {
            name: self._sales[name] if name in self._sales and self._sales[name].skus == tuple(skus) else _Sale(skus)
            for name, skus in sales.items()
        }
        self._sales = kept
        self._sale_of = {sku: sale for sale in kept.values() for sku in sale.skus}

    def wish(self) -> dict[str, int]:
        """What to read: the SKUs of all sales, each with the cursor after which its rows are wanted."""
        return {
            sku: sale.cursors[sku] if sale.is_followed else NO_ROWS
            for sale in self._sales.values()
            for sku in sale.skus
        }

    def wake(self, skus: Collection[str] | None, now: float) -> bool:
        """These SKUs moved (None: any may have): no word until a reading that was begun later. Is it worth one now?"""
        moved = self._sales.values() if skus is None else [self._sale_of[sku] for sku in skus if sku in self._sale_of]
        for sale in moved:
            sale.woken_at = now
            sale.word = SILENCE
        return any(sale.is_followed for sale in moved)  # one that sells has no word, and the beat sees its last unit go

    def learn(self, wished: Mapping[str, int], copies: Copies, begun: float) -> bool:
        """Take a reading of what was wished for, begun at the moment ``begun``. Are ids missing, so that the next is due now?"""
        is_behind = False
        for sale in self._sales.values():
            items = [copies.items.get(sku) for sku in sale.skus]
            found = [item for item in items if item is not None]
            if len(found) < len(items) or any(sku not in wished for sku in sale.skus):
                sale.forget()
                continue
            is_complete = sale.is_followed and self._follow(sale, wished, copies)
            is_due = copies.next_deadline is not None and copies.next_deadline < copies.as_of - OVERDUE
            silent = not is_complete or is_due or begun <= sale.woken_at
            sale.word = SILENCE if silent else _word(sale, copies, begun)
            sale.is_followed = not sale.is_too_large and _may_refuse(found, copies.as_of)
            if not sale.is_followed:
                sale.forget()
            elif not is_complete:
                is_behind = True
        return is_behind

    def _follow(self, sale: _Sale, wished: Mapping[str, int], copies: Copies) -> bool:
        # Are the ids of all holds up to this reading known?
        for sku in sale.skus:
            item, cursor = copies.items[sku], sale.cursors[sku]
            if wished[sku] != cursor or item.seq < cursor:
                sale.forget()
                return False
            for seq, purchase in item.rows:
                if seq != cursor + 1:
                    sale.forget()
                    return False
                cursor = seq
                if purchase is not None:
                    sale.won.add(purchase)
            sale.cursors[sku] = cursor
        if sum(len(other.won) for other in self._sales.values()) > self._ids_max:
            sale.is_too_large = True
            return False
        return all(sale.cursors[sku] == copies.items[sku].seq for sku in sale.skus)


def _may_refuse(items: Iterable[Copy], as_of: datetime) -> bool:
    return any(item.available == 0 or as_of < item.opens for item in items)


def _word(sale: _Sale, copies: Copies, begun: float) -> Word:
    # as_of lies after ``begun``, so counting from ``begun`` takes the authority's clock for later than it is: the door that is
    # said to be shut still is, and the sale that is said to be open is not over yet. That it is open already is judged by as_of
    # itself, which has passed.
    items = [copies.items[sku] for sku in sale.skus]
    stale = begun + STALE_SECONDS
    if any(item.state != "OPEN" for item in items):
        return SILENCE
    opens, closes = max(item.opens for item in items), min(item.closes for item in items)
    if copies.as_of < opens:
        until = begun + (opens - GUARD - copies.as_of).total_seconds()
        return SILENCE if sale.won else Word(Verdict.SALE_NOT_OPEN, frozenset(sale.skus), min(until, stale))
    if copies.as_of < opens + GUARD:
        return SILENCE
    gone = frozenset(sku for sku in sale.skus if copies.items[sku].available == 0)
    until = begun + (closes - GUARD - copies.as_of).total_seconds()
    return Word(Verdict.SOLD_OUT, gone, min(until, stale)) if gone else SILENCE
