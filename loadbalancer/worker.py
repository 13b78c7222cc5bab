"""One worker, ``python -m loadbalancer.worker``, started by the parent alone: accepts, serves, reports, retires.

Everything it knows comes over its control socket, the first line its settings. It owns no port and no file: what has to
outlive it belongs to the parent.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
import weakref

import uvloop

from loadbalancer import logs, tls
from loadbalancer.changes import Change
from loadbalancer.client import ClientConnection
from loadbalancer.config import Config
from loadbalancer.control import Line, Questions
from loadbalancer.listeners import BACKLOG
from loadbalancer.logs import say
from loadbalancer.metrics import Totals
from loadbalancer.probe import Checks
from loadbalancer.process import process
from loadbalancer.proxy import Proxy
from loadbalancer.report import Report, report
from loadbalancer.servers import Farm
from loadbalancer.shared import Shared

PR_SET_PDEATHSIG = 1
ACCEPTING_SECONDS = 0.05  # what was accepted before the last look at the queue has its connection by then
EXIT_UNCHECKED = 1
# Objects made between two garbage collections, some megabytes. At Python's own 700 each looks through thousands of streams and
# connections that all stay: up to 21 ms with five thousand of them.
COLLECT_EVERY = 20_000


class Worker:
    """Serves until it is told to stop or to retire."""

    def __init__(self, hello: Line, questions: Questions) -> None:
        self._questions = questions
        self._config = config = Config.load(hello["settings"])
        self._sockets = [socket.socket(fileno=number) for number in hello["sockets"]]
        loop = asyncio.get_running_loop()
        farm = Farm(config, later=loop.call_soon, number=hello["slot"], now=loop.time)
        self._farm, self._row = farm, hello["row"]
        self._shared = None if hello["shared"] is None else Shared(hello["shared"], hello["rows"])
        self._follow(hello)
        self._proxy = Proxy(config, farm, Totals(), sys.stdout if config.access_log == "on" else None)
        self._traffic: list[asyncio.Server] = []
        # Accepted, and perhaps still shaking hands: the proxy hears of a client after that.
        self._greeting: weakref.WeakSet[ClientConnection] = weakref.WeakSet()
        self._ending: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._is_unchecked = False
        for server in farm.servers:
            if server.name in hello["down"]:
                server.health.distrust(hello["down"][server.name])
            farm.set_draining(server, is_draining=server.name in hello["drained"])
        self._checks = Checks(self._proxy)
        allow_files(config.clients_max)

    async def run(self) -> int:
        """Answer the parent's questions until one of them ends this; the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end, None)
        background = [asyncio.create_task(self._be_asked()), asyncio.create_task(self._mind_checks())]
        await self._ended.wait()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self._questions.sent()
        return EXIT_UNCHECKED if self._is_unchecked else 0

    async def _be_asked(self) -> None:
        async for question in self._questions:
            match question["do"]:
                case "serve":
                    await self._serve()
                    self._questions.answer(question)
                case "report":
                    self._questions.answer(question, report=self._report())
                case "change":
                    self._change(question)
                    self._questions.answer(question)
                case "stop" | "retire":
                    self._end(question)
        self._ended.set()  # the parent is gone, and nobody would restart this one

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        speaks = tls.context(self._config)
        # What is bounded without TLS is given as None, or asyncio complains.
        within = None if speaks is None else self._config.head_timeout
        self._traffic = [
            await loop.create_server(self._accept, sock=made, backlog=BACKLOG, ssl=speaks, ssl_handshake_timeout=within)
            for made in self._sockets
        ]

    def _accept(self) -> ClientConnection:
        made = ClientConnection(self._proxy)
        if self._config.tls_cert:
            self._greeting.add(made)
        return made

    def _change(self, question: Line) -> None:
        # A worker that retires since a reload may have other servers: what is no change to it is none.
        with contextlib.suppress(ValueError):
            Change(*question["change"]).to(self._farm)
        self._follow(question)
        for server in self._farm.servers:
            if server.is_draining:
                self._proxy.close_idle(server)

    def _follow(self, told: Line) -> None:
        for server in self._farm.servers:
            limit = told["maxconn"].get(server.name)
            if limit is not None:
                self._farm.set_maxconn(server, limit)
        if self._shared is not None:
            self._farm.share(self._shared, self._row, told["columns"])

    def _end(self, question: Line | None) -> None:
        if self._ending is None:
            self._ending = asyncio.create_task(self._leave(question))
        else:
            self._proxy.drain()  # it was retiring, and now nobody is there to take its clients over

    async def _leave(self, question: Line | None) -> None:
        proxy, grace = self._proxy, self._config.grace
        for listening in self._traffic:
            listening.close()  # 1. no new connection
        await asyncio.sleep(ACCEPTING_SECONDS)
        if question is not None and question["do"] == "retire":  # 2. let go who is idle, or tell them to go
            proxy.retire(grace)
            say("worker.retiring", clients=len(proxy.clients))
        else:
            proxy.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._greeted()
                if not proxy.is_retiring:
                    proxy.drain()  # also who was shaking hands until now
                await proxy.emptied()  # 3. answer what was asked
        await self._checks.close()
        if proxy.clients:
            proxy.drain()  # 4. whoever asked nothing for so long has an end in good order
            await asyncio.sleep(ACCEPTING_SECONDS)
        cut = proxy.close()  # 5. whoever is still here has had the grace
        if question is not None:
            self._questions.answer(question, report=self._report(), cut=cut)
        self._ended.set()

    async def _greeted(self) -> None:
        while any(not client.is_made for client in self._greeting):  # noqa: ASYNC110 - once, when a worker ends
            await asyncio.sleep(ACCEPTING_SECONDS)

    def _report(self) -> Report:
        return {"pid": os.getpid(), "process": process(), **report(self._proxy)}

    async def _mind_checks(self) -> None:
        await self._checks.failed.wait()
        # What was up would stay up for ever. Another worker does better, or fails as loudly.
        for check in self._checks.ended:
            say("server.unchecked", level=logging.ERROR, error=check.exception(), server=check.get_name())
        self._is_unchecked = True
        self._end(None)


def allow_files(clients_max: int) -> None:
    """Take as many file descriptors as this process may: each client can cost two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < 2 * clients_max:
        say("loadbalancer.few_files", level=logging.WARNING, limit=hard, clients_max=clients_max, cure="ulimit -n")


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however that dies and whatever hangs here."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)


async def work(number: int) -> int:
    """Serve what the parent says over the socket of this number; the exit status."""
    questions = await Questions.over(socket.socket(fileno=number))
    hello = await questions.first()
    worker = Worker(hello, questions)
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)
    questions.answer(hello)
    return await worker.run()


def main(arguments: list[str]) -> int:
    """``arguments``: the parent's pid, and the number of the control socket."""
    parent, number = map(int, arguments)
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C comes to all; the parent says what follows
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logs.configure()
    return uvloop.run(work(number))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
