"""Ratios are taken within a round, so that a slow minute of the machine does not speak for or against anybody."""

from benchmarks.backend.load import Seen
from benchmarks.backend.report import HEADER, Cell, Effort, report

EFFORT = Effort(2, 5, 1)


def seen(rate: float, cpu_us: float) -> Seen:
    return Seen(rate, 1.0, 2.0, 1000, 1000, 0, {"server": cpu_us, "redis": 3.0, "rabbitmq": 0.4}, 0.9, {"server": 60.0})


def test_a_machine_that_gets_slower_changes_no_ratio() -> None:
    ours = [seen(20_000, 50), seen(10_000, 100)]
    theirs = [seen(10_000, 100), seen(5_000, 200)]
    cells = {Cell("gate", "off", "ours"): ours, Cell("gate", "off", "peer"): theirs}
    found = report(cells, "ours", EFFORT, [])
    first, second = found["table"]["rows"]
    assert len(first) == len(second) == len(HEADER)
    assert first[:5] == ["gate", "off", "ours", "15,000", "10,000-20,000"]
    assert (first[5], second[5], second[6]) == ("", "2.00 (2.00-2.00)", "0.50 (0.50-0.50)")
    assert found["cells"][1]["our_rate_to_its"] == [2.0, 2.0]


def test_who_took_next_to_nothing_is_not_named_and_who_is_left_out_is() -> None:
    found = report({Cell("gate", "off", "ours"): [seen(1, 50)]}, "ours", EFFORT, ["Node is left out"])
    assert found["table"]["rows"][0][-1] == "server 50 redis 3"
    assert "Node is left out" in found["notes"]
