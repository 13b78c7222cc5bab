"""A closed loop on one balancer, by wrk where there is one."""

from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.backend import load
from benchmarks.backend.load import Seen

SECONDS_MAX = 30  # a machine that does not even shake hands within the seconds asked for gets more, up to this
SCRIPT = Path(__file__).with_name("same.lua")


async def through(
    name: str, port: int, file: Path, seconds: int, watched: Mapping[str, int], *, scheme: str = "http"
) -> Seen:
    """The request in ``file``, again and again on each connection. Raises ``RuntimeError`` at an answer that was not asked for."""
    while True:
        one = await load.seen(lambda: _generate(port, file, seconds, scheme), watched)  # noqa: B023 - awaited in its turn
        if one.broken or one.refusals or (not one.answers and seconds >= SECONDS_MAX):
            raise RuntimeError(f"{name}: unexpected answers, {one}")
        if one.answers:
            return one
        seconds *= 2


def _generate(port: int, file: Path, seconds: int, scheme: str) -> Awaitable[dict[str, Any]]:
    if load.has_wrk():
        return load.wrk(f"{scheme}://127.0.0.1:{port}", seconds, load.CONNECTIONS, [str(SCRIPT), str(file)])
    request = file.read_bytes()
    return load.ours(port, lambda _: request, seconds, load.CONNECTIONS)
