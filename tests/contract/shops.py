"""One shop twice: the reference model and the SQL authority, driven alike and compared after every step."""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import asyncpg

from flashsale.authority import client
from flashsale.contract import model as reference
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import Cart, Line, purchase_id

HOLD_SECONDS = 3600
EARLY = datetime(2000, 1, 1, tzinfo=UTC)
LATE = datetime(2100, 1, 1, tzinfo=UTC)
NOW = 0.0  # the model's clock stands still; what lapses is made to lapse by its deadline


@dataclass
class TwinShop:
    """``prefix`` keeps this shop's sales, SKUs and buyers apart from every other shop in the database."""

    authority: client.Authority
    owner: asyncpg.Connection
    prefix: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    model: reference.Shop = field(default_factory=reference.Shop)
    lapsed: int = 0

    async def add_sale(
        self,
        name: str,
        stock: dict[str, int],
        *,
        buyer_limit: int = 2,
        opens: datetime = EARLY,
        closes: datetime = LATE,
    ) -> None:
        """A sale and its items in both."""
        sale = self._own(name)
        await self.authority.create_sale(
            sale,
            merchant="m",
            name=name,
            opens=opens,
            closes=closes,
            buyer_limit=buyer_limit,
            hold_seconds=HOLD_SECONDS,
            currency="EUR",
        )
        opening = NOW if opens < datetime.now(UTC) else NOW + 1
        closing = float("inf") if closes > datetime.now(UTC) else NOW
        self.model.add_sale(
            sale,
            reference.Sale(opens=opening, closes=closing, buyer_limit=buyer_limit, hold_seconds=HOLD_SECONDS),
            {self._own(sku): units for sku, units in stock.items()},
        )
        for sku, units in stock.items():
            await self.authority.add_item(sale, self._own(sku), sku, 100, units)

    def attempt(
        self, buyer: str, key: str, lines: dict[str, int], *, rid: str = "", late: bool = False
    ) -> reference.Attempt:
        """An attempt with this shop's own names; a new rid unless one is given."""
        return reference.Attempt(
            self._own(rid) if rid else uuid.uuid4().hex,
            self._own(buyer),
            key,
            tuple((self._own(sku), quantity) for sku, quantity in lines.items()),
            NOW - 1 if late else float("inf"),
        )

    async def reserve(self, *batch: reference.Attempt) -> list[Verdict]:
        """Decide the batch in both; they must agree on every verdict and every seq."""
        expected = self.model.reserve(batch, NOW)
        decisions = await self.authority.reserve_batch([_sql_attempt(attempt) for attempt in batch])
        heard = []
        for decision in decisions:
            assert decision.verdict is not None
            assert (decision.purchase is None) == (decision.verdict not in {Verdict.HELD, Verdict.REPLAYED})
            held = decision.purchase is not None and decision.verdict is Verdict.HELD
            seqs = tuple(line.seq for line in decision.purchase.lines) if held and decision.purchase else ()
            heard.append(reference.Decision(decision.verdict, seqs))
        assert heard == expected, [attempt.wish for attempt in batch]
        await self.compare()
        return [decision.verdict for decision in heard]

    async def cancel(self, buyer: str, key: str) -> Verdict | None:
        """Cancel in both."""
        expected = self.model.cancel(self._own(buyer), key)
        heard = await self.authority.cancel(purchase_id(self._own(buyer), key), self._own(buyer))
        assert heard == expected
        await self.compare()
        return heard

    async def lapse(self, buyer: str, key: str) -> None:
        """Let the deadline of a hold have passed; nobody has noticed yet."""
        purchase = self.model.purchases.get((self._own(buyer), key))
        if purchase is None or purchase.deadline <= NOW:
            return
        self.lapsed += 1
        purchase.deadline = NOW - 1000 + self.lapsed
        await self.owner.execute(
            "UPDATE flash.purchase SET deadline = now() - make_interval(secs => $2) WHERE id = $1",
            purchase_id(self._own(buyer), key),
            1000 - self.lapsed,
        )

    async def expire(self) -> None:
        """Sweep in both."""
        self.model.expire(NOW)
        await self.authority.expire_due(256)
        await self.compare()

    async def restock(self, sku: str, units: int) -> None:
        """More units in both."""
        self.model.restock(self._own(sku), units)
        await self.authority.restock(self._own(sku), units)

    async def change(self, name: str, state: str) -> None:
        """Pause, reopen or end in both."""
        self.model.change(self._own(name), state=state)
        await self.authority.change_sale(self._own(name), state=state)

    async def compare(self) -> None:
        """Stock, ledger, quota and states are equal, and nothing of a refused attempt is left."""
        for sku, deltas in self.model.ledger.items():
            rows = await self.owner.fetch("SELECT seq, delta FROM flash.ledger WHERE sku = $1 ORDER BY seq", sku)
            assert [row["delta"] for row in rows] == deltas, sku
            assert [row["seq"] for row in rows] == list(range(1, len(deltas) + 1))
            stock = await self.owner.fetchrow("SELECT available, seq FROM flash.stock WHERE sku = $1", sku)
            assert stock is not None
            assert tuple(stock) == (sum(deltas), len(deltas)), sku
        rows = await self.owner.fetch(
            "SELECT buyer, key, state FROM flash.purchase WHERE starts_with(buyer, $1)",
            self.prefix,
        )
        states = {(row["buyer"], row["key"]): row["state"] for row in rows}
        assert states == {identity: purchase.state.value for identity, purchase in self.model.purchases.items()}
        for row in await self.owner.fetch("SELECT * FROM flash.quota WHERE starts_with(buyer, $1)", self.prefix):
            assert row["active"] == self.model.active(row["sale_id"], row["buyer"])

    def _own(self, name: str) -> str:
        return f"{self.prefix}-{name}"


def _sql_attempt(attempt: reference.Attempt) -> client.Attempt:
    return client.Attempt(
        uuid.uuid5(uuid.NAMESPACE_OID, attempt.rid),
        purchase_id(attempt.buyer, attempt.key),
        attempt.buyer,
        attempt.key,
        Cart(tuple(Line(*line) for line in attempt.wish)),
        None,
        datetime.now(UTC) - timedelta(hours=1) if attempt.queued_until < NOW else None,
    )
