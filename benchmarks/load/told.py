"""What the shoppers asked and heard, written down while they go: evidence that owes nothing to any server's own numbers.

A gzip of JSON lines. All times are seconds of this machine's monotonic clock; add ``wall_minus_monotonic`` for Unix time.

* first line: ``{"told": 1, "sku", "seed", "shoppers", "wall_minus_monotonic"}``
* one line per shopper: ``{"buyer", "habit", "intended", "calls": [...]}``, and a call is
  ``{"call": "buy" | "follow" | "pay" | "cancel" | "look", "key", "lines": [[sku, quantity]], "mark", "sent", "answered",
  "status", "verdict", "purchase", "state", "told_lines": [[sku, quantity, seq]], "deadline", "payments": [state], "why"}``.
  ``key`` is the purchase's, also where a payment has one of its own; ``mark`` is the Retry-Attempt sent, 0 for none;
  ``answered`` is null when no answer was heard, and ``why`` says how come. What is still queued shows no purchase: null
* last line: ``{"end": <lines of shoppers>}``; without it the file is not evidence

Bounded by shoppers times the tries of each.
"""

import gzip
import json
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

COMPRESSION = 1  # the fastest: the shoppers share their cores with the server
VERSION = 1


@dataclass(slots=True)
class Call:
    """One request and what was heard of it."""

    call: str
    key: str
    lines: list[tuple[str, int]]
    mark: int
    sent: float
    answered: float | None = None
    status: int | None = None
    verdict: str | None = None
    purchase: str | None = None
    state: str | None = None
    told_lines: list[tuple[str, int, int]] = field(default_factory=list)
    deadline: str | None = None
    payments: list[str] = field(default_factory=list)
    receipt: str | None = None  # not written down: it is a means, not an answer
    why: str | None = None


_CALL_FIELDS = tuple(field.name for field in fields(Call) if field.name != "receipt")


@dataclass(slots=True)
class Story:
    """Everything one shopper did."""

    buyer: str
    habit: str
    intended: float
    calls: list[Call] = field(default_factory=list)
    turn: int = 0  # which server is asked next
    who: str = ""  # the header line that says who is asking; not written down, it may be a token


class Told:
    """The open file. Without a path it keeps nothing."""

    def __init__(self, path: Path | None, *, sku: str, seed: int, shoppers: int) -> None:
        self._file: TextIO | None = None
        self._stories = 0
        if path is not None:
            self._file = gzip.open(path, "wt", compresslevel=COMPRESSION, encoding="ascii")  # noqa: SIM115 - closed in __exit__
            offset = time.time() - time.monotonic()
            self._write(
                {"told": VERSION, "sku": sku, "seed": seed, "shoppers": shoppers, "wall_minus_monotonic": offset}
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            if kind is None:
                self._write({"end": self._stories})
            self._file.close()

    def add(self, story: Story) -> None:
        """Write one shopper's story."""
        if self._file is not None:
            self._stories += 1
            self._write(
                {
                    "buyer": story.buyer,
                    "habit": story.habit,
                    "intended": story.intended,
                    "calls": [{name: getattr(call, name) for name in _CALL_FIELDS} for call in story.calls],
                }
            )

    def _write(self, document: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(document, separators=(",", ":")) + "\n")
