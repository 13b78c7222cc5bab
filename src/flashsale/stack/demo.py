# Whole sales, each watched from the first shopper to the audit. Law 1: the shoppers are a process of their own and know the
# engine through its wire. Law 2: the exit code is 0 only if the audit finds nothing and every shopper was answered.
from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import platform
import secrets
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import Popen
from typing import Any

import aiohttp
import asyncpg
import psutil
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from flashsale.authority.client import UNHURRIED_SECONDS, Authority
from flashsale.proof.auditor import Report, audit, gate_differs
from flashsale.proof.evidence import EvidenceError, read_told
from flashsale.proof.stores import Journal, StoreUnreachableError
from flashsale.proof.undersell import Movement, read_refusals, undersell
from flashsale.settings import REPOSITORY, Settings
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.options import DemoOptions
from flashsale.stack.processes import spawn
from flashsale.stack.roles import AUDITOR, BALANCER, GATEWAYS, uses
from flashsale.stack.running import Stack, python_environment, running_stack
from flashsale.stack.state import Instance, jwt_secret, write_private

INSTANCE = "demo"
TARGET_NEEDS = ("postgres_url", "redis_url", *(f"{role}_url" for role in GATEWAYS.values()))
OPENS_IN_S = 1.0  # the gate is built before the doors open, and nobody comes too early
OPEN_GUARD_S = 0.3  # servers round the opening up by up to 0.2 s, so that none opens before PostgreSQL
SALE_HOURS = 1  # a sale that a crash left behind closes by itself
PRICE_MINOR = 12_900
GATE_WITHIN_S = 120.0  # a keeper looks around every second
REST_WITHIN_S = (
    240.0  # beyond the hold's own length: a payment that ran out of tries is asked about after a minute, and after two
)
READY_WITHIN_S = 240.0  # RabbitMQ, then those that wait for it
CROWD_SPARE_S = 900.0  # beyond the arrival time: a wish is given up after 300 s, and a payment after 240 s
READ_WITHIN_S = 60.0  # of one question to the books, which is no hurry
POLL_S = 0.5
PLAIN_LINE_S = 2.0  # between two progress lines when nobody looks at a terminal
STOP_S = 5.0
TROUBLE_LINES_MAX = 40
KILL_AT = 0.15  # of the arrival time: in the middle of the opening rush; a second kill comes as much later, and so on
PERCENTILES = ("p50", "p95", "p99", "max")
OUTPUT_BYTES_MAX = 1 << 20  # of one line of the shoppers' process

_LEFT = "SELECT available FROM flash.stock WHERE sku = $1"
_OPEN = """
    SELECT (SELECT count(*) FROM flash.purchase WHERE sale_id = $1 AND state IN ('HELD', 'AUTHORIZING', 'AUTHORIZED'))
         + (SELECT count(*) FROM flash.payment y JOIN flash.purchase p ON p.id = y.purchase_id
            WHERE p.sale_id = $1 AND y.state IN ('ASKED', 'AUTHORIZED', 'REFUNDING')) AS count"""
_FIGURES = """
    WITH folded AS (
        SELECT kind, reason, delta, at, sum(delta) OVER (ORDER BY seq) AS units FROM flash.ledger WHERE sku = $1
    )
    SELECT count(*) FILTER (WHERE kind = 'hold') AS holds,
           coalesce(-sum(delta) FILTER (WHERE kind = 'hold'), 0)::bigint AS units_held_in_all,
           count(*) FILTER (WHERE reason = 'expired') AS expired,
           count(*) FILTER (WHERE reason = 'cancelled') AS cancelled,
           count(*) FILTER (WHERE kind = 'return') AS returned,
           (SELECT count(*) FROM flash.line l JOIN flash.purchase p ON p.id = l.purchase_id
            WHERE l.sku = $1 AND p.state = 'PAID') AS paid,
           extract(epoch FROM min(at) FILTER (WHERE kind = 'hold' AND units = 0) - min(at) FILTER (WHERE kind = 'hold'))::float8
               AS sold_out_after_s
    FROM folded"""

