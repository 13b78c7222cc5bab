"""Crash points: places where a process can be told to die, or to stand still, so that what it leaves behind can be looked at.

They are compiled in, because a kill from outside never comes between two given lines. Off, which is always but in tests, a
point is a call of a function that does nothing. ``FLASH_CRASH_AT`` arms one of them, and the settings refuse it wherever
strangers may come. Standard library only: the settings read the table.
"""

import itertools
import logging
import os
import re
from collections.abc import Callable
from signal import SIGKILL, SIGSTOP, Signals
from types import MappingProxyType
from typing import NamedTuple

# The process and the moment → what is so at that moment.
POINTS = MappingProxyType(
    {
        "asyncio_redis.debited": "the gate has set an attempt's units aside, and nobody has asked PostgreSQL",
        "asyncio_redis.deciding": "a batch is about to leave for PostgreSQL",
        "asyncio_redis.decided": "PostgreSQL has decided a debited attempt, and neither its shopper nor the gate has heard",
        "asyncio_redis.answered": "its answer has left, and the gate has not heard",
        "gevent_rabbit.publishing": "an attempt is about to leave for the queue",
        "gevent_rabbit.confirmed": "the broker has confirmed an attempt, and its shopper has not heard",
        "checkout.taken": "a worker has attempts in hand, and nobody has asked PostgreSQL",
        "checkout.decided": "PostgreSQL has decided them, and the broker has not heard",
        "upkeep.applied": "the gate has taken ledger rows, and nobody has been told that it did",
        "upkeep.published": "the broker has confirmed events, and they are not marked sent",
        "payments.answered": "a gateway has answered, and its answer is not in the books",
    }
)
STOP = "stop"
_MOMENTS = itertools.groupby((name.split(".") for name in POINTS), key=lambda name: name[0])
ALLOWED = (
    " ".join(f"{process}.({'|'.join(name[1] for name in names)})" for process, names in _MOMENTS) + f"[:COUNT][:{STOP}]"
)


class Armed(NamedTuple):
    """What ``FLASH_CRASH_AT`` says: the signal that the process sends itself, and when."""

    point: str
    times: int
    signal: Signals


def parse(text: str) -> Armed:
    """``point``, ``point:3``, ``point:stop``, ``point:3:stop``. Raises ``ValueError``."""
    match = re.fullmatch(rf"([a-z_.]+)(?::([1-9][0-9]{{0,5}}))?(:{STOP})?", text)
    if match is None or match[1] not in POINTS:
        raise ValueError
    return Armed(match[1], int(match[2] or 1), SIGSTOP if match[3] else SIGKILL)


_ARMED: dict[str, Armed] = {}  # of this process, like where it logs to; empty but in tests


def arm(text: str) -> None:
    """Arm this process as ``FLASH_CRASH_AT`` says, before anybody asks for a point; an empty text arms nothing."""
    if text:
        armed = parse(text)
        _ARMED[armed.point] = armed
        logging.getLogger(__name__).warning("crash.armed at %s", text)


def point(name: str) -> Callable[[], None]:
    """What to call at the point ``name``: asked for once, by whoever comes by it, when that is made."""
    assert name in POINTS, name
    return _reach(_ARMED[name]) if name in _ARMED else _pass


def _pass() -> None:
    pass


def _reach(armed: Armed) -> Callable[[], None]:
    reached = 0

    def reach() -> None:
        nonlocal reached
        reached += 1
        if reached == armed.times:
            os.kill(os.getpid(), armed.signal)

    return reach
