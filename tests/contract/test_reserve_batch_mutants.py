"""Each guard of the SQL taken out, one at a time: some test must notice. A guard nobody would miss is decoration."""

from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources

import asyncpg
import pytest

from flashsale.authority.client import Authority, AuthorityUnavailable, BadBatch
from tests.contract import test_reserve_batch as traps
from tests.contract.shops import TwinShop
from tests.databases import Database

MIGRATIONS = resources.files("flashsale.authority") / "migrations"

# What is replaced, and by what. Sequential guards: one of the named traps must come out otherwise.
SEQUENTIAL = {
    "a rid keeps its verdict": (
        "WHEN t.verdict = 'void' THEN 'fenced' ELSE t.verdict END",
        "WHEN t.verdict = 'void' THEN 'fenced' END",
    ),
    "a rid belongs to one purchase": ("CASE WHEN t.purchase_id <> u.purchase THEN 'malformed'", "CASE"),
    "a rid twice in a batch": ("IF rid_first[i] < i THEN", "IF false THEN"),
    "a rid of another purchase in a batch": (
        "v[rid_first[i]] ELSE 'malformed' END",
        "v[rid_first[i]] ELSE v[rid_first[i]] END",
    ),
    "an older purchase is replayed": ("IF existing[i] IS NOT NULL THEN", "IF false THEN"),
    "its body is compared": ("WHEN existing[i] = a_fingerprint[i]", "WHEN true"),
    "a purchase of this batch is replayed": ("ELSIF winner[purchase_first[i]] IS NOT NULL THEN", "ELSIF false THEN"),
    "its body is compared too": ("WHEN a_fingerprint[winner[purchase_first[i]]] = a_fingerprint[i]", "WHEN true"),
    "unknown SKUs": ("ELSIF is_unknown[i] THEN", "ELSIF false THEN"),
    "mixed sales": ("ELSIF is_mixed[i] THEN", "ELSIF false THEN"),
    "the sale is open": ("WHEN NOT s_open[s] THEN 'sale_not_open'", "WHEN false THEN 'sale_not_open'"),
    "a pause is seen": ("k.state = 'OPEN' AND", ""),
    "the opening is seen": ("k.opens <= v_now AND", ""),
    "the closing is seen": ("AND v_now < k.closes", ""),
    "the queue's deadline": ("WHEN a_queued_until[i] < v_now THEN 'too_late'", ""),
    "the stock": ("WHEN is_short THEN 'sold_out'", ""),
    "every line of a cart": ("is_short := is_short OR", "is_short :="),
    "the limit": ("WHEN q_active[quota_of[i]] + wanted[i] > s_limit[s] THEN 'over_limit'", ""),
    "the limit within a batch": ("q_active[quota_of[i]] := q_active[quota_of[i]] + wanted[i];", ""),
    "stock within a batch": ("s_available[s] := s_available[s] - line_quantity[k];", ""),
    "due holds end first": ("ended := move_purchases(ended, 'expire', v_due);", "ended := NULL;"),
    "ended holds return": ("PERFORM return_units(ended, 'expired', v_now);", ""),
    "verdicts are recorded": ("WHERE a.is_recorded", "WHERE false"),
    "quota is written": ("UPDATE quota q SET active = a.active", "UPDATE quota q SET active = q.active"),
    "hopes that failed are taken back": ("CASE WHEN a.made THEN a.hoped ELSE a.active END", "a.active"),
    "what a buyer holds already counts": ("CASE WHEN a.made THEN 0 ELSE a.active END", "0"),
    "a hope is not a hold": (
        "CASE WHEN a.made THEN 0 ELSE a.active END",
        "CASE WHEN a.made THEN a.hoped ELSE a.active END",
    ),
    "a decided attempt waits for nobody": ("IF v[i] IS NOT NULL OR existing[i]", "IF existing[i]"),
    "a replay waits for nobody": ("OR existing[i] IS NOT NULL OR is_unknown[i]", "OR is_unknown[i]"),
    "who asks for the unknown waits for nobody": ("OR is_unknown[i] OR is_mixed[i] THEN", "OR is_mixed[i] THEN"),
    "who mixes sales waits for nobody": ("OR is_unknown[i] OR is_mixed[i] THEN", "OR is_unknown[i] THEN"),
    "only stock that was locked is written": ("WHERE a.moved AND k.sku = a.sku", "WHERE k.sku = a.sku"),
    "one batch at a time decides a purchase": ("unnest(p_rid || p_purchase)", "unnest(p_rid)"),
    "one batch at a time decides an attempt": ("unnest(p_rid || p_purchase)", "unnest(p_purchase)"),
    "an attempt that is being decided is not given up": ("PERFORM claim_attempts(p_rid, p_purchase);    --", "--"),
    "sold_out stands before over_limit": (
        "WHEN is_short THEN 'sold_out'\n                         WHEN q_active[quota_of[i]] + wanted[i] > s_limit[s] THEN 'over_limit'",
        "WHEN q_active[quota_of[i]] + wanted[i] > s_limit[s] THEN 'over_limit'\n                         WHEN is_short THEN 'sold_out'",
    ),
    "only what moved returns": ("AND c.event = p_event AND c.next <> p.state", "AND c.event = p_event"),
    "a cancel returns units": (
        "PERFORM return_units(move_purchases(ARRAY[p_purchase], 'cancel', v_now), 'cancelled', v_now);",
        "PERFORM move_purchases(ARRAY[p_purchase], 'cancel', v_now);",
    ),
    "a voided attempt stays undecided": ("WHEN t.verdict = 'void' THEN 'fenced'", ""),
    "a cancel locks its purchase": (
        "WHERE id = p_purchase AND buyer = p_buyer FOR NO KEY UPDATE;",
        "WHERE id = p_purchase AND buyer = p_buyer;",
    ),
    "a sweep skips what others hold": (
        "ORDER BY deadline, id LIMIT p_max FOR NO KEY UPDATE SKIP LOCKED",
        "ORDER BY deadline, id LIMIT p_max",
    ),
    "a batch skips what others hold": (
        "ORDER BY p.deadline, p.id LIMIT ended_max FOR NO KEY UPDATE SKIP LOCKED",
        "ORDER BY p.deadline, p.id LIMIT ended_max FOR NO KEY UPDATE",
    ),
    "stock is locked before it is read": (
        "WHERE k.sku = ANY (lock_sku) ORDER BY k.sku FOR NO KEY UPDATE;",
        "WHERE k.sku = ANY (lock_sku) ORDER BY k.sku;",
    ),
    "quota is locked before it is read": (
        "ORDER BY q.sale_id, q.buyer FOR NO KEY UPDATE OF q;",
        "ORDER BY q.sale_id, q.buyer;",
    ),
}
# Orders of insertion and locking: by arrival instead, which is the reverse in the test.
SORTED = {
    "purchases are claimed in order": ("ORDER BY claim) c", "ORDER BY claim DESC) c"),
    "quotas are made in order": (
        "u (sale, buyer, hoped)\n        ON CONFLICT DO NOTHING",
        "u (sale, buyer, hoped) ORDER BY 1, 2 DESC\n        ON CONFLICT DO NOTHING",
    ),
    "quotas are locked in order": (
        "ORDER BY q.sale_id, q.buyer FOR NO KEY UPDATE OF q;",
        "ORDER BY q.buyer DESC FOR NO KEY UPDATE OF q;",
    ),
    "stock is locked in order": ("ORDER BY k.sku FOR NO KEY UPDATE;", "ORDER BY k.sku DESC FOR NO KEY UPDATE;"),
}

