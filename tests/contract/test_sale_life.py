"""A sale from its first word to its end, by the hand of an operator; and what stands once a pause or an end is acknowledged."""

import argparse
import asyncio
import json
import random
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from flashsale.authority.client import Attempt, Authority
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import Cart, Line, purchase_id
from flashsale.operate import sale
from flashsale.operate.context import Context, OperationError
from tests.contract.test_reserve_batch_mutants import mutate
from tests.contract.test_storm import books_are_right
from tests.databases import Database, patient
from tests.patience import PATIENCE_SECONDS

LATER, LATER_STILL = "2099-01-01T00:00:00Z", "2099-01-02T00:00:00+01:00"
WHY = ("--reason", "a test", "--operator", "ana")
NEW = ("create", "s", "--merchant", "m", "--name", "Sale", "--limit", "2", "--hold-seconds", "60", "--closes", LATER)


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    yield connection
    await connection.close()


@pytest.fixture
def flash_sale(database: Database, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """``flash sale`` with these words; what it printed as JSON."""

    async def run(*words: str) -> Any:
        context = Context(database.operator_url, database.auditor_url, redis="", rabbitmq="", gateways={}, json=True)
        reason = () if words[0] in {"list", "show"} else WHY
        await sale.run(parsed(*words, *reason), context)
        return json.loads(capsys.readouterr().out)

    return run


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    sale.options(parser)
    return parser.parse_args(words)


async def verdict_of(authority: Authority, buyer: str, sku: str, quantity: int = 1) -> Verdict | None:
    key = uuid.uuid4().hex
    attempt = Attempt(uuid.uuid4(), purchase_id(buyer, key), buyer, key, Cart((Line(sku, quantity),)))
    return (await authority.reserve_batch([attempt]))[0].verdict


async def test_a_sale_from_its_first_word_to_its_end(authority: Authority, flash_sale: Callable[..., Any]) -> None:
    assert (await flash_sale(*NEW))["state"] == "PAUSED"
    made = await flash_sale("add-item", "s", "a", "--name", "Shoe", "--price-minor", "100", "--units", "2")
    assert made["items"] == [{"sku": "a", "name": "Shoe", "price_minor": 100, "units": 2, "available": 2, "seq": 1}]
    assert await verdict_of(authority, "ana", "a") is Verdict.SALE_NOT_OPEN
    assert (await flash_sale("open", "s"))["state"] == "OPEN"
    assert await verdict_of(authority, "ana", "a", 2) is Verdict.HELD
    assert await verdict_of(authority, "ben", "a") is Verdict.SOLD_OUT
    assert (await flash_sale("restock", "a", "3"))["available"] == 3
    assert await verdict_of(authority, "ben", "a") is Verdict.HELD
    assert (await flash_sale("limit", "s", "--limit", "1"))["buyer_limit"] == 1
    assert await verdict_of(authority, "ben", "a") is Verdict.OVER_LIMIT
    assert (await flash_sale("pause", "s"))["state"] == "PAUSED"
    assert await verdict_of(authority, "cyd", "a") is Verdict.SALE_NOT_OPEN
    assert (await flash_sale("schedule", "s", "--opens", LATER, "--closes", LATER_STILL))["state"] == "SCHEDULED"
    assert await verdict_of(authority, "cyd", "a") is Verdict.SALE_NOT_OPEN
    assert (await flash_sale("open", "s"))["state"] == "OPEN"  # whatever the schedule said
    assert await verdict_of(authority, "cyd", "a") is Verdict.HELD
    assert (await flash_sale("end", "s"))["state"] == "ENDED"
    assert await verdict_of(authority, "dee", "a") is Verdict.SALE_NOT_OPEN
    for words in (
        ("open", "s"),
        ("pause", "s"),
        ("schedule", "s", "--closes", LATER_STILL),
        ("limit", "s", "--limit", "9"),
    ):
        with pytest.raises(OperationError, match="sale s has ended"):
            await flash_sale(*words)


async def test_a_scheduled_sale_opens_by_itself(authority: Authority, flash_sale: Callable[..., Any]) -> None:
    opens = datetime.now(UTC) + timedelta(seconds=0.5)
    assert (await flash_sale(*NEW, "--opens", LATER, "--closes", LATER_STILL))["state"] == "SCHEDULED"
    await flash_sale("add-item", "s", "a", "--name", "Shoe", "--price-minor", "100", "--units", "2")
    await flash_sale("pause", "s")
    await flash_sale("schedule", "s", "--opens", opens.isoformat())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await verdict_of(authority, "ana", "a") is not Verdict.HELD:
            await asyncio.sleep(0.05)
    assert datetime.now(UTC) >= opens


async def test_a_clone_is_the_same_sale_with_its_opening_stock(
    authority: Authority, flash_sale: Callable[..., Any]
) -> None:
    await flash_sale(*NEW)
    await flash_sale("add-item", "s", "a", "--name", "Shoe", "--price-minor", "100", "--units", "2")
    await flash_sale("add-item", "s", "b", "--name", "Sock", "--price-minor", "5", "--units", "0")
    await flash_sale("open", "s")
    await flash_sale("restock", "a", "7")
    assert await verdict_of(authority, "ana", "a") is Verdict.HELD
    made = await flash_sale("clone", "s", "t", "--suffix", ".2", "--closes", LATER)
    assert made["state"] == "PAUSED"
    assert [(item["sku"], item["units"], item["available"]) for item in made["items"]] == [("a.2", 2, 2), ("b.2", 0, 0)]
    terms = ("merchant", "name", "buyer_limit", "hold_seconds", "currency")
    assert [made[term] for term in terms] == [(await flash_sale("show", "s"))[term] for term in terms]
    assert (await flash_sale("clone", "s", "u", "--suffix", ".3", "--opens", LATER, "--closes", LATER_STILL))[
        "state"
    ] == "SCHEDULED"
    assert [row["sale"] for row in await flash_sale("list")] == ["s", "t", "u"]


async def test_a_clone_takes_nothing_of_another_sale_and_nothing_that_came_later(
    flash_sale: Callable[..., Any],
) -> None:
    await flash_sale("create", "first", *NEW[2:7], "5", *NEW[8:])
    await flash_sale("add-item", "first", "x", "--name", "Hat", "--price-minor", "1", "--units", "3")
    await flash_sale(*NEW)
    await flash_sale("add-item", "s", "b", "--name", "Sock", "--price-minor", "5", "--units", "0")
    await flash_sale("restock", "b", "4")
    made = await flash_sale("clone", "s", "t", "--suffix", ".2", "--closes", LATER)
    assert [(item["sku"], item["units"]) for item in made["items"]] == [("b.2", 0)]
    assert made["buyer_limit"] == 2


async def test_an_action_does_what_it_says_to_the_sale_it_names(
    authority: Authority, owner: asyncpg.Connection, flash_sale: Callable[..., Any]
) -> None:
    now = datetime.now(UTC)
    await authority.create_sale(
        "over", merchant="m", name="x", opens=now - timedelta(2), closes=now - timedelta(1), buyer_limit=1, hold_seconds=1, currency="EUR",
    )  # fmt: skip
    await flash_sale(*NEW)
    assert (await flash_sale("schedule", "s", "--closes", LATER_STILL))["state"] == "PAUSED", "no opening, so it waits"
    await owner.execute(
        "SELECT operate_change_sale('operator-key-0001', 'ana', 'why', 'sale.pause', 's', now(), NULL, NULL, NULL)"
    )
    assert (await flash_sale("show", "s"))["state"] == "PAUSED"
    assert (await flash_sale("open", "s"))["state"] == "OPEN"
    await flash_sale("pause", "over")  # which cannot be opened any more
    assert await owner.fetchval("SELECT state FROM sale WHERE id = 'over'") == "PAUSED"


async def test_a_command_repeated_with_its_key_is_done_once(
    owner: asyncpg.Connection, flash_sale: Callable[..., Any]
) -> None:
    await flash_sale(*NEW)
    await flash_sale("add-item", "s", "a", "--name", "Shoe", "--price-minor", "100", "--units", "2")
    for number, words in enumerate(
        (
            ("create", "t", *NEW[2:]),
            ("add-item", "s", "b", "--name", "Shoe", "--price-minor", "100", "--units", "2"),
            ("restock", "a", "3"),
            ("open", "s"),
            ("clone", "s", "u", "--suffix", ".2", "--closes", LATER),
        )
    ):
        key = ("--key", f"operator-key-{number:04}")
        first = await flash_sale(*words, *key)
        assert first["key"] == key[1]
        assert await flash_sale(*words, *key) == first
        rows = await owner.fetch("SELECT operator, action, reason FROM operation WHERE key = $1", key[1])
        assert [tuple(row) for row in rows] == [("ana", f"sale.{words[0]}", "a test")]
    assert await owner.fetchval("SELECT total FROM stock WHERE sku = 'a'") == 5
    with pytest.raises(OperationError, match=r"was used for sale\.restock of a"):
        await flash_sale("restock", "a", "4", "--key", "operator-key-0002")


async def test_a_word_that_was_done_before_is_not_called_done(
    database: Database, flash_sale: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    context = Context(database.operator_url, database.auditor_url, redis="", rabbitmq="", gateways={}, json=False)
    pause = parsed("pause", "s", "--key", "operator-key-0001", *WHY)
    await flash_sale(*NEW)
    await sale.run(pause, context)
    assert capsys.readouterr().out.startswith("done under key operator-key-0001\n")
    await flash_sale("open", "s")
    await sale.run(pause, context)
    told = capsys.readouterr().out
    assert told.startswith("nothing done now: done before under key operator-key-0001\n")
    assert "OPEN" in told
    assert "[" not in told  # how many items, and not which


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (NEW, "there is a sale s already"),
        (("create", "t", *NEW[2:], "--opens", LATER_STILL), "sale t would close before it opens"),
        (("add-item", "none", "b", "--name", "x", "--price-minor", "1", "--units", "1"), "there is no sale none"),
        (("add-item", "s", "a", "--name", "x", "--price-minor", "1", "--units", "1"), "there is an item a already"),
        (("restock", "none", "1"), "there is no item none"),
        (("pause", "none"), "there is no sale none"),
        (("open", "over"), "sale over closed at 20.*; give it another time first"),
        (("schedule", "s", "--closes", "2020-01-01T00:00:00Z"), "sale s would close before it opens"),
        (("schedule", "s"), "needs to be told what to change"),
        (("limit", "s"), "needs to be told what to change"),
        (("clone", "none", "t", "--suffix", ".2", "--closes", LATER), "there is no sale none"),
        (("clone", "s", "s", "--suffix", ".2", "--closes", LATER), "there is a sale s already"),
        (("show", "none"), "there is no sale none"),
    ],
)
async def test_what_cannot_be_is_refused_in_words_and_leaves_nothing(
    authority: Authority, owner: asyncpg.Connection, flash_sale: Callable[..., Any], words: tuple[str, ...], why: str
) -> None:
    await flash_sale(*NEW)
    await flash_sale("add-item", "s", "a", "--name", "Shoe", "--price-minor", "100", "--units", "2")
    now = datetime.now(UTC)
    await authority.create_sale(
        "over", merchant="m", name="x", opens=now - timedelta(2), closes=now - timedelta(1), buyer_limit=1, hold_seconds=1, currency="EUR",
    )  # fmt: skip
    before = await flash_sale("list")
    with pytest.raises(OperationError, match=why):
        await flash_sale(*words)
    assert await flash_sale("list") == before
    assert await owner.fetchval("SELECT count(*) FROM operation") == 2


