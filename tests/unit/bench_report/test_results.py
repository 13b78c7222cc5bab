"""From a run's folder to verdicts: what is planted must be found, what is not must not be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.comparison.contract import NOT_AUDITED, Audit, Gate
from benchmarks.report import repository, results, statistics, tables, words
from benchmarks.report.figures import load, verdict
from benchmarks.report.figures.style import Book
from benchmarks.report.reading import UnreadableError, read
from benchmarks.report.results import assemble, effect_row, gate_of_run, is_disqualified
from benchmarks.report.statistics import RATIO, Value
from tests import runs
from tests.runs import MadeUp

SAME = {"A": runs.noisy(20), "B": runs.noisy(20)}
SLOWER = {"A": runs.noisy(20), "B": runs.noisy(22)}


def document(folder: Path, *scenarios: MadeUp) -> dict[str, Any]:
    made = assemble(read(runs.write(folder, scenarios)), {}).document
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def winners(document: dict[str, Any], case: str = "peak") -> dict[str, str]:
    return {row["metric"]: row["winner"] for row in document["verdicts"] if row["case"] == case}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run in which is known what differs."""
    return document(
        tmp_path_factory.mktemp("planted"),
        MadeUp("slower", SLOWER),
        MadeUp("equal", SAME, noise_blocks=0),
        MadeUp("dearer", SAME, cpu_ms={"A": 1.2, "B": 1.0}, noise_blocks=0, blocks=6),
        MadeUp("unsteady", SAME, void=[(1, "B"), (2, "A"), (3, "A")], noise_blocks=0),
    )


def test_a_planted_tenth_is_found_and_nothing_else_is(planted: dict[str, Any]) -> None:
    won = winners(planted, "slower")
    assert {won[key] for key in ("response_mean", "response_p50", "response_p95")} == {"A"}
    assert {won[key] for key in ("throughput", "cpu", "memory", "errors", "sellout")} == {"tie"}
    median = next(row for row in planted["verdicts"] if row["metric"] == "response_p50")
    assert median["low"] < 1.10 < median["high"]
    assert median["high"] - median["low"] < 0.05
    assert not is_disqualified(planted)


def test_two_equal_backends_are_a_tie(planted: dict[str, Any]) -> None:
    won = winners(planted, "equal")
    assert won.pop("accepted_p50") == "B"  # the queue takes on before it decides, and is made up so
    assert won.pop("accepted_p99") == "B"
    assert set(won.values()) == {"tie"}


def test_more_cpu_for_the_same_is_found(planted: dict[str, Any]) -> None:
    won = winners(planted, "dearer")
    assert won["cpu"] == "B"
    assert won["response_p50"] == "tie"


def test_void_trials_are_shown_and_count_for_nothing_else(planted: dict[str, Any]) -> None:
    assert planted["run"]["void"] == 3
    assert {row["pairs"] for row in planted["verdicts"] if row["case"] == "unsteady"} == {5}
    assert set(winners(planted, "unsteady").values()) == {"inconclusive"}
    assert [trial["void_reasons"] for trial in planted["trials"] if trial["is_void"]] == [
        ["the generator was late"]
    ] * 3
    gate = next(row for row in planted["gates"] if (row["case"], row["gate"]) == ("unsteady", "lag_p99"))
    assert (gate["failed"], gate["most"]) == (3, 9.0)


def test_a_gate_is_one_row_and_one_line_however_many_scenarios(tmp_path: Path) -> None:
    made = [
        MadeUp("peak", SAME, blocks=2, noise_blocks=0, void=[(1, "B")]),
        MadeUp("calm", SAME, blocks=1, noise_blocks=0),
    ]
    left = read(runs.write(tmp_path, made))
    assembled = assemble(left, {})
    rows = tables.all_tables(assembled.document)["gates"]["rows"]
    assert rows == [
        ["lag_p99", "5.00 ms", "0.0400", "1.80", "6", "1"],
        ["generator", "0.800 of a core", "0.500", "0.500", "6", "0"],
    ]
    (drawn,) = load.generator_lag(Book(left, assembled))
    assert [tick.get_text() for tick in drawn.figure.axes[0].get_yticklabels()] == ["lag_p99", "generator"]


