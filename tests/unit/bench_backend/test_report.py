"""Ratios are taken within a round, so that a slow minute of the machine does not speak for or against anybody."""

import pytest

from benchmarks.backend.load import Seen
from benchmarks.backend.report import LOAD_HEADER, Bar, Cell, Section, at_least, at_most, load_row, spread, whole


def seen(rate: float, cpu_us: float) -> Seen:
    return Seen(rate, 1.0, 2.0, 1000, 1000, 0, {"server": cpu_us, "redis": 3.0, "rabbitmq": 0.4}, 0.9, {"server": 60.0})


def test_a_machine_that_gets_slower_changes_no_ratio() -> None:
    ours = [seen(20_000, 50), seen(10_000, 100)]
    theirs = [seen(10_000, 100), seen(5_000, 200)]
    first = load_row(Cell("gate", "off", "ours"), ours)
    second = load_row(Cell("gate", "off", "peer"), theirs, ours)
    assert len(first) == len(second) == len(LOAD_HEADER)
    assert first[:5] == ["gate", "off", "ours", "15,000", "10,000-20,000"]
    assert (first[5], second[5], second[6]) == ("", "2.00 (2.00-2.00)", "0.50 (0.50-0.50)")


def test_who_took_next_to_nothing_is_not_named() -> None:
    assert load_row(Cell("gate", "off", "ours"), [seen(1, 50)])[-1] == "server 50 redis 3"


@pytest.mark.parametrize(("rounds", "is_met"), [([1.0, 1.3, 9.0], True), ([1.0, 1.29, 9.0], False)])
def test_a_bar_is_about_the_median(rounds: list[float], *, is_met: bool) -> None:
    assert at_least(1.3, rounds, "times", "beside").is_met is is_met
    assert at_most(1.3, [-one for one in rounds], "times", "beside").is_met is True
    assert at_most(-1.3, [-one for one in rounds], "times", "beside").is_met is is_met


def test_nothing_is_no_figure_and_no_accident() -> None:
    assert spread([]) == "0.00 (none)"


def test_what_is_missed_is_said_and_stops_nobody() -> None:
    bar = Bar("enough at least 8,000", 7_000.5, "beside 3", is_met=False)
    said = whole({"one": Section("One", ["A"], [["b"]], ["a note"], [bar], {"rounds": [1]})})
    assert said["tables"] == [{"title": "One", "header": ["A"], "rows": [["b"]]}]
    assert said["notes"] == ["a note", "MISSED: enough at least 8,000; found 7,000.50 (beside 3)"]
    assert said["bars"][0]["is_met"] is False
    assert said["parts"] == {"one": {"rounds": [1]}}
    assert "passed" not in said
