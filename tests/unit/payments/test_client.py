"""What the shop makes of a gateway's answers, whatever a gateway answers."""

import uuid

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from flashsale.authority.client import Payment, Told
from flashsale.payments import client
from flashsale.payments.client import (
    ANSWER_BYTES_MAX,
    SILENCES_MAX,
    Gateway,
    GatewayRefused,
    Gateways,
    GatewayUnavailable,
)

PAYMENT = Payment(uuid.UUID(int=1), 2, "card", 250, "EUR", "capture")
RIGHT = b'{"state": "captured", "amount_minor": 249, "currency": "EUR"}'


async def ask(status: int, body: bytes, location: str = "") -> Told:
    """What a capture becomes when the gateway answers so."""

    async def answer(request: web.Request) -> web.Response:
        assert (await request.json())["key"] == f"{PAYMENT.purchase}:2"
        return web.Response(status=status, body=body, headers={"Location": location} if location else None)

    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(body=RIGHT)

    app = web.Application()
    app.router.add_post("/payments/capture", answer)
    app.router.add_get("/elsewhere", elsewhere)
    async with TestServer(app) as server:
        gateway = Gateway(str(server.make_url("/")))
        try:
            return await gateway.do("capture", PAYMENT)
        finally:
            await gateway.close()


async def test_the_money_is_what_the_gateway_says() -> None:
    assert await ask(200, RIGHT) == Told(PAYMENT.purchase, 2, "captured", 249, "EUR")


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, RIGHT), (503, b""), (429, RIGHT), (200, b"<html>"), (200, b"\xff"), (200, b"[" * ANSWER_BYTES_MAX)],
)
async def test_an_answer_that_may_be_another_next_time(status: int, body: bytes) -> None:
    with pytest.raises(GatewayUnavailable):
        await ask(status, body)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b""),
        (404, RIGHT),
        (201, RIGHT),
        (409, b"x" * (ANSWER_BYTES_MAX + 1)),
        (200, RIGHT + b" " * ANSWER_BYTES_MAX),
        (200, b"[]"),
        (200, b"{}"),
        (200, RIGHT.replace(b'"captured"', b'"maybe"')),
        (200, RIGHT.replace(b'"captured"', b"[]")),
        (200, RIGHT.replace(b"249", b"true")),
        (200, RIGHT.replace(b"249", b"249.0")),
        (200, RIGHT.replace(b'"EUR"', b"null")),
    ],
)
async def test_an_answer_that_will_not_change(status: int, body: bytes) -> None:
    with pytest.raises(GatewayRefused):
        await ask(status, body)


async def test_a_redirect_is_not_followed() -> None:
    with pytest.raises(GatewayRefused):
        await ask(302, b"", location="/elsewhere")


async def test_a_gateway_that_is_away_is_asked_by_one_call_at_a_time_until_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "AWAY_SECONDS", 1000.0)
    asked, status = 0, 503

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=status, body=RIGHT)

    app = web.Application()
    app.router.add_post("/payments/capture", answer)
    async with TestServer(app) as server:
        gateways = Gateways({"card": str(server.make_url("/"))})
        try:
            for _ in range(SILENCES_MAX + 5):
                with pytest.raises(GatewayUnavailable):
                    await gateways.do("capture", PAYMENT)
            assert asked == SILENCES_MAX, "the others heard so at once"
            monkeypatch.setattr(client, "AWAY_SECONDS", 0.0)
            status = 200
            await gateways.do("capture", PAYMENT)
            monkeypatch.setattr(client, "AWAY_SECONDS", 1000.0)
            await gateways.do("capture", PAYMENT)
            assert asked == SILENCES_MAX + 2, "it is back, for everybody"
        finally:
            await gateways.close()


async def test_a_way_to_pay_without_a_gateway_waits_for_one() -> None:
    with pytest.raises(GatewayUnavailable, match="card"):
        await Gateways({}).do("capture", PAYMENT)


async def test_nobody_there_is_unavailable() -> None:
    gateway = Gateway("http://127.0.0.1:1")
    with pytest.raises(GatewayUnavailable):
        await gateway.do("capture", PAYMENT)
    await gateway.close()
