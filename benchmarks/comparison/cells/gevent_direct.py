"""``python -m benchmarks.comparison.cells.gevent_direct``: the front of ``gevent_rabbit``, which has PostgreSQL decide and answers with the verdict."""

# ruff: noqa: E402 - before any other import, as in the backend: a lock or a socket that was made before would stop everybody
from gevent import monkey

monkey.patch_all()

import os
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import gevent
from gevent.event import AsyncResult, Event

from flashsale import logs
from flashsale.authority import queries
from flashsale.authority.green import AuthorityUnavailable, GreenAuthority
from flashsale.backends.gevent_rabbit import app
from flashsale.backends.gevent_rabbit.checkout import Checkout, Outcome
from flashsale.contract.verdict import DETAILS, Verdict
from flashsale.queued.message import Message
from flashsale.settings import Settings

RESERVE = """
    SELECT * FROM reserve_batch($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::bigint[], $7::timestamptz[],
                                $8::integer[], $9::text[], $10::integer[])"""


class Deciding:
    """Batches as the other backend's dispatcher makes them: one in flight, and whoever came meanwhile goes in the next."""

    settings: Settings

    def __init__(self, *_: object) -> None:
        self.was_up = True
        self.is_up = True
        self._authority = GreenAuthority(self.settings.postgres_url, 1)
        self._waiting: deque[tuple[Message, AsyncResult[Outcome]]] = deque()
        self._arrived = Event()
        self.link = SimpleNamespace(keeper=gevent.spawn(self._run))

    def submit(self, attempt: Message) -> Outcome:
        """The authority's verdict."""
        decided: AsyncResult[Outcome] = AsyncResult()
        self._waiting.append((attempt, decided))
        self._arrived.set()
        outcome: Outcome = decided.get()
        return outcome

    def close(self) -> None:
        """Stop."""
        self.link.keeper.kill()
        self._authority.close()

    def _run(self) -> None:
        while True:
            self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.settings.batch_max))]
                for (_, decided), outcome in zip(batch, self._decide([attempt for attempt, _ in batch]), strict=True):
                    decided.set(outcome)

    def _decide(self, attempts: list[Message]) -> list[Outcome]:
        lines = [(place, line) for place, attempt in enumerate(attempts, 1) for line in attempt.cart.lines]
        try:
            rows = self._authority._rows(  # noqa: SLF001 - the green client has no such call, for no front decides
                RESERVE,
                [attempt.rid for attempt in attempts],
                [attempt.purchase for attempt in attempts],
                [attempt.buyer for attempt in attempts],
                [attempt.key for attempt in attempts],
                [attempt.cart.fingerprint for attempt in attempts],
                [None for _ in attempts],
                [None for _ in attempts],
                [place for place, _ in lines],
                [line.sku for _, line in lines],
                [line.quantity for _, line in lines],
            )
        except AuthorityUnavailable:
            return [_refused(Verdict.TRY_LATER) for _ in attempts]
        return [_outcome(row) for row in rows]


class DirectCheckout(Checkout):
    """Single flight and bound are the backend's; what would go into the queue is decided."""

    def _decide(self, attempt: Message, *, may_be_known: bool) -> Outcome:
        del may_be_known  # PostgreSQL knows, and is asked in any case
        return cast("Deciding", self._dispatcher).submit(attempt)


def _outcome(row: dict[str, Any]) -> Outcome:
    if row["verdict"] == "fenced":
        return _refused(Verdict.TRY_LATER)
    verdict = Verdict(row["verdict"])
    return Outcome(verdict, queries.purchase(row) if row["id"] is not None else None, DETAILS.get(verdict, ""))


def _refused(verdict: Verdict) -> Outcome:
    return Outcome(verdict, None, DETAILS[verdict])


if __name__ == "__main__":
    given = Settings.load(os.environ)
    logs.configure("gevent_direct", given.log_level)
    Deciding.settings = given
    vars(app).update(Dispatcher=Deciding, Checkout=DirectCheckout)  # the parts in others' places
    app.serve(given)
