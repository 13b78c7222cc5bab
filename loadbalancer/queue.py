"""Requests that wait because every server is full: first come, first served, so many at most, nobody longer than a deadline.

One queue for all servers. With one each, requests would wait for a server while another has nothing to do.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

W = TypeVar("W")

SMOOTHING = 8  # how many of those who went last the pace is an average of, about


class Queue(Generic[W]):
    """At most ``size`` wait, none longer than ``wait_s`` seconds; everything but a search past the first is O(1)."""

    def __init__(self, size: int, wait_s: float) -> None:
        self._size = size
        self._wait_s = wait_s
        # An ordered dict and no plain one, which looks through all that ever left at its front for its first.
        self._waiting: OrderedDict[W, tuple[float, int]] = OrderedDict()  # since when, behind how many
        self._pace_s = 0.0  # one place forward takes so long

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, waiter: W, now: float) -> bool:
        """To the end. False at the door, with the time to go elsewhere, if it is full or it would be in vain."""
        ahead = len(self._waiting)
        # With nobody ahead always: who waits is how the pace is measured, and it may have been a bad moment.
        if ahead >= self._size or (ahead and (ahead + 1) * self._pace_s > self._wait_s):
            return False
        self._waiting[waiter] = (now, ahead)
        return True

    def leave(self, waiter: W) -> None:
        """It does not wait any more, if it did."""
        self._waiting.pop(waiter, None)

    def take(self, may: Callable[[W], bool], now: float) -> W | None:
        """The first that ``may`` go."""
        waiter = next(filter(may, self._waiting), None)
        if waiter is not None:
            since, ahead = self._waiting.pop(waiter)
            self._pace_s += ((now - since) / (ahead + 1) - self._pace_s) / SMOOTHING
        return waiter

    def take_late(self, now: float) -> list[W]:
        """Those who have waited long enough, for the caller to tell them."""
        late = []
        for waiter, (since, _) in self._waiting.items():
            if now - since < self._wait_s:
                break
            late.append(waiter)
        for waiter in late:
            del self._waiting[waiter]
        return late
