# Starting, recognising and ending operating-system processes. Law 1: a child never outlives the launcher, however the
# launcher dies. Law 2: only a process we started is ever signalled; a pid alone proves nothing, a pid, its start time and
# the boot they belong to do. Linux only, for both laws.
from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import SystemRandom
from typing import Any

from flashsale.stack.exits import Exit, StackError

# Private services and every operations port listen here, whatever address the shop itself listens on.
LOOPBACK = "127.0.0.1"
PR_SET_PDEATHSIG = 1
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PORT_FIRST = 20_000  # below the range from which the kernel takes source ports, see free_port
PORT_TRIES_MAX = 500

_promised: set[int] = set()  # ports given out here and perhaps not bound yet
_LIBC = ctypes.CDLL(None, use_errno=True)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class User:
    """Whom a child runs as when the launcher is root and the program refuses to be."""

    uid: int
    gid: int


@cache
def boot_id() -> str:
    """The kernel's name for the time since it booted."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "unnamed"  # then start times alone must do


@dataclass(frozen=True, slots=True)
class Identity:
    """A process for sure: its pid, the clock tick since boot at which the kernel started it, and which boot that was."""

    pid: int
    started: int
    boot: str = field(default_factory=boot_id)

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """None if there is no such process, or only its zombie."""
        fields = _stat(pid)
        return None if fields is None or fields[0] in "ZX" else cls(pid, int(fields[19]))

    @classmethod
    def recalled(cls, record: Mapping[str, Any]) -> Identity:
        """The process that `record` was made of; without a boot it could be anybody's, so it counts as dead."""
        return cls(record["pid"], record["started"], record.get("boot", ""))

    def record(self) -> dict[str, Any]:
        """What to keep on disk for `recalled`."""
        return {"pid": self.pid, "started": self.started, "boot": self.boot}

    @property
    def alive(self) -> bool:
        return Identity.of(self.pid) == self


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdout: int,
    stderr: int,
    death_signal: signal.Signals,
    user: User | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """
    Start `command` as the leader of its own process group, output to two file descriptors. When the launcher dies, the
    kernel sends the child `death_signal`. Call it from the main thread: the kernel watches the thread that forked, not
    the process. Raises StackError if the program cannot be started.
    """
    try:
        return subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            start_new_session=True,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else [],
            preexec_fn=dies_with_us(death_signal),  # noqa: PLW1509 - two system calls, no lock taken
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StackError(f"cannot start {command[0]}: {error}", Exit.MISSING) from error


def dies_with_us(number: signal.Signals) -> Callable[[], None]:
    """What a child does between fork and exec so that the kernel sends it `number` when we die."""
    parent = os.getpid()

    def tie() -> None:
        # Runs after `user=` took effect, which matters: a change of user clears the death signal. The parent may have
        # died before the call; then no signal ever comes, so look.
        if _LIBC.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(125)

    return tie


def signal_group(leader: int, number: signal.Signals) -> None:
    """Signal the group of a child that has not been waited for yet, so that its number cannot be another's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def end(identities: Iterable[Identity], *, grace_s: float) -> list[Identity]:
    """SIGTERM, up to `grace_s` seconds for all together, then SIGKILL. Returns those that were alive at the start."""
    found: list[tuple[Identity, int]] = []
    for identity in identities:
        # The descriptor pins the process: opened first, verified second, it cannot come to mean a successor.
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(identity.pid)
            if identity.alive:
                found.append((identity, handle))
            else:
                os.close(handle)
    try:
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
            waiting = [handle for identity, handle in found if identity.alive]
            for handle in waiting:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            deadline = time.monotonic() + wait_s
            while waiting and (left := deadline - time.monotonic()) > 0:
                gone, _, _ = select.select(waiting, [], [], left)
                waiting = [handle for handle in waiting if handle not in gone]
    finally:
        for _, handle in found:
            os.close(handle)
    return [identity for identity, _ in found]


def rss_bytes(pid: int) -> int:
    fields = _stat(pid)
    return 0 if fields is None else int(fields[21]) * _PAGE_BYTES


def cpu_seconds(pid: int) -> float:
    """User and system time of the process itself, without its children's."""
    fields = _stat(pid)
    return 0.0 if fields is None else (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def free_port(host: str = LOOPBACK) -> int:
    """
    A port nobody listens on and no other launcher has chosen. It lies below the kernel's source ports: otherwise any
    outgoing connection could take it while its owner restarts, and the owner must come back on the same one.
    """
    last = _first_source_port() - 1
    for _ in range(PORT_TRIES_MAX):
        port = SystemRandom().randint(PORT_FIRST, last)
        if port not in _promised and port_is_free(host, port) and _promise(port):
            return port
    raise StackError(f"no free port between {PORT_FIRST} and {last} on {host}", Exit.MISSING)


def _promise(port: int) -> bool:
    # Seconds pass until the port is listened on. An abstract address has one owner on this machine, and none when we are dead.
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0flashsale-port-{port}")
    except OSError:
        mark.close()
        return False
    mark.detach()  # open until we end
    _promised.add(port)
    return True


def port_is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections of a predecessor in TIME_WAIT do not make a port taken; servers bind with this option too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _first_source_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
    return first if first > PORT_FIRST + PORT_TRIES_MAX else 65_536


def _stat(pid: int) -> list[str] | None:
    # The fields of proc(5) from the third on: the second, the name, may hold spaces and parentheses.
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
