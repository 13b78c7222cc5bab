"""What the simulated gateways do, as tables. Law 1: an answer is the state of the key, whatever was asked, so every call may
be repeated. Law 2: a key that was voided before it was seen is remembered, and a later authorization finds it voided. Law 3: what
happens by itself depends on the key alone, so a gateway that was away does it when it is back.

    card      authorize sets the money aside, capture takes it: two calls, as with every acquirer
    wallet    authorize takes it at once: a void comes too late, and what is not wanted must be given back
    transfer  authorize begins it, and the buyer's bank confirms or declines it later: only a webhook tells, and a hold may
              lapse meanwhile
"""

import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

LOST_SHARE = 0.5  # of the disputes
AWAY_SECONDS = 5.0  # how long a gateway is away at a time, when it is
AMOUNT_MINOR_MAX = 2**63 - 1  # what the books of a shop can hold
_PRINTABLE = re.compile(r"[ -~]{1,128}")


class Operation(StrEnum):
    """What can be asked for."""

    AUTHORIZE = "authorize"  # set the money aside, or what a gateway does instead
    CAPTURE = "capture"  # take what was set aside
    VOID = "void"  # set it free
    REFUND = "refund"  # give back what was taken
    LOOK = "look"  # say how it stands


class State(StrEnum):
    """Where the money of a key stands."""

    PENDING = "pending"  # the bank has not said
    AUTHORIZED = "authorized"
    DECLINED = "declined"
    CAPTURED = "captured"
    VOIDED = "voided"
    REFUNDED = "refunded"
    DISPUTED = "disputed"  # the buyer's bank has it back until it has decided
    DISPUTE_WON = "dispute_won"  # the shop keeps it, for good
    DISPUTE_LOST = "dispute_lost"  # the buyer keeps it, for good


class Method(StrEnum):
    """A way to pay."""

    CARD = "card"
    WALLET = "wallet"
    TRANSFER = "transfer"


# What an authorization of a new key becomes, where it is not declined.
BEGINS: Mapping[Method, State] = {
    Method.CARD: State.AUTHORIZED,
    Method.WALLET: State.CAPTURED,
    Method.TRANSFER: State.PENDING,
}
# A missing cell changes nothing. None: the key is new; see BEGINS.
MOVES: Mapping[State | None, Mapping[Operation, State]] = {
    None: {Operation.VOID: State.VOIDED},
    State.PENDING: {Operation.VOID: State.VOIDED},
    State.AUTHORIZED: {Operation.CAPTURE: State.CAPTURED, Operation.VOID: State.VOIDED},
    State.DECLINED: {},
    State.CAPTURED: {Operation.REFUND: State.REFUNDED},
    State.VOIDED: {},
    State.REFUNDED: {},
    State.DISPUTED: {},
    State.DISPUTE_WON: {Operation.REFUND: State.REFUNDED},
    State.DISPUTE_LOST: {},
}


class Entry(NamedTuple):
    """One line of the journal: what became of a key. Money in minor units; ``at`` in Unix seconds."""

    key: str
    purchase: str
    state: State
    amount_minor: int
    currency: str
    at: float


class Asked(NamedTuple):
    """What every call carries."""

    key: str
    purchase: str
    amount_minor: int
    currency: str


class Chance(NamedTuple):
    """The seeded whims of a gateway, in percent. The same seed and key have the same fate."""

    seed: str
    declines_percent: int = 0
    silent_percent: int = 0
    errors_percent: int = 0
    away_percent: int = 0
    repeats_percent: int = 0
    late_percent: int = 0
    disputes_percent: int = 0

    def declines(self, key: str) -> bool:
        """Is the card, the wallet or the account behind this key no good?"""
        return self._lot(key, "declines") < self.declines_percent

    def is_silent(self, key: str) -> bool:
        """Is the first answer about this key lost on its way?"""
        return self._lot(key, "silent") < self.silent_percent

    def errs(self, key: str, state: State) -> bool:
        """Is this change made, and answered with an error all the same?"""
        return self._lot(f"{key}:{state}", "errors") < self.errors_percent

    def is_away(self, now: float) -> bool:
        """Does the gateway do nothing for anybody in these seconds?"""
        return self._lot(str(int(now // AWAY_SECONDS)), "away") < self.away_percent

    def repeats(self, key: str, state: State) -> bool:
        """Is the webhook about this change sent twice?"""
        return self._lot(f"{key}:{state}", "repeats") < self.repeats_percent

    def is_late(self, key: str, state: State) -> bool:
        """Is it held back, so that later ones overtake it?"""
        return self._lot(f"{key}:{state}", "late") < self.late_percent

    def is_disputed(self, key: str) -> bool:
        """Will the buyer ask the bank for the money back?"""
        return self._lot(key, "disputes") < self.disputes_percent

    def share(self, key: str, what: str) -> float:
        """A number from 0 to 1 that belongs to this key."""
        return self._lot(key, what) / 99

    def _lot(self, key: str, what: str) -> int:
        digest = hashlib.blake2b(f"{self.seed}:{what}:{key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % 100


def parse(document: Any) -> Asked:
    """What a call asks for. Raises ``ValueError``."""
    try:
        asked = Asked(document["key"], document["purchase"], document["amount_minor"], document["currency"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the call lacks something: {error!r}") from error
    texts = (asked.key, asked.purchase, asked.currency)
    if not all(isinstance(text, str) and _PRINTABLE.fullmatch(text) for text in texts):
        raise ValueError("key, purchase and currency are 1 to 128 printable ASCII characters")
    if type(asked.amount_minor) is not int or not 0 <= asked.amount_minor <= AMOUNT_MINOR_MAX:
        raise ValueError(f"amount_minor is a whole number from 0 to {AMOUNT_MINOR_MAX}")
    return asked


def decide(method: Method, known: Entry | None, operation: Operation, asked: Asked, chance: Chance) -> State | None:
    """The state after the operation; None when there is nothing to do it with. Raises ``ValueError`` for other money."""
    if known is not None and (known.purchase, known.amount_minor, known.currency) != asked[1:]:
        raise ValueError("this key was used for another purchase or another amount")
    if known is not None:
        return MOVES[known.state].get(operation, known.state)
    if operation is not Operation.AUTHORIZE:
        return MOVES[None].get(operation)
    begun = BEGINS[method]
    return State.DECLINED if begun is not State.PENDING and chance.declines(asked.key) else begun


def later(entry: Entry, chance: Chance) -> State | None:
    """What becomes of a key by itself, after a while; None: nothing."""
    match entry.state:
        case State.PENDING:
            return State.DECLINED if chance.declines(entry.key) else State.AUTHORIZED
        case State.CAPTURED if chance.is_disputed(entry.key):
            return State.DISPUTED
        case State.DISPUTED:
            return State.DISPUTE_LOST if chance.share(entry.key, "verdict") < LOST_SHARE else State.DISPUTE_WON
    return None
