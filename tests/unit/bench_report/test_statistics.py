"""What a few trials allow to be said: a test per rule, which fails without it."""

import math

import numpy as np
import pytest

from benchmarks.report import statistics
from benchmarks.report.statistics import ALL_KEPT, NONE_KEPT, RATIO, SHARE, Judged, Scale, Value, Winner

SEED = 1
LESS, MORE = False, True


def pairs(*ratios: float, a: float = 100.0) -> list[tuple[Value, Value]]:
    return [(Value(a), Value(a * ratio)) for ratio in ratios]


QUIET = pairs(1.01, 0.99, 1.005)  # a backend that differs from itself by a hundredth
SLOWER = pairs(1.10, 1.11, 1.09, 1.105, 1.095, 1.10)
EQUAL = pairs(1.01, 0.99, 1.00, 1.005, 0.995, 1.0)


def judged(
    found: list[tuple[Value, Value]],
    same: list[tuple[Value, Value]] = QUIET,
    *,
    scale: Scale = RATIO,
    more_is_better: bool = LESS,
    beside: int = 0,
) -> Judged:
    """One row's answer, with so many other rows that show nothing."""
    row = (statistics.compared(found, same, scale, SEED), more_is_better)
    nothing = (statistics.compared(EQUAL, QUIET, RATIO, SEED), LESS)
    return statistics.judge([row, *[nothing] * beside])[0]


def test_a_tenth_more_is_found_and_less_is_better_or_more_is() -> None:
    found = statistics.effect(SLOWER, QUIET, RATIO, SEED)
    assert found is not None
    assert RATIO.shown(found.estimate) == pytest.approx(1.10, abs=0.001)
    assert 1.09 < RATIO.shown(found.low) < 1.10 < RATIO.shown(found.high) < 1.11
    assert judged(SLOWER, more_is_better=LESS).winner is Winner.A
    assert judged(SLOWER, more_is_better=MORE).winner is Winner.B


def test_equal_things_are_a_tie_and_unsteady_ones_are_not() -> None:
    assert judged(EQUAL).winner is Winner.TIE
    unsteady = judged(pairs(1.3, 0.8, 1.2, 0.7, 1.1, 0.95))
    assert unsteady.winner is Winner.INCONCLUSIVE
    assert unsteady.reason.endswith("the interval has room for more")


def test_five_pairs_decide_nothing() -> None:
    assert judged(SLOWER[:5]).reason == "5 pairs, and fewer than 6 decide nothing"
    assert judged(EQUAL[:5]).winner is Winner.INCONCLUSIVE
    assert judged(SLOWER[:1]).reason == "one pair, and fewer than 6 decide nothing"
    assert judged([]).reason == "no valid pair to compare"


def test_what_the_same_thing_differs_by_wins_nothing() -> None:
    for noise in (1.102, 1.2):
        assert judged(SLOWER, pairs(noise, 0.99, 1.0)).reason.startswith("no more than noise")
    assert judged(pairs(1.06, 0.95, 1.05, 0.94, 1.06, 0.96), pairs(1.12, 0.99, 1.0)).winner is Winner.TIE
    assert judged(SLOWER, QUIET[:2]).reason.endswith("its noise is not known")


def test_a_difference_nobody_would_notice_wins_nothing() -> None:
    small = pairs(1.03, 1.031, 1.029, 1.03, 1.032, 1.028)
    found = statistics.effect(small, QUIET, RATIO, SEED)
    assert found is not None
    assert found.p < 0.001
    assert judged(small).winner is Winner.TIE


def test_the_threshold_is_compared_unrounded() -> None:
    # 1.0501 and 1.0499 are both "1.05"
    assert judged(pairs(*[1.0501, 1.0501001] * 3)).winner is Winner.A
    assert judged(pairs(*[1.0499, 1.0499001] * 3)).winner is Winner.TIE


def test_a_finding_among_many_rows_must_be_stronger() -> None:
    weak = pairs(1.20, 1.02, 1.25, 1.05, 1.22, 1.12)
    assert judged(weak).winner is Winner.A
    crowd = [
        (statistics.compared(EQUAL[:5], QUIET, RATIO, SEED), LESS)
    ] * 20  # of too few pairs each, which counts for nothing
    assert statistics.judge([(statistics.compared(weak, QUIET, RATIO, SEED), LESS), *crowd])[0].winner is Winner.A
    assert judged(weak, beside=20).reason == "may be chance, once all rows are counted"


