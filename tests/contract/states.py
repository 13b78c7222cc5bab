"""A shop twice, call by call: the reference model, and the SQL over several connections at once.

Calls that run at the same moment must come out as in SOME order of the model. One freedom is theirs: a batch or a sweep passes
over due holds that another call has in hand (``SKIP LOCKED``), so in a burst any of them may be spared.
"""

import asyncio
import itertools
import json
import pickle
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

import asyncpg

from flashsale.authority.client import Attempt, Authority, BadBatch, Told
from flashsale.contract import model
from flashsale.contract.lifecycle import Event, State, move
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import Cart, Line, purchase_id
from tests.databases import Database, execute, patient

Identity = tuple[str, str]
NOW = 0.0  # the model's clock stands still; what lapses is made to lapse by its deadline
PRICE = 100
HOLD_SECONDS = 3600
AT_ONCE, SOON, NEVER = timedelta(0), timedelta(seconds=30), timedelta(hours=1)
ALWAYS = timedelta(days=1)  # is how long messages have come through to a worker
EARLY, LATE = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
LANES = 4
BATCH_MAX = 256

TABLES = (
    *(
        "payment",
        "inbox",
        "outbox",
        "attempt",
        "ledger",
        "line",
        "quota",
        "purchase",
        "stock",
        "item",
        "sale",
        "merchant",
    ),
    "operation",
)
EMPTY = "".join(f"DELETE FROM flash.{table};" for table in TABLES)

# All that the functions may have changed, as one document.
OBSERVE = """
SELECT json_build_object(
  'ledger', (SELECT json_object_agg(sku, rows) FROM (
      SELECT sku, json_agg(json_build_array(seq, delta) ORDER BY seq) AS rows FROM flash.ledger GROUP BY sku) l),
  'stock', (SELECT json_object_agg(sku, json_build_array(available, total, seq, state, buyer_limit)) FROM flash.stock),
  'quota', (SELECT json_object_agg(sale_id || ' ' || buyer, active) FROM flash.quota WHERE active <> 0),
  'purchases', (SELECT json_object_agg(p.buyer || ' ' || p.key, json_build_object(
      'state', p.state, 'version', p.version, 'generation', p.generation, 'total', p.total_minor,
      'history', (SELECT json_agg(json_build_array(h->'version', h->'state')) FROM jsonb_array_elements(p.history) h),
      'lines', (SELECT json_agg(json_build_array(l.sku, l.quantity, l.seq) ORDER BY l.sku)
                FROM flash.line l WHERE l.purchase_id = p.id),
      'payments', (SELECT json_agg(json_build_array(y.try, y.state, y.void_at IS NOT NULL, y.sent_at IS NOT NULL,
                       flash.payment_next(y.state, y.void_at IS NOT NULL, p.state)) ORDER BY y.try)
                   FROM flash.payment y WHERE y.purchase_id = p.id))) FROM flash.purchase p),
  'events', (SELECT json_object_agg(topic, rows) FROM (
      SELECT topic, count(*) AS rows FROM flash.outbox WHERE topic = ANY ($1) GROUP BY topic) o))"""
TOPICS = [
    *(f"purchase.{state.lower()}" for state in State),
    *(f"payment.{what}" for what in ("asked", "void", "told", "resumed")),
    *(f"sale.{what}" for what in ("open", "paused", "ended", "changed")),
]


