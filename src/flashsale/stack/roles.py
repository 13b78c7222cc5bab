# What the launcher starts besides services, as data: which module, what it may connect to, as whom, how many. A new
# role is a new row. Readiness is asked the same way of all: GET /readyz on the operations port.
from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from flashsale.contract.wire import METHODS, STOCK_PATH
from flashsale.settings import ADMIN, BACKENDS, GEVENT_RABBIT, MIXED


class DatabaseRole(StrEnum):
    """As whom a process talks to PostgreSQL. Nobody gets more than its work needs."""

    OWNER = "owner"  # makes tables and roles
    APP = "app"  # may call the functions that write stock
    AUDITOR = "auditor"  # may read everything and write nothing
    OPERATOR = "operator"  # may call the functions by which a person steps in; each leaves a row in `operation`
    ADMIN = "admin"  # may call those of them that the admin page has


@dataclass(frozen=True, slots=True)
class Role:
    """A long-running process: `python -m module`, one operations port, a traffic port if it `serves` shoppers or `listens`."""

    name: str
    module: str
    needs: frozenset[str]
    database: DatabaseRole
    serves: bool
    count: str  # the setting that says how many
    listens: bool = False  # on a traffic port, and sells nothing there
    path: str = ""  # the balancer sends it what is asked for below this, and the servers get that only while it cannot


@dataclass(frozen=True, slots=True)
class OneShot:
    """A command that must end with 0 before the next thing starts; its stdout may be a result."""

    name: str
    arguments: tuple[str, ...]
    needs: frozenset[str]
    database: DatabaseRole
    sets_passwords: bool = False  # is told the passwords of the roles it creates
    within_s: float = 240.0


AUDITOR = "auditor"
STREAM = "stream"
MIGRATE = OneShot(
    name="migrate",
    arguments=("-m", "flashsale.authority", "migrate"),
    needs=frozenset({"postgres"}),
    database=DatabaseRole.OWNER,
    sets_passwords=True,
)
SEED = OneShot(
    name="seed",
    arguments=("-m", "flashsale.authority", "seed"),
    needs=frozenset({"postgres"}),
    database=DatabaseRole.OWNER,
)
AUDIT = OneShot(
    name="auditor",
    arguments=("-m", "flashsale.proof.auditor"),
    needs=frozenset({"postgres", "redis", "rabbitmq"}),
    database=DatabaseRole.AUDITOR,
)

# Which role plays the gateway of a way to pay.
GATEWAYS = {method: f"gateway_{method}" for method in METHODS}


def _gateway(name: str) -> Role:
    return Role(
        name=name,
        module="flashsale.payments.gateway",
        needs=frozenset(),  # a bank of its own: it gets no service, and no secret but the webhooks'
        database=DatabaseRole.APP,
        serves=False,
        count="gateway_processes",
        listens=True,
    )


ROLES: tuple[Role, ...] = (
    Role(
        name="upkeep",
        module="flashsale.upkeep",
        needs=frozenset({"postgres", "redis", "rabbitmq"}),
        database=DatabaseRole.APP,
        serves=False,
        count="upkeep_processes",
    ),
    Role(
        name="asyncio_redis",
        module="flashsale.backends.asyncio_redis",
        needs=frozenset({"postgres", "redis"}),
        database=DatabaseRole.APP,
        serves=True,
        count="asyncio_redis_processes",
    ),
    Role(
        name="checkout",
        module="flashsale.queued",
        needs=frozenset({"postgres", "rabbitmq"}),
        database=DatabaseRole.APP,
        serves=False,
        count="checkout_processes",
    ),
    Role(
        name="gevent_rabbit",
        module="flashsale.backends.gevent_rabbit",
        needs=frozenset({"postgres", "redis", "rabbitmq"}),  # Redis wakes its viewers, and it does without
        database=DatabaseRole.APP,
        serves=True,
        count="gevent_rabbit_processes",
    ),
    Role(
        name=STREAM,
        module="flashsale.stream",
        needs=frozenset({"postgres", "redis"}),  # as above
        database=DatabaseRole.APP,
        serves=False,
        count="stream_processes",
        listens=True,
        path=f"{STOCK_PATH}/stream",
    ),
    *map(_gateway, GATEWAYS.values()),
    Role(
        name="payments",
        module="flashsale.payments",
        needs=frozenset({"postgres", "rabbitmq"}),
        database=DatabaseRole.APP,
        serves=False,
        count="payments_processes",
        listens=True,
    ),
    Role(
        name=AUDITOR,
        module="flashsale.proof",
        needs=frozenset({"postgres", "redis"}),
        database=DatabaseRole.AUDITOR,
        serves=False,
        count="auditor_processes",
    ),
    Role(
        name=ADMIN,
        module="flashsale.admin",
        needs=frozenset({"postgres", "rabbitmq"}),
        database=DatabaseRole.ADMIN,
        serves=False,
        count="admin_processes",
        listens=True,
    ),
)
# Not in the table: it is a program of its own with settings of its own, and there is one for each backend to be reached.
BALANCER = Role(
    name="loadbalancer",
    module="loadbalancer",
    needs=frozenset(),  # it knows HTTP and nothing of sales
    database=DatabaseRole.APP,
    serves=True,
    count="",
)
ROLE_BY_NAME = {role.name: role for role in ROLES}

# What the servers of a backend need beside them, and no other backend's do.
_BEHIND = {GEVENT_RABBIT: ("checkout",)}
_OF_BACKENDS = frozenset({*BACKENDS[MIXED], *chain(*_BEHIND.values())})
# What a person is served by, and no sale needs: `up` starts it, and what ends by itself does not.
_OF_PEOPLE = frozenset({ADMIN})


def roles_of(backend: str) -> tuple[str, ...]:
    """The names of all roles that a sale on `backend` (a key of settings.BACKENDS) needs, without the balancer."""
    own = {*BACKENDS[backend], *chain(*(_BEHIND.get(name, ()) for name in BACKENDS[backend]))}
    return tuple(role.name for role in ROLES if role.name in own or role.name not in _OF_BACKENDS | _OF_PEOPLE)


def uses(backend: str, role: str) -> bool:
    """Does a sale on `backend` use this role or service?"""
    return role in roles_of(backend) or role not in ROLE_BY_NAME
