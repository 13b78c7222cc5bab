"""Bad input changes nothing and says why, in the same bytes from either backend. One table of cases, spoken over the wire."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import aiohttp
import jwt
import pytest
import pytest_asyncio

from flashsale import identity
from flashsale.contract import wire
from tests.contract.drivers import HttpDriver
from tests.patience import PATIENCE_SECONDS
from tests.servers import JWT_SECRET
from tests.stages import Stage, staged

BACKENDS = ("asyncio_redis", "gevent_rabbit")
KEY = "0123456789abcdef"
GOOD = b'{"items":[{"sku":"SKU","quantity":1}]}'
JSON = "application/json"


class Case(NamedTuple):
    """What is sent, and what must come back. None as a header value: the header is not sent."""

    status: int
    verdict: str
    said: str  # part of the detail
    body: bytes = GOOD
    headers: Mapping[str, str | None] = MappingProxyType({})


def line(quantity: str) -> bytes:
    return b'{"items":[{"sku":"SKU","quantity":%s}]}' % quantity.encode()


CASES = {
    "no key": Case(400, "malformed", "Idempotency-Key header is missing", headers={"Idempotency-Key": None}),
    "empty key": Case(400, "malformed", "16 to 64", headers={"Idempotency-Key": ""}),
    "short key": Case(400, "malformed", "16 to 64", headers={"Idempotency-Key": "short"}),
    "long key": Case(400, "malformed", "16 to 64", headers={"Idempotency-Key": "k" * 65}),
    "key with space": Case(400, "malformed", "16 to 64", headers={"Idempotency-Key": "0123456789 abcdef"}),
    "key in Cyrillic": Case(400, "malformed", "16 to 64", headers={"Idempotency-Key": "ключключключключ"}),
    "unknown SKU": Case(404, "unknown_sku", "GET /sales", GOOD.replace(b"SKU", b"nothing")),
    "quantity 0": Case(400, "malformed", "not 0", line("0")),
    "quantity -1": Case(400, "malformed", "not -1", line("-1")),
    "quantity 1.5": Case(400, "malformed", "1.5", line("1.5")),
    "quantity 1.0": Case(400, "malformed", "1.0", line("1.0")),
    "quantity string": Case(400, "malformed", "'1'", line('"1"')),
    "quantity true": Case(400, "malformed", "true", line("true")),
    "quantity 1e3": Case(400, "malformed", "1e3", line("1e3")),
    "quantity 10^12": Case(400, "malformed", "1000000000000", line("1000000000000")),
    "quantity 10^400": Case(400, "malformed", "out of range", line("1" + "0" * 400)),
    "quantity null": Case(400, "malformed", "null", line("null")),
    "quantity NaN": Case(400, "malformed", "NaN", line("NaN")),
    "no items": Case(400, "malformed", "lacks items", b"{}"),
    "empty items": Case(400, "malformed", "1 to 16 lines", b'{"items":[]}'),
    "items no list": Case(400, "malformed", "1 to 16 lines", b'{"items":{"sku":"SKU"}}'),
    "seventeen lines": Case(
        400,
        "malformed",
        "1 to 16 lines",
        json.dumps({"items": [{"sku": f"s{n}", "quantity": 1} for n in range(17)]}).encode(),
    ),
    "duplicate SKU lines": Case(
        422, "duplicate_sku", "two lines", b'{"items":[{"sku":"SKU","quantity":1},{"sku":"SKU","quantity":1}]}'
    ),
    "two sales in one cart": Case(
        422, "mixed_sales", "two sales", b'{"items":[{"sku":"SKU","quantity":1},{"sku":"OTHER","quantity":1}]}'
    ),
    "field of ours": Case(
        400, "malformed", "unknown field 'state'", b'{"items":[{"sku":"SKU","quantity":1}],"state":"PAID"}'
    ),
    "price of theirs": Case(
        400, "malformed", "unknown field 'price'", b'{"items":[{"sku":"SKU","quantity":1,"price":1}]}'
    ),
    "field twice": Case(400, "malformed", "twice", b'{"items":[{"sku":"SKU","quantity":1,"quantity":2}]}'),
    "body over the limit": Case(413, "too_large", "4096", GOOD + b" " * 4096),
    "broken JSON": Case(400, "malformed", "not JSON", b'{"items":['),
    "empty body": Case(400, "malformed", "not JSON", b""),
    "deep JSON": Case(400, "malformed", "", b"[" * 4000),
    "broken UTF-8": Case(400, "malformed", "not UTF-8", b'{"items":[{"sku":"\xff","quantity":1}]}'),
    "text": Case(415, "wrong_media_type", JSON, headers={"Content-Type": "text/plain"}),
    "form": Case(415, "wrong_media_type", JSON, headers={"Content-Type": "application/x-www-form-urlencoded"}),
    "Latin-1": Case(415, "wrong_media_type", "UTF-8", headers={"Content-Type": f"{JSON}; charset=latin-1"}),
    "zipped": Case(415, "wrong_media_type", "Content-Encoding", headers={"Content-Encoding": "gzip"}),
    "SKU with braces": Case(400, "malformed", "sku must be", GOOD.replace(b"SKU", b"{x}")),
    "SKU with newline": Case(400, "malformed", "sku must be", GOOD.replace(b"SKU", b"x\\n")),
    "SKU too long": Case(400, "malformed", "sku must be", GOOD.replace(b"SKU", b"x" * 65)),
    "retry 0": Case(400, "malformed", "from 1 up", headers={"Retry-Attempt": "0"}),
    "retry yes": Case(400, "malformed", "from 1 up", headers={"Retry-Attempt": "yes"}),
    "no token": Case(401, "unauthenticated", "Bearer", headers={"Authorization": None}),
    "malformed before identity": Case(400, "malformed", "not JSON", b"{", headers={"Authorization": None}),
    "basic": Case(401, "unauthenticated", "Bearer", headers={"Authorization": "Basic YTpi"}),
    "word of the client": Case(401, "unauthenticated", "Bearer", headers={"Authorization": None, "Buyer-Id": "ana"}),
}


LIFETIME_S = 24 * 3600  # tokens are made when this file is collected, and the test run may be long in coming to them


def claims(**changes: object) -> dict[str, object]:
    now = int(time.time())
    good: dict[str, object] = {
        "iss": "flashsale",
        "aud": "flashsale",
        "sub": "ana",
        "role": "buyer",
        "exp": now + LIFETIME_S,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def unsigned(header: dict[str, str]) -> str:
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims()))
    return ".".join(parts) + "."


FORGERIES = {
    "another secret": jwt.encode(claims(), "x" * 40, algorithm="HS256"),
    "another algorithm": jwt.encode(claims(), JWT_SECRET + "x" * 64, algorithm="HS512"),
    "our secret, another algorithm": jwt.encode(claims(), JWT_SECRET.ljust(64, "x"), algorithm="HS384"),
    "alg none": unsigned({"alg": "none", "typ": "JWT"}),
    "alg nOnE": unsigned({"alg": "nOnE"}),
    "no signature": identity.mint(JWT_SECRET, "ana", "buyer", LIFETIME_S).rpartition(".")[0] + ".",
    "expired": jwt.encode(claims(exp=int(time.time()) - 1), JWT_SECRET, algorithm="HS256"),
    "never expires": jwt.encode(claims(exp=None), JWT_SECRET, algorithm="HS256"),
    "not yet": jwt.encode(claims(nbf=int(time.time()) + LIFETIME_S - 60), JWT_SECRET, algorithm="HS256"),
    "nobody": jwt.encode(claims(sub=None), JWT_SECRET, algorithm="HS256"),
    "subject that is no buyer": jwt.encode(claims(sub="a b\n"), JWT_SECRET, algorithm="HS256"),
    "for somebody else": jwt.encode(claims(aud="other"), JWT_SECRET, algorithm="HS256"),
    "from somebody else": jwt.encode(claims(iss="other"), JWT_SECRET, algorithm="HS256"),
    "unknown role": jwt.encode(claims(role="root"), JWT_SECRET, algorithm="HS256"),
    "critical extension": jwt.encode(claims(), JWT_SECRET, algorithm="HS256", headers={"crit": ["x"], "x": 1}),
    "too long": jwt.encode(claims(pad="x" * 4000), JWT_SECRET, algorithm="HS256"),
    "no token at all": "not.a.token",
}
for name, forged in FORGERIES.items():
    CASES[f"token: {name}"] = Case(401, "unauthenticated", "token", headers={"Authorization": f"Bearer {forged}"})
CASES["token: subject that is no buyer"] = CASES["token: subject that is no buyer"]._replace(said="a buyer is named")
CASES["token: unknown role"] = CASES["token: unknown role"]._replace(said="a buyer is named")


class Shop(NamedTuple):
    """One server of each backend with real tokens; two sales of one item each."""

    stage: Stage
    sku: str
    other: str
    token: str

    def headers(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        """The headers of a good request, changed."""
        # the queued backend decides some of it later, and is asked to wait for that
        good = {wire.KEY_HEADER: KEY, "Content-Type": JSON, "Authorization": f"Bearer {self.token}", "Prefer": "wait=5"}
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    async def books(self) -> list[tuple[object, ...]]:
        """Everything that a refused request must leave as it was."""
        tables = ("stock", "ledger", "purchase", "line", "outbox")
        return [tuple(row) for t in tables for row in await self.stage.owner.fetch(f"SELECT * FROM flash.{t}")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(template: str, redis_url: str) -> AsyncIterator[Shop]:
    async with staged(template, redis_url, queued_servers=1, auth="jwt") as stage:
        driver = HttpDriver(stage.authority, stage.owner, stage.session, stage.urls)
        await driver.open("s", {"a": 5}, 2)
        await driver.open("t", {"z": 5}, 2)
        made = Shop(stage, driver.own("a"), driver.own("z"), identity.mint(JWT_SECRET, "ana", "buyer", LIFETIME_S))
        await stage.gate_opens(driver.own("s"), driver.own("t"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await stage.owner.fetchval("SELECT count(*) FROM flash.outbox WHERE sent_at IS NULL"):
                await asyncio.sleep(0.02)  # the relay writes into the books, too
        yield made


class Heard(NamedTuple):
    """What must be equal whoever answers."""

    status: int
    body: str
    headers: dict[str, str | None]


COMPARED = ("Content-Type", "Content-Length", "Retry-After", "WWW-Authenticate", "Allow", "Cache-Control", "Location")


def heard(answer: aiohttp.ClientResponse, text: str) -> Heard:
    return Heard(answer.status, text, {name: answer.headers.get(name) for name in COMPARED})


async def post(shop: Shop, case: Case, backend: str) -> Heard:
    """What is answered; on a slow machine it is not decided at once within the seconds that a request waits."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (answer := await posted(shop, case, backend)).status == 202:
            pass
    return answer


