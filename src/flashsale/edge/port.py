"""A port of one process: who is connected, what they share, and how they leave."""

from email.utils import formatdate
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer

from flashsale.edge.connection import Connection
from flashsale.edge.message import Site

TICK_SECONDS = 0.5
IDLE_TICKS = 150  # 75 s: a balancer keeps its idle connections for a few seconds, a browser for a minute
SWEEP_TICKS = 10  # between two looks for who has been idle so long
KILL_SECONDS = 0.5  # for greenlets to take notice of their end


class Port:
    """Serves ``site`` from when it is made. At most ``connections_max`` at once, the next wait where the kernel keeps them."""

    def __init__(self, listener: Any, site: Site, connections_max: int) -> None:
        self.site = site
        self.hub = gevent.get_hub()
        self.is_stopping = False  # answers close their connection
        self.is_closing = False  # nothing more is heard
        self.now = 0  # ticks
        self.tail = b""  # of every answer
        self._connections: set[Connection] = set()
        self._pool = Pool(connections_max)
        self._server = StreamServer(listener, self._serve, spawn=self._pool)
        self._ticking = gevent.spawn(self._tick)
        self._date()
        self._server.start()

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    def stop(self) -> None:
        """From now on every answer is its connection's last."""
        self.is_stopping = True

    def close(self) -> None:
        """No new connection and no new request; half a one was never begun."""
        self.is_stopping = self.is_closing = True
        self._server.close()
        for connection in self._connections:
            connection.end()

    def join(self, within_s: float) -> bool:
        """Wait until nobody is connected; True: nobody is."""
        return bool(self._pool.join(timeout=within_s))

    def kill(self) -> None:
        """End whoever is still connected."""
        self._pool.kill(timeout=KILL_SECONDS)
        self._ticking.kill()

    def _serve(self, client: Any, address: tuple[str, ...]) -> None:
        connection = Connection(self, client, address[0])
        self._connections.add(connection)
        try:
            connection.serve()
        finally:
            self._connections.discard(connection)

    def _tick(self) -> None:
        while True:
            gevent.sleep(TICK_SECONDS)
            self.now += 1
            self._date()
            if self.now % SWEEP_TICKS == 0:
                self._sweep()

    def _date(self) -> None:
        self.tail = f"Date: {formatdate(usegmt=True)}\r\n".encode()

    def _sweep(self) -> None:
        for connection in self._connections:
            if connection.idle_since is not None and self.now - connection.idle_since > IDLE_TICKS:
                connection.end()
