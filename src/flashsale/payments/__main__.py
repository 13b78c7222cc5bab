"""``python -m flashsale.payments``: one payment worker, with the webhooks' port and an operations port on loopback."""

import asyncio
import os
import signal

import structlog
import uvloop
from aiohttp import web

from flashsale import crash, logs
from flashsale.authority.client import Authority, AuthorityUnavailable
from flashsale.ops import Operations
from flashsale.payments.client import Gateways
from flashsale.payments.consumer import IN_HAND_MAX, Consumer
from flashsale.payments.metrics import Metrics
from flashsale.payments.webhook import BODY_BYTES_MAX, Webhook
from flashsale.payments.worker import Worker
from flashsale.settings import Settings

ROLE = "payments"
AUTHORITY_CONNECTIONS = 6  # a call takes a millisecond and a gateway fifty, so few serve all messages in hand
AUTHORITY_WAIT_SECONDS = 0.5  # between tries to reach PostgreSQL at the start
DRAIN_SECONDS = 5.0  # for webhooks being answered at SIGTERM

log = structlog.get_logger()


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises what the consumer dies of, should it ever."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    authority = await _connect(settings, stopping)
    if authority is None:
        return
    metrics = Metrics()
    gateways = Gateways(settings.gateway_urls)
    consumer = Consumer(settings.rabbitmq_url, authority, Worker(authority, gateways), metrics)

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_get("/livez", _livez)
    if settings.webhook_secret:  # without one no webhook could be believed
        Webhook(authority, settings.webhook_secret, metrics).add_to(app)
    operations = Operations(ROLE, metrics.registry, "not consuming")
    operations.is_ready = lambda: consumer.is_consuming
    runners = [
        await _listen(app, settings.host, settings.port),
        await operations.listen(settings.ops_host, settings.ops_port),
    ]
    log.info("payments.listens", port=settings.port, in_hand_max=IN_HAND_MAX)

    consuming = asyncio.create_task(consumer.run(), name="consumer")
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({consuming, stopped}, return_when=asyncio.FIRST_COMPLETED)

    # What is in hand is cut short as a crash would, and comes back unacknowledged: every step is safe to repeat.
    stopped.cancel()
    consuming.cancel()
    (result,) = await asyncio.gather(consuming, return_exceptions=True)
    for runner in runners:
        await runner.cleanup()
    await gateways.close()
    await authority.close()
    log.info("payments.stopped")
    if isinstance(result, Exception):
        raise result


async def _connect(settings: Settings, stopping: asyncio.Event) -> Authority | None:
    while not stopping.is_set():
        try:
            return await Authority.connect(settings.postgres_url, AUTHORITY_CONNECTIONS)
        except AuthorityUnavailable as error:
            log.warning("authority.unreachable", reason=str(error))
            await asyncio.sleep(AUTHORITY_WAIT_SECONDS)
    return None


async def _listen(app: web.Application, host: str, port: int) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=DRAIN_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, host, port, reuse_address=True).start()
    return runner


async def _livez(_: web.Request) -> web.Response:
    return web.Response(text="alive\n")


def main() -> None:
    """Read the settings, then serve."""
    settings = Settings.load(os.environ)
    logs.configure(ROLE, settings.log_level)
    crash.arm(settings.crash_at)
    uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