async def test_an_unknown_action_is_refused(owner: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="there is no action"):
        await owner.execute(
            "SELECT operate_change_sale('operator-key-0001', 'a', 'r', 'sale.burn', 's', NULL, NULL, NULL, NULL)"
        )


# Each predicate of the sale's life taken out, and the test that must notice.
MUTANTS: dict[str, tuple[str, str, Callable[..., Any]]] = {
    "ended is for good": (
        "IF v_sale.state = 'ENDED' AND p_state IS DISTINCT FROM 'ENDED' THEN",
        "IF false THEN",
        test_a_sale_from_its_first_word_to_its_end,
    ),
    "stock hears of the new state": (
        "UPDATE stock SET state = v_sale.state, opens",
        "UPDATE stock SET opens",
        test_a_sale_from_its_first_word_to_its_end,
    ),
    "stock hears of the new limit": (
        "buyer_limit = v_sale.buyer_limit,",
        "buyer_limit = buyer_limit,",
        test_a_sale_from_its_first_word_to_its_end,
    ),
    "open is now": (
        "v_opens := least(v_sale.opens, clock_timestamp());",
        "v_opens := v_sale.opens;",
        test_a_sale_from_its_first_word_to_its_end,
    ),
    "a schedule opens a paused sale": (
        "p_action = 'sale.schedule' AND p_opens IS NOT NULL",
        "false",
        test_a_sale_from_its_first_word_to_its_end,
    ),
    "stock hears of the new times": (
        "opens = v_sale.opens, closes",
        "closes",
        test_a_scheduled_sale_opens_by_itself,
    ),
    "a clone without an opening waits": (
        "CASE WHEN p_opens IS NULL THEN 'PAUSED' ELSE 'OPEN' END",
        "'OPEN'",
        test_a_clone_is_the_same_sale_with_its_opening_stock,
    ),
    "a clone has the opening stock": (
        "AND l.seq = 1 AND l.reason = 'opening'",
        "ORDER BY l.seq DESC LIMIT 1",
        test_a_clone_is_the_same_sale_with_its_opening_stock,
    ),
}


