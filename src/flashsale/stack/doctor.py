# What is here, what will be used, and for everything that is wrong the one command that puts it right. Standard library
# only, and nothing is changed: it answers on a machine where nothing else works yet.
from __future__ import annotations

import importlib.util
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from flashsale.settings import Settings, mask_url
from flashsale.stack import environment, programs
from flashsale.stack.console import table
from flashsale.stack.exits import Exit
from flashsale.stack.lifecycle import UP
from flashsale.stack.processes import LOOPBACK, port_is_free
from flashsale.stack.roles import ROLE_BY_NAME, roles_of
from flashsale.stack.services import KINDS, fix_for, may_install
from flashsale.stack.state import Instance

MEMORY_BYTES_MIN = 1024 * 2**20
DISK_BYTES_MIN = 4 * 2**30  # PostgreSQL's log alone may take 2
OPEN_FILES_MIN = 4096
VERSION_WITHIN_S = 10.0


class Health(StrEnum):
    OK = "ok"
    OBTAINABLE = "obtainable"  # not here, but the launcher gets it by itself
    OPTIONAL = "optional"  # not here, not needed
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `fix` is a command or a variable to set; empty unless the health is bad."""

    name: str
    health: Health
    found: str
    fix: str = ""


def doctor(settings: Settings, *, as_json: bool) -> Exit:
    """Print all findings. MISSING if anything needed is neither here nor obtainable."""
    findings = examine(settings)
    healthy = all(finding.health is not Health.BAD for finding in findings)
    if as_json:
        print(json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print(table(("WHAT", "HEALTH", "FOUND"), [(f.name, f.health, f.found) for f in findings]))
        for finding in findings:
            if finding.fix:
                print(f"fix {finding.name}: {finding.fix}")
    return Exit.OK if healthy else Exit.MISSING


def examine(settings: Settings) -> list[Finding]:
    return [
        _system(),
        Finding("python", Health.OK, f"{platform.python_version()} at {sys.executable}"),
        _environment(settings),
        *(_service(name, settings) for name in KINDS),
        *_ports(settings),
        _open_files(),
        _memory(),
        _disk(settings),
        *(_for_tests(program, settings) for program in programs.PROGRAMS),
        _docker(),
    ]


def _system() -> Finding:
    if sys.platform == "linux":
        return Finding("system", Health.OK, platform.platform(terse=True))
    return Finding("system", Health.BAD, sys.platform, "run on Linux, or in a container")


def _environment(settings: Settings) -> Finding:
    if environment.is_whole(settings):
        return Finding("environment", Health.OK, str(settings.home / "venv"))
    if importlib.util.find_spec("ensurepip") is not None or may_install(settings):
        return Finding("environment", Health.OBTAINABLE, "made at the first start")
    package = f"python3.{sys.version_info.minor}-venv"
    return Finding("environment", Health.BAD, "Python's ensurepip is missing", f"apt-get install {package} (as root)")


def _service(name: str, settings: Settings) -> Finding:
    url = getattr(settings, f"{name}_url")
    if url:
        return Finding(name, Health.OK, f"given: {mask_url(url)}")
    program = KINDS[name].find()
    if program is not None:
        return Finding(name, Health.OK, f"{program} {_version(program)}".rstrip())
    if may_install(settings):
        return Finding(name, Health.OBTAINABLE, f"Debian packages: {' '.join(KINDS[name].packages)}")
    return Finding(name, Health.BAD, "not found", fix_for([name]))


def _version(program: Path) -> str:
    # The broker's script starts a broker whatever it is asked.
    if program.name == "rabbitmq-server":
        return ""
    done = subprocess.run(
        [str(program), "--version"], capture_output=True, text=True, timeout=VERSION_WITHIN_S, check=False
    )
    return done.stdout.partition("\n")[0]


def _ports(settings: Settings) -> list[Finding]:
    if Instance(settings.home, UP).holder() is not None:
        return [Finding("ports", Health.OK, "in use by the running instance")]
    wanted = [ROLE_BY_NAME[name] for name in roles_of(settings.backend)]
    servers = 1 + sum(
        getattr(settings, role.count) for role in wanted if role.serves or role.listens
    )  # 1: the balancer
    everyone = 1 + settings.admin_processes + sum(getattr(settings, role.count) for role in wanted)
    admin = [_range("admin_port", LOOPBACK, settings.admin_port, 1)] if settings.admin_processes else []
    return [
        _range("port", settings.host, settings.port, servers),
        _range("ops_port", LOOPBACK, settings.ops_port, everyone),
        *admin,
    ]


def _range(name: str, host: str, first: int, number: int) -> Finding:
    if first == 0:
        return Finding(name, Health.OK, "any free one")
    taken = [port for port in range(first, first + number) if port > 65_535 or not port_is_free(host, port)]
    if taken:
        found = f"taken on {host}: {', '.join(map(str, taken))}"
        return Finding(name, Health.BAD, found, f"export FLASH_{name.upper()}=0, or another number")
    return Finding(name, Health.OK, f"{first} is free" if number == 1 else f"{first} to {first + number - 1} are free")


def _open_files() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = "no limit" if hard == resource.RLIM_INFINITY else f"up to {hard}"
    if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES_MIN:
        return Finding("open files", Health.OK, found)
    return Finding("open files", Health.BAD, found, f"ulimit -Hn {OPEN_FILES_MIN} (as root)")


def _memory() -> Finding:
    available = 0
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    found = f"{available // 2**20} MiB available"
    if available >= MEMORY_BYTES_MIN:
        return Finding("memory", Health.OK, found)
    return Finding("memory", Health.BAD, found, f"free some: {MEMORY_BYTES_MIN // 2**20} MiB are needed")


def _disk(settings: Settings) -> Finding:
    place = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    found = f"{free // 2**30} GiB free for {settings.home}"
    if free >= DISK_BYTES_MIN:
        return Finding("disk", Health.OK, found)
    return Finding("disk", Health.BAD, found, "export FLASH_HOME=a directory with more room")


def _for_tests(program: programs.Program, settings: Settings) -> Finding:
    # never bad: only `test` needs it, and says so itself
    found = programs.find(program, os.environ)
    name = program.package
    if found is not None:
        return Finding(name, Health.OK, f"{found}, for `./flash test`")
    if not os.environ.get(program.variable) and may_install(settings):
        return Finding(name, Health.OBTAINABLE, f"Debian package: {name}, for `./flash test`")
    return Finding(name, Health.OPTIONAL, f"not found; `./flash test` needs it: {program.fix}")


def _docker() -> Finding:
    found = shutil.which("docker")
    return Finding("docker", Health.OPTIONAL, f"{found}, not used" if found else "not found, not needed")
