"""The verbs of the gate, typed. What each means stands on top of its script in ``lua/``.

Law 1: the gate may only refuse. ``DEBITED`` is no yes; the yes is PostgreSQL's. Law 2: after ``GateUnavailable`` from
``reserve`` the units may have been taken: the attempt's rid must not be used again, and upkeep gives the units back.
"""

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from importlib import resources
from types import MappingProxyType
from typing import Any, NamedTuple, Self
from uuid import UUID

from flashsale.contract.wire import Line
from flashsale.gate.link import GateDamaged, GateUnavailable, Link

__all__ = [
    "Applied",
    "Gate",
    "GateAnswer",
    "GateDamaged",
    "GateUnavailable",
    "GateView",
    "Image",
    "Item",
    "ItemView",
    "Outcome",
    "Pending",
    "Row",
    "Settlement",
    "Step",
]

DEADLINE_SECONDS = 0.5  # a buyer is told to try later rather than kept waiting; Redis answers in under a millisecond
SALES_KNOWN_MAX = 1024  # epochs remembered; forgetting one costs nothing but the check against a copy from the past
SCRIPTS: Mapping[str, str] = MappingProxyType(
    {
        name: resources.files(__package__).joinpath("lua", f"{name}.lua").read_text()
        for name in ("reserve", "settle", "apply", "init", "look", "drop", "publish")
    }
)


class Outcome(StrEnum):
    """What the gate says to an attempt."""

    DEBITED = "debited"  # the copy's units are set aside for this rid until settled
    KNOWN = "known"  # this purchase was held once or is being decided: PostgreSQL has its answer; nothing was debited
    ASK = "ask"  # the copy cannot tell; nothing was debited
    SOLD_OUT = "sold_out"  # too few units even if every pending attempt failed, as of less than 500 ms ago
    SALE_NOT_OPEN = "sale_not_open"  # paused, ended or outside its times, as of less than 500 ms ago
    IN_FLIGHT = "in_flight"  # this buyer's undecided attempts may use up the limit
    STALE = "stale"  # there is no gate of this sale, it lacks an item, or it comes from another life of Redis


class GateAnswer(NamedTuple):
    """``epoch`` is the gate's: a ``DEBITED`` attempt must carry it into ``reserve_batch``, every other one None."""

    outcome: Outcome
    epoch: int


class Settlement(NamedTuple):
    """``keep`` only for a fresh hold of this very rid; every other verdict gives the units back."""

    rid: UUID
    keep: bool


class Pending(NamedTuple):
    """A debit that nobody has settled yet."""

    rid: UUID
    purchase: UUID
    lines: tuple[Line, ...]


class ItemView(NamedTuple):
    """``cursor`` is the ledger seq applied so far; -1 when the gate does not know the SKU."""

    cursor: int
    available: int


class GateView(NamedTuple):
    """One consistent read of a sale's gate. Times are Redis's, in ms; ``epoch`` is 0 when there is no gate.

    ``damage`` names a key that no script can work with; there are then no items and no pending attempts in the view.
    """

    now_ms: int
    epoch: int
    same_run: bool  # initialised on the Redis that answers
    pending_count: int
    items: dict[str, ItemView]
    pending: tuple[Pending, ...]  # the oldest ones asked for, which may be fewer than pending_count
    damage: str = ""


class Row(NamedTuple):
    """A ledger row. ``own``: a hold that this gate debited under its present epoch; ``purchase`` of a hold, else None."""

    seq: int
    delta: int
    own: bool
    purchase: UUID | None


class Item(NamedTuple):
    """One SKU as PostgreSQL has it in one snapshot; times in ms since 1970; ``seq`` is its latest."""

    sku: str
    available: int
    seq: int
    state: str
    opens_ms: int
    closes_ms: int
    limit: int


class Step(NamedTuple):
    """Ledger rows of one SKU that follow ``cursor``, and the snapshot they come from."""

    cursor: int
    item: Item
    rows: tuple[Row, ...]