def test_signs_must_agree_whatever_the_mean_says() -> None:
    # A t-test finds these: an effect that is large in eight blocks of nine, and turned round in the one that is left.
    found = statistics.effect(pairs(*[1.4] * 6, 0.99), QUIET, RATIO, SEED)
    assert found is not None
    assert found.p < found.p_exact < 0.05
    mixed = statistics.Effect(RATIO, 6, 0.2, 0.1, 0.3, 0.01, 0.06, 0.01, 1.0)
    assert statistics.judge([(mixed, LESS)])[0].reason == "the blocks do not agree on the sign"


def test_an_interval_that_includes_equality_wins_nothing() -> None:
    assert judged(pairs(1.5, 0.9, 1.4, 0.95, 1.3, 0.97)).winner is Winner.INCONCLUSIVE


def test_pairs_are_of_a_block_and_a_slow_block_is_everybodys() -> None:
    # the machine is five times slower in every second block
    slow = [
        (Value(100.0 * by), Value(110.0 * by * wobble)) for by, wobble in zip([1, 5] * 3, [1, 1.001] * 3, strict=True)
    ]
    assert judged(slow).winner is Winner.A


def test_wrong_books_disqualify_whatever_the_speed() -> None:
    row = (statistics.compared(SLOWER, QUIET, RATIO, SEED), LESS)
    (answer,) = statistics.judge([row], ["asyncio_redis sold 1 unit too many"])
    assert answer == Judged(Winner.DISQUALIFIED, "asyncio_redis sold 1 unit too many")


def test_a_bound_may_lose_and_never_win_or_tie() -> None:
    def bounded(found: list[tuple[Value, Value]], *, a: bool = False, b: bool = False) -> list[tuple[Value, Value]]:
        return [(Value(x.number, is_bound=a), Value(y.number, is_bound=b)) for x, y in found]

    assert judged(bounded(SLOWER, b=True)).winner is Winner.A  # B is at least so slow
    assert judged(bounded(SLOWER, a=True)).winner is Winner.INCONCLUSIVE  # A may be slower still
    assert judged(bounded(EQUAL, b=True)).winner is Winner.INCONCLUSIVE


def test_shares_are_compared_by_difference_because_none_is_no_ratio() -> None:
    none = [(Value(0.0), Value(0.0))] * 6
    assert judged(none, none, scale=SHARE).winner is Winner.TIE
    some = [(Value(0.0), Value(0.02 + step / 1000)) for step in range(6)]
    assert judged(some, none, scale=SHARE).winner is Winner.A
    for of in (none, [*none, *SLOWER[:1]], none[:1]):
        assert judged(of, scale=RATIO).reason == "a zero has no ratio, and fewer than two pairs are without one"


STEPS = statistics.ladder([400, 100, 200])


def kept(a: float, b: float) -> list[tuple[Value, Value]]:
    """Six blocks in which these were the highest steps kept up with; of the last one nobody knows what more."""
    return [(Value(a, is_bound=a == 400), Value(b, is_bound=b == 400))] * 6


def test_what_is_known_by_steps_wins_by_a_step_and_is_never_equal() -> None:
    assert judged(kept(400, 200), scale=STEPS, more_is_better=MORE).winner is Winner.A  # and A may bear still more
    assert judged(kept(100, 200), scale=STEPS, more_is_better=MORE).winner is Winner.B
    same = judged(kept(200, 200), scale=STEPS, more_is_better=MORE)
    assert (same.winner, same.reason) == (
        Winner.INCONCLUSIVE,
        "the same step, and what lies between two is not known",
    )
    most = judged(kept(400, 400), scale=STEPS, more_is_better=MORE)
    assert (most.winner, most.reason) == (Winner.INCONCLUSIVE, ALL_KEPT)
    mixed = [*kept(200, 200)[:5], (Value(200.0), Value(100.0))]  # a step in one block of six is no finding, and no tie
    assert judged(mixed, scale=STEPS, more_is_better=MORE).winner is Winner.INCONCLUSIVE


