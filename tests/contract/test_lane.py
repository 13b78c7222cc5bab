"""Two ways into asyncio_redis, one answer: whatever the lane says is byte for byte what the way around it says.

``TE`` is a header field that says nothing to the engine and keeps a request off the lane.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from flashsale import identity
from flashsale.contract import wire
from tests.contract.drivers import HttpDriver
from tests.contract.test_bad_input import CASES, GOOD, JSON, KEY, Case
from tests.patience import PATIENCE_SECONDS
from tests.servers import JWT_SECRET, Process
from tests.stages import Stage, staged

AROUND = b"TE: trailers\r\n"
DATE = re.compile(rb"\r\nDate: [^\r]+")
# What is another's with each purchase: ids, places in the ledger and times.
OWN = re.compile(rb'[0-9a-f]{8}-[0-9a-f-]{27}|"seq":\d+|\d{4}-\d\d-\d\dT[0-9:.]+Z')
YES = Case(201, "", "", GOOD)


class Shop(NamedTuple):
    """One server with real tokens; two sales of one item each."""

    stage: Stage
    server: Process
    sku: str
    other: str
    token: str

    def request(self, case: Case, extra: bytes = b"", key: str = KEY) -> bytes:
        """The case as it is sent."""
        good = {wire.KEY_HEADER: key, "Content-Type": JSON, "Authorization": f"Bearer {self.token}"}
        changed: Mapping[str, str | None] = {**good, **case.headers}
        fields = "".join(f"{name}: {value}\r\n" for name, value in changed.items() if value is not None)
        body = case.body.replace(b"SKU", self.sku.encode()).replace(b"OTHER", self.other.encode())
        head = f"POST {wire.PURCHASES_PATH} HTTP/1.1\r\nHost: shop\r\n{fields}Content-Length: {len(body)}\r\n"
        return head.encode() + extra + b"\r\n" + body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(template: str, redis_url: str) -> AsyncIterator[Shop]:
    async with staged(template, redis_url, servers=1, auth="jwt") as stage:
        driver = HttpDriver(stage.authority, stage.owner, stage.session, stage.urls)
        await driver.open("s", {"a": 50}, 20)
        await driver.open("t", {"z": 5}, 2)
        (server,) = stage.servers
        token = identity.mint(JWT_SECRET, "ana", "buyer", 7200)
        await stage.gate_opens(driver.own("s"), driver.own("t"))
        yield Shop(stage, server, driver.own("a"), driver.own("z"), token)


async def answers(shop: Shop, *requests: bytes) -> list[bytes]:
    """The whole answers to requests sent at once on one connection, without their dates; again while a server says "later"."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            heard = await _answers(shop, *requests)
            if not any(answer.startswith(b"HTTP/1.1 503 ") for answer in heard):
                return heard
            await asyncio.sleep(0.1)


async def bought(shop: Shop, kind: str, extra: bytes = b"") -> tuple[bytes, str]:
    """A yes and its key, another with each try: what a server put off until later it may yet have bought."""
    number = 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            key = f"{kind}-{number:016}"
            (answer,) = await _answers(shop, shop.request(YES, extra, key))
            if not answer.startswith(b"HTTP/1.1 503 "):
                return answer, key
            await asyncio.sleep(0.1)
            number += 1


