# The command line. It is parsed before anything is looked for, so that --help always answers; then a command that needs
# third-party packages goes on under the environment's Python.
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flashsale.admin import users as admin_users
from flashsale.operate import buyer as operate_buyer
from flashsale.operate import dlq as operate_dlq
from flashsale.operate import merchant as operate_merchant
from flashsale.operate import operations as operate_operations
from flashsale.operate import purchase as operate_purchase
from flashsale.operate import sale as operate_sale
from flashsale.settings import BACKENDS, BALANCER_TABLE, MIXED, REPOSITORY, TABLE, Settings, SettingsError
from flashsale.signals import until_signalled
from flashsale.stack import (
    backup,
    balancer,
    bench,
    checks,
    doctor,
    environment,
    lifecycle,
    operations,
    report,
    submission,
    video,
)
from flashsale.stack.console import Say, table
from flashsale.stack.exits import EXIT_CODES_HELP, Exit, StackError
from flashsale.stack.options import KILLABLE, WORKERS, DemoOptions, SoakOptions
from flashsale.stack.roles import uses
from flashsale.stack.state import admin_users as admin_users_file
from flashsale.stack.state import jwt_secret

EVERY_BACKEND = "all"
TARGET = "target"  # what a sale is called that runs on somebody else's processes
DEMO_HOLD_S = 6  # so that a demonstration shows holds lapsing and units coming back
SOAK_S = 120
SOAK_SHOPPERS_PER_S = 40
COUNTED_SHOPPERS_PER_S = 10  # both of a kind are away so often that those who ask again are most of the load
SHOPPERS_MAX = 100_000
KILLS_MAX = 1000
TOKEN_MINUTES_MAX = 24 * 60


@dataclass(frozen=True)
class Command:
    """One word of the command line. `needs_environment`: it runs under the environment's Python."""

    name: str
    summary: str
    about: str
    run: Callable[[argparse.Namespace, Settings, Say], int]
    options: Callable[[argparse.ArgumentParser], None] = lambda _: None
    needs_environment: bool = True
    has_json: bool = True