def test_the_worst_of_a_gate_is_the_one_nearest_to_being_void() -> None:
    share = [Gate(1.0, 0.99, passed=True), Gate(0.5, 1.0, passed=False), Gate(1.0, 0.99, passed=True)]
    lag = [
        Gate(4.0, 5.0, passed=True, unit="ms"),
        Gate(30.0, 100.0, passed=True, unit="ms"),
        Gate(None, 5.0, passed=True),
    ]
    drops = [Gate(0.0, 0.0, passed=True), Gate(3.0, 0.0, passed=False)]
    assert (gate_of_run(share)["worst"], gate_of_run(share)["failed"]) == (0.5, 1)
    assert (gate_of_run(lag)["worst"], gate_of_run(lag)["median"]) == (0.8, pytest.approx(0.55))
    assert (gate_of_run(lag)["limit_least"], gate_of_run(lag)["limit_most"]) == (5.0, 100.0)
    assert gate_of_run(drops)["worst"] == 3
    assert gate_of_run(lag[2:])["worst"] is None


def test_who_has_too_few_pairs_is_in_the_table_of_estimates_and_in_no_sentence(planted: dict[str, Any]) -> None:
    found = tables.all_tables(planted)
    assert {row[0] for row in found["verdicts"]["rows"]} == {"slower", "equal", "dearer"}
    (row,) = found["estimates"]["rows"]
    assert row[:2] == ["unsteady", "5"]
    assert tables.NOTHING not in row
    said = str(words.words(planted)["said.cpu"])
    assert said.count("ms and") == 3
    assert "unsteady" not in said


def test_a_run_that_decides_nothing_has_estimates_alone(tmp_path: Path) -> None:
    found = document(tmp_path, MadeUp("peak", SAME, blocks=1, noise_blocks=0))
    assert tables.all_tables(found)["verdicts"]["rows"] == []
    assert [row[:2] for row in tables.all_tables(found)["estimates"]["rows"]] == [["peak", "1"]]
    assert words.words(found)["said.cpu"] == "No scenario has 6 pairs, which a verdict takes."


def test_cpu_by_role_is_of_the_scenarios_that_are_drawn(
    planted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "CASES_MAX", 2)
    found = tables.all_tables(planted)["roles"]
    assert found["header"] == ["role", "slower, A", "slower, B", "equal, A", "equal, B"]
    assert [row[0] for row in found["rows"]] == [
        "backend",
        "lb",
        "postgres",
        "redis",
        "gen (instrument)",
        "monitor (instrument)",
    ]
    assert not [row for row in found["rows"] if tables.NOTHING in row]


def test_steps_of_a_series_stand_under_one_question_and_rise_in_load(tmp_path: Path) -> None:
    steps = [MadeUp("steps", SAME, f"rate={rate}", rate=rate, blocks=1, noise_blocks=0) for rate in (900, 600)]
    found = tables.all_tables(document(tmp_path, *steps))
    asked = "steps: What does steps do?"
    assert [row[:2] for row in found["scenarios"]["rows"]] == [[asked, "rate=900"], [asked, "rate=600"]]
    assert [(row[1], row[2][0]) for row in found["capacity"]["rows"]] == [
        ("600", "A"), ("600", "B"), ("900", "A"), ("900", "B"),
    ]  # fmt: skip


def test_noise_of_the_whole_run_serves_where_a_scenario_has_none(planted: dict[str, Any]) -> None:
    floors = {row["case"]: row["floor"] for row in planted["verdicts"] if row["metric"] == "response_p50"}
    assert len(set(floors.values())) == 1
    assert str(words.words(planted)["noise"]).count("%") == 2  # slower's own, and the one that serves all others
    assert None not in floors.values()


