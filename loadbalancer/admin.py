"""The pages for operators, over HTTP: on loopback, where everything can be read and nothing changed, and on the unix socket of
LB_ADMIN_SOCKET, whose file only its owner may open.

What changes something is therefore asked through the socket alone. A page in somebody's browser must not read the other one
either: a name that was made to point here is refused by Host, and a request that a page sent by its Origin.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from loadbalancer.changes import VERBS, Change
from loadbalancer.config import ALGORITHMS, ConfigError
from loadbalancer.exposition import exposition
from loadbalancer.http1.grammar import Refused
from loadbalancer.http1.head import RequestHead
from loadbalancer.http1.reader import END, RequestReader
from loadbalancer.process import process
from loadbalancer.stats import described, stats

if TYPE_CHECKING:
    from loadbalancer.parent import Parent

READ_BYTES = 16 * 1024
REQUEST_SECONDS = 5.0  # for a request to come, and for its answer to be taken
BODY_BYTES_MAX = 1024
CONNECTIONS_MAX = 64
is_ours = re.compile(rb"(?:127\.0\.0\.1|localhost)(?::[0-9]+)?", re.IGNORECASE).fullmatch
JSON, TEXT = "application/json", "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"


class Page(NamedTuple):
    """An answer."""

    status: int
    type: str
    body: bytes


class Admin:
    """One request per connection; none of this is fast, and it need not be."""

    def __init__(self, parent: "Parent", *, may_change: bool = False) -> None:
        self._parent = parent
        self._may_change = may_change
        self._connections = 0
        self._pages: dict[str, Callable[[], Awaitable[Page]]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/servers": self._servers,
            "/stats": self._stats,
        }
        self._deeds: dict[str, Callable[[], Awaitable[None]]] = {"/reload": parent.reload, "/restart": parent.restart}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._connections += 1
        try:
            if self._connections <= CONNECTIONS_MAX:
                async with asyncio.timeout(REQUEST_SECONDS):
                    request = await _request(reader)
                status, content_type, body = await self._answer(request)  # a reload has bounds of its own
                async with asyncio.timeout(REQUEST_SECONDS):
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

    async def _answer(self, request: RequestHead | Refused) -> Page:
        if isinstance(request, Refused):
            return _text(request.status, request.detail)
        if not self._may_change and (is_ours(request.host) is None or b"origin" in request.values):
            return _text(403, "not for pages")
        path = request.target.partition(b"?")[0].decode()
        if path in self._pages:
            return await self._pages[path]() if request.method == b"GET" else _text(405, "GET only")
        if not self._may_change:
            return _text(404, "no such page; what changes something is asked through LB_ADMIN_SOCKET")
        if request.method != b"POST":
            return _text(405, "POST only")
        return await self._change(path)

    async def _change(self, path: str) -> Page:
        from loadbalancer.parent import FailedError  # noqa: PLC0415 - it imports this module

        try:
            match [unquote(part) for part in path.split("/")]:
                case ["", "reload" | "restart"]:
                    await self._deeds[path]()
                case ["", "algorithm", value]:
                    await self._parent.change(Change("algorithm", "", value))
                case ["", "servers", server, verb] if verb in VERBS and not VERBS[verb][0]:
                    await self._parent.change(Change(verb, server))
                case ["", "servers", server, verb, value] if verb in VERBS and VERBS[verb][0]:
                    await self._parent.change(Change(verb, server, value))
                case _:
                    return _text(404, "no such page")
        except KeyError as error:
            known = ", ".join(server.name for server in self._parent.told.config.servers)
            return _text(404, f"no server is named {error.args[0]!r}; there are {known}")
        except ConfigError as error:
            return _text(422, str(error))
        except FailedError as error:
            return _text(409, str(error))
        return await self._stats()

    async def _livez(self) -> Page:
        return _text(200, "alive")

    async def _readyz(self) -> Page:
        # Not a word about the servers: with all of them down a 503 with a reason is better than a refused connection.
        if self._parent.is_stopping:
            return _text(503, "draining")
        return _text(200, "ready") if self._parent.serving else _text(503, "no worker accepts connections")

    async def _metrics(self) -> Page:
        return Page(200, METRICS, exposition(await self._parent.reports(), len(self._parent.serving)))

    async def _servers(self) -> Page:
        servers = (await self._parent.reports())["servers"]
        rates, since = self._parent.rates, self._parent.since(servers)
        return _json([described(name, server, rates, since) for name, server in servers.items()])

    async def _stats(self) -> Page:
        parent = self._parent
        merged = await parent.reports()
        workers = [
            {
                "slot": worker.slot,
                "pid": worker.child.pid,
                "state": "serving" if worker.is_serving else "retiring" if worker.is_leaving else "starting",
                "uptime_seconds": round(time.time() - worker.since, 1),
                "report": worker.report,
            }
            for worker in parent.workers
        ]
        return _json(
            {
                "pid": os.getpid(),
                "process": process(),
                "uptime_seconds": round(time.time() - parent.started, 1),
                "algorithm": parent.told.config.algorithm,
                "algorithms": ALGORITHMS,
                "drained": sorted(parent.told.drained),
                "reloads": parent.reloads,
                **stats(merged, parent.rates, parent.since(merged["servers"])),
                "in_hand": parent.in_hand(),
                "workers": workers,
            }
        )


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


def _text(status: int, text: str) -> Page:
    return Page(status, TEXT, text.encode() + b"\n")


def _json(value: object) -> Page:
    return Page(200, JSON, json.dumps(value, indent=2).encode() + b"\n")