async def posted(shop: Shop, case: Case, backend: str) -> Heard:
    body = case.body.replace(b"SKU", shop.sku.encode()).replace(b"OTHER", shop.other.encode())
    (server,) = shop.stage.urls_of(backend)
    url = server + wire.PURCHASES_PATH
    async with shop.stage.session.post(
        url, data=body, headers=shop.headers(case.headers), skip_auto_headers=["Content-Type"]
    ) as answer:
        text = await answer.text()
        if answer.status < 400:
            return heard(answer, text)
        assert answer.content_type == wire.PROBLEM_TYPE, text
        problem = json.loads(text)
        assert set(problem) - {"purchase"} == {"type", "title", "status", "verdict", "detail"}
        assert problem["status"] == answer.status
        assert "Traceback" not in text
        if case.verdict:
            assert (problem["verdict"], case.said in problem["detail"]) == (case.verdict, True), problem
        assert ("WWW-Authenticate" in answer.headers) == (answer.status == 401)
        return heard(answer, text)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", CASES)
async def test_bad_input_is_named_and_changes_nothing(shop: Shop, name: str) -> None:
    before = await shop.books()
    first, second = [await post(shop, CASES[name], backend) for backend in BACKENDS]
    assert first.status == CASES[name].status
    assert first == second
    assert await shop.books() == before


