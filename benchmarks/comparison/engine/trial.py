"""One trial: a fresh engine, a sale, its shoppers, whoever looks on, and the audit.

What goes wrong with the engine's processes makes the trial void and does not end the run: a comparison of hours must not be lost to one
of its minutes, and what happened stays written down.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
from redis.asyncio import Redis

from benchmarks.comparison import contract
from benchmarks.comparison.contract import Event, Planned, Trial
from benchmarks.comparison.engine import cells, stores
from benchmarks.comparison.engine.crew import Shoppers, Watchers, shoppers, watchers
from benchmarks.comparison.engine.shop import Sale, open_sale, settle_accounts
from benchmarks.comparison.gates import Facts, judge, void_reasons
from benchmarks.comparison.observe import system
from benchmarks.comparison.observe.processes import Processes
from benchmarks.comparison.observe.queues import Queues
from benchmarks.comparison.observe.stock import Stock
from benchmarks.comparison.observe.watching import watching
from benchmarks.comparison.scenario import BURST, Engine, Load, Scenario, expected_shoppers, load_seconds
from flashsale.authority.client import AuthorityUnavailable
from flashsale.proof.stores import StoreUnreachableError
from flashsale.settings import Settings
from flashsale.stack.exits import StackError
from flashsale.stack.roles import BALANCER
from flashsale.stack.running import Stack, running_stack

INSTANCE = "comparison"
PRIMER = Load(
    model="constant", rate=100.0, seconds=2.0, connections=8
)  # before anybody counts: pools, caches, first batches
ARMED_FOR_S = "60"  # a connection may stand so long before its first request: whoever waits for a bell has one already
SETTLES_S = 10.0  # at most, until the machine is quiet before the release
QUIET = 0.05  # part of a second in which somebody waited for a processor
SPARE_S = 120.0  # beyond the last arrival and its patience: the rows are written as well
RECOVERS_WITHIN_S = 60.0
ASK_S = 10.0
POLL_S = 0.05
# What a store or a process that goes away looks like from here. Everything else is a fault of ours, and ends the run.
TROUBLES = (
    StackError,
    StoreUnreachableError,
    AuthorityUnavailable,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    OSError,
)
# What each process of the stack is called in the rows.
ROLES = {
    "loadbalancer": "lb",
    "asyncio_redis": "backend",
    "gevent_rabbit": "backend",
    contract.ASYNCIO_QUEUE: "backend",
    contract.GEVENT_DIRECT: "backend",
    "checkout": "worker",
    "payments": "payments",
    "gateway_card": "payments",
    "gateway_wallet": "payments",
    "gateway_transfer": "payments",
    "upkeep": "upkeep",
    "postgres": "postgres",
    "redis": "redis",
    "rabbitmq": "rabbitmq",
    "epmd": "rabbitmq",
}
VICTIMS = {"server": "", "worker": "checkout", "balancer": BALANCER.name}  # a server's role is its backend's


@dataclass(frozen=True)
class Place:
    """What the trials of a run share."""

    settings: Settings
    services: Stack
    ceiling_per_s: float | None
    environment: Mapping[str, str]


async def run(
    place: Place, planned: Planned, scenario: Scenario, seed: int, folder: Path
) -> tuple[Trial, dict[str, Any]]:
    """The trial, written down in ``folder``, and the generator's own glance at it. ``scenario`` is this trial's variant."""
    watch = _Stopwatch()
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    events: list[Event] = []
    found: dict[str, Any] = {}
    trouble = ""
    audit = contract.NOT_AUDITED
    facts: Facts | None = None
    try:
        async with _engine(place, planned.backend, scenario.engine) as stack:
            watch.lap("start")
            sale = await open_sale(stack.urls, scenario.shop)
            targets = stack.address(BALANCER.name)
            await _prime(place, stack, sale, seed, folder)
            watch.lap("prime")
            busy = await _until_quiet()
            watch.lap("settle")
            async with contextlib.AsyncExitStack() as crew:
                people = None
                if scenario.viewers:
                    people = await crew.enter_async_context(
                        watchers(place.environment, targets, sale.skus[0], scenario.viewers)
                    )
                crowd = await crew.enter_async_context(
                    shoppers(place.environment, folder, load=scenario.load, skus=sale.skus, seed=seed, targets=targets)
                )
                watch.lap("arm")
                scene = _Scene(place, stack, sale, scenario, crowd, people, busy)
                facts, found = await _load(scene, folder, events)
                watch.lap("load")
            audit = await settle_accounts(stack.urls, sale, folder)
            watch.lap("audit")
    except TROUBLES as error:
        trouble = f"engine: {str(error) or type(error).__name__}"
    watch.lap("stop")
    gates = judge(facts) if facts else {}
    reasons = (*([trouble] if trouble else []), *void_reasons(gates))
    if reasons:
        events.append(Event(0, "void", "; ".join(reasons)))
    trial = Trial(
        scenario=planned.scenario,
        block=planned.block,
        position=planned.position,
        label=planned.label,
        backend=planned.backend,
        variant=planned.variant,
        algorithm=scenario.engine.algorithm,
        servers=scenario.engine.servers,
        skus=scenario.shop.skus,
        shoppers=facts.planned if facts else expected_shoppers(scenario.load),
        stock=scenario.shop.stock,
        viewers=scenario.viewers,
        seed=seed,
        started_at=started_at,
        wall_s=round(watch.total_s, 3),
        load_s=round(found.get("load_s", 0.0), 3),
        load_model=_model(scenario.load),
        offered_per_s=facts.offered_per_s if facts else 0.0,
        is_void=bool(reasons),
        void_reasons=reasons,
        gates=gates,
        audit=audit,
        counts=found.get("counts", dict.fromkeys(contract.OUTCOMES, 0)),
        deferred=found.get("deferred", 0),
        in_flight_peak=found.get("in_flight_peak", 0),
        open_peak=found.get("open_peak", 0),
        null_ceiling_per_s=place.ceiling_per_s,
        is_linked=scenario.engine.linked,
        phases_s=watch.laps,
        viewed=found.get("viewed", {}),
    )
    contract.write_trial(folder, trial, sorted(events, key=lambda event: event.t_ns))
    return trial, found


@contextlib.asynccontextmanager
async def _engine(place: Place, backend: str, engine: Engine) -> AsyncIterator[Stack]:
    balancer = {
        "LB_ALGORITHM": engine.algorithm,
        "LB_MAXCONN": str(engine.maxconn),
        "LB_QUEUE": str(engine.queue),
        "LB_QUEUE_TIMEOUT": str(engine.queue_timeout),
        "LB_HEAD_TIMEOUT": ARMED_FOR_S,
        **({"LB_LINK": "POST /purchases"} if engine.linked else {}),
    }
    async with stores.fresh(place.settings, place.services.urls) as untouched:
        settings = replace(
            untouched,
            auth="off",  # shoppers name themselves: a token's price is another question
            host="127.0.0.1",
            asyncio_redis_processes=engine.servers,
            gevent_rabbit_processes=engine.servers,
            in_flight_max=engine.in_flight_max,
            auditor_processes=0,  # it looks once, when all is over
            balancer=MappingProxyType(balancer),
        )
        with cells.known(backend) as roles:
            async with running_stack(
                settings, instance=INSTANCE, services=(), roles=roles, backends=(backend,), say=_nobody, fresh=True
            ) as stack:
                yield stack


async def _prime(place: Place, stack: Stack, sale: Sale, seed: int, folder: Path) -> None:
    # Its rows are nobody's: the load's own take their place.
    async with shoppers(
        place.environment, folder, load=PRIMER, skus=[sale.primer], seed=seed + 1, targets=stack.address(BALANCER.name)
    ) as crowd:
        crowd.release()
        await crowd.result(PRIMER.seconds + PRIMER.patience_s + SPARE_S)


async def _load(scene: "_Scene", folder: Path, events: list[Event]) -> tuple[Facts, dict[str, Any]]:
    load, crowd = scene.scenario.load, scene.crowd
    async with _observers(scene) as observers:
        before, lost, swapped = system.processor(), system.tcp_losses(), system.swapped_pages()
        release = crowd.release()
        accident = asyncio.create_task(_accident(scene, release, events))
        try:
            async with watching(list(observers.values()), release):
                found = await crowd.result(load_seconds(load) + load.patience_s + SPARE_S)
            await accident
        finally:
            accident.cancel()
        after, lost_after, swapped_after = system.processor(), system.tcp_losses(), system.swapped_pages()
        if scene.people is not None:
            found["viewed"] = await scene.people.result()
            observers["stock"].rows += [
                (at - release, sku, available, "viewer") for at, sku, available in found["viewed"].pop("shown")
            ]
        for name, observer in observers.items():
            contract.write_rows(folder, name, observer.rows)
    events.append(Event(0, "release"))
    events.append(Event(round(found["load_s"] * 1e9), "load_end"))
    marks = {kind: found[f"{kind}_ns"] for kind in ("first_sold_out", "last_sold")}
    events += [Event(at, kind) for kind, at in marks.items() if at is not None]
    counts = found["counts"]
    planned = found["planned"]
    wanted = load.shoppers if load.model == BURST else load.connections
    span_s = load_seconds(load)
    facts = Facts(
        is_burst=load.model == BURST,
        planned=planned,
        recorded=sum(counts.values()),
        sent=planned - counts[contract.UNSENT],
        connections_wanted=wanted,
        connections_armed=crowd.armed,
        offered_per_s=round(planned / span_s, 3) if span_s else 0.0,
        lag_p99_ms=found["lag_p99_ms"],
        response_p99_ms=found["response_p99_ms"],
        generator_cpu=found["cpu_s"] / found["load_s"] if found["load_s"] else 0.0,
        ceiling_per_s=scene.place.ceiling_per_s,
        busy_before=scene.busy,
        steal=(after.steal - before.steal) / max(after.total - before.total, 1e-9),
        clock_step_s=found["clock_step_s"],
        exhausted=found["exhausted"],
        kernel={name: lost_after[name] - lost.get(name, 0) for name in lost_after},
        swapped_pages=(swapped_after or 0) - (swapped or 0),
        restarts=sum(process.restarts for process in scene.stack.processes)
        - any(event.kind == "kill" for event in events),
    )
    return facts, found


@contextlib.asynccontextmanager
async def _observers(scene: "_Scene") -> AsyncIterator[dict[str, Any]]:
    place, stack, sale = scene.place, scene.stack, scene.sale

    def roots() -> Iterator[tuple[str, int]]:
        yield "gen", scene.crowd.pid
        if scene.people is not None:
            yield "gen", scene.people.pid
        yield "monitor", os.getpid()
        for process in (*place.services.processes, *stack.processes):
            if process.pid is not None:
                yield ROLES[process.role], process.pid

    def pages() -> Iterator[tuple[str, str]]:
        for process in stack.processes:
            if ROLES[process.role] in {"lb", "backend"}:
                name = "lb" if process.role == BALANCER.name else process.spec.name
                yield name, f"{stack.ops_address(process.role, process.spec.index)}/metrics"

    async with contextlib.AsyncExitStack() as open_until_end:
        session = await open_until_end.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S))
        )
        books = await _connected(stack.urls.postgres_auditor, open_until_end)
        everything = place.services.urls.postgres_superuser or stack.urls.postgres_auditor
        database = urlsplit(stack.urls.postgres_auditor).path.removeprefix("/")
        gate: Redis = Redis.from_url(stack.urls.redis, decode_responses=True, socket_timeout=ASK_S)
        open_until_end.push_async_callback(gate.aclose)
        yield {
            "resources": Processes(roots, alone=os.getpid()),
            "system": system.System(),
            "stock": Stock(books, gate, sale.id, sale.skus),
            "queues": Queues(session, pages, await _connected(everything, open_until_end), database, gate),
        }


async def _connected(url: str, open_until_end: contextlib.AsyncExitStack) -> asyncpg.Connection:
    connection = await asyncpg.connect(url, timeout=ASK_S)
    open_until_end.callback(connection.terminate)
    return connection


async def _until_quiet() -> float | None:
    # part of the last second in which somebody waited for a processor; None where the kernel does not say
    until = time.monotonic() + SETTLES_S
    while True:
        before = system.pressure_s()
        await asyncio.sleep(1.0)
        after = system.pressure_s()
        if before is None or after is None:
            return None
        if after - before <= QUIET or time.monotonic() > until:
            return after - before


async def _accident(scene: "_Scene", release: int, events: list[Event]) -> None:
    stack, kill = scene.stack, scene.scenario.accident.kill
    roles = {process.role for process in stack.processes}
    role = VICTIMS.get(kill, "") or next((each for each in roles if ROLES[each] == "backend"), "")
    if not kill or role not in roles:
        return
    await asyncio.sleep(max(0.0, (release - time.monotonic_ns()) / 1e9 + scene.scenario.accident.at_s))
    pid = await stack.kill(role, 0)
    events.append(Event(time.monotonic_ns() - release, "kill", f"{role} {pid}"))
    [victim] = (process for process in stack.processes if process.role == role and process.spec.index == 0)
    until = time.monotonic() + RECOVERS_WITHIN_S
    while time.monotonic() < until and (victim.pid == pid or victim.state != "ready"):  # noqa: ASYNC110 - another process
        await asyncio.sleep(POLL_S)
    if victim.state == "ready":
        events.append(Event(time.monotonic_ns() - release, "recover", f"{role} {victim.pid}"))


def _model(load: Load) -> str:
    return {
        "poisson": "open, Poisson",
        "constant": "open, constant",
        "ramp": "open, Poisson, ramp up and down",
        "burst": "open, burst at a barrier",
        "bell": "open, most with the bell",
    }[load.model] + (", storming" if load.retry == "storm" else "")


def _nobody(_: str) -> None:
    """The run says what matters."""


@dataclass(frozen=True)
class _Scene:
    # what stands when the doors open

    place: Place
    stack: Stack
    sale: Sale
    scenario: Scenario
    crowd: Shoppers
    people: Watchers | None
    busy: float | None


class _Stopwatch:
    # where a trial's time went

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._began = self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 3)
        self._last = now

    @property
    def total_s(self) -> float:
        return self._last - self._began
