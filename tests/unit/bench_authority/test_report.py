"""What the table of the authority's benchmark says, from rounds that are made up."""

import pytest

from benchmarks.authority import ladder
from benchmarks.authority.measure import Seen
from benchmarks.authority.report import CLIENT, MIXED, SINGLE, Found, report


def rounds(*wall_s: float, cpu_s: float = 0.1) -> list[Seen]:
    return [Seen(1_000, 1_000, seconds, cpu_s) for seconds in wall_s]


def found(everything: list[Seen], bare: list[Seen], largest: list[Seen], late_ms: float = 5.0) -> Found:
    hot = {ladder.BARE: bare, ladder.EVERYTHING: everything, CLIENT: everything, MIXED: everything, SINGLE: everything}
    cpu = 1.0
    for name in (ladder.TOP, *(f"without {rung.feature}" for rung in ladder.RUNGS)):
        hot[name] = rounds(1.0, 1.0, 1.0, cpu_s=cpu)
        cpu -= 0.05
    return Found(hot, {"SKUs": {1: everything, 10_000: largest}}, {"p50": 1.0, "max": late_ms}, {"now": None})


def test_ratios_are_of_a_round_and_medians_over_rounds() -> None:
    # the second round was a slow one for everybody
    said = report(found(rounds(0.04, 0.4, 0.04), rounds(0.02, 0.2, 0.01), rounds(0.04, 0.4, 0.04)))
    row = next(row for row in said["table"]["rows"] if row[0] == ladder.EVERYTHING)
    assert row[1:3] == ["25,000/s", "2,500 to 25,000"]
    assert row[4:] == ["of bare", "0.50", "0.25 to 0.50"]
    assert all(bar["is_met"] for bar in said["bars"])


def test_a_feature_costs_what_is_saved_without_it() -> None:
    same = rounds(0.04, 0.04, 0.04)
    said = report(found(same, same, same))
    features = {row[0]: row[3] for row in said["table"]["rows"] if row[0].startswith("  costs: ")}
    assert features[f"  costs: {ladder.RUNGS[0].feature}"] == "50.0"
    assert list(features.values())[-1] == f"{1000 - 50 * len(ladder.RUNGS):.1f}"


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({"everything": rounds(0.2, 0.2, 0.2)}, ["at least 15,000 holds/s", "at least 0.35 of bare"]),
        ({"bare": rounds(0.01, 0.01, 0.01)}, ["at least 0.35 of bare"]),
        ({"largest": rounds(0.04, 0.04, 0.04, cpu_s=0.14)}, ["at most 1.3 times the cost with most SKUs"]),
        ({"late_ms": 101.0}, ["no hold ends more than 100 ms late"]),
    ],
)
def test_a_bar_that_is_missed_is_named(worse: dict[str, object], missed: list[str]) -> None:
    same = rounds(0.04, 0.04, 0.04)
    made_up = {"everything": same, "bare": same, "largest": same} | worse
    said = report(found(**made_up))  # type: ignore[arg-type]
    assert [bar["wanted"] for bar in said["bars"] if not bar["is_met"]] == missed
    assert [note for note in said["notes"] if note.startswith("MISSED")]


def test_every_rung_of_the_ladder_fits_the_function() -> None:
    assert len(ladder.functions()) == len(ladder.RUNGS)
