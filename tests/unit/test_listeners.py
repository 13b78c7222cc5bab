"""Whoever comes in while a server shuts is known to it, whatever the turn of the loop."""

import asyncio
import contextlib
import socket

import pytest

from tests.listeners import TURNS, shut
from tests.patience import PATIENCE_SECONDS


@pytest.mark.parametrize("turns", range(TURNS + 2))
async def test_whoever_comes_in_at_the_last_moment_is_sent_away(turns: int) -> None:
    served: list[asyncio.StreamWriter] = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname(), PATIENCE_SECONDS) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        await shut(server)
        for writer in served:
            writer.transport.abort()
        with contextlib.suppress(ConnectionResetError):  # who was not even accepted
            assert await asyncio.to_thread(client.recv, 1) == b""
