"""What the peers that queue share: Flask, and gunicorn in front of it with gevent's worker, as in front of ours.

Imported before all else, since gevent patches the world.
"""

# ruff: noqa: E402 - a lock or a socket that was made before is the system's, and would stop everybody
from gevent import monkey

monkey.patch_all()

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from flask import Flask, Response, request
from gunicorn.app.base import BaseApplication

from benchmarks.peers import common
from flashsale.contract import wire
from flashsale.identity import Identify, identify_by

CONNECTIONS = 64  # to the broker, one per connection of the load: a confirm is waited for on each
QUEUE_ARGUMENTS = {
    "x-queue-type": "quorum",
    "x-overflow": "reject-publish",
    "x-max-length": 10_000_000,
    "x-expires": 600_000,  # nobody takes anything out
}


class Setup(NamedTuple):
    """What a peer is told by its environment."""

    port: int
    rabbitmq_url: str
    identify: Identify

    @classmethod
    def read(cls, environ: Any) -> "Setup":
        """From the variables that the benchmark sets."""
        identify = identify_by(environ["FLASH_AUTH"], environ["FLASH_JWT_SECRET"])
        return cls(int(environ["FLASH_PORT"]), environ["FLASH_RABBITMQ_URL"], identify)


def serve(setup: Setup, open_queue: Callable[[], Callable[[list[str]], None]]) -> None:
    """Serve until told to stop. ``open_queue`` is called in the worker; what it returns comes back once the broker has confirmed."""

    def load() -> Flask:
        return _app(setup, open_queue())

    _Gunicorn(setup.port, load).run()


def _app(setup: Setup, put: Callable[[list[str]], None]) -> Flask:
    app = Flask(__name__)

    def post() -> Response:
        try:
            headers = cast("Mapping[str, str]", request.headers)  # their get() is all that is asked of them
            asked = common.read(headers, request.get_data(cache=False), setup.identify)
        except wire.Refusal as refusal:
            status, body = common.refusal(refusal.verdict, refusal.detail)
            return Response(body, status, mimetype=wire.PROBLEM_TYPE)
        put(asked.arguments)
        said = json.dumps({"id": asked.path.rpartition("/")[2], "state": "QUEUED"})
        return Response(said, 202, {"Location": asked.path}, mimetype=wire.JSON_TYPE)

    app.add_url_rule(wire.PURCHASES_PATH, view_func=post, methods=["POST"])
    common.collect_seldom()
    return app


class _Gunicorn(BaseApplication):  # type: ignore[misc]  # the library has no types
    def __init__(self, port: int, load: Callable[[], Flask]) -> None:
        self._port = port
        self.load = load
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": f"127.0.0.1:{self._port}",
            "workers": 1,  # it has one core
            "worker_class": "gevent",
            "backlog": 4096,
            "keepalive": 75,
            "loglevel": "warning",
            "control_socket_disable": True,
        }
        for name, value in options.items():
            self.cfg.set(name, value)