@pytest.mark.asyncio(loop_scope="module")
async def test_the_same_request_without_the_fault_succeeds(shop: Shop) -> None:
    assert (await post(shop, Case(201, "", ""), "gevent_rabbit")).status in {200, 201}
    first, second = [await post(shop, Case(201, "", ""), backend) for backend in BACKENDS]
    assert first.status == 200
    assert first == second


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_key_that_stands_twice_is_malformed(shop: Shop, backend: str) -> None:
    headers = [*shop.headers({}).items(), (wire.KEY_HEADER, "another-key-0123")]
    body = GOOD.replace(b"SKU", shop.sku.encode())
    (server,) = shop.stage.urls_of(backend)
    async with shop.stage.session.post(server + wire.PURCHASES_PATH, data=body, headers=headers) as answer:
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["verdict"], problem["detail"]) == (
            400,
            "malformed",
            f"{wire.KEY_HEADER} stands twice",
        )


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/purchases", 405),
        ("DELETE", "/purchases/9a2d9e7e-1111-8111-8111-111111111111", 405),
        ("GET", "/purchases/9a2d9e7e-1111-8111-8111-111111111111", 404),
        ("GET", "/purchases/nonsense", 404),
        ("POST", "/purchases/nonsense/cancel", 404),
        ("POST", "/purchases/9a2d9e7e-1111-8111-8111-111111111111/cancel", 404),
        ("GET", "/stock/nothing", 404),
        ("GET", "/stock/%7Bx%7D", 404),
        ("GET", "/sales/nothing", 404),
        ("GET", "/sales/%00", 404),
        ("GET", "/sales/%FF", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/metrics", 404),
        ("GET", "/readyz", 404),
    ],
)
async def test_what_is_not_there_is_a_problem_document(shop: Shop, method: str, path: str, status: int) -> None:
    answers = []
    for backend in BACKENDS:
        (server,) = shop.stage.urls_of(backend)
        async with shop.stage.session.request(method, server + path, headers=shop.headers({})) as answer:
            assert (answer.status, answer.content_type) == (status, wire.PROBLEM_TYPE)
            answers.append(heard(answer, await answer.text()))
    assert answers[0] == answers[1]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_is_there_reads_the_same(shop: Shop, method: str) -> None:
    await post(shop, Case(201, "", ""), "gevent_rabbit")
    for path in (wire.SALES_PATH, f"{wire.PURCHASES_PATH}/{wire.purchase_id('ana', KEY)}", "/livez"):
        answers = []
        for backend in BACKENDS:
            (server,) = shop.stage.urls_of(backend)
            headers = shop.headers({"Prefer": None})
            async with shop.stage.session.request(method, server + path, headers=headers) as answer:
                assert answer.status == 200
                answers.append(heard(answer, await answer.text()))
        assert answers[0] == answers[1]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "header",
    [b"Authorization: Bearer \xff\xfe.a.b", b"Authorization: Bearer SECRET\x01TOKEN", b"Buyer-Id : ana@example.com"],
)
async def test_bytes_that_are_no_header_are_refused_and_not_written_down(
    shop: Shop, backend: str, header: bytes
) -> None:
    (url,) = shop.stage.urls_of(backend)
    server = next(server for server in shop.stage.servers if server.url == url)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST {wire.PURCHASES_PATH} HTTP/1.1\r\nHost: x\r\n{wire.KEY_HEADER}: {KEY}\r\nContent-Type: {JSON}\r\n"
    body = GOOD.replace(b"SKU", shop.sku.encode())
    writer.write(head.encode() + header + b"\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    status = (await reader.readline()).split()[1]
    writer.close()
    assert status in {b"400", b"401"}
    assert not any(secret in server.log.read_text() for secret in ("SECRET", "ana@example.com", "xfe.a.b"))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("backend", BACKENDS)
async def test_another_buyer_s_purchase_does_not_exist(shop: Shop, backend: str) -> None:
    await post(shop, Case(201, "", ""), backend)
    path = f"{wire.PURCHASES_PATH}/{wire.purchase_id('ana', KEY)}"
    token = identity.mint(JWT_SECRET, "ben", "buyer", LIFETIME_S)
    for method, suffix in (("GET", ""), ("POST", "/cancel")):
        for bearer, status in ((token, 404), (shop.token, 200)):
            url = shop.stage.urls_of(backend)[0] + path + suffix
            async with shop.stage.session.request(method, url, headers={"Authorization": f"Bearer {bearer}"}) as answer:
                assert answer.status == status
