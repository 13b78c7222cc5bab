"""What is said with numbers: made of what commands print, and enough for every hole of the storyboard."""

from typing import Any

from scripts.video import facts
from scripts.video.__main__ import BOARDS
from scripts.video.shop import BACKENDS
from scripts.video.storyboard import holes, load

CROWD = {
    "shoppers": 3000,
    "attempts": 3400,
    "held": 1750,
    "sold_out": 1200,
    "unanswered": 0,
    "accepted_ms": {"p50": 12.4, "p99": 210.0},
    "decided_ms": {"p50": 48.7, "p99": 1400.2},
}
AUDIT = {"invariants": [{}] * 16, "findings": {"oversold": {"count": 0}, "lost": {"count": 2}, "stuck": {"count": 1}}}
MERCHANT = {"funnel": [{"held": 1750, "paid": 640}]}
FIGURES = [
    {"kind": kind, "name": f"{kind}{more}", "title": f"{kind}, of a kind{more}"}
    for kind in ("latency_comparison", "throughput_comparison", "resource_usage")
    for more in ("", "-second")
]


def stats(**answers: tuple[int, int]) -> dict[str, Any]:
    return {
        "servers": [
            {"name": name, "answers": {"2xx": good, "4xx": 0, "5xx": bad}} for name, (good, bad) in answers.items()
        ]
    }


def test_a_sale_in_words() -> None:
    found = facts.of_sale("a", 1500, CROWD, AUDIT, MERCHANT)
    assert found["a.units"] == "1,500"
    assert found["a.held"] == "1,750"
    assert found["a.paid"] == "640"
    assert (found["a.decided_p50"], found["a.decided_p99"]) == ("49 ms", "1.4 s")
    assert (found["a.oversold"], found["a.violations"], found["a.invariants"]) == ("0", "3", "16")


def test_how_long_nobody_waited_is_no_fact() -> None:
    found = facts.of_crowd("a", {**CROWD, "decided_ms": {}})
    assert found["a.accepted_p50"] == "12 ms"
    assert "a.decided_p50" not in found


def test_answers_are_counted_between_two_looks() -> None:
    found = facts.of_load(20.0, stats(one=(100, 1), two=(50, 0)), stats(one=(300, 1), two=(151, 2)))
    assert (found["load.answers"], found["load.per_second"], found["load.errors"]) == ("303", "15", "2")


def test_servers_that_got_nothing_are_not_counted() -> None:
    found = facts.of_choices(
        "consistent_hash", stats(one=(9, 0), two=(9, 0)), stats(one=(49, 0), two=(9, 0), new=(0, 0))
    )
    assert (found["consistent_hash.servers"], found["consistent_hash.requests"]) == ("1", "40")


def test_of_each_kind_the_first_figure() -> None:
    found = facts.of_report({"answer": "Nobody wins.", "A": None}, FIGURES)
    assert found["figure.latency_comparison.name"] == "latency_comparison"
    assert found["report.answer"] == "Nobody wins."
    assert "report.A" not in found


def test_somebody_fills_every_hole_of_the_storyboard() -> None:
    report = dict.fromkeys(("valid_trials", "run", "attempts", "cores", "answer", "books", "surprise"), "said")
    known = {
        "url",
        "sku",
        *facts.of_start(30.0, {"processes": [{}] * 20}),
        *(name for backend in BACKENDS for name in facts.of_sale(backend, 1, CROWD, AUDIT, MERCHANT)),
        *facts.of_load(1.0, stats(), stats()),
        *facts.of_crowd("kill", CROWD),
        *facts.of_kill(1, 1.0),
        *facts.of_audit("kill", AUDIT),
        *(
            name
            for way in ("round_robin", "consistent_hash")
            for name in facts.of_choices(way, stats(), stats(one=(1, 0)))
        ),
        *facts.of_report(report, FIGURES),
    }
    for path in BOARDS.values():
        assert holes(text for scene in load(path) for text in (*scene.templates, scene.file)) <= known