async def _answers(shop: Shop, *requests: bytes) -> list[bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", shop.server.port)
    try:
        writer.write(b"".join(requests))
        return [await _answer(reader) for _ in requests]
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
    assert length
    assert DATE.search(head)
    return DATE.sub(b"", head) + await reader.readexactly(int(length[1]))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", CASES)
async def test_a_refusal_is_the_same_both_ways(shop: Shop, name: str) -> None:
    (lane,) = await answers(shop, shop.request(CASES[name]))
    (around,) = await answers(shop, shop.request(CASES[name], AROUND))
    assert lane == around
    assert lane.startswith(b"HTTP/1.1 %d " % CASES[name].status)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_yes_is_the_same_both_ways_and_so_is_its_replay(shop: Shop) -> None:
    lane, first = await bought(shop, "lane")
    around, second = await bought(shop, "around", AROUND)
    assert OWN.sub(b"", lane) == OWN.sub(b"", around)
    assert lane.startswith(b"HTTP/1.1 201 Created\r\n")
    for key in (first, second):
        for retry in ({}, {"Retry-Attempt": "1"}):
            again = YES._replace(headers=retry)
            (lane,) = await answers(shop, shop.request(again, key=key))
            (around,) = await answers(shop, shop.request(again, AROUND, key=key))
            assert lane == around
            assert b"\r\nIdempotency-Replayed: true\r\n" in lane
    other = YES._replace(body=GOOD.replace(b"1", b"2"))
    (lane,) = await answers(shop, shop.request(other, key=first))
    (around,) = await answers(shop, shop.request(other, AROUND, key=first))
    assert lane == around
    assert lane.startswith(b"HTTP/1.1 422 ")


@pytest.mark.asyncio(loop_scope="module")
async def test_no_units_is_the_same_both_ways(shop: Shop) -> None:
    many = Case(409, "", "", b'{"items":[{"sku":"OTHER","quantity":6}]}')
    (lane,) = await answers(shop, shop.request(many))
    (around,) = await answers(shop, shop.request(many, AROUND))
    assert lane == around
    assert b'"verdict":"sold_out"' in lane
    assert lane.endswith(b'"purchase":"%b"}' % f"{wire.PURCHASES_PATH}/{wire.purchase_id('ana', KEY)}".encode())


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("sequence", [b"7", b"x", b"1" * 19])
async def test_a_sequence_is_repeated_the_same_both_ways(shop: Shop, sequence: bytes) -> None:
    field = b"Link-Sequence: %b\r\n" % sequence
    many = Case(409, "", "", b'{"items":[{"sku":"OTHER","quantity":6}]}')
    (lane,) = await answers(shop, shop.request(many, field))
    (around,) = await answers(shop, shop.request(many, field + AROUND))
    assert lane == around
    assert (field in lane) is (sequence == b"7")
    (silent,) = await answers(shop, shop.request(many, b"Link-Sequence: 8\r\nLink-Sequence: 8\r\n"))
    assert b"Link-Sequence" not in silent


@pytest.mark.asyncio(loop_scope="module")
async def test_a_link_of_many_requests_finds_each_answer_s_own_number_on_it(shop: Shop) -> None:
    read = f"GET {wire.STOCK_PATH}/{shop.other} HTTP/1.1\r\nHost: shop\r\n".encode()
    sent = []
    for number in range(60):
        field = b"Link-Sequence: %d\r\n" % number
        kind = number % 3
        key = f"one-link-{number:010}"
        if kind == 0:
            sent.append(read + field + b"\r\n")
        else:
            body = b'{"items":[{"sku":"OTHER","quantity":6}]}' if kind == 1 else b"{"
            sent.append(shop.request(Case(0, "", "", body), field, key))
    heard = {}
    for answer in await answers(shop, *sent):
        match = re.search(rb"\r\nLink-Sequence: (\d+)\r\n", answer)
        assert match
        heard[int(match[1])] = answer
    assert sorted(heard) == list(range(60)), "in any order, each once"
    for number, answer in heard.items():
        assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 409 ", b"HTTP/1.1 400 ")[number % 3]), answer
        if number % 3 == 1:
            assert str(wire.purchase_id("ana", f"one-link-{number:010}")).encode() in answer


@pytest.mark.asyncio(loop_scope="module")
async def test_pipelined_requests_of_both_kinds_are_answered_in_order(shop: Shop) -> None:
    read = f"GET {wire.STOCK_PATH}/{shop.other} HTTP/1.1\r\nHost: shop\r\n\r\n".encode()
    keys = [f"pipelined-{number:010}" for number in range(4)]
    wishes = [shop.request(Case(201, "", "", GOOD), key=key) for key in keys]
    first, second, between, third, last = await answers(shop, wishes[0], wishes[1], read, wishes[2], wishes[3])
    for answer, key in zip((first, second, third, last), keys, strict=True):
        assert str(wire.purchase_id("ana", key)).encode() in answer
    assert shop.other.encode() in between


@pytest.mark.asyncio(loop_scope="module")
async def test_what_the_lane_answers_is_counted(shop: Shop) -> None:
    before = await counted(shop, "malformed"), await counted(shop, "sold_out")
    await answers(shop, shop.request(Case(409, "", "", b'{"items":[{"sku":"OTHER","quantity":6}]}')))
    assert (await counted(shop, "malformed"), await counted(shop, "sold_out")) == (before[0], before[1] + 1)


async def counted(shop: Shop, verdict: str) -> float:
    """Attempts with this verdict, as the server tells Prometheus."""
    async with shop.stage.session.get(f"http://127.0.0.1:{shop.server.ops_port}/metrics") as answer:
        families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    assert families["flashsale_attempt_seconds"].type == "histogram"
    samples = families["flashsale_attempts"].samples
    return next(sample.value for sample in samples if sample.labels["verdict"] == verdict)
