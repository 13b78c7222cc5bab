"""aiohttp and redis-py with auto-pipelining: what came while one pipeline was away leaves in the next."""

import asyncio
import os

import uvloop
from aiohttp import web
from redis.asyncio import Redis

from benchmarks.peers import common
from flashsale.contract import wire


class Shop:
    """The handler and its store."""

    def __init__(self, setup: common.Setup) -> None:
        self._identify = setup.identify
        self._redis = Redis.from_url(setup.redis_url)
        self._script = setup.script
        self._sha = ""
        self._run_id = ""
        self._waiting: list[tuple[list[str], asyncio.Future[bytes]]] = []
        self._arrived = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    async def start(self, _: web.Application) -> None:
        """Load the script, learn which Redis it is, and send from now on."""
        self._sha = await self._redis.script_load(self._script)
        self._run_id = (await self._redis.info("server"))["run_id"]
        self._sender = asyncio.create_task(self._send())
        common.collect_seldom()

    async def post(self, request: web.Request) -> web.Response:
        """``POST /purchases``."""
        try:
            asked = common.read(request.headers, await request.read(), self._identify)
        except wire.Refusal as refusal:
            status, body = common.refusal(refusal.verdict, refusal.detail)
        else:
            reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            self._waiting.append((asked.arguments, reply))
            self._arrived.set()
            status, body = common.problem(await reply, asked.path)
        return web.Response(status=status, body=body, content_type=wire.PROBLEM_TYPE)

    async def _send(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            taken, self._waiting = self._waiting, []
            pipeline = self._redis.pipeline(transaction=False)
            for arguments, _ in taken:
                pipeline.evalsha(self._sha, 1, common.GATE_KEY, self._run_id, *arguments)
            answers = await pipeline.execute()
            for (_, reply), (word, _) in zip(taken, answers, strict=True):
                if not reply.done():
                    reply.set_result(word)


def main() -> None:
    setup = common.Setup.read(os.environ)
    shop = Shop(setup)
    app = web.Application(client_max_size=wire.BODY_BYTES_MAX)
    app.on_startup.append(shop.start)
    app.router.add_post(wire.PURCHASES_PATH, shop.post)
    web.run_app(app, host="127.0.0.1", port=setup.port, access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
