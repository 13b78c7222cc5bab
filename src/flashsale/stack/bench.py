# Benchmarks: each row is a module that measures, beside services and roles of its own. Law 1: a benchmark is started and
# ended here and measures elsewhere, in a process that says what it found as JSON. Law 2: a figure without its machine,
# commit, command and date is worth nothing, so they are written down here, for all alike.
from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flashsale.clone import ask_git
from flashsale.settings import ADMIN, ASYNCIO_REDIS, GEVENT_RABBIT, MIXED, REPOSITORY, Settings
from flashsale.stack.console import table
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.processes import dies_with_us
from flashsale.stack.running import Stack, python_environment, running_stack
from flashsale.stack.services import SYSTEM_PATH, install, may_install

INSTANCE = "bench"
STOP_WITHIN_S = 10.0
RESULT_BYTES_MAX = 16 << 20  # a result is a few KiB; a module that floods its stdout is broken


@dataclass(frozen=True)
class Subject:
    """What a benchmark can be told to measure, and what of it can be asked for alone."""

    name: str
    summary: str
    about: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Bench:
    """
    One benchmark: `python -m module [subject] [--part PART]... [--quick] --home DIR --pictures STEM --core N --processes name=pid,...`,
    with the environment of a process of `role`; it may keep what it needs in DIR, and what it draws is called STEM-something.
    It prints one JSON object: `table` (`header` and `rows`, of texts) or several `tables` (with a `title` each), `notes` (texts),
    `passed` where something had to hold, and whatever else it found.
    """

    name: str
    summary: str
    about: str
    module: str
    services: tuple[str, ...]
    roles: tuple[str, ...]  # running beside it; their count is the settings'
    role: str
    subjects: tuple[Subject, ...] = ()  # none: there is but one thing
    parts: tuple[str, ...] = ()  # of it, where there are no subjects
    bare_parts: frozenset[str] = frozenset()  # those for which no service and no role is started
    backends: tuple[str, ...] = ()  # running beside it with all that `up` starts of them
    programs: tuple[str, ...] = ()  # Debian packages that are called like the programs in them
    files: tuple[tuple[str, str], ...] = ()  # others, each with a file that it brings
    as_owner: bool = False  # it makes databases of its own, and gets PostgreSQL's URL of who may
    spares_core: bool = False  # services and roles keep off the last core, which the module gives to what it measures


