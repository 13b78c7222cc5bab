"""What is sent: purchase attempts, each under a key that nobody has used. The same bytes from either generator."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flashsale.contract import wire

_KEY_DIGITS = 10  # behind the prefix


class Attempts(NamedTuple):
    """Bodies and identities are taken in turn. Without a file of identities every attempt is a buyer's own (FLASH_AUTH=off)."""

    bodies: Sequence[str]
    identities: Path | None
    prefix: str  # ten digits follow, which make it a key
    line: str = f"POST {wire.PURCHASES_PATH}"  # of the request, without the version
    more: str = ""  # header lines, each with its end, which every attempt has too

    def requests(self, host: str, more: str = "") -> Callable[[int], bytes]:
        """From a number to the request with that number. ``more``: header lines, each with its end, from our generator alone."""
        heads = [
            f"{self.line} HTTP/1.1\r\nHost: {host}\r\n{self.more}Content-Type: {wire.JSON_TYPE}\r\n{more}"
            f"Content-Length: {len(body)}\r\n{wire.KEY_HEADER}: {self.prefix}"
            for body in self.bodies
        ]
        tails = [f"\r\n\r\n{body}" for body in self.bodies]
        names = self.identities.read_text(encoding="ascii").splitlines() if self.identities else []

        def request(number: int) -> bytes:
            digits, turn = f"{number:0{_KEY_DIGITS}}", number % len(heads)
            identity = names[number % len(names)] if names else f"{wire.BUYER_HEADER}: buyer-{digits}"
            return f"{heads[turn]}{digits}\r\n{identity}{tails[turn]}".encode()

        return request


def body(sku: str, quantity: int, more: Mapping[str, str] | None = None) -> str:
    """One cart of one line."""
    return json.dumps({"items": [{"sku": sku, "quantity": quantity}], **(more or {})}, separators=(",", ":"))


class Names:
    """Prefixes of keys, new ones with every run: keys are for ever."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._count = 0

    def prefix(self) -> str:
        """One that nobody has."""
        self._count += 1
        return f"{self._run}-{self._count}-"
