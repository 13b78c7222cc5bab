"""The stock feed of what this server refuses by itself: reads PostgreSQL ten times a second, and when told that something moved.

On a connection of its own: behind other readers it would be late, and a word that is late is none.
"""

import time
from collections.abc import Collection

import gevent
from gevent.event import Event

from flashsale.authority.green import AuthorityUnavailable, GreenAuthority
from flashsale.stream.refusals import BEAT_SECONDS, ROWS_MAX, Refusals

PAUSE_SECONDS = 0.02  # between two readings, however often it is woken
CATCH_UP_SECONDS = 0.002  # between two slices of ids: purchases have as much of the loop as they need
SALES_SECONDS = 1.0  # a new sale may wait so long for its first word


class Feed:
    """Keeps ``refusals`` fed. ``work`` ends only with the process: whoever runs it must watch it."""

    def __init__(self, authority: GreenAuthority, refusals: Refusals) -> None:
        self._authority = authority
        self._refusals = refusals
        self._sales_due = 0.0
        self._read_soon = Event()
        self.work = gevent.spawn(self._run)

    def wake(self, skus: Collection[str] | None) -> None:
        """These SKUs moved; None: any may have."""
        if self._refusals.wake(skus, time.monotonic()):
            self._read_soon.set()

    def close(self) -> None:
        """Stop."""
        self.work.kill(block=False)

    def _run(self) -> None:
        while True:
            try:
                is_behind = self._read()
            except AuthorityUnavailable:
                is_behind = False  # what is known grows old by itself; there is nothing to take back
            if is_behind:
                gevent.sleep(CATCH_UP_SECONDS)
                continue
            # the pause first: what moves in it is read of once
            gevent.sleep(PAUSE_SECONDS)
            self._read_soon.wait(BEAT_SECONDS - PAUSE_SECONDS)

    def _read(self) -> bool:
        # Is there more to be read at once?
        if time.monotonic() >= self._sales_due:
            self._refusals.expect({sale.sale: sale.skus for sale in self._authority.live_sales()})
            self._sales_due = time.monotonic() + SALES_SECONDS
        self._read_soon.clear()
        wished = self._refusals.wish()
        begun = time.monotonic()
        copies = self._authority.read_copies(wished, ROWS_MAX) if wished else None
        return copies is not None and self._refusals.learn(wished, copies, begun)
