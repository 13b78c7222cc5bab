"""The worker that gunicorn's master starts, watches and replaces."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import gevent
import structlog
from gevent.event import Event
from gunicorn.workers.ggevent import GeventWorker

from flashsale.edge.message import Site
from flashsale.edge.port import Port

ALIVE_SECONDS = 1.0  # between two signs of life for the master
LAST_SECONDS = 0.1  # for connections and requests that are on their way when the stop comes
SPARE_SECONDS = 3  # between the end that the worker makes and the one that its master makes

log = structlog.get_logger()


class Service(Protocol):
    """What the application's ``load()`` returns in the worker, after the fork."""

    @property
    def sites(self) -> Sequence[Site]:
        """One for each address that is bound, in their order: the first is the traffic's."""

    def stop_waiting(self) -> None:
        """A stop has begun: who waits for news gets what is known."""

    def close(self) -> None:
        """Nobody asks any more."""


class Worker(GeventWorker):  # type: ignore[misc]  # the library has no types
    """Serves with a greenlet per connection, and stops within the grace time: what was asked is answered, and no more is."""

    def init_process(self) -> None:
        """Begin, after the fork."""
        self._told = Event()
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop."""
        service: Service = self.wsgi
        try:
            ports = [
                Port(listener, site, self.worker_connections)
                for listener, site in zip(self.sockets, service.sites, strict=True)
            ]
            while self.alive and not self._told.wait(ALIVE_SECONDS):
                self.notify()
            self._stop(service, ports)
        finally:
            service.close()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._told.set)  # in the loop: a signal may come in the middle of anything

    def _stop(self, service: Service, ports: Sequence[Port]) -> None:
        ends = time.monotonic() + self.cfg.graceful_timeout - SPARE_SECONDS
        traffic, *others = ports
        service.stop_waiting()
        traffic.stop()
        gevent.sleep(LAST_SECONDS)
        traffic.close()
        if not traffic.join(ends - time.monotonic()):
            log.warning("edge.cut", connections=traffic.connections)
        for port in (*others, traffic):
            port.close()
            port.kill()
