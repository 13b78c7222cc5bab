"""The frames to whoever looks, over HTTP: so many at most, nobody longer than their session, and never behind."""

import asyncio
import json
import random
import socket
import time
from collections.abc import Callable, Mapping

from aiohttp import web

from flashsale.admin.operations.collector import Collector

VIEWERS_MAX = 32
RETRY_MS = (1_000, 3_000)  # at random between, or all come back in one moment
RETRY_LATE_MS = (15_000, 30_000)  # who found no place
STALL_SECONDS = 15.0  # a reader that has taken nothing for so long has gone, and not said so
KERNEL_BYTES = 64 * 1024  # or the operating system would keep minutes of old frames for a slow reader


class Stream:
    """Everybody who looks at one process's frames."""

    def __init__(self, collector: Collector, headers: Mapping[str, str]) -> None:
        self._collector = collector
        self._headers = headers
        self.viewers = 0

    async def serve(self, request: web.Request, is_signed_in: Callable[[], bool]) -> web.StreamResponse:
        """One viewer, until either side ends it."""
        response = web.StreamResponse(headers={**self._headers, "Content-Type": "text/event-stream; charset=utf-8"})
        response.force_close()  # nothing follows a stream
        await response.prepare(request)
        if self.viewers >= VIEWERS_MAX:
            # Not a refusal, which ends a browser's EventSource for good.
            return await _end(response, "full", RETRY_LATE_MS)
        self.viewers += 1
        try:
            with self._collector.watched():
                return await self._send(request, response, is_signed_in)
        except ConnectionError:
            return response  # the viewer has gone
        finally:
            self.viewers -= 1

    async def _send(
        self, request: web.Request, response: web.StreamResponse, is_signed_in: Callable[[], bool]
    ) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
        await response.write(_retry(RETRY_MS))
        number, taken_at = 0, time.monotonic()
        while (frame := await self._collector.after(number)) is not None:
            number, now = frame.number, time.monotonic()
            if not is_signed_in():
                return await _end(response, "signed_out", RETRY_MS)
            if transport.is_closing():
                raise ConnectionResetError
            if transport.get_write_buffer_size():  # it has not taken the last one: it gets none until it has
                if now - taken_at > STALL_SECONDS:
                    transport.abort()
                continue
            taken_at = now
            try:
                # of a frame that is larger than all buffers it waits for the end
                async with asyncio.timeout(STALL_SECONDS):
                    await response.write(b"event: figures\nid: %d\ndata: %b\n\n" % (number, frame.data))
            except TimeoutError:
                transport.abort()
        return await _end(response, "stopping", RETRY_MS)


async def _end(response: web.StreamResponse, word: str, retry_ms: tuple[int, int]) -> web.StreamResponse:
    await response.write(_retry(retry_ms) + f"event: bye\ndata: {json.dumps({'word': word})}\n\n".encode())
    await response.write_eof()
    return response


def _retry(between_ms: tuple[int, int]) -> bytes:
    return f"retry: {random.randint(*between_ms)}\n\n".encode()
