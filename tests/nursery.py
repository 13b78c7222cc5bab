"""Processes of the product that are born with everything imported: each is a fork of one that has done nothing else.

Imports are nine tenths of a start, two thirds of a second of a core, and a whole run starts more than a thousand processes. A fork
runs the same ``__main__``, with the environment, the output and the limit of open files that it is given. It is not pytest's own
process that forks, which has threads, connections and the tests; ``tests/mother.py`` is.

What this hides is an import that works only because another role's came first. The launcher starts every role from nothing, in
its own tests and in each demo.
"""

import asyncio
import atexit
import contextlib
import functools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import IO

from flashsale.settings import GEVENT_RABBIT, REPOSITORY
from flashsale.stack.processes import dies_with_us
from flashsale.stack.roles import BALANCER, ROLES
from tests.mother import GREEN, PLAIN

PATH = str(REPOSITORY / "src")
# Who must be patched before anything is imported has a mother of its own kind.
KIND = {role.module: GREEN if role.name == GEVENT_RABBIT else PLAIN for role in (*ROLES, BALANCER)}


class Child(asyncio.Protocol):
    """A process that was born here, as ``asyncio.subprocess`` would show it."""

    def __init__(self) -> None:
        self.returncode: int | None = None
        self._pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._heard = b""

    @property
    def pid(self) -> int:
        return self._pid.result()

    async def born(self) -> None:
        """Wait until it has a number."""
        await self._pid

    async def wait(self) -> int:
        """Its exit status, once it has ended and nothing of it is left here."""
        await self._over.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Raises ``ProcessLookupError`` once it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        with contextlib.suppress(ProcessLookupError):  # it has ended, and we have yet to hear of it
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def data_received(self, data: bytes) -> None:
        """Its number, and later how it ended."""
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            if self._pid.done():
                self.returncode = int(line)
            else:
                self._pid.set_result(int(line))

    def connection_lost(self, _: Exception | None) -> None:
        """There is no more to be heard; when it has not ended, its mother has, and takes it with her."""
        if not self._pid.done():
            self._pid.set_exception(ChildProcessError("the process that forks has died"))
        if self.returncode is None:
            self.returncode = -signal.SIGKILL
        self._over.set()  # not before: a loop that ends with this pipe open warns, and fails a test


async def bear(
    module: str, environment: Mapping[str, str], output: IO[bytes], errors: IO[bytes] | None = None, *, first: str = ""
) -> Child:
    """What ``python -m module`` would be, if ``first`` were done at its beginning. Errors go where the output goes, or elsewhere."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    asked = {"module": module, "environment": dict(environment), "files": files, "first": first}
    said, saying = os.pipe()
    try:
        handles = [output.fileno(), (errors or output).fileno(), saying]
        socket.send_fds(_mother(KIND[module]), [json.dumps(asked).encode()], handles)
    finally:
        os.close(saying)
    _, child = await asyncio.get_running_loop().connect_read_pipe(Child, os.fdopen(said, "rb", buffering=0))
    await child.born()
    return child


@functools.cache
def _mother(kind: str) -> socket.socket:
    """Where to ask for a process; who is behind it ends with us, and every child with her."""
    ours, hers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    modules = [module for module, needed in KIND.items() if needed == kind]
    with hers:
        mother = subprocess.Popen(
            [sys.executable, "-m", "tests.mother", kind, str(hers.fileno()), *modules],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": PATH},
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[hers.fileno()],
            preexec_fn=dies_with_us(signal.SIGKILL),  # noqa: PLW1509 - two system calls, no lock taken
        )

    def end() -> None:
        ours.close()
        mother.wait()

    atexit.register(end)
    return ours
