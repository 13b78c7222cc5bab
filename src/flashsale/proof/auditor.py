"""``python -m flashsale.proof.auditor``: audit the stores, and what shoppers were told, from one snapshot per pass.

Exit codes: 0 every finding is 0; 1 not; 2 bad usage, an unknown sale, an unusable told file or journal; 3 a store cannot be
reached.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from flashsale.contract.wire import METHODS
from flashsale.proof import findings
from flashsale.proof.evidence import EvidenceError, ToldCall, read_told
from flashsale.proof.findings import Tallies, Tally, Witness
from flashsale.proof.invariants import FINDINGS, INVARIANTS, RULE, RULES, WITNESSES_MAX, Rule
from flashsale.proof.stores import (
    DEAD_QUEUES,
    WORKING_QUEUES,
    Books,
    Journal,
    StoreUnreachableError,
    Told,
    read_books,
    read_gates,
    read_queues,
    reading,
)
from flashsale.settings import Settings, SettingsError

PASS_PAUSE_S = 0.5
SETTLE_S_MAX = 20.0  # a longer patience is for a sale that is still going on


class Finding(NamedTuple):
    """How many things are wrong in one way, and the first few of them."""

    number: int
    witnesses: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """What one pass found, by which rules, over how much."""

    tallies: tuple[Tally, ...]
    judged: frozenset[str]
    scope: dict[str, int]
    seqs: dict[str, int] = field(default_factory=dict)  # of every SKU, for the next look
    is_moving: bool = False  # units moved since the look before, so what means something only at rest was not judged


@dataclass(frozen=True)
class Report:
    """The last pass: its findings by name, how many passes it took, and how much was looked at."""

    look: Look
    passes: int
    fairness: dict[str, dict[str, Any]]

    @property
    def findings(self) -> dict[str, Finding]:
        return by_finding(self.look.tallies)

    @property
    def scope(self) -> dict[str, int]:
        return self.look.scope

    @property
    def clean(self) -> bool:
        return not self.look.tallies

    def document(self) -> dict[str, Any]:
        return {
            "clean": self.clean,
            "at_rest": not self.look.is_moving,
            "passes": self.passes,
            "scope": self.scope,
            "findings": {
                name: {"count": finding.number, "witnesses": list(finding.witnesses)}
                for name, finding in self.findings.items()
            },
            "invariants": by_invariant(self.look),
            "fairness": self.fairness,
        }


def by_finding(tallies: Iterable[Tally]) -> dict[str, Finding]:
    """The tallies under their headlines, every headline in its place."""
    numbers: Counter[str] = Counter()
    texts: dict[str, list[str]] = {name: [] for name in FINDINGS}
    for tally in tallies:
        headline = RULE[tally.rule].finding
        numbers[headline] += tally.number
        texts[headline] += tally.texts
    return {name: Finding(numbers[name], tuple(texts[name][:WITNESSES_MAX])) for name in FINDINGS}


def by_invariant(look: Look) -> list[dict[str, Any]]:
    """Every invariant, what breaks it now, and whether anything could be judged at all."""
    numbers = {tally.rule: tally.number for tally in look.tallies}
    return [
        {
            "id": invariant.id,
            "name": invariant.name,
            "formula": invariant.formula,
            "kind": invariant.kind,
            "judged": any(rule.name in look.judged for rule in RULES if rule.invariant == invariant.id),
            "broken": {
                rule.name: numbers[rule.name]
                for rule in RULES
                if rule.invariant == invariant.id and rule.name in numbers
            },
        }
        for invariant in INVARIANTS
    ]


class Patience:
    """Which of the things found are wrong for good: those whose rule never settles, and those that have lasted too long."""

    def __init__(self, settle_s_max: float) -> None:
        self._settle_s_max = settle_s_max
        self._since: dict[tuple[str, str], float] = {}

    def confirmed(self, tallies: Iterable[Tally], now: float) -> list[Tally]:
        """The tallies that count. ``now`` is monotonic; to be called once per look, in order."""
        seen = {(tally.rule, subject) for tally in tallies for subject in tally.subjects}
        self._since = {place: self._since.get(place, now) for place in seen}
        return [tally for tally in tallies if self._lasts(tally, now)]

    def _lasts(self, tally: Tally, now: float) -> bool:
        needed = min(RULE[tally.rule].settles_s, self._settle_s_max)
        return any(now - self._since[tally.rule, subject] >= needed for subject in tally.subjects)


class Sources(NamedTuple):
    """Where to look. URLs; ``rabbitmq`` may be empty, and then its queues are not judged."""

    postgres: str
    redis: str
    rabbitmq: str = ""
    journals: Sequence[Journal] = ()


async def audit(
    postgres_url: str,
    redis_url: str,
    *,
    rabbitmq_url: str = "",
    sale: str | None = None,
    told: Sequence[ToldCall] | None = None,
    journals: Sequence[Journal] = (),
) -> Report:
    """
    Look until everything is right or something is wrong for good: upkeep may still be at work. While people are buying there is
    always something under way, so what is left then is only what lasted. With a `sale`, entries of a journal about purchases
    that it does not have are another sale's. Raises StoreUnreachableError, and EvidenceError for a damaged journal.
    """
    sources = Sources(postgres_url, redis_url, rabbitmq_url, journals)
    heard = None if told is None else Told(told)
    fairness = {} if told is None else findings.fairness(told)
    patience = Patience(SETTLE_S_MAX)
    began = time.monotonic()
    seqs: dict[str, int] | None = None
    passes = 0
    while True:
        passes += 1
        look = await look_once(sources, sale, heard, seqs)
        now = time.monotonic()
        wrong = patience.confirmed(look.tallies, now)
        if not look.tallies:
            return Report(look, passes, fairness)
        if look.is_moving and (wrong or now - began >= SETTLE_S_MAX):
            return Report(replace(look, tallies=tuple(wrong)), passes, fairness)
        # One look does not tell whether anybody is buying; with shoppers' own words there is nobody left.
        if wrong and not look.is_moving and (told is not None or seqs is not None):
            return Report(look, passes, fairness)
        seqs = look.seqs
        await asyncio.sleep(PASS_PAUSE_S)


async def look_once(
    sources: Sources, sale: str | None, told: Told | None = None, passed: Mapping[str, int] | None = None
) -> Look:
    """
    One pass by every rule for which there is evidence; without those that mean nothing while somebody is buying, if units moved
    since the look before, whose seqs are ``passed``. What shoppers were told is only known when they have left.
    """
    gates = await read_gates(sources.postgres, sources.redis, sale)
    async with reading(sources.postgres) as connection:
        books = await read_books(
            connection, sale, RULES, told=told, gates=gates.values(), with_payments=bool(sources.journals)
        )
    seqs = {row.sku: row.seq for row in books.stock}
    moved_from = passed if told is None and passed != seqs else None
    found = Tallies()
    for row in books.sales:
        evidence = row, books.stock_of(row.id), gates.get(row.id), books.at
        found.add(
            findings.gate_differences(*evidence)
            if moved_from is None
            else findings.gate_differences_moving(*evidence, moved_from)
        )
    if told is not None:
        found.add(findings.duplicated_as_told(told.calls))
        found.add(findings.never_answered(told.calls))
    scope = books.scope | {"gates": len(gates), "told_calls": len(told.calls) if told else 0}
    tallies = [*books.tallies, *found.all(), *await _look_at_money(sources, books, scope, all_sales=sale is None)]
    if sources.rabbitmq:
        tallies += _look_at_queues(await read_queues(sources.rabbitmq), scope)
    there = {
        "",
        "gates",
        "winners",
        "told" if told else "",
        "journals" if sources.journals else "",
        "queues" if sources.rabbitmq else "",
    }
    is_moving = moved_from is not None
    judged = frozenset(rule.name for rule in RULES if rule.needs in there and not (is_moving and rule.at_rest))
    return Look(
        tallies=tuple(tally for tally in tallies if tally.rule in judged),
        judged=judged,
        scope={"sales": len(books.sales)} | scope,
        seqs=seqs,
        is_moving=is_moving,
    )


async def look_while_moving(sources: Sources, rules: Sequence[Rule], passed: Mapping[str, int]) -> Look:
    """One pass over all sales by those of ``rules`` that hold at every moment; ``passed`` are the seqs of the look before."""
    gates = await read_gates(sources.postgres, sources.redis, None, live_only=True)
    async with reading(sources.postgres) as connection:
        books = await read_books(connection, None, rules, with_payments=bool(sources.journals))
    found = Tallies()
    for row in books.sales:
        found.add(findings.gate_differences_moving(row, books.stock_of(row.id), gates.get(row.id), books.at, passed))
    scope = {"sales": len(books.sales)} | books.scope | {"gates": len(gates)}
    tallies = [*books.tallies, *found.all(), *await _look_at_money(sources, books, scope, all_sales=True)]
    there = {"", "gates", "journals" if sources.journals else ""}
    judged = {rule.name for rule in rules if rule.needs in there}
    return Look(tuple(tallies), frozenset(judged), scope, {row.sku: row.seq for row in books.stock})


async def gate_differs(postgres_url: str, redis_url: str, sale: str) -> bool:
    """Is there anything about this sale's gate that is not as PostgreSQL has it? Raises StoreUnreachableError."""
    gates = await read_gates(postgres_url, redis_url, sale)
    async with reading(postgres_url) as connection:
        books = await read_books(connection, sale, ())
    return any(
        any(findings.gate_differences(row, books.stock_of(row.id), gates.get(row.id), books.at)) for row in books.sales
    )


