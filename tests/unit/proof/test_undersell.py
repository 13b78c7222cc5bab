"""Undersell, on histories that are made up."""

from pathlib import Path

import pytest

from benchmarks.load.told import Call, Story, Told
from flashsale.proof.undersell import Movement, Refusal, read_refusals, undersell

ENDS = 100.0
OPENING = Movement(0.0, 2)
SOLD = [OPENING, Movement(10.0, -1), Movement(11.0, -1)]  # two units, gone after 11 s
BACK = [*SOLD, Movement(20.0, 1)]  # one is back at 20 s and stays


@pytest.mark.parametrize(
    ("ledger", "refused", "false", "idle"),
    [
        (SOLD, Refusal(12.0, 13.0, 1), 0, 0.0),  # nothing was left
        (SOLD, Refusal(10.5, 11.5, 1), 0, 0.0),  # the last unit went while the question was on its way
        (SOLD, Refusal(10.2, 10.4, 2), 0, 0.0),  # one was left, and two were asked for
        (SOLD, Refusal(10.2, 10.4, 1), 1, 0.6),  # one was left, and somebody else had it 0.6 s later
        (SOLD, Refusal(-1.0, 0.5, 1), 0, 0.0),  # before the shelf was filled
        (BACK, Refusal(19.5, 20.5, 1), 0, 0.0),  # it came back while the question was on its way
        (BACK, Refusal(21.0, 22.0, 1), 1, 78.0),  # it was there, and nobody had it until the end
        (BACK, Refusal(21.0, 22.0, 2), 0, 0.0),
        (
            [*BACK, Movement(30.0, -1), Movement(40.0, 1)],
            Refusal(21.0, 22.0, 1),
            1,
            8.0,
        ),  # had by somebody; then nobody asks
        ([OPENING], Refusal(21.0, 22.0, 1), 1, 78.0),  # one of two is missed
        ([Movement(5.0, 1), Movement(4.0, -1), Movement(6.0, 1)], Refusal(4.5, 5.5, 1), 0, 0.0),  # clocks that cross
    ],
)
def test_a_refusal_is_false_only_for_certain(ledger: list[Movement], refused: Refusal, false: int, idle: float) -> None:
    found = undersell(ledger, [refused], ENDS)
    assert (found.sold_outs, found.false_sold_outs) == (1, false)
    assert found.idle_unit_seconds == pytest.approx(idle)


def test_no_more_units_are_idle_than_are_missed_and_a_hold_ends_the_missing() -> None:
    ledger = [Movement(0.0, 5), Movement(30.0, -1), Movement(40.0, -2)]
    told = [Refusal(10.0, 11.0, 1), Refusal(20.0, 21.0, 2)]
    # one unit for 10 s, three for 9 s, two for 10 s; then all that was missed is had
    assert undersell(ledger, told, ENDS).idle_unit_seconds == pytest.approx(10 * 1 + 9 * 3 + 10 * 2)


def test_after_the_last_unit_nothing_is_missed() -> None:
    ledger = [Movement(0.0, 3), Movement(30.0, -1), Movement(31.0, -1), Movement(32.0, -1), Movement(50.0, 1)]
    told = [Refusal(10.0, 20.0, 1)] * 9
    assert undersell(ledger, told, ENDS).idle_unit_seconds == pytest.approx(10 * 3 + 1 * 2 + 1 * 1)


def test_refusals_are_read_from_what_the_shoppers_wrote(tmp_path: Path) -> None:
    def call(what: str, key: str, sent: float, answered: float | None, verdict: str | None, *, sku: str = "a") -> Call:
        return Call(what, key, [(sku, 2)], 0, sent, answered, 409, verdict)

    calls = [
        call("buy", "queued", 1.0, 1.1, "queued"),
        call("follow", "queued", 1.2, 3.0, "sold_out"),
        call("follow", "queued", 3.1, 3.2, "sold_out"),  # told twice
        call("buy", "again", 4.0, None, None),  # nothing was heard of it, but it may have been decided
        call("buy", "again", 5.0, 6.0, "sold_out"),
        call("buy", "other", 7.0, 8.0, "sold_out", sku="b"),
        call("buy", "rich", 7.0, 8.0, "over_limit"),
    ]
    with Told(tmp_path / "told.gz", sku="a", seed=1, shoppers=1) as told:
        told.add(Story("ana", "buys", 1.0, calls))
    found = read_refusals(tmp_path / "told.gz", "a")
    assert [(round(r.until - r.since, 6), r.quantity) for r in found] == [(2.0, 2), (2.0, 2)]
    assert found[1].since - found[0].since == pytest.approx(3.0)
