# Idle connections, and the law about sending again.
import itertools

import pytest

from loadbalancer.pool import Pool
from loadbalancer.retry import RESERVE, SAVINGS_MAX, Budget, ReplaySafe, may_resend


def test_the_last_one_given_is_taken_first_and_the_pool_is_bounded() -> None:
    pool: Pool[str] = Pool(2, 10)
    assert [pool.give(name, 0) for name in "abc"] == [True, True, False]
    assert [pool.take(), pool.take(), pool.take()] == ["b", "a", None]


def test_old_ones_are_handed_out_to_be_closed() -> None:
    pool: Pool[str] = Pool(9, 10)
    for name, now in (("a", 0.0), ("b", 5.0), ("c", 6.0)):
        pool.give(name, now)
    pool.forget("a")
    pool.forget("unknown")
    assert (pool.take_old(14.9), pool.take_old(15.5), len(pool)) == ([], ["b"], 1)
    assert (pool.take_all(), len(pool)) == (["c"], 0)


def test_the_law_of_resending() -> None:
    for was_sent, is_safe, is_keyed, is_kept, answer_began in itertools.product((False, True), repeat=5):
        allowed = may_resend(
            was_sent=was_sent, is_safe=is_safe, is_keyed=is_keyed, is_kept=is_kept, answer_began=answer_began
        )
        never = answer_began or not is_kept or (was_sent and not is_safe and not is_keyed)
        assert allowed is not never


@pytest.mark.parametrize(
    ("method", "target", "is_safe"),
    [
        (b"POST", b"/purchases", True),
        (b"POST", b"/purchases?x=1", True),
        (b"POST", b"/purchases/some-id/pay", True),
        (b"POST", b"/purchases/", False),
        (b"POST", b"/purchases/a/b/pay", False),
        (b"POST", b"/purchases//pay", False),
        (b"POST", b"/purchases/a/cancel", False),
        (b"PUT", b"/purchases", False),
        (b"POST", b"/purchasesX", False),
    ],
)
def test_routes_are_matched_whole(method: bytes, target: bytes, is_safe: bool) -> None:  # noqa: FBT001 - a column
    routes = ReplaySafe([("POST", "/purchases"), ("POST", "/purchases/*/pay")])
    assert ((method, target) in routes) is is_safe


def test_no_route_is_safe_if_none_is_named() -> None:
    assert (b"POST", b"") not in ReplaySafe([])


def test_the_budget_is_a_share_of_the_requests_and_a_reserve() -> None:
    budget = Budget(0.2)
    spent = 0
    for _ in range(1000):
        budget.earn()
        spent += budget.spend()
    assert abs(spent - (200 + RESERVE)) <= 1


def test_savings_are_bounded() -> None:
    budget = Budget(0.2)
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(1000)) == SAVINGS_MAX


def test_no_share_is_no_resend() -> None:
    budget = Budget(0)
    budget.earn()
    assert not budget.spend()
