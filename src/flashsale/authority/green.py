"""The authority's calls for processes that run on gevent: psycopg, which waits through Python's patched sockets.

The same laws as ``client``: one autocommit statement per call, bounded, and a call that fails says whether it may simply be
made again. Only what a front of the queued backend needs: it reads, cancels and pays; purchases are decided by the worker.
"""

import time
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import gevent
import psycopg
from gevent.event import AsyncResult
from gevent.lock import BoundedSemaphore
from psycopg.rows import dict_row

from flashsale.authority import queries
from flashsale.authority.queries import LiveSale, Stock
from flashsale.authority.standing import Standing
from flashsale.contract import wire
from flashsale.contract.stock import Copies, Reading
from flashsale.contract.verdict import Verdict

# A shopper hears 503 within two seconds. Waiting for a turn has a bound of its own, and a call that got its turn has all of its
# time: under one bound for both, a busy machine struck calls that came late in mid-protocol, each cost its connection, and making
# new ones left nothing to answer with.
TURN_SECONDS = CALL_SECONDS = 1.0
WAITING_MAX = 256  # calls running and waiting; past this a caller hears so at once instead of waiting in vain
ASKED_MAX = 4_096  # who wait to hear what became of an attempt: all that wait for news of it, and as many again
ASKED_AT_ONCE_MAX = 256  # of them in one statement, some 10 ms
# the server's own bounds on a statement and on a lock
_OPTIONS = (
    "-c search_path=flash -c statement_timeout=3000 -c lock_timeout=1000 "
    "-c idle_in_transaction_session_timeout=5000 -c timezone=UTC"
)


class AuthorityUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """The call's outcome is unknown or it did not run. Making the same call again is safe and exact."""


class _Asked(NamedTuple):
    rid: uuid.UUID
    purchase: uuid.UUID
    buyer: str
    standing: "AsyncResult[Standing]"
    until: float  # nobody waits for it after that


