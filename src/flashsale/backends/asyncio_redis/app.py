"""Composition root: the only file of this backend that builds clients. Starts in the order of need, stops in reverse."""

import asyncio
import contextlib
import gc
import signal
from typing import NamedTuple

import structlog
from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE
from prometheus_client import generate_latest

from flashsale.authority.catalog import Catalog
from flashsale.authority.client import CALL_SECONDS, Authority, AuthorityUnavailable
from flashsale.backends.asyncio_redis import metrics
from flashsale.backends.asyncio_redis.checkout import Checkout
from flashsale.backends.asyncio_redis.dispatch import Dispatcher
from flashsale.backends.asyncio_redis.feed import Feed
from flashsale.backends.asyncio_redis.routes import Routes, livez, problem, problems
from flashsale.backends.asyncio_redis.stream import Stream
from flashsale.backends.asyncio_redis.watch import Watch
from flashsale.contract import wire
from flashsale.contract.verdict import DETAILS, Verdict
from flashsale.gate.client import Gate
from flashsale.identity import identify_by
from flashsale.lane.listener import Listener, Route
from flashsale.lane.sequence import SEQUENCE_FIELD, is_sequence
from flashsale.queued.receipt import Receipts
from flashsale.settings import Settings
from flashsale.stream.hub import Limits
from flashsale.stream.refusals import Refusals

# Decisions have a connection of their own: behind a queue of readers they would fail, and take the server down with them.
# They take one, since one batch is in flight at a time, and a short bound per call, so that a batch whose answer is lost is
# run once more before its shoppers hear 503. The catalogue reads there too: without it nothing can be decided.
DECIDING_CONNECTIONS, DECIDING_CALL_SECONDS = 3, 0.6  # one is there when another had to be ended
READING_CONNECTIONS = 4
STREAM_CONNECTIONS = 1  # one reading at a time for all viewers
FEED_CONNECTIONS = 1  # one at a time for what is refused at once
# in the order of _Authorities
POOLS = (
    (DECIDING_CONNECTIONS, DECIDING_CALL_SECONDS),
    (READING_CONNECTIONS, CALL_SECONDS),
    (STREAM_CONNECTIONS, CALL_SECONDS),
    (FEED_CONNECTIONS, CALL_SECONDS),
)
AUTHORITY_WAIT_SECONDS = 0.5  # between tries to reach PostgreSQL at the start; the supervisor bounds the whole wait
BACKLOG = 4096  # an opening rush connects faster than one loop turn accepts
DRAIN_SECONDS = 5.0  # for requests being answered at SIGTERM; every one of them has a shorter deadline of its own
COLLECT_EVERY = 20_000  # objects, some megabytes
STREAM_DRAIN_SECONDS = 3.0  # over which viewers are seen off, so that they do not all come back at once elsewhere

log = structlog.get_logger()


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises what a task of its own dies of, should one ever: who cannot decide or show must end."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)

    async with contextlib.AsyncExitStack() as pools:  # a stop may come while only some of them are open
        tried = [await _connect(pools, settings, stopping, size, call_s) for size, call_s in POOLS]
        connected = [authority for authority in tried if authority is not None]
        if len(connected) == len(POOLS):
            await _serve(settings, stopping, _Authorities(*connected))


class _Authorities(NamedTuple):
    """One PostgreSQL, a pool for each kind of work: none waits behind another."""

    deciding: Authority
    reading: Authority
    streaming: Authority
    feeding: Authority