@dataclass
class IdealShop(model.Shop):
    """The model, and what the database writes down besides: histories, generations, events, which message was sent."""

    histories: dict[Identity, list[State]] = field(default_factory=dict)
    generations: Counter[Identity] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    sent: set[tuple[Identity, int]] = field(default_factory=set)  # tries whose latest message reached the broker
    heard: set[str] = field(default_factory=set)
    spared: frozenset[Identity] = frozenset()

    def copy(self) -> Self:
        """A shop of its own that stands where this one stands."""
        copied: Self = pickle.loads(pickle.dumps(self))  # noqa: S301 - our own bytes, and four times as fast as deepcopy
        return copied

    def add_sale(self, name: str, sale: model.Sale, stock: dict[str, int]) -> None:
        super().add_sale(name, sale, stock)
        self.totals.update(stock)

    def restock(self, sku: str, units: int) -> None:
        super().restock(sku, units)
        self.totals[sku] += units

    def change_or_refuse(self, name: str, **changes: str | int) -> str | None:
        """An ended sale stays ended."""
        if self.sales[name].state == "ENDED" and changes.get("state") != "ENDED":
            return "refused"
        self.change(name, **changes)
        self.events[f"sale.{str(changes.get('state', 'changed')).lower()}"] += 1
        return None

    def due(self) -> list[Identity]:
        """Whose hold is over and not ended yet."""
        return [who for who, p in self.purchases.items() if p.state is State.HELD and p.deadline <= NOW]

    def sweep(self) -> int:
        """End due holds; how many."""
        before = len(self.due())
        self.expire(NOW)
        return before - len(self.due())

    def pay_once(self, who: Identity, pay_key: str) -> Verdict | None:
        tries = len(self.purchases[who].payments) if who in self.purchases else 0
        refused = self.pay(*who, pay_key, NOW)
        if who in self.purchases and len(self.purchases[who].payments) > tries:
            self.events["payment.asked"] += 1
        return refused

    def tell(self, who: Identity, number: int, outcome: str, amount: int) -> str:
        """An outcome as the worker tells it."""
        if who not in self.purchases or number > len(self.purchases[who].payments):
            return "unknown"
        if amount != self.total(who):
            return "mismatch"
        return self.settle(*who, number, outcome, NOW)

    def hear(self, event: str, who: Identity, number: int, outcome: str, amount: int) -> str:
        """An outcome as a webhook tells it: each event counts once, and what is next goes through the outbox."""
        if event in self.heard:
            return "heard"
        next_step = self.tell(who, number, outcome, amount)
        if next_step in {"unknown", "mismatch"}:
            return next_step
        self.heard.add(event)
        self.events["payment.told"] += next_step != "nothing"
        return "nothing"

    def open_tries(self) -> Iterator[tuple[Identity, int, model.Payment]]:
        """Tries that may still bring money or must give it back."""
        for who, purchase in self.purchases.items():
            for number, payment in enumerate(purchase.payments, 1):
                if payment.state in {"ASKED", "AUTHORIZED", "REFUNDING", "DISPUTED"}:
                    yield who, number, payment

    def relay(self) -> None:
        """Every event reached the broker."""
        for who, purchase in self.purchases.items():
            self.sent |= {(who, number) for number in range(1, len(purchase.payments) + 1)}

    def resume(self) -> int:
        """A new message about every open try whose latest one was sent."""
        again = {(who, number) for who, number, _ in self.open_tries() if (who, number) in self.sent}
        self.sent -= again
        self.events["payment.resumed"] += len(again)
        return len(again)

    def expire_payments(self, *, is_patient: bool) -> tuple[int, int]:
        """Ask for voids of overdue tries; unless patient, end those whose void was asked for and got no answer."""
        late = [
            (who, len(p.payments))
            for who, p in self.purchases.items()
            if p.state is State.AUTHORIZING and p.deadline <= NOW and (who, len(p.payments)) in self.sent
        ]
        over = [(who, n) for who, n in late if self.purchases[who].payments[n - 1].is_voiding and not is_patient]
        asked = [(who, n) for who, n in late if not self.purchases[who].payments[n - 1].is_voiding]
        for who, number in asked:
            self.purchases[who].payments[number - 1].is_voiding = True
            self.sent.discard((who, number))
        self.events["payment.void"] += len(asked)
        for who, _ in sorted(over, key=lambda one: self.purchases[one[0]].deadline):
            self._happen(self.purchases[who], Event.EXPIRE)
        return len(asked), len(over)

    def total(self, who: Identity) -> int:
        return PRICE * sum(quantity for _, quantity in self.purchases[who].wish)

    def seen(self) -> dict[str, Any]:
        """What OBSERVE must show."""
        document: dict[str, Any] = {
            "ledger": {
                sku: [[n, delta] for n, delta in enumerate(rows, 1)] for sku, rows in self.ledger.items() if rows
            },
            "stock": {sku: self._stock(sku) for sku in self.ledger},
            "quota": {
                f"{sale} {buyer}": units
                for sale, buyer in sorted({(p.sale, p.buyer) for p in self.purchases.values()})
                if (units := self.active(sale, buyer))
            },
            "purchases": {f"{who[0]} {who[1]}": self._document(who) for who in self.purchases},
            "events": {topic: count for topic, count in self.events.items() if count},
        }
        return {name: part or None for name, part in document.items()}

    def _stock(self, sku: str) -> list[Any]:
        sale, rows = self.sales[self.sale_of[sku]], self.ledger[sku]
        return [sum(rows), self.totals[sku], len(rows), sale.state, sale.buyer_limit]

    def _document(self, who: Identity) -> dict[str, Any]:
        purchase, history = self.purchases[who], self.histories[who]
        tries = [
            [n, y.state, y.is_voiding, (who, n) in self.sent, model.next_step(y, purchase.state)]
            for n, y in enumerate(purchase.payments, 1)
        ]
        return {
            "state": purchase.state.value,
            "version": len(history),
            "generation": self.generations[who],
            "total": self.total(who),
            "history": [[version, state.value] for version, state in enumerate(history, 1)],
            "lines": [[*line, seq] for line, seq in zip(purchase.wish, purchase.seqs, strict=True)],
            "payments": tries or None,
        }

    def _reserve_one(self, attempt: model.Attempt, now: float) -> model.Decision:
        is_new = (attempt.buyer, attempt.key) not in self.purchases
        decision = super()._reserve_one(attempt, now)
        if is_new and (attempt.buyer, attempt.key) in self.purchases:
            self.histories[attempt.buyer, attempt.key] = [State.HELD]
            self.generations[attempt.buyer, attempt.key] = 1
            self.events["purchase.held"] += 1
        return decision

    def _expire(self, purchases: Iterable[model.Purchase], now: float) -> None:
        spared = [self.purchases[who] for who in self.spared if who in self.purchases]
        super()._expire([p for p in purchases if not any(p is one for one in spared)], now)

    def _happen(self, purchase: model.Purchase, event: Event) -> bool:
        step, before = move(purchase.state, event), purchase.state
        if step is not None and step.state is not before:
            who = next(who for who, one in self.purchases.items() if one is purchase)
            self.histories[who].append(step.state)
            self.events[f"purchase.{step.state.lower()}"] += 1
            if event is Event.LATE_MONEY:
                self.generations[who] += 1
                purchase.seqs = tuple(len(self.ledger[sku]) + 1 for sku, _ in purchase.wish)
        return super()._happen(purchase, event)


