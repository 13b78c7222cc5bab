"""The process that is started: keeps the ports, the workers and what they are told, and serves no client itself.

A worker that ends by itself is replaced, on the same sockets. A reload, or a rolling restart, makes every new worker ready
before the first old one is told to retire, so whatever is wrong with the new leaves the old as they were. Until a client
of an old worker is told with an answer that its connection ends, it is served there.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from loadbalancer import listeners, shared
from loadbalancer.admin import Admin
from loadbalancer.changes import Change, Told
from loadbalancer.config import SETTINGS, Config, ConfigError, gather
from loadbalancer.control import Control, GoneError
from loadbalancer.logs import say
from loadbalancer.proxy import made_up_name
from loadbalancer.report import Report, merged, remembered
from loadbalancer.shared import Shared

READY_SECONDS = 60.0  # to import everything, on a machine that is busy
ANSWER_SECONDS = 5.0
SPARE_SECONDS = 5.0  # for a worker's own end, after its grace
REPORT_SECONDS = 1.0
CRASHES_MAX = 5  # within CRASH_SECONDS; a sixth would only repeat the first five
CRASH_SECONDS = 60.0
BACKOFF_FIRST_SECONDS, BACKOFF_MAX_SECONDS = 0.1, 5.0
GENERATIONS = 3  # of workers: those that serve, those that retire, and those that died and are not buried yet
# Given once: the sockets are made of them.
FOR_LIFE = ("host", "port", "ops_port", "admin_socket", "workers")


class FailedError(Exception):
    """The balancer cannot go on, or what it was asked to do cannot be done; the text is for people."""


class Worker:
    """One worker's process."""

    def __init__(self, slot: int, row: int, child: subprocess.Popen[bytes], control: Control, grace: float) -> None:
        self.slot = slot
        self.row = row  # of the shared memory
        self.child = child
        self.control = control
        self.grace = grace  # what it was started with: a reload may have changed it since
        self.is_serving = False
        self.is_leaving = False  # told to: its end is none of an accident's
        self.since = time.time()
        self.ended = asyncio.Event()

    @property
    def report(self) -> Report | None:
        """What it told last."""
        return self.control.told.get("report")

    @property
    def cut(self) -> int:
        """Clients that it did not answer within its grace."""
        return int(self.control.told.get("cut", 0))


