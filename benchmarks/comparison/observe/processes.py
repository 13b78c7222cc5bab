"""Every process by role: processor time, time spent ready and without a processor, memory. Read from /proc, children included.

psutil has neither the run queue's delay nor a cheap way to a process's children; the pages behind PSS are walked by the kernel, so it
is looked at rarely.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
THOROUGH_EVERY = 10  # looks; between them PSS, descriptors and new children are left alone
DESCENDANTS_MAX = 2_000

Roots = Callable[[], Iterable[tuple[str, int]]]  # role and pid of those whose children count with them


class Processes:
    """
    Rows of ``RESOURCES``. ``roots`` is asked anew now and then: a killed process comes back under another pid. ``alone`` is one whose
    children are roles of their own, ours.
    """

    period_s = 0.2

    def __init__(self, roots: Roots, alone: int) -> None:
        self._roots = roots
        self._alone = alone
        self._looks = 0
        self._found: list[tuple[str, int]] = []
        self.rows: list[tuple[object, ...]] = []

    def look(self, t_ns: int) -> None:
        """Each row has the moment of its own reading: a whole look takes long, and a counter read late and dated early is a rate too high."""
        began = time.monotonic_ns()
        is_thorough = self._looks % THOROUGH_EVERY == 0
        self._looks += 1
        if is_thorough:
            self._found = [
                (role, pid) for role, root in self._roots() for pid in ([root] if root == self._alone else family(root))
            ]
        for role, pid in self._found:
            now = t_ns + time.monotonic_ns() - began
            row = process(pid, is_thorough=is_thorough)
            if row is not None:
                self.rows.append((now, role, pid, *row))


def family(root: int) -> Iterator[int]:
    """The process and everybody it started."""
    waiting = [root]
    for _ in range(DESCENDANTS_MAX):
        if not waiting:
            return
        pid = waiting.pop()
        yield pid
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_bytes().split())
        except OSError:
            continue


def process(pid: int, *, is_thorough: bool) -> tuple[object, ...] | None:
    """The fields of ``RESOURCES`` after the pid; None for one that is gone."""
    try:
        # the name in parentheses may hold anything, so fields are counted from the last of them
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return None
    user, system, threads, pages = (int(fields[place]) for place in (11, 12, 17, 21))
    return (
        user / TICKS_PER_S,
        system / TICKS_PER_S,
        _run_delay_s(pid),
        pages * PAGE_BYTES,
        _pss(pid) if is_thorough else None,
        _count(f"/proc/{pid}/fd") if is_thorough else None,
        threads,
    )


def _run_delay_s(pid: int) -> float | None:
    waited = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            waited += int((task / "schedstat").read_bytes().split()[1])
    except (OSError, IndexError):
        return None  # a thread that ended meanwhile: what the others waited would be less than last time
    return waited / 1e9


def _pss(pid: int) -> int | None:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _count(folder: str) -> int | None:
    try:
        return sum(1 for _ in Path(folder).iterdir())
    except OSError:
        return None