BENCHES: tuple[Bench, ...] = (
    Bench(
        "backend",
        "purchases per second of one server process, beside others like it",
        "Gives the server one core, and everything else the other ones. Every round runs everything that is compared, one after\n"
        "the other, so that a slow minute of the machine is everybody's. Ratios are taken within a round.\n\n"
        "Bars stand behind the tables as met or missed; a missed one does not change the exit code, since it is the machine's as\n"
        "well.\n\n"
        "examples:\n  ./flash bench backend asyncio_redis\n  ./flash bench backend gevent_rabbit --part drain --part steady\n"
        "  ./flash bench backend asyncio_redis --quick --json",
        "benchmarks.backend",
        services=("postgres", "redis", "rabbitmq"),
        roles=("upkeep",),
        role="upkeep",  # it starts servers and payment workers itself, which between them need all services
        subjects=(
            Subject(
                ASYNCIO_REDIS,
                "the backend that answers with the verdict",
                "Parts, which together take about a quarter of an hour:\n\n"
                "  refusals  sold out by the gate and at once, beside what others would build\n"
                "  sellout   a sale that sells out in the middle; ends the run if anything but the stock is sold\n"
                "  million   a million attempts by a million buyers: memory, and the cost of the last\n"
                "  overload  half to ten times of what it can do, open loop; drawn as PNG and SVG beside the result\n"
                "  fsync     holds while every fsync takes 2 and 5 ms longer, by strace\n"
                "  held      committed before the answer, everything on the same cores; payment workers off, then on",
                ("refusals", "sellout", "million", "overload", "fsync", "held"),
            ),
            Subject(
                GEVENT_RABBIT,
                "the backend that queues",
                "Parts, which together take about a quarter of an hour:\n\n"
                "  memory    of an edge, and of a thousand open long-polls and streams\n"
                "  edges     gunicorn's gevent workers and ours, each answering a constant\n"
                "  accept    202 after the broker's confirm while nobody decides, beside the same edge answering a constant, and beside\n"
                "            what others would build\n"
                "  telling   from PostgreSQL's verdict to the buyer who waits for it, while nobody else is there\n"
                "  steady    the highest rate that edge, broker, worker and PostgreSQL keep up with on the same cores; open loop\n"
                "  drain     20,000 queued attempts, decided while the edge is idle\n\n"
                "An attempt that was accepted and is not decided in the end ends the run.",
                ("memory", "edges", "accept", "telling", "steady", "drain"),
            ),
        ),
        programs=("wrk", "strace"),
        spares_core=True,
    ),
    Bench(
        "lb",
        "what a request costs the balancer, beside HAProxy, nginx and what others would build",
        "Gives the balancer one core, and client and upstream the other ones. Every round runs everything that is compared, one\n"
        "after the other, and ratios are taken within a round.\n\n"
        "Parts:\n\n"
        "  plain     a request over kept connections, beside HAProxy, nginx, aiohttp as a proxy, and proxy.py\n"
        "  tls       the same with TLS at the balancer's port, beside HAProxy\n"
        "  idle      ten thousand clients with kept connections: memory of each, and what they cost those who ask\n"
        "  relay     five thousand event streams, beside HAProxy and nginx without its buffers\n"
        "  link      a purchase attempt through balancer and backend: shared links, pools, HAProxy\n\n"
        "Bars stand behind the tables as met or missed; a missed one does not change the exit code, since it is the machine's as\n"
        "well.\n\n"
        "examples:\n  ./flash bench lb\n  ./flash bench lb --part plain --quick --json",
        "benchmarks.lb",
        services=("postgres", "redis", "rabbitmq"),
        roles=("upkeep",),
        role="upkeep",
        parts=("plain", "tls", "idle", "relay", "link"),
        bare_parts=frozenset(("plain", "tls", "idle", "relay")),
        programs=("wrk", "nginx", "haproxy", "strace"),
        spares_core=True,
    ),
    Bench(
        "sse",
        "what a delivery of live stock costs, how fresh it is, and what viewers take from buyers",
        "Gives the server one core, and viewers, services and whoever changes the stock the other ones. Every round runs everything\n"
        "that is compared, one after the other, and ratios are taken within a round. A viewer that does not know the last change in\n"
        "the end ends the run.\n\n"
        "Parts:\n\n"
        "  fan       a thousand and five thousand viewers, 5 and 20 changes a second: ours on either backend, nginx with nchan\n"
        "  long      ten thousand viewers for five minutes: memory\n"
        "  hop       five thousand through the balancer, and through nginx\n"
        "  beside    a thousand purchases a second while five thousand watch: hub inside the server, and in a process of its own\n\n"
        "Bars stand behind the tables as met or missed; a missed one does not change the exit code, since it is the machine's as\n"
        "well.\n\n"
        "examples:\n  ./flash bench sse\n  ./flash bench sse --part fan --quick --json",
        "benchmarks.sse",
        services=("postgres", "redis", "rabbitmq"),
        roles=("upkeep",),
        role="upkeep",  # it starts servers itself, which between them need all services
        parts=("fan", "long", "hop", "beside"),
        programs=("nginx",),
        files=(("libnginx-mod-nchan", "/usr/lib/nginx/modules/ngx_nchan_module.so"),),
        spares_core=True,
    ),
    Bench(
        "authority",
        "holds per second of PostgreSQL, what each feature costs, how late holds end",
        "Batches of 128 on one hot SKU, beside a bare insert-and-update in every round; the function without one feature after\n"
        "the other; shops of up to a million purchases and ten thousand SKUs, which take minutes to fill; the sweepers' lateness.\n"
        "Bars stand in the table as met or missed; a missed one does not change the exit code, since it is the machine's as well.\n\n"
        "examples:\n  ./flash bench authority\n  ./flash bench authority --quick --json",
        "benchmarks.authority",
        services=("postgres",),
        roles=(),
        role="upkeep",
        as_owner=True,
    ),
    Bench(
        "payments",
        "holds settled per second of one payment worker",
        "The worker as it is, with a gateway that answers at once and with the simulated one over HTTP, beside a loop that only\n"
        "consumes and acknowledges the same messages, in every round.\n\n"
        "examples:\n  ./flash bench payments\n  ./flash bench payments --quick --json",
        "benchmarks.payments",
        services=("postgres", "rabbitmq"),
        roles=(),
        role="payments",
        as_owner=True,
    ),
    Bench(
        "strategies",
        "which ways of guarding a stock oversell, and what catches them",
        "Thirteen ways that others use, and our two, each in several processes on real stores. Every strategy says beforehand what\n"
        "each attack does to it. The attacks are arranged: buyers are held between check and act, processes are killed there, or\n"
        "before their answer, and Redis comes back with an old file. Then a crowd comes, delayed and left to chance. What every\n"
        "buyer was told is held against what the store has. On two busy cores the full run takes about\n"
        "25 minutes, and --quick about three.\n\n"
        "The exit status is 1 when a strategy is not as it claims: one that must break was not caught every time, or one that\n"
        "must not oversell did. Drawn as PNG and SVG beside the result.\n\n"
        "examples:\n  ./flash bench strategies\n  ./flash bench strategies --quick --json\n"
        "  ./flash bench strategies --part sql_read_then_write --part asyncio_redis",
        "benchmarks.strategies",
        services=("postgres", "rabbitmq"),  # Redis is its own, to be killed
        roles=(),
        role="upkeep",
        parts=(
            *("sql_read_then_write", "redis_get_then_decr", "cache_aside", "redis_ttl_lock", "redis_lua"),
            *("redis_decr_compensate", "sql_skip_locked", "sql_for_update", "sql_conditional_update", "sql_optimistic"),
            *("sql_advisory_lock", "sql_serializable", "queue_single_consumer", ASYNCIO_REDIS, GEVENT_RABBIT),
        ),
        programs=("redis-server",),
        as_owner=True,
    ),
    Bench(
        "operations",
        "what it costs every process that somebody looks at the operations page",
        "Starts what `up` starts, sells nothing, and compares the CPU that each role takes while nobody, one, and eight look.\n\n"
        "examples:\n  ./flash bench operations\n  ./flash bench operations --quick --json",
        "benchmarks.operations",
        services=(),
        roles=(ADMIN,),
        role=ADMIN,
        backends=(MIXED,),
    ),
)


