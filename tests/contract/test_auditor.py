"""The auditor on real stores: an honest sale is clean, each invariant is broken on purpose and seen with its exact rows, and a rule
that is taken away is missed.

Every break happens in one database, in a transaction that is rolled back: the auditor looks from inside it, as its own role.
"""

import asyncio
import contextlib
import gzip
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import aio_pika
import asyncpg
import pytest
from redis.asyncio import Redis

from flashsale.authority.client import Attempt, Authority
from flashsale.authority.client import Told as Outcome
from flashsale.contract import wire
from flashsale.payments import queues
from flashsale.proof import auditor, stores
from flashsale.proof.auditor import audit
from flashsale.proof.evidence import EvidenceError, read_told
from flashsale.proof.invariants import INVARIANTS, RULES, Rule
from flashsale.proof.stores import Journal, StoreUnreachableError, read_books
from flashsale.queued import topology
from tests.databases import Database, drop_database, execute, given, make_database, patient
from tests.patience import PATIENCE_SECONDS
from tests.queues import empty_all

OPENING = 5
PAYMENT = "INSERT INTO payment (purchase_id, try, key, method, amount_minor, currency, state, asked_at, sent_at) VALUES"
MOVE = "INSERT INTO ledger (sku, seq, kind, reason, delta, purchase_id, generation, at) VALUES"
UNCHECKED = "ALTER TABLE stock DROP CONSTRAINT stock_check"


class Sold(NamedTuple):
    """A sale of five shoes: Ana paid for one, Ben gave one back, Cem holds one. Names are its own in the shared Redis."""

    database: Database
    sale: str
    sku: str
    bought: dict[str, wire.Purchase]

    @property
    def names(self) -> dict[str, str]:
        return {"sku": self.sku, "sale": self.sale, **{name: str(row.id) for name, row in self.bought.items()}}


async def sell(database: Database) -> Sold:
    sale = f"audited-{uuid.uuid4().hex[:8]}"
    sku = f"{sale}-shoe"
    now = datetime.now(UTC)
    authority = await patient(database, size=1)
    await authority.create_sale(
        sale, merchant="m", name="m", opens=now - timedelta(hours=1), closes=now + timedelta(hours=1),
        buyer_limit=2, hold_seconds=600, currency="EUR",
    )  # fmt: skip
    await authority.add_item(sale, sku, "Shoe", 100, OPENING)
    bought = {}
    for buyer in ("ana", "ben", "cem"):
        key = f"the-only-key-of-{buyer}"
        attempt = Attempt(uuid.uuid4(), wire.purchase_id(buyer, key), buyer, key, wire.Cart((wire.Line(sku, 1),)))
        (decision,) = await authority.reserve_batch([attempt])
        assert decision.purchase is not None
        bought[buyer] = decision.purchase
    await authority.cancel(bought["ben"].id, "ben")
    await authority.start_payment(bought["ana"].id, "ana", "ana-pays-with-this", "card")
    for outcome in ("authorized", "captured"):
        await authority.settle_payment(Outcome(bought["ana"].id, 1, outcome, 100, "EUR"))
    await authority.mark_sent([event.id for event in await authority.lease_outbox(1000, timedelta(0))])
    await authority.close()
    return Sold(database, sale, sku, bought)


@pytest.fixture(scope="module")
def sold(template: str) -> Iterator[Sold]:
    async def make() -> Sold:
        return await sell(await make_database(template))

    made = asyncio.run(make())
    yield made
    asyncio.run(drop_database(made.database))


@pytest.fixture
async def owner(sold: Sold) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(sold.database.owner_url, server_settings=stores.SESSION)
    yield connection
    await connection.close()


@contextlib.asynccontextmanager
async def broken(owner: asyncpg.Connection, sold: Sold, statements: Sequence[str]) -> AsyncIterator[None]:
    """Do as the superuser what no function of the engine would do; look as the auditor; undo it."""
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute("SET LOCAL session_replication_role = replica")  # no trigger: what breaks, breaks silently
        for statement in statements:
            await owner.execute(statement.format(**sold.names))
        await owner.execute("SET LOCAL ROLE flash_auditor")
        yield
    finally:
        await transaction.rollback()


