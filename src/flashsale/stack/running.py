# One running instance: services, then tables, then roles. `up`, `demo` and `test` differ only in what they ask for here.
from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flashsale.contract.wire import WEBHOOK_PATH
from flashsale.settings import ADMIN, BACKENDS, BALANCER_TABLE, REPOSITORY, TABLE, Settings
from flashsale.stack import probes, services
from flashsale.stack.console import Say
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.processes import LOOPBACK, free_port, port_is_free
from flashsale.stack.roles import (
    AUDITOR,
    BALANCER,
    GATEWAYS,
    MIGRATE,
    ROLE_BY_NAME,
    DatabaseRole,
    OneShot,
    Role,
    roles_of,
)
from flashsale.stack.state import Instance, admin_socket, admin_users, jwt_secret, progress_file
from flashsale.stack.supervisor import Process, ProcessSpec, Supervisor

OPEN_FILES_WANTED = 65_536  # a server's sockets, and the shoppers' in a demo
# What a child may see of the caller's environment besides its settings: nothing that could be a secret.
INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "NO_COLOR")
BALANCER_GRACE_S_MAX = 60.0  # LB_GRACE may be longer, but `down` does not wait for ever
BALANCER_SPARE_S = 10.0  # for its workers' own ends
SOCKET_PATH_CHARS_MAX = 101
ROLE_READY_WITHIN_S = 60.0  # once every service that it waits for is there
SERVICE_ORDER = ("postgres", "redis", "rabbitmq")
# Given per process or per identity below; the rest of the settings is handed on as the user gave it.
_OWN_WAY = frozenset(
    {
        "home",
        "port",
        "ops_port",
        "role",
        "instance",
        "apt",
        "admin_port",
        "admin_users",
        "ops_host",
        "benchmark_progress",
    }
)


PAYMENTS = "payments"


@dataclass(frozen=True, slots=True)
class Seat:
    """One process to be: its role, its number among them, and its ports."""

    role: Role
    index: int
    port: int | None
    ops_port: int


@dataclass(frozen=True)
class Urls:
    """Where the services are; an empty string for one that was not asked for. Passwords are inside."""

    postgres_superuser: str  # maintenance database; empty for a PostgreSQL that was given
    postgres_owner: str
    postgres_app: str
    postgres_auditor: str
    postgres_operator: str
    postgres_admin: str
    redis: str
    rabbitmq: str

    @classmethod
    def of(cls, found: Iterable[services.Service]) -> Urls:
        by_name = {service.name: service.urls for service in found}
        postgres = by_name.get("postgres", {})
        return cls(
            postgres_superuser=postgres.get("superuser", ""),
            postgres_owner=postgres.get("owner", ""),
            postgres_app=postgres.get("app", ""),
            postgres_auditor=postgres.get("auditor", ""),
            postgres_operator=postgres.get("operator", ""),
            postgres_admin=postgres.get("admin", ""),
            redis=by_name.get("redis", {}).get("app", ""),
            rabbitmq=by_name.get("rabbitmq", {}).get("app", ""),
        )

    def postgres(self, role: DatabaseRole) -> str:
        return {
            DatabaseRole.OWNER: self.postgres_owner,
            DatabaseRole.APP: self.postgres_app,
            DatabaseRole.AUDITOR: self.postgres_auditor,
            DatabaseRole.OPERATOR: self.postgres_operator,
            DatabaseRole.ADMIN: self.postgres_admin,
        }[role]


class Stack:
    """A running instance, as `running_stack` yields it."""

    def __init__(self, settings: Settings, supervisor: Supervisor, urls: Urls) -> None:
        self.urls = urls
        self._settings = settings
        self._supervisor = supervisor

    @property
    def processes(self) -> tuple[Process, ...]:
        """Services and roles, in starting order; each has role, pid, spec.port, spec.ops_port, state, restarts."""
        return tuple(self._supervisor.processes)

    def address(self, role: str, index: int = 0) -> str:
        """Base URL of the traffic port of one process of `role`."""
        return self._base_url(role, index, "port", connectable(self._settings.host))

    def addresses(self, role: str) -> list[str]:
        """Base URLs of the traffic ports of all processes of `role`."""
        return [
            self.address(role, process.spec.index)
            for process in self.processes
            if process.role == role and process.spec.port is not None
        ]

    def ops_address(self, role: str, index: int = 0) -> str:
        """Base URL of the operations port (/readyz, /metrics) of one process of `role`."""
        return self._base_url(role, index, "ops_port", LOOPBACK)

    async def kill(self, role: str, index: int | None = None) -> int:
        """SIGKILL one process of a role or service; the supervisor restarts it on its port. Returns the dead pid."""
        return self._supervisor.kill(role, index)

    async def run(self, shot: OneShot, *arguments: str) -> str:
        """Run a one-shot to its end; returns its stdout. Raises StackError if it fails."""
        return await self._supervisor.run(
            shot.name,
            (sys.executable, *shot.arguments, *arguments),
            one_shot_environment(shot, self._settings, self.urls),
            within_s=shot.within_s,
        )

    def environment_for(self, role: str) -> dict[str, str]:
        """The environment of a process that does the work of `role`, for a caller that starts one itself."""
        return role_environment(ROLE_BY_NAME[role], self._settings, self.urls)

    def announce(self, **extra: object) -> None:
        self._supervisor.announce(**extra)

    def _base_url(self, role: str, index: int, which: str, host: str) -> str:
        for process in self.processes:
            if process.spec.role == role and process.spec.index == index:
                port = getattr(process.spec, which)
                if port is not None:
                    return f"http://{bracketed(host)}:{port}"
        raise StackError(f"no {which} for {role}-{index}", Exit.USAGE)


