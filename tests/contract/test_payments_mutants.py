"""Each guard of the payments' SQL taken out, one at a time: some test must notice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import asyncpg
import pytest

from flashsale.authority.client import Authority, AuthorityUnavailable, BadBatch
from tests.contract import test_payments as traps
from tests.contract.test_reserve_batch_mutants import SHOWS_SECONDS, mutate
from tests.databases import Database, drop_database, make_database

# What is replaced, and by what.
UNWANTED = "ELSIF v_is_open OR v_pay.state IN ('DECLINED', 'VOIDED') THEN\n            v_next := 'REFUNDING'"
TAKEN = "IF v_pay.state NOT IN ('DECLINED', 'VOIDED', 'DISPUTE_LOST') THEN"
LATELY_SENT = "y.sent_at < y.asked_at + interval '2 seconds'"
GUARDS = {
    "a key asks once": ("IF v_known.try IS NOT NULL THEN", "IF false THEN"),
    "a key keeps its method": ("WHEN v_known.method = p_method THEN", "WHEN true THEN"),
    "only the buyer pays": ("AND buyer = p_buyer FOR NO KEY UPDATE;\n    IF v_purchase",
                            "FOR NO KEY UPDATE;\n    IF v_purchase"),
    "paying ends at the deadline": ("OR v_purchase.deadline <= v_now THEN", "THEN"),
    "paying starts from HELD": ("IF v_purchase.state <> 'HELD' OR", "IF"),
    "late money needs an open sale": ("(s.state <> 'OPEN' OR", "(false OR"),
    "late money needs units": ("OR s.available < l.quantity", ""),
    "late money needs room under the limit": ("OR q.active + v_wanted > s.buyer_limit", ""),
    "late money takes units": ("UPDATE stock s SET available = s.available - l.quantity", "UPDATE stock s SET available = s.available"),
    "the amount": ("v_pay.amount_minor <> p_amount_minor OR", ""),
    "the currency": ("OR v_pay.currency <> p_currency", ""),
    "an end is voided again": ("IF v_pay.state IN ('DECLINED', 'VOIDED') THEN", "IF false THEN"),
    "an authorization counts once": ("ELSIF v_pay.state = 'ASKED' THEN", "ELSE"),
    "a decline counts once": ("WHEN 'declined' THEN\n        IF v_pay.state = 'ASKED' THEN", "WHEN 'declined' THEN\n        IF true THEN"),
    "late money is judged once": ("OR v_pay.state = 'ASKED' AND v_state = 'EXPIRED'", "OR v_state = 'EXPIRED'"),
    "a capture of a closed try goes back": ("IF v_is_open AND (v_state", "IF (v_state"),
    "money is given back once": (UNWANTED, "ELSIF v_pay.state <> 'CAPTURED' THEN\n            v_next := 'REFUNDING'"),
    "money that was taken stays": (UNWANTED, "ELSE\n            v_next := 'REFUNDING'"),
    "late money without units goes back": (UNWANTED, UNWANTED.replace("v_is_open OR ", "")),
    "money of a declined try goes back": (UNWANTED, UNWANTED.replace("'DECLINED', ", "")),
    "money of a voided try goes back": (UNWANTED, UNWANTED.replace(", 'VOIDED'", "")),
    "a void closes an open try": ("WHEN 'voided' THEN\n        IF v_is_open THEN", "WHEN 'voided' THEN\n        IF true THEN"),
    "nothing is refunded that was not taken": (TAKEN, "IF v_pay.state NOT IN ('DISPUTE_LOST') THEN"),
    "nothing is refunded that is gone": (TAKEN, "IF v_pay.state NOT IN ('DECLINED', 'VOIDED') THEN"),
    "a refund is of the try that was paid": ("IF v_state = 'PAID' AND v_is_latest THEN", "IF v_state = 'PAID' THEN"),
    "a dispute says that money was taken": ("IF p_outcome IN ('disputed', 'dispute_won', 'dispute_lost') AND", "IF false AND"),
    "a refund says that the dispute was won": ("ELSIF p_outcome = 'refunded' AND v_pay.state = 'DISPUTED' THEN", "ELSIF false THEN"),
    "what goes back anyway is not held up by a dispute": ("WHEN 'disputed' THEN    -- what is being given back anyway still is: the bank's decision comes first, or the refund does\n        IF v_pay.state = 'CAPTURED'", "WHEN 'disputed' THEN\n        IF v_pay.state IN ('CAPTURED', 'REFUNDING')"),
    "a won dispute is final": ("IF v_pay.state IN ('CAPTURED', 'DISPUTED', 'REFUNDING') THEN", "IF v_pay.state IN ('CAPTURED', 'DISPUTED', 'REFUNDING', 'DISPUTE_WON') THEN"),
    "a lost dispute is final": ("IF v_pay.state IN ('CAPTURED', 'DISPUTED') THEN", "IF v_pay.state IN ('CAPTURED', 'DISPUTED', 'DISPUTE_LOST') THEN"),
    "a dispute of money that goes back can be lost": ("IF v_pay.state IN ('CAPTURED', 'DISPUTED', 'REFUNDING') THEN", "IF v_pay.state IN ('CAPTURED', 'DISPUTED') THEN"),
    "a lost dispute of an older try costs that try": ("IF v_is_latest THEN    -- else", "IF true THEN    -- else"),
    "a new state is news": ("SET state = v_next, asks = 0, set_aside_at = NULL", "SET state = v_next"),
    "many at once: what is locked is left out": ("FOR NO KEY UPDATE SKIP LOCKED) d;    -- in any", "FOR NO KEY UPDATE) d;    -- in any"),
    "many at once: only what its purchase waits for": ("WHERE id = ANY (p_purchase) AND state IN ('AUTHORIZING', 'AUTHORIZED')", "WHERE id = ANY (p_purchase)"),
    "many at once: the amount": ("AND y.amount_minor = t.amount_minor AND y.currency", "AND y.currency"),
    "many at once: the currency": ("AND y.amount_minor = t.amount_minor AND y.currency = t.currency", "AND y.amount_minor = t.amount_minor"),
    "many at once: an authorization is of a try that was asked for": ("(t.outcome = 'authorized' AND y.state = 'ASKED' AND", "(t.outcome = 'authorized' AND"),
    "many at once: a capture is of an open try": ("OR t.outcome = 'captured' AND y.state IN ('ASKED', 'AUTHORIZED')", "OR t.outcome = 'captured'"),
    "many at once: nothing else": ("OR t.outcome = 'captured' AND y.state IN", "OR y.state IN"),
    "many at once: a new state is news": ("SET state = upper(t.outcome), asks = 0, set_aside_at = NULL", "SET state = upper(t.outcome)"),
    "a message for a person is about a try": ("WHERE purchase_id = p_purchase AND try = p_try AND set_aside_at IS NULL", "WHERE false"),
    "a refund is done once per key": ("'purchase.refund', p_purchase::text, p_reason, '{}') THEN\n        RETURN;", "'purchase.refund', p_purchase::text, p_reason, '{}') THEN"),
    "a refund is of what is paid": ("IF v_state IS DISTINCT FROM 'PAID' OR", "IF"),
    "a refund is asked for once": ("IF v_state IS DISTINCT FROM 'PAID' OR v_pay.state = 'REFUNDING' THEN", "IF v_state IS DISTINCT FROM 'PAID' THEN"),
    "a refund waits for the broker": ("SET state = 'REFUNDING', sent_at = NULL", "SET state = 'REFUNDING'"),
    "a refund is of the latest try": ("ORDER BY try DESC LIMIT 1 FOR NO KEY UPDATE", "ORDER BY try LIMIT 1 FOR NO KEY UPDATE"),
    "units are put back once per key": ("p_purchase::text, p_reason, '{}') THEN\n        RETURN;\n    END IF;\n    SELECT state INTO v_state FROM purchase WHERE id = p_purchase FOR NO KEY UPDATE;\n    v_now", "p_purchase::text, p_reason, '{}') THEN\n    END IF;\n    SELECT state INTO v_state FROM purchase WHERE id = p_purchase FOR NO KEY UPDATE;\n    v_now"),
    "what cannot be done is said": ("IF cardinality(moved) = 0 THEN", "IF false THEN"),
    "an operator does what operators do": ("IF p_event NOT IN ('restock', 'cancel') THEN", "IF false THEN"),
    "what was not in reach has its time": ("AND y.sent_at >= v_now - p_up))", "))"),
    "what was not in reach for long has its time": ("(y.sent_at < v_now - p_grace AND p_up > p_grace\n", "(y.sent_at < v_now - p_grace\n"),
    # said twice, as above
    "nor is a hold ended whose void was not": ("AND y.sent_at < v_now - p_grace AND p_up > p_grace);", "AND y.sent_at < v_now - p_grace);",
                                               "(y.sent_at < v_now - p_grace AND p_up > p_grace\n", "(y.sent_at < v_now - p_grace\n"),
    "ever more rarely": ("AND sent_at < v_now - p_after * (1 << least(asks, 6))", ""),
    "but not never": ("(1 << least(asks, 6))", "(1 << asks)"),
    "each ask counts": ("asks = least(asks + 1, 1000)", "asks = asks"),
    "a refund of an open try ends the hold": ("ELSIF v_is_open THEN\n                PERFORM lose_payment", "ELSIF false THEN\n                PERFORM lose_payment"),
    "a crossed void is an expiry": ("v_purchase.state = 'AUTHORIZED' AND p_was_voiding", "false"),
    "a void at the deadline is an expiry": ("ELSIF NOT p_was_declined AND v_purchase.deadline <= p_now THEN", "ELSIF false THEN"),
    "a decline at the deadline is none": ("ELSIF NOT p_was_declined AND v_purchase.deadline", "ELSIF v_purchase.deadline"),
    "tries are bounded": ("ELSIF p_try < tries_max THEN", "ELSIF true THEN"),
    "an event is heard once": ("IF NOT FOUND THEN\n        RETURN 'heard';", "IF false THEN\n        RETURN 'heard';"),
    "what was not believed was not heard": ("DELETE FROM inbox WHERE consumer = 'payments' AND event = p_event;", ""),
    "what was heard goes on": ("IF v_next <> 'nothing' THEN", "IF false THEN"),
    "what was never sent does not expire": (LATELY_SENT, f"coalesce({LATELY_SENT}, true)",
                                            "AND y.sent_at >= v_now - p_up", "AND coalesce(y.sent_at >= v_now - p_up, true)"),
    "what was sent late has its time": (LATELY_SENT, "y.sent_at IS NOT NULL"),
    # said twice, before and after the payments are locked
    "the gateway has its time": ("AND y.void_at IS NOT NULL AND y.sent_at < v_now - p_grace", "AND y.void_at IS NOT NULL",
                                 "(y.sent_at < v_now - p_grace", "(y.sent_at IS NOT NULL"),
    "the void comes first": ("AND y.void_at IS NOT NULL AND y.sent_at < v_now - p_grace", "AND y.sent_at < v_now - p_grace"),
    "a request to void is unsent": ("SET void_at = v_now, sent_at = NULL", "SET void_at = v_now"),
    "only what was sent is asked about again": ("'REFUNDING', 'DISPUTED') AND sent_at < v_now - p_after", "'REFUNDING', 'DISPUTED') AND coalesce(sent_at < v_now - p_after, true)",
                                               "AND sent_at < v_now - p_after * (1 << least(asks, 6))", ""),
    "it is left its time": ("'REFUNDING', 'DISPUTED') AND sent_at < v_now - p_after", "'REFUNDING', 'DISPUTED') AND sent_at IS NOT NULL", "AND sent_at < v_now - p_after * (1 << least(asks, 6))", ""),
    "only what is open": ("WHERE state IN ('ASKED', 'AUTHORIZED', 'REFUNDING', 'DISPUTED') AND sent_at", "WHERE sent_at"),
    "asked about again once": ("UPDATE payment y SET sent_at = NULL", "UPDATE payment y SET sent_at = sent_at"),
    "a lease keeps others off": ("AND (leased_until IS NULL OR leased_until < v_now)", ""),
    "what is in hand is skipped": ("ORDER BY id LIMIT p_max FOR NO KEY UPDATE SKIP LOCKED", "ORDER BY id LIMIT p_max"),
    "an older message is not the request to void": ("AND o.at >= coalesce(y.void_at, y.asked_at)", ""),
    "what was not sent is free at once": ("UPDATE outbox SET leased_until = NULL", "UPDATE outbox SET leased_until = leased_until"),
    "what was refused waits": ("least(greatest(v_now - at, interval '1 second'), interval '10 seconds')", "interval '0'"),
    "what is unsent is kept": ("o.sent_at < v_before", "true"),
    "what is young is kept": ("o.sent_at < v_before", "o.sent_at IS NOT NULL"),
    "what was heard lately is kept": ("WHERE i.at < v_before", "WHERE true"),
}  # fmt: skip
# Orders of locking: the reverse instead, or no lock at all.
SORTED = {
    "mark_sent: payments in order": ("ORDER BY y.purchase_id, y.try FOR", "ORDER BY y.purchase_id DESC FOR"),
    "mark_sent: payments before events": ("ORDER BY y.purchase_id, y.try FOR NO KEY UPDATE;", ";"),
    "mark_sent: events in order": ("ORDER BY o.id FOR NO KEY UPDATE;", "ORDER BY o.id DESC FOR NO KEY UPDATE;"),
    "expire_payments: payments in order": ("ORDER BY purchase_id, try FOR", "ORDER BY purchase_id DESC FOR"),
    "expire_payments: payments before quotas": ("ORDER BY purchase_id, try FOR NO KEY UPDATE;", ";"),
    "expire_payments: quotas in order": ("ORDER BY q.sale_id, q.buyer FOR", "ORDER BY q.buyer DESC FOR"),
    "expire_payments: quotas before stock": ("ORDER BY q.sale_id, q.buyer FOR NO KEY UPDATE OF q;", ";"),
    "expire_payments: stock in order": ("ORDER BY s.sku FOR", "ORDER BY s.sku DESC FOR"),
    "settle_payments: payments in order": ("ORDER BY purchase_id, try FOR NO KEY UPDATE;\n    v_now", "ORDER BY purchase_id DESC FOR NO KEY UPDATE;\n    v_now"),
    "settle_payment: the payment before quotas": ("AND try = p_try FOR NO KEY UPDATE;", "AND try = p_try;"),
    "settle_payment: quotas before stock": ("WHERE p.id = p_purchase FOR NO KEY UPDATE OF q;", "WHERE p.id = p_purchase;"),
    "settle_payment: stock in order": ("ORDER BY s.sku FOR", "ORDER BY s.sku DESC FOR"),
}  # fmt: skip

NOTICED = (
    pytest.fail.Exception,
    AssertionError,
    ValueError,
    TimeoutError,
    asyncpg.PostgresError,
    AuthorityUnavailable,
    BadBatch,
)
Trap = Callable[[traps.PayingShop], Awaitable[None]]


async def away_at_once(shop: traps.PayingShop) -> None:
    await traps.test_a_try_that_the_broker_had_when_it_went_away_has_its_time(shop, traps.AT_ONCE)


TRAPS: list[Trap] = [
    traps.test_who_may_pay_what,
    traps.test_outcomes_about_other_money_change_nothing,
    traps.test_what_a_webhook_asks_for_goes_through_the_outbox,
    traps.test_a_try_that_was_never_sent_does_not_cost_the_hold,
    traps.test_a_try_that_was_sent_late_has_its_time_before_it_is_voided,
    traps.test_a_request_to_void_is_not_sent_because_an_older_message_was,
    traps.test_an_open_try_is_asked_about_again_until_it_is_settled,
    traps.test_what_is_refused_for_ever_is_asked_about_ever_more_rarely,
    traps.test_a_dispute_is_asked_about_until_it_is_decided,
    traps.test_a_refund_by_hand_is_asked_for_once,
    traps.test_units_are_restocked_by_hand_once,
    traps.test_many_outcomes_at_once_are_each_what_they_are_alone,
    traps.test_one_message_for_a_person_is_enough,
    away_at_once,
    traps.test_leases_keep_relays_apart_and_lapse,
    traps.test_what_is_refused_waits_as_long_as_it_has_waited_within_bounds,
    traps.test_old_events_are_forgotten_and_unsent_ones_are_not,
    traps.test_the_limit_counts_for_late_money,
    traps.test_an_older_trys_money_goes_back_and_the_paid_purchase_stays,
    traps.test_the_answer_to_late_money_is_given_once,
    traps.test_an_older_trys_money_does_not_pay_for_a_newer_one,
    traps.test_an_older_trys_dispute_costs_the_paid_purchase_nothing,
]

# Which trap is the first to notice: it goes first, the others only if it did not.
NOTICED_BY: dict[Trap | str, list[str]] = {
    traps.test_who_may_pay_what: [
        "a key asks once",
        "a key keeps its method",
        "only the buyer pays",
        "paying ends at the deadline",
        "paying starts from HELD",
        "many at once: nothing else",
    ],
    "ASKED, expired, sale paused": ["late money needs an open sale"],
    traps.test_the_answer_to_late_money_is_given_once: ["late money needs units", "an authorization counts once"],
    traps.test_the_limit_counts_for_late_money: ["late money needs room under the limit"],
    "ASKED, expired": ["late money takes units", "many at once: only what its purchase waits for"],
    traps.test_outcomes_about_other_money_change_nothing: [
        "the amount",
        "the currency",
        "an event is heard once",
        "what was not believed was not heard",
    ],
    traps.test_an_older_trys_money_does_not_pay_for_a_newer_one: [
        "an end is voided again",
        "a decline counts once",
        "a capture of a closed try goes back",
        "a void closes an open try",
        "many at once: an authorization is of a try that was asked for",
        "many at once: a capture is of an open try",
    ],
    "AUTHORIZED, refused late, unit back": ["late money is judged once"],
    "REFUNDED": ["money is given back once"],
    "ASKED in AUTHORIZING": [
        "money that was taken stays",
        "a dispute says that money was taken",
        "a refund of an open try ends the hold",
    ],
    "ASKED, expired, unit gone": [
        "late money without units goes back",
        "what goes back anyway is not held up by a dispute",
        "a dispute of money that goes back can be lost",
    ],
    traps.test_an_older_trys_money_goes_back_and_the_paid_purchase_stays: [
        "money of a declined try goes back",
        "a refund is of the try that was paid",
    ],
    "VOIDED in time": ["money of a voided try goes back"],
    "DECLINED once": ["nothing is refunded that was not taken"],
    "CHARGED_BACK": ["nothing is refunded that is gone", "a lost dispute is final"],
    "DISPUTED": ["a refund says that the dispute was won"],
    "DISPUTE_WON": ["a won dispute is final"],
    traps.test_an_older_trys_dispute_costs_the_paid_purchase_nothing: [
        "a lost dispute of an older try costs that try",
        "a refund is of the latest try",
    ],
    traps.test_one_message_for_a_person_is_enough: ["a new state is news", "a message for a person is about a try"],
    traps.test_many_outcomes_at_once_are_each_what_they_are_alone: [
        "many at once: what is locked is left out",
        "many at once: the amount",
        "many at once: the currency",
    ],
    traps.test_what_is_refused_for_ever_is_asked_about_ever_more_rarely: [
        "many at once: a new state is news",
        "ever more rarely",
        "but not never",
        "each ask counts",
    ],
    traps.test_a_refund_by_hand_is_asked_for_once: [
        "a refund is done once per key",
        "a refund is of what is paid",
        "a refund is asked for once",
        "a refund waits for the broker",
    ],
    traps.test_units_are_restocked_by_hand_once: [
        "units are put back once per key",
        "what cannot be done is said",
        "an operator does what operators do",
    ],
    away_at_once: [
        "what was not in reach has its time",
        "what was not in reach for long has its time",
        "nor is a hold ended whose void was not",
    ],
    "AUTHORIZED while voiding": ["a crossed void is an expiry"],
    "ASKED, overdue": ["a void at the deadline is an expiry", "a decline at the deadline is none"],
    traps.test_what_is_refused_waits_as_long_as_it_has_waited_within_bounds: [
        "tries are bounded",
        "what was refused waits",
    ],
    traps.test_what_a_webhook_asks_for_goes_through_the_outbox: ["what was heard goes on"],
    traps.test_a_try_that_was_never_sent_does_not_cost_the_hold: [
        "what was never sent does not expire",
        "the gateway has its time",
        "the void comes first",
        "a request to void is unsent",
    ],
    traps.test_a_try_that_was_sent_late_has_its_time_before_it_is_voided: ["what was sent late has its time"],
    traps.test_an_open_try_is_asked_about_again_until_it_is_settled: [
        "only what was sent is asked about again",
        "it is left its time",
        "only what is open",
        "asked about again once",
    ],
    traps.test_leases_keep_relays_apart_and_lapse: [
        "a lease keeps others off",
        "what is in hand is skipped",
        "what was not sent is free at once",
    ],
    traps.test_a_request_to_void_is_not_sent_because_an_older_message_was: [
        "an older message is not the request to void"
    ],
    traps.test_old_events_are_forgotten_and_unsent_ones_are_not: [
        "what is unsent is kept",
        "what is young is kept",
        "what was heard lately is kept",
    ],
}


@pytest.fixture(scope="module")
def database(template: str) -> Iterator[Database]:
    """One for all mutants: making one takes longer than most traps."""
    made = asyncio.run(make_database(template))
    yield made
    asyncio.run(drop_database(made))


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    yield connection
    await connection.close()


@contextlib.asynccontextmanager
async def mutated(owner: asyncpg.Connection, changes: tuple[str, ...]) -> AsyncIterator[None]:
    """The functions as they are, but for ``changes``; afterwards as they are."""
    await mutate(owner, *changes)
    try:
        yield
    finally:
        await mutate(owner, changes[0], changes[0])


async def spring(authority: Authority, owner: asyncpg.Connection, *the: Trap | str) -> None:
    for trap in the:
        # some traps count all there are
        await owner.execute("TRUNCATE outbox, inbox, payment, purchase, line, quota, operation")
        if isinstance(trap, str):
            await traps.test_every_outcome_in_every_state_twice(authority, owner, trap)
        else:
            await trap(await traps.opened(authority, owner))


async def test_without_a_mutation_every_trap_comes_out(authority: Authority, owner: asyncpg.Connection) -> None:
    await spring(authority, owner, *TRAPS)  # the lives are tests of their own


@pytest.mark.parametrize("guard", GUARDS)
async def test_a_missing_guard_is_noticed(authority: Authority, owner: asyncpg.Connection, guard: str) -> None:
    authority.call_s = SHOWS_SECONDS
    first = [trap for trap, guards in NOTICED_BY.items() if guard in guards]
    async with mutated(owner, GUARDS[guard]):
        with pytest.raises(NOTICED):
            await spring(authority, owner, *first, *TRAPS, *traps.LIVES)


@pytest.mark.parametrize("guard", SORTED)
async def test_a_missing_order_is_noticed(
    authority: Authority, owner: asyncpg.Connection, database: Database, guard: str
) -> None:
    await owner.execute("TRUNCATE outbox, payment, purchase")
    async with mutated(owner, SORTED[guard]):
        with pytest.raises((asyncpg.LockNotAvailableError, AssertionError)):  # the latter: nobody waited
            await traps.check_lock_order(traps.PayingShop(authority, owner), database.owner_url, guard)
