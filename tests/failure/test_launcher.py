# The launcher under fire: real services, real kills. Whatever dies, either it comes back on its port or nothing stays.
from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from flashsale.settings import REPOSITORY, Settings
from flashsale.stack import probes
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.processes import Identity, free_port, port_is_free
from flashsale.stack.running import running_stack
from flashsale.stack.state import Instance
from flashsale.stack.supervisor import CRASHES_MAX, ProcessSpec, Supervisor
from tests.patience import PATIENCE_SECONDS

SCENE = "scene"
# A launcher of its own, so that it can be killed.
LAUNCHER = """
import asyncio, sys
from flashsale.settings import Settings
from flashsale.signals import until_signalled
from flashsale.stack.exits import Exit
from flashsale.stack.running import running_stack

async def hold(home, services):
    settings = Settings.load({"FLASH_HOME": home})
    async with running_stack(settings, instance="scene", services=services, roles=(), say=print):
        await asyncio.Event().wait()

try:
    until_signalled(hold(sys.argv[1], sys.argv[2:]))
except KeyboardInterrupt:
    sys.exit(Exit.INTERRUPTED)
"""
# An operations port that is ready, and a child of its own that must not outlive it.
ROLE = """
import http.server, subprocess, sys

subprocess.Popen(["sleep", "300"])
class Ops(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Ops).serve_forever()
"""


@pytest.fixture
def home() -> Iterator[Path]:
    # Not pytest's own directory, which is closed to the user PostgreSQL runs as.
    directory = Path(tempfile.mkdtemp(prefix="flash-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings.load({"FLASH_HOME": str(home)})


def quiet(_: str) -> None:
    pass


def role(port: int) -> ProcessSpec:
    return ProcessSpec(
        role="role",
        command=(sys.executable, "-c", ROLE, str(port)),
        environment={"PATH": os.environ["PATH"]},
        ready=lambda: probes.role_is_ready("127.0.0.1", port),
        ops_port=port,
        stop_within_s=5.0,
    )


async def eventually(holds: Callable[[], bool], what: str, within_s: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


class Launcher:
    """A launcher in a process of its own, and what it says of itself."""

    def __init__(self, home: Path, *services: str) -> None:
        self.instance = Instance(home, SCENE)
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(home), *services],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY / "src")},
            stdout=subprocess.DEVNULL,
        )

    async def ready(self) -> dict[str, dict[str, Any]]:
        def is_ready() -> bool:
            assert self.process.poll() is None, "the launcher ended"
            state = self.instance.read()
            return state.get("status") == "ready" and state["supervisor"]["pid"] == self.process.pid

        await eventually(
            is_ready, "the services are ready", 5 * PATIENCE_SECONDS
        )  # installed, and started from nothing
        return {row["role"]: row for row in self.instance.read()["processes"]}

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


def descendants(pid: int) -> list[Identity]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found, todo = [], [pid]
    while todo:
        for child in children.get(todo.pop(), []):
            todo.append(child)
            identity = Identity.of(child)
            if identity is not None:
                found.append(identity)
    return found


async def test_a_killed_role_comes_back_on_its_port_and_its_child_goes_with_it(home: Path) -> None:
    port = free_port()
    async with Supervisor(Instance(home, SCENE), quiet) as supervisor:
        await supervisor.start(role(port))
        (process,) = supervisor.processes
        assert process.pid is not None
        (child,) = descendants(process.pid)
        dead = supervisor.kill("role")
        await eventually(lambda: process.state == "ready", "the role is back")
        assert process.restarts == 1
        assert process.pid != dead
        assert not child.alive
        assert await probes.role_is_ready("127.0.0.1", port)
    assert port_is_free("127.0.0.1", port)


async def test_a_role_that_is_killed_on_purpose_again_and_again_has_not_crashed(home: Path) -> None:
    async with Supervisor(Instance(home, SCENE), quiet) as supervisor:
        await supervisor.start(role(free_port()))
        (process,) = supervisor.processes
        for killed in range(1, CRASHES_MAX + 2):
            supervisor.kill("role")
            await eventually(lambda: process.state == "ready", "the role is back")
            assert process.restarts == killed


