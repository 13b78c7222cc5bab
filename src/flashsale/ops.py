"""The operations port of a background process: alive, ready or why not, and its metrics."""

from collections.abc import Callable

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from flashsale.life import Life

log = structlog.get_logger()


class Operations:
    """``is_ready`` is set once there is something that can be; until then, and when it says no, the answer is ``unready``."""

    def __init__(self, role: str, registry: CollectorRegistry, unready: str) -> None:
        self.is_ready: Callable[[], bool] = lambda: False
        self._started = f"{role}.started"
        self._registry = registry
        Life(registry)
        self._unready = unready

    async def listen(self, host: str, port: int, *more: web.RouteDef) -> web.AppRunner:
        """Serve, `more` beside the usual, until the runner is cleaned up; port 0 takes any free one and logs which."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                *more,
            ],
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        log.info(self._started, ops_port=runner.addresses[0][1])
        return runner

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self.is_ready():
            return web.Response(text="ready\n")
        return web.Response(status=503, text=f"{self._unready}\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
