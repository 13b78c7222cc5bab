"""The sale of a trial: made before the load, and its books held against what shoppers were told after it."""

import asyncio
import csv
import gzip
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import asyncpg

from benchmarks.comparison.contract import ERROR, SOLD, SOLD_OUT, TIMEOUT, Audit
from benchmarks.comparison.scenario import Shop
from flashsale.authority.client import UNHURRIED_SECONDS, Authority
from flashsale.proof.auditor import Report, audit, by_finding, gate_differs
from flashsale.proof.evidence import EvidenceError, read_told
from flashsale.proof.stores import StoreUnreachableError
from flashsale.stack.exits import StackError
from flashsale.stack.running import Urls

HOURS = 3  # no hold lapses under a trial: a unit that comes back would be another scenario
OPENS_IN_S = 0.5
OPEN_GUARD_S = 0.3  # servers round the opening up by up to 0.2 s
GATE_WITHIN_S = 120.0
REST_WITHIN_S = 120.0  # until the relay has told everything
POLL_S = 0.1
WITNESSES_MAX = 20
PRICE_MINOR = 12_900
# The auditor's rule against shoppers without an answer. Here patience ends, and then it is theirs: they are counted as errors, and
# nobody's books are wrong.
GAVE_UP = "never-answered"

_PURCHASES = """
    SELECT p.buyer, count(*) AS purchases FROM flash.purchase p WHERE p.sale_id = $1 AND p.version > 0 GROUP BY p.buyer"""
_STOCK = "SELECT sku, available, total FROM flash.stock WHERE sale_id = $1"
_UNSENT = "SELECT count(*) FROM (SELECT FROM flash.outbox WHERE sent_at IS NULL LIMIT 1) waiting"


@dataclass(frozen=True)
class Sale:
    """What is sold; ``primer`` is a sale nobody counts, whose shoppers only warm the engine up."""

    id: str
    skus: list[str]
    primer: str


class Told(NamedTuple):
    """What one wish came to for its shopper."""

    sku: str
    outcome: str


class Left(NamedTuple):
    """Of one SKU, at the end."""

    available: int
    total: int


async def open_sale(urls: Urls, shop: Shop) -> Sale:
    """A sale that is open, with its gate built. Raises StackError when upkeep does not build it."""
    name = f"trial-{secrets.token_hex(4)}"
    sale = Sale(name, [f"{name}-{number:03d}" for number in range(shop.skus)], f"{name}-primer")
    units = [shop.stock // shop.skus + (number < shop.stock % shop.skus) for number in range(shop.skus)]
    opens = datetime.now(UTC) + timedelta(seconds=OPENS_IN_S)
    authority = await Authority.connect(urls.postgres_app, 1, UNHURRIED_SECONDS)
    try:
        for each, skus in ((name, list(zip(sale.skus, units, strict=True))), (sale.primer, [(sale.primer, 1_000_000)])):
            await authority.create_sale(
                each,
                merchant="comparison",
                name=each,
                opens=opens,
                closes=opens + timedelta(hours=HOURS),
                buyer_limit=shop.buyer_limit,
                hold_seconds=HOURS * 3600,
                currency="EUR",
            )
            for sku, count in skus:
                await authority.add_item(each, sku, sku, PRICE_MINOR, count)
    finally:
        await authority.close()
    until = time.monotonic() + GATE_WITHIN_S
    while any([await gate_differs(urls.postgres_auditor, urls.redis, each) for each in (sale.id, sale.primer)]):
        if time.monotonic() > until:
            raise StackError(f"upkeep did not build the gate of the new sale within {GATE_WITHIN_S:.0f} s")
        await asyncio.sleep(POLL_S)
    await asyncio.sleep(max(0.0, (opens - datetime.now(UTC)).total_seconds() + OPEN_GUARD_S))
    return sale


async def settle_accounts(urls: Urls, sale: Sale, folder: Path) -> Audit:
    """The audit of the trial in ``folder``, once all is at rest. Raises StackError when nobody can tell."""
    books = await asyncpg.connect(urls.postgres_auditor, timeout=UNHURRIED_SECONDS)
    try:
        until = time.monotonic() + REST_WITHIN_S
        while await books.fetchval(_UNSENT, timeout=UNHURRIED_SECONDS) and time.monotonic() < until:  # noqa: ASYNC110 - another process
            await asyncio.sleep(POLL_S)
        try:
            calls = await asyncio.to_thread(read_told, folder / "told.jsonl.gz")
            report = await audit(
                urls.postgres_auditor, urls.redis, rabbitmq_url=urls.rabbitmq, sale=sale.id, told=calls
            )
        except (EvidenceError, StoreUnreachableError) as error:
            raise StackError(f"the trial could not be audited: {error}") from error
        bought = {row["buyer"]: row["purchases"] for row in await books.fetch(_PURCHASES, sale.id)}
        left = {row["sku"]: Left(row["available"], row["total"]) for row in await books.fetch(_STOCK, sale.id)}
    finally:
        books.terminate()
    return compare(report, await asyncio.to_thread(read_outcomes, folder), bought, left)


def read_outcomes(folder: Path) -> dict[str, Told]:
    """By shopper; each has one wish."""
    with gzip.open(folder / "requests.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return {row["shopper"]: Told(row["sku"], row["outcome"]) for row in csv.DictReader(file)}


def compare(report: Report, told: Mapping[str, Told], bought: Mapping[str, int], left: Mapping[str, Left]) -> Audit:
    """What the auditor found, and what shoppers were told in the end held against the books, each kind of wrong apart."""
    tallies = [tally for tally in report.look.tallies if tally.rule != GAVE_UP]
    found = by_finding(tallies)
    unheard = {buyer for buyer in bought if buyer in told and told[buyer].outcome in (TIMEOUT, ERROR)}
    phantoms = [
        buyer for buyer in bought if buyer not in unheard and (buyer not in told or told[buyer].outcome != SOLD)
    ]
    unbooked = [buyer for buyer, each in told.items() if each.outcome == SOLD and buyer not in bought]
    refused = Counter(each.sku for each in told.values() if each.outcome == SOLD_OUT)
    undersold = sum(min(row.available, refused[sku]) for sku, row in left.items())
    findings = [f"{name}: {witness}" for name, finding in found.items() for witness in finding.witnesses]
    findings += _some("phantom", phantoms, lambda buyer: told[buyer].outcome if buyer in told else "never came")
    findings += _some("lost_ack", unbooked, lambda _: "was told SOLD")
    wrong = {
        "oversold": found["oversold"].number,
        "undersold": undersold,
        "phantom": len(phantoms),
        "duplicate": found["duplicated"].number + sum(count - 1 for count in bought.values()),
        "lost_ack": max(found["lost"].number, len(unbooked)),
        "leaked": found["leaked"].number,
    }
    return Audit(
        clean=not tallies and not any(wrong.values()),
        unheard=len(unheard),
        findings=tuple(findings[:WITNESSES_MAX]),
        **wrong,
    )


def _some(kind: str, buyers: Iterable[str], why: Callable[[str], str]) -> list[str]:
    return [f"{kind}: {buyer} {why(buyer)}" for buyer in list(buyers)[:WITNESSES_MAX]]
