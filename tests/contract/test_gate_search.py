"""Every interleaving of small casts around the gate, and proof that the search sees: each guard taken away is noticed.

The casts are walked to their end in seconds. ``FLASH_TEST_SEARCH_DEPTH=N`` takes everybody at once N steps far instead of 6,
and by chance four times as often to the end per further step (7: 30 s; 8: 2 minutes and 2 GB; each further one four times that).
"""

import os
from uuid import UUID

import pytest

from flashsale.gate.client import SCRIPTS
from tests.unit.gate.gate_world import (
    Actor,
    Laws,
    Search,
    Violation,
    actor_applier,
    actor_attempt,
    actor_other_backend,
)

DEPTH_ASKED = int(os.environ.get("FLASH_TEST_SEARCH_DEPTH", "0"))
WALKS_USUAL = 150  # of some thirty steps each
DEPTH_USUAL = 6  # 90,000 states, seven seconds

ANA, BEN = actor_attempt(1, purchase=1), actor_attempt(2, purchase=2)
ANA_AGAIN = actor_attempt(3, purchase=1)
BEN_ELSEWHERE = actor_other_backend(4, purchase=2)
ANA_CANCELS, BEN_CANCELS = (Actor(f"cancel{number}", "cancel", (UUID(int=number),)) for number in (1, 2))
MERCHANT_PAUSES = Actor("merchant", "pause")
CLOCK = Actor("clock", "tick", (1,))
JANITOR, OTHER_JANITOR = Actor("janitor1", "fence"), Actor("janitor2", "fence")
KEEPER, OTHER_KEEPER = Actor("keeper1", "suspect", (1,)), Actor("keeper2", "suspect", (1,))
RESENDING_KEEPER = Actor("keeper3", "suspect", (2,))
REDIS_RESTARTS_OLDER = Actor("redis", "save")
REDIS_IS_EMPTIED = Actor("redis", "flush")
PROBE = Actor("probe", "probe")
APPLIER = actor_applier("applier", rounds=2, rows_max=9)
ONE_ROUND = actor_applier("applier1", rounds=1, rows_max=9)
THREE_ROUNDS = actor_applier("applier3", rounds=3, rows_max=9)
IN_PIECES = actor_applier("piecewise", rounds=2, rows_max=1)

CASTS = {
    "the last unit": (ANA, BEN, ANA_CANCELS, APPLIER, CLOCK),
    "one wish twice": (ANA, ANA_AGAIN, ANA_CANCELS, APPLIER, CLOCK),
    "the other backend": (ANA, BEN_ELSEWHERE, BEN_CANCELS, IN_PIECES, CLOCK),
    "two appliers": (ANA, BEN_ELSEWHERE, BEN_CANCELS, IN_PIECES, ONE_ROUND),
    "two janitors": (ANA, BEN, JANITOR, OTHER_JANITOR, ONE_ROUND),
    "a pause": (ANA, MERCHANT_PAUSES, IN_PIECES, CLOCK),
    "two keepers": (ANA, BEN, KEEPER, OTHER_KEEPER, ONE_ROUND),
    "keeper and janitor": (ANA, ANA_CANCELS, JANITOR, KEEPER, ONE_ROUND, CLOCK),
    "a file from the past": (ANA, BEN, REDIS_RESTARTS_OLDER, KEEPER, ONE_ROUND),
    "a past and a janitor": (ANA, REDIS_RESTARTS_OLDER, KEEPER, JANITOR, ONE_ROUND),
    "a past without stock": (ANA, BEN_ELSEWHERE, BEN_CANCELS, REDIS_RESTARTS_OLDER, THREE_ROUNDS),
    "nothing left": (ANA, BEN, REDIS_IS_EMPTIED, KEEPER, ONE_ROUND),
    "an init sent twice": (ANA, BEN, RESENDING_KEEPER, OTHER_KEEPER),
    "a probe of the last unit": (ANA, BEN_ELSEWHERE, ANA_CANCELS, PROBE, APPLIER),
    "a probe and a janitor": (ANA, BEN, JANITOR, PROBE, APPLIER),
    "a probe and a keeper": (ANA, BEN_ELSEWHERE, KEEPER, PROBE, ONE_ROUND),
    "a probe and the past": (ANA, REDIS_RESTARTS_OLDER, KEEPER, PROBE, ONE_ROUND),
    "a probe and nothing left": (ANA, BEN, REDIS_IS_EMPTIED, KEEPER, PROBE),
}
EVERYBODY = (
    ANA,
    BEN,
    ANA_AGAIN,
    BEN_ELSEWHERE,
    ANA_CANCELS,
    MERCHANT_PAUSES,
    CLOCK,
    JANITOR,
    KEEPER,
    OTHER_KEEPER,
    REDIS_RESTARTS_OLDER,
    IN_PIECES,
    APPLIER,
)


@pytest.mark.parametrize("cast", CASTS)
def test_whatever_happens_in_whatever_order_the_gate_can_be_made_right(cast: str) -> None:
    assert Search(CASTS[cast]).run() > 500


@pytest.mark.timeout(0)
def test_everybody_at_once_for_as_many_steps_as_asked() -> None:
    assert Search(EVERYBODY).run(depth=DEPTH_ASKED or DEPTH_USUAL) > 500


