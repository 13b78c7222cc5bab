"""What the demonstration makes of what its viewers were shown."""

from typing import Any

import pytest

from benchmarks.load import shoppers
from flashsale.stack.demo import CROWD_SPARE_S, READY_WITHIN_S, mistold, saw_nothing, stood_watch
from flashsale.stack.running import ROLE_READY_WITHIN_S
from flashsale.stack.services import READY_WITHIN_S as SERVICE_READY_WITHIN_S

LEVELS = {1: 10, 2: 9, 3: 7}


def watching(**changes: Any) -> dict[str, Any]:
    return {"heard": {"1": 10, "3": 7}, "contradictions": 0, "backwards": 0} | changes


def test_shoppers_have_more_patience_than_a_killed_service_needs_and_the_sale_has_more_than_they() -> None:
    # On a busy machine RabbitMQ, and those that wait for it, were away for longer than forty tries last.
    away_s = max(SERVICE_READY_WITHIN_S.values()) + ROLE_READY_WITHIN_S
    assert away_s < shoppers.TRIES_MAX * 1, "Retry-After is a second"
    assert away_s < shoppers.ANSWER_SECONDS_MAX
    assert away_s < shoppers.PAY_SECONDS_MAX
    assert away_s < READY_WITHIN_S
    assert shoppers.ANSWER_SECONDS_MAX + shoppers.PAY_SECONDS_MAX < CROWD_SPARE_S


def test_numbers_of_the_ledger_are_right_and_are_not_kept() -> None:
    seen = watching()
    assert mistold(seen, LEVELS) == 0
    assert "heard" not in seen


@pytest.mark.parametrize(
    "changes",
    [{"heard": {"2": 10}}, {"heard": {"4": 7}}, {"contradictions": 1}, {"backwards": 1}],
    ids=["another number", "a movement that never was", "two numbers for one movement", "back in time"],
)
def test_what_is_not_so_is_counted(changes: dict[str, Any]) -> None:
    assert mistold(watching(**changes), LEVELS) == 1


@pytest.mark.parametrize(("viewers", "heard", "nothing"), [(2, {}, True), (2, {"1": 10}, False), (0, {}, False)])
def test_viewers_who_were_shown_nothing_are_noticed(viewers: int, heard: dict[str, int], *, nothing: bool) -> None:
    assert saw_nothing(watching(viewers=viewers, heard=heard)) is nothing


@pytest.mark.parametrize(("clean", "ready"), [(True, True), (False, True), (True, False)])
def test_a_watch_that_saw_something_wrong_or_nothing_at_all_does_not_vouch(*, clean: bool, ready: bool) -> None:
    assert stood_watch({"clean": clean, "ready": ready}, restarts=0) is (clean and ready)


def test_a_watch_that_was_started_again_does_not_vouch_for_what_it_forgot() -> None:
    assert not stood_watch({"clean": True, "ready": True}, restarts=1)