def main(arguments: list[str]) -> int:
    """Run one command; returns its exit code (exits.Exit)."""
    parsed = _parser().parse_args(arguments)
    command: Command = parsed.command
    say = Say()
    try:
        settings = Settings.load(os.environ, REPOSITORY / ".env")
        if command.needs_environment:
            _enter_environment(settings, arguments, say)
        return command.run(parsed, settings, say)
    except SettingsError as error:
        for problem in error.problems:
            print(f"flash: {problem}", file=sys.stderr)
        return Exit.USAGE
    except StackError as error:
        print(f"flash: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not stumble over it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK


def _enter_environment(settings: Settings, arguments: list[str], say: Say) -> None:
    python = environment.ensure(settings, say)
    if sys.prefix != str(python.parent.parent):
        os.execv(python, [str(python), str(REPOSITORY / "flash"), *arguments])


def _demo(parsed: argparse.Namespace, settings: Settings, say: Say) -> int:
    from flashsale.stack import demo  # noqa: PLC0415 - needs third-party packages

    backends = tuple(BACKENDS) if parsed.backend == EVERY_BACKEND else (parsed.backend,)
    if parsed.target is not None:
        if parsed.kill:
            raise StackError(
                "--kill takes processes that the demonstration started, and with --target it starts none", Exit.USAGE
            )
        backends = (TARGET,)
    for name in parsed.kill:
        if not any(uses(backend, KILLABLE[name]) for backend in backends):
            raise StackError(f"a sale on {parsed.backend} has no {name} to kill", Exit.USAGE)
    options = DemoOptions(
        backends=backends,
        shoppers=_chosen(parsed, settings, "shoppers"),
        stock=_chosen(parsed, settings, "stock"),
        seed=_chosen(parsed, settings, "seed"),
        buyer_limit=_chosen(parsed, settings, "buyer_limit"),
        hold_seconds=_chosen(parsed, settings, "hold_seconds", DEMO_HOLD_S),
        arrival_seconds=_chosen(parsed, settings, "arrival_seconds"),
        kill=tuple(KILLABLE[name] for name in parsed.kill),
        viewers=_chosen(parsed, settings, "viewers"),
        target=parsed.target,
        json=parsed.json,
    )
    return until_signalled(demo.run(options, settings, say))


def _soak(parsed: argparse.Namespace, settings: Settings, say: Say) -> int:
    from flashsale.stack import soak  # noqa: PLC0415 - needs third-party packages

    kill = {KILLABLE[name]: times for name, times in parsed.kill}
    if len(kill) < len(parsed.kill):
        raise StackError("--kill names a role twice", Exit.USAGE)
    if sum(times or 0 for times in kill.values()) > KILLS_MAX:
        raise StackError(f"more than {KILLS_MAX} kills would outlast the sale", Exit.USAGE)
    for name, _ in parsed.kill:
        if not uses(parsed.backend, KILLABLE[name]):
            raise StackError(f"a sale on {parsed.backend} has no {name} to kill", Exit.USAGE)
    options = SoakOptions(
        backend=parsed.backend,
        seconds=parsed.seconds,
        seed=settings.seed if parsed.seed is None else parsed.seed,
        shoppers=0,
        kill=kill or {KILLABLE[name]: None for name in WORKERS if uses(parsed.backend, KILLABLE[name])},
        json=parsed.json,
    )
    per_s = COUNTED_SHOPPERS_PER_S if options.counted else SOAK_SHOPPERS_PER_S
    shoppers = parsed.shoppers or min(SHOPPERS_MAX, soak.arrival_seconds(options) * per_s)
    options = replace(options, shoppers=shoppers)
    return until_signalled(soak.run(options, settings, say))


def _soak_options(parser: argparse.ArgumentParser) -> None:
    for name, low, high, text in (
        ("seconds", 5, 3600, f"of processes dying at random, and of shoppers arriving at least (default {SOAK_S})"),
        (
            "shoppers",
            1,
            SHOPPERS_MAX,
            f"how many (default {SOAK_SHOPPERS_PER_S} for each second of arriving, {COUNTED_SHOPPERS_PER_S} while kills are counted)",
        ),
        ("seed", 0, 2**32 - 1, "equal seeds, equal kills and shoppers (default FLASH_SEED)"),
    ):
        parser.add_argument(
            f"--{name}",
            type=_bounded(_between(low, high), f"a whole number from {low} to {high}"),
            default=SOAK_S if name == "seconds" else None,
            metavar="N",
            help=text,
        )
    parser.add_argument(
        "--backend",
        choices=tuple(BACKENDS),
        default=MIXED,
        help=f"on which backend the sale is (default {MIXED}: on both at once)",
    )
    parser.add_argument(
        "--kill",
        action="append",
        default=[],
        type=_bounded(
            _kill, f"ROLE or ROLE=N; a role is one of {', '.join(sorted(KILLABLE))}, N from 1 to {KILLS_MAX}"
        ),
        metavar="ROLE[=N]",
        help="kill processes of this role, at random while --seconds last, or N times, however long that takes; may be given "
        f"once per role (default: {', '.join(WORKERS)}, as far as the backend has them). Roles: "
        f"{', '.join(sorted(KILLABLE))}; server is asyncio_redis's, edge gevent_rabbit's",
    )


def _kill(text: str) -> tuple[str, int | None]:
    name, counted, times = text.partition("=")
    if name not in KILLABLE:
        raise ValueError
    return name, _between(1, KILLS_MAX)(times) if counted else None


def _between(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
            raise ValueError
        return int(text)

    return parse


def _chosen(parsed: argparse.Namespace, settings: Settings, name: str, otherwise: int | None = None) -> int:
    # The option, else the setting if somebody gave it, else what the demonstration prefers.
    option: int | None = getattr(parsed, name)
    if option is not None:
        return option
    value: int = getattr(settings, name)
    return value if otherwise is None or settings.given(name) else otherwise


def _demo_options(parser: argparse.ArgumentParser) -> None:
    for setting in TABLE:
        if setting.name in {"shoppers", "viewers", "stock", "seed", "buyer_limit", "hold_seconds", "arrival_seconds"}:
            parser.add_argument(
                f"--{setting.name.replace('_', '-')}",
                type=_bounded(setting.kind.parse, setting.kind.allowed),
                metavar="N",
                help=f"{setting.help}; {setting.kind.allowed} ({setting.variable})",
            )
    parser.add_argument(
        "--backend",
        choices=(*BACKENDS, EVERY_BACKEND),
        default=EVERY_BACKEND,
        help=f"a sale on this backend, or {EVERY_BACKEND} (the default): one on each, one after the other",
    )
    parser.add_argument(
        "--kill",
        action="append",
        default=[],
        choices=sorted(KILLABLE),
        help="kill -9 one such process in the middle of every sale that uses it; may be given several times; server is "
        "asyncio_redis's, edge gevent_rabbit's",
    )

    parser.add_argument(
        "--target",
        type=_bounded(_base_url, "http://host:port"),
        metavar="URL",
        help="send the shoppers to an engine that runs already, such as docker-compose's, instead of starting one; its stores "
        "are named by FLASH_POSTGRES_URL (the owner's), FLASH_REDIS_URL and FLASH_GATEWAY_*_URL, its tokens signed by FLASH_JWT_SECRET",
    )


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname or not parts.port or parts.path not in {"", "/"}:
        raise ValueError
    return text.rstrip("/")


def _bounded(parse: Callable[[str], Any], allowed: str) -> Callable[[str], Any]:
    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}") from None

    return parsed


def _up(parsed: argparse.Namespace, settings: Settings, say: Say) -> int:
    if parsed.foreground:
        return until_signalled(lifecycle.up_in_foreground(settings, say, as_json=parsed.json))
    return lifecycle.up_in_background(settings, say, as_json=parsed.json)


def _up_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--foreground", action="store_true", help="stay, and stop everything on Ctrl-C or SIGTERM")


def _config(parsed: argparse.Namespace, settings: Settings, _: Say) -> int:
    rows = [
        {
            "variable": setting.variable,
            "value": settings.shown(setting),
            "origin": settings.origins[setting.name],
            "allowed": setting.kind.allowed,
            "help": setting.help,
        }
        for setting in TABLE
    ] + [
        {
            "variable": setting.variable,
            "value": settings.balancer_text(setting),
            "origin": settings.origins.get(setting.variable, "default"),
            "allowed": setting.kind.allowed,
            "help": setting.help,
        }
        for setting in BALANCER_TABLE
    ]
    if parsed.json:
        print(json.dumps(rows, indent=2))
    else:
        header = ("VARIABLE", "VALUE", "ORIGIN", "ALLOWED", "WHAT IT IS")
        print(table(header, [[row["variable"], row["value"] or "-", *list(row.values())[2:]] for row in rows]))
    return Exit.OK


def _drill(parsed: argparse.Namespace, settings: Settings, say: Say) -> int:
    from flashsale.stack import drill  # noqa: PLC0415 - needs third-party packages

    return until_signalled(drill.run(settings, say, as_json=parsed.json))


def _token(parsed: argparse.Namespace, settings: Settings, _: Say) -> int:
    from flashsale import identity  # noqa: PLC0415 - needs third-party packages

    token = identity.mint(jwt_secret(settings), parsed.buyer, parsed.role, parsed.minutes * 60)
    print(json.dumps({"token": token, "lifetime_s": parsed.minutes * 60}) if parsed.json else token)
    return Exit.OK


def _admin(parsed: argparse.Namespace, settings: Settings) -> int:
    try:
        admin_users.run(parsed, admin_users_file(settings))
    except admin_users.UsersError as error:
        raise StackError(str(error), Exit.FAILED) from error
    return Exit.OK


def _webhooks_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="where each event is posted")
    parser.add_argument("--secret-file", required=True, metavar="FILE", help="holds whsec_<base64 of 24 to 64 bytes>")
    parser.add_argument(
        "--topic", action="append", help="a topic or family.*; may be given several times (default: all)"
    )


