"""A tiny language for scenes: one verb a line, the same scene for the model, the SQL and a running backend.

open     [sale] sku=units ... [limit=2]      a sale and its items
reserve  who [xN] [of=a+b] [key=k] -> verdict   a new attempt; `key` defaults to the buyer's name, `of` to a
replay   who ...                  -> verdict   the same, marked as a retry
cancel   who [key=k]              -> state or verdict
lapse    who [key=k]                           the hold's deadline passes, and is noticed
pause | reopen | end  [sale]
restock  sku=units
stock    sku=units ...                         what is available now
state    who [key=k]              -> state
"""

import re
from typing import NamedTuple, Protocol


class Wish(NamedTuple):
    """What a line of a scene asks for."""

    who: str
    key: str
    lines: tuple[tuple[str, int], ...]


class Driver(Protocol):
    """One implementation of the contract, as the scenes need it."""

    async def open(self, sale: str, stock: dict[str, int], limit: int) -> None: ...
    async def reserve(self, wish: Wish, *, is_retry: bool) -> str: ...
    async def cancel(self, who: str, key: str) -> str: ...
    async def lapse(self, who: str, key: str) -> None: ...
    async def change(self, sale: str, state: str) -> None: ...
    async def restock(self, sku: str, units: int) -> None: ...
    async def available(self, sku: str) -> int: ...
    async def state(self, who: str, key: str) -> str: ...


async def play(scene: str, driver: Driver) -> None:
    """Act every line; the first that does not come out as written fails with its text."""
    for line in filter(None, (line.partition("#")[0].strip() for line in scene.splitlines())):
        command, _, expected = (part.strip() for part in line.partition("->"))
        verb, *words = command.split()
        heard = await _act(driver, verb, words)
        assert heard == (expected or None), f"{line!r}: heard {heard}"


async def _act(driver: Driver, verb: str, words: list[str]) -> str | None:
    options = dict(word.split("=") for word in words if "=" in word)
    plain = [word for word in words if "=" not in word]
    match verb:
        case "open":
            limit = int(options.pop("limit", 2))
            await driver.open(plain[0] if plain else "s", {sku: int(units) for sku, units in options.items()}, limit)
        case "reserve" | "replay":
            return await driver.reserve(_wish(plain, options), is_retry=verb == "replay")
        case "cancel":
            return await driver.cancel(plain[0], options.get("key", plain[0]))
        case "state":
            return await driver.state(plain[0], options.get("key", plain[0]))
        case "lapse":
            await driver.lapse(plain[0], options.get("key", plain[0]))
        case "pause" | "reopen" | "end":
            state = {"pause": "PAUSED", "reopen": "OPEN", "end": "ENDED"}[verb]
            await driver.change(plain[0] if plain else "s", state)
        case "restock":
            for sku, units in options.items():
                await driver.restock(sku, int(units))
        case "stock":
            seen = {sku: await driver.available(sku) for sku in options}
            assert seen == {sku: int(units) for sku, units in options.items()}
        case _:
            raise AssertionError(f"there is no verb {verb!r}")
    return None


def _wish(plain: list[str], options: dict[str, str]) -> Wish:
    who, *rest = plain
    quantity = next((int(word[1:]) for word in rest if re.fullmatch(r"x\d+", word)), 1)
    skus = options.get("of", "a").split("+")
    return Wish(who, options.get("key", who), tuple((sku, quantity) for sku in skus))
