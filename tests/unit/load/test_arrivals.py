from collections import Counter

from benchmarks.load.arrivals import HABITS, Shopper, crowd
from flashsale.contract.wire import BUYER_PATTERN, KEY_PATTERN


def people(count: int = 4000, seed: int = 7, sku: str = "shoe") -> list[Shopper]:
    return crowd(sku=sku, count=count, seed=seed, arrival_seconds=10, buyer_limit=2)


def test_equal_seeds_bring_equal_crowds_and_others_do_not() -> None:
    assert people() == people()
    assert people(seed=8) != people()


def test_no_two_sales_see_the_same_keys() -> None:
    assert not {shopper.key for shopper in people(sku="shoe")} & {shopper.key for shopper in people(sku="hat")}


def test_everybody_comes_in_order_within_the_arrival_time() -> None:
    arrivals = [shopper.arrives for shopper in people()]
    assert arrivals == sorted(arrivals)
    assert 0 <= arrivals[0] <= arrivals[-1] <= 10


def test_the_opening_is_a_rush() -> None:
    in_first_second = sum(shopper.arrives < 1 for shopper in people())
    assert 0.4 * 4000 < in_first_second < 0.6 * 4000


def test_every_habit_has_its_share() -> None:
    met = Counter(shopper.habit for shopper in people())
    for habit, weight in HABITS.items():
        assert abs(met[habit] / 4000 - weight / sum(HABITS.values())) < 0.03


def test_what_they_send_is_valid_and_nobody_shares_a_key() -> None:
    shoppers = people()
    keys = [key for shopper in shoppers for key in (shopper.key, shopper.second_key)]
    assert len(set(keys)) == len(keys)
    assert all(KEY_PATTERN.fullmatch(key) for key in keys)
    assert all(BUYER_PATTERN.fullmatch(shopper.buyer) for shopper in shoppers)
    assert {shopper.quantity for shopper in shoppers} == {1, 2}


def test_a_limit_of_one_is_respected_by_the_first_purchase() -> None:
    shoppers = crowd(sku="shoe", count=500, seed=1, arrival_seconds=1, buyer_limit=1)
    assert {shopper.quantity for shopper in shoppers} == {1}