async def seen(owner: asyncpg.Connection, sold: Sold, rules: Sequence[Rule] = RULES) -> dict[str, list[str]]:
    """The subjects of what is wrong, by rule; those of purchases by their buyers' names."""
    by_id = {text: name for name, text in sold.names.items()}
    books = await read_books(owner, None, rules)
    return {tally.rule: [by_id.get(subject, subject) for subject in tally.subjects] for tally in books.tallies}


class Break(NamedTuple):
    """What is done to the database, and every row that must be named for it, by rule."""

    statements: list[str]
    expected: dict[str, list[str]]


DUPLICATED = "ALTER TABLE ledger DROP CONSTRAINT ledger_purchase_id_sku_kind_generation_key"
MOVED = (
    'UPDATE purchase SET state = \'{0}\', version = 2, history = history || \'[{{{{"state": "{0}", "version": 2}}}}]\''
)
BREAKS = {
    # Cem's hold counts three units, the books say one was given.
    "a hold of more units than were given": Break(
        ["UPDATE line SET quantity = 3 WHERE purchase_id = '{cem}'",
         "UPDATE quota SET active = 3 WHERE buyer = 'cem'"],
        {"units-twice": ["sku"], "kept-ungiven": ["cem"], "over-the-limit": ["{sale} cem"], "total-of-other-lines": ["cem"]}),
    "a unit more on the shelf, past the table's own check": Break(
        [UNCHECKED, "UPDATE stock SET available = 4 WHERE sku = '{sku}'"],
        {"units-twice": ["sku"], "above-the-ledger": ["sku"]}),
    "a unit less on the shelf": Break(
        ["UPDATE stock SET available = 2 WHERE sku = '{sku}'"], {"units-nowhere": ["sku"], "below-the-ledger": ["sku"]}),
    "a total that nobody put on sale": Break(
        ["UPDATE stock SET total = total + 1 WHERE sku = '{sku}'"], {"units-nowhere": ["sku"], "total-not-restocked": ["sku"]}),
    "a gap in the ledger": Break(
        ["UPDATE ledger SET seq = 9 WHERE sku = '{sku}' AND seq = 5"], {"not-dense": ["sku"]}),
    # The opening stock came after the holds: at seq 1 there was nothing to hold.
    "a hold before there was stock": Break(
        ["UPDATE ledger SET seq = seq + 10 WHERE sku = '{sku}'",
         "UPDATE ledger SET seq = CASE seq WHEN 11 THEN 2 WHEN 12 THEN 1 ELSE seq - 10 END WHERE sku = '{sku}'",
         "UPDATE line SET seq = 1 WHERE purchase_id = '{ana}'"],
        {"ledger-below-zero": ["sku"]}),
    "a hold returned twice, and taken again in silence": Break(
        [DUPLICATED,
         f"{MOVE} ('{{sku}}', 6, 'return', 'expired', 1, '{{ben}}', 1, now())",
         f"{MOVE} ('{{sku}}', 7, 'hold', 'held', -1, '{{ben}}', 2, now())",
         "UPDATE stock SET seq = 7 WHERE sku = '{sku}'"], {"moved-twice": ["ben"]}),
    "a return of a hold that never was, every sum intact": Break(
        ["UPDATE ledger SET generation = 2 WHERE purchase_id = '{ben}' AND kind = 'return'"], {"returned-unheld": ["ben"]}),
    "a purchase over, its units still out": Break(
        [MOVED.format("EXPIRED") + " WHERE id = '{cem}'"],
        {"units-nowhere": ["sku"], "given-unkept": ["cem"], "quota-differs": ["{sale} cem"]}),
    "a line that names another's place": Break(
        ["UPDATE line SET seq = 3 WHERE purchase_id = '{cem}'"], {"line-without-place": ["cem"]}),
    "one key twice, every sum intact": Break(
        ["ALTER TABLE purchase DROP CONSTRAINT purchase_buyer_key_key",
         "UPDATE purchase SET buyer = 'cem', key = 'the-only-key-of-cem' WHERE id = '{ben}'"], {"key-twice": ["first"]}),
    "a purchase gone": Break(
        ["DELETE FROM purchase WHERE id = '{ben}'"], {"line-of-nobody": ["ben"], "movement-of-nobody": ["ben", "ben"]}),
    "a quota that counts what nobody has": Break(
        ["UPDATE quota SET active = 1 WHERE buyer = 'ben'"], {"quota-differs": ["{sale} ben"]}),
    "a buyer over the limit": Break(
        ["UPDATE sale SET buyer_limit = 1 WHERE id = '{sale}'", "UPDATE stock SET buyer_limit = 1",
         "UPDATE line SET quantity = 2, unit_price_minor = 50 WHERE purchase_id = '{cem}'",
         "UPDATE ledger SET delta = -2 WHERE purchase_id = '{cem}'",
         "UPDATE stock SET available = 2 WHERE sku = '{sku}'",
         "UPDATE quota SET active = 2 WHERE buyer = 'cem'"], {"over-the-limit": ["{sale} cem"]}),
    "a hold that outlived its deadline": Break(
        ["UPDATE purchase SET deadline = now() - interval '3 seconds' WHERE id = '{cem}'"], {"hold-overdue": ["cem"]}),
    "goods for nothing": Break(
        ["UPDATE payment SET state = 'DECLINED' WHERE purchase_id = '{ana}'"], {"paid-not-captured": ["ana"]}),
    "money for nothing": Break(
        [f"{PAYMENT} ('{{ben}}', 1, 'k', 'card', 100, 'EUR', 'CAPTURED', now(), now())"], {"paid-not-captured": ["ben"]}),
    "nobody on the way to pay": Break(
        [MOVED.format("AUTHORIZING") + " WHERE id = '{cem}'"], {"not-one-under-way": ["cem"]}),
    "another amount": Break(
        [f"{PAYMENT} ('{{cem}}', 1, 'k', 'card', 99, 'EUR', 'DECLINED', now(), now())"], {"other-amount": ["cem"]}),
    "another currency": Break(
        [f"{PAYMENT} ('{{cem}}', 1, 'k', 'card', 100, 'USD', 'DECLINED', now(), now())"], {"other-amount": ["cem"]}),
    "a payment for no purchase": Break(
        [f"{PAYMENT} ('00000000-0000-0000-0000-000000000000', 1, 'k', 'card', 100, 'EUR', 'DECLINED', now(), now())"],
        {"other-amount": ["00000000-0000-0000-0000-000000000000"]}),
    "a total that is not its lines'": Break(
        ["UPDATE line SET unit_price_minor = 99 WHERE purchase_id = '{cem}'"], {"total-of-other-lines": ["cem"]}),
    "money set aside and forgotten": Break(
        [f"{PAYMENT} ('{{ben}}', 1, 'k', 'card', 100, 'EUR', 'AUTHORIZED', now(), now())"], {"payment-open": ["ben"]}),
    "an event that was not sent": Break(
        ["UPDATE outbox SET sent_at = NULL WHERE id = 1"], {"event-unsent": ["1"]}),
    "a state that no event leads to": Break(
        ["UPDATE purchase SET history = jsonb_set(history, '{{0,state}}', '\"PAID\"') WHERE id = '{cem}'"],
        {"off-the-path": ["cem"]}),
    "an illegal step, ends intact": Break(
        ["UPDATE purchase SET history = jsonb_set(history, '{{2,state}}', '\"DECLINED\"') WHERE id = '{ana}'"],
        {"off-the-path": ["ana"]}),
    "a version that was skipped": Break(
        ["UPDATE purchase SET history = jsonb_set(history, '{{1,version}}', '3') WHERE id = '{ben}'"], {"off-the-path": ["ben"]}),
    "a state that the history does not end in": Break(
        ["UPDATE purchase SET state = 'EXPIRED' WHERE id = '{ben}'"], {"off-the-path": ["ben"]}),
    "an attempt without a verdict": Break(
        ["ALTER TABLE attempt ALTER verdict DROP NOT NULL",
         "UPDATE attempt SET verdict = NULL WHERE purchase_id = '{ben}'", "UPDATE attempt SET rid = purchase_id"],
        {"claim-undecided": ["ben"]}),
    "a claim that was never decided": Break(
        ["ALTER TABLE purchase DROP CONSTRAINT purchase_version_check",
         "INSERT INTO purchase SELECT '00000000-0000-0000-0000-000000000000', '', 'dan', 'k', '', 'HELD', 0, 0, 'infinity', 0, '[]'"],
        {"claim-undecided": ["00000000-0000-0000-0000-000000000000"]}),
    "a payment in doubt for minutes": Break(
        [MOVED.format("AUTHORIZING") + ", deadline = now() - interval '5 minutes' WHERE id = '{cem}'",
         f"{PAYMENT} ('{{cem}}', 1, 'k', 'card', 100, 'EUR', 'ASKED', now(), now())"], {"payment-in-doubt": ["cem"]}),
    "an epoch that no gate had": Break(
        ["UPDATE ledger SET epoch = 2 WHERE sku = '{sku}' AND seq = 3"], {"epoch-unmade": ["sku"]}),
    "a copy of a sale that it is not": Break(
        ["UPDATE sale SET epoch = 2 WHERE id = '{sale}'"], {"copy-differs": ["sku"]}),
}  # fmt: skip


