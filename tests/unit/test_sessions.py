"""A session that tries later shows what its wish came to as if it had been asked for once."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from flashsale.contract import wire
from tests.sessions import patient_session

OURS, OLDER = "of this wish", "of an older one"


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A shop that queues the first attempt and says 503, so that the second is a replay."""
    tries: list[web.Request] = []

    async def buy(request: web.Request) -> web.Response:
        tries.append(request)
        return web.json_response({"receipt": OURS}, status=503 if len(tries) == 1 else 202)

    async def look(_: web.Request) -> web.Response:
        return web.json_response({}, headers={wire.REPLAYED_HEADER: "true"})

    application = web.Application()
    application.router.add_post(wire.PURCHASES_PATH, buy)
    application.router.add_get(wire.PURCHASES_PATH, look)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}{wire.PURCHASES_PATH}"
    await runner.cleanup()


async def test_a_wish_that_was_queued_twice_is_no_replay_of_its_own(url: str) -> None:
    async with patient_session() as session:
        headers = {wire.BUYER_HEADER: "ana", wire.KEY_HEADER: "k" * 16}
        async with session.post(url, headers=headers) as answer:
            assert (answer.status, (await answer.json())["receipt"]) == (202, OURS)
        for receipt, is_replay in ((OURS, False), (OLDER, True)):
            async with session.get(url, headers={wire.RECEIPT_HEADER: receipt}) as answer:
                assert (wire.REPLAYED_HEADER in answer.headers) == is_replay
