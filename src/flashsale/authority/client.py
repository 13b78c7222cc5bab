"""Typed calls of the authority's SQL functions. One autocommit statement per call, so a frozen caller never holds a lock.

Nothing here decides or retries: a call that fails raises, and says whether the same call may simply be made again.
"""

import asyncio
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

import asyncpg

from flashsale.authority import queries
from flashsale.authority.queries import LiveSale, Stock
from flashsale.authority.standing import Standing
from flashsale.contract import wire
from flashsale.contract.stock import Copies, Reading
from flashsale.contract.verdict import Verdict

CALL_SECONDS = 1.5  # a shopper hears 503 within two seconds, so one call may not take longer
UNHURRIED_SECONDS = 60.0  # for a call that no shopper waits for, as a launcher makes it
WAITING_MAX = 256  # calls per pool, running and waiting; past this a caller hears so at once instead of waiting in vain
# For a handshake. A call has no longer for one than for everything else, so this bounds the first connection, when nobody
# waits yet: on a machine where everything starts at once it takes seconds, and who always gave up earlier never started.
CONNECT_SECONDS = 10.0
PING_SECONDS = 3.0  # nobody waits for the answer either; a server that was frozen, or cut off, is asked anew that soon
# The server's own bound on a statement. The janitor fences an attempt only after this, so that a slow decision still counts.
STATEMENT_MS = 3_000
LOCK_MS = 300  # a batch that waits longer stands behind something broken, or behind its own lost call; it is run again

# InternalClientError is the driver's "this cannot happen"; killing PostgreSQL under load makes it happen.
_BROKEN = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

_SETTINGS = {
    "search_path": "flash",
    "statement_timeout": str(STATEMENT_MS),
    "lock_timeout": str(LOCK_MS),
    "idle_in_transaction_session_timeout": "5000",
    "timezone": "UTC",
}


class AuthorityUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """The call's outcome is unknown or it did not run. Making the same call again is safe and exact."""


class NeverSent(AuthorityUnavailable):
    """The call never left this process: it did not run and never will."""


class BadBatch(Exception):  # noqa: N818 - see above
    """Some attempt of the batch breaks a constraint (SQLSTATE class 22 or 23); nothing was decided for any of them."""


class Attempt(NamedTuple):
    """One purchase attempt. ``epoch`` is the gate's that debited its units, None when no gate did."""

    rid: uuid.UUID
    purchase: uuid.UUID
    buyer: str
    key: str
    cart: wire.Cart
    epoch: int | None = None
    queued_until: datetime | None = None


class Decision(NamedTuple):
    """What the authority says of one attempt. ``verdict`` None: the attempt was fenced, nothing was decided.

    ``purchase`` is there for HELD and REPLAYED. ``remaining`` has the units left per line, for a fresh hold only.
    """

    verdict: Verdict | None
    purchase: wire.Purchase | None = None
    remaining: tuple[int, ...] | None = None


class Expired(NamedTuple):
    """How many holds a sweep ended, and when the next one is due (None: there is no hold)."""

    ended: int
    next_deadline: datetime | None


class GateItem(NamedTuple):
    """What the gate must know of one SKU."""

    sku: str
    available: int
    seq: int
    state: str
    opens: datetime
    closes: datetime
    limit: int


class GateImage(NamedTuple):
    """All that the gate of one sale holds, of one moment. ``won``: purchase ids ever held."""

    epoch: int
    items: tuple[GateItem, ...]
    won: list[uuid.UUID]


class Movement(NamedTuple):
    """One row of the ledger."""

    seq: int
    delta: int
    kind: str
    epoch: int | None
    purchase: uuid.UUID | None


class Movements(NamedTuple):
    """What happened to one SKU after a cursor, and where it stands; one snapshot. ``rows`` may stop short of ``seq``."""

    seq: int
    epoch: int
    available: int
    state: str
    opens: datetime
    closes: datetime
    limit: int
    rows: tuple[Movement, ...]


class Payment(NamedTuple):
    """One try to pay, as the worker needs it. ``next`` is what it still needs from the gateway (see ``payment_next``).

    ``is_set_aside``: a message about it, in the state that it is in, went to ``payments.dead``.
    """

    purchase: uuid.UUID
    number: int
    method: str
    amount_minor: int
    currency: str
    next: str
    is_set_aside: bool = False