def expected(sold: Sold, rows: dict[str, list[str]]) -> dict[str, list[str]]:
    first = min(str(sold.bought[name].id) for name in ("ben", "cem"))
    words = sold.names | {"first": next(name for name, text in sold.names.items() if text == first)}
    return {
        rule: [words["first"] if subject == "first" else subject.format(**sold.names) for subject in subjects]
        for rule, subjects in rows.items()
    }


async def test_an_honest_sale_is_clean(owner: asyncpg.Connection, sold: Sold) -> None:
    assert await seen(owner, sold) == {}


async def test_a_hold_of_the_gate_before_is_nothing_wrong(owner: asyncpg.Connection, sold: Sold) -> None:
    under_way = [
        *(f"UPDATE {each} SET epoch = 2" for each in ("sale", "stock")),
        "UPDATE ledger SET epoch = 2 WHERE sku = '{sku}' AND seq = 2",
        "UPDATE ledger SET epoch = 1 WHERE sku = '{sku}' AND seq = 3",
    ]
    async with broken(owner, sold, under_way):
        assert await seen(owner, sold) == {}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_broken_invariant_is_seen_with_its_rows(owner: asyncpg.Connection, sold: Sold, name: str) -> None:
    async with broken(owner, sold, BREAKS[name].statements):
        assert await seen(owner, sold) == expected(sold, BREAKS[name].expected)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.sql], ids=lambda rule: rule.name)
