"""Who is signed in, and how often somebody may try to be. Pure but for randomness: the caller brings the time (monotonic seconds).

Kept in this process and nowhere else: whoever restarts it signs everybody out. Of a token only its digest is kept.
"""

import hashlib
import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass, field

IDLE_SECONDS = 30 * 60.0
WHOLE_SECONDS = 10 * 3600.0  # a working day; then the password is asked for again, however busy the session was
SESSIONS_MAX = 200  # the one that was used longest ago goes first
TOKEN_BYTES = 32

TRIES_FREE = 5  # of one name, until it has to wait
WAIT_SECONDS_MAX = 60.0  # it doubles up to this
DOUBLINGS_MAX = 6  # which are that much and more; without an end the thousandth try would be past what a float holds
FORGET_SECONDS = 15 * 60.0
NAMES_MAX = 1000
TRIES_PER_MINUTE = 60  # of all names: to push one name out of the table takes longer than it is remembered


@dataclass
class Session:
    """One who is signed in. ``password`` is the hash that let them in: with another one, the session is over."""

    name: str
    password: str
    began: float
    seen: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES))


class Sessions:
    """By the digest of their tokens, the one seen longest ago first."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, name: str, password: str, now: float) -> tuple[str, Session]:
        """A new session and its token, which is told this once."""
        while len(self._sessions) >= SESSIONS_MAX:
            self._sessions.popitem(last=False)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        session = Session(name, password, now, now)
        self._sessions[_digest(token)] = session
        return token, session

    def find(self, token: str, now: float) -> Session | None:
        """The session of this token, which lives on by being asked for; None if there is none (any more)."""
        key = _digest(token)
        session = self._sessions.get(key)
        if session is None:
            return None
        if _is_over(session, now):
            del self._sessions[key]
            return None
        session.seen = now
        self._sessions.move_to_end(key)
        return session

    def last(self, token: str, now: float) -> Session | None:
        """The same, and it does not live on by that: who only leaves a page open is not there."""
        session = self._sessions.get(_digest(token))
        return None if session is None or _is_over(session, now) else session

    def end(self, token: str) -> None:
        """It is over, if it was not already."""
        self._sessions.pop(_digest(token), None)


def _is_over(session: Session, now: float) -> bool:
    return now - session.seen > IDLE_SECONDS or now - session.began > WHOLE_SECONDS


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


@dataclass
class _Tries:
    count: int
    last: float


class Throttle:
    """How long who tries a password must wait. By name, known or not: on loopback every address is the same."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, _Tries] = OrderedDict()
        self._all: deque[float] = deque(maxlen=TRIES_PER_MINUTE)

    def begin(self, name: str, now: float) -> float:
        """0, and the try counts from here on, however many are under way; else the seconds to wait."""
        if len(self._all) == TRIES_PER_MINUTE and (wait := self._all[0] + 60.0 - now) > 0:
            return wait
        tries = self._names.get(name)
        if tries is None or now - tries.last > FORGET_SECONDS:
            tries = _Tries(0, now)
        if tries.count >= TRIES_FREE:
            wait = tries.last + min(2.0 ** min(tries.count - TRIES_FREE, DOUBLINGS_MAX), WAIT_SECONDS_MAX) - now
            if wait > 0:
                return wait
        tries.count, tries.last = tries.count + 1, now
        self._names[name] = tries
        self._names.move_to_end(name)
        if len(self._names) > NAMES_MAX:
            self._names.popitem(last=False)
        self._all.append(now)
        return 0.0

    def passed(self, name: str) -> None:
        """The password was right."""
        self._names.pop(name, None)
