"""Upkeep's decisions, from snapshots to actions."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from flashsale.authority.client import Expired, Movement, Movements
from flashsale.contract.wire import Line
from flashsale.gate.client import GateView, ItemView, Pending, Row, Settlement
from flashsale.upkeep import expiry, plan, rounds

AT = datetime(2030, 1, 1, tzinfo=UTC)
RID, OTHER = UUID(int=1), UUID(int=2)


def view(*, epoch: int = 3, same_run: bool = True, pending: tuple[Pending, ...] = (), count: int | None = None,
         **items: tuple[int, int]) -> GateView:  # fmt: skip
    found = {sku: ItemView(*item) for sku, item in items.items()}
    return GateView(0, epoch, same_run, len(pending) if count is None else count, found, pending)


@pytest.mark.parametrize(
    ("seen", "epoch", "cause"),
    [
        (view(hat=(4, 1)), 3, None),
        (view(hat=(4, 1)), None, None),
        (view(epoch=0, same_run=False, hat=(-1, 0)), 3, plan.Cause.MISSING),
        (view(same_run=False, hat=(4, 1)), 3, plan.Cause.OTHER_RUN),
        (view(hat=(4, 1), shoe=(-1, 0)), 3, plan.Cause.UNKNOWN_SKU),
        (view(hat=(4, 1)), 4, plan.Cause.EPOCH),
        (view(hat=(4, 1)), 2, plan.Cause.EPOCH),
        (view(epoch=0)._replace(damage="won is no set"), None, plan.Cause.DAMAGED),
    ],
)
def test_diagnosis(seen: GateView, epoch: int | None, cause: plan.Cause | None) -> None:
    assert plan.diagnose(seen, epoch) is cause


def test_a_row_is_the_gates_own_only_if_a_hold_of_its_epoch() -> None:
    moves = (
        Movement(5, -1, "hold", 3, RID),
        Movement(6, -1, "hold", 2, OTHER),
        Movement(7, -1, "hold", None, OTHER),
        Movement(8, 1, "return", None, RID),
        Movement(9, 0, "sale", None, None),
    )
    step = plan.step("hat", 4, 3, Movements(9, 3, 7, "OPEN", AT, AT, 2, moves))
    assert step.rows == (
        Row(5, -1, own=True, purchase=RID),
        Row(6, -1, own=False, purchase=OTHER),
        Row(7, -1, own=False, purchase=OTHER),
        Row(8, 1, own=False, purchase=None),
        Row(9, 0, own=False, purchase=None),
    )
    assert (step.cursor, step.item.seq, step.item.opens_ms) == (4, 9, int(AT.timestamp() * 1000))


def test_only_a_hold_keeps_its_units() -> None:
    assert plan.settlements({RID: "held", OTHER: "void"}) == [Settlement(RID, keep=True), Settlement(OTHER, keep=False)]


def test_undecided_debits_are_no_drift() -> None:
    pending = (Pending(RID, RID, (Line("hat", 2),)), Pending(OTHER, OTHER, (Line("hat", 1), Line("scarf", 1))))
    found = plan.drifts(view(pending=pending, hat=(4, 7), scarf=(2, 0)), {OTHER}, {"hat": (9, 4), "scarf": (1, 2)})
    assert (found["hat"].units, found["scarf"].units) == (0, -1)


def test_what_moved_or_was_listed_in_part_is_not_compared() -> None:
    assert plan.drifts(view(hat=(4, 7)), (), {"hat": (9, 5)}) == {}
    assert plan.drifts(view(hat=(4, 7), count=1), (), {"hat": (9, 4)}) == {}
    assert plan.drifts(view(hat=(4, 7)), (), {}) == {}


def confirmations(*drifts: plan.Drift | None) -> list[bool]:
    """What a watch says to each probe of one SKU; None: it could not be compared."""
    watch = plan.DriftWatch()
    return [watch.confirmed({} if drift is None else {"hat": drift}) for drift in drifts]


STILL = plan.Drift(2, 3, 4, ())
MOVING = [STILL._replace(cursor=cursor) for cursor in range(10)]


def test_a_drift_counts_when_it_stands_still_for_three_probes_and_then_from_one_again() -> None:
    assert confirmations(STILL, STILL, STILL, STILL, STILL) == [False, False, True, False, False]
    assert confirmations(MOVING[0], STILL, STILL, STILL) == [False, False, False, True]


def test_a_drift_counts_when_it_is_the_same_in_five_probes_while_things_move() -> None:
    assert confirmations(*MOVING[:6]) == [False, False, False, False, True, False]
    pending = [STILL._replace(pending=(UUID(int=number),)) for number in range(5)]
    assert confirmations(*pending) == [False, False, False, False, True]


def test_a_probe_that_compares_nothing_says_nothing() -> None:
    assert confirmations(None, MOVING[0], None, MOVING[1], None, None, *MOVING[2:5])[-1]
    assert confirmations(STILL, None, STILL, None, STILL)[-1]


@pytest.mark.parametrize("between", [STILL._replace(units=0), STILL._replace(units=1), STILL._replace(epoch=4)])
def test_another_difference_starts_the_count_again(between: plan.Drift) -> None:
    assert not any(confirmations(STILL, STILL, between, STILL, STILL))
    assert not any(confirmations(*MOVING[:4], between, *MOVING[4:8]))


def test_a_sale_that_is_over_is_forgotten() -> None:
    watch = plan.DriftWatch()
    assert not any(watch.confirmed({"hat": STILL}) for _ in range(2))
    watch.forget(["hat", "scarf"])
    assert not watch.confirmed({"hat": STILL})


def test_another_keeper_has_a_moment_between_raise_and_init() -> None:
    patience = plan.Patience()
    assert not patience.is_over("sale", (3, 4), 10.0)
    assert not patience.is_over("sale", (3, 5), 10.2)
    assert not patience.is_over("sale", (3, 5), 10.4)
    assert patience.is_over("sale", (3, 5), 10.5)
    patience.end("sale")
    assert not patience.is_over("sale", (3, 5), 11.0)


@pytest.mark.parametrize(
    ("expired", "pause"),
    [
        (Expired(0, None), 1.0),
        (Expired(3, AT + timedelta(seconds=0.4)), 0.4),
        (Expired(0, AT + timedelta(seconds=60)), 1.0),
        (Expired(0, AT - timedelta(seconds=1)), expiry.PAUSE_SECONDS_MIN),
        (Expired(expiry.HOLDS_PER_ROUND_MAX, AT + timedelta(seconds=60)), 0.0),
    ],
)
def test_expiry_sleeps_until_the_next_deadline(expired: Expired, pause: float) -> None:
    assert expiry.pause_after(expired, AT) == pytest.approx(pause)


def test_retries_slow_down_and_stay_bounded() -> None:
    pauses = [rounds.retry_pause(failures) for failures in (1, 2, 3, 5, 50, 10_000)]
    assert pauses == [0.02, 0.04, 0.08, 0.2, 0.2, 0.2]
