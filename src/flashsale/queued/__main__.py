"""``python -m flashsale.queued``: one checkout worker, with one operations port on loopback."""

import asyncio
import os
import signal

import structlog
import uvloop

from flashsale import crash, logs
from flashsale.authority.client import Authority, AuthorityUnavailable
from flashsale.ops import Operations
from flashsale.queued import metrics, topology
from flashsale.queued.worker import Worker
from flashsale.settings import Settings

ROLE = "checkout"
POSTGRES_CONNECTIONS = topology.SHARDS + 4  # one decides per shard, and payments start beside them
POSTGRES_WAIT_SECONDS = 0.5  # between tries to reach PostgreSQL at the start; the supervisor bounds the whole wait

log = structlog.get_logger()


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises what the worker dies of, should it ever."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # The port opens before PostgreSQL is there: a process that waits for it is alive and not ready, and must say so.
    operations = Operations(ROLE, metrics.registry, "not consuming")
    runner = await operations.listen(settings.ops_host, settings.ops_port)
    work = asyncio.create_task(_work(settings, operations), name=ROLE)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Nothing to finish: what is not acknowledged is delivered again, and what is decided stays decided.
        stopped.cancel()
        work.cancel()
        (result,) = await asyncio.gather(work, return_exceptions=True)
        await runner.cleanup()
    if isinstance(result, Exception):
        raise result
    log.info("checkout.stopped")


async def _work(settings: Settings, operations: Operations) -> None:
    authority = await _connect(settings.postgres_url)
    try:
        claim = topology.claim_of(settings.postgres_url)
        worker = Worker(authority, settings.rabbitmq_url, claim, settings.batch_max)
        operations.is_ready = lambda: worker.is_consuming
        await worker.run()
    finally:
        await authority.close()


async def _connect(url: str) -> Authority:
    while True:
        try:
            return await Authority.connect(url, POSTGRES_CONNECTIONS)
        except AuthorityUnavailable as error:
            log.warning("checkout.waits_for_postgres", reason=str(error))
            await asyncio.sleep(POSTGRES_WAIT_SECONDS)


def main() -> None:
    """Read the settings, then serve."""
    settings = Settings.load(os.environ)
    logs.configure(ROLE, settings.log_level)
    crash.arm(settings.crash_at)
    uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
