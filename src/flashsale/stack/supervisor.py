# Keeps an instance's processes alive, and takes them all down. Law 1: a process that was ready once is restarted, on
# its own port, until it crashes too often; then everything ends with the reason. Law 2: whatever ends the supervisor,
# nothing it started stays: it stops them in reverse order, the kernel does if it is killed (processes.spawn), and the
# next start ends whatever the record still names.
from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flashsale.stack import processes
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.processes import Identity, User
from flashsale.stack.state import Instance

READY_POLL_S = 0.05
CRASHES_MAX = 5  # within CRASH_WINDOW_S; a sixth would only repeat the first five
CRASH_WINDOW_S = 60.0
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 5.0
LOG_BYTES_MAX = 8 * 1024 * 1024  # per process, and once more for the older half
LOG_CHECK_S = 1.0
LOG_TAIL_LINES = 15
REAP_GRACE_S = 5.0


@dataclass(frozen=True)
class ProcessSpec:
    """One process to keep alive. `stop_signal` asks for an orderly end, `death_signal` comes if the launcher dies."""

    role: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ready: Callable[[], Awaitable[bool]]
    index: int = 0
    port: int | None = None
    ops_port: int | None = None
    ready_within_s: float = 120.0  # who dies is noticed at once, and a machine under load takes long to import
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within_s: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL
    user: User | None = None
    cwd: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.role}-{self.index}"


@dataclass
class Process:
    """A spec and what became of it. `state`: starting, ready, backoff, stopping, stopped or failed."""

    spec: ProcessSpec
    log: Path
    state: str = "starting"
    restarts: int = 0
    identity: Identity | None = None
    ready_at: float | None = None
    was_killed: bool = False  # by `kill`, and not restarted since
    exited: asyncio.Future[int] = field(init=False)

    @property
    def pid(self) -> int | None:
        return None if self.identity is None else self.identity.pid

    @property
    def role(self) -> str:
        return self.spec.role

    @property
    def port(self) -> int | None:
        return self.spec.port

    @property
    def ops_port(self) -> int | None:
        return self.spec.ops_port

    def record(self) -> dict[str, Any]:
        return {
            "role": self.spec.role,
            "index": self.spec.index,
            **({"pid": None} if self.identity is None else self.identity.record()),
            "port": self.spec.port,
            "ops_port": self.spec.ops_port,
            "state": self.state,
            "restarts": self.restarts,
            "ready_at": self.ready_at,
            "log": str(self.log),
        }