@pytest.mark.parametrize("guard", MUTANTS)
async def test_a_missing_guard_is_noticed(
    authority: Authority,
    owner: asyncpg.Connection,
    flash_sale: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    guard: str,
) -> None:
    old, new, trap = MUTANTS[guard]
    await mutate(owner, old, new)
    monkeypatch.setattr(sys.modules[__name__], "PATIENCE_SECONDS", 5.0)  # a trap that waits in vain has noticed
    with pytest.raises((AssertionError, OperationError, TimeoutError, pytest.fail.Exception)):
        await trap(authority, flash_sale)


SALES, SKUS_PER_SALE, BATCHERS, LINES, PAUSES = 12, 25, 3, 24, 24


async def test_after_an_acknowledged_pause_or_end_no_later_seq_is_a_hold(
    database: Database, owner: asyncpg.Connection
) -> None:
    # sales of several merchants, hundreds of SKUs; batches of all of them while one after the other is paused, opened, ended
    authority = await patient(database, size=BATCHERS + 2)
    now = datetime.now(UTC)
    for number in range(SALES):
        await authority.create_sale(
            f"s{number}", merchant=f"m{number % 3}", name="x", opens=now - timedelta(1), closes=now + timedelta(1), buyer_limit=1000,
            hold_seconds=3600, currency="EUR",
        )  # fmt: skip
    await owner.execute(
        "SELECT add_item('s' || s, 's' || s || '-' || k, 'x', 100, 1000000) FROM generate_series(0, $1 - 1) s, generate_series(1, $2) k",
        SALES,
        SKUS_PER_SALE,
    )
    seen: Counter[str] = Counter()
    is_over = False

    async def buy(seed: int) -> None:
        dice = random.Random(seed)
        while not is_over:
            batch = []
            for _ in range(LINES):
                number, key = dice.randrange(SALES), uuid.uuid4().hex
                skus = dice.sample(range(1, SKUS_PER_SALE + 1), dice.randint(1, 3))
                cart = Cart(tuple(Line(f"s{number}-{sku}", 1) for sku in skus))
                buyer = f"b{dice.randrange(50)}"
                batch.append(Attempt(uuid.uuid4(), purchase_id(buyer, key), buyer, key, cart))
            seen.update(str(decision.verdict) for decision in await authority.reserve_batch(batch))

    acknowledged: list[tuple[str, int, str]] = []  # SKU, its seq when the word was acknowledged, the word

    async def step_in() -> None:
        nonlocal is_over
        dice = random.Random(0)
        try:
            for number in range(PAUSES):
                name = f"s{dice.randrange(SALES // 2)}" if number < PAUSES - 4 else f"s{SALES - 1 - number % 4}"
                word = "sale.pause" if number < PAUSES - 4 else "sale.end"
                await change(owner, word, name)
                rows = await owner.fetch("SELECT sku, seq FROM stock WHERE sale_id = $1", name)
                acknowledged.extend((row["sku"], row["seq"], word) for row in rows)
                refused = seen[Verdict.SALE_NOT_OPEN]
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while seen[Verdict.SALE_NOT_OPEN] == refused:  # it was felt
                        await asyncio.sleep(0.002)
                if word == "sale.pause":
                    await change(owner, "sale.open", name)
        finally:
            is_over = True

    try:
        async with asyncio.TaskGroup() as group:
            for seed in range(BATCHERS):
                group.create_task(buy(seed))
            group.create_task(step_in())
    finally:
        await authority.close()
    assert seen[Verdict.HELD]
    assert len(acknowledged) == PAUSES * SKUS_PER_SALE
    # the first movement after the word that is a hold comes after the sale was opened again
    offenders = await owner.fetch(
        """SELECT w.sku, w.seq FROM unnest($1::text[], $2::bigint[]) w (sku, seq)
           WHERE (SELECT min(l.seq) FROM ledger l WHERE l.sku = w.sku AND l.seq > w.seq AND l.kind = 'hold')
               < coalesce((SELECT min(l.seq) FROM ledger l WHERE l.sku = w.sku AND l.seq > w.seq AND l.reason = 'open'), 'Infinity'::float8)""",
        [sku for sku, _, _ in acknowledged],
        [seq for _, seq, _ in acknowledged],
    )
    assert not offenders
    await books_are_right(owner)


async def change(owner: asyncpg.Connection, action: str, name: str) -> None:
    done = await owner.fetchval(
        "SELECT operate_change_sale($1, 'ana', 'a test', $2, $3, NULL, NULL, NULL, NULL)",
        uuid.uuid4().hex,
        action,
        name,
    )
    assert done