@pytest.mark.parametrize("kind", ["oversold", "duplicate", "lost_ack", "leaked", "phantom", "undersold"])
def test_wrong_books_disqualify_in_every_row_though_faster(tmp_path: Path, kind: str) -> None:
    audits = {"B": Audit(clean=True, **{kind: 3})}  # type: ignore[arg-type] # one of the numbers, never `findings`
    made = MadeUp("peak", {"A": runs.noisy(20), "B": runs.noisy(5)}, audits=audits, blocks=1, noise_blocks=0)
    found = document(tmp_path, made)
    assert set(winners(found).values()) == {"disqualified"}
    assert is_disqualified(found)
    assert found["wrong"]["gevent_rabbit"].startswith("gevent_rabbit ")
    assert "3" in found["wrong"]["gevent_rabbit"]


def test_books_that_are_not_clean_disqualify_whatever_was_counted_and_void_trials_too(tmp_path: Path) -> None:
    audits = {"A": Audit(clean=False, findings=("a hold outlived its deadline",))}
    found = document(tmp_path, MadeUp("peak", SAME, audits=audits, blocks=1, noise_blocks=0, void=[(1, "A")]))
    assert found["wrong"]["asyncio_redis"].startswith("asyncio_redis a hold outlived its deadline in peak-1-")


@pytest.mark.parametrize(
    ("a", "b", "sign"),
    [
        *(("", "≥", "≥ "), ("≥", "", "≤ "), ("≥", "≥", "≷ "), ("", "", "2")),
        *(("", "<", "≤ "), ("<", "", "≥ "), ("<", "<", "≷ "), ("<", "≥", "≥ "), ("≥", "<", "≤ ")),
    ],
)
def test_a_ratio_is_bounded_as_its_sides_are(a: str, b: str, sign: str) -> None:
    def value(number: float, bound: str) -> Value:
        return Value(number, is_bound=bound == "≥", is_below=bound == "<")

    found = statistics.effect([(value(10.0, a), value(20.0 + n, b)) for n in range(3)], [], RATIO, 1)
    assert tables.effect_text(effect_row(found) | {"is_ratio": True}).startswith(sign)


def test_books_that_nobody_looked_into_are_not_wrong(tmp_path: Path) -> None:
    made = MadeUp("peak", SAME, audits={"A": NOT_AUDITED}, blocks=1, noise_blocks=0, void=[(1, "A")])
    found = document(tmp_path, made)
    assert not is_disqualified(found)
    assert {row["backend"]: row["trials"] for row in found["correctness"]} == {"asyncio_redis": 0, "gevent_rabbit": 1}
    assert "at most 100.0 %" in str(words.words(found)["books"])


def test_purchases_that_nobody_heard_of_are_told_and_disqualify_nobody(tmp_path: Path) -> None:
    audits = {"B": Audit(clean=True, unheard=2)}
    found = document(tmp_path, MadeUp("peak", SAME, audits=audits, blocks=1, noise_blocks=0))
    assert not is_disqualified(found)
    assert {row["backend"]: row["unheard"] for row in found["correctness"]} == {"asyncio_redis": 0, "gevent_rabbit": 2}


def test_without_noise_blocks_nothing_is_decided(tmp_path: Path) -> None:
    won = document(tmp_path, MadeUp("peak", SLOWER, blocks=6, noise_blocks=0))["verdicts"]
    assert {row["winner"] for row in won} == {"inconclusive"}
    assert won[0]["reason"].endswith("its noise is not known")


def test_capacity_is_the_most_that_was_kept_up_with(tmp_path: Path) -> None:
    """B never decides a tenth of what comes at 900 a second; what A does beyond nobody asked."""
    fast, lossy = runs.constant(5), runs.dropping(5, every=10)
    steps = [
        MadeUp(
            "steps",
            {"A": fast, "B": fast if rate < 900 else lossy},
            f"rate={rate}",
            rate=rate,
            blocks=6,
            noise_blocks=0,
        )
        for rate in (600, 900)
    ]
    found = document(tmp_path, MadeUp("peak", SAME, blocks=2), *steps)
    rows = {row["metric"]: row for row in found["verdicts"]}
    row = rows["capacity"]
    assert (row["case"], row["pairs"], row["winner"], row["bound"]) == ("steps", 6, "A", "≤")
    assert row["estimate"] == pytest.approx(600 / 900)
    assert row["floor"] == rows["response_p99"]["floor"] > 1  # of the whole run, for no series is run twice over
    levels = {row["label"]: (row["median"], row["is_bound"]) for row in found["levels"] if row["metric"] == "capacity"}
    assert levels == {"A": (900.0, True), "B": (600.0, False)}
    assert {(row["case"], row["label"]): row["kept_up"] for row in found["series"]} == {
        ("steps rate=600", "A"): 6,
        ("steps rate=600", "B"): 6,
        ("steps rate=900", "A"): 6,
        ("steps rate=900", "B"): 0,
    }


