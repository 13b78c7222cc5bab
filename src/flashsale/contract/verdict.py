"""Every answer to a purchase attempt, and which one is given when several apply.

Law 1: a yes (``HELD``) is pinned to its idempotency key for ever; no refusal is. The same key may be refused now and held
later, because a refusal promises nothing. Law 2: whoever decides (gate, SQL, model) checks in the order of ``PRECEDENCE``,
so that the same facts give the same answer everywhere.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    """One word per answer; the value is what travels on the wire and what the SQL functions return."""

    MALFORMED = "malformed"  # the request itself is broken; nobody was asked
    TOO_LARGE = "too_large"  # body over the limit; not read to its end
    WRONG_MEDIA_TYPE = "wrong_media_type"  # the body is not declared as JSON
    DUPLICATE_SKU = "duplicate_sku"  # one SKU on two lines of a cart
    UNAUTHENTICATED = "unauthenticated"  # no identity, or one that cannot be trusted
    FORBIDDEN = "forbidden"  # a known identity that lacks the role
    REPLAYED = "replayed"  # this key already won; the answer is the purchase as it is now
    KEY_REUSED = "key_reused"  # this key already won, with another body
    UNKNOWN_PURCHASE = "unknown_purchase"  # no such purchase, or another buyer's
    UNKNOWN_SKU = "unknown_sku"  # no item has this SKU
    MIXED_SALES = "mixed_sales"  # the cart spans two sales
    SALE_NOT_OPEN = "sale_not_open"  # scheduled, paused, ended, or outside its times
    TOO_LATE = "too_late"  # came to a decision after its deadline, or the hold is already over
    SOLD_OUT = "sold_out"  # fewer units than asked for, now; a returned unit may be had later
    OVER_LIMIT = "over_limit"  # this buyer would hold more units of the sale than one buyer may
    IN_FLIGHT = "in_flight"  # another attempt of this buyer is being decided and may use up the limit
    TRY_LATER = "try_later"  # nothing was promised; send the same key again
    QUEUED = "queued"  # this attempt will be decided; nothing is promised beyond that
    HELD = "held"  # units are set aside until the hold's deadline


class Answer(NamedTuple):
    """How a verdict looks on the wire: HTTP status, and one sentence a person can act on."""

    status: int
    title: str


ANSWERS: Mapping[Verdict, Answer] = {
    Verdict.MALFORMED: Answer(400, "The request is malformed."),
    Verdict.TOO_LARGE: Answer(413, "The request body is too large."),
    Verdict.WRONG_MEDIA_TYPE: Answer(415, "The request body must be application/json."),
    Verdict.DUPLICATE_SKU: Answer(422, "A SKU may stand on one line only."),
    Verdict.UNAUTHENTICATED: Answer(401, "The request carries no valid identity."),
    Verdict.FORBIDDEN: Answer(403, "This identity may not do that."),
    Verdict.REPLAYED: Answer(200, "This key already made this purchase."),
    Verdict.KEY_REUSED: Answer(422, "This key already made a purchase with another body."),
    Verdict.UNKNOWN_PURCHASE: Answer(404, "There is no such purchase."),
    Verdict.UNKNOWN_SKU: Answer(404, "There is no such item."),
    Verdict.MIXED_SALES: Answer(422, "All items of a purchase must belong to one sale."),
    Verdict.SALE_NOT_OPEN: Answer(409, "The sale is not open."),
    Verdict.TOO_LATE: Answer(409, "It is too late for that."),
    Verdict.SOLD_OUT: Answer(409, "Not enough units are left."),
    Verdict.OVER_LIMIT: Answer(409, "The buyer's limit for this sale is reached."),
    Verdict.IN_FLIGHT: Answer(409, "Another attempt of this buyer is being decided."),
    Verdict.TRY_LATER: Answer(503, "Nothing was promised. Send the same key again."),
    Verdict.QUEUED: Answer(202, "The attempt is queued and will be decided."),
    Verdict.HELD: Answer(201, "The units are held."),
}

# What to do about a refusal of an attempt, where nothing more exact is known; the same words from either backend.
DETAILS: Mapping[Verdict, str] = {
    Verdict.MALFORMED: "the attempt breaks a rule of the database; check quantities",
    Verdict.KEY_REUSED: "use a new key for another cart",
    Verdict.UNKNOWN_SKU: "a SKU of this cart is not on sale here; GET /sales lists those that are",
    Verdict.MIXED_SALES: "the cart spans two sales; make one purchase per sale",
    Verdict.SALE_NOT_OPEN: "GET /sales shows when it opens",
    Verdict.TOO_LATE: "the attempt waited longer than it may",
    Verdict.SOLD_OUT: "units may return; if this key was sent before, ask where `purchase` points",
    Verdict.OVER_LIMIT: "cancel another hold of this sale, or ask for fewer units",
    Verdict.IN_FLIGHT: "wait for its answer, then send this key again",
    Verdict.TRY_LATER: "nothing was promised; send the same key again after Retry-After seconds",
}

# The first that applies is given. A replay stands before everything that can change after a win: a winner who retries
# after sell-out, during a pause, or for an item that has since been withdrawn must still find their purchase.
PRECEDENCE: tuple[Verdict, ...] = (
    Verdict.MALFORMED,
    Verdict.UNAUTHENTICATED,
    Verdict.REPLAYED,
    Verdict.KEY_REUSED,
    Verdict.UNKNOWN_SKU,
    Verdict.MIXED_SALES,
    Verdict.SALE_NOT_OPEN,
    Verdict.TOO_LATE,
    Verdict.SOLD_OUT,
    Verdict.OVER_LIMIT,
    Verdict.HELD,
)

# What the authority may record for an attempt. IN_FLIGHT and TRY_LATER are never recorded: they decide nothing.
DECIDED: frozenset[Verdict] = frozenset(PRECEDENCE) - {Verdict.UNAUTHENTICATED}
