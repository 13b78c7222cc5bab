"""What a policy sees and what it promises."""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """A server as a policy sees it."""

    @property
    def name(self) -> str:
        """Its name, which is its identity: it outlives restarts, and every process knows it by the same."""

    @property
    def weight(self) -> int:
        """Its share beside the others', at least 1."""

    @property
    def active(self) -> int:
        """Requests it is working on now."""


C = TypeVar("C", bound=Candidate)


class Policy(Protocol):
    """Made of every server there is; asked with those that may be chosen now."""

    @property
    def spilled(self) -> int:
        """How many requests did not get the server that their key belongs to; 0 where keys belong to none."""

    def choose(self, candidates: Sequence[C], key: bytes) -> C:
        """One of ``candidates``, which are not empty; ``key`` is what the request is known by."""