class Told(NamedTuple):
    """What a gateway says of one try: authorized, declined, captured, voided or refunded, and of how much money."""

    purchase: uuid.UUID
    number: int
    outcome: str
    amount_minor: int
    currency: str


class ExpiredPayments(NamedTuple):
    """How many tries the gateway was asked to void, and how many holds ended without its answer."""

    voiding: int
    ended: int


class OutboxEvent(NamedTuple):
    """A change that somebody outside may want to know. ``version`` is of ``subject``; for payments, the try.

    ``sale`` is None where it belongs to none; ``data`` is what events.schema.json says of the topic.
    """

    id: int
    topic: str
    subject: str
    version: int
    at: datetime
    sale: str | None
    data: dict[str, Any]


@dataclass
class Authority:
    """A bounded pool of connections to PostgreSQL. Each call takes at most ``call_s`` seconds, the wait included."""

    pool: asyncpg.Pool
    call_s: float = CALL_SECONDS
    _calls: int = 0

    @classmethod
    async def connect(cls, url: str, size: int, call_s: float = CALL_SECONDS) -> Self:
        """Open a pool of up to ``size`` connections. Raises ``AuthorityUnavailable``."""
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=0,  # a floor is restored by a background task, which knows no bound when PostgreSQL is gone
                max_size=size,
                timeout=CONNECT_SECONDS,
                max_inactive_connection_lifetime=0,
                server_settings=_SETTINGS,
                connection_class=_Connection,
                init=_prepare_connection,
            )
        except (asyncpg.PostgresError, *_BROKEN) as error:
            raise AuthorityUnavailable(str(error)) from error
        authority = cls(pool, call_s)
        await authority.ping(CONNECT_SECONDS)
        return authority

    async def close(self) -> None:
        """Close every connection, without waiting for a server that does not answer."""
        self.pool.terminate()

    async def ping(self, within_s: float = PING_SECONDS) -> None:
        """Raises ``AuthorityUnavailable`` when PostgreSQL does not answer in time, a new connection to it included."""
        await self._rows_within(within_s, "SELECT 1")

    async def identity(self) -> str:
        """What this database is called, the same for everybody who reaches it, by whatever address and as whatever user."""
        (row,) = await self._rows(
            "SELECT system_identifier::text || '/' || current_database() AS name FROM pg_control_system()"
        )
        return str(row["name"])

    async def reserve_batch(self, attempts: Sequence[Attempt]) -> list[Decision]:
        """Decide attempts in the given order. Raises ``AuthorityUnavailable`` (run the same batch again) or ``BadBatch``."""
        lines = [
            (position, line.sku, line.quantity)
            for position, attempt in enumerate(attempts, 1)
            for line in attempt.cart.lines
        ]
        rows = await self._rows(
            "SELECT * FROM reserve_batch($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)",
            [attempt.rid for attempt in attempts],
            [attempt.purchase for attempt in attempts],
            [attempt.buyer for attempt in attempts],
            [attempt.key for attempt in attempts],
            [attempt.cart.fingerprint for attempt in attempts],
            [attempt.epoch for attempt in attempts],
            [attempt.queued_until for attempt in attempts],
            [position for position, _, _ in lines],
            [sku for _, sku, _ in lines],
            [quantity for _, _, quantity in lines],
        )
        return [_decision(row) for row in rows]

    async def void_attempts(self, attempts: Sequence[tuple[uuid.UUID, uuid.UUID]]) -> dict[uuid.UUID, str]:
        """Fence (rid, purchase) pairs; the verdict of each rid, ``void`` where the fence came first."""
        rows = await self._rows(
            "SELECT rid, verdict FROM void_attempts($1, $2)",
            [rid for rid, _ in attempts],
            [purchase for _, purchase in attempts],
        )
        return {row["rid"]: row["verdict"] for row in rows}

    async def cancel(self, purchase: uuid.UUID, buyer: str) -> Verdict | None:
        """Give a hold up; None when it is given up, now or before, else why not."""
        (row,) = await self._rows(queries.CANCEL, purchase, buyer)
        return Verdict(row["refused"]) if row["refused"] else None

    async def expire_due(self, limit: int) -> Expired:
        """End up to ``limit`` holds whose deadline has passed."""
        (row,) = await self._rows("SELECT ended, next_deadline FROM expire_due($1)", limit)
        return Expired(row["ended"], row["next_deadline"])

    async def raise_epoch(self, sale: str, gate_epoch: int) -> GateImage:
        """Start a new life of the sale's gate, above its own epoch and ``gate_epoch``."""
        (row,) = await self._rows("SELECT * FROM raise_epoch($1, $2)", sale, gate_epoch)
        columns = (row[name] or () for name in ("skus", "available", "seqs", "states", "opens", "closes", "limits"))
        items = tuple(GateItem(*values) for values in zip(*columns, strict=True))
        return GateImage(row["epoch"], items, list(row["won"]))

    async def live_sales(self) -> list[LiveSale]:
        """The sales whose gates are kept: all but those that ended a while ago."""
        return queries.live_sales(await self._rows(queries.LIVE_SALES))

    async def movements(self, cursors: Mapping[str, int], rows_max: int) -> dict[str, Movements]:
        """Per SKU: up to ``rows_max`` movements after its cursor, and its stock row, all of one snapshot."""
        rows = await self._rows(
            """SELECT k.sku, k.seq, k.epoch, k.available, k.state, k.opens, k.closes, k.buyer_limit,
                      ARRAY(SELECT ROW (l.seq, l.delta, l.kind, l.epoch, l.purchase_id) FROM ledger l
                            WHERE l.sku = k.sku AND l.seq > c.seq ORDER BY l.seq LIMIT $3) AS rows
               FROM unnest($1::text[], $2::bigint[]) c (sku, seq) JOIN stock k ON k.sku = c.sku""",
            list(cursors),
            list(cursors.values()),
            rows_max,
        )
        return {
            row["sku"]: Movements(
                row["seq"],
                row["epoch"],
                row["available"],
                row["state"],
                row["opens"],
                row["closes"],
                row["buyer_limit"],
                tuple(Movement(*values) for values in row["rows"]),
            )
            for row in rows
        }

    async def read_copies(self, cursors: Mapping[str, int], rows_max: int) -> Copies | None:
        """Per SKU: its stock row and up to ``rows_max`` ledger rows after its cursor, of one snapshot; None: no such items."""
        return queries.copies(await self._rows(queries.COPIES, list(cursors), list(cursors.values()), rows_max))

    async def held_attempts(
        self,
        rids: Iterable[uuid.UUID],
        skus: Iterable[str],
    ) -> tuple[set[uuid.UUID], dict[str, tuple[int, int]]]:
        """Which of ``rids`` were decided as held, and (available, seq) of ``skus``, of one snapshot."""
        (row,) = await self._rows(
            """SELECT ARRAY(SELECT rid FROM attempt WHERE rid = ANY ($1::uuid[]) AND verdict = 'held') AS held,
                      ARRAY(SELECT ROW (sku, available, seq) FROM stock WHERE sku = ANY ($2::text[])) AS stock""",
            list(rids),
            list(skus),
        )
        return set(row["held"]), {sku: (available, seq) for sku, available, seq in row["stock"]}

    async def read_purchase(self, purchase: uuid.UUID, buyer: str) -> wire.Purchase | None:
        """The purchase as it is now; None when there is none, or it is another buyer's."""
        rows = await self._rows(queries.PURCHASE, purchase, buyer)
        return queries.purchase(rows[0]) if rows else None

    async def read_standing(self, rid: uuid.UUID, purchase: uuid.UUID, buyer: str) -> Standing:
        """What is recorded of an attempt and of the purchase its key may have made, of one snapshot."""
        (standing,) = queries.standings(await self._rows(queries.STANDINGS, [rid], [purchase], [buyer]))
        return standing

    async def verdicts(self, rids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        """Which of these attempts are decided."""
        rows = await self._rows("SELECT rid FROM attempt WHERE rid = ANY ($1)", list(rids))
        return {row["rid"] for row in rows}

    async def versions(self, purchases: Iterable[uuid.UUID]) -> dict[uuid.UUID, int]:
        """The current version of each purchase that exists."""
        rows = await self._rows("SELECT id, version FROM purchase WHERE id = ANY ($1)", list(purchases))
        return {row["id"]: row["version"] for row in rows}

    async def sales_by_sku(self) -> dict[str, str]:
        """Which sale each item belongs to; an item never changes its sale."""
        return {row["sku"]: row["sale_id"] for row in await self._rows("SELECT sku, sale_id FROM item")}

    async def read_sales(self, sale: str | None = None) -> list[wire.Sale]:
        """Every sale, or the one named."""
        return queries.sales(await self._rows(queries.SALES, sale))

    async def read_stock(self, sku: str) -> Stock | None:
        """The count of one SKU; None when there is no such item."""
        return queries.stock(await self._rows(queries.STOCK, sku))

    async def read_watched(self, skus: Iterable[str]) -> Reading:
        """Those of ``skus`` (one at least) that are items, of one moment."""
        return queries.reading(await self._rows(queries.WATCHED, list(skus)))

    async def start_payment(self, purchase: uuid.UUID, buyer: str, key: str, method: str) -> Verdict | None:
        """Ask for a hold to be paid; None when it is asked, now or before with this key, else why not."""
        (row,) = await self._rows(queries.START_PAYMENT, purchase, buyer, key, method)
        return Verdict(row["refused"]) if row["refused"] else None

    async def read_payment(self, purchase: uuid.UUID, number: int) -> Payment | None:
        """One try to pay; None when there is no such try."""
        return (await self.read_payments([(purchase, number)]))[0]

    async def read_payments(self, tries: Sequence[tuple[uuid.UUID, int]]) -> list[Payment | None]:
        """Tries to pay, in the given order; None for those that there are not."""
        rows = await self._rows(
            """SELECT y.purchase_id, y.try, y.method, y.amount_minor, y.currency,
                      payment_next(y.state, y.void_at IS NOT NULL, p.state) AS next, y.set_aside_at IS NOT NULL AS aside
               FROM unnest($1::uuid[], $2::integer[]) t (purchase_id, try)
               JOIN payment y USING (purchase_id, try) JOIN purchase p ON p.id = y.purchase_id""",
            [purchase for purchase, _ in tries],
            [number for _, number in tries],
        )
        found = {(row["purchase_id"], row["try"]): Payment(*row) for row in rows}
        return [found.get(asked) for asked in tries]

    async def settle_payment(self, told: Told) -> str:
        """Take an outcome to the books; what to do next, or ``unknown`` or ``mismatch`` when it was not believed."""
        (row,) = await self._rows("SELECT settle_payment($1, $2, $3, $4, $5) AS next", *told)
        return str(row["next"])

    async def settle_payments(self, told: Sequence[Told]) -> list[str | None]:
        """The plain ones among many outcomes, in one statement: what to do next, or None where ``settle_payment`` must be asked."""
        columns = [list(column) for column in zip(*told, strict=True)]
        (row,) = await self._rows("SELECT settle_payments($1, $2, $3, $4, $5) AS next", *columns)
        return list(row["next"])

    async def set_payment_aside(self, purchase: uuid.UUID, number: int) -> None:
        """Remember that a message about this try is in ``payments.dead``; while it stays in its state no other is needed there."""
        await self._rows("SELECT set_payment_aside($1, $2)", purchase, number)

    async def hear_payment(self, event: str, told: Told) -> str:
        """The same, once per ``event``; ``nothing``, or ``heard``, ``unknown`` or ``mismatch`` when it had no effect."""
        (row,) = await self._rows("SELECT hear_payment($1, $2, $3, $4, $5, $6) AS heard", event, *told)
        return str(row["heard"])

    async def expire_payments(self, limit: int, grace: timedelta, up: timedelta) -> ExpiredPayments:
        """Ask for the void of tries whose hold is over, and end holds whose void got no answer within ``grace``.

        ``up``: how long messages have come through to a payment worker without a pause.
        """
        (row,) = await self._rows("SELECT voiding, ended FROM expire_payments($1, $2, $3)", limit, grace, up)
        return ExpiredPayments(row["voiding"], row["ended"])

    async def resume_payments(self, limit: int, after: timedelta) -> int:
        """Send a new message about up to ``limit`` tries that are open and of which nobody heard for ``after``."""
        (row,) = await self._rows("SELECT resume_payments($1, $2) AS resumed", limit, after)
        return int(row["resumed"])

    async def lease_outbox(self, limit: int, lease: timedelta) -> list[OutboxEvent]:
        """Take up to ``limit`` unsent events for ``lease``; another relay may have them after it."""
        rows = await self._rows(
            """SELECT e.* FROM (SELECT array_agg(id) AS ids FROM lease_outbox($1, $2)) leased
               CROSS JOIN LATERAL describe_events(leased.ids) e ORDER BY e.id""",
            limit,
            lease,
        )
        return [OutboxEvent(*row) for row in rows]

    async def mark_sent(self, sent: Sequence[int], unsent: Sequence[int] = (), refused: Sequence[int] = ()) -> None:
        """The broker confirmed ``sent``, by id; ``unsent`` may be leased again at once, ``refused`` after some seconds."""
        await self._rows("SELECT mark_sent($1, $2, $3)", list(sent), list(unsent), list(refused))

    async def forget_events(self, limit: int, after: timedelta) -> int:
        """Delete up to ``limit`` events that were sent, and as many that were heard, longer than ``after`` ago."""
        (row,) = await self._rows("SELECT forget_events($1, $2) AS forgotten", limit, after)
        return int(row["forgotten"])

    async def create_sale(
        self,
        sale: str,
        *,
        merchant: str,
        name: str,
        opens: datetime,
        closes: datetime,
        buyer_limit: int,
        hold_seconds: int,
        currency: str,
    ) -> None:
        """Add a sale without items. Raises ``BadBatch`` when it exists or a value is out of bounds."""
        await self._rows(
            "SELECT create_sale($1, $2, $3, $4, $5, $6, $7, $8)",
            sale,
            merchant,
            name,
            opens,
            closes,
            buyer_limit,
            hold_seconds,
            currency,
        )

    async def add_item(self, sale: str, sku: str, name: str, price_minor: int, units: int) -> None:
        """Add an item and its opening stock to a sale. Raises ``BadBatch`` when it exists or a value is out of bounds."""
        await self._rows("SELECT add_item($1, $2, $3, $4, $5)", sale, sku, name, price_minor, units)

    async def restock(self, sku: str, units: int) -> None:
        """Put more units of an item on sale. Raises ``BadBatch`` for an unknown item or less than one unit."""
        await self._rows("SELECT restock($1, $2)", sku, units)

    async def change_sale(
        self,
        sale: str,
        *,
        state: str | None = None,
        opens: datetime | None = None,
        closes: datetime | None = None,
        buyer_limit: int | None = None,
        hold_seconds: int | None = None,
    ) -> None:
        """Pause, reopen, end or reschedule; None leaves a thing as it is. Raises ``BadBatch`` when that is not allowed."""
        await self._rows(
            "SELECT change_sale($1, $2, $3, $4, $5, $6)",
            sale,
            state,
            opens,
            closes,
            buyer_limit,
            hold_seconds,
        )

    async def _rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        return await self._rows_within(self.call_s, query, *arguments)

    async def _rows_within(self, seconds: float, query: str, *arguments: Any) -> list[asyncpg.Record]:
        if self._calls >= WAITING_MAX:
            raise NeverSent(f"{WAITING_MAX} calls wait already")
        self._calls += 1
        try:
            async with asyncio.timeout(seconds):
                connection = await self.pool.acquire()
                try:
                    return await connection.fetch(query, *arguments)
                except (TimeoutError, asyncio.CancelledError, asyncpg.InternalClientError):
                    # On a time-out the driver would first ask the server to cancel, and wait: the very thing that does
                    # not answer. And a server killed between two messages can leave its side of the protocol confused.
                    connection.terminate()
                    raise
                finally:
                    await self.pool.release(connection)
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "")[:2] in {"22", "23"}:
                raise BadBatch(str(error)) from error
            raise AuthorityUnavailable(str(error)) from error
        except _BROKEN as error:
            raise AuthorityUnavailable(str(error) or type(error).__name__) from error
        finally:
            self._calls -= 1


class _Connection(asyncpg.Connection):
    """A connection that needs no cleaning: every call is one autocommit statement and leaves no session state behind."""

    def get_reset_query(self) -> str:
        """Nothing; the pool would otherwise send a second statement after each."""
        return ""


async def _prepare_connection(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


def _decision(row: asyncpg.Record) -> Decision:
    if row["verdict"] == "fenced":
        return Decision(None)
    purchase = queries.purchase(row) if row["id"] is not None else None
    remaining = tuple(row["remaining"]) if row["remaining"] is not None else None
    return Decision(Verdict(row["verdict"]), purchase, remaining)
