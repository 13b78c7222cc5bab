"""The operations listener, on loopback alone: /livez /readyz /metrics, /servers, and draining a server.

It moves servers in and out of service, so a page in somebody's browser must not reach it: a name that was made to point
here is refused by Host, and a request that a page sent by its Origin.
"""

import asyncio
import json
import re
from collections.abc import Callable
from http import HTTPStatus

from loadbalancer import metrics
from loadbalancer.http1.grammar import Refused
from loadbalancer.http1.head import RequestHead
from loadbalancer.http1.reader import END, RequestReader
from loadbalancer.proxy import Proxy
from loadbalancer.servers import Server

READ_BYTES = 16 * 1024
REQUEST_SECONDS = 5.0
BODY_BYTES_MAX = 1024
CONNECTIONS_MAX = 64
is_ours = re.compile(rb"(?:127\.0\.0\.1|localhost)(?::[0-9]+)?", re.IGNORECASE).fullmatch
JSON, TEXT = "application/json", "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Admin:
    """One request per connection; none of this is fast, and it need not be."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._connections = 0
        self._pages: dict[bytes, Callable[[], tuple[int, str, bytes]]] = {
            b"/livez": lambda: (200, TEXT, b"alive\n"),
            b"/readyz": self._readyz,
            b"/metrics": lambda: (
                200,
                METRICS,
                metrics.exposition(proxy.totals, len(proxy.clients), proxy.farm),
            ),
            b"/servers": self._servers,
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_MAX:
                async with asyncio.timeout(REQUEST_SECONDS):
                    status, content_type, body = self._answer(await _request(reader))
                    writer.write(
                        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\n"
                        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                        + body
                    )
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except (TimeoutError, OSError):
            pass  # who asked has gone, or dawdles
        finally:
            self._connections -= 1
            writer.transport.abort()

    def _answer(self, request: RequestHead | Refused) -> tuple[int, str, bytes]:
        if isinstance(request, Refused):
            return request.status, TEXT, request.detail.encode() + b"\n"
        if is_ours(request.host) is None or b"origin" in request.values:
            return 403, TEXT, b"not for pages\n"
        path = request.target.partition(b"?")[0]
        if path in self._pages:
            return self._pages[path]() if request.method == b"GET" else (405, TEXT, b"GET only\n")
        parts = path.decode().split("/")
        if len(parts) == 4 and parts[1] == "servers" and parts[3] in {"drain", "undrain"}:
            server = next((server for server in self._proxy.farm.servers if server.name == parts[2]), None)
            if server is not None:
                if request.method != b"POST":
                    return 405, TEXT, b"POST only\n"
                self._proxy.farm.set_draining(server, is_draining=parts[3] == "drain")
                if server.is_draining:
                    self._proxy.close_idle(server)
                return 200, JSON, _json(_describe(server))
        return 404, TEXT, b"no such page\n"

    def _readyz(self) -> tuple[int, str, bytes]:
        # Not a word about the servers: with all of them down a 503 with a reason is better than a refused connection.
        return (503, TEXT, b"draining\n") if self._proxy.is_draining else (200, TEXT, b"ready\n")

    def _servers(self) -> tuple[int, str, bytes]:
        return 200, JSON, _json([_describe(server) for server in self._proxy.farm.servers])


async def _request(reader: asyncio.StreamReader) -> RequestHead | Refused:
    parser = RequestReader(BODY_BYTES_MAX)
    head: RequestHead | None = None
    try:
        while data := await reader.read(READ_BYTES):
            parser.feed(data)
            while (event := parser.read()) is not None:
                if isinstance(event, RequestHead):
                    head = event
                elif event is END and head is not None:
                    return head
    except Refused as refusal:
        return refusal
    raise ConnectionResetError


def _describe(server: Server) -> dict[str, object]:
    return {
        "name": server.name,
        "address": server.authority.decode(),
        "weight": server.weight,
        "state": server.state,
        "reason": server.health.reason,
        "active": server.active,
        "streams": server.streams,
        "peak": server.peak,
        "idle_connections": len(server.pool),
        "answers": dict(zip(metrics.CLASSES, server.answers, strict=True)),
        "retries": server.retries,
        "lost": server.lost,
        "ejections": server.ejections,
    }


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
