"""A reverse proxy in aiohttp. As people write it, or tuned with ``PROXY_TUNED=1``: uvloop, and what is large passes as it comes."""

import asyncio
import contextlib
import logging
import os

import aiohttp
import uvloop
from aiohttp import web
from multidict import CIMultiDict

from benchmarks.peers import common

HOP_BY_HOP = frozenset(("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length"))
SMALL_BYTES = 64 * 1024  # is quicker whole
KEPT_SECONDS = 60.0


class Proxy:
    """One session to one upstream, with its connections kept."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession

    async def start(self, _: web.Application) -> None:
        """Open it."""
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
        )
        common.collect_seldom()

    async def stop(self, _: web.Application) -> None:
        """Close it."""
        await self._session.close()

    async def whole(self, request: web.Request) -> web.StreamResponse:
        """Read everything, ask, read everything, answer."""
        async with self._asked(request, await request.read()) as answer:
            return await _whole(answer)

    async def streamed(self, request: web.Request) -> web.StreamResponse:
        """The same for what is small; anything else piece by piece."""
        is_small = (request.content_length or 0) <= SMALL_BYTES
        async with self._asked(request, await request.read() if is_small else request.content) as answer:
            if answer.content_length is not None and answer.content_length <= SMALL_BYTES:
                return await _whole(answer)
            onward = web.StreamResponse(status=answer.status, headers=_end_to_end(answer.headers))
            onward.content_length = answer.content_length
            await onward.prepare(request)
            async for chunk in answer.content.iter_any():
                await onward.write(chunk)
            await onward.write_eof()
            return onward

    def _asked(
        self, request: web.Request, body: "bytes | aiohttp.StreamReader"
    ) -> "contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]":
        url = self._upstream + request.path_qs
        return self._session.request(
            request.method, url, headers=_onward(request), data=body or None, allow_redirects=False
        )


async def _whole(answer: aiohttp.ClientResponse) -> web.Response:
    return web.Response(status=answer.status, headers=_end_to_end(answer.headers), body=await answer.read())


def _onward(request: web.Request) -> "CIMultiDict[str]":
    headers = _end_to_end(request.headers)
    headers["X-Forwarded-For"] = request.remote or ""
    headers["X-Forwarded-Proto"] = request.scheme
    headers["Via"] = "1.1 aiohttp"
    return headers


def _end_to_end(headers: "aiohttp.typedefs.LooseHeaders") -> "CIMultiDict[str]":
    kept = CIMultiDict(headers)
    for name in HOP_BY_HOP:
        kept.popall(name, None)
    return kept


def main() -> None:
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # a client that leaves is no accident
    proxy = Proxy(os.environ["UPSTREAM_URL"])
    app = web.Application()
    app.on_startup.append(proxy.start)
    app.on_cleanup.append(proxy.stop)
    is_tuned = os.environ.get("PROXY_TUNED") == "1"
    app.router.add_route("*", "/{path:.*}", proxy.streamed if is_tuned else proxy.whole)
    loop = uvloop.new_event_loop() if is_tuned else asyncio.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=int(os.environ["FLASH_PORT"]), access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    main()