@contextlib.asynccontextmanager
async def running_stack(
    settings: Settings,
    *,
    instance: str,
    services: Iterable[str],
    roles: Iterable[str] = (),
    backends: Iterable[str] = (),
    say: Callable[[str], None] | None = None,
    fixed_ports: bool = False,
    fresh: bool = False,
) -> AsyncIterator[Stack]:
    """
    Start `services` (postgres, redis, rabbitmq), migrate if there are roles, start `roles` (names of roles.ROLES) and all
    that `backends` need, then a balancer in front of each of these (its index is the backend's place), and yield once all
    are ready; leaving stops everything, data stays. `fixed_ports` takes FLASH_PORT and FLASH_OPS_PORT
    upward instead of free ones; `fresh` forgets what an earlier run left in the services. Progress goes to `say`, or to
    stderr. Raises StackError if something cannot be had, does not get ready, or crashes too often
    meanwhile (the body is then cancelled).
    """
    say = say or Say()
    place = Instance(settings.home, instance)
    backends = tuple(backends)
    wanted = [ROLE_BY_NAME[name] for name in dict.fromkeys((*roles, *chain(*map(roles_of, backends))))]
    names = {*services, *(need for role in wanted for need in role.needs)}
    _raise_open_files()
    async with Supervisor(place, say) as supervisor:
        if fresh:
            place.forget({*names, *GATEWAYS.values()})
        found = await _start_services([name for name in SERVICE_ORDER if name in names], settings, supervisor, say)
        stack = Stack(settings, supervisor, Urls.of(found))
        if wanted:
            await stack.run(MIGRATE)
            ports = _Ports(settings, fixed=fixed_ports)
            # The balancers' ports come first: FLASH_PORT is where shoppers go.
            balancers = [ports.seat(BALANCER, index) for index in range(len(backends))]
            seats = [ports.seat(role, index) for role in wanted for index in range(getattr(settings, role.count))]
            links = payment_links(seats, settings, place) | {
                ADMIN: admin_links(seats, settings, admin_socket(place, 0) if balancers else None)
            }
            await supervisor.start(
                *(_role_spec(seat, settings, stack.urls, links.get(seat.role.name, {})) for seat in seats)
            )
            await supervisor.start(
                *(
                    _balancer_spec(seat, settings, backend, seats, admin_socket(place, seat.index))
                    for seat, backend in zip(balancers, backends, strict=True)
                )
            )
        stack.announce(
            urls={
                "postgres_auditor": stack.urls.postgres_auditor,
                "postgres_operator": stack.urls.postgres_operator,
                "redis": stack.urls.redis,
                "rabbitmq": stack.urls.rabbitmq,
                **{
                    role: settings.gateway_urls.get(method) or next(iter(stack.addresses(role)), "")
                    for method, role in GATEWAYS.items()
                },
            },
            admin=[f"http://{LOOPBACK}:{p.port}" for p in stack.processes if p.role == ADMIN],
            addresses=[
                address for role in (BALANCER, *wanted) if role.serves for address in stack.addresses(role.name)
            ],
        )
        yield stack


def role_environment(role: Role, settings: Settings, urls: Urls) -> dict[str, str]:
    """What every process of `role` is told; its index, its ports and its links come on top."""
    environment = _common(settings) | {"FLASH_ROLE": role.name}
    # A role that needs no service is a stranger (the gateway), and the auditor asks nobody in a buyer's name: neither gets it.
    if role.needs and role.database is DatabaseRole.APP:
        environment["FLASH_JWT_SECRET"] = jwt_secret(settings)
    if role.serves and settings.receipt_keys:
        environment["FLASH_RECEIPT_KEYS"] = settings.receipt_keys
    if "postgres" in role.needs:
        environment["FLASH_POSTGRES_URL"] = urls.postgres(role.database)
    if "redis" in role.needs:
        environment["FLASH_REDIS_URL"] = urls.redis
    if "rabbitmq" in role.needs:
        environment["FLASH_RABBITMQ_URL"] = urls.rabbitmq
    return environment


