"""Composition root of the admin page's process: builds its parts, serves, stops in reverse."""

import asyncio
import contextlib
import signal

import aiohttp
import structlog
from aiohttp import web

from flashsale.admin.figures import Figures
from flashsale.admin.guard import HEADERS, Door
from flashsale.admin.metrics import Metrics
from flashsale.admin.operations.collector import Collector, Where
from flashsale.admin.operations.stream import Stream
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
        settings.postgres_url,
        settings.postgres_url,
        redis="",
        rabbitmq=settings.rabbitmq_url,
        gateways={},
        json=True,
        balancer=settings.balancer_socket,
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
        where = Where(context, settings.targets, settings.auditor_url, settings.benchmark_progress)
        collector = Collector(where, session)
        stream = Stream(collector, HEADERS)
        metrics.viewers.set_function(lambda: stream.viewers)
        users = Users(settings.admin_users)
        routes = Routes(door, users, context, figures, stream, looking=looking, metrics=metrics)
        routes.add_to(app)
        app.on_shutdown.append(
            lambda _: collector.close()
        )  # before the runner waits for answers, of which a stream is one
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=DRAIN_SECONDS,
            keepalive_timeout=KEEP_ALIVE_SECONDS, auto_decompress=False,
        )  # fmt: skip
        await runner.setup()
        running.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, settings.host, settings.port).start()
        # Not a word about the stores: a page that says what is away is better than none.
        operations.is_ready = lambda: not stopping.is_set()
        ops_runner = await operations.listen(settings.ops_host, settings.ops_port)
        running.push_async_callback(ops_runner.cleanup)
        await stopping.wait()
    log.info("admin.stopped")