class Applied(StrEnum):
    """What became of a ``Step``."""

    APPLIED = "applied"
    BEHIND = "behind"  # another applier was faster
    STALE = "stale"  # the gate has another epoch, comes from another life of Redis, or lacks the SKU


class Image(NamedTuple):
    """Everything a new gate holds, of one moment; ``stamp_ms`` is Redis time before that moment was read."""

    epoch: int
    stamp_ms: int
    items: tuple[Item, ...]
    won: Sequence[UUID]


class Gate:
    """One process's connection to the gates of all sales.

    Every verb raises ``GateUnavailable``: at once (< 1 ms, nothing sent) while Redis is away or too much is in flight, or
    after ``deadline_s`` without an answer, when the outcome is unknown. ``GateDamaged`` is one too, of this sale only;
    ``look``, ``init`` and ``drop`` never raise it for what they find in the keys.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._epochs: dict[str, int] = {}

    @classmethod
    async def connect(cls, url: str, deadline_s: float = DEADLINE_SECONDS) -> Self:
        """Connect in the background, now and after every loss. Returns after the first try even if that failed.

        Raises ``ValueError`` for a URL that no connection can be made from.
        """
        link = Link(url, SCRIPTS, deadline_s)
        await link.open()
        return cls(link)

    @property
    def connected(self) -> bool:
        """Is there a Redis to talk to at this moment?"""
        return bool(self._link.run_id)

    @property
    def run_id(self) -> str:
        """Which life of Redis is connected now; empty while there is none."""
        return self._link.run_id

    @property
    def keeper(self) -> asyncio.Task[None]:
        """The task that keeps the connection; it ends by ``close`` only. Should it end otherwise, so must the process.

        Without it every verb would raise ``GateUnavailable`` for ever.
        """
        return self._link.keeper

    async def close(self) -> None:
        """Disconnect; calls in flight fail with ``GateUnavailable``."""
        await self._link.close()

    async def reserve(self, sale: str, rid: UUID, purchase: UUID, buyer: str, lines: Iterable[Line]) -> GateAnswer:
        """``ask`` for one who waits."""
        arguments = self._wish(sale, rid.int, purchase.int, buyer, lines)
        return self._said(sale, await self._link.call("reserve", _key(sale), arguments))

    def ask(
        self,
        sale: str,
        rid: int,
        purchase: int,
        buyer: str,
        lines: Iterable[Line],
        *,
        hear: Callable[[GateAnswer | GateUnavailable], None],
    ) -> None:
        """Set the units of one attempt aside, or say why not. All lines must be of ``sale``, each SKU once; ids are numbers.

        Never for a marked retry: PostgreSQL answers those. ``hear`` is told in a later turn of the loop; nothing waits for it, because
        a task and a future are a quarter of what a refusal costs. Raises ``GateUnavailable`` when nothing was sent.
        """
        arguments = self._wish(sale, rid, purchase, buyer, lines)
        self._link.send("reserve", _key(sale), arguments, functools.partial(self._hear, sale, hear))

    def _hear(self, sale: str, hear: Callable[[GateAnswer | GateUnavailable], None], reply: Any) -> None:
        answer = reply
        if not isinstance(reply, GateUnavailable):
            try:
                answer = self._said(sale, reply)
            except (LookupError, TypeError, ValueError) as error:  # whoever asked has nobody else to hear from
                answer = GateUnavailable(f"the gate's answer cannot be read: {error!r}")
        hear(answer)

    def _wish(self, sale: str, rid: int, purchase: int, buyer: str, lines: Iterable[Line]) -> list[bytes | str | int]:
        epoch = self._epochs.get(sale, 0)
        wish: list[bytes | str | int] = [self._link.run_id, epoch, f"{rid:032x}", f"{purchase:032x}", buyer]
        for line in lines:
            wish += line
        return wish

    def _said(self, sale: str, reply: Any) -> GateAnswer:
        word, epoch = reply
        if epoch > self._epochs.get(sale, 0):
            self._learn(sale, epoch)
        return GateAnswer(_OUTCOMES[word], epoch)

    async def settle(self, sale: str, settlements: Iterable[Settlement]) -> int:
        """End the pending state of decided attempts; returns how many of them were still pending."""
        arguments: list[bytes | str | int] = []
        for rid, keep in settlements:
            arguments += (rid.hex, int(keep))
        settled: int = await self._link.call("settle", _key(sale), arguments)
        return settled

    async def look(self, sale: str, skus: Sequence[str], pending_max: int = 0, older_ms: int = 0) -> GateView:
        """Read ``skus`` and up to ``pending_max`` pending attempts at least ``older_ms`` old, all of one moment.

        Also examines the keys, so that ``damage`` is found by whoever can repair it and not only by buyers.
        """
        reply = await self._link.call("look", _key(sale), [self._link.run_id, pending_max, older_ms, *skus])
        now_ms, epoch, same_run, count, items, pending, damage = reply
        view = GateView(now_ms, epoch, same_run == 1, 0, {}, (), damage.decode(errors="replace"))
        if damage:
            return view
        try:
            attempts = tuple(_pending(rid, record) for rid, record in zip(pending[::2], pending[1::2], strict=True))
        except ValueError as error:
            return view._replace(damage=f"a pending attempt cannot be read: {error}")
        pairs = zip(items[::2], items[1::2], strict=True)
        found = {sku: ItemView(*pair) for sku, pair in zip(skus, pairs, strict=True)}
        return view._replace(pending_count=count, items=found, pending=attempts)

    async def apply(self, sale: str, epoch: int, stamp_ms: int, step: Step) -> Applied:
        """Move one SKU along its ledger. ``epoch``: the one under which rows were judged to be the gate's own."""
        item = step.item
        arguments: list[bytes | str | int] = [self._link.run_id, epoch, item.sku, step.cursor, item.seq, stamp_ms]
        arguments += (item.state, item.opens_ms, item.closes_ms, item.limit)
        for row in step.rows:
            arguments += (row.seq, row.delta, int(row.own), row.purchase.hex if row.purchase else "")
        word, _ = await self._link.call("apply", _key(sale), arguments)
        return Applied(word.decode())

    async def init(self, sale: str, image: Image) -> bool:
        """Replace the gate by ``image``, whatever its keys hold; False when the gate's epoch is not below the image's.

        An image is sent once. After ``GateUnavailable`` raise a new epoch: the lost call may have run, and attempts
        debited under this epoch since would be taken for units the second copy had already given.
        """
        arguments: list[bytes | str | int] = [self._link.run_id, image.epoch, image.stamp_ms, len(image.items)]
        for item in image.items:
            arguments += item
        arguments += (purchase.hex for purchase in image.won)
        done, _ = await self._link.call("init", _key(sale), arguments)
        return bool(done)

    async def drop(self, sale: str, skus: Sequence[str] = ()) -> bool:
        """Forget the sale; False when there was nothing to forget. ``skus``: its items, should the gate not name them."""
        return bool(await self._link.call("drop", _key(sale), skus))

    async def publish(self, channel: str, message: str) -> None:
        """Tell whoever listens to ``channel`` now."""
        await self._link.call("publish", channel.encode(), [message])

    def _learn(self, sale: str, epoch: int) -> None:
        if len(self._epochs) >= SALES_KNOWN_MAX:
            self._epochs.clear()
        self._epochs[sale] = epoch


_OUTCOMES = {outcome.value.encode(): outcome for outcome in Outcome}


@functools.lru_cache(maxsize=SALES_KNOWN_MAX)
def _key(sale: str) -> bytes:
    return f"{{{sale}}}:gate".encode()


def _pending(rid: bytes, record: bytes | None) -> Pending:
    if record is None:
        raise ValueError(f"{rid!r} has a time and no record")
    purchase, _, *lines = record.decode().split(" ")
    pairs = (line.split("=") for line in lines)
    return Pending(UUID(rid.decode()), UUID(purchase), tuple(Line(sku, int(quantity)) for sku, quantity in pairs))
