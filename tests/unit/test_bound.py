"""How many are let in: rule by rule, and in a simulated server that is offered up to ten times what it can do."""

import random
from collections import deque

import pytest

from flashsale.bound import LATE_SECONDS, LIMIT_FIRST, LIMIT_MIN, WINDOW_SECONDS, Bound

MOST = 4096
PATIENCE_SECONDS = 1.0  # of the simulated clients; an answer that comes later is worth nothing
COMMIT_SECONDS = 0.003  # of a simulated batch, however small
SECONDS, WARM_UP_SECONDS = 20.0, 3.0


class Fixed(Bound):
    """What it would be without the reckoning."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.limit = most

    def leave(self, now: float, age_s: float) -> None:  # noqa: ARG002 - the rule's signature
        self.working -= 1


def goodput(bound: Bound, per_second: int, offered: float) -> float:
    """The share of its capacity that a server's answers in time are. It serves whoever waits, in batches, in their order."""
    chance, batch_max = random.Random(1), min(256, per_second // 20)
    now, arrives, good = 0.0, 0.0, 0
    waiting: deque[float] = deque()
    while now < SECONDS:
        batch = min(len(waiting), batch_max)
        ends = max(now, arrives) if not batch else now + max(batch / per_second, COMMIT_SECONDS)
        while arrives <= ends:
            if bound.enter(arrives):
                waiting.append(arrives)
            arrives += chance.expovariate(per_second * offered)
        now = ends
        for _ in range(batch):
            age = now - waiting.popleft()
            bound.leave(now, age)
            good += WARM_UP_SECONDS < now < SECONDS and age <= PATIENCE_SECONDS
    return good / per_second / (SECONDS - WARM_UP_SECONDS)


@pytest.mark.parametrize("per_second", [300, 750, 3_000, 8_000])
def test_goodput_stays_flat_from_once_to_ten_times_the_capacity(per_second: int) -> None:
    shares = [goodput(Bound(MOST), per_second, offered) for offered in (1, 2, 5, 10)]
    assert min(shares) >= 0.9 * max(shares), shares
    assert max(shares) > 0.9, shares


def test_a_number_that_nobody_reckons_does_not() -> None:
    assert goodput(Fixed(MOST), 750, 1) > 0.9
    assert goodput(Fixed(MOST), 750, 5) < 0.1, "the simulation would not show it"


def work(bound: Bound, count: int, age_s: float, began: float = 0.0) -> None:
    """So many come at once and are answered after ``age_s`` seconds, all together."""
    for _ in range(count):
        assert bound.enter(began)
    for _ in range(count):
        bound.leave(began + age_s, age_s)


def test_it_lets_in_what_it_may_and_no_more() -> None:
    bound = Bound(2)
    assert [bound.enter(0.0) for _ in range(3)] == [True, True, False]
    bound.leave(0.1, 0.1)
    assert [bound.enter(0.2), bound.enter(0.2)] == [True, False]


def test_late_answers_make_it_what_is_answered_in_time() -> None:
    bound = Bound(MOST)
    for _ in range(1000):
        bound.enter(0.0)
    for number in range(1000):
        bound.leave((number + 1) / 800, (number + 1) / 800)  # 800 a second
    bound.enter(2.0)
    assert bound.limit == pytest.approx(800 * LATE_SECONDS, abs=3)


def test_who_is_turned_away_without_need_makes_it_larger() -> None:
    bound = Bound(MOST)
    for turn in range(10):
        at = turn * WINDOW_SECONDS / 4
        for _ in range(LIMIT_FIRST):
            bound.enter(at)
        bound.enter(at)
        while bound.working > 1:  # one stays, so that the server is never idle
            bound.leave(at + WINDOW_SECONDS / 4, WINDOW_SECONDS / 4)
    assert LIMIT_FIRST < bound.limit <= MOST


def test_quick_answers_that_fill_nothing_change_nothing() -> None:
    bound = Bound(MOST)
    for turn in range(100):
        work(bound, 3, WINDOW_SECONDS * 1.5, began=turn)
    assert bound.limit == LIMIT_FIRST


def test_idle_time_does_not_make_it_look_slow() -> None:
    bound = Bound(MOST)
    work(bound, 1, 0.1)
    work(bound, 600, 0.6, began=3_600.0)
    bound.enter(3_601.0)
    assert bound.limit == 600 / 0.6 * LATE_SECONDS


def test_it_is_never_so_small_that_nothing_could_be_found_out() -> None:
    bound = Bound(MOST)
    work(bound, 1, 60.0)
    bound.enter(60.0)
    assert bound.limit == LIMIT_MIN
    small = Bound(3)
    work(small, 1, 60.0)
    small.enter(60.0)
    assert small.limit == 3
