"""``python -m flashsale.proof``: audits all the time, with one operations port on loopback; ``GET /report`` there says what it found."""

import asyncio
import contextlib
import os
import signal

import structlog
import uvloop
from aiohttp import web

from flashsale import logs
from flashsale.ops import Operations
from flashsale.proof.auditor import Sources, journals_of
from flashsale.proof.watch import Watch
from flashsale.settings import Settings

ROLE = "auditor"

log = structlog.get_logger()


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    watch = Watch(Sources(settings.postgres_url, settings.redis_url, journals=journals_of(settings)))

    async def report(_: web.Request) -> web.Response:
        return web.json_response(watch.report())

    operations = Operations(ROLE, watch.metrics.registry, "not yet")
    # From the start, and whatever a pass meets: a shop is not kept from selling by large books, a bank that is away or a damaged
    # journal. How old the last good pass is, the report and the metrics say.
    operations.is_ready = lambda: True
    runner = await operations.listen(settings.ops_host, settings.ops_port, web.get("/report", report))
    while not stopping.is_set():
        # Whatever a pass was doing when told to stop, it was only reading.
        passing = asyncio.create_task(watch.round())
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait({passing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not passing.done():
            passing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await passing
            break
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(passing.result()):
                await stopping.wait()
    await runner.cleanup()
    log.info("auditor.stopped")


def main() -> None:
    """Read the settings, then serve."""
    settings = Settings.load(os.environ)
    logs.configure(ROLE, settings.log_level)
    uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
