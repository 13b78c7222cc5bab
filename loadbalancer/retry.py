"""May a request that failed at one server be sent to another? The one rule on which 'never twice' depends."""

import re
from collections.abc import Sequence

SAFE_METHODS = frozenset((b"GET", b"HEAD", b"OPTIONS"))
RESERVE = 10.0  # resends a quiet balancer can afford at once
SAVINGS_MAX = 100.0  # a killed server loses as many requests as were with it, all in one moment


class ReplaySafe:
    """The routes whose servers promise that a request with the same Idempotency-Key takes effect once."""

    def __init__(self, routes: Sequence[tuple[str, str]]) -> None:
        """``routes`` are (method, path); ``*`` in a path is any one segment."""
        patterns = [
            f"{re.escape(method)} {'/'.join('[^/]+' if part == '*' else re.escape(part) for part in path.split('/'))}"
            for method, path in routes
        ]
        self._match = re.compile("|".join(patterns).encode()).fullmatch if patterns else None
        # The usual question, in a fifth of the expression's time: a path without '*' and a target without a query.
        self._exact = frozenset((method.encode(), path.encode()) for method, path in routes if "*" not in path)

    def __contains__(self, route: tuple[bytes, bytes]) -> bool:
        if route in self._exact:
            return True
        method, target = route
        return self._match is not None and self._match(method + b" " + target.partition(b"?")[0]) is not None


def may_resend(*, was_sent: bool, is_safe: bool, is_keyed: bool, is_kept: bool, answer_began: bool) -> bool:
    """
    was_sent: a byte of the request was handed to a connection that stood. is_safe: its method changes nothing.
    is_keyed: it carries a key on a replay-safe route. is_kept: what came of its body is still here, from the first byte.
    answer_began: the client was sent some of an answer.
    """
    if answer_began or not is_kept:
        return False
    return not was_sent or is_safe or is_keyed


class Budget:
    """At most so many resends per request, over time: a retry must not turn an outage into a flood."""

    def __init__(self, share: float) -> None:
        """``share`` is resends per request, 0.2 for 20 %; 0 for none at all."""
        self._share = share
        self._tokens = RESERVE if share else 0.0

    def earn(self) -> None:
        """A request came."""
        self._tokens += self._share
        if self._tokens > SAVINGS_MAX:  # noqa: PLR1730 - per request, and min() takes three times as long
            self._tokens = SAVINGS_MAX

    def spend(self) -> bool:
        """Take one resend, if there is one."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