async def _serve(settings: Settings, stopping: asyncio.Event, authorities: _Authorities) -> None:
    deciding, authority, streaming, feeding = authorities
    gate = await Gate.connect(settings.redis_url)
    catalog = Catalog(deciding)
    await catalog.refresh()
    limits = Limits(settings.sse_hz, settings.sse_viewers_max, settings.sse_address_viewers_max)
    refusals = Refusals()
    feed = Feed(feeding, refusals)
    stream = Stream(streaming, settings.redis_url, limits, feed.wake, metrics.stream)
    dispatcher = Dispatcher(deciding, settings.batch_max, stream.wake)
    asks = settings.gate_away == "ask"
    checkout = Checkout(gate, dispatcher, catalog, refusals, settings.in_flight_max, asks_without_gate=asks)
    watch = Watch(authority)
    metrics.gate_up.set_function(lambda: gate.connected)
    lag = asyncio.create_task(metrics.sample_lag())

    app = web.Application(middlewares=[problems], client_max_size=wire.BODY_BYTES_MAX)
    receipts = Receipts(settings.jwt_secret, *settings.receipt_secrets)
    identify = identify_by(settings.auth, settings.jwt_secret)
    routes = Routes(checkout, authority, watch, receipts, identify, stream=stream)
    routes.add_to(app)
    app.on_response_prepare.append(_repeat_sequence)
    ops = web.Application(middlewares=[problems])
    ops.router.add_get("/livez", livez)
    ops.router.add_get("/readyz", lambda _: _readyz(stopping))
    ops.router.add_get("/metrics", _metrics)

    traffic_runner = await _runner(app)
    lane = _lane(routes, checkout, traffic_runner)
    await lane.open(settings.host, settings.port, BACKLOG)
    ops_runner = await _runner(ops)
    await web.TCPSite(ops_runner, settings.ops_host, settings.ops_port, reuse_address=True).start()
    _collect_seldom()
    log.info("server.started", host=settings.host, port=settings.port, ops_port=settings.ops_port)

    stopped = asyncio.create_task(stopping.wait())
    tasks = {stopped, dispatcher.task, gate.keeper, stream.task, feed.task, lag}
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stopping.set()

    watch.close()  # 1. who waits for news gets what is known, and who watches is seen off
    stream.drain(STREAM_DRAIN_SECONDS)
    await lane.close(DRAIN_SECONDS)
    await traffic_runner.cleanup()  # 2. no new connection; answer what was asked
    await stream.seen_off(DRAIN_SECONDS)
    stream.close()
    feed.close()
    dispatcher.close()  # 3. nobody asks any more
    await checkout.close()  # 4. tell the gate what was decided
    await gate.close()
    lag.cancel()
    await ops_runner.cleanup()
    log.info("server.stopped")
    for ended in done:
        ended.result()


def _collect_seldom() -> None:
    # What stands now stands until the end, and of what an attempt makes next to nothing is a cycle: by default a garbage
    # collection looks through all of it every 700 objects, which took a twelfth of a server's CPU.
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)


async def _connect(
    pools: contextlib.AsyncExitStack, settings: Settings, stopping: asyncio.Event, size: int, call_s: float
) -> Authority | None:
    while not stopping.is_set():
        try:
            authority = await Authority.connect(settings.postgres_url, size, call_s)
        except AuthorityUnavailable as error:
            log.warning("authority.unreachable", reason=str(error))
            await asyncio.sleep(AUTHORITY_WAIT_SECONDS)
        else:
            pools.push_async_callback(authority.close)
            return authority
    return None


async def _repeat_sequence(request: web.Request, response: web.StreamResponse) -> None:
    # what the lane does for its own answers; last of all fields, as there
    values = request.headers.getall(SEQUENCE_FIELD, [])
    if len(values) == 1 and is_sequence(values[0]):
        response.headers[SEQUENCE_FIELD] = values[0]


def _lane(routes: Routes, checkout: Checkout, runner: web.AppRunner) -> Listener:
    assert runner.server is not None, "the runner is set up"
    busy = problem(Verdict.TRY_LATER, DETAILS[Verdict.TRY_LATER])
    route = Route(
        wire.PURCHASES_PATH,
        routes.purchase_fields,
        wire.BODY_BYTES_MAX,
        routes.begin_purchase,
        checkout.is_full,
        busy,
        checkout.shed,
    )
    return Listener(route, runner.server, SERVER_SOFTWARE)


async def _runner(app: web.Application) -> web.AppRunner:
    # an encoded body is refused, so nothing may try to decode it first
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=DRAIN_SECONDS, auto_decompress=False
    )
    await runner.setup()
    return runner


async def _readyz(stopping: asyncio.Event) -> web.Response:
    # Not a word about Redis or PostgreSQL: a balancer that took every server out because a store is down would turn a
    # 503 with a reason into a refused connection without one.
    if stopping.is_set():
        return web.Response(status=503, text="stopping\n")
    return web.Response(text="ready\n")


async def _metrics(_: web.Request) -> web.Response:
    body = generate_latest(metrics.registry)
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