async def test_a_role_that_keeps_crashing_is_given_up_and_everything_ends(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "flashsale.stack.supervisor.CRASH_WINDOW_S", 3600.0
    )  # however long a slow machine takes to crash
    # It is ready exactly once, long enough to be seen, and then never starts again.
    port = free_port()
    flag = home / "once"
    code = f"import os, pathlib; pathlib.Path({str(flag)!r}).touch(exist_ok=False)\n" + ROLE
    spec = ProcessSpec(
        role="role",
        command=(sys.executable, "-c", code, str(port)),
        environment={"PATH": os.environ["PATH"]},
        ready=lambda: probes.role_is_ready("127.0.0.1", port),
    )
    with pytest.raises(StackError, match=rf"(?s)crashed {CRASHES_MAX} times.*FileExistsError") as caught:  # noqa: PT012
        async with Supervisor(Instance(home, SCENE), quiet) as supervisor:
            await supervisor.start(spec, role(other := free_port()))
            supervisor.kill("role")
            await asyncio.sleep(5 * PATIENCE_SECONDS)
    assert caught.value.code is Exit.FAILED
    assert port_is_free("127.0.0.1", other)
    assert Instance(home, SCENE).read()["status"] == "failed"


async def test_a_role_that_never_gets_ready_fails_the_start_with_its_last_words(home: Path) -> None:
    spec = ProcessSpec(
        role="role",
        command=(sys.executable, "-c", "raise SystemExit('no table called stock')"),
        environment={},
        ready=lambda: probes.role_is_ready("127.0.0.1", 1),
    )
    with pytest.raises(StackError, match="no table called stock"):
        async with Supervisor(Instance(home, SCENE), quiet) as supervisor:
            await supervisor.start(spec)


async def test_a_log_is_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashsale.stack.supervisor.LOG_BYTES_MAX", 10_000)
    monkeypatch.setattr("flashsale.stack.supervisor.LOG_CHECK_S", 0.05)
    spec = ProcessSpec(
        role="role",
        command=(sys.executable, "-c", "import time\nwhile True: print('x' * 999, flush=True); time.sleep(0.001)"),
        environment={},
        ready=_at_once,
    )
    async with Supervisor(Instance(home, SCENE), quiet) as supervisor:
        await supervisor.start(spec)
        log = supervisor.processes[0].log
        await eventually(log.with_suffix(".old.log").exists, "the older part was set aside")
        await eventually(lambda: log.stat().st_size < 10_000, "the file was emptied")


async def test_a_deleted_log_leaves_the_others_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashsale.stack.supervisor.LOG_BYTES_MAX", 10_000)
    monkeypatch.setattr("flashsale.stack.supervisor.LOG_CHECK_S", 0.05)
    code = "import time\nwhile True: print('x' * 999, flush=True); time.sleep(0.001)"
    specs = [
        ProcessSpec(role="role", index=index, command=(sys.executable, "-c", code), environment={}, ready=_at_once)
        for index in range(2)
    ]
    async with Supervisor(Instance(home, SCENE), quiet) as supervisor:
        await supervisor.start(*specs)
        first, second = (process.log for process in supervisor.processes)
        first.unlink()
        await asyncio.sleep(0.2)
        second.with_suffix(".old.log").unlink(missing_ok=True)
        await eventually(second.with_suffix(".old.log").exists, "the other is still cut")


async def test_a_watch_over_the_logs_that_fails_is_not_silent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("flashsale.stack.supervisor.LOG_BYTES_MAX", 0)
    monkeypatch.setattr("flashsale.stack.supervisor.LOG_CHECK_S", 0.05)
    monkeypatch.setattr("flashsale.stack.supervisor.shutil.copyfile", broken)
    spec = ProcessSpec(role="role", command=("/bin/sh", "-c", "echo x; sleep 300"), environment={}, ready=_at_once)
    with pytest.raises(StackError, match="a bug"):  # noqa: PT012
        async with Supervisor(Instance(home, SCENE), quiet) as supervisor:
            await supervisor.start(spec)
            await asyncio.sleep(PATIENCE_SECONDS)


async def _at_once() -> bool:
    return True


async def test_killed_services_come_back_with_what_they_acknowledged(settings: Settings) -> None:
    async with running_stack(settings, instance=SCENE, services=("postgres", "redis"), roles=(), say=quiet) as stack:
        ports = {process.role: process.spec.port for process in stack.processes}
        connection = await asyncpg.connect(stack.urls.postgres_owner)
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        for service in ("postgres", "redis"):
            await stack.kill(service)
        await eventually(lambda: all(process.state == "ready" for process in stack.processes), "both are back")
        assert {process.role: process.spec.port for process in stack.processes} == ports
        # at least: PostgreSQL's first may still meet a child of the one that was killed, which has its memory
        assert all(process.restarts >= 1 for process in stack.processes)
        connection.terminate()
        connection = await asyncpg.connect(stack.urls.postgres_owner)
        assert await connection.fetchval("SELECT answer FROM kept") == 42
        await connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_takes_everything_down_and_the_next_start_finds_the_data(
    home: Path, number: signal.Signals
) -> None:
    launcher = Launcher(home, "postgres", "redis")
    rows = await launcher.ready()
    started = descendants(launcher.process.pid)
    assert len(started) > len(rows)
    assert launcher.end(number) == Exit.INTERRUPTED
    assert not [identity for identity in started if identity.alive]
    assert all(port_is_free("127.0.0.1", row["port"]) for row in rows.values())
    assert launcher.instance.read()["status"] == "stopped"
    made = (home / SCENE / "postgres" / "data" / "PG_VERSION").stat().st_mtime_ns
    again = Launcher(home, "postgres", "redis")
    await again.ready()
    again.end(number)
    assert (home / SCENE / "postgres" / "data" / "PG_VERSION").stat().st_mtime_ns == made


