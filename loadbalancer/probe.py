"""Asks every server regularly whether it lives. What follows from the answers is ``health.py``'s to say."""

import asyncio
import random

from loadbalancer import agent
from loadbalancer.config import Config
from loadbalancer.http1.grammar import Refused
from loadbalancer.http1.head import ResponseHead
from loadbalancer.http1.reader import ResponseReader
from loadbalancer.logs import say
from loadbalancer.proxy import Proxy
from loadbalancer.servers import Server
from loadbalancer.sockets import open_streams

READ_BYTES = 4096


class Checks:
    """A task per server of the farm, also of those that come later; ``failed`` is set if one ends by itself."""

    def __init__(self, proxy: Proxy) -> None:
        self.failed = asyncio.Event()
        self.ended: list[asyncio.Task[None]] = []  # by themselves
        self._proxy = proxy
        self._tasks: dict[Server, asyncio.Task[None]] = {}
        for server in proxy.farm.servers:
            self._start(server)
        proxy.farm.joined = self._start
        proxy.farm.left = self._stop

    async def close(self) -> None:
        """No more checks."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _start(self, server: Server) -> None:
        task = self._tasks[server] = asyncio.create_task(
            watch(server, self._proxy, self._proxy.config), name=server.name
        )
        task.add_done_callback(self._note)

    def _stop(self, server: Server) -> None:
        self._tasks.pop(server).cancel()
        self._proxy.close_idle(server)

    def _note(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self.ended.append(task)
            self.failed.set()


async def watch(server: Server, proxy: Proxy, config: Config) -> None:
    """Check ``server`` until cancelled, at moments of its own: all at once would be a pulse of load."""
    pause_s = config.check_interval * random.random()
    while True:
        await asyncio.sleep(pause_s)
        problem, said = await check(server.host, server.port, server.authority, config)
        match proxy.farm.checked(server, problem, said):
            case "down":
                proxy.take_out(server)
            case "up" | "readmitted" as word:
                say(f"server.{word}", server=server.name)
        pause_s = config.check_interval * random.uniform(0.9, 1.1)
        if server.health.is_turning:
            pause_s = min(pause_s, config.check_fast_interval)


async def check(host: str, port: int, authority: bytes, config: Config) -> tuple[str, agent.Said]:
    """Ask once. What is wrong, or an empty string; and what the server said of itself."""
    try:
        async with asyncio.timeout(config.check_timeout):
            head = await _ask(host, port, authority, config.check_path)
    except TimeoutError:
        return "no answer in time", agent.NOTHING
    except OSError as error:
        return error.strerror or "no connection", agent.NOTHING
    except UnicodeError:
        return "not a name that can be looked up", agent.NOTHING
    except Refused as refusal:
        return f"not an answer in HTTP/1.1: {refusal.detail}", agent.NOTHING
    if head is None:
        return "closed without an answer", agent.NOTHING
    return "" if 200 <= head.status < 400 else f"answered {head.status}", agent.parse(head.values)


async def _ask(host: str, port: int, authority: bytes, path: str) -> ResponseHead | None:
    reader, writer = await open_streams(host, port)
    try:
        writer.write(b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (path.encode(), authority))
        answer = ResponseReader(b"GET")
        while data := await reader.read(READ_BYTES):
            answer.feed(data)
            event = answer.read()
            while isinstance(event, ResponseHead) and event.is_interim:
                event = answer.read()
            if isinstance(event, ResponseHead):
                return event
        return None
    finally:
        writer.transport.abort()  # also when time is up, and there is no time for good manners
