"""Who may import whom. The table is the architecture; it has no list of exceptions."""

import ast
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from flashsale.settings import REPOSITORY

SOURCES = REPOSITORY / "src" / "flashsale"

# Unit → what of this repository it may import. Longest prefix wins.
MAY_IMPORT: dict[str, set[str]] = {
    "flashsale.contract": set(),
    # whose tables the launcher prints and checks
    "flashsale.settings": {"loadbalancer.config", "flashsale.crash"},
    "flashsale.crash": set(),
    "flashsale.clone": set(),  # what git says
    "flashsale.signals": set(),  # how work that a person may stop ends whole
    "flashsale.amqp": set(),
    "flashsale.bound": set(),
    "flashsale.logs": set(),
    "flashsale.counts": set(),  # of metrics, where the library's would cost each request its share
    "flashsale.heed": set(),  # who waits for a driver of RabbitMQ
    "flashsale.life": set(),  # what a process takes, for its metrics
    "flashsale.ops": {"flashsale.life"},  # the operations port of asyncio processes that serve nobody
    "flashsale.identity": {"flashsale.contract"},
    "flashsale.web": set(),
    "flashsale.authority": {"flashsale.contract", "flashsale.settings"},
    "flashsale.gate": {"flashsale.contract"},
    "flashsale.payments": {
        "flashsale.heed",
        "flashsale.contract",
        "flashsale.settings",
        "flashsale.crash",
        "flashsale.logs",
        "flashsale.ops",
        "flashsale.authority",
    },
    # a bank of its own, which shares with the shop how webhooks are signed and nothing else
    "flashsale.payments.gateway": {"flashsale.settings", "flashsale.logs", "flashsale.payments.signature"},
    # an example of somebody who listens: knows what travels, and nothing of the shop behind it
    "flashsale.webhooks": {
        "flashsale.heed",
        "flashsale.contract",
        "flashsale.settings",
        "flashsale.logs",
        "flashsale.payments.queues",
    },
    # HTTP for one route; reads as strictly as the balancer does, and with the same code
    "flashsale.lane": {"loadbalancer.http1"},
    # HTTP with a greenlet per connection; reads with the same code, and shares what of the lane knows no loop
    "flashsale.edge": {"loadbalancer.http1", "flashsale.lane.answer", "flashsale.lane.plain"},
    # the shared half of live stock; knows neither loop
    "flashsale.stream": {"flashsale.contract"},
    # the same as a process: one backend's edge without the backend
    "flashsale.stream.__main__": {
        "flashsale.stream",
        "flashsale.settings",
        "flashsale.logs",
        "flashsale.ops",
        "flashsale.authority",
        "flashsale.backends.asyncio_redis.routes",
        "flashsale.backends.asyncio_redis.stream",
    },
    # the shared half of checkout through a queue; knows no front
    "flashsale.queued": {
        "flashsale.heed",
        "flashsale.amqp",
        "flashsale.contract",
        "flashsale.settings",
        "flashsale.counts",
        "flashsale.crash",
        "flashsale.logs",
        "flashsale.ops",
        "flashsale.authority",
    },
    "flashsale.backends.asyncio_redis": {
        "flashsale.bound",
        "flashsale.contract",
        "flashsale.life",
        "flashsale.settings",
        "flashsale.counts",
        "flashsale.crash",
        "flashsale.logs",
        "flashsale.identity",
        "flashsale.web",
        "flashsale.authority",
        "flashsale.gate",
        "flashsale.lane",
        "flashsale.stream",
        "flashsale.queued.receipt",  # it honours the other backend's receipts, and knows nothing of its queue
    },
    "flashsale.backends.gevent_rabbit": {
        "flashsale.bound",
        "flashsale.contract",
        "flashsale.life",
        "flashsale.settings",
        "flashsale.counts",
        "flashsale.crash",
        "flashsale.logs",
        "flashsale.identity",
        "flashsale.web",
        "flashsale.edge",
        "flashsale.lane.answer",
        "flashsale.authority.green",
        "flashsale.stream",
        "flashsale.queued",
    },
    "flashsale.upkeep": {
        "flashsale.heed",
        "flashsale.amqp",
        "flashsale.contract",
        "flashsale.settings",
        "flashsale.crash",
        "flashsale.logs",
        "flashsale.ops",
        "flashsale.authority",
        "flashsale.gate",
        "flashsale.stream.wakeup",
        "flashsale.payments.queues",
    },
    # proves what the others do, so it may share nothing with them but the contract
    "flashsale.proof": {"flashsale.clone", "flashsale.contract", "flashsale.settings"},
    # as a process it logs and answers like every other
    "flashsale.proof.watch": {"flashsale.proof"},
    "flashsale.proof.__main__": {"flashsale.proof", "flashsale.settings", "flashsale.logs", "flashsale.ops"},
    # what people do by hand, through functions of their own
    "flashsale.operate": {"flashsale.contract"},
    "flashsale.operate.database": {"flashsale.operate"},
    # the same by HTTP; knows no store, and nobody but the terminal's words knows how anything is done
    "flashsale.admin": {
        "flashsale.settings",
        "flashsale.logs",
        "flashsale.ops",
        "flashsale.web",
        "flashsale.operate",
    },
    # what the operations page shows, made of what was read
    "flashsale.admin.operations.exposition": set(),
    "flashsale.admin.operations.window": set(),
    "flashsale.admin.operations.frame": {
        "flashsale.admin.operations.exposition",
        "flashsale.admin.operations.window",
        "flashsale.settings",
    },
    "flashsale.admin.operations.servers": {
        "flashsale.admin.operations.frame",
        "flashsale.admin.operations.window",
        "flashsale.settings",
    },
    "flashsale.admin.operations.happenings": {"flashsale.admin.operations.frame"},
    "flashsale.admin.operations.bench": {"flashsale.admin.operations.frame"},
    # who may sign in, which the terminal says
    "flashsale.admin.users": {"flashsale.admin.passwords"},
    "flashsale.operate.broker": {"flashsale.operate", "flashsale.payments.queues", "flashsale.queued.topology"},
    "flashsale.stack": {
        "flashsale.clone",
        "flashsale.contract",
        "flashsale.settings",
        "flashsale.signals",
        "flashsale.identity",
        "flashsale.operate",
        "flashsale.admin.users",
    },
    # plays merchant, shoppers' host and examiner; runs only under the environment's Python
    "flashsale.stack.demo": {"flashsale.settings", "flashsale.stack", "flashsale.authority", "flashsale.proof"},
    # plays merchant and shoppers in an instance of its own, and takes its stores away
    "flashsale.stack.drill": {
        "flashsale.contract",
        "flashsale.settings",
        "flashsale.stack",
        "flashsale.authority",
        "flashsale.proof",
    },
    # the same under a storm of kills; afterwards it reads what lies in the dead-letter queues
    "flashsale.stack.soak": {
        "flashsale.settings",
        "flashsale.stack",
        "flashsale.authority",
        "flashsale.payments",
        "flashsale.queued",
    },
    # reaches a backend through its wire alone: a harness that sees inside will cheat
    # (tokens are made for its shoppers as the shop's login would)
    "benchmarks": {"flashsale.contract", "flashsale.identity"},
    "benchmarks.peers": {"flashsale.contract", "flashsale.identity"},  # others' servers, with our rules of reading
    # our edge without what stands behind it, beside others'
    "benchmarks.peers.gunicorn_constant": {
        "flashsale.contract",
        "flashsale.edge",
        "flashsale.lane.answer",
        "benchmarks.peers.common",
    },
    # starts servers and plays the merchant whose sale they serve
    "benchmarks.backend": {
        "benchmarks.parts",
        "flashsale.contract",
        "flashsale.identity",
        "flashsale.settings",
        "flashsale.authority",
        "flashsale.stack.processes",
    },
    # starts balancers, and measures them as backends are measured
    "benchmarks.lb": {
        "benchmarks.parts",
        "benchmarks.backend",
        "flashsale.settings",
        "flashsale.stack.processes",
        "flashsale.stack.services",
    },
    # reads what a comparison left behind, and starts nothing
    "benchmarks.report": {"benchmarks.comparison.contract"},
    # starts servers and balancers, and says what hubs are woken by
    "benchmarks.sse": {
        "benchmarks.parts",
        "benchmarks.backend",
        "benchmarks.lb",
        "flashsale.contract",
        "flashsale.authority",
        "flashsale.settings",
        "flashsale.stack.processes",
        "flashsale.stream.wakeup",
        "flashsale.stream.wire",
    },
    # measures the SQL itself, and the sweepers of upkeep
    "benchmarks.authority": {"flashsale.contract", "flashsale.authority", "flashsale.upkeep"},
    # patterns of others, in schemas of their own; ours it starts, plays merchant to, and buys from over the wire
    "benchmarks.strategies": {
        "flashsale.contract",
        "flashsale.settings",
        "flashsale.authority",
        "flashsale.stack.processes",
        "benchmarks.backend.picture",  # the same colours
    },
    # signs in to the admin page, and reads the launcher's list of processes
    "benchmarks.operations": {"flashsale.admin.users", "flashsale.admin.passwords", "flashsale.stack.state"},
    # measures the payment worker, in a process of its own
    "benchmarks.payments": {"flashsale.authority", "flashsale.payments", "benchmarks.authority"},
    # sends shoppers and looks on from outside, beside others' judgement: the same wire, and nothing else
    "benchmarks.comparison": {"flashsale.contract", "benchmarks.load"},
    # looks on from outside: /proc, metrics, and the stores' own words
    "benchmarks.comparison.observe": set(),
    # starts whole engines, plays the merchant, and has the books audited
    "benchmarks.comparison.engine": {
        "flashsale.settings",
        "flashsale.stack",
        "flashsale.authority",
        "flashsale.proof",
        "benchmarks.comparison",
    },
    # a backend's own server with one part in another's place
    "benchmarks.comparison.cells": {"flashsale"},
    "benchmarks.comparison.__main__": {
        "flashsale.settings",
        "flashsale.signals",
        "flashsale.stack",
        "benchmarks.comparison",
    },
    # films the engine as anybody can run it, says what a report says, and ends as the launcher's commands do
    "scripts.video": {"benchmarks.report.words", "flashsale.signals"},
    # knows HTTP and nothing of sales
    "loadbalancer": set(),
    "loadbalancer.config": set(),  # the launcher prints its table before anything is installed
    # what an answer is made of and who gets a request: no socket, no clock
    "loadbalancer.http1": set(),
    "loadbalancer.policies": set(),
    "loadbalancer.health": set(),
    "loadbalancer.pool": set(),
    "loadbalancer.queue": set(),
    "loadbalancer.neighbours": set(),
    "loadbalancer.outlier": set(),
    "loadbalancer.agent": set(),
    "loadbalancer.slow_start": set(),
    "loadbalancer.retry": set(),
}
FIGURES = {
    f"flashsale.admin.operations.{name}" for name in ("exposition", "window", "frame", "servers", "happenings", "bench")
}
STANDARD_LIBRARY_ONLY = FIGURES | {
    "flashsale.contract",
    "flashsale.settings",
    "flashsale.clone",
    "flashsale.signals",
    "flashsale.crash",
    "flashsale.web",
    "loadbalancer.config",
    "loadbalancer.http1",
    "loadbalancer.policies",
    "loadbalancer.health",
    "loadbalancer.pool",
    "loadbalancer.queue",
    "loadbalancer.neighbours",
    "loadbalancer.outlier",
    "loadbalancer.agent",
    "loadbalancer.slow_start",
    "loadbalancer.retry",
}
# Decides, and leaves doing to others.
PURE = STANDARD_LIBRARY_ONLY - {
    "flashsale.clone",
    "flashsale.signals",
    "flashsale.contract",
    "flashsale.settings",
    "flashsale.crash",
    "flashsale.web",
}
IMPURE_LIBRARIES = {"asyncio", "socket", "time", "random", "threading", "uvloop"}
# Runs before anything is installed: other imports only inside functions.
STANDARD_LIBRARY_AT_THE_TOP = {"flashsale.stack", "flashsale.operate", "flashsale.admin.users"}
# The only places that talk to a store.
DRIVERS: dict[str, set[str]] = {
    "asyncpg": {
        "flashsale.authority",
        "flashsale.proof",
        "flashsale.stack",
        "flashsale.stack.demo",
        "flashsale.stack.drill",
        "flashsale.stack.soak",
        "flashsale.operate.database",
        "benchmarks.authority",
        "benchmarks.backend",  # the merchant's look at the books
        "benchmarks.strategies",  # the patterns of others are made of them
        "benchmarks.comparison.engine",
        "benchmarks.comparison.observe",
    },
    "redis": {
        "flashsale.gate",
        "flashsale.proof",
        "flashsale.stack",
        "flashsale.backends.asyncio_redis",  # both listen for wake-ups; the gate itself is the gate's
        "flashsale.backends.gevent_rabbit",
        "benchmarks.peers",
        "benchmarks.strategies",
        "benchmarks.comparison.engine",  # empties it between trials, and looks at the gate's copy of the stock
        "benchmarks.comparison.observe",
        "benchmarks.sse",  # a wake-up
    },
    "hiredis": {"flashsale.gate"},
    "jwt": {"flashsale.identity"},
    "argon2": {"flashsale.admin"},
    "psycopg": {"flashsale.authority"},
    "pika": {"flashsale.queued", "flashsale.backends.gevent_rabbit", "benchmarks.peers"},
    "gunicorn": {
        "flashsale.backends.gevent_rabbit",
        "flashsale.edge",
        "benchmarks.peers",
        "benchmarks.peers.gunicorn_constant",
    },
    "aio_pika": {
        "flashsale.payments",
        "flashsale.queued",
        "flashsale.upkeep",
        "flashsale.webhooks",
        "flashsale.proof",
        "flashsale.stack.soak",
        "flashsale.operate.broker",
        "benchmarks.payments",
        "benchmarks.strategies",
        "benchmarks.comparison.engine",  # drops the queues between trials
        "benchmarks.comparison.cells",
    },
}


