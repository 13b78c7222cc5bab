"""How many were under way at once: a sweep along raw intervals. Pure."""

from collections.abc import Iterable

NEVER = -1  # an end that did not come


def peak(intervals: Iterable[tuple[int, int]]) -> int:
    """The most half-open intervals [begin, end) that share a moment. One without an end lasts; one that begins as another ends does not meet it."""
    changes = []
    for begin, end in intervals:
        changes.append((begin, 1))
        if end != NEVER:
            changes.append((end, -1))
    changes.sort()  # at one moment ends come first
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
