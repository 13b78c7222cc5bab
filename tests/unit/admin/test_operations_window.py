"""Counters over the last seconds: rates, restarts, gaps, and percentiles of buckets."""

import pytest

from flashsale.admin.operations.window import GAP_SECONDS, SECONDS, Change, Window, quantile

A, B = ("a", ""), ("b", "")


def window(*looks: tuple[float, dict[tuple[str, str], float], object]) -> Change[tuple[str, str]] | None:
    seen: Window[tuple[str, str]] = Window()
    for look in looks:
        seen.hear(*look)
    return seen.change


def test_one_look_is_no_rate() -> None:
    assert window() is None
    assert window((0, {A: 5}, 1)) is None


def test_what_was_counted_between_two_looks() -> None:
    change = window((0, {A: 5, B: 1}, 1), (2, {A: 9, B: 1}, 1))
    assert change == Change(2, {A: 4, B: 0})
    assert (change.per_s(A), change.per_s(A, B), change.per_s(("c", ""))) == (2, 2, 0)


def test_only_the_last_seconds_count() -> None:
    looks = [(float(second), {A: 100.0 if second == 0 else 100.0 + second}, 1) for second in range(40)]
    change = window((-1.0, {A: 0}, 1), *looks)
    assert change == Change(SECONDS, {A: SECONDS})


def test_a_counter_that_comes_later_was_nothing() -> None:
    assert window((0, {A: 1}, 1), (1, {A: 1, B: 7}, 1)) == Change(1, {A: 0, B: 7})


@pytest.mark.parametrize("life", [1, 2], ids=["by its fall", "by its word"])
def test_a_restart_adds_what_is_counted_since(life: int) -> None:
    assert window((0, {A: 90}, 1), (1, {A: 100}, 1), (2, {A: 3}, life), (3, {A: 8}, life)) == Change(3, {A: 18})


def test_a_restart_that_has_already_counted_more_is_one_by_its_word() -> None:
    assert window((0, {A: 2}, 1), (1, {A: 3}, 1), (2, {A: 50}, 2)) == Change(2, {A: 51})


def test_a_second_restart_forgets_nothing_of_the_first() -> None:
    assert window((0, {A: 10}, 1), (1, {A: 4}, 2), (2, {A: 1}, 3), (3, {A: 2}, 3)) == Change(3, {A: 6})


def test_what_a_new_life_has_not_counted_yet_has_not_fallen() -> None:
    assert window((0, {A: 10, B: 5}, 1), (1, {A: 1}, 2)) == Change(1, {A: 1, B: 0})


def test_one_that_goes_and_comes_back_is_nothing_to_the_others() -> None:
    looks: list[tuple[float, dict[tuple[str, str], float], object]]
    looks = [(0, {A: 500, B: 90}, 1), (1, {A: 510, B: 95}, 1), (2, {A: 520}, 1)]
    assert window(*looks) == Change(2, {A: 20, B: 5})
    assert window(*looks, (3, {A: 530, B: 2}, 1), (4, {A: 540, B: 3}, 1)) == Change(4, {A: 40, B: 8})


def test_what_happened_while_nobody_looked_is_not_of_the_last_seconds() -> None:
    long_ago = 10 + 2 * GAP_SECONDS
    assert window((0, {A: 0}, 1), (1, {A: 1}, 1), (long_ago, {A: 9000}, 1)) is None
    assert window((0, {A: 0}, 1), (long_ago, {A: 9000}, 1), (long_ago + 1, {A: 9002}, 1)) == Change(1, {A: 2})


BOUNDS = (1.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("counts", "share", "value"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([], 0.5, None),
        ([10, 0, 0, 0], 0.5, 0.5),
        ([0, 10, 0, 0], 0.5, 1.5),
        ([0, 10, 0, 0], 1.0, 2.0),
        ([5, 5, 0, 0], 0.5, 1.0),
        ([2, 0, 8, 0], 0.6, 3.0),
        ([0, 0, 0, 3], 0.5, 4.0),
        ([99, 0, 0, 1], 0.999, 4.0),
    ],
)
def test_a_percentile_is_read_off_the_buckets(counts: list[float], share: float, value: float | None) -> None:
    assert quantile(BOUNDS, counts, share) == (None if value is None else pytest.approx(value))