async def _look_at_money(sources: Sources, books: Books, scope: dict[str, int], *, all_sales: bool) -> list[Tally]:
    tills = [
        await journal.read() for journal in sources.journals
    ]  # after the snapshot: whatever is PAID there was captured before
    found = Tallies()
    if tills:
        found.add(findings.journals_against_books(books.payments, tills, all_sales=all_sales))
    scope["journal_entries"] = sum(till.entries for till in tills)
    return found.all() + [tally for till in tills for tally in till.broken.all()]


def _look_at_queues(waiting: Mapping[str, int], scope: dict[str, int]) -> list[Tally]:
    found = Tallies()
    found.add(
        Witness("queue-not-empty", name, f"{number} messages wait in {name}")
        for name, number in waiting.items()
        if name in WORKING_QUEUES and number
    )
    # What was set aside is told and does not count: whoever set it aside fenced it, or upkeep asks about it again.
    scope["dead_letters"] = sum(number for name, number in waiting.items() if name in DEAD_QUEUES)
    return found.all()


def main() -> int:
    try:
        settings = Settings.load(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    options = _parse(settings)
    try:
        told = [call for path in options.told for call in read_told(path)] if options.told else None
        report = asyncio.run(
            audit(
                options.postgres,
                options.redis,
                rabbitmq_url=options.rabbitmq,
                sale=options.sale,
                told=told,
                journals=_journals(options, settings),
            )
        )
    except EvidenceError as error:
        print(error, file=sys.stderr)
        return 2
    except StoreUnreachableError as error:
        print(f"cannot audit: {error}", file=sys.stderr)
        return 3
    if options.sale and not report.scope["sales"]:
        print(f"there is no sale {options.sale}", file=sys.stderr)
        return 2
    document = report.document()
    if options.json:
        print(json.dumps(document))
    else:
        _show(document)
    return 0 if report.clean else 1


def _show(document: Mapping[str, Any]) -> None:
    for row in document["invariants"]:
        verdict = "-" if not row["judged"] else sum(row["broken"].values())
        print(f"{row['id']:4} {row['name']:21} {verdict!s:>4}  {row['formula']}")
    for name, finding in document["findings"].items():
        print(f"{name.replace('_', ' '):12} {finding['count']}")
        for witness in finding["witnesses"]:
            print(f"    {witness}")
    print(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in document["scope"].items()))


