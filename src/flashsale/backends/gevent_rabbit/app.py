"""Composition root: the only file of this backend that builds clients. Starts in the order of need, stops in reverse."""

import contextlib
import ctypes
import io
import logging
import os
import re
import signal
import socket
from collections.abc import Callable, Iterable
from http.client import HTTPException
from typing import Any

import gevent
import structlog
from gevent.pywsgi import WSGIServer, headers_factory
from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from flashsale.authority.green import GreenAuthority
from flashsale.backends.gevent_rabbit import metrics
from flashsale.backends.gevent_rabbit.checkout import Checkout
from flashsale.backends.gevent_rabbit.dispatch import Dispatcher
from flashsale.backends.gevent_rabbit.feed import Feed
from flashsale.backends.gevent_rabbit.routes import Environ, Response, Routes, respond
from flashsale.backends.gevent_rabbit.stream import Stream
from flashsale.backends.gevent_rabbit.watch import Watch
from flashsale.identity import identify_by
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
IDLE_SECONDS = 75.0  # a kept connection that says nothing this long is gone; balancers give up sooner
HEAD_SECONDS = 10.0  # for the headers, once a request has begun
HEAD_BYTES_MAX = 16 * 1024  # four of the longest tokens; the body has a bound of its own
DRAIN_SECONDS = 5  # for requests being answered at SIGTERM; every one of them has a shorter deadline of its own
STREAM_DRAIN_SECONDS = 3.0  # over which viewers are seen off, so that they do not all come back at once elsewhere
STUCK_SECONDS = 30  # a worker that does not even turn its loop for this long is killed and replaced
PR_SET_PDEATHSIG = 1

log = structlog.get_logger()


