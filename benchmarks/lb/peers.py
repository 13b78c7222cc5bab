"""What others would build in Python: each is one process, as ``benchmarks/peers`` has it or as its maker does."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.backend.peers import packages
from benchmarks.lb.balancers import Contestant, Given, Start

TUNED = "aiohttp, tuned"
PROXY_PY = "proxy.py"
_ONE_PROCESS = ("--num-workers", "1", "--num-acceptors", "1", "--threadless", "--local-executor", "1")


def find(home: Path, say: Callable[[str], None]) -> Sequence[Contestant]:
    """The peers, with what they need installed under ``home``. Raises ``RuntimeError``."""
    path = packages(home, say)
    return (
        Contestant("aiohttp", lambda given: aiohttp_proxy(given, is_tuned=False)),
        Contestant(TUNED, lambda given: aiohttp_proxy(given, is_tuned=True)),
        # Its reverse proxy connects anew for each request and falls at the second of a kept connection (2.4.10). As the forward
        # proxy that it is first of all, it keeps both sides, and is measured at its best.
        Contestant(PROXY_PY, lambda given: _proxy_py(given, path), wants_urls=True),
    )


def aiohttp_proxy(given: Given, *, is_tuned: bool) -> Start:
    """How it is started."""
    environment = {
        **given.environment,
        "FLASH_PORT": str(given.port),
        "UPSTREAM_URL": given.upstream.url,
        "PROXY_TUNED": "1" if is_tuned else "0",
    }
    return Start((sys.executable, "-m", "benchmarks.peers.aiohttp_proxy"), environment)


def _proxy_py(given: Given, path: Path) -> Start:
    environment = {**given.environment, "PYTHONPATH": f"{path}:{given.environment.get('PYTHONPATH', '')}"}
    listens = ("--hostname", "127.0.0.1", "--port", str(given.port), "--backlog", "4096")
    keeps = ("--timeout", "75", "--data-dir", str(given.folder), "--log-level", "WARNING")
    return Start((sys.executable, "-m", "proxy", *_ONE_PROCESS, *listens, *keeps), environment)
