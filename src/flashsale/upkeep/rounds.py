"""Endless rounds of work that live through outages: the one place where upkeep waits and tries again."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from flashsale.authority.client import AuthorityUnavailable
from flashsale.gate.client import GateUnavailable
from flashsale.heed import apart, heed

RETRY_SECONDS_FIRST = 0.02
RETRY_SECONDS_MAX = (
    0.2  # after an outage of any length, work resumes within a tenth of the two seconds a gate may be away
)

log = structlog.get_logger()


def retry_pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row (1 and up)."""
    return float(min(RETRY_SECONDS_FIRST * 2 ** min(failures - 1, 10), RETRY_SECONDS_MAX))


async def run_rounds(name: str, work: Callable[[], Coroutine[Any, Any, float]]) -> None:
    """Call ``work`` for ever, each time after the seconds the last call returned.

    Redis or PostgreSQL being away is waited out, with one log line when it begins and one when it is over; anything else is
    a bug and ends the process, which the supervisor starts again.
    """
    failures = 0
    while True:
        heed()
        try:
            pause = await apart(work())
        except (AuthorityUnavailable, GateUnavailable) as error:
            failures += 1
            if failures == 1:
                log.warning("upkeep.interrupted", round=name, error=type(error).__name__, reason=str(error))
            pause = retry_pause(failures)
        else:
            if failures:
                log.info("upkeep.resumed", round=name, failures=failures)
            failures = 0
        await asyncio.sleep(pause)
