"""Turns single attempts into batches: one statement in flight, and everybody who came meanwhile goes in the next.

No timer: the first attempt of a quiet moment leaves in the same loop turn, and under load a batch is as large as the last one
took long. A timer would add its delay to every quiet purchase and bound every busy one.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Collection

import structlog

from flashsale import crash
from flashsale.authority.batch import decide
from flashsale.authority.client import Attempt, Authority, AuthorityUnavailable, Decision, NeverSent
from flashsale.backends.asyncio_redis import metrics
from flashsale.contract.verdict import Verdict

DECIDE_SECONDS = 0.9  # from the batch's start to giving up: a shopper hears 503 within a second
PROBE_SECONDS = 0.1  # how often a silent PostgreSQL is asked whether it is back

log = structlog.get_logger()


class Dispatcher:
    """Owns the attempts that wait for a decision; bounded by its caller's in-flight limit.

    ``moved`` is told which SKUs each batch took units of, after its commit; it may not wait.
    """

    def __init__(self, authority: Authority, batch_max: int, moved: Callable[[Collection[str]], None]) -> None:
        self._authority = authority
        self._batch_max = batch_max
        self._moved = moved
        self._waiting: deque[tuple[Attempt, asyncio.Future[Decision]]] = deque()
        self._arrived = asyncio.Event()
        self.task = asyncio.create_task(self._run())  # ends only with the process: whoever runs it must watch it
        self._deciding = crash.point("asyncio_redis.deciding")
        self.is_up = True  # False: the last batch got no answer; nobody should debit the gate for a decision
        metrics.authority_up.set(1)

    async def submit(self, attempt: Attempt) -> Decision:
        """The authority's decision. Raises ``AuthorityUnavailable``: the outcome is unknown; ``NeverSent``: there is none."""
        if not self.is_up:
            raise NeverSent("the last batch got no answer")
        decided: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting.append((attempt, decided))
        self._arrived.set()
        return await decided

    def close(self) -> None:
        """Stop. Whoever still waits was left by a caller that stopped waiting first."""
        self.task.cancel()

    async def _run(self) -> None:
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._waiting:
                    await self._run_batch()
        finally:
            self.is_up = False
            self._fail(len(self._waiting), AuthorityUnavailable)

    async def _run_batch(self) -> None:
        # they stay at the head of the queue until they are answered, so that whatever happens, somebody answers them
        batch = list(itertools.islice(self._waiting, self._batch_max))
        began = time.perf_counter()
        self._deciding()
        try:
            decisions = await decide(self._authority, [attempt for attempt, _ in batch], DECIDE_SECONDS)
        except AuthorityUnavailable as error:
            self.is_up = False
            self._fail(len(batch), AuthorityUnavailable)
            # those behind this batch would wait in vain, and longer than they should
            self._fail(len(self._waiting), NeverSent)
            await self._until_up(str(error))
            return
        metrics.commit_seconds.observe(time.perf_counter() - began)
        metrics.batch_sizes.observe(len(batch))
        for decision in decisions:
            _, decided = self._waiting.popleft()
            if not decided.done():  # its caller may have been cancelled by a stopping process
                decided.set_result(decision)
        pairs = zip(batch, decisions, strict=True)
        held = [attempt.cart.lines for (attempt, _), decision in pairs if decision.verdict is Verdict.HELD]
        if held:
            self._moved({line.sku for lines in held for line in lines})

    def _fail(self, count: int, error: type[AuthorityUnavailable]) -> None:
        for _ in range(count):
            _, decided = self._waiting.popleft()
            if not decided.done():
                decided.set_exception(error("PostgreSQL does not answer"))

    async def _until_up(self, reason: str) -> None:
        metrics.authority_up.set(0)
        log.warning("authority.down", reason=reason)
        while not self.is_up:
            try:
                await self._authority.ping()
                self.is_up = True
            except AuthorityUnavailable:
                await asyncio.sleep(PROBE_SECONDS)
        metrics.authority_up.set(1)
        log.info("authority.up")
