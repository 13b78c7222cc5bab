"""What a policy sees and what it promises."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """A server as a policy sees it."""

    @property
    def name(self) -> str:
        """Its name, which is its identity: it outlives restarts, and every process knows it by the same."""

    @property
    def weight(self) -> int:
        """Its part beside the others' as it was configured, at least 1."""

    @property
    def percent(self) -> int:
        """What it takes of that at the moment, 1 to 100: less while it warms up, or says that it cannot."""

    @property
    def share(self) -> int:
        """Its part beside the others' at the moment: weight times percent."""

    @property
    def load(self) -> int:
        """What it is working on now: REQUEST for every request, STREAM for every stream."""


# Streams count, or whoever holds most of them looks idle; but ten viewers are no more work than one request.
REQUEST, STREAM = 10, 1

C = TypeVar("C", bound=Candidate)
Chance = Callable[[], float]  # the next number, from 0 to below 1


class Policy(ABC):
    """Made of every server there is; asked with those that may be chosen now, among which may be some that came later."""

    spilled = 0  # how many requests did not get the server that their key belongs to; 0 where keys belong to none

    @abstractmethod
    def __init__(self, servers: Sequence[Candidate], chance: Chance) -> None:
        """``chance`` is all the chance there is: the same numbers make the same choices."""

    def prepare(self) -> Iterator[None]:
        """What takes long, a slice of a millisecond at a time. It is asked for nothing before that has ended."""
        return iter(())

    @abstractmethod
    def choose(self, candidates: Sequence[C], key: bytes) -> C:
        """One of ``candidates``, which are not empty; ``key`` is what the request is known by."""