class Call(NamedTuple):
    """One thing somebody does: in the model, and in the SQL on whatever connection. Both answers must be equal."""

    name: str
    ideal: Callable[[IdealShop], Any]
    real: Callable[[Authority], Awaitable[Any]]
    passes_over: bool = False  # due holds that others have in hand


def reserve(batch: Sequence[model.Attempt]) -> Call:
    def ideal(shop: IdealShop) -> list[Any]:
        verdicts = [decision.verdict for decision in shop.reserve(batch, NOW)]
        return [
            (verdict, shop.purchases[a.buyer, a.key].seqs if verdict in {Verdict.HELD, Verdict.REPLAYED} else None)
            for a, verdict in zip(batch, verdicts, strict=True)
        ]

    async def real(authority: Authority) -> list[Any]:
        decisions = await authority.reserve_batch([_sql_attempt(attempt) for attempt in batch])
        return [
            (decision.verdict or Verdict.TRY_LATER, purchase and tuple(line.seq for line in purchase.lines))
            for decision in decisions
            for purchase in [decision.purchase]
        ]

    return Call(f"reserve {[(a.buyer, a.key, a.rid, a.wish) for a in batch]}", ideal, real, passes_over=True)


def fence(attempt: model.Attempt) -> Call:
    def ideal(shop: IdealShop) -> str:
        return shop.void(attempt.rid, attempt.buyer, attempt.key) or "void"

    async def real(authority: Authority) -> str:
        sql = _sql_attempt(attempt)
        return (await authority.void_attempts([(sql.rid, sql.purchase)]))[sql.rid]

    return Call(f"fence {attempt.rid}", ideal, real)


