"""Paying and cancelling over the wire: the same words and the same bytes from either backend, and bad input changes nothing."""

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from flashsale.authority.client import Told
from flashsale.contract import wire
from tests.contract.drivers import HttpDriver
from tests.contract.script import Wish
from tests.stages import Stage, staged

BACKENDS = ("asyncio_redis", "gevent_rabbit")
KEY = "pay-0123456789abcdef"
OTHER_KEY = "pay-fedcba9876543210"
JSON = "application/json"
GOOD = b'{"method":"card"}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(template: str, redis_url: str) -> AsyncIterator[Stage]:
    async with staged(template, redis_url, queued_servers=1) as made:
        yield made


class Heard(NamedTuple):
    """What is compared between the backends."""

    status: int
    body: Any
    headers: dict[str, str | None]

    @property
    def word(self) -> str:
        """The state, or the verdict that was given instead."""
        return str(self.body["state"] if self.status < 400 else self.body["verdict"])


COMPARED = ("Content-Type", "Content-Length", "Retry-After", "Allow", "Cache-Control", "Location")


class Till:
    """Ana's hold of one unit, made through one backend."""

    def __init__(self, stage: Stage, backend: str) -> None:
        (server,) = stage.urls_of(backend)
        self.stage = stage
        self.shop = HttpDriver(stage.authority, stage.owner, stage.session, [server])
        self.server = server
        self.path = f"{wire.PURCHASES_PATH}/{self.shop.purchase('ana', 'ana')}"

    async def open(self) -> "Till":
        await self.shop.open("s", {"a": 3}, 2)
        assert await self.shop.reserve(Wish("ana", "ana", (("a", 1),)), is_retry=True) == "held"
        return self

    async def pay(self, key: str = KEY, body: bytes = GOOD, who: str = "ana", **headers: str | None) -> Heard:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.post(
            "/pay", body, {wire.BUYER_HEADER: self.shop.own(who), wire.KEY_HEADER: key, "Content-Type": JSON, **named}
        )

    async def cancel(self, who: str = "ana", body: bytes = b"") -> Heard:
        return await self.post("/cancel", body, {wire.BUYER_HEADER: self.shop.own(who)})

    async def post(self, suffix: str, body: bytes, headers: Mapping[str, str | None]) -> Heard:
        sent = {name: value for name, value in headers.items() if value is not None}
        url = self.server + self.path + suffix
        async with self.stage.session.post(url, data=body, headers=sent, skip_auto_headers=["Content-Type"]) as answer:
            assert answer.content_type == (JSON if answer.ok else wire.PROBLEM_TYPE)
            return Heard(
                answer.status, await answer.json(content_type=None), {n: answer.headers.get(n) for n in COMPARED}
            )

    async def settle(self, number: int, outcome: str) -> None:
        purchase = self.shop.purchase("ana", "ana")
        read = await self.stage.authority.read_payment(purchase, number)
        assert read is not None
        await self.stage.authority.settle_payment(Told(purchase, number, outcome, read.amount_minor, read.currency))

    async def books(self) -> tuple[object, ...]:
        """Everything of this till that a refused request must leave as it was."""
        row = await self.stage.owner.fetchrow(
            """SELECT p.state, p.version, k.available, k.seq,
                      (SELECT count(*) FROM flash.payment y WHERE y.purchase_id = p.id) AS tries,
                      (SELECT count(*) FROM flash.ledger l WHERE l.sku = k.sku) AS movements,
                      (SELECT count(*) FROM flash.outbox o WHERE o.subject = p.id::text) AS events
               FROM flash.purchase p, flash.stock k WHERE p.id = $1 AND k.sku = $2""",
            self.shop.purchase("ana", "ana"),
            self.shop.own("a"),
        )
        assert row is not None
        return tuple(row)


class Case(NamedTuple):
    """What is sent, and what must come back."""

    status: int
    verdict: str
    said: str
    body: bytes = GOOD
    headers: Mapping[str, str | None] = MappingProxyType({})