async def test_without_its_rule_a_break_is_missed(owner: asyncpg.Connection, sold: Sold, rule: Rule) -> None:
    # The mutation: the rule's code is taken away, and the test above must fail for some break.
    name = next(name for name, each in BREAKS.items() if rule.name in each.expected)
    async with broken(owner, sold, BREAKS[name].statements):
        mutant = await seen(owner, sold, [each for each in RULES if each is not rule])
        assert mutant != expected(sold, BREAKS[name].expected)
        assert rule.name not in mutant


def test_every_invariant_has_a_rule_but_those_that_are_judged_elsewhere() -> None:
    judged = {rule.invariant for rule in RULES}
    assert [row.id for row in INVARIANTS if row.id not in judged] == ["I12", "I15"]
    assert [row.id for row in INVARIANTS] == [f"I{number}" for number in range(1, 17)]


async def test_another_sale_is_not_this_ones_fault(owner: asyncpg.Connection, sold: Sold) -> None:
    for each in BREAKS.values():
        if "claim-undecided" in each.expected:  # a claim has no sale yet
            continue
        async with broken(owner, sold, each.statements):
            assert (await read_books(owner, "another", RULES)).tallies == []


# --- with the other stores


@dataclass
class Audited:
    """The same sale with its gate, its told file and its gateway's journal."""

    sold: Sold
    redis_url: str
    redis: Redis
    told: Path
    journal: Path

    async def wrong(self, **more: Any) -> dict[str, int]:
        """The findings that are not zero."""
        report = await audit(
            self.sold.database.auditor_url,
            self.redis_url,
            sale=self.sold.sale,
            told=read_told(self.told),
            journals=[Journal(self.journal)],
            **more,
        )
        return {name: finding.number for name, finding in report.findings.items() if finding.number}

    def command(self, *more: str) -> subprocess.CompletedProcess[str]:
        """The auditor as a process of its own."""
        urls = ["--postgres", self.sold.database.auditor_url, "--redis", self.redis_url, "--sale", self.sold.sale]
        return subprocess.run(
            [sys.executable, "-m", "flashsale.proof.auditor", *urls, *more],
            env={"PYTHONPATH": "src:."}, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "CONNECT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(auditor, "SETTLE_S_MAX", 0.1)
    monkeypatch.setattr(auditor, "PASS_PAUSE_S", 0.01)


@pytest.fixture
async def audited(sold: Sold, redis_url: str, tmp_path: Path) -> AsyncIterator[Audited]:
    redis: Redis = Redis.from_url(redis_url, decode_responses=True)
    base = f"{{{sold.sale}}}:"
    life = (await redis.info("server"))["run_id"]
    await redis.hset(base + "gate", mapping={"epoch": 1, "run_id": life, "skus": sold.sku})
    await redis.hset(f"{base}stock:{sold.sku}", mapping={"available": 3, "pending": 0, "cursor": 5})
    await redis.sadd(base + "won", *(purchase.id.hex for purchase in sold.bought.values()))
    made = Audited(sold, redis_url, redis, tmp_path / "told.gz", tmp_path / "journal.jsonl")
    write_told(made.told, sold.bought)
    write_journal(made.journal, sold, "authorized", "captured")
    yield made
    await redis.delete(base + "gate", f"{base}stock:{sold.sku}", base + "won", base + "pending")
    await redis.aclose()


def write_told(
    path: Path, bought: dict[str, wire.Purchase], change: Callable[[list[dict[str, Any]]], object] = len
) -> None:
    """What the shoppers heard: their holds, and Ben's cancellation. ``change`` gets their stories first."""
    stories: list[dict[str, Any]] = [
        {"buyer": buyer, "habit": "buys", "intended": 1.0, "calls": [_call(buyer, purchase)]}
        for buyer, purchase in bought.items()
    ]
    stories[1]["calls"].append(_call("ben", bought["ben"], call="cancel", lines=[], state="CANCELLED", status=200))
    change(stories)
    head = {"told": 1, "sku": "", "seed": 1, "shoppers": 3, "wall_minus_monotonic": datetime.now(UTC).timestamp()}
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in [head, *stories, {"end": len(stories)}])


