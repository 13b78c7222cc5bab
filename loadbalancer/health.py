"""Is a server to be used? Decided by regular checks and by connections that fail; told, never asking itself."""

from dataclasses import dataclass


@dataclass(slots=True)
class Health:
    """One server's standing. It starts as up: a balancer that waited for checks would refuse its first second."""

    rise: int  # good checks in a row that bring it back
    fall: int  # bad checks in a row that take it out
    connect_fall: int  # failed connections in a row that take it out without waiting for a check
    is_up: bool = True
    reason: str = ""
    _good: int = 0
    _bad: int = 0
    _unreached: int = 0

    def distrust(self, reason: str = "not checked yet") -> None:
        """It has come to a balancer at work, and nobody has seen it alive: one good check first."""
        self.is_up = False
        self.reason = reason
        self._good = self.rise - 1

    def checked(self, problem: str) -> bool:
        """A check ended; ``problem`` is empty if it went well. True if that changed whether the server is up."""
        if problem:
            self._good = 0
            self._bad += 1
            return self.is_up and self._bad >= self.fall and self._set(up=False, reason=problem)
        self._bad = 0
        self._good += 1
        return not self.is_up and self._good >= self.rise and self._set(up=True, reason="")

    def unreached(self, problem: str) -> bool:
        """A request's connection could not be made. True if that took the server out."""
        self._unreached += 1
        return self.is_up and self._unreached >= self.connect_fall and self._set(up=False, reason=problem)

    def reached(self) -> None:
        """A connection was made."""
        self._unreached = 0

    @property
    def is_turning(self) -> bool:
        """Do checks begin to say otherwise than before?"""
        return bool(self._bad if self.is_up else self._good)

    def _set(self, *, up: bool, reason: str) -> bool:
        self.is_up = up
        self.reason = reason
        self._good = self._bad = self._unreached = 0
        return True
