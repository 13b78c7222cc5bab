"""One delivery: how it is signed, where it may go, and what counts as delivered."""

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from flashsale.webhooks.sender import Sender, Undelivered, parse_secret, parse_url, sign
from tests.patience import PATIENCE_SECONDS
from tests.servers import free_port

KEY = bytes(range(32))


def secret(size: int) -> str:
    return "whsec_" + base64.b64encode(bytes(size)).decode()


def test_a_signature_is_the_one_that_standard_webhooks_publishes() -> None:
    key = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "text", ["", "whsec_", secret(23), secret(65), secret(32).removeprefix("whsec_"), "whsec_!" * 9, "whsec_é"]
)
def test_a_secret_that_is_none_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="a secret is whsec_") as caught:
        parse_secret(text)
    assert len(text) < 10 or text not in str(caught.value)


def test_a_secret_in_a_file_may_end_its_line() -> None:
    assert parse_secret(secret(24) + "\n") == bytes(24)


@pytest.mark.parametrize(
    "url", ["https://shop.example/hook", "http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost:1/x?y=z"]
)
def test_events_go_by_https_or_stay_on_this_machine(url: str) -> None:
    assert parse_url(url) == url


@pytest.mark.parametrize(
    "url",
    ["", "shop", "http://shop.example/", "http://10.0.0.1/", "http://127.0.0.1.evil.example/", "ftp://127.0.0.1/", "https://",
     "https://ana:pw@shop.example/", "https://shop.example/#x", "https://shop.example:0/", "file:///etc/passwd"],
)  # fmt: skip
def test_no_other_address_is_taken(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        parse_url(url)


class Receiver:
    """Answers as told, and remembers which paths were asked."""

    def __init__(self) -> None:
        self.status = 200
        self.asked: list[str] = []
        self.hangs = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.status == 0:
            await self.hangs.wait()
        return web.Response(
            status=self.status or 200, headers={"Location": "/elsewhere"} if self.status // 100 == 3 else {}
        )


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[Receiver, str]]:
    made = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield made, f"http://127.0.0.1:{port}/hook"
    made.hangs.set()
    await runner.cleanup()


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_a_2xx_is_delivered(receiver: tuple[Receiver, str], status: int) -> None:
    receiver[0].status = status
    sender = Sender(receiver[1], KEY, 1)
    await sender.deliver("id", b"{}")
    await sender.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 410, 429, 500, 503])
async def test_anything_else_is_not_and_no_redirect_is_followed(receiver: tuple[Receiver, str], status: int) -> None:
    receiver[0].status = status
    sender = Sender(receiver[1], KEY, 1)
    with pytest.raises(Undelivered, match=str(status)):
        await sender.deliver("id", b"{}")
    await sender.close()
    assert receiver[0].asked == ["/hook"]


async def test_a_receiver_that_is_silent_or_away_is_given_up(receiver: tuple[Receiver, str]) -> None:
    receiver[0].status = 0
    for url in (receiver[1], f"http://127.0.0.1:{free_port()}/"):
        sender = Sender(url, KEY, 1, deadline_s=0.2)
        async with asyncio.timeout(PATIENCE_SECONDS):  # and not for as long as the receiver likes
            with pytest.raises(Undelivered):
                await sender.deliver("id", b"{}")
        await sender.close()
