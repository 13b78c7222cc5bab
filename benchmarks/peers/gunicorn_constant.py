"""No peer but an edge: gunicorn with one gevent worker, its own or ours, that reads an attempt and says the same 202 to each."""

# before any other import, as every program on gevent does
from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterable  # noqa: E402
from http import HTTPStatus  # noqa: E402
from typing import Any  # noqa: E402

from gunicorn.app.base import BaseApplication  # noqa: E402

from benchmarks.peers.common import collect_seldom  # noqa: E402
from flashsale.contract import wire  # noqa: E402
from flashsale.edge.message import Site  # noqa: E402
from flashsale.edge.worker import Worker  # noqa: E402
from flashsale.lane.answer import Answer  # noqa: E402

PURCHASE = wire.purchase_id("buyer", "key")
BODY = wire.queued_body(PURCHASE, "r" * 200)  # about as long as a receipt
FIELDS = {
    "Content-Type": wire.JSON_TYPE,
    "Cache-Control": "no-store",
    "Location": f"{wire.PURCHASES_PATH}/{PURCHASE}",
}
BACKLOG, CONNECTIONS_MAX = 4096, 20_000  # as the front
WORKERS: dict[str, Any] = {"gevent": "gevent", "gevent_pywsgi": "gevent_pywsgi", "ours": Worker}


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The application of gunicorn's own workers."""
    environ["wsgi.input"].read()
    start_response("202 Accepted", [*FIELDS.items(), ("Content-Length", str(len(BODY)))])
    return [BODY]


class Constant:
    """The service of ours."""

    def __init__(self) -> None:
        answer = Answer(HTTPStatus.ACCEPTED, FIELDS, BODY)
        self.sites = (Site(lambda _: answer, _refuse, wire.BODY_BYTES_MAX),)

    def stop_waiting(self) -> None:
        """Nobody waits."""

    def close(self) -> None:
        """Nothing is open."""


class Gunicorn(BaseApplication):  # type: ignore[misc]  # the library has no types
    """One worker on one port."""

    def __init__(self, port: int, worker: str) -> None:
        self._port = port
        self._worker = worker
        super().__init__()

    def load_config(self) -> None:
        """What the front sets as well."""
        for name, value in {
            "bind": f"127.0.0.1:{self._port}",
            "workers": 1,
            "worker_class": WORKERS[self._worker],
            "worker_connections": CONNECTIONS_MAX,
            "backlog": BACKLOG,
            "keepalive": 75,
            "loglevel": "warning",
            "control_socket_disable": True,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Called in the worker, after the fork."""
        collect_seldom()
        return Constant() if self._worker == "ours" else wsgi


def _refuse(status: int, detail: str) -> Answer:
    return Answer(status, {"Content-Type": "text/plain"}, detail.encode())


if __name__ == "__main__":
    Gunicorn(int(os.environ["FLASH_PORT"]), sys.argv[1]).run()
