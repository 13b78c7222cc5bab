"""Which processes may run, and on which cores."""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator

import psutil


@contextlib.contextmanager
def shared(pids: Iterable[int], cores: Iterable[int]) -> Iterator[None]:
    """These processes, their children and this one may run on all ``cores`` for a while, and then where they did before."""
    before: dict[int, set[int]] = {}
    for thread in [*_threads(os.getpid(), children=False), *(one for pid in pids for one in _threads(pid))]:
        with contextlib.suppress(ProcessLookupError):
            before[thread] = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, cores)
    try:
        yield
    finally:
        for thread, where in before.items():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, where)


@contextlib.contextmanager
def stopped(pids: Iterable[int]) -> Iterator[None]:
    """These processes and their children do not run for a while.

    Ten servers that wait for their turn on one core are not idle: their timers and feeds took a fifth of it from the one whose turn
    it was, and its caches.
    """
    waiting: list[psutil.Process] = []
    try:
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                top = psutil.Process(pid)
                for process in (top, *top.children(recursive=True)):
                    process.send_signal(signal.SIGSTOP)
                    waiting.append(process)
        yield
    finally:
        for process in waiting:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def _threads(pid: int, *, children: bool = True) -> list[int]:
    # an affinity is a thread's, and a number that ended between being listed and being asked is no trouble
    found: list[int] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in (top, *(top.children(recursive=True) if children else ())):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [thread.id for thread in process.threads()]
    return found