class Parent:
    """One balancer."""

    def __init__(self, environ: Mapping[str, str], told: Told) -> None:
        self.told = told
        self.started = time.time()
        self.is_stopping = False
        self.rates: dict[str, float] = {}  # answers per second, by server
        self._states: dict[str, tuple[str, float]] = {}  # of each server, and since when (monotonic)
        self.reloads = 0
        self._environ = environ
        self._via = made_up_name()  # one for all workers, of now and later
        self._sockets: list[list[socket.socket]] = []
        # One worker need not tell itself what it has in hand.
        self._rows = GENERATIONS * told.config.workers
        self._free_rows = list(range(self._rows))
        self._memory = shared.make(self._rows) if told.config.workers > 1 else None
        self._shared = None if self._memory is None else Shared(self._memory, self._rows)
        self._columns: dict[str, int] = {}
        self._workers: set[Worker] = set()
        self._ended: Report | None = None  # what those that have ended had counted
        self._changing = asyncio.Lock()  # one change of the workers at a time
        self._rolling = asyncio.Lock()  # one replacement of all of them at a time
        self._crashes: deque[float] = deque(maxlen=CRASHES_MAX)
        self._started = asyncio.Event()
        self._stop = asyncio.Event()
        self._failure = ""
        self._tasks: set[asyncio.Task[None]] = set()

    # The life of the whole.

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises OSError if a port cannot be had, FailedError if the workers cannot live."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        # From the beginning: by default either ends a process.
        loop.add_signal_handler(signal.SIGHUP, self._on_signal, self.reload)
        loop.add_signal_handler(signal.SIGUSR2, self._on_signal, self.restart)
        config = self.told.config
        self._sockets = listeners.listen(config.host, config.port, config.workers)
        async with contextlib.AsyncExitStack() as open_pages:
            ops = await asyncio.start_server(Admin(self).serve, "127.0.0.1", config.ops_port)
            open_pages.push_async_callback(_close, ops)
            if config.admin_socket:
                at = listeners.listen_at(config.admin_socket)
                open_pages.callback(_unlink, config.admin_socket)
                open_pages.push_async_callback(
                    _close, await asyncio.start_unix_server(Admin(self, may_change=True).serve, sock=at)
                )
            try:
                await self._start(config)
                self._started.set()
                self._task(self._poll())
                port, ops_port = (made.getsockname()[1] for made in (self._sockets[0][0], ops.sockets[0]))
                say("loadbalancer.started", host=config.host, port=port, ops_port=ops_port, workers=config.workers)
                await self._stop.wait()
            finally:
                cut = await self._stop_all()
        say("loadbalancer.stopped", level=logging.WARNING if cut else logging.INFO, cut=cut)
        if self._failure:
            raise FailedError(self._failure)

    async def reload(self) -> None:
        """Read the configuration anew and put it to work. Raises ConfigError or FailedError; then nothing has changed."""
        try:
            told = self._read_again()
        except ConfigError as error:
            for problem in error.problems:
                say("reload.refused", level=logging.WARNING, problem=problem)
            raise
        await self._roll(lambda now: now.again(told))
        self.reloads += 1
        say("reload.done")

    async def restart(self) -> None:
        """Replace every worker by a new one with the same settings. Raises FailedError; then nothing has changed."""
        await self._roll(lambda now: now)
        say("restart.done")

    # What the pages ask.

    @property
    def workers(self) -> list[Worker]:
        """All that there are, by slot."""
        return sorted(self._workers, key=lambda worker: (worker.slot, worker.since))

    @property
    def serving(self) -> list[Worker]:
        """Those that accept connections, by slot."""
        return [worker for worker in self.workers if worker.is_serving]

    @property
    def retiring(self) -> list[Worker]:
        """Those that still have clients, and accept none."""
        return [worker for worker in self._workers if worker.is_leaving]

    async def reports(self) -> Report:
        """Everything counted, by the workers there are and those there were, as it is now."""
        await self._tell_all("report")
        serving = [worker.report for worker in self.serving if worker.report]
        retiring = [worker.report for worker in self.retiring if worker.report]
        return merged(serving, retiring, self._ended)

    def since(self, servers: Mapping[str, Report]) -> dict[str, float]:
        """For how many seconds each of these servers has been seen in the state that it has now."""
        now = time.monotonic()
        for name, server in servers.items():
            if self._states.get(name, ("", 0.0))[0] != server["state"]:
                self._states[name] = (server["state"], now)
        self._states = {name: self._states[name] for name in servers}
        return {name: now - at for name, (_, at) in self._states.items()}

    def in_hand(self) -> dict[str, dict[str, int]] | None:
        """What the shared memory says that all workers have in hand, by server; None where there is none."""
        if self._shared is None:
            return None
        return {name: self._shared.sum(column)._asdict() for name, column in self._columns.items()}

    async def change(self, change: Change) -> None:
        """Do what an operator wants. Raises ConfigError for a wrong value, KeyError for a server that is none."""
        async with self._changing:
            told = change.on(self.told)
            self._find_columns(told)
            self.told = told
            say("changed", verb=change.verb, server=change.server, value=change.value)
            await self._tell_all("change", change=change, maxconn=told.maxconn, columns=self._columns)
            # A removed one's column is for others as soon as nobody has anything in hand there.
            known = {server.name for server in told.config.servers}
            self._columns = {name: column for name, column in self._columns.items() if name in known}

    # Workers.

    def _read_again(self) -> Told:
        told, now = Told.of(*gather(self._environ)), self.told
        fixed = [
            f"{SETTINGS[name].variable} is {str(getattr(told.config, name))!r}; allowed at a reload: what it was at the start, "
            f"{str(getattr(now.config, name))!r}"
            for name in FOR_LIFE
            if getattr(told.config, name) != getattr(now.config, name)
        ]
        if fixed:
            raise ConfigError(fixed)
        return told

    async def _start(self, config: Config) -> None:
        async with self._changing:
            await self._put_to_work(await self._make_all(self.told, range(config.workers)))

    async def _put_to_work(self, made: list[Worker]) -> None:
        asked = (worker.control.ask("serve", ANSWER_SECONDS) for worker in made)
        failed = [one for one in await asyncio.gather(*asked, return_exceptions=True) if isinstance(one, BaseException)]
        if failed or any(worker.child.returncode is not None for worker in made):
            for worker in made:
                self._retire(worker)  # it may have clients already
            raise FailedError(f"a new worker ended as soon as it was ready{f': {failed[0]}' if failed else ''}")
        for worker in made:
            worker.is_serving = True

    async def _make_all(self, told: Told, slots: range) -> list[Worker]:
        self._find_columns(told)
        made = await asyncio.gather(*(self._make(told, slot) for slot in slots), return_exceptions=True)
        failed = [one for one in made if isinstance(one, BaseException)]
        ready = [one for one in made if isinstance(one, Worker)]
        if failed:
            for worker in ready:
                worker.child.kill()
            raise FailedError(f"a worker did not start: {failed[0]}") from failed[0]
        return ready

    async def _make(self, told: Told, slot: int) -> Worker:
        row = self._free_rows.pop()  # there are more than can be wanted: a roll waits for the last one's old workers
        ours, theirs = socket.socketpair()
        memory = [] if self._memory is None else [self._memory]
        sockets = [made.fileno() for made in self._sockets[slot]]
        try:
            child = subprocess.Popen(  # noqa: ASYNC220 - it serves nobody, and a start is a fork
                [sys.executable, "-m", "loadbalancer.worker", str(os.getpid()), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *sockets, *memory],
            )
        except OSError:
            ours.close()
            self._free_rows.append(row)
            raise
        finally:
            theirs.close()
        worker = Worker(slot, row, child, await Control.over(ours), told.config.grace)
        self._workers.add(worker)
        handle = os.pidfd_open(child.pid)
        asyncio.get_running_loop().add_reader(handle, self._on_ended, worker, handle)
        try:
            await worker.control.ask(
                "work",
                READY_SECONDS,
                slot=slot,
                settings={**told.texts, SETTINGS["via"].variable: told.config.via or self._via},
                sockets=sockets,
                drained=sorted(told.drained),
                down=self._down(),
                maxconn=told.maxconn,
                shared=self._memory,
                rows=self._rows,
                row=row,
                columns=self._columns,
            )
        except GoneError as error:
            worker.is_leaving = True
            child.kill()
            raise FailedError(str(error)) from None
        return worker

    def _down(self) -> dict[str, str]:
        # A new worker that found out for itself would send requests there first.
        reports = [worker.report for worker in self.serving if worker.report]
        views = [view for report in reports for view in report["servers"].items()]
        return {name: server["reason"] for name, server in views if server["state"] == "down"}

    def _find_columns(self, told: Told) -> None:
        # A name keeps its column; a new name takes one in which nobody has anything in hand.
        if self._shared is not None:
            for server in told.config.servers:
                if server.name not in self._columns:
                    try:
                        self._columns[server.name] = self._shared.free_column(self._columns.values())
                    except LookupError as error:
                        raise FailedError(str(error)) from None

    def _on_ended(self, worker: Worker, handle: int) -> None:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)
        status = worker.child.wait()
        was_serving, worker.is_serving = worker.is_serving, False
        if was_serving and not self.is_stopping:
            say("worker.ended", level=logging.WARNING, worker=worker.slot, pid=worker.child.pid, status=status)
            self._task(self._replace(worker.slot))
        self._task(self._bury(worker))

    async def _bury(self, worker: Worker) -> None:
        await worker.control.heard()
        if self._shared is not None:
            self._shared.clear(worker.row)
        self._free_rows.append(worker.row)
        self._workers.discard(worker)
        if worker.report is not None:
            self._ended = remembered(self._ended, worker.report)
        worker.ended.set()

    async def _replace(self, slot: int) -> None:
        while not self.is_stopping:
            self._crashes.append(time.monotonic())
            if len(self._crashes) == CRASHES_MAX and self._crashes[-1] - self._crashes[0] < CRASH_SECONDS:
                self._failure = f"workers ended by themselves {CRASHES_MAX} times within {CRASH_SECONDS:.0f} s"
                self._stop.set()
                return
            await asyncio.sleep(min(BACKOFF_FIRST_SECONDS * 2 ** (len(self._crashes) - 1), BACKOFF_MAX_SECONDS))
            async with self._changing:
                if self.is_stopping or any(worker.slot == slot for worker in self.serving):
                    return  # a reload was faster
                try:
                    await self._put_to_work(await self._make_all(self.told, range(slot, slot + 1)))
                except FailedError as error:
                    say("worker.failed", level=logging.WARNING, worker=slot, reason=str(error))
                    continue
                return

    async def _roll(self, becomes: Callable[[Told], Told]) -> None:
        async with self._rolling:
            # Two generations at a time, or twenty reloads in a row would be twenty of them.
            await asyncio.gather(*(worker.ended.wait() for worker in self.retiring))
            async with self._changing:
                if self.is_stopping:
                    raise FailedError("the balancer is stopping")
                told = becomes(self.told)
                known = {server.name for server in self.told.config.servers}
                self._columns = {name: column for name, column in self._columns.items() if name in known}
                old = self.serving
                await self._put_to_work(await self._make_all(told, range(len(self._sockets))))
                self.told = told
                for worker in old:
                    self._retire(worker)

    def _retire(self, worker: Worker) -> None:
        worker.is_serving, worker.is_leaving = False, True
        self._task(self._see_off(worker, "retire"))

    async def _see_off(self, worker: Worker, how: str) -> None:
        try:
            await worker.control.ask(how, worker.grace + SPARE_SECONDS)
            async with asyncio.timeout(SPARE_SECONDS):
                await worker.ended.wait()
        except (GoneError, TimeoutError):
            worker.child.kill()  # a child that was not waited for: its number is its own
            await worker.ended.wait()

    async def _stop_all(self) -> int:
        say("loadbalancer.draining", workers=len(self._workers))
        self.is_stopping = True
        listeners.close(self._sockets)  # the workers' copies are closed by them
        everyone = list(self._workers)
        for worker in everyone:
            worker.is_serving, worker.is_leaving = False, True
            self._task(self._see_off(worker, "stop"))
        await asyncio.gather(*(worker.ended.wait() for worker in everyone))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return sum(worker.cut for worker in everyone)

    # What they are asked.

    async def _tell_all(self, do: str, **data: object) -> None:
        # Who does not answer has ended, or hears it later: it reads what it is asked in order.
        asked = (worker.control.ask(do, ANSWER_SECONDS, **data) for worker in self._workers)
        for failure in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(failure, BaseException) and not isinstance(failure, GoneError):
                raise failure

    async def _poll(self) -> None:
        before: dict[str, int] = {}
        at = time.monotonic()
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            servers = (await self.reports())["servers"]
            self.since(servers)  # looked at also while nobody asks
            now = time.monotonic()
            answers = {name: sum(server["answers"]) for name, server in servers.items()}
            # A server that was removed and added again counts from 0.
            self.rates = {name: max(0, count - before.get(name, count)) / (now - at) for name, count in answers.items()}
            before, at = answers, now

    def _on_signal(self, do: Callable[[], Awaitable[None]]) -> None:
        self._task(self._do(do))

    async def _do(self, do: Callable[[], Awaitable[None]]) -> None:
        await self._started.wait()
        try:
            await do()
        except ConfigError:
            pass  # said already, each problem by itself
        except FailedError as error:
            say("change.failed", level=logging.WARNING, reason=str(error))

    def _task(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _close(server: asyncio.Server) -> None:
    server.close()


def _unlink(path: str) -> None:
    Path(path).unlink(missing_ok=True)