class Supervisor:
    """
    `async with Supervisor(instance, say)` holds the instance; leaving it stops everything. If a process is given up
    meanwhile, the task that entered is cancelled and the `async with` raises StackError with the reason.
    """

    def __init__(self, instance: Instance, say: Callable[[str], None]) -> None:
        self.instance = instance
        self.processes: list[Process] = []
        self._say = say
        self._levels: list[list[Process]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._extra: dict[str, Any] = {}
        self._status = "starting"
        self._given_up: StackError | None = None
        self._stopping = False
        self._on_exit = contextlib.ExitStack()
        self._owner: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        self._owner = asyncio.current_task()
        self._on_exit.enter_context(self.instance.locked())
        try:
            left = processes.end(self.instance.recorded, grace_s=REAP_GRACE_S)
            if left:
                self._say(f"ended {len(left)} processes that an earlier start left behind")
            self._write()
        except BaseException:
            self._on_exit.close()
            raise
        self._watch(self._bound_logs())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # In a task of its own: a second Ctrl-C must not leave half of it running. Every step has its bound.
        stopping = asyncio.create_task(self._stop_all())
        interrupted = False
        while not stopping.done():
            try:
                await asyncio.wait({stopping})
            except asyncio.CancelledError:
                interrupted = True
        reason = self._given_up or (error if isinstance(error, StackError) else None)
        self._status = "stopped" if reason is None else "failed"
        self._write(reason)
        self._on_exit.close()
        stopping.result()
        if self._given_up is not None and self._owner is not None:
            self._owner.uncancel()
            raise self._given_up from error
        if interrupted and error is None:
            raise asyncio.CancelledError

    async def start(self, *specs: ProcessSpec) -> None:
        """Start them side by side and return when all are ready. Raises StackError if one ends or takes too long."""
        level = [Process(spec, self._new_log(spec.name)) for spec in specs]
        self._levels.append(level)
        self.processes.extend(level)
        ready = [asyncio.get_running_loop().create_future() for _ in level]
        for process, future in zip(level, ready, strict=True):
            self._spawn(process)
            # Only the first failure is reported; the others' must count as seen.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._watch(self._keep(process, future))
        await asyncio.gather(*ready)

    async def run(self, name: str, command: tuple[str, ...], environment: Mapping[str, str], *, within_s: float) -> str:
        """Run a command to its end and return its stdout. Raises StackError with the end of its log if it fails."""
        output = self.instance.logs / f"{name}.out"
        output.unlink(missing_ok=True)
        spec = ProcessSpec(role=name, command=command, environment=environment, ready=_always, stop_within_s=2.0)
        process = Process(spec, self._new_log(name))
        level = [process]
        self._levels.append(level)
        self.processes.append(process)
        try:
            self._spawn(process, output)
            try:
                async with asyncio.timeout(within_s):
                    code = await asyncio.shield(process.exited)
            except TimeoutError:
                raise StackError(f"{name} took longer than {within_s:.0f} s{_tail(process.log)}") from None
            if code != 0:
                raise StackError(f"{name} failed ({_ending(code)}){_tail(process.log)}")
        finally:
            await self._stop(process)
            self.processes.remove(process)
            self._levels.remove(level)
            self._write()
        return output.read_text(encoding="utf-8", errors="replace")

    def kill(self, role: str, index: int | None = None) -> int:
        """SIGKILL one ready process of `role`, or the one of that index, and return its pid. Raises StackError if there is none."""
        for process in self.processes:
            if index is not None and process.spec.index != index:
                continue
            if process.role == role and process.state == "ready" and process.pid is not None:
                # Not yet waited for, or its state were not `ready`: the pid is still ours.
                os.kill(process.pid, signal.SIGKILL)
                process.state = "backoff"
                process.was_killed = True
                return process.pid
        raise StackError(f"no process of the role {role!r} is ready", Exit.USAGE)

    def announce(self, **extra: Any) -> None:
        """Everything is up; `extra` joins the recorded state."""
        self._extra.update(extra)
        self._status = "ready"
        self._write()

    def _new_log(self, name: str) -> Path:
        # The end of it is shown when something fails, and must not be another start's.
        log = self.instance.logs / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".old.log"))
        return log

    def _spawn(self, process: Process, output: Path | None = None) -> None:
        loop = asyncio.get_running_loop()
        spec = process.spec
        with _appending(process.log) as log, _appending(output or process.log) as out:
            child = processes.spawn(
                spec.command,
                environment=spec.environment,
                stdout=out,
                stderr=log,
                death_signal=spec.death_signal,
                user=spec.user,
                cwd=spec.cwd,
            )
        process.identity = Identity.of(child.pid) or Identity(child.pid, 0)
        process.exited = loop.create_future()
        handle = os.pidfd_open(child.pid)
        loop.add_reader(handle, self._on_exited, process, child, handle)
        self._write()

    def _on_exited(self, process: Process, child: subprocess.Popen[bytes], handle: int) -> None:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)
        # Before it is waited for: until then its group number is its own.
        processes.signal_group(child.pid, signal.SIGKILL)
        code = child.wait()
        process.identity = None
        process.ready_at = None
        if not process.exited.done():
            process.exited.set_result(code)

    async def _keep(self, process: Process, first_ready: asyncio.Future[None]) -> None:
        crashes: deque[float] = deque(maxlen=CRASHES_MAX)
        name = process.spec.name
        while True:
            try:
                await self._until_ready(process)
            except StackError as error:
                if not first_ready.done():
                    process.state = "failed"
                    self._write()
                    first_ready.set_exception(error)
                    return
                reason = str(error)
            else:
                if not first_ready.done():
                    first_ready.set_result(None)
                code = await asyncio.shield(process.exited)
                reason = f"{name} ended ({_ending(code)})"
            pause_s = BACKOFF_FIRST_S
            if process.was_killed:  # it did not crash, and says nothing about the next one
                process.was_killed = False
            else:
                crashes.append(time.monotonic())
                pause_s = min(BACKOFF_FIRST_S * 2 ** (len(crashes) - 1), BACKOFF_MAX_S)
            if len(crashes) == CRASHES_MAX and crashes[-1] - crashes[0] < CRASH_WINDOW_S:
                process.state = "failed"
                raise StackError(
                    f"{name} crashed {CRASHES_MAX} times within {CRASH_WINDOW_S:.0f} s, giving up{_tail(process.log)}"
                )
            process.state = "backoff"
            process.restarts += 1
            self._write()
            self._say(f"{reason}; restarting in {pause_s:.1f} s")
            await asyncio.sleep(pause_s)
            process.state = "starting"
            self._spawn(process)

    async def _until_ready(self, process: Process) -> None:
        spec = process.spec
        begin = time.monotonic()
        while time.monotonic() - begin < spec.ready_within_s:
            if process.exited.done():
                raise StackError(
                    f"{spec.name} ended before it was ready ({_ending(process.exited.result())}){_tail(process.log)}"
                )
            if await spec.ready():
                process.state = "ready"
                process.ready_at = time.time()
                self._say(f"{spec.name} ready after {time.monotonic() - begin:.1f} s (pid {process.pid})")
                self._write()
                return
            await asyncio.sleep(READY_POLL_S)
        await self._stop(process)
        raise StackError(f"{spec.name} was not ready within {spec.ready_within_s:.0f} s{_tail(process.log)}")

    def _watch(self, work: Coroutine[Any, Any, None]) -> None:
        # Work that ends with an error ends everything: nobody awaits it, so it would fail unseen.
        task = asyncio.create_task(work)
        task.add_done_callback(self._on_given_up)
        self._tasks.append(task)

    def _on_given_up(self, task: asyncio.Task[None]) -> None:
        if self._stopping or task.cancelled() or self._given_up is not None:
            return
        error = task.exception()
        if error is not None and self._owner is not None:
            self._given_up = error if isinstance(error, StackError) else StackError(f"the supervisor failed: {error!r}")
            self._owner.cancel()

    async def _stop_all(self) -> None:
        self._stopping = True
        self._status = "stopping"
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for level in reversed(self._levels):
            await asyncio.gather(*(self._stop(process) for process in level))
        self._write()

    async def _stop(self, process: Process) -> None:
        failed = process.state == "failed"
        for number, wait_s in ((process.spec.stop_signal, process.spec.stop_within_s), (signal.SIGKILL, 5.0)):
            if process.identity is None:
                break
            if not failed:
                process.state = "stopping"
            # To the leader alone, which knows how to end its own children; what it leaves, _on_exited kills.
            os.kill(process.identity.pid, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await asyncio.shield(process.exited)
        if not failed:
            process.state = "stopped"

    def _write(self, reason: StackError | None = None) -> None:
        own = Identity.of(os.getpid())
        self.instance.write(
            {
                "instance": self.instance.name,
                "status": self._status,
                "error": None if reason is None else str(reason),
                "code": None if reason is None else int(reason.code),
                "supervisor": None if own is None else own.record(),
                "processes": [process.record() for process in self.processes],
                **self._extra,
            }
        )

    async def _bound_logs(self) -> None:
        # A child writes to its file directly, so that a busy launcher never blocks it. Hence the file is cut from
        # outside: copied aside, then emptied; lines written between the two steps are lost.
        while True:
            await asyncio.sleep(LOG_CHECK_S)
            for process in self.processes:
                # Somebody deleted it, or the disk is full: the others are bounded all the same, and this one is tried
                # again next time.
                with contextlib.suppress(OSError):
                    if process.log.stat().st_size > LOG_BYTES_MAX:
                        shutil.copyfile(process.log, process.log.with_suffix(".old.log"))
                        os.truncate(process.log, 0)


@contextlib.contextmanager
def _appending(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


async def _always() -> bool:
    return True


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        if lines:
            return "\n  " + "\n  ".join(lines) + f"\n  (from {log})"
    return ""
