"""No peer: answers every request with the same refusal and does nothing else. What a generator can do at most is measured on it."""

import asyncio
import os
from typing import cast

import uvloop

from benchmarks.peers.common import problem
from flashsale.contract.wire import PROBLEM_TYPE


class Nothing(asyncio.Protocol):
    """One connection. A request is taken to end with its head: the body is in the way of nobody."""

    def __init__(self) -> None:
        _, body = problem(b"sold_out", "/purchases/none")
        head = f"HTTP/1.1 409 Conflict\r\nContent-Type: {PROBLEM_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._answer = head.encode() + body
        self._carried = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Requests."""
        heard = self._carried + data
        self._carried = heard[-3:]
        count = heard.count(b"\r\n\r\n")
        if count and self._transport is not None:
            self._transport.write(self._answer * count)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Nothing, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(os.environ["FLASH_PORT"])))
