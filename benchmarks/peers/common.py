"""What the Python peers share: reading an attempt, the arguments of the script, and the problem for its answer."""

import gc
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flashsale.contract import wire
from flashsale.contract.verdict import ANSWERS, DETAILS, Verdict
from flashsale.identity import Identify, identify_by

SALE = "bench"
GATE_KEY = f"{{{SALE}}}:gate"
COLLECT_EVERY = 20_000  # objects, as our own server


class Setup(NamedTuple):
    """What a peer is told by its environment."""

    port: int
    redis_url: str
    script: str
    identify: Identify

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Setup":
        """From the variables that the benchmark sets."""
        identify = identify_by(environ["FLASH_AUTH"], environ["FLASH_JWT_SECRET"])
        script = Path(environ["RESERVE_LUA"]).read_text(encoding="utf-8")
        return cls(int(environ["FLASH_PORT"]), environ["FLASH_REDIS_URL"], script, identify)


class Asked(NamedTuple):
    """An attempt understood; ``arguments`` are the script's, without the run id before them."""

    path: str
    arguments: list[str]


def collect_seldom() -> None:
    """As our own server, once everything stands: what an attempt makes is no cycle, and by default all is looked through for some."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)


def read(headers: Mapping[str, str], body: bytes, identify: Identify) -> Asked:
    """The attempt. Raises ``wire.Refusal``."""
    key = wire.parse_key(headers.get(wire.KEY_HEADER))
    cart = wire.parse_cart(body)
    buyer = identify(headers).buyer
    purchase = wire.purchase_id(buyer, key)
    arguments = ["0", uuid.uuid4().hex, purchase.hex, buyer]
    for line in cart.lines:
        arguments += (line.sku, str(line.quantity))
    return Asked(f"{wire.PURCHASES_PATH}/{purchase}", arguments)


def problem(answer: bytes, path: str) -> tuple[int, bytes]:
    """Status and body for the script's word. Anything but a refusal is out of a peer's hands."""
    word = answer.decode()
    verdict = (
        Verdict(word) if word in {Verdict.SOLD_OUT, Verdict.SALE_NOT_OPEN, Verdict.IN_FLIGHT} else Verdict.TRY_LATER
    )
    return refusal(verdict, DETAILS[verdict], path if verdict is Verdict.SOLD_OUT else None)


def refusal(verdict: Verdict, detail: str, path: str | None = None) -> tuple[int, bytes]:
    """Status and body of a refusal."""
    return ANSWERS[verdict].status, wire.problem_body(verdict, detail, path)