def test_every_cell_says_who_wins_or_why_nobody_does(tmp_path: Path) -> None:
    """A hundred attempts have no p99, and one block decides nothing: that is said, and no cell is empty."""
    found = document(tmp_path, MadeUp("peak", SAME, rate=50, blocks=1, noise_blocks=0))
    rows = {row["metric"]: row for row in found["verdicts"]}
    assert {row["winner"] for row in rows.values()} == {"inconclusive"}
    assert rows["response_p99"]["reason"] == "in no trial do 10 attempts lie beyond it"
    assert rows["response_mean"]["reason"] == "one pair, and fewer than 6 decide nothing"
    assert {cell for row in tables.all_tables(found)["answer"]["rows"] for cell in row[1:]} == {"inconclusive"}


def test_a_void_step_makes_no_capacity_smaller_and_none_kept_up_with_is_the_first(tmp_path: Path) -> None:
    servers = {"A": runs.constant(5), "B": runs.dropping(5, every=10)}
    steps = [
        MadeUp(
            "steps",
            servers,
            f"rate={rate}",
            rate=rate,
            blocks=3,
            noise_blocks=0,
            void=[(1, "A")] if rate == 900 else [],
        )
        for rate in (600, 900)
    ]
    row = next(row for row in document(tmp_path, *steps)["verdicts"] if row["metric"] == "capacity")
    assert (row["pairs"], row["estimate"], row["bound"]) == (2, pytest.approx(600 / 900), "≤")


def test_who_keeps_up_with_no_step_bears_less_than_the_first(tmp_path: Path) -> None:
    servers = {"A": runs.constant(5), "B": runs.dropping(5, every=10)}
    made = MadeUp("steps", servers, "rate=600", rate=600, blocks=2, noise_blocks=0)
    found = document(tmp_path, made)
    sides = [tables.level_text(found, "steps", "capacity", label, interval=False) for label in ("A", "B")]
    assert sides == ["≥ 600", "< 600"]


def test_a_straggler_is_not_the_rates_fault(tmp_path: Path) -> None:
    made = MadeUp(
        "steps", {"A": lambda _, at: np.where(at < at.max(), 5.0, 3_000.0)}, "rate=600", blocks=1, noise_blocks=0
    )
    (row,) = document(tmp_path, made)["series"]
    assert (row["kept_up"], row["trials"]) == (1, 1)


def test_four_cells_say_what_is_execution_and_what_is_pattern(tmp_path: Path) -> None:
    servers = {"A": runs.constant(10), "B": runs.constant(40), "C": runs.constant(20), "D": runs.constant(20)}
    found = document(tmp_path, MadeUp("cells", servers, blocks=2, noise_blocks=0))
    sides = {(row["side"], row["kept"]): row["estimate"] for row in found["sides"] if row["metric"] == "response_p50"}
    assert sides == pytest.approx(
        {
            ("execution", "decides in the request"): 2,
            ("execution", "decides from a queue"): 2,
            ("pattern", "asyncio"): 2,
            ("pattern", "gevent"): 2,
        }
    )


