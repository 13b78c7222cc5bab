"""What an audit looks at besides PostgreSQL's rows: the gates, the gateways' journals, and what the shoppers wrote down."""

import gzip
import json
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

TOLD_VERSION = 1
TOLD_LINE_CHARS_MAX = 1_000_000  # a shopper's bounded tries need a fraction of it
JOURNAL_LINE_BYTES_MAX = 64 * 1024


class SaleRow(NamedTuple):
    """A sale, and how many purchases it ever held."""

    id: str
    state: str
    closes: datetime
    epoch: int
    held_ever: int


class StockRow(NamedTuple):
    sku: str
    sale: str
    total: int
    available: int
    seq: int


class PaymentRow(NamedTuple):
    """One try to pay, as the books have it; ``purchase_state`` None: there is no such purchase."""

    purchase: str
    number: int
    state: str
    method: str
    purchase_state: str | None
    owed_minor: int | None
    owed_currency: str | None

    @property
    def key(self) -> str:
        """The key under which a gateway knows it."""
        return f"{self.purchase}:{self.number}"


class JournalEntry(NamedTuple):
    """One line of a gateway's own journal: what became of a key's money."""

    key: str
    purchase: str
    state: str
    amount_minor: int
    currency: str


class GateStock(NamedTuple):
    """The gate's copy of one SKU."""

    available: int
    pending: int
    cursor: int


class Gate(NamedTuple):
    """
    The gate of one sale. ``this_life`` is false when it was built on a Redis that has restarted since. ``won`` are the purchases it
    remembers, None if only their number was asked for.
    """

    sale: str
    epoch: int
    this_life: bool
    stock: dict[str, GateStock]
    pending: int
    won_number: int
    won: tuple[str, ...] | None


class Booked(NamedTuple):
    """A purchase as the books have it: lines are (SKU, quantity), holds (SKU, quantity, seq), sorted."""

    id: str
    buyer: str
    key: str
    state: str
    lines: tuple[tuple[str, int], ...]
    holds: tuple[tuple[str, int, int], ...]


class ToldCall(NamedTuple):
    """One request of a shopper and what was heard. Times are Unix seconds; ``answered`` None: nothing was heard."""

    buyer: str
    call: str
    key: str
    asked: tuple[tuple[str, int], ...]
    sent: float
    answered: float | None
    status: int | None
    purchase: str | None
    state: str | None
    lines: tuple[tuple[str, int, int], ...]
    deadline: float | None

    @property
    def shows_purchase(self) -> bool:
        """Did the answer show a purchase, and so promise that it exists?"""
        return self.status in {200, 201}


class EvidenceError(Exception):
    """A told file or a journal that proves nothing: unreadable, cut off, or of another kind."""


class JournalLines:
    """
    Entries out of a journal's bytes, as they come; a last line that is not whole was promised to nobody and waits for its rest.
    ``taken`` is how many bytes were turned into entries: where to go on reading.
    """

    def __init__(self, name: str) -> None:
        self.taken = 0
        self._name = name
        self._number = 0
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[JournalEntry]:
        """The entries that ``data`` makes whole. Raises EvidenceError."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest
        for line in lines:
            self._number += 1
            self.taken += len(line) + 1
            try:
                document = json.loads(line)
                yield JournalEntry(*(document[name] for name in JournalEntry._fields))
            except (ValueError, KeyError, TypeError) as error:
                raise EvidenceError(f"{self._name}: line {self._number} is damaged: {error!r}") from error
        if len(rest) > JOURNAL_LINE_BYTES_MAX:
            raise EvidenceError(f"{self._name}: line {self._number + 1} has no end")

    def restart(self) -> None:
        """Forget the half line: the next bytes begin at ``taken``."""
        self._rest = b""


def parse_journal(text: str) -> tuple[JournalEntry, ...]:
    """Every entry, in the order written. Raises EvidenceError."""
    return tuple(JournalLines("the journal").feed(text.encode()))


def read_told(path: Path) -> tuple[ToldCall, ...]:
    """Every call in the file, in the order written. Raises EvidenceError."""
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            return tuple(_calls(_documents(lines)))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise EvidenceError(f"{path} is no usable told file: {error!r}") from error


def _documents(lines: Any) -> Iterator[dict[str, Any]]:
    while line := lines.readline(TOLD_LINE_CHARS_MAX):
        yield json.loads(line)


def _calls(documents: Iterator[dict[str, Any]]) -> Iterator[ToldCall]:
    head = next(documents, {})
    if head.get("told") != TOLD_VERSION:
        raise ValueError(f"its first line does not say told: {TOLD_VERSION}")
    offset = float(head["wall_minus_monotonic"])
    stories, end = 0, None
    for document in documents:
        if "end" in document:
            end = document["end"]
            continue
        stories += 1
        for call in document["calls"]:
            yield ToldCall(
                buyer=document["buyer"],
                call=call["call"],
                key=call["key"],
                asked=tuple(sorted((sku, quantity) for sku, quantity in call["lines"])),
                sent=call["sent"] + offset,
                answered=None if call["answered"] is None else call["answered"] + offset,
                status=call["status"],
                purchase=call["purchase"],
                state=call["state"],
                lines=tuple(sorted((sku, quantity, seq) for sku, quantity, seq in call["told_lines"])),
                deadline=None if call["deadline"] is None else datetime.fromisoformat(call["deadline"]).timestamp(),
            )
    if end != stories:
        raise ValueError(f"its last line says end: {end}, and {stories} shoppers came before it")