def test_who_keeps_up_with_no_step_may_lose_and_is_not_on_the_first() -> None:
    def none(other: float, *, first: bool) -> Judged:
        none, some = Value(100.0, is_below=True), Value(other, is_bound=other == 400)
        return judged([(none, some) if first else (some, none)] * 6, scale=STEPS, more_is_better=MORE)

    for other in (200, 400):
        assert (none(other, first=True).winner, none(other, first=False).winner) == (Winner.B, Winner.A)
    assert [none(100, first=first).reason for first in (True, False)] == [NONE_KEPT] * 2
    # who wins must not have been below the first step anywhere: it would be larger for what is not known
    mixed = [(Value(100.0), Value(200.0))] * 5 + [(Value(100.0), Value(210.0, is_below=True))]
    assert judged(mixed, scale=STEPS, more_is_better=MORE).reason == NONE_KEPT
    narrow = statistics.ladder([100, 101])
    assert judged([(Value(100.0, is_below=True), Value(100.0))] * 6, scale=narrow).winner is Winner.INCONCLUSIVE


def test_a_step_less_than_noise_wins_nothing() -> None:
    noisy = pairs(2.5, 1.0, 0.9)
    assert judged(kept(100, 200), noisy, scale=STEPS, more_is_better=MORE).winner is Winner.INCONCLUSIVE
    assert judged(kept(100, 200), [], scale=STEPS, more_is_better=MORE).reason.endswith("its noise is not known")


def test_a_quantile_is_told_only_where_ten_lie_beyond_it() -> None:
    thousand = np.arange(1, 1001, dtype=np.float64)
    assert statistics.quantile(thousand, 0, 0.99) == Value(990.0)
    assert statistics.quantile(thousand[:999], 0, 0.99) is None
    assert statistics.quantile(thousand, 0, 0.999) is None
    assert statistics.quantile(thousand, 0, 0.5) == Value(500.0)


def test_who_was_never_decided_is_later_than_everybody() -> None:
    decided = np.arange(1, 971, dtype=np.float64)
    assert statistics.quantile(decided, 30, 0.95) == Value(950.0)
    assert statistics.quantile(decided, 30, 0.99) == Value(970.0, is_bound=True)
    assert statistics.quantile(np.array([]), 1000, 0.5) is None


def test_an_average_of_survivors_is_a_bound() -> None:
    assert statistics.average(np.full(990, 2.0), 10) == Value(2.0)
    assert statistics.average(np.full(989, 2.0), 11) == Value(2.0, is_bound=True)
    assert statistics.average(np.array([]), 5) is None


def test_holm_is_what_the_book_says() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_signs_alone_give_what_counting_gives() -> None:
    for count in (6, 8, 10):
        found = statistics.effect(pairs(*[1.1 + step / 1000 for step in range(count)]), [], RATIO, SEED)
        assert found is not None
        assert found.p_exact == pytest.approx(2 / 2**count)


def test_intervals_cover_and_do_not_depend_on_the_run() -> None:
    rng = np.random.default_rng(7)
    values = list(rng.lognormal(0, 0.2, 12))
    found = statistics.middle(values, SEED)
    assert found == statistics.middle(values, SEED)
    assert found is not None
    median, low, high = found
    assert low < median < high
    assert statistics.middle([3.0, 1.0, 2.0], SEED) == (2.0, 1.0, 3.0)
    assert statistics.middle([5.0] * 8, SEED) == (5.0, 5.0, 5.0)
    assert statistics.middle([], SEED) is None


def test_none_in_thirty_is_not_none_ever() -> None:
    at_most = statistics.at_most(0, 30)
    assert at_most is not None
    assert at_most == pytest.approx(1 - 0.05 ** (1 / 30))
    assert statistics.at_most(0, 0) is None


def test_two_runs_are_compared_without_pairs() -> None:
    found = statistics.hodges_lehmann([100, 101, 99, 100, 102], [120, 119, 121, 122, 120], RATIO)
    assert found is not None
    assert math.exp(found[0]) == pytest.approx(1.2, abs=0.01)
    assert found[1] < 0.05
    assert statistics.hodges_lehmann([1.0] * 5, [1.0] * 5, RATIO) == (0.0, 1.0)
    assert statistics.hodges_lehmann([0.0], [1.0], RATIO) is None
    assert statistics.hodges_lehmann([], [1.0], RATIO) is None


def test_equal_backends_hardly_ever_have_a_winner() -> None:
    """Two equal backends with a noise of 3 %, fifty times: a winner hardly ever, a tie nearly always."""
    rng = np.random.default_rng(3)
    answers = []
    for _ in range(50):
        same = pairs(*np.exp(rng.normal(0, 0.03, 4)))
        answers.append(judged(pairs(*np.exp(rng.normal(0, 0.03, 10))), same).winner)
    assert answers.count(Winner.A) + answers.count(Winner.B) <= 1
    assert answers.count(Winner.TIE) >= 40
