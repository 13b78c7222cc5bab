"""A server that answers what a test tells it to, byte for byte."""

import asyncio
from collections.abc import Sequence
from typing import Self

from tests.balanced import ok
from tests.listeners import shut
from tests.recorder import PIECES_APART_S, Stream
from tests.servers import free_port


class Script:
    """A server that answers ``/hostile`` with the pieces it is given, and everything else with its target."""

    def __init__(self) -> None:
        self.name = "a"
        self.port = 0
        self.pieces: Sequence[bytes] = ()
        self.closes = False
        self._brought: list[tuple[bytes, Stream]] = []  # targets since the last ``play``, and on which connection
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> Self:
        """Listen."""
        self.port = free_port()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def kill(self) -> None:
        """Listen no more."""
        if self._server is not None:
            await shut(self._server)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def play(self, pieces: Sequence[bytes], *, closes: bool) -> None:
        """The next answer to ``/hostile``."""
        self.pieces, self.closes, self._brought = pieces, closes, []

    def brought(self, target: bytes) -> list[Stream]:
        """The connections that brought it, once for each time."""
        return [stream for brought, stream in self._brought if brought == target]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        stream = Stream()
        try:
            while data := await reader.read(65_536):
                for seen in stream.hear(data):
                    self._brought.append((seen.request[1], stream))
                    if seen.request[1] != b"/hostile":
                        writer.write(ok(seen.request[1]))
                        continue
                    for piece in self.pieces:
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.sleep(PIECES_APART_S if len(self.pieces) > 1 else 0)
                    if self.closes:
                        writer.write_eof()
                        await reader.read()
                        return
        except OSError:
            pass
        finally:
            stream.closed = True
            writer.transport.abort()
