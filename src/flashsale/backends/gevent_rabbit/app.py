"""Composition root: the only file of this backend that builds clients. Starts in the order of need, stops in reverse."""

import ctypes
import gc
import logging
import os
import signal
from typing import Any

import gevent
import structlog
from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from flashsale.authority.green import GreenAuthority
from flashsale.backends.gevent_rabbit import metrics
from flashsale.backends.gevent_rabbit.checkout import Checkout
from flashsale.backends.gevent_rabbit.dispatch import Dispatcher
from flashsale.backends.gevent_rabbit.feed import Feed
from flashsale.backends.gevent_rabbit.routes import Routes, refuse
from flashsale.backends.gevent_rabbit.stream import Stream
from flashsale.backends.gevent_rabbit.watch import Watch
from flashsale.contract import wire
from flashsale.edge.message import Request, Site
from flashsale.edge.worker import SPARE_SECONDS, Worker
from flashsale.identity import identify_by
from flashsale.lane.answer import Answer
from flashsale.queued import topology
from flashsale.queued.receipt import Receipts
from flashsale.settings import Settings
from flashsale.stream.hub import Limits
from flashsale.stream.refusals import Refusals

AUTHORITY_CONNECTIONS = 6  # they read; as many as the other backend has
STREAM_CONNECTIONS = 1  # one reading at a time for all viewers
FEED_CONNECTIONS = 1  # one at a time for what is refused at once
BACKLOG = 4096  # an opening rush connects faster than one loop turn accepts
CONNECTIONS_MAX = 20_000  # idle ones included, at some tens of KiB each; past it they wait in the backlog
DRAIN_SECONDS = 5  # for requests being answered at SIGTERM; every one of them has a shorter deadline of its own
STREAM_DRAIN_SECONDS = 3.0  # over which viewers are seen off, so that they do not all come back at once elsewhere
STUCK_SECONDS = 30  # a worker that does not even turn its loop for this long is killed and replaced
COLLECT_EVERY = 20_000  # objects, some megabytes
PR_SET_PDEATHSIG = 1

log = structlog.get_logger()


class Front:
    """Everything one worker process has: built after the fork, closed before it ends."""

    def __init__(self, settings: Settings) -> None:
        self.is_stopping = False
        receipts = Receipts(settings.jwt_secret, *settings.receipt_secrets)
        self._authority = GreenAuthority(settings.postgres_url, AUTHORITY_CONNECTIONS)
        claim = topology.claim_of(settings.postgres_url)
        self._dispatcher = Dispatcher(settings.rabbitmq_url, claim, settings.in_flight_max)
        self._watch = Watch(self._authority, settings.rabbitmq_url, claim)
        refusals = Refusals()
        self._feeding = GreenAuthority(settings.postgres_url, FEED_CONNECTIONS)
        self._feed = Feed(self._feeding, refusals)
        checkout = Checkout(
            self._dispatcher, self._authority, self._watch, receipts, refusals, in_flight_max=settings.in_flight_max
        )
        identify = identify_by(settings.auth, settings.jwt_secret)
        self._streaming = GreenAuthority(settings.postgres_url, STREAM_CONNECTIONS)
        limits = Limits(settings.sse_hz, settings.sse_viewers_max, settings.sse_address_viewers_max)
        self._stream = Stream(self._streaming, settings.redis_url, limits, self._feed.wake, metrics.stream)
        keepers = (
            self._dispatcher.link.keeper,
            self._watch.link.keeper,
            self._watch.poller,
            self._feed.work,
            *self._stream.work,
        )
        for greenlet in keepers:
            greenlet.link(self._ended)
        routes = Routes(checkout, self._authority, self._watch, receipts, identify, stream=self._stream)
        self.sites = (
            Site(routes, refuse, wire.BODY_BYTES_MAX, independent=wire.PURCHASES_PATH),
            Site(self._operations, refuse, wire.BODY_BYTES_MAX),
        )
        _collect_seldom()
        log.info("server.started", host=settings.host, port=settings.port, ops_port=settings.ops_port)

    def stop_waiting(self) -> None:
        """Who waits for news gets what is known, and who watches is seen off."""
        self.is_stopping = True
        self._watch.close()
        self._stream.drain(STREAM_DRAIN_SECONDS)

    def close(self) -> None:
        """Nobody asks any more."""
        self.is_stopping = True
        self._stream.close()
        self._feed.close()
        self._dispatcher.close()
        self._authority.close()
        self._streaming.close()
        self._feeding.close()
        log.info("server.stopped")

    def _ended(self, greenlet: gevent.Greenlet) -> None:
        # Who cannot queue, or cannot hear, must end: the master puts another in its place. By the signal that the process
        # is stopped with, so that what was asked is still answered.
        if not self.is_stopping:
            log.error("server.failed", greenlet=repr(greenlet.exception))
            os.kill(os.getpid(), signal.SIGTERM)

    def _operations(self, request: Request) -> Answer:
        pages = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        page = pages.get(request.path)
        return page() if page is not None else _text(404, "not found\n")

    def _livez(self) -> Answer:
        return _text(200, "alive\n")

    def _readyz(self) -> Answer:
        # Not a word about RabbitMQ or PostgreSQL, once it has started: a balancer that took every server out because a
        # store is down would turn a 503 with a reason into a refused connection without one.
        if self.is_stopping or not self._dispatcher.was_up:
            return _text(503, "stopping\n" if self.is_stopping else "not connected yet\n")
        return _text(200, "ready\n")

    def _metrics(self) -> Answer:
        return Answer(200, {"Content-Type": CONTENT_TYPE_LATEST}, generate_latest(metrics.registry))


class Log(glogging.Logger):  # type: ignore[misc]  # the library has no types
    """gunicorn's own words, in our lines."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002 - the library's signature
        """Hand everything to the root logger, from warnings up."""
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)


class Gunicorn(BaseApplication):  # type: ignore[misc]  # the library has no types
    """One port: a master that replaces its worker should it die, and the worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Every option that matters here; nothing is read from files or the environment."""
        settings = self._settings
        host, ops_host = (f"[{each}]" if ":" in each else each for each in (settings.host, settings.ops_host))
        options = {
            # Of the worker's sites, in their order. Both are the master's: a worker that follows another finds them open.
            "bind": [f"{host}:{settings.port}", f"{ops_host}:{settings.ops_port}"],
            "workers": 1,  # one process, one port, one registry: a balancer sees and a kill hits one thing
            "worker_class": Worker,
            "worker_connections": CONNECTIONS_MAX,
            "backlog": BACKLOG,
            "timeout": STUCK_SECONDS,
            "graceful_timeout": DRAIN_SECONDS + SPARE_SECONDS,
            "preload_app": False,  # no connection may be made before the fork
            "logger_class": Log,
            "post_fork": lambda _, __: _die_with_parent(),
            "control_socket_disable": True,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Front:
        """Called in the worker, after the fork."""
        return Front(self._settings)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    Gunicorn(settings).run()


def _text(status: int, text: str) -> Answer:
    return Answer(status, {"Content-Type": "text/plain"}, text.encode())


def _collect_seldom() -> None:
    # What stands now stands until the end, and of what an attempt makes next to nothing is a cycle: by default a garbage
    # collection looks through all of it every 700 objects.
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)


def _die_with_parent() -> None:
    # a killed master would leave a worker on the port that its successor needs
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
