"""aiohttp and redis-py as people write it: await the script in the handler, a pool of connections, uvloop."""

import os

import uvloop
from aiohttp import web
from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks.peers import common
from flashsale.contract import wire

POOL = 64  # one per connection of the load; fewer were slower


class Shop:
    """The handler and its store."""

    def __init__(self, setup: common.Setup) -> None:
        self._identify = setup.identify
        self._redis = Redis(connection_pool=BlockingConnectionPool.from_url(setup.redis_url, max_connections=POOL))
        self._reserve = self._redis.register_script(setup.script)
        self._run_id = ""

    async def start(self, _: web.Application) -> None:
        """Learn which Redis it is."""
        self._run_id = (await self._redis.info("server"))["run_id"]
        common.collect_seldom()

    async def post(self, request: web.Request) -> web.Response:
        """``POST /purchases``."""
        try:
            asked = common.read(request.headers, await request.read(), self._identify)
        except wire.Refusal as refusal:
            status, body = common.refusal(refusal.verdict, refusal.detail)
        else:
            word, _ = await self._reserve(keys=[common.GATE_KEY], args=[self._run_id, *asked.arguments])
            status, body = common.problem(word, asked.path)
        return web.Response(status=status, body=body, content_type=wire.PROBLEM_TYPE)


def main() -> None:
    setup = common.Setup.read(os.environ)
    shop = Shop(setup)
    app = web.Application(client_max_size=wire.BODY_BYTES_MAX)
    app.on_startup.append(shop.start)
    app.router.add_post(wire.PURCHASES_PATH, shop.post)
    web.run_app(app, host="127.0.0.1", port=setup.port, access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