def journals_of(settings: Settings) -> list[Journal]:
    """The journals of all gateways that the settings name."""
    return [Journal(url, method) for method, url in settings.gateway_urls.items()]


def _journals(options: argparse.Namespace, settings: Settings) -> list[Journal]:
    given = [Journal(source, method) for method, source in [*options.gateway, *options.journal]]
    return given or journals_of(settings)


def _of_method(source: Callable[[str], str | Path]) -> Callable[[str], tuple[str, str | Path]]:
    def parse(text: str) -> tuple[str, str | Path]:
        method, equals, place = text.partition("=")
        if method not in METHODS or not (equals and place):
            raise argparse.ArgumentTypeError(f"{text!r} is not METHOD=..., where METHOD is {', '.join(METHODS)}")
        return method, source(place)

    return parse


def _parse(settings: Settings) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flashsale.proof.auditor", description=__doc__)
    parser.add_argument("--postgres", default=settings.postgres_url, metavar="URL", help="default: FLASH_POSTGRES_URL")
    parser.add_argument("--redis", default=settings.redis_url, metavar="URL", help="default: FLASH_REDIS_URL")
    parser.add_argument(
        "--rabbitmq",
        default=settings.rabbitmq_url,
        metavar="URL",
        help="look at its queues; default: FLASH_RABBITMQ_URL",
    )
    parser.add_argument("--sale", metavar="ID", help="audit this sale only")
    parser.add_argument(
        "--told", type=Path, action="append", default=[], metavar="FILE", help="what shoppers were told"
    )
    parser.add_argument(
        "--gateway",
        type=_of_method(str),
        action="append",
        default=[],
        metavar="METHOD=URL",
        help="ask the journal of the gateway for this way to pay; may be given several times; default: FLASH_GATEWAY_*_URL",
    )
    parser.add_argument(
        "--journal",
        type=_of_method(Path),
        action="append",
        default=[],
        metavar="METHOD=FILE",
        help="a gateway's journal, from its file, also while it is down",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args()
    if not options.postgres or not options.redis:
        parser.error("--postgres and --redis, or FLASH_POSTGRES_URL and FLASH_REDIS_URL, are needed")
    return options


if __name__ == "__main__":
    sys.exit(main())
