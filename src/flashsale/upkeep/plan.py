"""What to do about a gate, as functions from snapshots to actions. No I/O, no clock.

Law 1: the gate is looked at before PostgreSQL is read, so PostgreSQL is never the older of the two. Law 2: a gate that
cannot be told right from wrong is left alone until the next round; one that is wrong is replaced whole, never patched.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from flashsale.authority.client import GateImage, GateItem, Movements
from flashsale.gate.client import GateView, Image, Item, Row, Settlement, Step

# Between another keeper's raise_epoch and its init the two epochs differ and all is well. An init takes milliseconds; this
# long means that its keeper died. It is also how often at most a gate that is damaged again and again is replaced.
PATIENCE_SECONDS = 0.25
# Equal probes before a difference is believed. One would do, see drifts(); but a rebuild tells buyers "ask PostgreSQL", and
# these seconds are cheaper than one for a difference that nobody has thought of.
DRIFT_PROBES_STILL = 3  # nothing moved in between
DRIFT_PROBES_MOVING = 5  # something did, so that less was equal by standing still

HELD = "held"


class Cause(StrEnum):
    """Why a gate is replaced."""

    MISSING = "missing"  # Redis was emptied, or this sale is new
    OTHER_RUN = "other_run"  # Redis was restarted, maybe with an older file
    UNKNOWN_SKU = "unknown_sku"  # an item was added to the sale
    EPOCH = "epoch"  # PostgreSQL counts another epoch than the gate
    DRIFT = "drift"  # the units do not add up
    DAMAGED = "damaged"  # no script can work with some key


# What must last before it is acted upon: it may be over by itself, or come back at once.
PATIENT = frozenset({Cause.EPOCH, Cause.DAMAGED})


def diagnose(view: GateView, epoch: int | None) -> Cause | None:
    """What is wrong with a gate; ``epoch`` is PostgreSQL's, None when it was not read."""
    if view.damage:
        return Cause.DAMAGED
    if not view.epoch:
        return Cause.MISSING
    if not view.same_run:
        return Cause.OTHER_RUN
    if any(item.cursor < 0 for item in view.items.values()):
        return Cause.UNKNOWN_SKU
    if epoch is not None and epoch != view.epoch:
        return Cause.EPOCH
    return None


def step(sku: str, cursor: int, epoch: int, moves: Movements) -> Step:
    """The rows of one SKU as the gate of ``epoch`` must apply them."""
    rows = tuple(
        Row(
            move.seq,
            move.delta,
            move.kind == "hold" and move.epoch == epoch,
            move.purchase if move.kind == "hold" else None,
        )
        for move in moves.rows
    )
    item = GateItem(sku, moves.available, moves.seq, moves.state, moves.opens, moves.closes, moves.limit)
    return Step(cursor, _item(item), rows)


def image(authority: GateImage, stamp_ms: int) -> Image:
    """PostgreSQL's image as the gate takes it; ``stamp_ms`` is Redis time before it was read."""
    return Image(authority.epoch, stamp_ms, tuple(_item(item) for item in authority.items), authority.won)


def settlements(verdicts: Mapping[UUID, str]) -> list[Settlement]:
    """How abandoned debits end: only a hold keeps its units."""
    return [Settlement(rid, verdict == HELD) for rid, verdict in verdicts.items()]


class Drift(NamedTuple):
    """``units`` the gate has too many of one SKU (negative: too few), under which epoch, and what tells whether it moved."""

    units: int
    epoch: int
    cursor: int
    pending: tuple[UUID, ...]


def drifts(view: GateView, held: Iterable[UUID], stock: Mapping[str, tuple[int, int]]) -> dict[str, Drift]:
    """The difference per SKU, for those that can be compared.

    ``held`` and ``stock`` (available, seq) are one snapshot of PostgreSQL, taken after the view. Then cursor = seq says that
    no row was committed between the two reads, for the gate had already applied that seq. So a debit of ``held`` was held
    before the view too and is in PostgreSQL's count; any other has no row, and gate + undecided debits must equal PostgreSQL
    to the unit, however fast things move. Not so in the other order: a hold committed and settled between the reads has left
    ``pending`` and not yet reached the cursor. Both are walked in ``test_gate_search``. A partial list of debits compares
    nothing.
    """
    if view.pending_count != len(view.pending):
        return {}
    decided = set(held)
    found = {}
    for sku, item in view.items.items():
        available, seq = stock.get(sku, (0, -1))
        if item.cursor != seq:
            continue
        mine = [(attempt.rid, line.quantity) for attempt in view.pending for line in attempt.lines if line.sku == sku]
        undecided = sum(quantity for rid, quantity in mine if rid not in decided)
        found[sku] = Drift(
            item.available + undecided - available, view.epoch, item.cursor, tuple(rid for rid, _ in mine)
        )
    return found


class _Streak(NamedTuple):
    # How often in a row a SKU showed the difference of `last`: at all, and with everything standing still.
    last: Drift
    equal: int = 1
    still: int = 1

    def then(self, drift: Drift) -> "_Streak":
        if (drift.units, drift.epoch) != (self.last.units, self.last.epoch):
            return _Streak(drift)
        return _Streak(drift, self.equal + 1, self.still + 1 if drift == self.last else 1)


@dataclass
class DriftWatch:
    """Remembers how often each SKU showed the same difference in a row."""

    _seen: dict[str, _Streak] = field(default_factory=dict)

    def confirmed(self, found: Mapping[str, Drift]) -> bool:
        """Has any SKU of one sale now shown the same difference often enough? It then counts from one again.

        A probe that could not compare a SKU says nothing of it: a busy one would else never be believed.
        """
        believed = False
        for sku, drift in found.items():
            last = self._seen.pop(sku, None)
            if not drift.units:
                continue
            streak = last.then(drift) if last else _Streak(drift)
            if streak.still >= DRIFT_PROBES_STILL or streak.equal >= DRIFT_PROBES_MOVING:
                believed = True
            else:
                self._seen[sku] = streak
        return believed

    def forget(self, skus: Iterable[str]) -> None:
        """Their sale is over."""
        for sku in skus:
            self._seen.pop(sku, None)


@dataclass
class Patience:
    """Lets what may end by itself stand for a while, e.g. a difference of epochs that another keeper is about to end."""

    _since: dict[str, tuple[tuple[int, int | None], float]] = field(default_factory=dict)

    def is_over(self, sale: str, epochs: tuple[int, int | None], now: float) -> bool:
        """Have the gate's and PostgreSQL's epochs been exactly these for long enough? ``now`` in seconds, monotonic."""
        last, since = self._since.get(sale, (None, now))
        if last != epochs:
            since = now
        self._since[sale] = (epochs, since)
        return now - since >= PATIENCE_SECONDS

    def end(self, sale: str) -> None:
        """All is well again, or being repaired, or the sale is over."""
        self._since.pop(sale, None)


def _item(item: GateItem) -> Item:
    opens, closes = _milliseconds(item.opens), _milliseconds(item.closes)
    return Item(item.sku, item.available, item.seq, item.state, opens, closes, item.limit)


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)