class GreenAuthority:
    """Up to ``size`` connections to PostgreSQL, opened when needed and kept while they work."""

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self._turns = BoundedSemaphore(size)
        self._calls = 0
        self._idle: list[psycopg.Connection[dict[str, Any]]] = []
        self._asked: list[_Asked] = []
        self._reader: gevent.Greenlet[..., None] | None = None  # answers them while there are any
        self._clock: tuple[datetime, float] | None = None  # PostgreSQL's time, and this machine's when it said so

    def close(self) -> None:
        """Close every idle connection, without waiting for a server that does not answer."""
        while self._idle:
            self._idle.pop().close()

    def now(self) -> datetime:
        """PostgreSQL's time, by its latest answer to ``news``. Without one yet, this machine's, which may be another's.

        Never asks, so that an attempt can be queued while PostgreSQL is away.
        """
        if self._clock is None:
            return datetime.now(UTC)
        at, heard_s = self._clock
        return at + timedelta(seconds=time.monotonic() - heard_s)

    def read_standing(self, rid: uuid.UUID, purchase: uuid.UUID, buyer: str) -> Standing:
        """What is known of the attempt and of the purchase its key may have made, of one snapshot.

        Whoever asks while another is being answered shares the next statement: a batch of verdicts wakes hundreds at once. A
        statement each, most of them got no turn and heard 503 (4,300 attempts a second offered to two fronts).
        """
        if len(self._asked) >= ASKED_MAX:
            raise AuthorityUnavailable(f"{ASKED_MAX} wait already to hear what became of them")
        within_s = TURN_SECONDS + CALL_SECONDS
        asked = _Asked(rid, purchase, buyer, AsyncResult(), time.monotonic() + within_s)
        self._asked.append(asked)
        if self._reader is None:
            self._reader = gevent.spawn(self._read_standings)
        with gevent.Timeout(within_s, AuthorityUnavailable("no answer in time")):
            standing: Standing = asked.standing.get()
            return standing

    def _read_standings(self) -> None:
        try:
            while batch := self._next_asked():
                rids, purchases, buyers = ([one[column] for one in batch] for column in range(3))
                try:
                    standings = queries.standings(self._rows(queries.STANDINGS, rids, purchases, buyers))
                except AuthorityUnavailable as error:
                    for one in batch:
                        one.standing.set_exception(AuthorityUnavailable(str(error)))
                    continue
                for one, standing in zip(batch, standings, strict=True):
                    one.standing.set(standing)
        finally:
            self._reader = None

    def _next_asked(self) -> list[_Asked]:
        # Without those who gave up: behind a PostgreSQL that hung they would be asked about before anybody who still waits.
        now = time.monotonic()
        waiting = [one for one in self._asked if one.until > now]
        batch, self._asked = waiting[:ASKED_AT_ONCE_MAX], waiting[ASKED_AT_ONCE_MAX:]
        return batch

    def read_purchase(self, purchase: uuid.UUID, buyer: str) -> wire.Purchase | None:
        """The purchase as it is now; None when there is none, or it is another buyer's."""
        rows = self._rows(queries.PURCHASE, purchase, buyer)
        return queries.purchase(rows[0]) if rows else None

    def news(
        self, purchases: Iterable[uuid.UUID], rids: Iterable[uuid.UUID]
    ) -> tuple[dict[uuid.UUID, int], dict[uuid.UUID, str]]:
        """The current version of each purchase that exists, and the verdict of each attempt that has one; sets the clock."""
        (row,) = self._rows(
            """SELECT ARRAY(SELECT id FROM purchase WHERE id = ANY ($1) ORDER BY id) AS ids,
                      ARRAY(SELECT version FROM purchase WHERE id = ANY ($1) ORDER BY id) AS versions,
                      ARRAY(SELECT rid FROM attempt WHERE rid = ANY ($2) ORDER BY rid) AS rids,
                      ARRAY(SELECT verdict FROM attempt WHERE rid = ANY ($2) ORDER BY rid) AS said,
                      clock_timestamp() AS at""",
            list(purchases),
            list(rids),
        )
        self._clock = (row["at"], time.monotonic())
        return (
            dict(zip(row["ids"], row["versions"], strict=True)),
            dict(zip(row["rids"], row["said"], strict=True)),
        )

    def cancel(self, purchase: uuid.UUID, buyer: str) -> Verdict | None:
        """Give a hold up; None when it is given up, now or before, else why not."""
        (row,) = self._rows(queries.CANCEL, purchase, buyer)
        return Verdict(row["refused"]) if row["refused"] else None

    def start_payment(self, purchase: uuid.UUID, buyer: str, key: str, method: str) -> Verdict | None:
        """Ask for a hold to be paid; None when it is asked, now or before with this key, else why not."""
        (row,) = self._rows(queries.START_PAYMENT, purchase, buyer, key, method)
        return Verdict(row["refused"]) if row["refused"] else None

    def read_sales(self, sale: str | None = None) -> list[wire.Sale]:
        """Every sale, or the one named."""
        return queries.sales(self._rows(queries.SALES, sale))

    def read_stock(self, sku: str) -> Stock | None:
        """The count of one SKU; None when there is no such item."""
        return queries.stock(self._rows(queries.STOCK, sku))

    def read_watched(self, skus: Iterable[str]) -> Reading:
        """Those of ``skus`` (one at least) that are items, of one moment."""
        return queries.reading(self._rows(queries.WATCHED, list(skus)))

    def live_sales(self) -> list[LiveSale]:
        """The sales of which copies are kept: all but those that ended a while ago."""
        return queries.live_sales(self._rows(queries.LIVE_SALES))

    def read_copies(self, cursors: Mapping[str, int], rows_max: int) -> Copies | None:
        """Per SKU: its stock row and up to ``rows_max`` ledger rows after its cursor, of one snapshot; None: no such items."""
        return queries.copies(self._rows(queries.COPIES, list(cursors), list(cursors.values()), rows_max))

    def _rows(self, query: str, *arguments: Any) -> list[dict[str, Any]]:
        if self._calls >= WAITING_MAX:
            raise AuthorityUnavailable(f"{WAITING_MAX} calls wait already")
        self._calls += 1
        try:
            if not self._turns.acquire(timeout=TURN_SECONDS):
                raise AuthorityUnavailable("no connection was free in time")
            try:
                with gevent.Timeout(CALL_SECONDS, TimeoutError("no answer in time")):
                    return self._call(query, arguments)
            finally:
                self._turns.release()
        except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
            raise AuthorityUnavailable(str(error) or type(error).__name__) from error
        finally:
            self._calls -= 1

    def _call(self, query: str, arguments: tuple[Any, ...]) -> list[dict[str, Any]]:
        while True:
            connection, is_fresh = (self._idle.pop(), False) if self._idle else (self._connect(), True)
            try:
                rows = connection.execute(query, arguments).fetchall()
            except psycopg.OperationalError:
                is_broken = connection.broken
                connection.close()
                # a kept connection may have died unseen, with a server that is back by now; every call may be made again
                if is_broken and not is_fresh:
                    continue
                raise
            except BaseException:  # a time-out strikes in mid-protocol: what the server still says belongs to nobody
                connection.close()
                raise
            self._idle.append(connection)
            return rows

    def _connect(self) -> psycopg.Connection[dict[str, Any]]:
        return psycopg.connect(
            self._url, autocommit=True, row_factory=dict_row, cursor_factory=psycopg.RawCursor, options=_OPTIONS
        )
