"""What the operations page is given is what ``operations_frame.json`` says: the page's own tests read that file."""

import json
from pathlib import Path
from typing import Any

import pytest

from flashsale.admin.operations import exposition, frame
from tests.unit.admin import operations_inputs as inputs

FRAME = Path(__file__).with_name("operations_frame.json")


def test_the_example_is_what_the_code_makes() -> None:
    made = json.loads(json.dumps(inputs.made()))
    assert made == json.loads(FRAME.read_text(encoding="utf-8")), json.dumps(made, indent=2)


def backend(name: str) -> Any:
    [row] = [row for row in inputs.made()["backends"] if row["name"] == name]
    return row


def test_what_was_refused_at_once_is_in_the_rate_and_in_no_percentile() -> None:
    row = backend("asyncio_redis")
    assert row["rate_per_s"] == 2 * (180 + 7380 + 40 + 8) / inputs.SECONDS
    assert row["accepted"]["n"] == 2 * 2600
    assert 1 < row["accepted"]["p50_ms"] < 5


def test_the_queued_backend_answers_in_its_fronts_and_decides_in_its_workers() -> None:
    row = backend("gevent_rabbit")
    assert (row["accepted"]["n"], row["decided"]["n"]) == (2 * 2000, 1996)
    assert row["decided"]["p50_ms"] > row["accepted"]["p50_ms"]
    assert row["held_per_s"] == 150 / inputs.SECONDS
    assert row["refused_per_s"] == (2 * 3000 + 1846) / inputs.SECONDS
    assert row["errors_per_s"] == 2 * 4 / inputs.SECONDS


def test_a_backend_none_of_whose_servers_has_been_seen_twice_has_no_numbers_and_is_shown() -> None:
    once = inputs.seen("asyncio_redis", 0, inputs.asyncio_server(0, 1))
    [row] = frame.backends([once, frame.Process("asyncio_redis", 1, away="refused")])
    assert (row["servers"], row["up"]) == (2, 1)
    assert row["rate_per_s"] is row["errors_per_s"] is row["accepted"]["p99_ms"] is None
    assert row["accepted"]["n"] == 0


def test_a_process_that_is_away_tells_nothing_of_before() -> None:
    was = inputs.seen("asyncio_redis", 0, inputs.asyncio_server(0, 1), inputs.asyncio_server(0, 2))
    gone = was._replace(away="refused")
    [row] = frame.backends([gone])
    assert row["rate_per_s"] is None
    gate = frame.gate([gone, was], inputs.AT)
    assert (gate["up"], gate["servers"]) == (1, 2)
    assert frame.process(gone, inputs.AT) == {
        "role": "asyncio_redis", "index": 0, "pid": None, "cpu_cores": None, "rss_mib": None, "up_s": None, "away": "refused",
    }  # fmt: skip


def test_while_the_workers_are_away_nobody_knows_what_they_decide() -> None:
    front = inputs.seen("gevent_rabbit", 0, inputs.gevent_front(0, 1), inputs.gevent_front(0, 2))
    gone = inputs.seen("checkout", 0, inputs.checkout(1), inputs.checkout(2))._replace(away="refused")
    [row] = frame.backends([front, gone])
    assert row["rate_per_s"] > 0
    assert row["errors_per_s"] > 0
    assert row["held_per_s"] is row["refused_per_s"] is row["decided"]["p50_ms"] is None
    assert frame.commit_lag([front, gone])["oldest_ms"] is None


def test_of_a_queue_that_is_not_there_nothing_is_known() -> None:
    counts = {"here": (3, 1), "not": None}
    assert frame.queues(counts) == [
        {"name": "here", "depth": 3, "consumers": 1},
        {"name": "not", "depth": None, "consumers": None},
    ]
    assert (frame.dead_letters(counts)["n"], frame.dead_letters({"not": None})["n"]) == (3, None)


def report(**more: Any) -> dict[str, Any]:
    return {**inputs.REPORT, **more}


@pytest.mark.parametrize(
    ("told", "word"),
    [
        (report(), "clean"),
        (report(age_s=None, ready=False), "not proven: no audit came to its end"),
        (report(age_s=130.0, ready=False), "not proven: the last audit is 130 s old"),
        (report(clean=False, violations=[{"finding": "oversold", "count": 3}]), "not clean: 3 oversold"),
        (report(clean=False, violations=[{"finding": "money", "count": 1}]), "not clean: money"),
        (report(findings={"gate_drift": 2}), "not clean: 2 drift"),
    ],
)
def test_the_strip_says_in_a_word_what_the_numbers_mean(told: dict[str, Any], word: str) -> None:
    assert frame.audit(told)["word"] == word


def test_what_was_found_and_put_right_since_is_still_shown() -> None:
    told = report(clean=False, violations=[{"finding": "lost", "count": 2}, {"finding": "lost", "count": 1}])
    assert frame.audit(told)["lost"] == 3


def test_the_worst_drift_is_shown_with_its_sign_and_nobody_who_says_so_is_no_zero() -> None:
    keeper = inputs.seen("upkeep", 0, inputs.UPKEEP)
    assert frame.gate([keeper], inputs.AT)["drift_units"] == -2
    assert frame.gate([keeper._replace(away="refused")], inputs.AT)["drift_units"] is None


@pytest.mark.parametrize(
    ("round_at", "age_s"),
    [("0.0", None), (f"{inputs.AT - frame.ROUND_SECONDS_MAX - 1}", 6.0)],
    ids=["none yet", "long ago"],
)
def test_without_a_round_nobody_knows_the_drift(round_at: str, age_s: float | None) -> None:
    text = inputs.UPKEEP.replace(f"{inputs.AT - 0.42}", round_at)
    gate = frame.gate([inputs.seen("upkeep", 0, text)], inputs.AT)
    assert gate["drift_units"] is gate["lag_rows"] is gate["pending"] is None
    assert gate["round_age_s"] == age_s
    found = frame.gate([inputs.seen("upkeep", 0, text), inputs.seen("upkeep", 1, inputs.UPKEEP)], inputs.AT)
    assert (found["drift_units"], found["round_age_s"]) == (-2, 0.42)  # of two, one has


def test_only_the_names_that_are_wanted_are_read_and_no_number_is_none() -> None:
    text = 'a 1\nb{x="1"} 2.5\n# HELP a 3\na_total 4\nc NaN\nb{x="2"} +Inf\nbroken\n\n'
    assert exposition.read(text, {"a", "b", "c"}) == {("a", ""): 1, ("b", 'x="1"'): 2.5}
    assert exposition.by_label(exposition.read(text, {"a", "b"}), "b") == {"1": 2.5}