Trap = Callable[[TwinShop], Awaitable[None]]
TRAPS: list[Trap] = [
    traps.test_the_same_key_twice_in_one_batch_is_one_purchase,
    traps.test_the_same_key_with_another_body_is_told_so,
    traps.test_two_keys_at_the_limit,
    traps.test_mixed_quantities_against_little_stock,
    traps.test_a_loser_then_a_winner_on_one_key,
    traps.test_a_refusal_is_not_pinned,
    traps.test_a_cart_is_held_whole_or_not_at_all,
    traps.test_replay_while_paused_ended_and_sold_out,
    traps.test_a_lapsed_hold_frees_its_units_and_its_buyer_at_once,
    traps.test_precedence_pairwise,
    traps.test_one_rid_is_decided_once,
    traps.test_cancelling_twice_returns_once,
    traps.test_a_voided_attempt_is_never_decided,
    traps.test_one_rid_twice_in_one_batch_is_decided_once,
    traps.test_any_line_that_is_short_refuses_the_cart,
    traps.test_a_cancel_that_had_to_wait_sees_what_it_waited_for,
    traps.test_ending_due_holds_never_waits,
    traps.test_a_decision_waits_for_what_somebody_is_changing,
    traps.test_who_waits_for_stock_holds_the_quota,
    traps.test_who_needs_nothing_waits_for_nobody,
    traps.test_one_batch_at_a_time_decides_a_purchase,
    traps.test_one_batch_at_a_time_decides_an_attempt,
    traps.test_who_gives_an_attempt_up_waits_for_whoever_decides_it,
]


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    yield connection
    await connection.close()


SHOWS_SECONDS = 3.0  # a missing guard may show as a wait without end, for which no test need wait


async def mutate(owner: asyncpg.Connection, *changes: str) -> None:
    """Replace every function that has the first of ``changes`` by its mutant: old text, new text, old, new, ..."""
    pairs = list(zip(changes[::2], changes[1::2], strict=True))
    hits = 0
    for file in MIGRATIONS.iterdir():
        for function in file.read_text("utf-8").split("CREATE FUNCTION ")[1:]:
            if pairs[0][0] in function:
                mutant = function.split("END $$;")[0] + "END $$;"
                for old, new in pairs:
                    assert old in mutant, f"the mutant of {old!r} is out of date"
                    mutant = mutant.replace(old, new)
                await owner.execute("CREATE OR REPLACE FUNCTION " + mutant)
                hits += 1
    assert hits, f"no migration has {pairs[0][0]!r}; the mutant is out of date"


async def test_without_a_mutation_every_trap_comes_out(owner: asyncpg.Connection, authority: Authority) -> None:
    for trap in TRAPS:
        await trap(TwinShop(authority, owner))


@pytest.mark.parametrize("guard", SEQUENTIAL)
async def test_a_missing_guard_is_noticed(owner: asyncpg.Connection, authority: Authority, guard: str) -> None:
    authority.call_s = SHOWS_SECONDS
    await mutate(owner, *SEQUENTIAL[guard])
    for trap in TRAPS:
        try:
            await trap(TwinShop(authority, owner))
        except (AssertionError, ValueError, TimeoutError, asyncpg.PostgresError, AuthorityUnavailable, BadBatch):
            return
    pytest.fail(f"every trap came out as if nothing were missing without: {guard}")


@pytest.mark.parametrize("guard", SORTED)
async def test_a_missing_order_is_noticed(
    owner: asyncpg.Connection, authority: Authority, database: Database, guard: str
) -> None:
    await mutate(owner, *SORTED[guard])
    with pytest.raises(asyncpg.LockNotAvailableError):
        await traps.check_lock_order(TwinShop(authority, owner), database.owner_url, guard)