_MOVEMENTS = "SELECT extract(epoch FROM at)::float8 AS at, delta FROM flash.ledger WHERE sku = $1 ORDER BY seq"
_LEVELS = "SELECT seq, sum(delta) OVER (ORDER BY seq)::bigint AS units FROM flash.ledger WHERE sku = $1"


@dataclass(frozen=True)
class _Sale:
    id: str
    sku: str
    opens: datetime


async def run(options: DemoOptions, settings: Settings, say: Callable[[str], None]) -> int:
    """Run the sales; OK only if in each of them every invariant held and every shopper was answered."""
    began = time.monotonic()
    runs = []
    if options.target is None:
        # The shoppers name themselves, which is only believed on this machine.
        settings = replace(settings, auth="off", host="127.0.0.1")
    async with _stack(options, settings, say) as stack:
        authority = await Authority.connect(stack.urls.postgres_app, 1, UNHURRIED_SECONDS)
        try:
            for backend in options.backends:
                told = Instance(settings.home, INSTANCE).directory / f"told-{backend}.jsonl.gz"
                killing = functools.partial(_kill, stack, backend, options, say)
                result = await run_sale(
                    authority, stack, backend, options=options, settings=settings, say=say, killing=killing, told=told
                )
                runs.append(result)
                say(f"{backend}: {summary(result)}")
        finally:
            await authority.close()
    _show(runs, options, Console(stderr=options.json))
    document = {
        "ok": all(result["ok"] for result in runs),
        "options": asdict(options),
        "machine": _machine(),
        "seconds": round(time.monotonic() - began, 1),
        "runs": runs,
    }
    if options.json:
        print(json.dumps(document))
    return Exit.OK if document["ok"] else Exit.FAILED


@contextlib.asynccontextmanager
async def _stack(options: DemoOptions, settings: Settings, say: Callable[[str], None]) -> AsyncIterator[Stack]:
    if options.target is not None:
        # Somebody else's processes: only the stores are needed, to make the sale and to audit it.
        missing = [f"FLASH_{name.upper()}" for name in TARGET_NEEDS if not getattr(settings, name)]
        if missing:
            raise StackError(
                f"--target needs {', '.join(missing)}, those of the engine at {options.target}", Exit.USAGE
            )
        async with running_stack(
            settings, instance=INSTANCE, services=("postgres", "redis"), roles=(), say=say
        ) as stack:
            yield stack
        return
    # fresh: a demo shows its own sales, and must not stumble over the tables of an earlier version
    async with running_stack(
        settings, instance=INSTANCE, services=(), backends=options.backends, say=say, fresh=True
    ) as stack:
        yield stack


async def run_sale(
    authority: Authority,
    stack: Stack,
    backend: str,
    *,
    options: DemoOptions,
    settings: Settings,
    say: Callable[[str], None],
    killing: Callable[[], Coroutine[Any, Any, list[dict[str, Any]]]],
    told: Path,
) -> dict[str, Any]:
    """
    One sale on `backend`, from the first shopper to the audit, with `killing` meanwhile, which returns whom it killed; what
    shoppers were told is written to `told`. `ok` in the result: every invariant held and everybody was answered. Raises StackError when nobody can tell.
    """
    began = time.monotonic()
    await _await_ready(stack)
    sale = await _open_sale(authority, stack, backend, options, say)
    killer = asyncio.create_task(killing())
    try:
        crowd = await _send_crowd(stack, sale, backend, options=options, settings=settings, told=told)
        killed = await killer
    finally:
        killer.cancel()
    say("waiting for the last holds to lapse and the last payments to end")
    await _await_rest(stack, sale, options)
    await _await_ready(stack)  # the last kill may have been a store's, which the audit asks
    say("auditing PostgreSQL, Redis, the gateways' journals and what the shoppers were told")
    report = await _audit(stack, sale, settings, told)
    watched = await _watched(stack)
    figures = dict((await _row(stack, _FIGURES, sale.sku)) or {})
    levels = {row["seq"]: row["units"] for row in await _rows(stack, _LEVELS, sale.sku)}
    if not levels:
        raise StackError("PostgreSQL did not say what the ledger was, so nobody knows what viewers should have seen")
    watching = crowd["watching"]
    blind = saw_nothing(watching)
    shown_wrong = mistold(watching, levels)
    movements = [Movement(row["at"], row["delta"]) for row in await _rows(stack, _MOVEMENTS, sale.sku)]
    refusals = await asyncio.to_thread(read_refusals, told, sale.sku)
    await _await_ready(stack)
    await authority.change_sale(sale.id, state="ENDED")
    return {
        "ok": report.clean and watched["clean"] and crowd["everybody_was_answered"] and not shown_wrong and not blind,
        "backend": backend,
        "sale": sale.id,
        "seconds": round(time.monotonic() - began, 1),
        "killed": killed,
        "shoppers": crowd,
        "shown_wrong": shown_wrong,
        "nobody_was_shown_anything": blind,
        "balanced": await _balanced(stack, backend, options),
        "undersell": undersell(movements, refusals, max((told.until for told in refusals), default=0.0))._asdict(),
        "ledger": figures | {"units_sold_again": max(0, figures.get("units_held_in_all", 0) - options.stock)},
        "audit": report.document(),
        "watched": watched,
        "told_file": str(told),
    }