def modules() -> Iterator[tuple[str, Path]]:
    roots = ((SOURCES, "flashsale"), *((REPOSITORY / name, name) for name in ("benchmarks", "loadbalancer", "scripts")))
    for root, prefix in roots:
        for path in root.rglob("*.py"):
            parts = [prefix, *path.relative_to(root).with_suffix("").parts]
            yield ".".join(part for part in parts if part != "__init__"), path


def imports(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute, so that this test can read them"
            assert child.module
            # `from flashsale import logs` names a module, `from flashsale.logs import configure` a thing in one
            yield from (f"{child.module}.{alias.name}" for alias in child.names)


def root_of(name: str) -> str:
    return name.partition(".")[0]


@functools.cache
def unit_of(module: str) -> str:
    return max((unit for unit in MAY_IMPORT if inside(module, unit)), key=len, default="")


def inside(module: str, unit: str) -> bool:
    return module == unit or module.startswith(unit + ".")


MODULES = dict(modules())
EMPTY = {"flashsale", "flashsale.backends", "scripts"}  # packages that hold packages


# Read by who runs these tests, and no longer than they run: every worker collects them, and would keep a million objects.
@pytest.fixture(scope="module")
def trees() -> Mapping[str, ast.Module]:
    return {module: ast.parse(path.read_text()) for module, path in MODULES.items()}


@pytest.fixture(scope="module")
def imported(trees: Mapping[str, ast.Module]) -> Mapping[str, frozenset[str]]:
    return {module: frozenset(imports(tree)) for module, tree in trees.items()}


def test_every_module_belongs_to_a_unit_of_the_table() -> None:
    assert {module for module in MODULES if not unit_of(module)} == EMPTY


def test_every_unit_of_the_table_exists() -> None:
    assert all(any(inside(module, unit) for module in MODULES) for unit in MAY_IMPORT)


def told(
    imported: Mapping[str, frozenset[str]], modules: Iterable[str], is_wrong: Callable[[str, str], bool]
) -> list[str]:
    """Every import that is wrong for its module."""
    return [f"{module} imports {name}" for module in modules for name in imported[module] if is_wrong(module, name)]


def may_import(unit: str, name: str) -> bool:
    root = root_of(name)
    if root in {"flashsale", "benchmarks", "loadbalancer", "scripts", "tests"}:
        is_known = any(inside(name, target) for target in MAY_IMPORT[unit] | {unit})
    else:
        is_known = unit not in STANDARD_LIBRARY_ONLY or root in sys.stdlib_module_names
    return is_known and all(unit in users for driver, users in DRIVERS.items() if inside(name, driver))


def test_imports_point_inward(imported: Mapping[str, frozenset[str]]) -> None:
    assert told(imported, MODULES.keys() - EMPTY, lambda module, name: not may_import(unit_of(module), name)) == []


def test_what_decides_touches_neither_network_nor_clock(imported: Mapping[str, frozenset[str]]) -> None:
    pure = [module for module in MODULES if unit_of(module) in PURE]
    assert told(imported, pure, lambda _, name: root_of(name) in IMPURE_LIBRARIES) == []


def test_the_balancer_needs_two_packages(imported: Mapping[str, frozenset[str]]) -> None:
    wanted = {"loadbalancer", "uvloop", "prometheus_client"} | sys.stdlib_module_names
    balancer = [module for module in MODULES if inside(module, "loadbalancer")]
    assert told(imported, balancer, lambda _, name: root_of(name) not in wanted) == []


# A process runs on gevent, which patches the world, or on asyncio, which does not survive that; what both use, uses neither.
GREEN = {
    "flashsale.authority.green",
    "flashsale.queued.link",
    "flashsale.edge.connection",
    "flashsale.edge.port",
    "flashsale.edge.worker",
    "flashsale.queued.depth",
    "flashsale.backends.gevent_rabbit",
}
LOOPED = {
    "flashsale.ops",
    "flashsale.authority.client",
    "flashsale.authority.batch",
    "flashsale.authority.catalog",
    "flashsale.authority.migrate",
    "flashsale.authority.__main__",
    "flashsale.queued.deliveries",
    "flashsale.queued.teller",
    "flashsale.queued.worker",
    "flashsale.queued.__main__",
    "flashsale.backends.asyncio_redis",
    "flashsale.gate",
    "flashsale.lane.connection",
    "flashsale.lane.listener",
    "flashsale.upkeep",
    "flashsale.stream.__main__",
}
GREEN_LIBRARIES = {"gevent", "gunicorn", "pika"}
LOOPED_LIBRARIES = {"asyncio", "uvloop", "aiohttp", "asyncpg", "aio_pika"}


def test_gevent_and_asyncio_never_meet_in_one_process(imported: Mapping[str, frozenset[str]]) -> None:
    def is_of(name: str, libraries: set[str], units: set[str]) -> bool:
        return root_of(name) in libraries or any(inside(name, unit) for unit in units)

    green = {module for module in MODULES if any(inside(module, unit) for unit in GREEN)}
    others = {module for module in MODULES if inside(module, "flashsale")} - green
    assert told(imported, green, lambda _, name: is_of(name, LOOPED_LIBRARIES, LOOPED)) == []
    assert told(imported, others, lambda _, name: is_of(name, GREEN_LIBRARIES, GREEN)) == []


def test_the_launcher_starts_with_nothing_installed(trees: Mapping[str, ast.Module]) -> None:
    launcher = [module for module in MODULES if unit_of(module) in STANDARD_LIBRARY_AT_THE_TOP]
    at_the_top = {
        module: frozenset(
            name
            for node in trees[module].body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in imports(node)
        )
        for module in launcher
    }

    def is_foreign(_: str, name: str) -> bool:
        ours = any(inside(name, unit) for unit in STANDARD_LIBRARY_AT_THE_TOP | STANDARD_LIBRARY_ONLY)
        return not ours and root_of(name) not in sys.stdlib_module_names

    assert told(at_the_top, launcher, is_foreign) == []


def test_only_the_entry_points_read_the_environment(trees: Mapping[str, ast.Module]) -> None:
    readers = {
        module
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    }
    entry_points = {module for module, tree in trees.items() if "'__main__'" in ast.dump(tree)}
    assert {m for m in readers - entry_points if not inside(m, "flashsale.stack")} == set()


def test_writers_of_stock_live_in_the_authority(trees: Mapping[str, ast.Module]) -> None:
    # the tables are written by the functions of authority/migrations and by nothing else
    verbs = ("INSERT INTO ", "UPDATE ", "DELETE FROM ")
    tables = ("stock", "ledger", "purchase", "line", "quota", "attempt", "outbox", "inbox", "payment")
    for module, tree in trees.items():
        if inside(module, "benchmarks.authority"):  # makes up a past and cuts the function up, in databases of its own
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for verb in verbs:
                    for table in tables:
                        assert f"{verb}{table} " not in node.value.replace("flash.", ""), f"{module}: {verb}{table}"
