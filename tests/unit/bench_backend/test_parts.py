"""What the parts make of what they saw: an oversold sale is found out, tenths are cut where they should be, bars have their peers."""

from collections.abc import Mapping

import pytest

from benchmarks.backend import fsync, million, refusals, sellout
from benchmarks.backend.load import Seen, counted
from benchmarks.backend.peers import NODE, PLAIN
from benchmarks.backend.report import Cell
from benchmarks.backend.servers import OURS
from benchmarks.backend.shop import Books
from benchmarks.backend.watching import Sample, cpu_at, when

RIGHT = sellout.Turn(100, Books(0, 100), 100, 5_000, {"held": 100, "sold_out": 4_900}, 1.0, 2.0, 3.0)


def seen(rate: float, p99_ms: float = 2.0, refusals: int = 0) -> Seen:
    return Seen(rate, 1.0, p99_ms, 1000, refusals, 0, {"server": 50.0}, 0.9, {"server": 60.0})


@pytest.mark.parametrize(
    ("turn", "why"),
    [
        (RIGHT, ""),
        (
            RIGHT._replace(verdicts={"held": 99, "sold_out": 9, "try_later": 1}, told_held=99),
            "",
        ),  # committed, told too late
        (RIGHT._replace(told_held=70), ""),  # answers on their way when the load ended
        (RIGHT._replace(books=Books(-1, 101)), "oversold"),
        (RIGHT._replace(told_held=101), "oversold"),
        (RIGHT._replace(books=Books(1, 99)), "the books"),
        (RIGHT._replace(books=Books(0, 99)), "the books"),
        (RIGHT._replace(verdicts={"held": 99, "sold_out": 9}, told_held=99), "the server does not say"),
        (RIGHT._replace(verdicts={"held": 101, "sold_out": 9}), "the server does not say"),
        (RIGHT._replace(told_held=10), "do not count the same"),
        (RIGHT._replace(verdicts={"held": 100, "sold_out": 9, "over_limit": 1}), "nobody should hear"),
    ],
)
def test_a_sale_that_is_wrong_is_found_out(turn: sellout.Turn, why: str) -> None:
    assert (why in sellout.complaint(turn)) if why else not sellout.complaint(turn)


def sample(at: float, answers: int, cpu_s: float = 0.0, mib: float = 50.0) -> Sample:
    return Sample(at, {"sold_out": answers} if answers else {}, {"server": cpu_s}, {"server": mib})


def test_speeds_leave_the_moment_of_selling_out_alone() -> None:
    samples = [sample(at / 10, 0 if at < 3 else 100 * at if at <= 20 else 2_000 + 500 * (at - 20)) for at in range(41)]
    before, after = sellout.speeds(samples, 2.0)
    assert (before, after) == pytest.approx((1_000, 5_000))
    assert sellout.speeds(samples[:1], 2.0) == (0.0, 0.0)
    said = sellout.section([RIGHT])
    assert said.rows[1][-1] == "2.00 (2.00-2.00)"
    assert "held 100, sold_out 4,900" in said.notes[0]


def test_between_two_looks_it_is_reckoned_and_beyond_them_it_is_the_end() -> None:
    samples = [sample(1, 0), sample(2, 0), sample(3, 100, 1.0), sample(5, 300, 5.0)]
    assert [when(samples, answers) for answers in (0, 50, 200, 300, 999)] == [1, 2.5, 4, 5, 5]
    assert cpu_at(samples, 200, "server") == 3.0


def test_a_tenth_that_is_dearer_is_a_bar_missed() -> None:
    # 10 us each until the last tenth, then 13
    samples = [sample(tenth, 100 * tenth, 0.001 * tenth) for tenth in range(10)] + [sample(10, 1_000, 0.0103, mib=61.0)]
    tenths = million.tenths(samples, 1_000)
    assert [round(tenth.cpu_us["server"], 6) for tenth in tenths] == [10.0] * 9 + [13.0]
    assert tenths[1].rate == pytest.approx(100)
    cpu, memory = million.section(samples, 1_000).bars
    assert (round(cpu.found, 6), cpu.is_met) == (1.3, False)
    assert (round(memory.found, 6), memory.is_met) == (1.22, False)
    steady = million.section([*samples[:-1], sample(10, 1000, 0.01)], 1_000)
    assert all(bar.is_met for bar in steady.bars)
    assert len(steady.raw["curve"]) == 11


def test_each_bar_stands_beside_its_peer_of_the_same_round() -> None:
    def cell(server: str, what: str = refusals.BY_GATE) -> Cell:
        return Cell(what, "off", server)

    loads: Mapping[Cell, list[Seen]] = {
        cell(OURS.name): [seen(13_000), seen(26_000)],
        cell(PLAIN): [seen(2_000), seen(4_000)],
        cell(NODE): [seen(10_001), seen(20_002)],
        cell(OURS.name, refusals.AT_ONCE): [seen(45_000, 4.1), seen(45_000, 4.1)],
    }
    bars = {
        bar.wanted.split(": ")[1]: bar
        for bar in refusals.section(loads, refusals.QUICK, []).bars
        if "gate" in bar.wanted
    }
    assert bars[f"times {PLAIN} at least 5"].found == 6.5
    assert not bars[f"times {NODE} at least 1.3"].is_met
    assert "ours 19,500/s, theirs 15,002/s" in bars[f"times {NODE} at least 1.3"].beside
    at_once = [bar for bar in refusals.section(loads, refusals.QUICK, []).bars if "at once" in bar.wanted]
    assert [bar.is_met for bar in at_once] == [False, True]


def test_only_holds_are_counted_and_only_who_came_too_much_may_be_refused() -> None:
    assert counted(seen(1_000, refusals=250), "held", {"held": 750, "try_later": 250}).rate == 750
    with pytest.raises(RuntimeError, match="unexpected answers"):
        counted(seen(1_000), "held", {"held": 999, "sold_out": 1})
    with pytest.raises(RuntimeError, match="unexpected answers"):
        counted(seen(1_000)._replace(broken=1), "held", {"held": 1_000})


def test_what_a_delay_costs_is_compared_with_strace_alone() -> None:
    loads = {
        Cell(what, "off", OURS.name): [seen(rate), seen(rate / 2)]
        for what, rate in ((fsync.UNTOUCHED, 8_000), (fsync.WATCHED, 6_000), (fsync.slow(5), 3_000))
    }
    said = fsync.section(loads, fsync.Effort(2, 1, (5,)))
    assert "leaves 0.75 (0.75-0.75)" in said.notes[0]
    assert "5 ms longer leave 0.50 (0.50-0.50)" in said.notes[1]