async def _await_ready(stack: Stack) -> None:
    # What was killed may still be on its way up.
    async with _within(READY_WITHIN_S, "not every process was ready again"):
        while not all(process.state == "ready" for process in stack.processes):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(POLL_S / 5)


async def _open_sale(
    authority: Authority, stack: Stack, backend: str, options: DemoOptions, say: Callable[[str], None]
) -> _Sale:
    name = f"demo-{secrets.token_hex(4)}"
    sale = _Sale(name, f"{name}-sneaker", datetime.now(UTC) + timedelta(seconds=OPENS_IN_S))
    await authority.create_sale(
        sale.id,
        merchant="demo",
        name="Demonstration sale",
        opens=sale.opens,
        closes=sale.opens + timedelta(hours=SALE_HOURS),
        buyer_limit=options.buyer_limit,
        hold_seconds=options.hold_seconds,
        currency="EUR",
    )
    await authority.add_item(sale.id, sale.sku, "Sneaker", PRICE_MINOR, options.stock)
    async with _within(GATE_WITHIN_S, "upkeep did not build the gate of the new sale"):
        while await gate_differs(stack.urls.postgres_auditor, stack.urls.redis, sale.id):  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(POLL_S / 5)
    await asyncio.sleep(max(0.0, (sale.opens - datetime.now(UTC)).total_seconds() + OPEN_GUARD_S))
    say(
        f"{sale.id} on {backend} is open: {options.stock:,} units, {options.shoppers:,} shoppers in {options.arrival_seconds} s, "
        f"holds of {options.hold_seconds} s, seed {options.seed}"
    )
    return sale


async def _kill(stack: Stack, backend: str, options: DemoOptions, say: Callable[[str], None]) -> list[dict[str, Any]]:
    begin = time.monotonic()
    killed = []
    for role in (role for role in options.kill if uses(backend, role)):
        await asyncio.sleep(options.arrival_seconds * KILL_AT)
        # of several balancers the one that this sale goes through
        pid = await stack.kill(role, options.backends.index(backend) if role == BALANCER.name else None)
        killed.append({"role": role, "pid": pid, "after_s": round(time.monotonic() - begin, 2)})
        say(f"kill -9 {pid} ({role})")
    return killed


async def _send_crowd(
    stack: Stack, sale: _Sale, backend: str, *, options: DemoOptions, settings: Settings, told: Path
) -> dict[str, Any]:
    # The figures of the shoppers' process. Raises StackError when it ends without any.
    targets = options.target or stack.address(BALANCER.name, options.backends.index(backend))
    command = [sys.executable, "-m", "benchmarks.load", "--json", "--targets", targets, "--sku", sale.sku]
    command += ["--shoppers", str(options.shoppers), "--seed", str(options.seed), "--told", str(told)]
    command += ["--arrival-seconds", str(options.arrival_seconds), "--buyer-limit", str(options.buyer_limit)]
    command += ["--viewers", str(options.viewers)]
    if settings.auth == "jwt":
        secret_file = told.with_name("shoppers_secret")
        write_private(secret_file, jwt_secret(settings))
        command += ["--secret-file", str(secret_file)]
    async with _child(command) as (child, output, errors):
        async with _within(options.arrival_seconds + CROWD_SPARE_S, "the shoppers did not come to an end"):
            result, trouble = await asyncio.gather(output.read(), _watch(stack, sale, options, errors))
        code = await asyncio.to_thread(child.wait, STOP_S)
    try:
        figures: dict[str, Any] = json.loads(result)
    except ValueError as error:
        raise StackError(f"the shoppers' process ended with {code} and said: {trouble or 'nothing'}") from error
    return figures