def _call(buyer: str, purchase: wire.Purchase, **changes: Any) -> dict[str, Any]:
    lines = [(line.sku, line.quantity) for line in purchase.lines]
    return {
        "call": "buy", "key": f"the-only-key-of-{buyer}", "lines": lines, "mark": 0, "sent": 1.0, "answered": 2.0,
        "status": 201, "verdict": "held", "purchase": str(purchase.id), "state": "HELD",
        "told_lines": [(line.sku, line.quantity, line.seq) for line in purchase.lines],
        "deadline": wire.timestamp(purchase.deadline), "why": None,
    } | changes  # fmt: skip


def write_journal(path: Path, sold: Sold, *states: str, **changes: Any) -> None:
    ana = str(sold.bought["ana"].id)
    line = {"key": f"{ana}:1", "purchase": ana, "amount_minor": 100, "currency": "EUR", "at": 0.0} | changes
    path.write_text("".join(json.dumps(line | {"state": state}) + "\n" for state in states))


async def test_an_honest_sale_is_clean_in_all_stores(audited: Audited) -> None:
    await empty_all()
    assert await audited.wrong(rabbitmq_url=given("FLASH_TEST_RABBITMQ_URL")) == {}


@pytest.mark.parametrize(
    ("where", "mapping"),
    [
        ("stock", {"available": 1}),
        ("stock", {"pending": 1}),
        ("stock", {"cursor": 3}),
        ("gate", {"epoch": 7}),
        ("gate", {"run_id": "of another life"}),
        ("pending", {"rid": "purchase ana shoe=1"}),
    ],
)
async def test_a_spoiled_gate_is_drift(audited: Audited, where: str, mapping: dict[Any, Any]) -> None:
    base = f"{{{audited.sold.sale}}}:"
    await audited.redis.hset(f"{base}stock:{audited.sold.sku}" if where == "stock" else base + where, mapping=mapping)
    assert await audited.wrong() == {"gate_drift": 1}