class Front:
    """Everything one worker process has: built after the fork, closed before it ends."""

    def __init__(self, settings: Settings) -> None:
        self.is_stopping = False
        receipts = Receipts(settings.jwt_secret)
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
        self._stream = Stream(self._streaming, settings.redis_url, limits, self._feed.wake)
        keepers = (
            self._dispatcher.link.keeper,
            self._watch.link.keeper,
            self._watch.poller,
            self._feed.work,
            *self._stream.work,
        )
        for greenlet in keepers:
            greenlet.link(self._ended)
        self.routes = Routes(checkout, self._authority, self._watch, receipts, identify, stream=self._stream)
        # scraped and probed by the host's own tools; routes with power join it later, so it never leaves loopback
        self._ops = WSGIServer(("127.0.0.1", settings.ops_port), self._operations, log=None, error_log=None)
        self._ops.start()
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
        self._ops.stop(timeout=1)
        log.info("server.stopped")

    def _ended(self, greenlet: gevent.Greenlet) -> None:
        # Who cannot queue, or cannot hear, must end: the master puts another in its place. By the signal that the process
        # is stopped with, so that what was asked is still answered.
        if not self.is_stopping:
            log.error("server.failed", greenlet=repr(greenlet.exception))
            os.kill(os.getpid(), signal.SIGTERM)

    def _operations(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        pages = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        page = pages.get(environ["PATH_INFO"])
        response = page() if page is not None else Response(404, b"not found\n", "text/plain")
        return respond(response, environ, start_response)

    def _livez(self) -> Response:
        return Response(200, b"alive\n", "text/plain")

    def _readyz(self) -> Response:
        # Not a word about RabbitMQ or PostgreSQL, once it has started: a balancer that took every server out because a
        # store is down would turn a 503 with a reason into a refused connection without one.
        if self.is_stopping or not self._dispatcher.was_up:
            return Response(503, b"stopping\n" if self.is_stopping else b"not connected yet\n", "text/plain")
        return Response(200, b"ready\n", "text/plain")

    def _metrics(self) -> Response:
        return Response(200, generate_latest(metrics.registry), CONTENT_TYPE_LATEST)


class Connection(PyWSGIHandler):  # type: ignore[misc]  # the library has no types
    """One client's connection. Knows whether it is idle, so that a stopping process need not wait for a silent client."""

    def handle(self) -> None:
        """Answer requests until the client, a silence or the end of the process closes the connection."""
        self.socket.settimeout(IDLE_SECONDS)
        with contextlib.suppress(ConnectionError):  # it left before its answer, as people do
            super().handle()

    def read_requestline(self) -> str:
        """The next request's first line; empty at the end."""
        idle: set[socket.socket] = self.server.idle
        idle.add(self.socket)
        try:
            line: str = super().read_requestline()
        except TimeoutError:
            return ""
        finally:
            idle.discard(self.socket)
        return line

    def MessageClass(self, file: Any, *_: Any) -> Any:  # noqa: N802 - the library's name
        """The headers of a request. Raises ``ValueError``, which is a 400, for what is late, large or framed ambiguously."""
        head = b""
        with gevent.Timeout(HEAD_SECONDS, ValueError("the headers did not arrive in time")):
            while (line := file.readline(HEAD_BYTES_MAX + 1 - len(head))) not in {b"\r\n", b"\n", b""}:
                head += line
                if len(head) > HEAD_BYTES_MAX:
                    raise ValueError("the headers are too large")
        try:
            headers = headers_factory(io.BytesIO(head + b"\r\n"))
        except HTTPException as error:
            raise ValueError("too many headers") from error
        if (
            headers.defects
        ):  # the library takes such a line for the end of the headers, and what follows for the next request
            raise ValueError("a line is no header")
        # a balancer that reads the end of a body elsewhere than this server does would let one client write another's request
        lengths, codings = headers.get_all("Content-Length", []), headers.get_all("Transfer-Encoding", [])
        if len(lengths) + len(codings) > 1 or not all(re.fullmatch("[0-9]{1,18}", length) for length in lengths):
            raise ValueError("a body has one length")
        if codings and codings[0].strip().lower() != "chunked":
            raise ValueError("a body is chunked, or not encoded at all")
        return headers

    def get_environ(self) -> Environ:
        """The WSGI environment, and the headers as they were sent: names may repeat, and ``-`` is not ``_``."""
        environ: Environ = super().get_environ()
        environ["flash.headers"] = self.headers
        return environ

    def finalize_headers(self) -> None:
        """A stopping process answers and closes."""
        if self.server.is_stopping:
            self.close_connection = True
            self.response_headers.append((b"Connection", b"close"))
        super().finalize_headers()

    def log_request(self) -> None:
        """No line per request."""


class Server(GeventPyWSGIWorker.server_class):  # type: ignore[misc]  # the library has no types
    """The traffic listener of one worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle: set[socket.socket] = set()
        self.is_stopping = False

    def close(self) -> None:
        """No new connection, and an end to those that only might ask something."""
        self.is_stopping = True
        super().close()
        for idle in list(self.idle):
            with contextlib.suppress(OSError):
                idle.shutdown(socket.SHUT_RD)


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]  # the library has no types
    """The one worker of this port."""

    server_class = Server
    wsgi_handler = Connection

    def run(self) -> None:
        """Serve until told to stop."""
        front: Front = self.app.front
        try:
            super().run()  # 2. no new connection; answer what was asked
        finally:
            front.close()  # 3. nobody asks any more

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM."""
        super().handle_exit(sig, frame)
        gevent.spawn(self.app.front.stop_waiting)  # 1. who waits for news gets what is known


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
        self.front: Front
        super().__init__()

    def load_config(self) -> None:
        """Every option that matters here; nothing is read from files or the environment."""
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        options = {
            "bind": f"{host}:{settings.port}",
            "workers": 1,  # one process, one port, one registry: a balancer sees and a kill hits one thing
            "worker_class": Worker,
            "worker_connections": CONNECTIONS_MAX,
            "backlog": BACKLOG,
            "timeout": STUCK_SECONDS,
            "graceful_timeout": DRAIN_SECONDS,
            "preload_app": False,  # no connection may be made before the fork
            "logger_class": Log,
            "post_fork": lambda _, __: _die_with_parent(),
            "control_socket_disable": True,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Routes:
        """Called in the worker, after the fork."""
        self.front = Front(self._settings)
        return self.front.routes


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    Gunicorn(settings).run()


def _die_with_parent() -> None:
    # a killed master would leave a worker on the port that its successor needs
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