def payment_links(seats: Iterable[Seat], settings: Settings, instance: Instance) -> dict[str, dict[str, str]]:
    """What the payment workers, the simulated gateways and the auditor must know of each other, by role."""
    host = bracketed(connectable(settings.host))
    first: dict[str, str] = {}
    for seat in seats:
        if seat.port is not None:
            first.setdefault(seat.role.name, f"http://{host}:{seat.port}")
    secret = {"FLASH_WEBHOOK_SECRET": settings.webhook_secret or instance.passwords()["webhooks"]}
    hears = {"FLASH_WEBHOOK_URL": first[PAYMENTS] + WEBHOOK_PATH} if PAYMENTS in first else {}
    links: dict[str, dict[str, str]] = {PAYMENTS: dict(secret), AUDITOR: {}}
    for method, role in GATEWAYS.items():
        journal = str(instance.data(role) / "journal.jsonl")
        links[role] = {**secret, **hears, "FLASH_GATEWAY_METHOD": method, "FLASH_GATEWAY_JOURNAL": journal}
        url = settings.gateway_urls.get(method) or first.get(role, "")
        for asking in (PAYMENTS, AUDITOR):
            links[asking][gateway_variable(method)] = url
    return links


def admin_links(seats: Iterable[Seat], settings: Settings, balancer: Path | None) -> dict[str, str]:
    """What the admin page must know: where it may listen, who may sign in, and whom it asks for what it shows."""
    seats = list(seats)
    # not the banks, which are strangers
    watched = [seat for seat in seats if seat.role.name not in GATEWAYS.values()]
    progress = settings.benchmark_progress if settings.given("benchmark_progress") else progress_file(settings)
    auditors = [f"http://{LOOPBACK}:{seat.ops_port}" for seat in seats if seat.role.name == AUDITOR]
    return {
        "FLASH_HOST": LOOPBACK,
        "FLASH_ADMIN_USERS": str(admin_users(settings)),
        "FLASH_AUDITOR_URL": settings.auditor_url or next(iter(auditors), ""),
        "FLASH_ADMIN_TARGETS": settings.admin_targets
        or ",".join(f"{seat.role.name}-{seat.index}=http://{LOOPBACK}:{seat.ops_port}" for seat in watched),
        "FLASH_BALANCER_SOCKET": settings.balancer_socket or ("" if balancer is None else _socket_text(balancer)),
        "FLASH_BENCHMARK_PROGRESS": str(progress),
    }


def gateway_variable(method: str) -> str:
    """The variable that leads to the gateway of a way to pay."""
    return f"FLASH_GATEWAY_{method.upper()}_URL"


def one_shot_environment(shot: OneShot, settings: Settings, urls: Urls) -> dict[str, str]:
    environment = _common(settings) | {
        "FLASH_ROLE": shot.name,
        "FLASH_POSTGRES_URL": urls.postgres(shot.database),
    }
    if "redis" in shot.needs:
        environment["FLASH_REDIS_URL"] = urls.redis
    if "rabbitmq" in shot.needs:
        environment["FLASH_RABBITMQ_URL"] = urls.rabbitmq
    if shot.sets_passwords:
        environment["FLASH_POSTGRES_APP_PASSWORD"] = _password_in(urls.postgres_app)
        environment["FLASH_POSTGRES_AUDITOR_PASSWORD"] = _password_in(urls.postgres_auditor)
        environment["FLASH_POSTGRES_OPERATOR_PASSWORD"] = _password_in(urls.postgres_operator)
        environment["FLASH_POSTGRES_ADMIN_PASSWORD"] = _password_in(urls.postgres_admin)
    return environment


def connectable(host: str) -> str:
    """An address to reach a listener on `host` from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _password_in(url: str) -> str:
    return unquote(urlsplit(url).password or "")


def python_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The harmless part of `environ`, and where our modules are."""
    kept = {name: environ[name] for name in INHERITED if name in environ}
    return kept | {"PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}", "PYTHONUNBUFFERED": "1"}


def _common(settings: Settings) -> dict[str, str]:
    given = {
        setting.variable: str(getattr(settings, setting.name))
        for setting in TABLE
        if getattr(settings, setting.name) != setting.default and not setting.secret and setting.name not in _OWN_WAY
    }
    return python_environment(os.environ) | given | {"FLASH_HOST": settings.host, "FLASH_AUTH": settings.auth}


