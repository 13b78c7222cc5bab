"""The admin page's API on a real database and broker: who is let in, what is refused, and that every deed does what its plan said."""

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import pytest
import pytest_asyncio
from aiohttp import web

from flashsale.admin.actions import ACTIONS
from flashsale.admin.routes import BODY_BYTES_MAX
from flashsale.admin.sessions import TRIES_FREE
from flashsale.authority.client import Authority
from flashsale.operate.dlq import SHOWN_BYTES_MAX
from flashsale.payments import queues
from tests.admins import Admin, Client, Heard, admin_of
from tests.contract import test_payments as shops
from tests.databases import Database, drop_database, make_database, patient
from tests.patience import PATIENCE_SECONDS
from tests.queues import broker, empty_payments, put

pytestmark = pytest.mark.asyncio(loop_scope="module")

LATER, LATEST = "2099-01-01T00:00:00.000Z", "2099-06-01T00:00:00.000Z"
SALE: dict[str, Any] = {"merchant": "m", "name": "A sale", "closes": LATEST, "limit": 2, "hold_seconds": 60}


@dataclass
class Desk:
    """The process on a database of its own, an operator and a viewer who are signed in to it, and a look behind the scenes."""

    admin: Admin
    database: Database
    authority: Authority
    owner: asyncpg.Connection
    olga: Client
    vera: Client

    async def operations(self) -> int:
        """How many are on record."""
        return int(await self.owner.fetchval("SELECT count(*) FROM flash.operation"))

    async def state(self, sale: str) -> str:
        """As the merchant wants it."""
        return str(await self.owner.fetchval("SELECT state FROM flash.sale WHERE id = $1", sale))

    async def sale(self, **more: Any) -> str:
        """A new sale, made by olga."""
        name = f"sale-{secrets.token_hex(4)}"
        done(await self.olga.do("sale.create", **{"sale": name, **SALE, **more}))
        return name

    async def overview(self, is_so: Callable[[Any], bool]) -> Any:
        """The overview, once it is so: for a moment it is what somebody else has read, or away on a slow machine."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not is_so(found := done(await self.vera.get("/api/overview"))):
                await asyncio.sleep(0.1)
        return found

    async def shop(self, units: int = 1) -> shops.PayingShop:
        """A sale in which ana holds a unit."""
        return await shops.opened(self.authority, self.owner, units)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    database = await make_database(template)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(drop_database, database)
        authority = await patient(database, 4)
        stack.push_async_callback(authority.close)
        owner = await asyncpg.connect(database.owner_url)
        stack.push_async_callback(owner.close)
        admin = await stack.enter_async_context(admin_of(database, tmp_path_factory.mktemp("admin")))
        olga, vera = [await stack.enter_async_context(admin.client(name)) for name in ("olga", "vera")]
        yield Desk(admin, database, authority, owner, olga, vera)


def done(heard: Heard) -> Any:
    assert heard.status == 200, heard
    return heard.body


def refused(heard: Heard, status: int, words: str = "") -> None:
    assert heard.status == status, heard
    assert heard.headers["Content-Type"].startswith("application/problem+json")
    assert heard.body["status"] == status
    assert words in heard.body["detail"], heard.body


# --- who is let in


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "shop.example"}, 421),
        ({"Host": "127.0.0.1:1"}, 421),
        ({"Host": "localhost.example:1"}, 421),
        ({"Origin": None}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "https://shop.example"}, 403),
        ({"X-CSRF-Token": None}, 403),
        ({"X-CSRF-Token": "x" * 43}, 403),
        ({"X-CSRF-Token": "é"}, 403),
        ({"Cookie": "flash_admin=x"}, 401),
        ({"Cookie": ""}, 401),
    ],
    ids=str,
)
async def test_a_change_that_is_not_the_pages_own_changes_nothing(
    desk: Desk, headers: dict[str, str | None], status: int
) -> None:
    sale = await desk.sale(opens=LATER)
    before = await desk.operations()
    for path in ("/api/deeds/sale.pause", "/api/plans/sale.pause"):
        # with a cookie of the test's own the client sends no other
        async with contextlib.AsyncExitStack() as stack:
            who = desk.olga
            if "Cookie" in headers:
                who = await stack.enter_async_context(desk.admin.client())
                who.csrf = desk.olga.csrf
            heard = await who.post(path, {"sale": sale, "reason": "x"}, {"Idempotency-Key": "k" * 16, **headers})
            refused(heard, status)
    assert (await desk.operations(), await desk.state(sale)) == (before, "OPEN")


async def test_a_viewer_sees_everything_and_changes_nothing(desk: Desk) -> None:
    sale = await desk.sale(opens=LATER)
    before = await desk.operations()
    for path in ("session", "actions", "overview", f"sales/{sale}", "purchases", "operations"):
        done(await desk.vera.get(f"/api/{path}"))
    refused(await desk.vera.do("sale.pause", sale=sale), 403, "you may look")
    refused(await desk.vera.plan("sale.pause", sale=sale), 403, "you may look")
    assert (await desk.operations(), await desk.state(sale)) == (before, "OPEN")


async def test_whoever_is_not_signed_in_sees_the_page_and_nothing_else(desk: Desk) -> None:
    async with desk.admin.client() as stranger:
        for path in (
            "actions",
            "overview",
            "sales/s",
            "purchases",
            "purchases/x",
            "dlq/payments",
            "operations",
            "operations/stream",
            "x",
        ):
            refused(await stranger.get(f"/api/{path}"), 401)
        refused(await stranger.post("/api/session/end", {}), 401)
        assert (await stranger.get("/api/session"))[:2] == (204, "")
        assert (await stranger.get("/")).status == 200
        assert (await stranger.get("/operations")).status == 200
        assert (await stranger.get("/static/admin.js")).status == 200
        for path in ("/static/nothing.js", "/static/..%2froutes.py", "/static/%2e%2e/routes.py"):
            assert (await stranger.get(path)).status in {401, 404}


async def test_another_host_sees_not_even_the_page(desk: Desk) -> None:
    refused(await desk.olga.get("/", Host="rebound.example"), 421)
    refused(await desk.olga.get("/api/overview", Host=f"rebound.example:{desk.admin.process.port}"), 421)
    assert (await desk.olga.get("/", Host=f"localhost:{desk.admin.process.port}")).status == 200


async def test_every_answer_is_dressed(desk: Desk) -> None:
    answers = [await desk.olga.get(path) for path in ("/", "/static/admin.css", "/api/session", "/api/none", "/none")]
    answers += [await desk.olga.do("none"), await desk.olga.get("/", Host="rebound.example")]
    for heard in answers:
        policy = heard.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert heard.headers["Cache-Control"] == "no-store"
        assert heard.headers["X-Content-Type-Options"] == "nosniff"
        assert heard.headers["Cross-Origin-Opener-Policy"] == "same-origin"


async def test_the_cookie_is_for_this_site_and_for_no_script(desk: Desk) -> None:
    async with desk.admin.client() as client:
        heard = await client.sign_in("vera")
        (cookie,) = [value for name, value in heard.headers.items() if name.lower() == "set-cookie"]
        words = {word.strip().lower() for word in cookie.split(";")[1:]}
        assert words == {"httponly", "path=/", "samesite=strict"}
        assert "flash_admin" not in json.dumps(heard.body)
        token = cookie.split(";")[0].partition("=")[2]
        assert heard.body["csrf"] != token


@pytest.mark.parametrize(
    ("name", "password"), [("olga", "wrong"), ("nobody", "an operator's password"), ("vera ", "x")]
)
async def test_a_wrong_name_and_a_wrong_password_sound_alike(desk: Desk, name: str, password: str) -> None:
    async with desk.admin.client() as client:
        heard = await client.sign_in(name, password)
        refused(heard, 401, "this name and password do not belong together")
        assert "Set-Cookie" not in heard.headers


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"name": "olga"}, 400),
        ({"name": "olga", "password": "x" * 129}, 400),
        ({"name": "olga", "password": ["x"]}, 400),
        ({"name": "olga", "password": "x", "role": "operator"}, 400),
        (b"name=olga&password=x", 400),
    ],
)
async def test_signing_in_takes_a_name_and_a_password(desk: Desk, document: Any, status: int) -> None:
    async with desk.admin.client() as client:
        refused(await client.post("/api/session", document), status)


async def test_nobody_signs_in_from_another_page(desk: Desk) -> None:
    async with desk.admin.client() as client:
        document = {"name": "vera", "password": "a viewer's password"}
        refused(await client.post("/api/session", document, {"Origin": "https://shop.example"}), 403)


async def test_who_tries_many_passwords_has_to_wait_and_others_need_not(desk: Desk) -> None:
    async with desk.admin.client() as client:
        for number in range(TRIES_FREE):
            refused(await client.sign_in("mallory", f"guess {number}"), 401)
        heard: list[Heard] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            # two at once, because a machine that is slow enough waits as long as it is told to by itself
            while not (late := [each for each in heard if each.status == 429]):
                heard = await asyncio.gather(*(client.sign_in("mallory", f"guess {number}") for number in range(2)))
        refused(late[0], 429, "too many tries")
        assert int(late[0].headers["Retry-After"]) >= 1
        assert (await client.sign_in("vera")).status == 200


async def test_a_signed_out_token_is_worth_nothing(desk: Desk) -> None:
    async with desk.admin.client("vera") as client, desk.admin.client() as thief:
        (cookie,) = (each.value for each in client.session.cookie_jar if each.key == "flash_admin")
        done(await thief.get("/api/overview", Cookie=f"flash_admin={cookie}"))
        assert (await client.post("/api/session/end", {})).status == 204
        refused(await thief.get("/api/overview", Cookie=f"flash_admin={cookie}"), 401)


async def test_a_session_ends_with_its_sign_out_its_password_and_its_user(desk: Desk) -> None:
    users = json.loads(desk.admin.users.read_text())
    try:
        async with desk.admin.client("vera") as one, desk.admin.client("vera") as other:
            assert (await one.post("/api/session/end", {})).status == 204
            refused(await one.get("/api/overview"), 401)
            done(await other.get("/api/session"))
            _write(desk.admin.users, users | {"vera": users["vera"] | {"role": "operator"}})
            assert done(await other.get("/api/session"))["role"] == "operator"
            _write(desk.admin.users, users | {"vera": users["vera"] | {"password": users["olga"]["password"]}})
            refused(await other.get("/api/overview"), 401)
        _write(desk.admin.users, users)
        async with desk.admin.client("vera") as third:
            _write(desk.admin.users, {"olga": users["olga"]})
            refused(await third.get("/api/overview"), 401)
    finally:
        _write(desk.admin.users, users)
    done(await desk.olga.get("/api/session"))


def _write(path: Path, users: dict[str, Any]) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(users), encoding="utf-8")
    beside.replace(path)


# --- what is asked for wrongly


@pytest.mark.parametrize(
    ("action", "document", "headers", "expected"),
    [
        ("sale.pause", {"sale": "s"}, {}, (400, "reason is missing")),
        ("sale.pause", {"sale": "s", "reason": "  "}, {}, (400, "reason is not")),
        ("sale.pause", {"sale": "s", "reason": "x" * 501}, {}, (400, "reason is not")),
        ("sale.pause", {"sale": "s", "reason": 1}, {}, (400, "reason is not")),
        ("sale.pause", {"reason": "x"}, {}, (400, "sale is missing")),
        ("sale.pause", {"sale": "s p", "reason": "x"}, {}, (400, "sale is not 1 to 64")),
        ("sale.pause", {"sale": ["s"], "reason": "x"}, {}, (400, "sale is not 1 to 64")),
        ("sale.pause", {"sale": "s", "reason": "x", "operator": "vera"}, {}, (400, "'operator' is not asked for")),
        ("sale.pause", {"sale": "s", "reason": "x"}, {"Idempotency-Key": None}, (400, "Idempotency-Key is missing")),
        ("sale.pause", {"sale": "s", "reason": "x"}, {"Idempotency-Key": "short"}, (400, "Idempotency-Key is not 16")),
        ("sale.restock", {"sku": "a", "units": "5", "reason": "x"}, {}, (400, "units is not a whole number")),
        ("sale.restock", {"sku": "a", "units": 1.0, "reason": "x"}, {}, (400, "units is not a whole number")),
        ("sale.restock", {"sku": "a", "units": True, "reason": "x"}, {}, (400, "units is not a whole number")),
        ("sale.restock", {"sku": "a", "units": 0, "reason": "x"}, {}, (400, "units is not a whole number")),
        ("sale.restock", {"sku": "a", "units": 10**13, "reason": "x"}, {}, (400, "units is not a whole number")),
        ("sale.schedule", {"sale": "s", "opens": "tomorrow", "reason": "x"}, {}, (400, "opens is not a time")),
        (
            "sale.schedule",
            {"sale": "s", "opens": "2099-01-01T00:00:00", "reason": "x"},
            {},
            (400, "opens is not a time"),
        ),
        ("sale.schedule", {"sale": "s", "reason": "x"}, {}, (409, "needs to be told what to change")),
        ("sale.burn", {"sale": "s", "reason": "x"}, {}, (404, "no action")),
        ("purchase.refund", {"purchase": "x", "reason": "x"}, {}, (400, "purchase is not the id")),
        (
            "dlq.drop",
            {"queue": "amq.topic", "message": "m", "reason": "x"},
            {},
            (400, "queue is not payments | checkout"),
        ),
        ("dlq.drop", {"queue": "payments", "message": "m" * 256, "reason": "x"}, {}, (400, "message is not")),
        ("sale.pause", b"{", {}, (400, "not JSON")),
        ("sale.pause", b"[" * 10_000, {}, (400, "not JSON")),
        ("sale.pause", b'{"sale": NaN}', {}, (400, "not JSON")),
        ("sale.pause", b"\xff", {}, (400, "not JSON")),
        ("sale.pause", b"[]", {}, (400, "not a JSON object")),
        ("sale.pause", b" " * (BODY_BYTES_MAX + 1), {}, (413, "at most")),
        ("sale.pause", {"sale": "s"}, {"Content-Type": "text/plain"}, (415, "application/json")),
        ("sale.pause", {"sale": "s"}, {"Content-Encoding": "gzip"}, (415, "application/json")),
    ],
)
async def test_bad_input_is_a_precise_refusal_and_changes_nothing(
    desk: Desk, action: str, document: Any, headers: dict[str, str | None], expected: tuple[int, str]
) -> None:
    before = await desk.operations()
    heard = await desk.olga.post(f"/api/deeds/{action}", document, {"Idempotency-Key": "k" * 16, **headers})
    refused(heard, *expected)
    assert await desk.operations() == before


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/purchases?state=SOLD", 400),
        ("/api/purchases?id=1", 400),
        ("/api/purchases?last=0", 400),
        ("/api/purchases?last=1000", 400),
        ("/api/purchases?last=x", 400),
        ("/api/purchases?sku=a&sku=b", 400),
        ("/api/purchases?since=yesterday", 400),
        ("/api/purchases?behind=x", 400),
        ("/api/purchases?behind=WyJhIiwgMSwgMV0=", 400),
        ("/api/purchases?color=red", 400),
        ("/api/purchases?buyer=" + "x" * 3000, 414),
        ("/api/purchases/00000000-0000-0000-0000-000000000000", 404),
        ("/api/purchases/x", 400),
        ("/api/sales/none", 404),
        ("/api/sales/a%20b", 400),
        ("/api/operations?before=x", 400),
        ("/api/operations?last=201", 400),
        ("/api/dlq/none", 400),
        ("/api/dlq/payments/message", 400),
        ("/api/nothing", 404),
    ],
)
async def test_a_bad_question_is_a_precise_refusal(desk: Desk, path: str, status: int) -> None:
    refused(await desk.olga.get(path), status)


async def test_a_wrong_method_says_which_is_right(desk: Desk) -> None:
    heard = await desk.olga.post("/api/overview", {})
    refused(heard, 405)
    assert heard.headers["Allow"] == "GET,HEAD"


# --- every deed


async def test_every_deed_of_a_sale_does_what_its_plan_said_once_per_key_and_is_on_record(desk: Desk) -> None:
    name, clone = f"sale-{secrets.token_hex(4)}", f"sale-{secrets.token_hex(4)}"
    sku = f"{name}.a"
    deeds: list[tuple[str, dict[str, Any]]] = [
        ("sale.create", {"sale": name, **SALE}),
        ("sale.add-item", {"sale": name, "sku": sku, "name": "A thing", "price_minor": 250, "units": 10}),
        ("sale.open", {"sale": name}),
        ("sale.pause", {"sale": name}),
        ("sale.limit", {"sale": name, "limit": 3}),
        ("sale.schedule", {"sale": name, "opens": LATER}),
        ("sale.restock", {"sku": sku, "units": 5}),
        ("sale.clone", {"sale": name, "clone": clone, "suffix": ".2", "closes": LATEST}),
        ("sale.end", {"sale": name}),
    ]
    assert {action for action, _ in deeds} == {action for action in ACTIONS if action.startswith("sale.")}
    for action, values in deeds:
        key = secrets.token_hex(16)
        operations, before = await desk.operations(), await look(desk, values)
        plan = done(await desk.olga.plan(action, **values))
        assert plan["changes"], action
        assert (await desk.operations(), await look(desk, values)) == (operations, before), (
            f"the plan of {action} was no plan"
        )
        first = done(await desk.olga.do(action, key, f"for {action}", **values))
        after = await look(desk, values)
        for change in plan["changes"]:
            if change["what"] in {"opens", "closes"}:
                continue  # of a sale that opens now
            assert after.get(change["what"]) == change["after"], (action, change)
            assert before.get(change["what"]) == change["before"], (action, change)
        again = done(await desk.olga.do(action, key, f"for {action}", **values))
        assert again["operation"] == first["operation"]
        assert await look(desk, values) == after, f"{action} was done twice"
        assert (await desk.operations()) == operations + 1
        record = first["operation"]
        subject = values.get("clone") or values.get("sku") or values["sale"]
        assert (record["operator"], record["action"], record["subject"], record["reason"]) == (
            "olga", action, subject, f"for {action}",
        )  # fmt: skip
    refused(await desk.olga.do("sale.open", sale=name), 409, "has ended")
    refused(await desk.olga.plan("sale.open", sale=name), 409, "has ended")
    refused(await desk.olga.plan("sale.pause", sale="none"), 409, "there is no sale none")


async def look(desk: Desk, values: dict[str, Any]) -> dict[str, Any]:
    """The sale that a deed is about, by the names that a plan has for what it changes; nothing, if it is not there."""
    name = values.get("clone") or values.get("sale") or values["sku"].rpartition(".")[0]
    heard = await desk.olga.get(f"/api/sales/{name}")
    if heard.status == 404:
        return {}
    seen = {
        key: heard.body["sale"][key] for key in ("merchant", "name", "state", "buyer_limit", "hold_seconds", "currency")
    }
    for item in heard.body["sale"]["items"]:
        seen |= {f"{item['sku']}: {key}": item[key] for key in ("name", "price_minor", "units", "available")}
    return seen


async def test_who_has_done_something_sees_it_in_the_overview(desk: Desk) -> None:
    sale = await desk.sale()
    for action, state in (("open", "OPEN"), ("pause", "PAUSED"), ("open", "OPEN"), ("end", "ENDED")):
        done(await desk.olga.do(f"sale.{action}", sale=sale))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "is" not in (sales := done(await desk.olga.get("/api/overview"))["sales"]):
                await asyncio.sleep(0.1)
        assert [row["state"] for row in sales["is"] if row["sale"] == sale] == [state]


async def test_a_key_that_did_something_else_is_refused(desk: Desk) -> None:
    sale, key = await desk.sale(), secrets.token_hex(16)
    done(await desk.olga.do("sale.open", key, sale=sale))
    refused(await desk.olga.do("sale.end", key, sale=sale), 409, "was used for sale.open")
    assert await desk.state(sale) == "OPEN"


async def test_two_that_press_at_once_do_it_once(desk: Desk) -> None:
    sale, key = await desk.sale(), secrets.token_hex(16)
    sku = f"{sale}.a"
    done(await desk.olga.do("sale.add-item", sale=sale, sku=sku, name="A", price_minor=1, units=1))
    heard = await asyncio.gather(*(desk.olga.do("sale.restock", key, sku=sku, units=5) for _ in range(5)))
    assert len({done(each)["operation"]["id"] for each in heard}) == 1
    assert await desk.owner.fetchval("SELECT total FROM flash.stock WHERE sku = $1", sku) == 6


async def test_a_plan_leaves_no_lock_and_nothing_else_behind(desk: Desk) -> None:
    shop = await desk.shop()
    before = [
        await desk.owner.fetchval(f"SELECT count(*) FROM flash.{table}") for table in ("ledger", "outbox", "operation")
    ]
    plan = done(await desk.olga.plan("purchase.cancel", purchase=str(shop.id("ana", "k"))))
    assert {"what": "state", "before": "HELD", "after": "CANCELLED"} in plan["changes"]
    assert {"what": f"{shop._own('a')}: available", "before": 0, "after": 1} in plan["changes"]
    after = [
        await desk.owner.fetchval(f"SELECT count(*) FROM flash.{table}") for table in ("ledger", "outbox", "operation")
    ]
    assert after == before
    await shop.compare()  # which the model would miss
    assert await shop.cancel("ana", "k") is None


async def test_a_plan_of_a_sale_counts_no_holds_while_it_has_the_locks(desk: Desk) -> None:
    sale = await desk.sale(opens=LATER)
    async with desk.owner.transaction():
        await desk.owner.execute("LOCK TABLE flash.line")
        plan = done(await desk.olga.plan("sale.pause", sale=sale))
    assert plan["changes"] == [{"what": "state", "before": "SCHEDULED", "after": "PAUSED"}]


async def test_every_deed_of_a_purchase(desk: Desk) -> None:
    shop = await desk.shop()
    purchase = str(shop.id("ana", "k"))
    for step in ("pay", "authorized", "captured"):
        await shops.live(shop, step)
    refused(await desk.olga.do("purchase.cancel", purchase=purchase), 409, "cannot cancel")
    plan = done(await desk.olga.plan("purchase.refund", purchase=purchase))
    assert plan["changes"] == [{"what": "payment 1", "before": "CAPTURED", "after": "REFUNDING"}]
    key = secrets.token_hex(16)
    first = done(await desk.olga.do("purchase.refund", key, purchase=purchase))
    assert done(await desk.olga.do("purchase.refund", key, purchase=purchase)) == first
    refused(await desk.olga.do("purchase.refund", purchase=purchase), 409, "being refunded already")
    shop.model.refund(shop._own("ana"), "k")
    await shops.live(shop, "refunded")
    plan = done(await desk.olga.plan("purchase.restock", purchase=purchase))
    assert {"what": "state", "before": "REFUNDED", "after": "RESTOCKED"} in plan["changes"]
    done(await desk.olga.do("purchase.restock", purchase=purchase))
    shown = done(await desk.vera.get(f"/api/purchases/{purchase}"))
    assert shown["state"] == "RESTOCKED"
    assert [deed["action"] for deed in shown["operations"]] == ["purchase.refund", "purchase.restock"]
    assert [move["kind"] for move in shown["movements"]] == ["hold", "return"]
    nobody = "00000000-0000-4000-8000-000000000000"
    refused(await desk.olga.plan("purchase.refund", purchase=nobody), 404, "no purchase")


async def test_every_deed_of_a_message(desk: Desk) -> None:
    await empty_payments()
    async with broker() as channel:
        for number in range(4):
            body = json.dumps({"subject": f"purchase {number}"}).encode()
            message = aio_pika.Message(body, message_id=f"m/{number} x", headers={"reason": "refused"}, delivery_mode=2)
            await channel.default_exchange.publish(message, queues.DEAD)
    listed = done(await desk.vera.get("/api/dlq/payments"))
    assert ([row["id"] for row in listed["messages"]], listed["all"]) == ([f"m/{number} x" for number in range(4)], 4)
    at_once = await asyncio.gather(*(desk.vera.get("/api/dlq/payments") for _ in range(4)))
    assert [len(done(each)["messages"]) for each in at_once] == [4] * 4
    await desk.overview(lambda found: found["aside"].get("is", {}).get("payments") == 4)
    shown = done(await desk.vera.get("/api/dlq/payments/message?message=m%2F1%20x"))
    assert json.loads(shown["body"]["text"]) == {"subject": "purchase 1"}
    refused(await desk.vera.get("/api/dlq/payments/message?message=m9"), 404, "no message m9")
    values = {"queue": "payments", "message": "m/1 x"}
    plan = done(await desk.olga.plan("dlq.drop", **values))
    assert plan["changes"] == [{"what": "m/1 x (purchase 1)", "before": "set aside", "after": "gone for good"}]
    key = secrets.token_hex(16)
    first = done(await desk.olga.do("dlq.drop", key, **values))
    assert first["operation"]["detail"]["body"]["text"] == shown["body"]["text"]
    assert done(await desk.olga.do("dlq.drop", key, **values)) == first  # the answer was lost
    refused(await desk.olga.do("dlq.drop", **values), 404, "no message")
    done(await desk.olga.do("dlq.requeue", queue="payments", message="all"))
    assert done(await desk.vera.get("/api/dlq/payments"))["messages"] == []
    await empty_payments()


async def test_all_are_dropped_once_per_key_and_what_came_later_stays(desk: Desk) -> None:
    await empty_payments()
    key, values = secrets.token_hex(16), {"queue": "payments", "message": "all"}
    await put(queues.DEAD, b"first", b"second")
    first = done(await desk.olga.do("dlq.drop", key, **values))
    assert done(await desk.vera.get("/api/dlq/payments"))["all"] == 0
    await put(queues.DEAD, b"third")
    assert done(await desk.olga.do("dlq.drop", key, **values)) == first
    assert done(await desk.vera.get("/api/dlq/payments"))["all"] == 1
    await empty_payments()


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"a": "\0"}', {"base64": base64.b64encode(b'{"a": "\0"}').decode()}),
        (b"\xff", {"base64": "/w=="}),
        (b"x" * (SHOWN_BYTES_MAX + 1), {"text": "x" * SHOWN_BYTES_MAX, "cut_from_bytes": SHOWN_BYTES_MAX + 1}),
        (b"x" * SHOWN_BYTES_MAX, {"text": "x" * SHOWN_BYTES_MAX}),
    ],
    ids=["nul", "not text", "long", "just not long"],
)
async def test_whatever_a_message_is_it_can_be_dropped_and_its_body_is_kept(
    desk: Desk, body: bytes, kept: dict[str, Any]
) -> None:
    await empty_payments()
    await put(queues.DEAD, body, rid="m")
    dropped = done(await desk.olga.do("dlq.drop", queue="payments", message="m"))
    assert dropped["operation"]["detail"]["body"] == kept
    assert done(await desk.vera.get("/api/dlq/payments"))["all"] == 0


# --- what is found


async def test_purchases_are_found_by_what_is_known_of_them_a_page_at_a_time(desk: Desk) -> None:
    shop = shops.PayingShop(desk.authority, desk.owner)
    await shop.add_sale("s", {"a": 20, "b": 20}, buyer_limit=20)
    wishes = [
        ("ana", {"a": 1}),
        ("ben", {"b": 1}),
        ("ana", {"a": 1, "b": 1}),
        ("cy", {"a": 2}),
        ("ana", {"b": 1}),
        ("ben", {"a": 1}),
    ]
    for number, (buyer, lines) in enumerate(wishes):
        await shop.reserve(shop.attempt(buyer, f"k{number}", lines))
    ids = [str(shop.id(buyer, f"k{number}")) for number, (buyer, _) in enumerate(wishes)]
    await shop.cancel("ben", "k1")
    own = shop._own

    async def found(**asked: Any) -> list[int]:
        seen: list[int] = []
        behind = ""
        while True:
            query = "&".join(f"{name}={value}" for name, value in {**asked, "behind": behind}.items())
            page = done(await desk.vera.get(f"/api/purchases?{query}"))
            assert len(page["purchases"]) <= asked.get("last", 50)
            seen += [ids.index(row["id"]) for row in page["purchases"]]
            behind = page["behind"]
            if not behind:
                return seen

    for last in (1, 2, 50):
        assert await found(sale=own("s"), last=last) == [5, 4, 3, 2, 1, 0]
        assert await found(sku=own("a"), last=last) == [5, 3, 2, 0]
        assert await found(sku=own("b"), last=last) == [4, 2, 1]
        assert await found(buyer=own("ana"), last=last) == [4, 2, 0]
        assert await found(buyer=own("ana"), sku=own("a"), last=last) == [2, 0]
    assert await found(id=ids[3]) == [3]
    assert await found(sale=own("s"), state="CANCELLED") == [1]
    assert await found(sale=own("s"), buyer=own("ben"), state="HELD") == [5]
    assert await found(sale="elsewhere") == []
    at = [row["at"] for row in reversed(done(await desk.vera.get(f"/api/purchases?sale={own('s')}"))["purchases"])]
    assert await found(sale=own("s"), since="2099-01-01T00:00:00Z") == []
    assert 0 not in await found(sale=own("s"), since=at[1], until="2099-01-01T00:00:00Z")
    assert await found(sale=own("s"), until="2001-01-01T00:00:00Z") == []


async def test_the_record_is_read_a_page_at_a_time(desk: Desk) -> None:
    sale = await desk.sale()
    for action in ("open", "pause", "open", "end"):
        done(await desk.olga.do(f"sale.{action}", reason=f"to {action} it", sale=sale))
    seen: list[str] = []
    before = ""
    while before is not None:
        page = done(await desk.vera.get(f"/api/operations?subject={sale}&last=2&before={before}"))
        seen += [row["action"] for row in page["operations"]]
        before = page["before"]
    assert seen == ["sale.end", "sale.open", "sale.pause", "sale.open", "sale.create"]


async def test_a_sale_shows_what_is_sold_held_and_left(desk: Desk) -> None:
    shop = await desk.shop(units=3)
    await shop.reserve(shop.attempt("ben", "k", {"a": 1}))
    for step in ("pay", "authorized", "captured"):
        await shops.live(shop, step)
    shown = done(await desk.vera.get(f"/api/sales/{shop._own('s')}"))
    assert {name: shown["sale"][name] for name in ("state", "units", "held", "available")} == {
        "state": "OPEN", "units": 3, "held": 1, "available": 1,
    }  # fmt: skip
    (item,) = shown["skus"]
    assert (item["units_sold"], item["units_held"], shown["revenue"][0]["net_minor"]) == (1, 1, 100)
    name = shop._own("s")
    expected = {"sale": name, "units": 3, "held": 1, "available": 1}
    overview = await desk.overview(
        lambda found: any(expected.items() <= row.items() for row in found["sales"].get("is", [])),
    )
    assert "no auditor" in overview["audit"]["away"]


# --- what is away


async def test_a_long_report_of_the_auditor_is_read_to_its_end(desk: Desk, tmp_path: Path) -> None:
    findings = {"conservation": ["x" * 1000] * 600}

    async def tell(_: web.Request) -> web.Response:
        numbers = dict.fromkeys(("passes", "failed_passes", "age_s"), 1)
        return web.json_response({"clean": False, "ready": True, "violations": [], "findings": findings} | numbers)

    auditor = web.Application()
    auditor.router.add_get("/report", tell)
    runner = web.AppRunner(auditor)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with admin_of(desk.database, tmp_path, FLASH_AUDITOR_URL=url) as admin, admin.client("vera") as vera:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while "is" not in (audit := done(await vera.get("/api/overview"))["audit"]):
                    await asyncio.sleep(0.1)
            assert audit["is"]["findings"] == findings
    finally:
        await runner.cleanup()


async def test_a_store_that_is_away_is_said_and_the_rest_is_shown(desk: Desk, tmp_path: Path) -> None:
    nowhere = "postgresql://flash_admin:x@127.0.0.1:1/none"
    async with (
        admin_of(desk.database._replace(admin_url=nowhere), tmp_path, FLASH_AUDITOR_URL="http://127.0.0.1:1") as admin,
        admin.client("olga") as olga,
    ):
        olga.is_patient = False
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "is" not in (overview := done(await olga.get("/api/overview")))["aside"]:
                await asyncio.sleep(0.1)
        assert "PostgreSQL does not answer" in overview["sales"]["away"]
        assert "the auditor does not answer" in overview["audit"]["away"]
        assert overview["aside"]["is"].keys() == {"payments", "checkout"}
        heard = await olga.do("sale.pause", sale="s")
        refused(heard, 503, "PostgreSQL does not answer")
        assert heard.headers["Retry-After"] == "1"
