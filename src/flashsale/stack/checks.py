# test and audit: does the code hold, does the running sale hold.
from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flashsale.settings import FOREIGN_PREFIX, PREFIXES, REPOSITORY, Settings
from flashsale.stack import programs
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.lifecycle import running_urls
from flashsale.stack.processes import dies_with_us
from flashsale.stack.roles import AUDIT, GATEWAYS, DatabaseRole, OneShot
from flashsale.stack.running import Urls, gateway_variable, one_shot_environment, python_environment, running_stack

CHECK_WITHIN_S = 4 * 3600.0  # of hangs: every test has a bound of its own, and people may ask for an hour of storm
STOP_WITHIN_S = 10.0
CERTIFICATE, REPAIR = "flashsale.proof.certificate", "flashsale.proof.repair"
CERTIFICATE_KEY = "certificate_key.pem"  # in FLASH_HOME; what it signed is worth what its keeping was
SERVICES = ("postgres", "redis", "rabbitmq")
# pytest's workers in a whole run. Tests wait for processes, and processes for each other, so there are more of them than cores of a
# small machine, whose cores four keep busy; and a fixed number, so that a run is the same everywhere.
WORKERS = 4


@dataclass(frozen=True)
class Check:
    """One tool to run, by name and arguments for this Python."""

    name: str
    arguments: tuple[str, ...]


def workers(settings: Settings, pytest_arguments: Sequence[str]) -> int:
    """How many workers pytest is to have: one for a part of the tests, and one where they would share a given service."""
    given = settings.postgres_url or settings.redis_url or settings.rabbitmq_url
    return 1 if pytest_arguments or given else WORKERS


def checks(pytest_arguments: Sequence[str], workers: int) -> list[Check]:
    """Everything, cheapest first; with arguments for pytest, pytest alone."""
    if pytest_arguments:
        return [Check("pytest", ("-m", "pytest", *pytest_arguments))]
    typed = [
        folder
        for folder in ("src", "loadbalancer", "tests", "benchmarks", "scripts")
        if any((REPOSITORY / folder).rglob("*.py"))
    ]
    return [
        Check("ruff format", ("-m", "ruff", "format", "--check", ".")),
        Check("ruff check", ("-m", "ruff", "check", ".")),
        Check("mypy --strict", ("-m", "mypy", "--strict", "flash", *typed)),
        Check("pytest", ("-m", "pytest", *(spread(workers) if workers > 1 else ()))),
    ]


def spread(workers: int) -> tuple[str, ...]:
    """What tells pytest to take so many workers; tests/sharing.py says who does what."""
    # A worker that was started for one that crashed would have no services.
    return ("-n", str(workers), "--no-loadscope-reorder", "--max-worker-restart", "0")


def check_environment(environ: Mapping[str, str], urls: Sequence[Urls], found: Mapping[str, str]) -> dict[str, str]:
    """
    What the checks see: `environ` without the caller's settings, because the tests decide what is set. Of each service
    an address for every worker of pytest's, with spaces between them.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name.startswith(FOREIGN_PREFIX) or not name.startswith(PREFIXES)  # the former are the tests' own settings
    }
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # or every worker, and every process of a test's, would compile all anew
    return kept | {
        **python_environment(environ),
        f"{FOREIGN_PREFIX}POSTGRES_URL": " ".join(each.postgres_superuser or each.postgres_owner for each in urls),
        f"{FOREIGN_PREFIX}REDIS_URL": " ".join(each.redis for each in urls),
        f"{FOREIGN_PREFIX}RABBITMQ_URL": " ".join(each.rabbitmq for each in urls),
        **found,
    }


async def test(settings: Settings, say: Callable[[str], None], arguments: Sequence[str], *, as_json: bool) -> Exit:
    """Run the checks beside private services. Their output goes to stderr if the result is to be JSON."""
    results: list[dict[str, Any]] = []
    count = workers(settings, arguments)
    found = programs.ensure(programs.PROGRAMS, settings, os.environ, say)
    *static, tests = checks(arguments, count)

    async def run(check: Check, environment: dict[str, str]) -> None:
        say(f"{check.name} ...")
        begin = time.monotonic()
        code = await _run(check.arguments, environment, quiet_stdout=as_json)
        results.append({"check": check.name, "exit_code": code, "seconds": round(time.monotonic() - begin, 1)})

    async def read() -> None:
        for check in static:
            await run(check, check_environment(os.environ, (), found))

    async with contextlib.AsyncExitStack() as stacks:
        # What only reads the sources does it while the services start: each of the two would have one core busy.
        reading = asyncio.create_task(read())
        stacks.push_async_callback(_ended, reading)
        # A worker has services of its own: roles, wake-ups, queues and a broker's alarms are nobody else's.
        urls = []
        for name in ("test", *(f"test{number}" for number in range(2, count + 1))):
            services = running_stack(settings, instance=name, services=SERVICES, roles=(), say=say, fresh=True)
            urls.append((await stacks.enter_async_context(services)).urls)
        await reading
        await run(tests, check_environment(os.environ, urls, found))
    for result in results:
        say(f"{'ok    ' if result['exit_code'] == 0 else 'FAILED'} {result['check']} ({result['seconds']} s)")
    passed = all(result["exit_code"] == 0 for result in results)
    if as_json:
        print(json.dumps({"passed": passed, "checks": results}))
    return Exit.OK if passed else Exit.FAILED


def audit_options(parser: argparse.ArgumentParser) -> None:
    """What `audit` can be asked beside its plain question."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--sale", metavar="ID", help="audit this sale only")
    what.add_argument("--certify", metavar="SALE", help="sign what a sale that is over came to; needs --out")
    what.add_argument(
        "--verify",
        type=os.path.abspath,
        metavar="FILE",
        help="check a certificate, and its ledger if the database is running",
    )
    what.add_argument("--repair", action="store_true", help="say what would put the books right; changes nothing")
    what.add_argument(
        "--apply", type=os.path.abspath, metavar="PLAN", help="carry such a plan out; needs --operator and --reason"
    )
    parser.add_argument(
        "--out", type=os.path.abspath, metavar="FILE", help="where a certificate, or a plan, is written"
    )
    parser.add_argument("--fingerprint", metavar="HEX", help="the only key that --verify believes")
    parser.add_argument("--operator", metavar="NAME", help="who applies a plan; kept with it")
    parser.add_argument("--reason", metavar="TEXT", help="why; kept with it")


