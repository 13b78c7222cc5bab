"""The states of a purchase, and every legal move between them.

Law 1: whatever moves a purchase is in this table; a missing cell is an illegal move and changes nothing. Law 2: a cell whose
state does not change is a message told twice, and has no effect on stock. The database carries the same table (``lifecycle``)
and a test keeps the two equal. A refused attempt is no purchase and has no state.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """Where a purchase stands; see ``HOLDING`` for those that keep units off the shelf."""

    HELD = "HELD"
    AUTHORIZING = "AUTHORIZING"
    AUTHORIZED = "AUTHORIZED"
    PAID = "PAID"
    DISPUTED = "DISPUTED"
    CHARGED_BACK = "CHARGED_BACK"
    REFUNDED = "REFUNDED"
    RESTOCKED = "RESTOCKED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    DECLINED = "DECLINED"


class Event(StrEnum):
    """What can happen to a purchase."""

    PAY = "pay"  # the buyer asked to pay; the deadline had not passed
    AUTHORIZE = "authorize"  # the gateway set the money aside
    CAPTURE = "capture"  # the gateway took the money
    DECLINE = "decline"  # the gateway refused, and the buyer has tries left
    GIVE_UP = "give_up"  # the gateway refused for the last time, or a capture was refused and its void confirmed
    EXPIRE = "expire"  # the deadline passed
    CANCEL = "cancel"  # the buyer does not want it any more
    LATE_MONEY = "late_money"  # money for an expired hold, while units, limit and an open sale allow a new one
    REFUND = "refund"  # the money was given back, as an operator had asked
    DISPUTE = "dispute"  # the buyer asked the bank for the money back, and the bank took it until it has decided
    WIN = "win"  # the bank decided that the shop keeps it
    LOSE = "lose"  # the bank decided that the buyer keeps it: the money is gone
    RESTOCK = "restock"  # an operator put the units of a refunded or charged-back purchase back on sale


class Move(NamedTuple):
    """The next state, and the effect on available units per unit held: +1 returns it, -1 takes it again, 0 neither."""

    state: State
    units: int


TRANSITIONS: Mapping[State, Mapping[Event, Move]] = {
    State.HELD: {
        Event.PAY: Move(State.AUTHORIZING, 0),
        Event.EXPIRE: Move(State.EXPIRED, +1),
        Event.CANCEL: Move(State.CANCELLED, +1),
    },
    State.AUTHORIZING: {
        Event.AUTHORIZE: Move(State.AUTHORIZED, 0),
        Event.CAPTURE: Move(State.PAID, 0),  # asked to void before expiring, the gateway says "already captured"
        Event.DECLINE: Move(State.HELD, 0),
        Event.GIVE_UP: Move(State.DECLINED, +1),
        Event.EXPIRE: Move(State.EXPIRED, +1),
    },
    State.AUTHORIZED: {
        Event.AUTHORIZE: Move(State.AUTHORIZED, 0),
        Event.CAPTURE: Move(State.PAID, 0),
        Event.GIVE_UP: Move(State.DECLINED, +1),
        Event.EXPIRE: Move(State.EXPIRED, +1),  # its void, asked for at the deadline, was confirmed
    },
    State.PAID: {
        Event.CAPTURE: Move(State.PAID, 0),
        Event.REFUND: Move(State.REFUNDED, 0),
        Event.DISPUTE: Move(State.DISPUTED, 0),
        Event.WIN: Move(State.PAID, 0),
    },
    State.DISPUTED: {
        Event.DISPUTE: Move(State.DISPUTED, 0),
        Event.WIN: Move(State.PAID, 0),
        Event.LOSE: Move(State.CHARGED_BACK, 0),  # units do not return by themselves: the goods may be gone as well
    },
    State.CHARGED_BACK: {
        Event.LOSE: Move(State.CHARGED_BACK, 0),
        Event.RESTOCK: Move(State.RESTOCKED, +1),
    },
    State.REFUNDED: {
        Event.REFUND: Move(State.REFUNDED, 0),
        Event.RESTOCK: Move(State.RESTOCKED, +1),
    },
    State.RESTOCKED: {Event.RESTOCK: Move(State.RESTOCKED, 0)},
    State.EXPIRED: {
        Event.EXPIRE: Move(State.EXPIRED, 0),
        Event.LATE_MONEY: Move(State.AUTHORIZED, -1),
    },
    State.CANCELLED: {Event.CANCEL: Move(State.CANCELLED, 0)},
    State.DECLINED: {Event.GIVE_UP: Move(State.DECLINED, 0)},
}

# The states in which a purchase keeps its units, read off the table: what was refunded or charged back still does, until it is
# restocked.
HOLDING: frozenset[State] = frozenset(
    {
        State.HELD,
        State.AUTHORIZING,
        State.AUTHORIZED,
        State.PAID,
        State.DISPUTED,
        State.CHARGED_BACK,
        State.REFUNDED,
    },
)


def move(state: State, event: Event) -> Move | None:
    """The move that ``event`` makes from ``state``, or None when it is illegal there."""
    return TRANSITIONS[state].get(event)
