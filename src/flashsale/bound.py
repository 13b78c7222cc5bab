"""How many attempts a server works on at once: as many as it answers in time. Pure: it is told what time it is.

A number alone is a time that nobody chose. The same 4,096 attempts are a fifth of a second where Redis refuses, one second where
PostgreSQL commits and five on a busy machine, and then every answer comes after its shopper has gone: the server works as hard as
ever, for nobody. So the number follows from a time, by Little's law: what is answered in a second, times the seconds that an answer
may take. It is reckoned anew whenever somebody was turned away or an answer was late, up and down alike: a server that is not at
its end answers more in half a second than it has in hand.

Two others were tried in a simulation. The age of the oldest attempt that waits says it too late: until it is past its bound
everybody is let in, at ten times the rate at which they leave. A number that grows by a factor while answers are in time, and shrinks
when they are not, overshoots, because lateness shows half a second after its cause.
"""

LATE_SECONDS = (
    0.5  # an answer of this age is still worth something, and a client waits as long again before it gives up
)
WINDOW_SECONDS = 0.25
LIMIT_FIRST = 1024  # 50 ms of what one process can do at best
LIMIT_MIN = 256  # a batch; one slow answer on a quiet day must not turn away the fifty people who come next


class Bound:
    """``working`` attempts are in hand, and ``limit`` may be, never more than ``most``. Moments are of a monotonic clock, in seconds."""

    def __init__(self, most: int) -> None:
        self.limit = min(most, LIMIT_FIRST)
        self.working = 0
        self._most = most
        self._began = self._left_at = 0.0
        self._answered = 0
        self._slowest = 0.0
        self._is_pressed = False

    def is_full(self, working: int) -> bool:
        """Is one more than ``working`` too many?"""
        # Here and not when one leaves: the answers of a batch leave together, and a window that ended with the first of them
        # would not know the others.
        if self._left_at - self._began >= WINDOW_SECONDS:
            self._reckon()
        if working < self.limit:
            return False
        self._is_pressed = True
        return True

    def enter(self, now: float) -> bool:
        """An attempt comes; False: one too many. Whoever was let in must ``leave``."""
        if self.is_full(self.working):
            return False
        if not self.working:
            self._begin(now)  # idle time is no part of a window: it would make the server look slow
        self.working += 1
        return True

    def leave(self, now: float, age_s: float) -> None:
        """An attempt that was let in is answered at the moment ``now``, after ``age_s`` seconds."""
        self.working -= 1
        self._answered += 1
        self._slowest = max(self._slowest, age_s)
        self._left_at = now

    def _reckon(self) -> None:
        if self._is_pressed or self._slowest > LATE_SECONDS:
            in_time = int(self._answered / (self._left_at - self._began) * LATE_SECONDS)
            self.limit = min(max(in_time, LIMIT_MIN), self._most)
        self._begin(self._left_at)

    def _begin(self, now: float) -> None:
        self._began = self._left_at = now
        self._answered, self._slowest, self._is_pressed = 0, 0.0, False