def cancel(who: Identity) -> Call:
    return Call(
        f"cancel {who}", lambda shop: shop.cancel(*who), lambda authority: authority.cancel(purchase_id(*who), who[0])
    )


def pay(who: Identity, pay_key: str) -> Call:
    return Call(
        f"pay {who} {pay_key}",
        lambda shop: shop.pay_once(who, pay_key),
        lambda authority: authority.start_payment(purchase_id(*who), who[0], pay_key, "card"),
    )


def tell(who: Identity, number: int, outcome: str, amount: int, event: str | None = None) -> Call:
    """An outcome, by the worker or, with an ``event``, by a webhook."""
    told = Told(purchase_id(*who), number, outcome, amount, "EUR")
    if event is None:
        return Call(
            f"tell {who}:{number} {outcome}",
            lambda shop: shop.tell(who, number, outcome, amount),
            lambda authority: authority.settle_payment(told),
        )
    return Call(
        f"hear {event}: {who}:{number} {outcome}",
        lambda shop: shop.hear(event, who, number, outcome, amount),
        lambda authority: authority.hear_payment(event, told),
    )


def expire() -> Call:
    async def real(authority: Authority) -> int:
        return (await authority.expire_due(BATCH_MAX)).ended

    return Call("expire", IdealShop.sweep, real, passes_over=True)


def restock(sku: str, units: int) -> Call:
    return Call(
        f"restock {sku}", lambda shop: shop.restock(sku, units), lambda authority: authority.restock(sku, units)
    )


def change(sale: str, **changes: Any) -> Call:
    async def real(authority: Authority) -> str | None:
        try:
            await authority.change_sale(sale, **changes)
        except BadBatch:
            return "refused"
        return None

    return Call(f"change {sale} {changes}", lambda shop: shop.change_or_refuse(sale, **changes), real)


def resume() -> Call:
    return Call("resume", IdealShop.resume, lambda authority: authority.resume_payments(BATCH_MAX, AT_ONCE))


def expire_payments(*, is_patient: bool) -> Call:
    async def real(authority: Authority) -> tuple[int, int]:
        expired = await authority.expire_payments(BATCH_MAX, NEVER if is_patient else SOON, ALWAYS)
        return expired.voiding, expired.ended

    return Call(
        f"expire payments, {'patiently' if is_patient else 'at the end of patience'}",
        lambda shop: shop.expire_payments(is_patient=is_patient),
        real,
    )


def _sql_attempt(attempt: model.Attempt) -> Attempt:
    return Attempt(
        uuid.uuid5(uuid.NAMESPACE_OID, attempt.rid),
        purchase_id(attempt.buyer, attempt.key),
        attempt.buyer,
        attempt.key,
        Cart(tuple(Line(*line) for line in attempt.wish)),
        None,
        datetime.now(UTC) - timedelta(hours=1) if attempt.queued_until < NOW else None,
    )