@pytest.mark.timeout(0)
def test_everybody_at_once_to_the_end_by_chance() -> None:
    walks = WALKS_USUAL * 4 ** max(DEPTH_ASKED - DEPTH_USUAL, 0)
    assert Search((*EVERYBODY, PROBE)).wander(walks, seed=walks) > walks * 10


def without(script: str, *changes: tuple[str, str]) -> Laws:
    """The laws with a guard taken out of one script."""
    source = SCRIPTS[script]
    for guard, instead in changes:
        assert source.count(guard) == 1, f"{script}.lua has changed; find the guard {guard!r} again"
        source = source.replace(guard, instead)
    return Laws(scripts={**SCRIPTS, script: source})


RUN_ID = ("gate[2] ~= run_id or ", "")
NO_RUN_ID = {**without("reserve", RUN_ID).scripts, "apply": without("apply", RUN_ID).scripts["apply"]}

# Guard, the laws without it, and a cast that notices.
MUTANTS = {
    "apply: rows follow the cursor": (without("apply", ("here ~= cursor", "false")), "two appliers"),
    "apply: own holds are not taken twice": (without("apply", ("ARGV[i + 2] ~= '1'", "true")), "the last unit"),
    "apply: other backends' holds are taken": (
        without("apply", ("ARGV[i + 2] ~= '1'", "ARGV[i + 3] == ''")),
        "the other backend",
    ),
    "apply: the epoch the rows were judged under": (without("apply", ("gate[1] ~= epoch or ", "")), "two keepers"),
    "apply: a stamp only for the latest row": (
        without("apply", ("cursor == latest then", "true then")),
        "the other backend",
    ),
    "apply: winners enter won": (without("apply", ("won[#won + 1] = ARGV[i + 3]", "")), "the other backend"),
    "settle: only while pending": (
        without("settle", ("redis.call('HDEL', base .. 'pending', ARGV[i])", "")),
        "the last unit",
    ),
    "settle: winners enter won": (without("settle", ("if keep then", "if false then")), "the last unit"),
    "settle: only a hold keeps": (Laws(keep_only_held=False), "the last unit"),
    "init: an older epoch is refused": (
        without("init", ("epoch <= old", "false")),
        "an init sent twice",
    ),
    "init: its own epoch is refused": (
        without("init", ("epoch <= old", "epoch < old")),
        "an init sent twice",
    ),
    "init: pending is forgotten": (without("init", ("base .. 'pending', ", "")), "two keepers"),
    "init: won is there": (without("init", ("SADD", "SISMEMBER")), "two keepers"),
    "reserve: winners ask": (
        without("reserve", ("redis.call('SISMEMBER', base .. 'won', purchase) == 1\n  or ", "")),
        "the last unit",
    ),
    "reserve: a wish under decision asks": (
        without("reserve", ("\n  or redis.call('HEXISTS', base .. 'pending_purchase', purchase) == 1", "")),
        "the last unit",
    ),
    "reserve: an old copy does not say sold_out": (
        without("reserve", ("gone or (fresh and ", "gone or (")),
        "the last unit",
    ),
    "reserve: an old copy does not say sale_not_open": (
        without("reserve", ("closed or (fresh and ", "closed or (")),
        "a pause",
    ),
    "reserve: pending units may return": (
        without("reserve", ("available + tonumber(stock[2]) < quantity", "available < quantity")),
        "the last unit",
    ),
    "reserve: not from another life of Redis": (without("reserve", RUN_ID), "a past without stock"),
    "janitor: the fence comes first": (Laws(fence_first=False), "two janitors"),
    "applier: the stamp comes first": (Laws(stamp_before_read=False), "the last unit"),
    "keeper: another life of Redis is noticed": (Laws(NO_RUN_ID, heed_run_id=False), "a file from the past"),
}


@pytest.mark.parametrize("guard", MUTANTS)
def test_a_missing_guard_is_noticed(guard: str) -> None:
    laws, cast = MUTANTS[guard]
    with pytest.raises(Violation):
        Search(CASTS[cast], laws).run()


@pytest.mark.parametrize("cast", ["a probe of the last unit", "a probe and a janitor"])
def test_a_probe_that_reads_postgresql_first_is_misled(cast: str) -> None:
    # A hold committed and settled between its two reads is neither pending nor below the cursor.
    with pytest.raises(Violation, match="a probe sees a drift"):
        Search(CASTS[cast], Laws(probe_gate_first=False)).run()


@pytest.mark.parametrize("cast", ["a probe of the last unit", "a probe and a janitor"])
def test_a_probe_sees_a_true_drift_to_the_unit_while_things_move(cast: str) -> None:
    # Why equal differences may be counted across movements; and that no false one is seen is not for want of comparing.
    search = Search(CASTS[cast], drift=3)
    assert search.run() > 500
    assert search.compared > 50


def test_a_rid_used_again_without_its_debit_goes_wrong() -> None:
    # Why an attempt whose reserve got no answer needs a fresh rid to ask PostgreSQL: the debit may have happened, the row
    # would say that no gate debited it, and the gate would take the unit twice.
    with pytest.raises(Violation):
        Search((ANA, actor_other_backend(1, purchase=1), ONE_ROUND)).run()


def test_an_image_sent_again_after_redis_was_emptied_goes_wrong() -> None:
    # Why Gate.init must not be retried: no epoch check can know that the gate had this epoch before.
    with pytest.raises(Violation):
        Search((ANA, RESENDING_KEEPER, REDIS_IS_EMPTIED)).run()