@contextlib.asynccontextmanager
async def _child(command: list[str]) -> AsyncIterator[tuple[Popen[bytes], asyncio.StreamReader, asyncio.StreamReader]]:
    ours, theirs = zip(os.pipe(), os.pipe(), strict=True)
    try:
        child = spawn(
            command,
            environment=python_environment(os.environ),
            stdout=theirs[0],
            stderr=theirs[1],
            death_signal=signal.SIGKILL,
            cwd=REPOSITORY,
        )
    finally:
        for handle in theirs:
            os.close(handle)
    try:
        yield child, await _reader(ours[0]), await _reader(ours[1])
    finally:
        if child.poll() is None:
            child.kill()
            child.wait(STOP_S)


async def _reader(handle: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=OUTPUT_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader),
        os.fdopen(handle, "rb"),
    )
    return reader


async def _watch(stack: Stack, sale: _Sale, options: DemoOptions, lines: asyncio.StreamReader) -> str:
    # Shows the shoppers' progress lines; returns the last other things they said, for when they fail.
    trouble: deque[str] = deque(maxlen=TROUBLE_LINES_MAX)
    with _progress(options) as show:
        async for line in lines:
            try:
                told = json.loads(line)
            except ValueError:
                trouble.append(line.decode(errors="replace").rstrip())
                continue
            left = await _row(stack, _LEFT, sale.sku)
            show(told, "?" if left is None else f"{left['available']:,}")
    return "\n".join(trouble)


@contextlib.contextmanager
def _progress(options: DemoOptions) -> Any:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainLines(options.shoppers).show
        return
    columns = (
        TextColumn("shoppers done"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}  held {task.fields[held]:,}  left {task.fields[left]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task: TaskID = progress.add_task("", total=options.shoppers, held=0, left="?")

        def show(told: dict[str, Any], left: str) -> None:
            progress.update(task, completed=told["left"], held=told["held"], left=left)

        yield show


class _PlainLines:
    # For logs and pipes: a line now and then.

    def __init__(self, shoppers: int) -> None:
        self._shoppers = shoppers
        self._next = 0.0

    def show(self, told: dict[str, Any], left: str) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PLAIN_LINE_S
        print(
            f"  {told['elapsed_s']:6.1f} s  arrived {told['arrived']:,}  done {told['left']:,}/{self._shoppers:,}  "
            f"held {told['held']:,}  units left {left}",
            file=sys.stderr,
            flush=True,
        )


async def _balanced(stack: Stack, backend: str, options: DemoOptions) -> dict[str, Any]:
    # What the sale's balancer says of itself since it started; nothing of a balancer that is not ours.
    if options.target is not None:
        return {"answers": {}}
    address = stack.ops_address(BALANCER.name, options.backends.index(backend))
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(READ_WITHIN_S)) as session,
        session.get(f"{address}/metrics") as answer,
    ):
        answer.raise_for_status()
        text = await answer.text()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    answers: Counter[str] = Counter()
    for sample in samples:
        if sample.name == "loadbalancer_requests_total":
            answers[sample.labels["server"]] += int(sample.value)
    return {
        "answers": dict(answers),
        "peak": {s.labels["server"]: int(s.value) for s in samples if s.name == "loadbalancer_server_peak"},
        "spilled": sum(int(s.value) for s in samples if s.name == "loadbalancer_spilled_total"),
    }


async def _audit(stack: Stack, sale: _Sale, settings: Settings, told: Path) -> Report:
    urls = {method: settings.gateway_urls.get(method) or stack.address(role) for method, role in GATEWAYS.items()}
    try:
        calls = await asyncio.to_thread(read_told, told)
        return await audit(
            stack.urls.postgres_auditor,
            stack.urls.redis,
            rabbitmq_url=stack.urls.rabbitmq,
            sale=sale.id,
            told=calls,
            journals=[Journal(url, method) for method, url in urls.items()],
        )
    except (EvidenceError, StoreUnreachableError) as error:
        raise StackError(f"the sale could not be audited: {error}") from error