def _restore_options(parser: argparse.ArgumentParser) -> None:
    _path(parser, "file", "a file that `backup` wrote")
    _flag(parser, "--replace", "lose the sales that are here")


def _token_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--buyer", required=True, help="the token's subject")
    parser.add_argument("--role", choices=("buyer", "admin"), default="buyer", help="what its bearer may do")
    parser.add_argument(
        "--minutes",
        type=_bounded(_between(1, TOKEN_MINUTES_MAX), f"a whole number from 1 to {TOKEN_MINUTES_MAX}"),
        default=60,
        metavar="N",
        help=f"how long it is valid, 1 to {TOKEN_MINUTES_MAX} (default 60)",
    )


COMMANDS = (
    Command(
        "demo",
        "run a whole sale, from an empty machine to the audit",
        "Sets everything up, lets shoppers arrive, pay, cancel and let holds lapse, and audits the result. Exits with 0\n"
        "only if every invariant held and every shopper was answered.\n\n"
        "examples:\n  ./flash demo\n  ./flash demo --backend asyncio_redis\n  ./flash demo --shoppers 5000 --stock 500 --kill server --kill redis\n"
        "  ./flash demo --backend gevent_rabbit --kill checkout --kill rabbitmq\n"
        "  ./flash demo --json > result.json",
        _demo,
        _demo_options,
    ),
    Command(
        "up",
        "start services and processes, in the background",
        "Starts the services, the servers of FLASH_BACKEND with their workers, and the balancer in front of them; waits\n"
        "until all are ready, prints the address of the shoppers' page and a call to try. Crashed processes are restarted.\n"
        "Data survives down and up. Running already is fine.\n\n"
        "examples:\n  ./flash up\n  FLASH_PORT=8000 LB_ALGORITHM=least_connections ./flash up\n"
        "  FLASH_BACKEND=asyncio_redis FLASH_AUTH=off ./flash up --foreground\n\n"
        "environment: FLASH_BACKEND LB_ALGORITHM FLASH_HOST FLASH_PORT FLASH_OPS_PORT FLASH_AUTH FLASH_POSTGRES_URL\n"
        "  FLASH_REDIS_URL FLASH_RABBITMQ_URL FLASH_APT; `./flash config` shows all",
        _up,
        _up_options,
    ),
    Command(
        "down",
        "stop what `up` started; data stays",
        "Asks politely, waits, then kills, and only what was started here.\n\nexample:\n  ./flash down",
        lambda parsed, settings, say: lifecycle.down(settings, say, as_json=parsed.json),
        needs_environment=False,
    ),
    Command(
        "status",
        "what runs: pid, ports, state, restarts, CPU, memory",
        "One line per process. Exits with 0 if all are ready, 1 if some are not, 3 if nothing runs.\n\n"
        "examples:\n  ./flash status\n  ./flash status --json",
        lambda parsed, settings, _: lifecycle.status(settings, as_json=parsed.json),
        needs_environment=False,
    ),
    Command(
        "test",
        "format, lint, types and all tests, beside private services",
        "Starts a private PostgreSQL, Redis and RabbitMQ for each of pytest's workers, runs ruff, mypy --strict and pytest,\n"
        "stops the services.\n"
        "Pages are tested in Chromium, the film with ffmpeg, and the balancer beside nginx and HAProxy: FLASH_TEST_CHROMIUM,\n"
        "FLASH_TEST_FFMPEG, FLASH_TEST_NGINX and FLASH_TEST_HAPROXY, else those on PATH, else, for root, Debian's are installed.\n"
        "Arguments go to pytest, which then runs alone.\n\n"
        "examples:\n  ./flash test\n  ./flash test tests/unit -k settings\n\n"
        "environment given to the tests: FLASH_TEST_POSTGRES_URL FLASH_TEST_REDIS_URL FLASH_TEST_RABBITMQ_URL, and every\n"
        "  other FLASH_TEST_* as it is",
        lambda parsed, settings, say: until_signalled(
            checks.test(settings, say, parsed.pytest_arguments, as_json=parsed.json)
        ),
    ),
    Command(
        "soak",
        "a sale while processes are killed at random, and its audit",
        "Runs a sale with two of every worker, kills one of them with SIGKILL every second or so, and looks at the books,\n"
        "the gateways' journals and the dead-letter queues afterwards. Exits with 0 only if every invariant held, every\n"
        "shopper was answered, every dead letter is explained, and every kill that was counted happened.\n\n"
        "A role is killed at random for --seconds, where whoever is not up at its moment is spared; or, with a number, so\n"
        "many times, two seconds apart or so, where whoever is not up, or has not served yet, is waited for. Shoppers arrive\n"
        "for 2.5 s per counted kill, or for --seconds, if those are more. Equal seeds and options, equal kills in order.\n\n"
        "examples:\n  ./flash soak\n  ./flash soak --seconds 600 --seed 7\n"
        "  ./flash soak --kill server --kill upkeep --kill redis --kill postgres\n"
        "  ./flash soak --backend asyncio_redis --kill server=200 --kill redis=50\n"
        "  ./flash soak --backend gevent_rabbit --kill edge=90 --kill checkout=100 --kill rabbitmq=10",
        _soak,
        _soak_options,
    ),
    Command(
        "audit",
        "prove the running sale: no unit oversold, lost or stuck",
        "Runs the auditor, with its read-only role, against what `up` started. Its exit code is passed on.\n"
        "A certificate of a sale that is over is signed with a key kept in FLASH_HOME; verified, it exits with 0 if it holds,\n"
        "1 if not, 3 if the ledger could not be reached. --repair makes a plan and changes nothing; --apply carries it out,\n"
        "once, and only while the books would still lead to the same plan.\n\n"
        "examples:\n  ./flash audit\n  ./flash audit --sale sample --json\n"
        "  ./flash audit --certify sample --out sample.json\n  ./flash audit --verify sample.json\n"
        "  ./flash audit --repair --out plan.json\n"
        "  ./flash audit --apply plan.json --operator olga --reason 'units lost in the crash of Monday'",
        lambda parsed, settings, _: until_signalled(checks.audit(parsed, settings)),
        checks.audit_options,
    ),
    Command(
        "sale",
        "a sale's life by hand: create, open, pause, end, restock, ...",
        "Everything that changes something needs a reason, is kept with it, and is done once per --key.\n\n"
        "examples:\n"
        "  ./flash sale list\n"
        "  ./flash sale create friday --merchant shop --name 'Black Friday' --closes 2026-11-28T00:00:00Z --limit 2 \\\n"
        "      --hold-seconds 120 --reason 'campaign 17'\n"
        "  ./flash sale add-item friday sneaker-43 --name 'Sneaker, size 43' --price-minor 12900 --units 500 --reason 'campaign 17'\n"
        "  ./flash sale open friday --reason 'doors open'\n"
        "  ./flash sale pause friday --reason 'wrong price'",
        lambda parsed, settings, _: operations.run(operate_sale.run, parsed, settings),
        operate_sale.options,
        has_json=False,
    ),
    Command(
        "purchase",
        "purchases: find, show, refund, restock, cancel",
        "A refund gives back all that was paid, through the payment worker, exactly once; units go on sale again when told.\n"
        "Each deed names its operator and its reason, and is done once per --key.\n\n"
        "examples:\n  ./flash purchase find --sku sneaker-42 --state PAID --last 20\n  ./flash purchase show 3f1c0c6e-0000-8000-8000-000000000001\n"
        "  ./flash purchase refund 3f1c0c6e-0000-8000-8000-000000000001 --reason 'arrived broken'\n"
        "  ./flash purchase restock 3f1c0c6e-0000-8000-8000-000000000001 --reason 'came back whole'",
        lambda parsed, settings, _: operations.run(operate_purchase.run, parsed, settings),
        operate_purchase.options,
    ),
    Command(
        "lb",
        "the load balancer: show, drain, weight, add, remove, reload, ...",
        "Shows the balancer of what `up` started, or changes it while it works: no request fails for it. A change lives until\n"
        "the next reload; a drained server stays drained. Exits with 2 if the name or the value is not one, with 1 if it could\n"
        "not be done, with 3 if no balancer is there.\n\n"
        "examples:\n  ./flash lb show\n  ./flash lb drain asyncio_redis-0\n  ./flash lb weight asyncio_redis-1 3\n"
        "  ./flash lb maxconn asyncio_redis-1 100\n  ./flash lb add spare=127.0.0.1:8090*2\n  ./flash lb algorithm least_connections\n"
        "  ./flash lb show --socket /run/lb.socket --json",
        lambda parsed, settings, _: balancer.run(parsed, settings),
        balancer.options,
        needs_environment=False,
    ),
    Command(
        "dlq",
        "messages set aside: list, show, requeue, drop",
        "Payments that no try brought to an end, and attempts that nobody could read, wait here for a person.\n\n"
        "examples:\n  ./flash dlq list payments\n  ./flash dlq requeue payments all --reason 'the gateway is back'\n"
        "  ./flash dlq drop checkout 5d3c8f2a9b1e4c77 --reason 'not ours'",
        lambda parsed, settings, _: operations.run(operate_dlq.run, parsed, settings),
        operate_dlq.options,
    ),
    Command(
        "operations",
        "what was done by hand: who, what, why, when",
        "Lists what operators did to the running shop, the latest last.\n\n"
        "examples:\n  ./flash operations\n  ./flash operations --subject sample --json",
        lambda parsed, settings, _: operations.run(operate_operations.run, parsed, settings),
        operate_operations.options,
    ),
    Command(
        "admin",
        "who may sign in to the admin page: add, role, password, remove",
        "Keeps names, roles and hashed passwords in a file under FLASH_HOME, or in FLASH_ADMIN_USERS. A change takes effect at\n"
        "once; a new password and a removal end the sessions of that name. A viewer looks, an operator changes things too.\n\n"
        "examples:\n  ./flash admin add olga --role operator\n  ./flash admin add jon --role viewer --generate\n"
        "  ./flash admin remove jon",
        lambda parsed, settings, _: _admin(parsed, settings),
        admin_users.options,
    ),
    Command(
        "bench",
        "measure, and write down on what and how",
        "Runs one benchmark beside private services, prints its table and keeps the result under FLASH_HOME/benchmarks; or compares\n"
        "the backends, trial after trial, and keeps everything under FLASH_HOME/comparison.\n\n"
        "examples:\n  ./flash bench backend asyncio_redis --quick\n  ./flash bench quick\n  ./flash bench scenario burst",
        lambda parsed, settings, say: until_signalled(bench.run(parsed, settings, say)),
        bench.options,
        has_json=False,
    ),
    Command(
        "report",
        "a comparison as statistics, figures, PDF and HTML; diff: two of them",
        "Computes what the latest run of the comparison came to, or the one that is named, and writes reports/ANALYSIS_REPORT.pdf,\n"
        "report.html, results.json, figures/ and the packed raw files; benchmarks/*.png and tests/results/ beside them. The latest\n"
        "result of `./flash bench strategies` is taken along. Starts nothing and needs no service.\n\n"
        "Who wins is computed: A, B, tie, inconclusive or disqualified. Exits with 1 if the books of a compared backend were wrong\n"
        "(the report is written all the same), or if reports/narrative.md has a hole that nothing fills; with 3 if there is no run,\n"
        "or one that was changed since.\n\n"
        "`diff A B` says what changed from A to B by more than noise, and what else was different; it exits with 1 if anything did.\n\n"
        "examples:\n  ./flash report\n  ./flash report 20261130T080000Z-1a2b3c4d\n"
        "  ./flash report diff 20261129T080000Z-9f8e7d6c 20261130T080000Z-1a2b3c4d\n"
        "  ./flash report diff reports/results.json 20261130T080000Z-1a2b3c4d --json",
        lambda parsed, settings, say: until_signalled(report.run(parsed, settings, say)),
        report.options,
    ),
    Command(
        "submission",
        "what was asked for, checked line by line and packed in one archive",
        "Holds every line of submission-checklist.md against the tree: the files it names are there and tracked, its command is one.\n"
        "The report, its pages and its summaries must be of the run that reports/results.json is of. If all of it holds, writes\n"
        "LASTNAME_FIRSTNAME_backend_project.zip: the whole project, and copies under the names that the assignment gives them, each\n"
        "with a note on where the original is. Unpacked elsewhere it is the project again, and makes the same archive, without git.\n\n"
        "Equal trees give equal bytes. Nothing is run, and nothing is written if a line does not hold: then it ends with 1 and says\n"
        "of each what makes it. 3 where neither git nor SHA256SUMS says what belongs to the project.\n\n"
        'examples:\n  ./flash submission Lovelace Ada\n  ./flash submission "O\'Neil-Smith" Zoë --out /tmp --json',
        lambda parsed, _, say: submission.run(parsed, _parser().parse_args, say),
        submission.options,
        needs_environment=False,
    ),
    Command(
        "video",
        "record the demonstration video from the running engine",
        "Plays scripts/video/storyboard.toml with an engine of its own, on the ports of FLASH_PORT, FLASH_OPS_PORT and FLASH_ADMIN_PORT,\n"
        "and writes reports/demo-video.mp4: about five minutes, H.264, 1280x720, less than 10 MB. Takes a quarter of an hour. Numbers\n"
        "on screen are those of the recording, and of the last report where there is one; a hole that nothing fills ends it with 1.\n"
        "Needs Chromium and ffmpeg: FLASH_TEST_CHROMIUM and FLASH_TEST_FFMPEG, else those on PATH, else, for root, Debian's are\n"
        "installed.\n\n"
        "examples:\n  ./flash video\n  ./flash video --quick\n  FLASH_PORT=0 FLASH_OPS_PORT=0 FLASH_ADMIN_PORT=0 ./flash video --out film.mp4",
        lambda parsed, settings, say: until_signalled(video.run(parsed, settings, say)),
        video.options,
    ),
    Command(
        "merchant",
        "what a sale brought: units, funnel, abandonment, revenue",
        "Reads one moment of the running shop with the read-only role. Amounts are in the currency's minor unit.\n\n"
        "examples:\n  ./flash merchant report sample\n  ./flash merchant report sample --json\n"
        "  ./flash merchant report sample --csv ./sample-report",
        lambda parsed, settings, _: operations.run(operate_merchant.run, parsed, settings),
        operate_merchant.options,
    ),
    Command(
        "buyer",
        "everything held about a buyer: print it, or forget the buyer",
        "`forget` replaces the buyer by a random pseudonym, once their sales are over and nothing of theirs is open; the\n"
        "books stay balanced, and a late retry of an old key neither buys nor shows anything.\n\n"
        "examples:\n  ./flash buyer export ana > ana.json\n  ./flash buyer forget ana --reason 'asked by letter of 3 May'",
        lambda parsed, settings, _: operations.run(operate_buyer.run, parsed, settings),
        operate_buyer.options,
    ),
    Command(
        "webhooks",
        "hand events to an HTTP address, signed, until Ctrl-C",
        "An example of a consumer of flash.events (contract/events.schema.json), beside what `up` started. At least once,\n"
        "signed as Standard Webhooks has it; https, or http on this machine.\n\n"
        "example:\n  ./flash webhooks https://shop.example/hook --secret-file hook.secret --topic 'purchase.*' --topic sale.ended",
        lambda parsed, settings, _: operations.deliver(parsed, settings),
        _webhooks_options,
        has_json=False,
    ),
    Command(
        "backup",
        "write what PostgreSQL knows to a file; selling goes on",
        "One moment, read with the read-only role while `up` runs. It names buyers; it holds no role's password, no copy that\n"
        "Redis or RabbitMQ keeps, and no bank's journal.\n\nexample:\n  ./flash backup monday.dump",
        lambda parsed, settings, _: backup.backup(settings, parsed.file, as_json=parsed.json),
        lambda parser: _path(parser, "file", "where to; must not exist"),
    ),
    Command(
        "restore",
        "put a backup in place, and audit it; `up` must not run",
        "All of it or nothing. Redis is rebuilt from it, RabbitMQ keeps what it holds. What was sold after the backup is gone\n"
        "from the books but not from the banks': `./flash audit` names it once `up` runs.\n\n"
        "examples:\n  ./flash restore monday.dump\n  ./flash restore monday.dump --replace",
        lambda parsed, settings, say: until_signalled(
            backup.restore(settings, parsed.file, say, replaces=parsed.replace, as_json=parsed.json)
        ),
        _restore_options,
    ),
    Command(
        "drill",
        "prove that Redis and RabbitMQ can be lost: wipe them, start again",
        "A small sale in an instance of its own, with holds, payments under way and purchases only queued; then both stores\n"
        "lose everything. Exits with 0 only if all of it comes back from PostgreSQL and the shoppers' receipts, and the audit\n"
        "finds nothing. Takes about a minute.\n\nexamples:\n  ./flash drill\n  ./flash drill --json",
        _drill,
    ),
    Command(
        "doctor",
        "what was found, what will be used, how to fix the rest",
        "Changes nothing. Exits with 0 if everything needed is here or can be obtained, otherwise with 3.\n\n"
        "examples:\n  ./flash doctor\n  ./flash doctor --json",
        lambda parsed, settings, _: doctor.doctor(settings, as_json=parsed.json),
        needs_environment=False,
    ),
    Command(
        "config",
        "every setting: value, origin, what is allowed",
        "The environment wins over the file .env, which wins over the default. Secrets are masked.\n\n"
        "examples:\n  ./flash config\n  FLASH_STOCK=500 ./flash config --json",
        _config,
        needs_environment=False,
    ),
    Command(
        "token",
        "mint a bearer token",
        "Prints a token signed with FLASH_JWT_SECRET, or with the secret kept in FLASH_HOME.\n\n"
        "examples:\n  ./flash token --buyer ana\n  ./flash token --buyer ops --role admin --minutes 10",
        _token,
        _token_options,
    ),
    Command(
        "clean",
        "remove all data; nothing may be running",
        "Removes databases, logs and passwords under FLASH_HOME; --all takes the Python environment and the token\n"
        "secret along.\n\nexamples:\n  ./flash clean\n  ./flash clean --all",
        lambda parsed, settings, say: lifecycle.clean(settings, say, everything=parsed.all),
        lambda parser: _flag(parser, "--all", "also the Python environment and the token secret"),
        needs_environment=False,
        has_json=False,
    ),
)


def _path(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(name, type=Path, help=text)


def _flag(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(name, action="store_true", help=text)


class _Parser(argparse.ArgumentParser):
    def parse_args(self, arguments: list[str]) -> argparse.Namespace:  # type: ignore[override]
        # What `test` does not know is pytest's; everywhere else it is a mistake.
        parsed, unknown = self.parse_known_args(arguments)
        if parsed.command.name == "test":
            parsed.pytest_arguments = [word for word in unknown if word != "--"]
        elif unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed


def _parser() -> _Parser:
    parser = _Parser(
        prog="flash",
        description="The flash-sale engine: set up, run, test and prove a sale.",
        epilog=EXIT_CODES_HELP,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.about,
            epilog=EXIT_CODES_HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(command=command)
        if command.has_json:
            _flag(sub, "--json", "machine-readable result on stdout")
        command.options(sub)
    return parser