CASES = {
    "no key": Case(400, "malformed", wire.KEY_HEADER, headers={wire.KEY_HEADER: None}),
    "short key": Case(400, "malformed", "16 to 64", headers={wire.KEY_HEADER: "short"}),
    "no buyer": Case(401, "unauthenticated", "a buyer is named", headers={wire.BUYER_HEADER: None}),
    "another way to pay": Case(400, "malformed", "method", b'{"method":"gold"}'),
    "no way to pay": Case(400, "malformed", "method", b"{}"),
    "a list of ways": Case(400, "malformed", "method", b'{"method":["card"]}'),
    "null": Case(400, "malformed", "method", b'{"method":null}'),
    "amount of theirs": Case(400, "malformed", "'amount'", b'{"method":"card","amount":1}'),
    "method twice": Case(400, "malformed", "twice", b'{"method":"card","method":"card"}'),
    "no object": Case(400, "malformed", "", b'["card"]'),
    "broken JSON": Case(400, "malformed", "not JSON", b'{"method":'),
    "no body": Case(400, "malformed", "not JSON", b""),
    "broken UTF-8": Case(400, "malformed", "not UTF-8", b'{"method":"\xff"}'),
    "too large": Case(413, "too_large", "4096", GOOD + b" " * 4096),
    "text": Case(415, "wrong_media_type", JSON, headers={"Content-Type": "text/plain"}),
    "zipped": Case(415, "wrong_media_type", "Content-Encoding", headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", CASES)
async def test_bad_input_is_named_and_changes_nothing(stage: Stage, name: str) -> None:
    case = CASES[name]
    answers = []
    for backend in BACKENDS:
        till = await Till(stage, backend).open()
        before = await till.books()
        good = {wire.BUYER_HEADER: till.shop.own("ana"), wire.KEY_HEADER: KEY, "Content-Type": JSON}
        heard = await till.post("/pay", case.body, {**good, **case.headers})
        assert (heard.status, heard.body["verdict"]) == (case.status, case.verdict)
        assert case.said in heard.body["detail"], heard.body
        assert await till.books() == before
        assert (await till.pay()).status == 202, "the same without the fault"
        answers.append(heard)
    assert answers[0] == answers[1]


@pytest.mark.asyncio(loop_scope="module")
async def test_three_tries_are_asked_once_each_and_no_fourth(stage: Stage) -> None:
    lives = []
    for backend in BACKENDS:
        till = await Till(stage, backend).open()
        said: list[tuple[int, str]] = []

        def note(heard: Heard, said: list[tuple[int, str]] = said) -> None:
            said.append((heard.status, heard.word))

        for number in (1, 2, 3):
            key = f"pay-number-{number}-abcdef"
            note(await till.pay(key))
            note(await till.pay(key))  # sent again: asked already
            note(await till.pay(OTHER_KEY))  # while the first is under way
            note(await till.pay(key, who="ben"))
            note(await till.cancel())
            await till.settle(number, "declined")
            note(await till.pay(key))  # and still: what became of it
        note(await till.pay(OTHER_KEY))
        note(await till.cancel())
        late, asked = (409, "too_late"), (202, "AUTHORIZING")
        each = [asked, asked, late, (404, "unknown_purchase"), late]
        assert said == [*each, (202, "HELD"), *each, (202, "HELD"), *each, (202, "DECLINED"), late, late]
        counted = "SELECT count(*) FROM flash.payment WHERE purchase_id = $1"
        assert await stage.owner.fetchval(counted, till.shop.purchase("ana", "ana")) == 3
        assert await till.shop.available("a") == 3
        lives.append(said)
    assert lives[0] == lives[1]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("backend", BACKENDS)
async def test_what_is_paid_or_given_up_stays_so(stage: Stage, backend: str) -> None:
    till = await Till(stage, backend).open()
    asked = await till.pay()
    assert [payment["try"] for payment in asked.body["payments"]] == [1]
    await till.settle(1, "authorized")
    await till.settle(1, "captured")
    again = await till.pay()
    assert (again.status, again.word) == (202, "PAID")
    assert (await till.cancel()).word == "too_late"

    till = await Till(stage, backend).open()
    assert (await till.cancel("ben")).status == 404
    first, second = await till.cancel(), await till.cancel(body=b"whatever is sent along")
    assert (first.status, first.word) == (200, "CANCELLED")
    assert first == second
    assert ((await till.pay()).status, (await till.pay()).word) == (409, "too_late")
    assert await till.shop.available("a") == 3


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_hold_whose_deadline_has_passed_is_not_paid(stage: Stage, backend: str) -> None:
    till = await Till(stage, backend).open()
    await stage.owner.execute(
        "UPDATE flash.purchase SET deadline = now() - interval '1 second' WHERE id = $1",
        till.shop.purchase("ana", "ana"),
    )
    assert (await till.pay()).word == "too_late"