async def test_a_gate_that_is_gone_or_forgot_a_winner_is_drift(audited: Audited) -> None:
    base = f"{{{audited.sold.sale}}}:"
    await audited.redis.srem(base + "won", audited.sold.bought["ana"].id.hex)
    assert await audited.wrong() == {"gate_drift": 1}
    await audited.redis.delete(base + "gate")
    assert await audited.wrong() == {"gate_drift": 1}


async def test_a_winner_only_the_gate_knows_is_lost(audited: Audited) -> None:
    await audited.redis.sadd(f"{{{audited.sold.sale}}}:won", uuid.uuid4().hex, "no id at all")
    assert await audited.wrong() == {"lost": 2}


async def test_drift_that_settles_between_two_looks_does_not_count(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = f"{{{audited.sold.sale}}}:stock:{audited.sold.sku}"
    await audited.redis.hset(copy, "available", "1")

    async def upkeep_works(_: float) -> None:
        await audited.redis.hset(copy, "available", "3")

    monkeypatch.setattr(asyncio, "sleep", upkeep_works)
    assert await audited.wrong() == {}


class Bazaar:
    """A sale of its own whose units move between any two looks: its gate is always a movement behind, an event always unsent."""

    def __init__(self, sold: Sold, authority: Authority, redis: Redis) -> None:
        self.sold, self._authority, self._redis = sold, authority, redis
        self._moves = 0
        self.turns: list[Callable[[], Awaitable[None]]] = []  # what else is done, in turn

    async def move(self, _: float = 0) -> None:
        base = f"{{{self.sold.sale}}}:"
        life = (await self._redis.info("server"))["run_id"]
        await self._redis.hset(base + "gate", mapping={"epoch": 1, "run_id": life, "skus": self.sold.sku})
        copy: dict[Any, Any] = {"available": 3 + self._moves, "pending": 0, "cursor": 5 + self._moves}
        await self._redis.hset(f"{base}stock:{self.sold.sku}", mapping=copy)
        await self._redis.sadd(base + "won", *(purchase.id.hex for purchase in self.sold.bought.values()))
        await self._authority.mark_sent([event.id for event in await self._authority.lease_outbox(99, timedelta(0))])
        await self._authority.restock(self.sold.sku, 1)
        self._moves += 1
        if self.turns:
            await self.turns[self._moves % len(self.turns)]()

    async def lose_the_copy(self) -> None:
        await self._redis.delete(f"{{{self.sold.sale}}}:stock:{self.sold.sku}")

    async def lose_the_gate(self) -> None:
        await self._redis.delete(f"{{{self.sold.sale}}}:gate")

    async def audit(self, redis_url: str) -> auditor.Report:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await audit(self.sold.database.auditor_url, redis_url)


@pytest.fixture
async def bazaar(
    database: Database, authority: Authority, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bazaar]:
    redis: Redis = Redis.from_url(redis_url, decode_responses=True)
    made = Bazaar(await sell(database), authority, redis)
    await made.move()
    monkeypatch.setattr(asyncio, "sleep", made.move)
    yield made
    base = f"{{{made.sold.sale}}}:"
    await redis.delete(base + "gate", f"{base}stock:{made.sold.sku}", base + "won")
    await redis.aclose()


async def test_what_is_under_way_while_people_buy_is_nothing_wrong(bazaar: Bazaar, redis_url: str) -> None:
    report = await bazaar.audit(redis_url)
    assert (report.clean, report.document()["at_rest"]) == (True, False)
    assert {row["id"] for row in report.document()["invariants"] if not row["judged"]} >= {"I11"}


async def test_what_is_wrong_is_told_without_what_is_under_way(bazaar: Bazaar, redis_url: str) -> None:
    bazaar.turns = [bazaar.lose_the_gate]
    await execute(bazaar.sold.database.owner_url, "UPDATE flash.quota SET active = 2 WHERE buyer = 'cem'")
    report = await bazaar.audit(redis_url)
    assert [tally.rule for tally in report.look.tallies] == ["quota-differs"]


async def test_an_audit_ends_though_something_new_is_always_under_way(bazaar: Bazaar, redis_url: str) -> None:
    # in the first look the copy is behind, in the second the gate is gone, in the third the copy: each is another thing
    bazaar.turns = [bazaar.lose_the_gate, bazaar.lose_the_copy]
    report = await bazaar.audit(redis_url)
    assert report.clean


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda s: s[2]["calls"][0].update(purchase=str(uuid.uuid4())), {"lost": 1}),
        (lambda s: s[2]["calls"][0].update(purchase="no id"), {"lost": 1}),
        (lambda s: s[2]["calls"][0].update(key="a-key-of-somebody"), {"lost": 1, "invented": 1}),
        (lambda s: s[2]["calls"][0].update(told_lines=[[s[2]["calls"][0]["lines"][0][0], 1, 77]]), {"lost": 1}),
        (lambda s: s[2]["calls"].append(s[2]["calls"][0] | {"call": "cancel", "lines": [], "status": 200}), {"lost": 1}),
        (lambda s: s[2]["calls"].append(s[1]["calls"][0] | {"key": "the-only-key-of-cem"}), {"lost": 1, "duplicated": 1}),
        # Five more heard of a hold that is certain now: with Ana's, Ben's and Cem's eight, of five.
        (lambda s: s[2]["calls"].extend(
            s[2]["calls"][0] | {"purchase": f"p{n}", "told_lines": [[s[2]["calls"][0]["lines"][0][0], 1, n]], "call": "look",
                                "key": f"k{n}"} for n in range(95, 100)), {"oversold": 2, "lost": 5}),
        # A buyer who heard 202 and nothing since; and whose attempt nobody decided.
        (lambda s: s[2]["calls"].append(_told_202("another-key-of-cem")), {"lost": 1, "stuck": 1}),
        (lambda s: s[2]["calls"].insert(0, _told_202("the-only-key-of-cem")), {}),
        (lambda s: s.pop(2), {"invented": 1}),
    ],
)  # fmt: skip
async def test_what_shoppers_were_told_is_held_against_the_books(
    audited: Audited, change: Callable[[list[dict[str, Any]]], object], found: dict[str, int]
) -> None:
    write_told(audited.told, audited.sold.bought, change)
    assert await audited.wrong() == found


