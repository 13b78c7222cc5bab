"""The smaller parts of a frame: how a server is, and how far a comparison has come."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from flashsale.admin.operations.bench import FRESH_SECONDS, RATIOS_MAX, progress
from flashsale.admin.operations.servers import balancer, state, word
from tests.unit.admin import operations_inputs as inputs


@pytest.mark.parametrize(
    ("views", "reason", "percent", "is_said"),
    [
        ("up", "", 100, ("up", "serving")),
        ("up", "", 30, ("up", "serving 30 % of its weight")),
        ("down", "connection refused", 10, ("down", "down: connection refused")),
        ("draining", "", 100, ("draining", "finishes what it has")),
        ("ejected", "five answers 500", 100, ("ejected", "ejected for failed requests: five answers 500")),
        ("down or up", "timed out", 100, ("down", "workers disagree: down or serving: timed out")),
    ],
)
def test_a_state_in_words(views: str, reason: str, percent: int, is_said: tuple[str, str]) -> None:
    assert (state(views, drained=False), word(views, reason, percent, drained=False)) == is_said


@pytest.mark.parametrize(
    ("views", "reason", "is_said"),
    [
        ("draining", "", ("drained", "finishes what it has, drained by hand")),
        ("down", "refused", ("down", "down, drained by hand: refused")),
        ("draining or down", "late", ("down", "workers disagree: finishes what it has or down, drained by hand: late")),
    ],
)
def test_who_was_drained_by_hand_is_said_to_be(views: str, reason: str, is_said: tuple[str, str]) -> None:
    assert (state(views, drained=True), word(views, reason, 100, drained=True)) == is_said


def test_a_balancer_that_was_seen_once_has_no_rates() -> None:
    part = balancer(inputs.stats(1), None)
    assert part["queue_refused_per_s"] is None
    assert {(server["requests_per_s"], server["p99_ms"]) for server in part["servers"]} == {(None, None)}


def at(seconds: float) -> str:
    """So long after the moment that is told of."""
    return datetime.fromtimestamp(inputs.AT + seconds, UTC).isoformat()


def written(**more: Any) -> bytes:
    return json.dumps({**json.loads(inputs.RUNNING), **more}).encode()


def test_a_comparison_that_runs_is_told() -> None:
    told = progress(written(at=at(-1), eta_s=None), inputs.AT)
    assert told is not None
    assert (told["done"], told["of"], told["eta_s"]) == (6, 12, None)
    assert "at" not in told


@pytest.mark.parametrize(
    "text",
    [
        written(at=at(-FRESH_SECONDS - 1)),
        written(at=at(FRESH_SECONDS + 1)),
        written(at="now"),
        written(at=inputs.AT),
        written(done=True),
        written(done=10**400),
        written(name=None),
        written(ratios=[{"metric": "x", "ratio": 1}]),
        written(ratios={}),
        b'{"done": NaN}',
        inputs.RUNNING[:-4],
        b"[]",
        b"",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_old_or_no_such_file_is_none(text: bytes) -> None:
    assert progress(text, inputs.AT) is None


def test_what_is_shown_of_it_is_bounded() -> None:
    row = {"metric": "x" * 1000, "ratio": 1, "low": 1, "high": 1}
    told = progress(written(ratios=[row] * 1000), inputs.AT)
    assert told is not None
    assert len(told["ratios"]) == RATIOS_MAX
    assert len(told["ratios"][0]["metric"]) == 200
