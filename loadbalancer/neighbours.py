"""How many connections one address has: whoever opens all there are leaves none for the others."""

import ipaddress


class Neighbours:
    """Counts by address; of IPv6 by /64, which is what one household or one machine gets, to use as it likes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def enter(self, address: str) -> bool:
        """One more connection from there, also if it is one too many, which is False."""
        where = _where(address)
        count = self._counts[where] = self._counts.get(where, 0) + 1
        return count <= self._most

    def leave(self, address: str) -> None:
        """One of those that entered has ended."""
        where = _where(address)
        count = self._counts.pop(where) - 1
        if count:
            self._counts[where] = count


def _where(address: str) -> str:
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or ipaddress.IPv6Address(int(parsed) >> 64 << 64))
