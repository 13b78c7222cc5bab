"""What became of many attempts is asked in few statements, and nobody waits for it without end."""

import uuid
from typing import Any

import gevent
import pytest

from flashsale.authority import green
from flashsale.authority.green import AuthorityUnavailable, GreenAuthority
from flashsale.authority.standing import Standing
from tests.patience import PATIENCE_SECONDS

PURCHASE = uuid.UUID(int=1)


class Batching(GreenAuthority):
    """Says each attempt's number as its verdict, a turn of the loop later; writes down what it was asked together."""

    def __init__(self) -> None:
        super().__init__("", 1)
        self.batches: list[list[int]] = []
        self.fails = 0
        self.pause_s = 0.0

    def _call(self, query: str, arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
        rids, purchases, buyers = arguments
        assert (query, purchases, buyers) == (query, [PURCHASE] * len(rids), ["ana"] * len(rids))
        self.batches.append([rid.int for rid in rids])
        gevent.sleep(self.pause_s)
        if self.fails:
            self.fails -= 1
            raise OSError("gone")
        return [{"attempt_verdict": str(rid.int), "fingerprint": None, "id": None} for rid in rids]


def asking(authority: GreenAuthority, numbers: range) -> list["gevent.Greenlet[..., Standing]"]:
    asked = [gevent.spawn(authority.read_standing, uuid.UUID(int=n), PURCHASE, "ana") for n in numbers]
    gevent.joinall(asked, timeout=PATIENCE_SECONDS)
    return asked


def test_who_asks_together_is_answered_together_each_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(green, "ASKED_AT_ONCE_MAX", 4)
    authority = Batching()
    asked = asking(authority, range(10))
    assert [each.get(block=False).verdict for each in asked] == [str(n) for n in range(10)]
    assert authority.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert asking(authority, range(1))[0].get(block=False).verdict == "0"  # and once more, after a pause


def test_a_statement_that_fails_is_told_to_those_it_was_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(green, "ASKED_AT_ONCE_MAX", 2)
    authority = Batching()
    authority.fails = 1
    asked = asking(authority, range(4))
    assert [isinstance(each.exception, AuthorityUnavailable) for each in asked] == [True, True, False, False]


def test_who_would_be_one_too_many_hears_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(green, "ASKED_MAX", 3)
    asked = asking(Batching(), range(4))
    assert [isinstance(each.exception, AuthorityUnavailable) for each in asked] == [False, False, False, True]


def test_who_gave_up_is_asked_about_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(green, "ASKED_AT_ONCE_MAX", 1)
    monkeypatch.setattr(green, "TURN_SECONDS", 0.1)
    monkeypatch.setattr(green, "CALL_SECONDS", 0.4)
    authority = Batching()
    authority.pause_s = (
        PATIENCE_SECONDS  # no call is answered in time, and the third would begin when nobody waits for it
    )
    asked = asking(authority, range(4))
    assert all(isinstance(each.exception, AuthorityUnavailable) for each in asked)
    authority.pause_s = 0.0
    # The second call has yet to end, and takes nearly as long as whoever asks now would wait.
    monkeypatch.setattr(green, "TURN_SECONDS", PATIENCE_SECONDS)
    assert asking(authority, range(8, 9))[0].get(block=False).verdict == "8"
    assert authority.batches == [[0], [1], [8]]


def test_nobody_waits_longer_than_for_a_turn_and_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(green, "TURN_SECONDS", 0.02)
    monkeypatch.setattr(green, "CALL_SECONDS", 0.02)
    authority = Batching()
    monkeypatch.setattr(authority, "_read_standings", lambda: gevent.sleep(PATIENCE_SECONDS))
    with pytest.raises(AuthorityUnavailable, match="no answer in time"):
        authority.read_standing(uuid.UUID(int=1), PURCHASE, "ana")