def _told_202(key: str) -> dict[str, Any]:
    return {
        "call": "buy", "key": key, "lines": [], "mark": 0, "sent": 1.0, "answered": 2.0, "status": 202, "verdict": None,
        "purchase": None, "state": None, "told_lines": [], "deadline": None, "why": None,
    }  # fmt: skip


async def test_a_journal_is_held_against_the_books(audited: Audited) -> None:
    write_journal(audited.journal, audited.sold, "authorized")  # open, and nothing taken for what is paid
    assert await audited.wrong() == {"money": 2}
    write_journal(audited.journal, audited.sold, "authorized", "captured", amount_minor=99)
    assert await audited.wrong() == {"money": 1}
    # what another sale's purchases did is not this one's fault
    write_journal(audited.journal, audited.sold, "authorized", "captured")
    with audited.journal.open("a") as file:
        file.write(
            json.dumps({"key": "x:1", "purchase": "x", "amount_minor": 1, "currency": "EUR", "state": "authorized"})
        )
        file.write('\n{"key": "torn')
    assert await audited.wrong() == {}


async def test_a_journal_is_read_on_and_may_not_shrink(audited: Audited) -> None:
    journal = Journal(audited.journal)
    assert (await journal.read()).entries == 2
    whole = audited.journal.read_text()
    audited.journal.write_text(whole + whole.splitlines()[0][:20])
    assert (await journal.read()).entries == 2
    audited.journal.write_text(whole + whole.splitlines()[1].replace("captured", "refunded") + "\n")
    assert [entry.state for entry in (await journal.read()).latest.values()] == ["refunded"]
    audited.journal.write_text(whole)
    with pytest.raises(EvidenceError, match="shorter now"):
        await journal.read()