async def test_a_killed_launcher_leaves_nothing_behind(home: Path) -> None:
    launcher = Launcher(home, "postgres", "redis")
    await launcher.ready()
    started = descendants(launcher.process.pid)
    launcher.end(signal.SIGKILL)
    await eventually(lambda: not any(identity.alive for identity in started), "all are gone")
    again = Launcher(home, "postgres", "redis")
    await again.ready()
    assert again.end(signal.SIGTERM) == Exit.INTERRUPTED


async def test_rabbitmq_its_port_mapper_and_its_helpers_die_with_a_killed_launcher(home: Path) -> None:
    launcher = Launcher(home, "rabbitmq")
    rows = await launcher.ready()
    assert await probes.amqp_answers("127.0.0.1", rows["rabbitmq"]["port"])
    started = descendants(launcher.process.pid)
    listening = _listening(rows["rabbitmq"]["port"])
    assert listening == {"127.0.0.1"}
    launcher.end(signal.SIGKILL)
    await eventually(lambda: not any(identity.alive for identity in started), "all are gone")
    assert port_is_free("127.0.0.1", rows["epmd"]["port"])


async def test_rabbitmq_stops_when_asked(settings: Settings) -> None:
    before = descendants(os.getpid())  # of other tests: who forks processes for them stays
    async with running_stack(settings, instance=SCENE, services=("rabbitmq",), roles=(), say=quiet) as stack:
        started = [identity for identity in descendants(os.getpid()) if identity not in before]
        assert started
        assert stack.urls.rabbitmq.startswith("amqp://flash:")
    await eventually(lambda: not any(identity.alive for identity in started), "all are gone")


async def test_a_second_launcher_is_refused_and_told_who_holds_the_instance(settings: Settings) -> None:
    with Instance(settings.home, SCENE).locked(), pytest.raises(StackError, match=str(os.getpid())):
        async with running_stack(settings, instance=SCENE, services=("redis",), roles=(), say=quiet):
            pass


async def test_what_a_start_left_behind_is_ended_by_the_next(home: Path) -> None:
    instance = Instance(home, SCENE)
    instance.create()
    with subprocess.Popen(["sleep", "300"]) as left, subprocess.Popen(["sleep", "300"]) as stranger:
        ours, theirs = Identity.of(left.pid), Identity.of(stranger.pid)
        assert ours is not None
        assert theirs is not None
        # The second pid was ours once; its number now means somebody else.
        rows = [ours.record(), theirs.record() | {"started": theirs.started - 1}]
        instance.write({"processes": rows})
        async with Supervisor(instance, quiet):
            assert left.wait(PATIENCE_SECONDS) == -signal.SIGTERM
            assert theirs.alive
        stranger.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts PostgreSQL as somebody else")
async def test_a_home_that_postgres_cannot_enter_gets_its_data_elsewhere(home: Path) -> None:
    home.chmod(0o700)
    inner = Settings.load({"FLASH_HOME": str(home / "inner")})
    async with running_stack(inner, instance=SCENE, services=("postgres",), roles=(), say=quiet) as stack:
        data = Instance(inner.home, SCENE).data("postgres")
        assert data.parent == Path("/var/lib/flashsale")
        connection = await asyncpg.connect(stack.urls.postgres_owner)
        await connection.close()
    Instance(inner.home, SCENE).remove()
    assert not data.exists()


def _listening(port: int) -> set[str]:
    # Local addresses, from proc(5), of sockets that listen (0A) on the port.
    found = set()
    for name, family, size in (("tcp", socket.AF_INET, 4), ("tcp6", socket.AF_INET6, 16)):
        for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                raw = bytes.fromhex(address)
                swapped = b"".join(raw[i : i + 4][::-1] for i in range(0, size, 4))
                found.add(socket.inet_ntop(family, swapped))
    return found
