"""FastAPI on uvicorn, and redis-py: await the script in the handler, a pool of connections, uvloop and httptools.

The body is read by the contract's functions as everywhere, and not by a model: that is faster here, and the same rules.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request, Response
from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks.peers import common
from flashsale.contract import wire

POOL = 64


def make_app(setup: common.Setup) -> FastAPI:
    """The application."""
    redis = Redis(connection_pool=BlockingConnectionPool.from_url(setup.redis_url, max_connections=POOL))
    reserve = redis.register_script(setup.script)
    run_id = ""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        nonlocal run_id
        run_id = (await redis.info("server"))["run_id"]
        common.collect_seldom()
        yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    async def post(request: Request) -> Response:
        try:
            asked = common.read(request.headers, await request.body(), setup.identify)
        except wire.Refusal as refusal:
            status, body = common.refusal(refusal.verdict, refusal.detail)
        else:
            word, _ = await reserve(keys=[common.GATE_KEY], args=[run_id, *asked.arguments])
            status, body = common.problem(word, asked.path)
        return Response(body, status, media_type=wire.PROBLEM_TYPE)

    app.add_api_route(wire.PURCHASES_PATH, post, methods=["POST"], response_model=None)
    return app


if __name__ == "__main__":
    setup = common.Setup.read(os.environ)
    uvicorn.run(
        make_app(setup),
        host="127.0.0.1",
        port=setup.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        proxy_headers=False,  # a middleware that nobody needs here
        log_level="warning",
    )
