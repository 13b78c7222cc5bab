"""Composition root of the admin page's process: builds its parts, serves, stops in reverse."""

import asyncio
import contextlib
import signal

import aiohttp
import structlog
from aiohttp import web

from flashsale.admin.figures import Figures
from flashsale.admin.guard import Door
from flashsale.admin.metrics import Metrics
from flashsale.admin.routes import BODY_BYTES_MAX, Routes
from flashsale.admin.users import Users
from flashsale.operate.context import Context
from flashsale.ops import Operations
from flashsale.settings import Settings

ROLE = "admin"
DRAIN_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 30.0

log = structlog.get_logger()


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    # One role for everything: what the process may do is less than what the operator at the terminal may.
    context = Context(
        settings.postgres_url, settings.postgres_url, redis="", rabbitmq=settings.rabbitmq_url, gateways={}, json=True
    )
    metrics = Metrics()
    operations = Operations(ROLE, metrics.registry, "stopping")
    async with contextlib.AsyncExitStack() as running:
        session = await running.enter_async_context(aiohttp.ClientSession())
        looking = asyncio.Lock()  # whose turn it is at the dead-letter queues
        figures = Figures(context, settings.auditor_url, session, looking=looking)
        running.callback(figures.close)
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        door = Door.at(settings.admin_origin, settings.port)
        routes = Routes(door, Users(settings.admin_users), context, figures, looking=looking, metrics=metrics)
        routes.add_to(app)
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=DRAIN_SECONDS,
            keepalive_timeout=KEEP_ALIVE_SECONDS, auto_decompress=False,
        )  # fmt: skip
        await runner.setup()
        running.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, settings.host, settings.port).start()
        # Not a word about the stores: a page that says what is away is better than none.
        operations.is_ready = lambda: not stopping.is_set()
        ops_runner = await operations.listen(settings.ops_port)
        running.push_async_callback(ops_runner.cleanup)
        await stopping.wait()
    log.info("admin.stopped")