async def _await_rest(stack: Stack, sale: _Sale, options: DemoOptions) -> None:
    # Past the bound the audit says what is still open: that is its finding, not a reason to stop.
    deadline = time.monotonic() + options.hold_seconds + REST_WITHIN_S
    while time.monotonic() < deadline:
        left = await _row(stack, _OPEN, sale.id)
        if left is not None and left["count"] == 0:
            return
        await asyncio.sleep(POLL_S)


async def _watched(stack: Stack) -> dict[str, Any]:
    # What the auditor that ran all the time saw; nothing of somebody else's processes. One that saw nothing proves nothing.
    auditors = [process for process in stack.processes if process.role == AUDITOR]
    if not auditors:
        return {"clean": True, "passes": 0, "violations": []}
    deadline = time.monotonic() + READY_WITHIN_S  # on a slow machine its first pass may go on
    while not (report := await _report(stack))["ready"] and time.monotonic() < deadline:  # noqa: ASYNC110 - another process
        await asyncio.sleep(POLL_S)
    return report | {"clean": stood_watch(report, sum(process.restarts for process in auditors))}


async def _report(stack: Stack) -> dict[str, Any]:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(READ_WITHIN_S)) as session,
            session.get(f"{stack.ops_address(AUDITOR)}/report") as answer,
        ):
            report: dict[str, Any] = await answer.json()
            return report
    except (aiohttp.ClientError, TimeoutError):
        return {"clean": True, "ready": False, "passes": 0, "violations": []}


def stood_watch(report: dict[str, Any], restarts: int) -> bool:
    """Did the auditor on watch see nothing wrong for good, and has it seen anything lately? One that was started again forgot."""
    return bool(report["clean"] and report["ready"] and not restarts)


def saw_nothing(watching: dict[str, Any]) -> bool:
    """Were there viewers, and none was shown a single number? Nothing wrong was shown then, but nothing right either."""
    return watching["viewers"] > 0 and not watching["heard"]


def mistold(watching: dict[str, Any], levels: Mapping[int, int]) -> int:
    """
    How often viewers were shown what is not so: a number the ledger never had at that movement, two numbers for one
    movement, or an older movement after a newer one. Takes what was heard out of `watching`: it is long.
    """
    heard: dict[str, int] = watching.pop("heard")
    false = sum(levels.get(int(seq)) != units for seq, units in heard.items())
    return false + int(watching["contradictions"]) + int(watching["backwards"])


async def _row(stack: Stack, query: str, argument: str) -> asyncpg.Record | None:
    # None while PostgreSQL is away: it may be the one that was killed.
    return next(iter(await _rows(stack, query, argument)), None)


async def _rows(stack: Stack, query: str, argument: str) -> list[asyncpg.Record]:
    try:
        connection = await asyncpg.connect(
            stack.urls.postgres_auditor, timeout=READ_WITHIN_S, command_timeout=READ_WITHIN_S
        )
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return []
    try:
        return await connection.fetch(query, argument)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return []
    finally:
        connection.terminate()


