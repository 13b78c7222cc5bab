"""Decides a batch whatever happens to the connection: runs it again when its outcome is unknown, splits it when it is poisoned.

Running the same batch again is exact because every attempt carries its own rid: what was decided is returned as decided.
"""

import asyncio
import random
from collections.abc import Sequence

from flashsale.authority.client import Attempt, Authority, AuthorityUnavailable, BadBatch, Decision
from flashsale.contract.verdict import Verdict

BACKOFF_FIRST_S = 0.02  # a restarting PostgreSQL is back in tenths of a second
BACKOFF_MAX_S = 0.25  # so that service returns soon after it does


async def decide(authority: Authority, attempts: Sequence[Attempt], within_s: float) -> list[Decision]:
    """The decisions, in order. Raises ``AuthorityUnavailable`` after ``within_s`` seconds without an answer.

    An attempt that breaks a constraint (SQLSTATE class 22 or 23) is isolated by halving and answered ``malformed``; the
    others of its batch are decided as if it had not been there.
    """
    try:
        async with asyncio.timeout(within_s):
            return await _decide(authority, attempts)
    except TimeoutError as error:
        raise AuthorityUnavailable(f"no answer within {within_s} s") from error


async def _decide(authority: Authority, attempts: Sequence[Attempt]) -> list[Decision]:
    backoff_s = BACKOFF_FIRST_S
    while True:
        try:
            return await authority.reserve_batch(attempts)
        except BadBatch:
            if len(attempts) == 1:
                return [Decision(Verdict.MALFORMED)]
            half = len(attempts) // 2
            # one after the other: the first half arrived first
            return await _decide(authority, attempts[:half]) + await _decide(authority, attempts[half:])
        except AuthorityUnavailable:
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
