"""Does a server answer its checks and fail its requests? Decided by what becomes of them; told, never asking itself.

Only what no correct server does counts: an answer that was lost, broken or late, and 500, 502, 504. A 409 or a 429 is a good
answer. 501, 503 and 505 say nothing either way: a store that is away makes every server answer 503.
"""

from dataclasses import dataclass

FAILED = frozenset((500, 502, 504))
SAY_NOTHING = frozenset((501, 503, 505))


@dataclass(slots=True)
class Outlier:
    """One server's standing. Ejected, it comes back after a time, by a good check; the sooner it fails again the later."""

    after: int  # failures in a row that eject it; 0 = never
    time_s: float  # that the first ejection lasts, the second in a row twice as long, the third three times
    time_max_s: float
    is_ejected: bool = False
    failures: int = 0  # in a row
    reason: str = ""
    _times: int = 0  # ejected in a row
    _until: float = 0.0  # ejected; then the end of the last time
    _back_at: float = 0.0

    def answered(self, status: int) -> bool:
        """A request was answered. True if the server ought to be ejected."""
        if status in FAILED:
            return self.failed()
        if status not in SAY_NOTHING:
            self.failures = 0
        return False

    def failed(self) -> bool:
        """A request was lost, or its answer was broken or late. True if the server ought to be ejected."""
        self.failures += 1
        return not self.is_ejected and 0 < self.after <= self.failures

    def eject(self, now: float, reason: str) -> None:
        """It was decided so: others are left, and not too many are out."""
        lasted = min(self._times * self.time_s, self.time_max_s)
        has_held = now - self._back_at >= lasted  # in service as long as it was out
        self._times = 1 if has_held else self._times + 1
        self._until = now + min(self._times * self.time_s, self.time_max_s)
        self.is_ejected = True
        self.reason = reason

    def checked(self, now: float) -> bool:
        """A check went well. True if that brings it back: time alone does not, it may be dead by now."""
        if not self.is_ejected or now < self._until:
            return False
        self.forgive()
        self._back_at = now
        return True

    def forgive(self) -> None:
        """It was down and is up again: another process, which has done nothing yet."""
        self.is_ejected = False
        self.failures = 0
        self.reason = ""
