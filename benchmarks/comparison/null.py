"""A server that does nothing: what the generator sends and hears there is the most it could measure. ``python -m benchmarks.comparison.null``
prints its port, and answers every request with the same refusal until its standard input ends.

A protocol on uvloop, as thin as a Python server can be: answers cost it less than any of the engine's, so the ceiling is the generator's.
"""

import asyncio
import contextlib
import os
import sys
from typing import cast

import uvloop

from benchmarks.comparison.generate import NICENESS

BODY = b'{"type":"about:blank","title":"Sold out","status":409,"verdict":"sold_out"}'
ANSWER = (
    b"HTTP/1.1 409 Conflict\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
)


class Nothing(asyncio.Protocol):
    """One connection. Whoever measures has one request out on each, so what has come is one request, whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        if data:
            self._transport.write(ANSWER)


async def main() -> None:
    with contextlib.suppress(
        OSError
    ):  # only root may: it is part of the instrument, and goes before others as the generator does
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    server = await asyncio.get_running_loop().create_server(Nothing, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