@contextlib.asynccontextmanager
async def _within(seconds: float, otherwise: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise StackError(f"{otherwise} within {seconds:.0f} s") from error


def _machine() -> dict[str, Any]:
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    named = [line.partition(":")[2].strip() for line in cpus.splitlines() if line.startswith("model name")]
    return {
        "cpu": named[0] if named else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def summary(result: dict[str, Any]) -> str:
    """A sale's result in a line."""
    found = {name: finding["count"] for name, finding in result["audit"]["findings"].items() if finding["count"]}
    wrong = f"viewers were shown {result['shown_wrong']} wrong numbers; " if result["shown_wrong"] else ""
    if result["nobody_was_shown_anything"]:
        wrong = "no viewer was shown anything; "
    unanswered = "" if result["shoppers"]["everybody_was_answered"] else "not everybody was answered; "
    if not result["watched"]["clean"]:
        wrong += (
            "the auditor on watch saw violations; " if result["watched"]["violations"] else "no auditor was on watch; "
        )
    held = f"{result['ledger'].get('holds', 0):,} holds in {result['seconds']:.0f} s; "
    return held + unanswered + wrong + (f"the audit found {found}" if found else "the audit found nothing")


def _column(result: dict[str, Any]) -> dict[str, str]:
    shoppers, ledger = result["shoppers"], result["ledger"]
    payments, undersold = shoppers["payments"], result["undersell"]
    sold_out = ledger.get("sold_out_after_s")
    return {
        "purchase attempts": f"{shoppers['attempts']:,}",
        "held": f"{shoppers['held']:,}",
        "sold out": f"{shoppers['sold_out']:,}",
        "over the limit": f"{shoppers['over_limit']:,}",
        "refused otherwise": f"{shoppers['refused']:,}",
        "paid": f"{ledger.get('paid', 0):,}",
        "payments tried again": f"{shoppers['payments_tried_again']:,}",
        "declined for good": f"{payments['declined']:,}",
        "paid too late": f"{payments['expired']:,}",
        "cancelled": f"{ledger.get('cancelled', 0):,}",
        "expired": f"{ledger.get('expired', 0):,}",
        "units sold again": f"{ledger['units_sold_again']:,}",
        "false sold-outs": f"{undersold['false_sold_outs']:,} of {undersold['sold_outs']:,}",
        "idle though wanted": f"{undersold['idle_unit_seconds']:.1f} unit-seconds",
        "errors": f"{shoppers['error'] + payments['error']:,}",
        "told to try later": f"{shoppers['try_later_answers']:,}",
        "tries without answer": f"{sum(shoppers['unknown_tries'].values()):,}",
        "never answered": f"{shoppers['unanswered'] + payments['unanswered']:,}",
        "queued first": f"{shoppers['queued']:,}",
        **_latencies("accepted", shoppers["accepted_ms"]),
        **_latencies("decided", shoppers["decided_ms"]),
        **_latencies("paid", shoppers["paid_ms"]),
        "answers per server": " ".join(f"{n:,}" for n in result["balanced"]["answers"].values()) or "-",
        "viewers": f"{shoppers['watching']['viewers']:,}",
        **_latencies("shown", shoppers["watching"]["age_ms"]),
        "shown wrong": f"{result['shown_wrong']:,}",
        "sold out after": "never" if sold_out is None else f"{sold_out:.2f} s",
        "most in flight": f"{shoppers['peak_in_flight']:,}",
        "arrivals": f"{shoppers['arrivals_per_s']:,.0f}/s",
        "shopping took": f"{shoppers['wall_s']:.1f} s",
        "sale and audit took": f"{result['seconds']:.1f} s",
    }


def _latencies(what: str, found: dict[str, float]) -> dict[str, str]:
    return {f"{what} after ({name})": f"{found[name]:,.0f} ms" if name in found else "-" for name in PERCENTILES}


def _show(runs: list[dict[str, Any]], options: DemoOptions, console: Console) -> None:
    table = Table(title=f"{options.shoppers:,} shoppers, {options.stock:,} units, seed {options.seed}")
    table.add_column("", no_wrap=True)
    for result in runs:
        table.add_column(result["backend"], justify="right")
    columns = [_column(result) for result in runs]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    table.add_section()
    for name in runs[0]["audit"]["findings"]:
        counts = [result["audit"]["findings"][name]["count"] for result in runs]
        table.add_row(name.replace("_", " "), *(f"[bold {'red' if n else 'green'}]{n}[/]" for n in counts))
    table.add_row("violations while it ran", *(f"{len(result['watched']['violations'])}" for result in runs))
    table.add_row("passes while it ran", *(f"{result['watched']['passes']:,}" for result in runs))
    console.print(table)
    for result in runs:
        for row in result["watched"]["violations"]:
            text = f"{result['backend']}: on watch, {row['rule']} ({row['invariant']}): {'; '.join(row['witnesses'])}"
            console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        for name, finding in result["audit"]["findings"].items():
            for witness in finding["witnesses"]:
                text = f"{result['backend']}: {name.replace('_', ' ')}: {witness}"
                console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