def audit_command(parsed: argparse.Namespace, settings: Settings) -> OneShot:
    """The process that answers, and as whom it enters the database. Raises StackError for options that do not fit together."""
    wanted = {"certify": ("out",), "verify": (), "repair": (), "apply": ("operator", "reason")}
    may = {"certify": ("out",), "verify": ("fingerprint",), "repair": ("out",), "apply": ("operator", "reason")}
    asked = next((name for name in wanted if getattr(parsed, name)), "audit")
    for name in ("out", "fingerprint", "operator", "reason"):
        given = bool(getattr(parsed, name))
        if (given and name not in may.get(asked, ())) or (not given and name in wanted.get(asked, ())):
            raise StackError(f"--{name} {'does not go with' if given else 'is needed by'} --{asked}", Exit.USAGE)
    match asked:
        case "certify":
            key = settings.home / CERTIFICATE_KEY
            words = [CERTIFICATE, "--sale", parsed.certify, "--out", parsed.out, "--key", str(key)]
        case "verify":
            fingerprint = ["--fingerprint", parsed.fingerprint] if parsed.fingerprint else []
            words = [CERTIFICATE, "--verify", parsed.verify, *fingerprint]
        case "repair":
            words = [REPAIR, *(["--out", parsed.out] if parsed.out else [])]
        case "apply":
            words = [REPAIR, "--apply", parsed.apply, "--operator", parsed.operator, "--reason", parsed.reason]
        case _:
            words = [AUDIT.arguments[1], *(["--sale", parsed.sale] if parsed.sale else [])]
    if parsed.json:
        words.append("--json")
    database = DatabaseRole.OPERATOR if asked == "apply" else AUDIT.database
    return replace(AUDIT, arguments=("-m", *words), database=database)


async def audit(parsed: argparse.Namespace, settings: Settings) -> int:
    """Run the auditor, or what goes with it, against the running instance; its exit code is ours."""
    shot = audit_command(parsed, settings)
    try:
        urls = running_urls(settings)
    except StackError:
        if not parsed.verify:  # a signature can be checked without a shop
            raise
        urls = dict.fromkeys(("postgres_auditor", "postgres_operator", "redis", "rabbitmq", *GATEWAYS.values()), "")
    known = Urls("", "", "", urls["postgres_auditor"], urls["postgres_operator"], "", urls["redis"], urls["rabbitmq"])
    environment = one_shot_environment(shot, settings, known)
    environment |= {gateway_variable(method): urls[role] for method, role in GATEWAYS.items()}
    return await _run(shot.arguments, environment, quiet_stdout=False)


async def _run(arguments: Sequence[str], environment: dict[str, str], *, quiet_stdout: bool) -> int:
    # In our process group: Ctrl-C reaches it as well, and its progress is the person's to see.
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=REPOSITORY,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=sys.stderr if quiet_stdout else None,
        preexec_fn=dies_with_us(signal.SIGTERM),
    )
    try:
        async with asyncio.timeout(CHECK_WITHIN_S):
            return await child.wait()
    except TimeoutError:
        raise StackError(f"{arguments[1]} took longer than {CHECK_WITHIN_S:.0f} s") from None
    finally:
        await _stop(child)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def _stop(child: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.returncode is not None:
            return
        child.send_signal(number)
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await child.wait()
        except TimeoutError:
            continue
