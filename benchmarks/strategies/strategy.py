"""What a strategy is: one interface, what it says of itself beforehand, and the moments at which a storm may hold it up."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Protocol, Self

from benchmarks.strategies.oracle import Kind

TRIES_MAX = 1_000  # of one attempt that must begin anew; more is a fault of the lab


class Attack(StrEnum):
    """What is done to a trial. Each is arranged and not hoped for, so that what breaks breaks every time."""

    MEET = "meet"
    DIE = "die"
    AGAIN = "again"
    LOSE = "lose"


ATTACKS = MappingProxyType(
    {
        Attack.MEET: "everybody who can is held between check and act until all have checked, then all act; one unit",
        Attack.DIE: "the first is killed -9 between check and act, once all others have their answer or cannot get on; one unit",
        Attack.AGAIN: "the first is killed -9 after the act and before the answer, and its buyer sends the same again; two units",
        Attack.LOSE: "Redis is killed -9 once two units are sold, and comes back with the file from before; others come then",
    }
)
# Whoever is asked again, and has nothing to know it by, sells again, or says no to somebody who has a unit.
WITHOUT_KEY = frozenset({Kind.DUPLICATE, Kind.PHANTOM})


Claims = Mapping[Attack, frozenset[Kind]]


def breaks(**attacks: tuple[Kind, ...]) -> Claims:
    """What attacks do, every time, by their names."""
    return MappingProxyType({Attack(name): frozenset(kinds) for name, kinds in attacks.items()})


class Stores(NamedTuple):
    """Where they are. ``servers``: the engine's own, for the strategies that are the engine."""

    postgres: str
    redis: str
    rabbitmq: str
    servers: tuple[str, ...] = ()


class Moment(Protocol):
    """The storm, as one attempt meets it."""

    def note(self, step: str) -> None:
        """A line of the trace."""

    async def checked(self, seen: str) -> None:
        """What was seen says yes, and nothing is done yet: the critical section."""

    async def acted(self) -> None:
        """All is done, and the buyer does not know."""

    def again(self, why: str) -> None:
        """It begins anew."""


class Strategy(ABC):
    """One way to guard a stock. ``claims``: what an attack does to it, every time; whatever is not named it withstands.

    ``also``: what may befall it by chance, in a crowd with kills. A wrong that is in neither contradicts it.
    """

    title: ClassVar[str]
    stores: ClassVar[tuple[str, ...]]
    claims: ClassVar[Claims]
    also: ClassVar[frozenset[Kind]] = WITHOUT_KEY
    is_ours: ClassVar[bool] = False
    serves: ClassVar[bool] = False  # decides in one process of its own

    def __init__(self, stores: Stores) -> None:
        self.at = stores

    @classmethod
    def name(cls) -> str:
        """As on the command line."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def text(cls) -> str:
        """What it does, what breaks it, and what would mend it: the module's own words."""
        return (sys.modules[cls.__module__].__doc__ or "").strip()

    @classmethod
    def may_do(cls) -> frozenset[Kind]:
        """Every wrong that is known of it."""
        return cls.also.union(*cls.claims.values())

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connect."""

    @abstractmethod
    async def __aexit__(self, *_: object) -> None:
        """Let go."""

    @abstractmethod
    async def install(self) -> None:
        """Make what it needs in the stores, anew."""

    @abstractmethod
    async def prepare(self, item: str, stock: int) -> None:
        """Put a new item on sale."""

    @abstractmethod
    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        """One unit for whoever ``attempt`` is; was it sold? Raises what a store raises: then nobody knows."""

    @abstractmethod
    async def recorded(self, item: str) -> list[str]:
        """The attempts that have units, one entry per unit."""

    async def serve(self, moments: "Moments") -> None:
        """Decide until cancelled, if that is another process's part than ``buy``."""
        raise NotImplementedError(self.name())


class Moments(Protocol):
    """For who serves many attempts."""

    def of(self, attempt: str) -> Moment:
        """The storm, as this one meets it."""
