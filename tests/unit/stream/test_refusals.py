"""What a server refuses by itself, rule by rule: each test ends with a word that would be wrong, and is not said."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from flashsale.contract.stock import Copies, Copy, Held
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import Line
from flashsale.stream.refusals import NO_ROWS, STALE_SECONDS, Refusals

START = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
STRANGER = 999
GONE, SHUT = Verdict.SOLD_OUT, Verdict.SALE_NOT_OPEN


@dataclass
class Item:
    """A SKU of the shop: what PostgreSQL would say of it."""

    available: int = 0
    state: str = "OPEN"
    opens: datetime = START - timedelta(hours=1)
    closes: datetime = START + timedelta(hours=1)
    holds: list[int | None] = field(default_factory=lambda: [None, 1, 2])  # by seq, from 1 on; None is another movement


class Shop:
    """One sale on a clock that is told the time, PostgreSQL's and the process's alike."""

    def __init__(self, ids_max: int = 100, **items: Item) -> None:
        self.items = items or {"hat": Item()}
        self.refusals = Refusals(ids_max)
        self.refusals.expect({"sale": tuple(self.items)})
        self.now = 0.0
        self.overdue = timedelta(0)
        self.rows_max = 100

    def read(self, took: float = 0.0) -> bool:
        """One reading; True when the next is due at once."""
        return self.take(self.wish(), took)

    def wish(self) -> dict[str, int]:
        return self.refusals.wish()

    def take(self, wished: dict[str, int], took: float = 0.0) -> bool:
        begun = self.now
        self.now += took
        as_of = START + timedelta(seconds=begun)
        items = {
            sku: Copy(
                item.available,
                len(item.holds),
                item.state,
                item.opens,
                item.closes,
                [Held(seq, held) for seq, held in enumerate(item.holds, 1) if seq > wished[sku]][: self.rows_max],
            )
            for sku, item in self.items.items()
            if sku in wished
        }
        return self.refusals.learn(wished, Copies(as_of, as_of - self.overdue, items), begun)

    def settle(self) -> None:
        while self.read():
            pass
        self.read()

    def word(self, *skus: str, purchase: int = STRANGER) -> Verdict | None:
        return self.refusals.refuse([Line(sku, 1) for sku in skus or ("hat",)], purchase, self.now)


def test_who_comes_too_late_hears_it_from_a_reading_alone() -> None:
    shop = Shop()
    assert shop.word() is None
    shop.settle()
    assert shop.word() is GONE


def test_a_purchase_that_was_ever_held_is_asked_for() -> None:
    shop = Shop()
    shop.settle()
    assert [shop.word(purchase=purchase) for purchase in (1, 2, 3)] == [None, None, GONE]


def test_a_cart_of_two_sales_or_of_an_unknown_item_is_asked_for() -> None:
    # mixed_sales and unknown_sku stand before sold_out, and only the authority says them
    shop = Shop()
    shop.settle()
    shop.refusals.expect({"sale": ("hat",), "other": ("tie",)})
    assert shop.word("hat") is GONE
    assert [shop.word("hat", more) for more in ("tie", "nothing")] == [None, None]
    assert shop.word("nothing") is None


def test_a_win_of_any_item_of_the_sale_is_known() -> None:
    # the same key with another body is key_reused, which stands before sold_out
    shop = Shop(hat=Item(holds=[1]), scarf=Item(holds=[7], available=5))
    shop.settle()
    assert shop.word("hat", purchase=7) is None
    assert shop.word("hat", purchase=8) is GONE


def test_there_is_no_word_until_all_ids_are_read() -> None:
    shop = Shop(hat=Item(holds=list(range(10))))
    shop.rows_max = 4
    heard = []
    for _ in range(3):
        assert shop.read()
        heard.append(shop.word(purchase=9))
    assert not shop.read()
    assert heard == [None] * 3
    assert (shop.word(purchase=9), shop.word()) == (None, GONE)


def test_a_late_start_reads_from_the_first_row() -> None:
    shop = Shop(hat=Item(available=1))
    shop.settle()
    assert shop.wish() == {"hat": NO_ROWS}
    shop.items["hat"] = Item(holds=[1, 2, 3])
    assert shop.read()
    assert (shop.word(), shop.wish()) == (None, {"hat": 0})
    shop.read()
    assert (shop.word(purchase=1), shop.word()) == (None, GONE)


def test_silence_ends_a_word() -> None:
    shop = Shop()
    shop.settle()
    shop.now += STALE_SECONDS - 0.01
    assert shop.word() is GONE
    shop.now += 0.01
    assert shop.word() is None


def test_a_reading_is_as_old_as_its_beginning() -> None:
    shop = Shop()
    shop.settle()
    shop.read(took=STALE_SECONDS)
    assert shop.word() is None


def test_a_wake_up_ends_a_word_until_a_reading_that_was_begun_later() -> None:
    shop = Shop()
    shop.settle()
    wished = shop.wish()
    shop.refusals.wake({"hat"}, shop.now)
    assert shop.word() is None
    shop.take(wished)
    assert shop.word() is None
    shop.now += 0.01
    shop.read()
    assert shop.word() is GONE


@pytest.mark.parametrize(
    ("skus", "is_meant"), [({"hat", "other"}, True), (None, True), ({"other"}, False), (set(), False)]
)
def test_a_wake_up_is_for_those_it_names(skus: set[str] | None, *, is_meant: bool) -> None:
    shop = Shop()
    shop.settle()
    assert shop.refusals.wake(skus, shop.now) is is_meant
    assert (shop.word() is None) is is_meant


def test_a_returned_unit_ends_a_word_with_the_next_reading() -> None:
    shop = Shop()
    shop.settle()
    shop.items["hat"].available = 1
    shop.items["hat"].holds.append(None)
    shop.now += 0.1
    shop.read()
    assert shop.word() is None


def test_the_ids_of_a_sale_that_sells_again_are_let_go_and_read_anew() -> None:
    # they count against the bound that all sales share
    shop = Shop(ids_max=2)
    shop.settle()
    shop.items["hat"].available = 1
    shop.read()
    assert not shop.refusals._sales["sale"].won
    shop.items["hat"].available = 0
    assert shop.read()
    assert shop.wish() == {"hat": 0}
    shop.read()
    assert (shop.word(purchase=1), shop.word()) == (None, GONE)


def test_a_gap_in_a_ledger_ends_it_and_everything_is_read_again() -> None:
    shop = Shop()
    shop.settle()
    wished = shop.wish()
    shop.items["hat"].holds.append(5)
    copies = Copies(START, None, {"hat": Copy(0, 4, "OPEN", START, START, [])})
    rows = [Held(5, 5)]
    gap = copies._replace(
        items={"hat": Copy(0, 5, "OPEN", START - timedelta(hours=1), START + timedelta(hours=1), rows)}
    )
    assert shop.refusals.learn(wished, gap, shop.now)
    assert (shop.word(), shop.wish()) == (None, {"hat": 0})


def test_a_ledger_that_falls_back_ends_it() -> None:
    # a PostgreSQL that came back from a backup
    shop = Shop()
    shop.settle()
    shop.items["hat"].holds = [1]
    assert shop.read()
    assert (shop.word(), shop.wish()) == (None, {"hat": 0})
    shop.settle()
    assert (shop.word(), shop.word(purchase=2), shop.word(purchase=1)) == (GONE, GONE, None)


def test_more_ids_than_may_be_kept_end_it_for_good() -> None:
    shop = Shop(ids_max=2, hat=Item(holds=[1, 2, 3]))
    assert shop.read()
    for _ in range(3):
        assert not shop.read()
        assert shop.word() is None
    assert shop.wish() == {"hat": NO_ROWS}


def test_ids_of_all_sales_share_one_bound() -> None:
    refusals = Refusals(3)
    refusals.expect({"s": ("a",), "t": ("b",)})
    items = {sku: Copy(0, 2, "OPEN", START - timedelta(hours=1), START + timedelta(hours=1), []) for sku in "ab"}
    refusals.learn(refusals.wish(), Copies(START, None, items), 0.0)
    held = {sku: copy._replace(rows=[Held(1, ord(sku)), Held(2, -ord(sku))]) for sku, copy in items.items()}
    refusals.learn(refusals.wish(), Copies(START, None, held), 0.0)
    heard = [refusals.refuse([Line(sku, 1)], STRANGER, 0.1) for sku in ("a", "b")]
    assert heard == [GONE, None]


@pytest.mark.parametrize("late_ms", [251, 5_000])
def test_while_a_hold_is_overdue_only_the_authority_can_tell(late_ms: int) -> None:
    shop = Shop()
    shop.overdue = timedelta(milliseconds=late_ms)
    shop.settle()
    assert shop.word() is None


def test_a_hold_that_is_just_due_is_being_ended() -> None:
    shop = Shop()
    shop.overdue = timedelta(milliseconds=250)
    shop.settle()
    assert shop.word() is GONE


@pytest.mark.parametrize("state", ["PAUSED", "ENDED"])
def test_of_a_sale_that_does_not_sell_there_is_no_word(state: str) -> None:
    shop = Shop(hat=Item(state=state))
    shop.settle()
    assert shop.word() is None


def test_near_its_end_the_authority_s_clock_decides() -> None:
    shop = Shop(hat=Item(closes=START + timedelta(seconds=0.4)))
    shop.settle()
    shop.now += 0.19
    assert shop.word() is GONE
    shop.now += 0.02
    assert shop.word() is None


def test_before_the_doors_open_it_is_said_up_to_the_guard() -> None:
    doors = START + timedelta(seconds=0.4)
    shop = Shop(hat=Item(available=5, opens=doors, holds=[None]))
    shop.settle()
    shop.now += 0.19
    assert shop.word() is SHUT
    shop.now += 0.02
    assert shop.word() is None
    shop.now = 0.3
    shop.settle()
    assert shop.word() is None


def test_silence_ends_the_word_before_the_doors_too() -> None:
    shop = Shop(hat=Item(available=5, opens=START + timedelta(hours=1), holds=[None]))
    shop.settle()
    assert shop.word() is SHUT
    shop.now += STALE_SECONDS
    assert shop.word() is None


def test_after_the_doors_open_it_is_not_sold_out_before_the_guard() -> None:
    shop = Shop(hat=Item(opens=START))
    shop.settle()
    assert shop.word() is None
    shop.now += 0.2
    shop.settle()
    assert shop.word() is GONE


def test_a_sale_that_had_a_hold_and_was_put_off_is_asked_for() -> None:
    shop = Shop(hat=Item(available=5, opens=START + timedelta(hours=1)))
    shop.settle()
    assert shop.word() is None


def test_a_paused_sale_is_not_said_to_be_shut_before_its_time() -> None:
    shop = Shop(hat=Item(available=5, state="PAUSED", opens=START + timedelta(hours=1), holds=[None]))
    shop.settle()
    assert shop.word() is None


def test_only_the_item_that_is_gone_is_refused_and_so_is_a_cart_with_it() -> None:
    shop = Shop(hat=Item(), scarf=Item(available=3))
    shop.settle()
    assert (shop.word("scarf"), shop.word("hat"), shop.word("scarf", "hat")) == (None, GONE, GONE)


def test_what_is_not_a_live_sale_is_forgotten() -> None:
    shop = Shop()
    shop.settle()
    shop.refusals.expect({"sale": ("hat", "scarf")})
    assert shop.word() is None
    shop.refusals.expect({})
    assert (shop.word(), shop.wish()) == (None, {})


def test_an_item_that_is_missing_from_a_reading_ends_it() -> None:
    shop = Shop(hat=Item(), scarf=Item())
    shop.settle()
    wished = shop.wish()
    del shop.items["scarf"]
    shop.take(wished)
    assert shop.word("hat") is None


def test_a_sale_that_sells_costs_no_rows_and_no_reading_per_batch() -> None:
    shop = Shop(hat=Item(available=3))
    shop.settle()
    assert shop.wish() == {"hat": NO_ROWS}
    assert not shop.refusals.wake({"hat"}, shop.now)
