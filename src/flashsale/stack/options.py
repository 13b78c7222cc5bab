# What `flash demo` was asked for.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flashsale.settings import ASYNCIO_REDIS, GEVENT_RABBIT
from flashsale.stack.roles import BALANCER, GATEWAYS

KILLABLE = {
    "balancer": BALANCER.name,
    "server": ASYNCIO_REDIS,
    "edge": GEVENT_RABBIT,
    "checkout": "checkout",
    "payments": "payments",
    "gateway": GATEWAYS["card"],  # with which the shoppers pay
    "upkeep": "upkeep",
    "redis": "redis",
    "postgres": "postgres",
    "rabbitmq": "rabbitmq",
}


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Demonstration sales. Durations are whole seconds; `kill` names roles to SIGKILL once each, in mid-sale."""

    backends: tuple[str, ...]  # a sale on each, one after the other
    shoppers: int
    stock: int
    seed: int
    buyer_limit: int
    hold_seconds: int
    arrival_seconds: int
    kill: tuple[str, ...]  # names of processes as Stack.kill takes them; a sale that has none of a role kills none
    viewers: int  # people who only watch the live stock
    target: str | None  # base URL of an engine that runs already, instead of `backends`
    json: bool


# Of every role that works for the shop two are up in a soak, and any one may die. The rest dies only when it is named.
WORKERS = ("server", "edge", "checkout", "payments", "upkeep")


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """A sale under a storm of kills. `kill` names roles as Stack.kill takes them, and how often one of each dies in all."""

    backend: str  # a key of settings.BACKENDS
    seconds: int  # in which roles without a number die at random
    seed: int
    shoppers: int
    kill: Mapping[str, int | None]  # None: whenever the seed says so
    json: bool

    @property
    def counted(self) -> dict[str, int]:
        return {role: times for role, times in self.kill.items() if times is not None}
