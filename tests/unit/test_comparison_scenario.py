"""Scenario files: what there is reads, and what is wrong is told, all of it at once, with what would be right."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import scenario
from benchmarks.comparison.scenario import Scenario, ScenarioError

ASKED = {"question": "What is it that we want to know?"}


def wrong(**document: Any) -> str:
    with pytest.raises(ScenarioError) as found:
        scenario.parse("mine", {**ASKED, **document})
    return str(found.value)


@pytest.mark.parametrize("name", scenario.names())
def test_every_file_reads(name: str) -> None:
    found = scenario.load(name)
    assert found.name == name
    assert all(isinstance(each, Scenario) for _, each in found.variants())


def test_a_burst_brings_ten_thousand_and_has_room_for_them() -> None:
    burst = scenario.load("burst")
    assert burst.load.shoppers >= 10_000
    assert min(burst.engine.queue, burst.engine.in_flight_max) >= 10_000


def test_a_new_scenario_is_a_copy_of_another(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes((scenario.FOLDER / "normal.toml").read_bytes())
    assert scenario.load("mine", tmp_path).load == scenario.load("normal").load


def test_whatever_is_not_said_has_its_default() -> None:
    assert scenario.parse("mine", ASKED) == Scenario("mine", ASKED["question"])


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ScenarioError, match="did you mean normal"):
        scenario.load("norml")


def test_everything_wrong_is_told_at_once() -> None:
    said = wrong(
        load={"model": "closed", "rates": 5, "rate": True, "seconds": 10_000},
        shop={"stock": 0.5},
        engine=3,
        lod={},
        labels=["Z"],
        viewers=-1,
    )
    assert said.splitlines() == [
        "mine: load.model is 'closed'; allowed: poisson | constant | ramp | burst | bell",
        "mine: load.rates is not a key; did you mean rate?",
        "mine: load.rate is True; allowed: a number, 1 to 20000",
        "mine: load.seconds is 10000; allowed: a number, 0.5 to 600",
        "mine: shop.stock is 0.5; allowed: a whole number, 1 to 1000000",
        "mine: engine is not a table",
        "mine: 'lod' is not a key; did you mean load?",
        "mine: viewers is -1; allowed: a whole number, 0 to 1000",
        "mine: labels is ['Z']; allowed: a list of A A2 B B2 C D",
    ]


def test_a_question_must_be_asked() -> None:
    with pytest.raises(ScenarioError, match="question is missing"):
        scenario.parse("mine", {})


def test_more_shoppers_than_can_be_written_down_are_refused() -> None:
    assert "100,001 shoppers" in wrong(load={"model": "constant", "rate": 20_000, "seconds": 5.00005})


def test_a_series_is_a_scenario_per_value() -> None:
    found = scenario.parse("mine", {**ASKED, "vary": {"setting": "engine.servers", "values": [1, 3]}})
    assert [(name, each.engine.servers) for name, each in found.variants()] == [("servers=1", 1), ("servers=3", 3)]


@pytest.mark.parametrize(
    ("vary", "told"),
    [
        ({"setting": "engine.server", "values": [1]}, "did you mean engine.servers"),
        ({"setting": "engine.servers", "values": [0]}, "vary.values is 0"),
        ({"setting": "engine.servers", "values": []}, "a list of 1 to 10"),
        ({"setting": "engine.servers", "values": [1], "more": 1}, "setting and values"),
        ({"setting": "load.rate", "values": [20_000]}, "shoppers rate=20000 are more than"),
    ],
)
def test_a_series_out_of_bounds_is_refused(vary: dict[str, Any], told: str) -> None:
    assert told in wrong(vary=vary)


def test_what_is_no_toml_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("question = ", encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"mine\.toml is no TOML"):
        scenario.load("mine", tmp_path)
