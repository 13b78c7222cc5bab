"""``python -m flashsale.upkeep``: expiry, the gate keeper and the outbox, with one operations port on loopback."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import uvloop

from flashsale import crash, logs
from flashsale.authority.claim import ClaimRefused
from flashsale.authority.client import Authority, AuthorityUnavailable
from flashsale.gate.client import Gate
from flashsale.ops import Operations
from flashsale.settings import Settings
from flashsale.upkeep.claim import REFUSED, ClaimKeeper
from flashsale.upkeep.expiry import Expiry, PaymentExpiry
from flashsale.upkeep.gate_keeper import GateKeeper
from flashsale.upkeep.metrics import Metrics
from flashsale.upkeep.outbox import Forgetting, Outbox
from flashsale.upkeep.road import Road
from flashsale.upkeep.rounds import retry_pause, run_rounds

ROLE = "upkeep"
POSTGRES_CONNECTIONS = 7  # one per kind of round
GATE_DEADLINE_SECONDS = 1.5  # an image of a hundred thousand purchases takes Redis longer than any buyer's call

log = structlog.get_logger()
Answer = TypeVar("Answer")


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises ``ClaimRefused``, alone or in a group."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    metrics = Metrics()
    gate = await Gate.connect(settings.redis_url, GATE_DEADLINE_SECONDS)
    # The port opens before PostgreSQL is there: a process that waits for it is alive and not ready, and must say so.
    operations = Operations(ROLE, metrics.registry, "not every live sale's gate is in order")
    runner = await operations.listen(settings.ops_host, settings.ops_port)
    work = asyncio.create_task(_work(settings, gate, operations, metrics), name=ROLE)
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait((work, stopped, gate.keeper), return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Every statement is one round trip and every script is atomic, so there is nothing to finish: a round cut short
        # leaves what a crash would leave, and the next process takes it from there.
        stopped.cancel()
        work.cancel()
        (result,) = await asyncio.gather(work, return_exceptions=True)
        await gate.close()
        await runner.cleanup()
    if isinstance(result, Exception):
        raise result
    for ended in done:
        ended.result()
    log.info("upkeep.stopped")


async def _work(settings: Settings, gate: Gate, operations: Operations, metrics: Metrics) -> None:
    authority = await _once_postgres_answers(lambda: Authority.connect(settings.postgres_url, POSTGRES_CONNECTIONS))
    claim = ClaimKeeper(settings.postgres_url, settings.redis_url)
    outbox = Outbox(authority, settings.rabbitmq_url, metrics)
    road = Road(settings.rabbitmq_url, authority)
    try:
        # Before the first look at a gate: a single round without the claim would raise an epoch against its owner.
        await _once_postgres_answers(claim.round)
        keeper = GateKeeper(gate, authority, metrics)
        operations.is_ready = lambda: keeper.ready
        async with asyncio.TaskGroup() as group:
            group.create_task(run_rounds("claim", claim.round))
            group.create_task(run_rounds("expiry", Expiry(authority, metrics).round))
            group.create_task(run_rounds("apply", keeper.apply))
            group.create_task(run_rounds("settle_abandoned", keeper.settle_abandoned))
            group.create_task(run_rounds("probe", keeper.probe))
            group.create_task(run_rounds("forgetting", Forgetting(authority).round))
            if settings.rabbitmq_url:  # without a broker nobody pays, and everything else goes on
                group.create_task(run_rounds("payment_expiry", PaymentExpiry(authority, road, metrics).round))
                group.create_task(run_rounds("outbox", road.once_ours(outbox.round)))
    finally:
        await outbox.close()
        await road.close()
        claim.close()
        await authority.close()


async def _once_postgres_answers(call: Callable[[], Awaitable[Answer]]) -> Answer:
    failures = 0
    while True:
        try:
            return await call()
        except AuthorityUnavailable as error:
            failures += 1
            if failures == 1:
                log.warning("upkeep.waits_for_postgres", reason=str(error))
            await asyncio.sleep(retry_pause(failures))


def main() -> int:
    """Exit status 0 stopped, 1 refused: the gates of this database are another instance's."""
    settings = Settings.load(os.environ)
    logs.configure(ROLE, settings.log_level)
    crash.arm(settings.crash_at)
    refused = False
    try:
        uvloop.run(serve(settings))
    except* ClaimRefused:
        # One line instead of a traceback: nothing is wrong with this process.
        log.error("upkeep.refused", reason=REFUSED)  # noqa: TRY400
        refused = True
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
