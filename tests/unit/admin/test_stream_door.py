"""Who comes in to the stream: a session that is there, for no longer by that, and from this page."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any, cast

import aiohttp
from aiohttp import web

from flashsale.admin.figures import Figures
from flashsale.admin.guard import Door
from flashsale.admin.metrics import Metrics
from flashsale.admin.operations.stream import Stream
from flashsale.admin.routes import Routes
from flashsale.admin.users import Users
from tests.patience import PATIENCE_SECONDS
from tests.unit.admin.test_looks import NOWHERE

ORIGIN = "http://127.0.0.1:1"
STREAM = "/api/operations/stream"


class Welcome:
    """In the place of the stream: counts who comes in."""

    def __init__(self) -> None:
        self.served = 0

    async def serve(self, _request: web.Request, _is_signed_in: Any) -> web.Response:
        """See ``Stream``."""
        self.served += 1
        return web.Response()


async def test_a_stream_prolongs_no_session_and_is_for_this_page_alone(tmp_path: Path) -> None:
    users, looking, welcome = tmp_path / "users", asyncio.Lock(), Welcome()
    users.write_text(json.dumps({"vera": {"role": "viewer", "password": "hash"}}), encoding="utf-8")
    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_SECONDS):
        shown = Figures(NOWHERE, "", session, looking=looking)
        door, stream = Door.at("", 1), cast("Stream", welcome)
        routes = Routes(door, Users(users), NOWHERE, shown, stream, looking=looking, metrics=Metrics())
        token, kept = routes._sessions.begin("vera", "hash", time.monotonic())
        kept.seen = was = kept.seen - 60
        app = web.Application()
        routes.add_to(app)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()

        async def asked(method: str, path: str, **headers: str) -> int:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}{path}"
            own = {"Host": "127.0.0.1:1", "Cookie": f"{door.cookie}={token}"}
            async with session.request(method, url, headers={**own, **headers}) as answer:
                return answer.status

        try:
            assert [await asked("GET", STREAM), await asked("GET", STREAM, Origin=ORIGIN)] == [200, 200]
            assert (kept.seen, welcome.served) == (was, 2)
            assert await asked("GET", STREAM, Origin="http://127.0.0.1:2") == 403
            assert await asked("HEAD", STREAM) == 405
            assert welcome.served == 2
            assert await asked("GET", "/api/actions") == 200
            assert kept.seen > was  # which somebody asked for
        finally:
            await runner.cleanup()
