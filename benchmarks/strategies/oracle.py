"""What went wrong, from what every buyer was told and what the store has recorded. Pure.

Neither alone is enough: a Redis that came back with an old file has recorded nothing too much, and a buyer who was told nothing may
have a unit.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple


class Told(StrEnum):
    """The last word that a buyer heard of an attempt."""

    SOLD = "sold"
    REFUSED = "refused"
    UNKNOWN = "unknown"  # the answer was lost


class Kind(StrEnum):
    """A wrong. The value is its name in results."""

    OVERSOLD = "oversold"
    UNDERSOLD = "undersold"
    LEAKED = "leaked"
    DUPLICATE = "duplicate"
    PHANTOM = "phantom"
    LOST = "lost"


KINDS = {
    Kind.OVERSOLD: "more units promised or recorded than there are",
    Kind.UNDERSOLD: "units nobody has at the end, although buyers were told that there are none",
    Kind.LEAKED: "of these, units that cannot be bought any more: the last who asked was refused, too",
    Kind.DUPLICATE: "units beyond the first for one and the same attempt",
    Kind.PHANTOM: "units recorded for a buyer who was told no, or never asked",
    Kind.LOST: "buyers who were told yes, and of whom nothing is recorded",
}


class Ledger(NamedTuple):
    """One trial. ``recorded``: an attempt per unit, when the storm was over; ``finally_recorded``: after the last call as well.

    The last call is by strangers, one after the other until one is refused; ``told`` has them, too.
    """

    stock: int
    told: Mapping[str, Told]
    recorded: Sequence[str]
    finally_recorded: Sequence[str]
    strangers: frozenset[str] = frozenset()


class Found(NamedTuple):
    """Units by kind of wrong, without zeros; and buyers who have a unit and were never told, which is no wrong if they can ask."""

    wrongs: dict[Kind, int]
    unheard: int


def judge(ledger: Ledger) -> Found:
    """Everything that is wrong with it."""
    crowd = {attempt: word for attempt, word in ledger.told.items() if attempt not in ledger.strangers}
    has = Counter(ledger.finally_recorded)
    left = ledger.stock - _promised(crowd, ledger.recorded)
    finally_left = ledger.stock - _promised(ledger.told, ledger.finally_recorded)
    was_refused = sum(word is Told.REFUSED for word in crowd.values())
    last_word = [word for attempt, word in ledger.told.items() if attempt in ledger.strangers][-1:]
    wrongs = {
        Kind.OVERSOLD: -finally_left,
        Kind.UNDERSOLD: min(left, was_refused),
        Kind.LEAKED: finally_left if last_word == [Told.REFUSED] else 0,
        Kind.DUPLICATE: sum(units - 1 for units in has.values()),
        Kind.PHANTOM: sum(
            units for attempt, units in has.items() if ledger.told.get(attempt, Told.REFUSED) is Told.REFUSED
        ),
        Kind.LOST: sum(word is Told.SOLD and not has[attempt] for attempt, word in ledger.told.items()),
    }
    unheard = sum(word is Told.UNKNOWN and has[attempt] > 0 for attempt, word in ledger.told.items())
    return Found({kind: units for kind, units in wrongs.items() if units > 0}, unheard)


def _promised(told: Mapping[str, Told], recorded: Sequence[str]) -> int:
    # What is recorded twice are two units; what was told and is not recorded is one, for its buyer will come for it.
    has = Counter(recorded)
    return has.total() + sum(word is Told.SOLD and not has[attempt] for attempt, word in told.items())
