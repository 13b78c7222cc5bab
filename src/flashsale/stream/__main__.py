"""``python -m flashsale.stream``: a process of viewers alone, which gives way to those that sell.

The asyncio edge of the servers, and nothing beside it: what is shown comes from PostgreSQL in any process, so a viewer may come
from a server to here and back and miss nothing.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection
from pathlib import Path

import structlog
import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry

from flashsale import logs
from flashsale.authority.client import Authority, AuthorityUnavailable
from flashsale.backends.asyncio_redis.routes import livez, problems, show_stock
from flashsale.backends.asyncio_redis.stream import Stream
from flashsale.ops import Operations
from flashsale.settings import Settings
from flashsale.stream import wire
from flashsale.stream.hub import Limits
from flashsale.stream.metrics import StreamMetrics

ROLE = "stream"
AUTHORITY_CONNECTIONS = 1  # one reading at a time for all viewers
AUTHORITY_WAIT_SECONDS = 0.5  # between tries to reach PostgreSQL at the start
BACKLOG = 4096  # the viewers of a server that ended come back within seconds
SEE_OFF_SECONDS = 3.0  # over which viewers are told to go, as a server does
DRAIN_SECONDS = 5.0  # for those who are being told
# Added to our niceness: on a machine that has too little for both, viewers are told later and buyers are not. They are told the
# newest whenever it is their turn. (``./flash bench sse --part beside``)
GIVES_WAY = 10

log = structlog.get_logger()


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises what the hub dies of, should it ever: who cannot show must end."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    authority = await _connect(settings, stopping)
    if authority is None:
        return
    registry = CollectorRegistry()
    limits = Limits(settings.sse_hz, settings.sse_viewers_max, settings.sse_address_viewers_max)
    stream = Stream(authority, settings.redis_url, limits, _nobody, StreamMetrics(registry))

    async def get_stock_stream(request: web.Request) -> web.StreamResponse:
        return await show_stock(stream, request)

    app = web.Application(middlewares=[problems])
    app.router.add_get(wire.PATH, get_stock_stream)
    app.router.add_get("/livez", livez)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=DRAIN_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG, reuse_address=True).start()
    operations = Operations(ROLE, registry, "stopping")
    operations.is_ready = lambda: not stopping.is_set()
    ops_runner = await operations.listen(settings.ops_host, settings.ops_port)
    log.info("stream.listens", host=settings.host, port=settings.port)

    stopped = asyncio.create_task(stopping.wait())
    done, _ = await asyncio.wait({stopped, stream.task}, return_when=asyncio.FIRST_COMPLETED)
    stopping.set()

    stream.drain(SEE_OFF_SECONDS)
    await runner.cleanup()  # no new connection
    await stream.seen_off(DRAIN_SECONDS)
    stream.close()
    await ops_runner.cleanup()
    await authority.close()
    log.info("stream.stopped")
    for ended in done:
        ended.result()


async def _connect(settings: Settings, stopping: asyncio.Event) -> Authority | None:
    while not stopping.is_set():
        try:
            return await Authority.connect(settings.postgres_url, AUTHORITY_CONNECTIONS)
        except AuthorityUnavailable as error:
            log.warning("authority.unreachable", reason=str(error))
            await asyncio.sleep(AUTHORITY_WAIT_SECONDS)
    return None


def give_way() -> None:
    """Let whoever sells go first."""
    os.nice(GIVES_WAY)
    # The kernel shares out time among sessions first (autogroup), and who was started by the launcher has one of its own: there the
    # number above counts for nothing, and this one does. In a container its CPU weight does.
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(f"{GIVES_WAY}", encoding="ascii")


def _nobody(_: Collection[str] | None) -> None:
    """Nobody beside the viewers waits for wake-ups here."""


if __name__ == "__main__":
    settings = Settings.load(os.environ)
    logs.configure(ROLE, settings.log_level)
    give_way()
    uvloop.run(serve(settings))
