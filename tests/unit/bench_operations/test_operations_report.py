"""What is added by who looks is taken within a round, so that a slow minute is nobody's."""

from benchmarks.operations.__main__ import ALL, QUICK, WAYS, report


def test_differences_are_of_one_round_and_medians_of_all() -> None:
    rounds = [
        {way: {"admin": base + 0.02 * viewers, "upkeep": base} for way, viewers in WAYS.items()}
        for base in (0.1, 5.0, 0.3)
    ]
    found = report(rounds, QUICK)
    assert found["added_ms_per_s"] == {
        "one looks": {"admin": 20.0, "upkeep": 0.0, ALL: 20.0},
        "eight look": {"admin": 160.0, "upkeep": 0.0, ALL: 160.0},
    }
    assert found["table"]["header"][1:] == list(WAYS)
    assert found["table"]["rows"][0] == ["admin", "300.0", "+20.0", "+160.0"]
