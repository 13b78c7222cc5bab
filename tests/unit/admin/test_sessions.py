"""How long a session lives, how many there are, and how long who guesses has to wait."""

import pytest

from flashsale.admin.sessions import (
    FORGET_SECONDS,
    IDLE_SECONDS,
    NAMES_MAX,
    SESSIONS_MAX,
    TRIES_FREE,
    TRIES_PER_MINUTE,
    WAIT_SECONDS_MAX,
    WHOLE_SECONDS,
    Sessions,
    Throttle,
)


def test_a_session_lives_while_it_is_used_and_a_day_at_most() -> None:
    sessions = Sessions()
    token, session = sessions.begin("olga", "hash", 0.0)
    now = 0.0
    while now + IDLE_SECONDS < WHOLE_SECONDS:
        now += IDLE_SECONDS
        assert sessions.find(token, now) is session
    assert sessions.find(token, WHOLE_SECONDS) is session
    assert sessions.find(token, WHOLE_SECONDS + 1) is None
    assert len(sessions) == 0


def test_an_idle_session_is_over() -> None:
    sessions = Sessions()
    token, _ = sessions.begin("olga", "hash", 0.0)
    assert sessions.find(token, IDLE_SECONDS + 1) is None
    assert sessions.find(token, 1.0) is None  # and does not come back


def test_a_session_that_is_only_looked_at_grows_old() -> None:
    sessions = Sessions()
    token, session = sessions.begin("olga", "hash", 0.0)
    for now in (1.0, IDLE_SECONDS / 2, IDLE_SECONDS):
        assert sessions.last(token, now) is session
    assert sessions.last(token, IDLE_SECONDS + 1) is None
    assert sessions.last(token + "x", 0.0) is None
    assert sessions.find(token, IDLE_SECONDS + 1) is None


def test_an_ended_session_and_an_unknown_token_are_none() -> None:
    sessions = Sessions()
    token, _ = sessions.begin("olga", "hash", 0.0)
    assert sessions.find(token + "x", 0.0) is None
    sessions.end(token)
    sessions.end(token)
    assert sessions.find(token, 0.0) is None


def test_tokens_are_not_alike_and_not_kept() -> None:
    sessions = Sessions()
    made = [sessions.begin("olga", "hash", 0.0) for _ in range(10)]
    words = {word for token, session in made for word in (token, session.csrf)}
    assert len(words) == 20
    assert not any(token.encode() in key for token, _ in made for key in sessions._sessions)


def test_there_are_so_many_sessions_and_who_was_away_longest_goes() -> None:
    sessions = Sessions()
    tokens = [sessions.begin(f"user-{number}", "hash", float(number))[0] for number in range(SESSIONS_MAX)]
    assert sessions.find(tokens[0], float(SESSIONS_MAX)) is not None
    sessions.begin("one more", "hash", float(SESSIONS_MAX))
    assert len(sessions) == SESSIONS_MAX
    assert sessions.find(tokens[0], float(SESSIONS_MAX)) is not None
    assert sessions.find(tokens[1], float(SESSIONS_MAX)) is None


def test_after_a_few_tries_each_waits_longer_and_nobody_for_ever() -> None:
    throttle = Throttle()
    now, waits = 0.0, []
    for _ in range(TRIES_FREE):
        assert throttle.begin("olga", now) == 0
    for _ in range(10):
        wait = throttle.begin("olga", now)
        waits.append(wait)
        now += wait
        assert throttle.begin("olga", now) == 0
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(1.0)
    assert waits[-1] == pytest.approx(WAIT_SECONDS_MAX)
    assert throttle.begin("vera", now) == 0
    assert throttle.begin("olga", now + FORGET_SECONDS + WAIT_SECONDS_MAX) == 0


def test_who_never_stops_waits_no_longer_than_the_most() -> None:
    throttle = Throttle()
    now = 0.0
    for _ in range(2000):
        now += WAIT_SECONDS_MAX
        assert throttle.begin("olga", now) == 0
    assert throttle.begin("olga", now) == pytest.approx(WAIT_SECONDS_MAX)


def test_the_right_password_forgets_the_wrong_ones() -> None:
    throttle = Throttle()
    for _ in range(TRIES_FREE):
        throttle.begin("olga", 0.0)
    throttle.passed("olga")
    assert throttle.begin("olga", 0.0) == 0


def test_all_names_together_are_bounded_too() -> None:
    throttle = Throttle()
    for number in range(TRIES_PER_MINUTE):
        assert throttle.begin(f"name-{number}", 10.0) == 0
    assert throttle.begin("olga", 10.0) == pytest.approx(60.0)
    assert throttle.begin("olga", 70.0) == 0


def test_the_table_of_names_is_bounded_and_longer_than_it_is_remembered() -> None:
    throttle = Throttle()
    now = 0.0
    for number in range(NAMES_MAX + 10):
        now += 60.0 / TRIES_PER_MINUTE
        throttle.begin(f"name-{number}", now)
    assert len(throttle._names) == NAMES_MAX
    assert NAMES_MAX / TRIES_PER_MINUTE * 60.0 > FORGET_SECONDS
