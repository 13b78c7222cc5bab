"""Idle connections to one server: the last one used first, so that those not needed grow old and are closed."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """At most ``size`` idle connections, none kept longer than ``keep_s`` seconds without use."""

    def __init__(self, size: int, keep_s: float) -> None:
        self._size = size
        self._keep_s = keep_s
        self._since: dict[T, float] = {}  # in the order they came

    def __len__(self) -> int:
        return len(self._since)

    def take(self) -> T | None:
        """The connection that was given last, if there is one."""
        return self._since.popitem()[0] if self._since else None

    def give(self, connection: T, now: float) -> bool:
        """Keep an idle connection. False if there is no room, and the caller has to close it."""
        if len(self._since) >= self._size:
            return False
        self._since[connection] = now
        return True

    def forget(self, connection: T) -> None:
        """It is gone, if it was here."""
        self._since.pop(connection, None)

    def take_old(self, now: float) -> list[T]:
        """Those kept long enough, for the caller to close."""
        old = []
        for connection, since in self._since.items():
            if now - since < self._keep_s:
                break
            old.append(connection)
        for connection in old:
            del self._since[connection]
        return old

    def take_all(self) -> list[T]:
        """Everything, for the caller to close."""
        everything = list(self._since)
        self._since.clear()
        return everything