async def _start_services(
    names: list[str], settings: Settings, supervisor: Supervisor, say: Callable[[str], None]
) -> list[services.Service]:
    found = await services.resolve(names, settings, supervisor.instance, say)
    # Side by side where the order is free: first whatever another process waits for, then the servers themselves.
    for specs in ([s.specs[:-1] for s in found], [s.specs[-1:] for s in found]):
        level = [spec for group in specs for spec in group]
        if level:
            await supervisor.start(*level)
    for service in found:
        if service.settle is not None:
            await service.settle()
    return found


def _role_spec(seat: Seat, settings: Settings, urls: Urls, links: Mapping[str, str]) -> ProcessSpec:
    environment = role_environment(seat.role, settings, urls) | {
        **links,
        "FLASH_INSTANCE": str(seat.index),
        "FLASH_OPS_PORT": str(seat.ops_port),
    }
    if seat.port is not None:
        environment["FLASH_PORT"] = str(seat.port)
    return ProcessSpec(
        role=seat.role.name,
        index=seat.index,
        command=(sys.executable, "-m", seat.role.module),
        environment=environment,
        ready=lambda: probes.role_is_ready(LOOPBACK, seat.ops_port),
        port=seat.port,
        ops_port=seat.ops_port,
        # Who waits for a service that is starting has not crashed: stopped for it, it would begin anew when the service is there.
        ready_within_s=ROLE_READY_WITHIN_S
        + max((services.READY_WITHIN_S[name] for name in seat.role.needs), default=0.0),
    )


def _socket_text(path: Path) -> str:
    # The kernel takes no longer path; a balancer without one serves all the same.
    return str(path) if len(str(path)) <= SOCKET_PATH_CHARS_MAX else ""


def _grace_s(settings: Settings) -> float:
    [grace] = [setting for setting in BALANCER_TABLE if setting.name == "grace"]
    return min(float(settings.balancer_text(grace)), BALANCER_GRACE_S_MAX)


def _balancer_spec(seat: Seat, settings: Settings, backend: str, seats: Iterable[Seat], admin: Path) -> ProcessSpec:
    host = bracketed(connectable(settings.host))
    behind = [other for other in seats if other.role.name in BACKENDS[backend] or other.role.path]
    environment = python_environment(os.environ) | dict(settings.balancer)
    environment |= {
        "LB_HOST": settings.host,
        "LB_PORT": str(seat.port),
        "LB_OPS_PORT": str(seat.ops_port),
        "LB_ADMIN_SOCKET": _socket_text(admin),
        "LB_SERVERS": ",".join(
            f"{other.role.name}-{other.index}={host}:{other.port}{other.role.path}" for other in behind
        ),
    }
    return ProcessSpec(
        role=seat.role.name,
        index=seat.index,
        command=(sys.executable, "-m", seat.role.module),
        environment=environment,
        ready=lambda: probes.role_is_ready(LOOPBACK, seat.ops_port),
        port=seat.port,
        ops_port=seat.ops_port,
        stop_within_s=_grace_s(settings) + BALANCER_SPARE_S,
    )


class _Ports:
    """Hands out listening ports: from the settings upward if `fixed`, otherwise any free one."""

    def __init__(self, settings: Settings, *, fixed: bool) -> None:
        self._host = settings.host
        self._taken: set[int] = set()
        self._traffic = count(settings.port) if fixed and settings.port else None
        self._operations = count(settings.ops_port) if fixed and settings.ops_port else None
        self._admin = count(settings.admin_port) if fixed and settings.admin_port else None

    def seat(self, role: Role, index: int) -> Seat:
        if role.name == ADMIN:
            return Seat(role, index, self._next(LOOPBACK, self._admin, "FLASH_ADMIN_PORT"), self.operations())
        return Seat(role, index, self.traffic() if role.serves or role.listens else None, self.operations())

    def traffic(self) -> int:
        return self._next(self._host, self._traffic, "FLASH_PORT")

    def operations(self) -> int:
        return self._next(LOOPBACK, self._operations, "FLASH_OPS_PORT")

    def _next(self, host: str, numbers: count[int] | None, variable: str) -> int:
        port = free_port(host) if numbers is None else next(numbers)
        if port in self._taken or port > 65_535 or not port_is_free(host, port):
            raise StackError(
                f"port {port} on {host} is taken. Fix: set {variable} to another one, or to 0 for any free one",
                Exit.USAGE,
            )
        self._taken.add(port)
        return port


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(OPEN_FILES_WANTED, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