@dataclass
class World:
    """A database for itself, its owner, and connections to call the functions on."""

    database: Database
    owner: asyncpg.Connection
    lanes: list[Authority]
    shop: IdealShop = field(default_factory=IdealShop)
    lapsed: int = 0
    turn: int = 0
    answers: Counter[str] = field(default_factory=Counter)  # what was heard
    standings: Counter[str] = field(default_factory=Counter)  # how purchases and their latest tries stood

    @classmethod
    async def of(cls, database: Database) -> Self:
        # nothing here is killed, and a commit that waits for no disk saves half of the time
        name = database.owner_url.rpartition("/")[2]
        await execute(database.owner_url, f"ALTER DATABASE {name} SET synchronous_commit = off")
        owner = await asyncpg.connect(database.owner_url)
        return cls(database, owner, [await patient(database, 1) for _ in range(LANES)])

    async def close(self) -> None:
        for lane in self.lanes:
            await lane.close()
        await self.owner.close()

    async def begin(self, sales: dict[str, dict[str, int]], buyer_limit: int) -> None:
        """An empty database, and new sales in both."""
        await self.owner.execute(EMPTY)
        self.shop, self.lapsed = IdealShop(), 0
        for sale, stock in sales.items():
            await self.lanes[0].create_sale(
                sale, merchant="m", name=sale, opens=EARLY, closes=LATE, buyer_limit=buyer_limit,
                hold_seconds=HOLD_SECONDS, currency="EUR",
            )  # fmt: skip
            for sku, units in stock.items():
                await self.lanes[0].add_item(sale, sku, sku, PRICE, units)
            self.shop.add_sale(sale, model.Sale(buyer_limit=buyer_limit, hold_seconds=HOLD_SECONDS), stock)

    async def act(self, *calls: Call) -> None:
        """Make the calls at once, each on a connection of its own; some order of the model must come out the same."""
        self.turn += 1
        lanes = [self.lanes[(self.turn + n) % LANES] for n in range(len(calls))]
        heard = await asyncio.gather(
            *(call.real(lane) for call, lane in zip(calls, lanes, strict=True)), return_exceptions=True
        )
        for answer in heard:  # once all are done: none may run on into the next step
            if isinstance(answer, BaseException):
                raise answer
        seen = await self.observe()
        for call, answer in zip(calls, heard, strict=True):
            parts = [verdict for verdict, _ in answer] if isinstance(answer, list) else [answer]
            self.answers.update(f"{call.name.split()[0]} {part}" for part in parts)
        self.standings.update(
            f"{one['state']} {one['payments'][-1][1]}" for one in (seen["purchases"] or {}).values() if one["payments"]
        )
        if len(calls) == 1:
            expected = calls[0].ideal(self.shop)
            assert (calls[0].name, heard[0]) == (calls[0].name, expected)
            assert seen == self.shop.seen(), calls[0].name
            return
        for shop in _outcomes(self.shop, list(zip(calls, heard, strict=True))):
            if shop.seen() == seen:
                self.shop = shop
                return
        raise AssertionError(f"no order of these explains what came out: {[*zip(calls, heard, strict=True)]}, {seen}")

    async def observe(self) -> dict[str, Any]:
        """What the tables say."""
        document: dict[str, Any] = json.loads(await self.owner.fetchval(OBSERVE, TOPICS))
        return document

    async def lapse(self, who: Identity) -> None:
        """Let the deadline of a hold have passed, later than those that lapsed before; nobody has noticed yet."""
        purchase = self.shop.purchases.get(who)
        if purchase is None or purchase.deadline <= NOW:
            return
        self.lapsed += 1
        purchase.deadline = NOW - 1000 + self.lapsed
        await self.owner.execute(
            "UPDATE flash.purchase SET deadline = now() - make_interval(secs => $2) WHERE id = $1",
            purchase_id(*who),
            1000 - self.lapsed,
        )

    async def relay(self) -> None:
        """Every event to the broker, in time whatever this machine is busy with."""
        lane = self.lanes[self.turn % LANES]
        events = await lane.lease_outbox(1000, AT_ONCE)
        await lane.mark_sent([event.id for event in events])
        await self.owner.execute(
            "UPDATE flash.payment SET sent_at = asked_at WHERE sent_at IS NOT NULL AND void_at IS NULL"
        )
        self.shop.relay()

    async def wait_for_gateways(self) -> None:
        """As long as they are given."""
        await self.owner.execute(
            "UPDATE flash.payment SET sent_at = now() - interval '1 minute' WHERE sent_at IS NOT NULL"
        )


def _outcomes(shop: IdealShop, open_calls: list[tuple[Call, Any]]) -> Iterator[IdealShop]:
    # Every way in which the model gives the answers that were heard.
    if not open_calls:
        yield shop
        return
    for position, (call, heard) in enumerate(open_calls):
        due = shop.due() if call.passes_over else []
        for spared in itertools.chain.from_iterable(itertools.combinations(due, n) for n in range(len(due) + 1)):
            tried = shop.copy()
            tried.spared = frozenset(spared)
            if call.ideal(tried) == heard:
                tried.spared = frozenset()
                yield from _outcomes(tried, [*open_calls[:position], *open_calls[position + 1 :]])