async def test_a_message_that_waits_at_rest_is_stuck(audited: Audited) -> None:
    await empty_all()
    url = given("FLASH_TEST_RABBITMQ_URL")
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        await queues.declare(channel)
        await channel.default_exchange.publish(aio_pika.Message(b"{}"), queues.PAYMENTS)
        await channel.default_exchange.publish(aio_pika.Message(b"{}"), queues.DEAD)
        try:
            assert await audited.wrong(rabbitmq_url=url) == {"stuck": 1}
            report = await audit(audited.sold.database.auditor_url, audited.redis_url, rabbitmq_url=url)
            assert report.scope["dead_letters"] == 1
        finally:
            for name in (queues.PAYMENTS, queues.DEAD):
                await (await channel.get_queue(name)).purge()


def test_the_queues_that_are_looked_at_are_the_engines() -> None:
    retries = {queues.retry_queue(number) for number in range(1, len(queues.RETRY_MS) + 1)}
    shards = {queue.name for queue in topology.SHARD_QUEUES}
    assert {queues.PAYMENTS, *retries, *shards} == set(stores.WORKING_QUEUES)
    assert set(stores.DEAD_QUEUES) == {queues.DEAD, topology.DEAD}


async def test_the_command_says_clean_with_0_and_wrong_with_1(audited: Audited) -> None:
    clean = audited.command("--told", str(audited.told), "--journal", f"card={audited.journal}", "--json")
    assert clean.returncode == 0, clean.stderr
    document = json.loads(clean.stdout)
    assert document["clean"]
    assert {row["id"]: row["judged"] for row in document["invariants"] if not row["judged"]} == {
        "I12": False,
        "I15": False,
    }
    assert document["fairness"][audited.sold.sku] == {"holds": 3, "inverted_pairs": 0, "share": 0.0}
    write_journal(audited.journal, audited.sold, "captured")
    wrong = audited.command("--journal", f"card={audited.journal}")
    assert wrong.returncode == 1
    assert "is captured after None" in wrong.stdout


async def test_the_command_refuses_what_it_cannot_use(audited: Audited) -> None:
    audited.told.write_bytes(audited.told.read_bytes()[:-20])
    assert audited.command("--told", str(audited.told)).returncode == 2
    audited.journal.write_text("damaged\n")
    with pytest.raises(EvidenceError, match="line 1 is damaged"):
        await Journal(audited.journal).read()
    assert audited.command("--redis", "redis://127.0.0.1:1/0").returncode == 3
    nothing = audited.command("--sale", "nothing")  # the later word wins
    assert (nothing.returncode, nothing.stderr, nothing.stdout) == (2, "there is no sale nothing\n", "")


async def test_a_store_that_is_away_is_no_finding(audited: Audited) -> None:
    for more in ({"rabbitmq_url": "amqp://127.0.0.1:1/"}, {"journals": [Journal("http://127.0.0.1:1")]}):
        with pytest.raises(StoreUnreachableError):
            await audit(audited.sold.database.auditor_url, audited.redis_url, **more)
    with pytest.raises(StoreUnreachableError):
        await audit("postgresql://nobody@127.0.0.1:1/none", audited.redis_url)


async def test_the_auditor_may_not_write(sold: Sold) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(sold.database.auditor_url, "UPDATE flash.stock SET available = 0")