def test_algorithms_are_compared_with_the_first_in_the_same_block(tmp_path: Path) -> None:
    made = [
        MadeUp("algorithms", {"A": runs.constant(ms)}, f"algorithm={name}", blocks=2, noise_blocks=0)
        for name, ms in (("round_robin", 10), ("power_of_two", 12))
    ]
    (row,) = [row for row in document(tmp_path, *made)["variants"] if row["metric"] == "response_p50"]
    assert (row["first"], row["second"], row["label"]) == ("algorithm=round_robin", "algorithm=power_of_two", "A")
    assert row["estimate"] == pytest.approx(1.2)


def test_algorithms_of_a_single_block_were_looked_at_and_say_nothing(tmp_path: Path) -> None:
    for setting, said in (("algorithm=", "too seldom"), ("servers=", "not measured")):
        made = [MadeUp("mine", {"A": SAME["A"]}, f"{setting}{n}", blocks=1, noise_blocks=0) for n in (1, 2)]
        assert said in str(words.words(document(tmp_path / setting, *made))["variants"])


def test_the_labs_result_is_taken_along(tmp_path: Path) -> None:
    strategy = {
        "name": "sql_read_then_write", "title": "SQL: read, then write", "summary": "Reads, then writes.", "text": "", "ours": False, "stores": ["postgres"],
        "verdict": "oversells", "as_claimed": True, "contradictions": [], "traces": [],
        "attacks": {"meet": {"claims": ["oversold"], "trials": 20, "void": 0, "found": {"oversold": 20}, "most": {"oversold": 3}, "caught": 20, "low": 0.8, "high": 1.0, "unheard": 0}},
        "storms": [
            {"delay_ms": 0, "killed": False, "spread_ms": 800, "trials": 4, "stock": 1, "buyers": 4, "oversold": [0, 1, 1, 1], "oversold_trials": 3, "low": 0.2, "high": 0.9, "found": {}},
            {"delay_ms": 0, "killed": False, "spread_ms": 0, "trials": 2, "stock": 6, "buyers": 24, "oversold": [0, 5], "oversold_trials": 1, "low": 0.0, "high": 1.0, "found": {}},
        ],
    }  # fmt: skip
    lab = tmp_path / "strategies.json"
    lab.write_text(json.dumps({"kinds": {"oversold": "more than there was"}, "strategies": [strategy]}))
    folder = runs.write(tmp_path / "run", [MadeUp("peak", SAME, blocks=1, noise_blocks=0)])
    left = read(folder, lab)
    assembled = assemble(left, {})
    (row,) = assembled.document["lab"]["strategies"]
    assert (row["verdict"], row["caught"], row["to_catch"], row["trials"]) == ("oversells", 20, 20, 26)
    # what is drawn by delay are races, and not the rush that was as early
    (drawn,) = verdict.oversell(Book(left, assembled))
    assert "; 4 races" in drawn.caption
    assert [line.get_xdata() for line in drawn.figure.axes[0].lines if line.get_marker() == "o"] == [[75.0]]


def test_a_lab_of_another_program_is_said_to_be_one(tmp_path: Path) -> None:
    lab = tmp_path / "strategies.json"
    lab.write_text('{"kinds": {}, "strategies": [{"name": "sql"}]}')
    folder = runs.write(tmp_path / "run", [MadeUp("peak", SAME, blocks=1, noise_blocks=0)])
    with pytest.raises(UnreadableError, match="bench strategies as it is written now"):
        assemble(read(folder, lab), {})


def test_lines_of_code_are_neither_empty_nor_said_to_people() -> None:
    text = '"""Said."""\n\n# said\nx = 1\n\n\ndef f():\n    """Said\n    too."""\n    return """not\n    said"""\n'
    assert repository.lines_of_python(text) == 4
    assert {backend for backend, of in repository.code().items() if of["lines"] > 500} == {
        "asyncio_redis",
        "gevent_rabbit",
    }


def test_what_was_measured_and_is_void_is_a_row_that_is_not_decided(tmp_path: Path) -> None:
    made = MadeUp("peak", SAME, blocks=1, noise_blocks=0, void=[(1, "A"), (1, "B")])
    (reason,) = {(row["winner"], row["reason"]) for row in document(tmp_path, made)["verdicts"]}
    assert reason == ("inconclusive", "no valid pair to compare")
