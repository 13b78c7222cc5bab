"""An open loop: who is due when, what is counted of what came back, and when a point says nothing about the server."""

import itertools

import pytest

from benchmarks.backend.flood import Record, quantile
from benchmarks.backend.overload import HELD, LATER, REFUSED, TIMES, Found, Meant, Point, arrivals, kept, point, section

MEANT = Meant(2, 50, "seed")


def test_equal_seeds_are_equal_crowds_at_the_rate_that_was_asked_for() -> None:
    crowd = arrivals(1_000, 10, "a")
    assert crowd == arrivals(1_000, 10, "a") != arrivals(1_000, 10, "b")
    assert crowd == sorted(crowd)
    assert 0 < crowd[0] < crowd[-1] < 10
    assert len(crowd) == pytest.approx(10_000, rel=0.05)
    gaps = [later - sooner for sooner, later in itertools.pairwise(crowd)]
    assert sum(gap < 0.0001 for gap in gaps) == pytest.approx(950, rel=0.15)  # random, and not one a millisecond


def test_latency_counts_from_the_moment_it_was_due() -> None:
    # ten a second, of which the generator sends the last half a second late; the server takes 100 ms
    due = [number / 10 for number in range(11)]
    sent = [100 + moment + (0.5 if moment > 0.8 else 0) for moment in due]
    record = Record(sent, [moment + 0.1 for moment in sent], [REFUSED] * 11)
    found = point(Meant(1, 10, ""), due, record, 100.0, 0.01)
    assert found.sent_p99_ms == pytest.approx(100)
    assert found.p99_ms == pytest.approx(100)  # who was sent late is answered behind the window
    assert found.lag_p99_ms == pytest.approx(500)
    assert found.is_void


def test_the_first_fifth_and_what_is_answered_after_the_window_are_not_counted() -> None:
    due = [number / 100 for number in range(101)]  # a second
    sent = [moment + 7 for moment in due]
    done = [moment + (0.001 if number < 50 else 5.0) for number, moment in enumerate(sent)]
    statuses = [HELD if number % 10 == 0 else LATER if number % 10 == 1 else REFUSED for number in range(101)]
    found = point(MEANT, due, Record(sent, done, statuses), 7.0, 0.5)
    assert (found.held, found.later, found.refused) == pytest.approx((3 / 0.8, 3 / 0.8, 24 / 0.8))
    assert found.goodput == pytest.approx(27 / 0.8)
    assert found.later_share == pytest.approx(0.1)
    assert found.p50_ms == pytest.approx(1, rel=0.01)
    assert sum(found.statuses.values()) == 101
    assert found.offered == pytest.approx(MEANT.rate, rel=0.02)
    assert not found.is_void


def test_a_generator_that_does_not_keep_up_makes_a_point_void() -> None:
    due = [number / 100 for number in range(101)]
    sent = [moment * 1.2 for moment in due]
    found = point(MEANT, due, Record(sent, sent, [REFUSED] * 101), 0.0, 0.5)
    assert found.offered < 0.95 * MEANT.rate
    assert found.is_void


def of(times: float, goodput: float, *, void: bool = False) -> Point:
    return Point(
        times, 100 * times, 50 * times if void else 100 * times, 1, goodput - 1, 0, 0, 1, 2, 2, 0.1, 0.2, {REFUSED: 3}
    )


def test_what_is_kept_is_of_the_peak_and_void_points_say_nothing() -> None:
    assert kept([of(0.5, 50), of(1, 95), of(2, 100), of(5, 80), of(10, 1, void=True)]) == pytest.approx(0.8)
    assert kept([of(0.5, 50), of(1, 95, void=True)]) == 0.0


@pytest.mark.parametrize(("void", "is_met"), [(False, True), (True, False)])
def test_ten_times_that_were_not_reached_are_not_met(*, void: bool, is_met: bool) -> None:
    points = [of(times, 100, void=void and times == max(TIMES)) for times in TIMES]
    said = section(Found([points, points], [100, 110], 5_000), [])
    (bar,) = said.bars
    assert bar.is_met is is_met
    assert ("10 times" in bar.beside) is is_met
    assert [row[-1] for row in said.rows] == ["", "", "", "", "2 of 2" if void else ""]


def test_a_quantile_is_a_value_that_was_seen() -> None:
    assert quantile([], 0.99) == 0.0
    assert quantile([3.0], 0.5) == 3.0
    assert [quantile([4, 1, 3, 2], q) for q in (0.25, 0.5, 0.51, 0.99)] == [1, 2, 3, 4]