# The comparison of the backends: a program of its own, which starts engine after engine and keeps what it saw.
COMPARISON = "benchmarks.comparison"
COMPARISON_STOPS_WITHIN_S = 90.0  # it has a whole engine to take down
SIZES = {
    "quick": "both backends compared, within ten minutes: estimates, no winners",
    "standard": "the same within an hour",
    "full": "the same within five hours: every scenario, as often as a verdict needs",
    "scenario": "one scenario of the comparison, or several, by name",
}


def options(parser: argparse.ArgumentParser) -> None:
    """One sub-word per row."""
    words = parser.add_subparsers(metavar="what", required=True)
    for size, summary in SIZES.items():
        _comparison_options(words, size, summary)
    for bench in BENCHES:
        sub = words.add_parser(
            bench.name,
            help=bench.summary,
            description=bench.about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(bench=bench, subject=None, parts=None)
        if not bench.subjects:
            _flags(sub, bench.parts)
            continue
        names = sub.add_subparsers(metavar="subject", required=True)
        for subject in bench.subjects:
            one = names.add_parser(
                subject.name,
                help=subject.summary,
                description=subject.about,
                formatter_class=argparse.RawDescriptionHelpFormatter,
                allow_abbrev=False,
            )
            one.set_defaults(subject=subject.name)
            _flags(one, subject.parts)


def _comparison_options(words: Any, size: str, summary: str) -> None:
    sub = words.add_parser(
        size,
        help=summary,
        description="Makes trials of benchmarks/comparison/scenarios: the same shoppers at each backend, a fresh engine for every trial, an\n"
        "audit after it. Everything is kept under FLASH_HOME/comparison; run.json there is the manifest. Exits with 1 if anything\n"
        "was sold, lost or invented wrongly.\n\n"
        "examples:\n  ./flash bench quick\n  ./flash bench scenario burst --blocks 3\n  ./flash bench standard --resume",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sub.set_defaults(comparison=size, names=[])
    if size == "scenario":
        sub.add_argument(
            "names", nargs="+", metavar="NAME", help="a file of benchmarks/comparison/scenarios, without .toml"
        )
        sub.add_argument(
            "--blocks", type=_at_least_one, metavar="N", help="so many blocks, instead of what the file says"
        )
    sub.add_argument("--seed", type=int, default=1, help="of arrivals and order (default: 1)")
    earlier = sub.add_mutually_exclusive_group()
    earlier.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="FOLDER",
        help="bring an interrupted run to its end (default: the latest)",
    )
    earlier.add_argument("--again", type=Path, metavar="FOLDER", help="the same trials as in an earlier run's manifest")


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _flags(parser: argparse.ArgumentParser, parts: tuple[str, ...]) -> None:
    if parts:
        parser.add_argument(
            "--part", action="append", dest="parts", choices=parts, help="this part only; may be repeated"
        )
    parser.add_argument("--quick", action="store_true", help="as little as shows that it works, and no more")
    parser.add_argument("--json", action="store_true", help="machine-readable result on stdout")


async def run(parsed: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Run one benchmark and keep its result under FLASH_HOME/benchmarks. Raises StackError if it cannot be run."""
    if "comparison" in parsed:
        return await _compare(parsed)
    bench: Bench = parsed.bench
    _need(bench, settings, say)
    cores = sorted(os.sched_getaffinity(0))
    if bench.spares_core:
        if len(cores) < 2:
            raise StackError(f"bench {bench.name} needs two cores: one for what it measures", Exit.MISSING)
        os.sched_setaffinity(0, cores[:-1])  # services and roles inherit it
    home = settings.home / "benchmarks"
    home.mkdir(parents=True, exist_ok=True)
    # The load is loopback's, so a server may believe names where the benchmark wants it to. Who may sign in is the benchmark's.
    origins = {**settings.origins, "admin_users": INSTANCE}
    settings = replace(settings, host="127.0.0.1", admin_users=home / "operators.json", origins=origins)
    services, roles = (bench.services, bench.roles) if _is_served(bench, parsed.parts) else ((), ())
    async with running_stack(
        settings, instance=INSTANCE, services=services, roles=roles, backends=bench.backends, say=say, fresh=True
    ) as stack:
        stem = home / f"{bench.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        found = await _measure(bench, stack, parsed, stem, cores[-1])
    result = _circumstances(bench, parsed) | found
    path = stem.with_suffix(".json")
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if parsed.json:
        print(json.dumps(result))
    else:
        for one in found.get("tables") or [found["table"]]:
            print(*([f"{one['title']}\n"] if "title" in one else []), table(one["header"], one["rows"]), "", sep="\n")
        print("\n".join(found["notes"]))
    say(f"kept as {path}")
    return Exit.OK if found.get("passed", True) else Exit.FAILED


async def _compare(parsed: argparse.Namespace) -> int:
    words = [parsed.comparison, *parsed.names, "--seed", str(parsed.seed)]
    words += [
        word
        for name in ("blocks", "resume", "again")
        if (value := getattr(parsed, name, None))
        for word in (f"--{name}", str(value))
    ]
    command = shlex.join(["./flash", "bench", *words])
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", COMPARISON, *words, "--command", command, "--commit", _commit()),
        cwd=REPOSITORY,
        env=dict(os.environ) | python_environment(os.environ),  # it reads the settings as we do
        stdin=asyncio.subprocess.DEVNULL,
        preexec_fn=dies_with_us(signal.SIGTERM),
    )
    try:
        return await child.wait()
    finally:
        await _stop(child, COMPARISON_STOPS_WITHIN_S)


def _need(bench: Bench, settings: Settings, say: Callable[[str], None]) -> None:
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"  # daemons lie where not everybody looks
    missing = [program for program in bench.programs if shutil.which(program, path=path) is None]
    missing += [package for package, file in bench.files if not Path(file).exists()]
    if missing and not may_install(settings):
        raise StackError(
            f"bench {bench.name} needs {' '.join(missing)}. Fix: apt-get install {' '.join(missing)}", Exit.MISSING
        )
    if missing:
        install(missing, say)


def _is_served(bench: Bench, parts: Sequence[str] | None) -> bool:
    return not bench.parts or not {*(parts or bench.parts)} <= bench.bare_parts


async def _measure(bench: Bench, stack: Stack, parsed: argparse.Namespace, stem: Path, core: int) -> dict[str, Any]:
    pids = {process.role: process.pid for process in stack.processes if process.pid is not None}
    words = [
        *("-m", bench.module, *_words(parsed)),
        *("--home", str(stem.parent), "--pictures", str(stem), "--core", str(core)),
        *("--processes", ",".join(f"{name}={pid}" for name, pid in pids.items())),
    ]
    environment = (
        stack.environment_for(bench.role)
        | {"MPLCONFIGDIR": str(stem.parent / "matplotlib")}  # its list of fonts is ours to keep, and nobody's home's
        | ({"FLASH_POSTGRES_URL": stack.urls.postgres_owner} if bench.as_owner else {})
    )
    code, said = await heard(words, environment, RESULT_BYTES_MAX)
    if code != 0 or not said:
        raise StackError(f"{bench.module} ended with {code}; it says why above")
    found: dict[str, Any] = json.loads(said)
    return found


def _words(parsed: argparse.Namespace) -> list[str]:
    # of the command line, as far as they say what is measured
    parts = [word for part in parsed.parts or [] for word in ("--part", part)]
    return [*([parsed.subject] if parsed.subject else []), *parts, *(["--quick"] if parsed.quick else [])]


def _circumstances(bench: Bench, parsed: argparse.Namespace) -> dict[str, Any]:
    return {
        "command": shlex.join(["./flash", "bench", bench.name, *_words(parsed)]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "load_before": [round(load, 2) for load in os.getloadavg()],
        },
    }


def _commit() -> str:
    # "+changes" because a figure of an uncommitted tree cannot be repeated
    try:
        head = ask_git(REPOSITORY, os.environ, "rev-parse", "HEAD")
        changes = ask_git(REPOSITORY, os.environ, "status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head.decode().strip() + ("+changes" if changes.strip() else "")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


async def heard(
    words: Sequence[str], environment: dict[str, str], bytes_max: int, stops_within_s: float = STOP_WITHIN_S
) -> tuple[int, bytes]:
    """Run a module of Python's that says one line on its stdout: its exit status and the line. It ends with us."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        cwd=REPOSITORY,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        limit=bytes_max,
        preexec_fn=dies_with_us(signal.SIGTERM),
    )
    assert child.stdout is not None
    try:
        said = await child.stdout.readline()
        code = await child.wait()
    finally:
        await _stop(child, stops_within_s)
    return code, said


async def _stop(child: asyncio.subprocess.Process, within_s: float = STOP_WITHIN_S) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.returncode is not None:
            return
        child.send_signal(number)
        try:
            async with asyncio.timeout(within_s):
                await child.wait()
        except TimeoutError:
            continue
