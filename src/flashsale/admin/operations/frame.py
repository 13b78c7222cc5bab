"""One frame of the stream, put together of what is known. Pure: what was read, when, and by whom is the collector's."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from flashsale.admin.operations.exposition import Series, by_label
from flashsale.admin.operations.window import SECONDS as SECONDS_SEEN
from flashsale.admin.operations.window import Change, quantile
from flashsale.settings import ASYNCIO_REDIS, BACKENDS, GEVENT_RABBIT, MIXED

Key = tuple[str, str]
Part = dict[str, Any]

UPKEEP, CHECKOUT, AUDITOR = "upkeep", "checkout", "auditor"
SHARES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
ROUND_SECONDS_MAX = (
    5.0  # upkeep ends one several times a second; what it says of a gate is of the last that it ended well
)
STALE_SECONDS = 120.0  # as the auditor has it: the longest pass and the longest pause
FINDINGS = {
    "oversold": "oversold",
    "lost": "lost",
    "duplicated": "duplicated",
    "leaked": "leaked",
    "drift": "gate_drift",
}
"""What the strip shows, and what the auditor calls it."""
ACCEPTED_YES = ("held", "replayed", "queued")  # neither refused nor an error
ERRORS = ("try_later",)
MIB = 2**20

CPU, RSS, STARTED, INFO = (
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "flash_process_info",
)
ATTEMPTS, AT_ONCE, SECONDS = (
    "flashsale_attempts_total",
    "flashsale_refused_at_once_total",
    "flashsale_attempt_seconds_bucket",
)
DECIDED, DECIDED_SECONDS = "flashsale_checkout_decided_total", "flashsale_checkout_decided_seconds_bucket"
COMMITS, BATCHES = "flashsale_commit_seconds_bucket", "flashsale_checkout_batch_seconds_bucket"
COUNTERS = frozenset({CPU, ATTEMPTS, AT_ONCE, SECONDS, DECIDED, DECIDED_SECONDS, COMMITS, BATCHES})
OLDEST, GATE_UP = "flashsale_checkout_oldest_age_seconds", "flashsale_gate_up"
DRIFT, LAG_ROWS, PENDING, ROUND = (
    "flash_gate_drift_units",
    "flash_gate_lag_rows",
    "flash_gate_pending",
    "flash_gate_last_good_round_timestamp_seconds",
)
NAMES = COUNTERS | {RSS, STARTED, INFO, OLDEST, GATE_UP, DRIFT, LAG_ROWS, PENDING, ROUND}
"""Everything that is read of a process's metrics."""


class Process(NamedTuple):
    """One process as it was seen last: what it says now, and what its counters did; or why it says nothing."""

    role: str
    number: int  # among those of its role
    says: Series = MappingProxyType({})
    change: Change[Key] | None = None
    away: str = ""

    def value(self, name: str) -> float | None:
        """Of a series without labels."""
        return self.says.get((name, ""))

    @property
    def pid(self) -> int | None:
        """As it says itself."""
        known = by_label(self.says, INFO)
        return int(next(iter(known))) if known else None


def whole(at: float, parts: Mapping[str, Any], events: Sequence[Part], bench: Part | None) -> Part:
    """The frame: ``parts`` by name, each as a function below or of ``servers`` made it, or ``{"away": why}``."""
    return {"at": iso(at), "window_s": SECONDS_SEEN, **parts, "events": list(events), "bench": bench}


def queues(counts: Mapping[str, tuple[int, int] | None]) -> list[Part]:
    """Those that somebody works on: messages in nobody's hand, and consumers. Of one that was not there neither is known."""
    return [
        {"name": name, "depth": count and count[0], "consumers": count and count[1]} for name, count in counts.items()
    ]


def dead_letters(counts: Mapping[str, tuple[int, int] | None]) -> Part:
    """What was set aside, in the queues that are there."""
    known = [count[0] for count in counts.values() if count is not None]
    return {"n": sum(known) if known else None}


def audit(report: Mapping[str, Any]) -> Part:
    """The verdict strip. A finding that somebody has put right since was one: the most that was ever found is shown."""
    ever: dict[str, int] = {}
    for violation in report["violations"]:
        ever[violation["finding"]] = ever.get(violation["finding"], 0) + violation["count"]
    numbers = {name: max(report["findings"].get(known, 0), ever.get(known, 0)) for name, known in FINDINGS.items()}
    age = report["age_s"]
    found = [f"{number} {name}" for name, number in numbers.items() if number]
    others = sorted({v["finding"] for v in report["violations"]} - set(FINDINGS.values()))
    if found or not report["clean"]:
        word = f"not clean: {', '.join([*found, *others])}"
    elif age is None or age > STALE_SECONDS or not report["ready"]:
        word = (
            "not proven: no audit came to its end" if age is None else f"not proven: the last audit is {age:.0f} s old"
        )
    else:
        word = "clean"
    return {"age_s": age, "clean": report["clean"], **numbers, "word": word}


def backends(processes: Sequence[Process]) -> list[Part]:
    """Those that are there, side by side."""
    deciders = [process for process in processes if process.role == CHECKOUT]
    rows = []
    for name in BACKENDS[MIXED]:
        servers = [process for process in processes if process.role == name]
        if not servers:
            continue
        changes = _changes(servers)
        verdicts = _words(changes, ATTEMPTS)
        accepted = percentiles(*_worked_on(changes))
        decided, refused, held, is_told = accepted, _refused(verdicts), verdicts.get("held", 0.0), bool(changes)
        if name == GEVENT_RABBIT:
            decisions = _changes(deciders)
            decided = percentiles(*_apart(_cumulative(decisions, DECIDED_SECONDS)))
            later = _words(decisions, DECIDED)
            refused, held = refused + _refused(later), later.get("held", 0.0)
            is_told = is_told and bool(decisions)
        rows.append(
            {
                "name": name,
                "servers": len(servers),
                "up": sum(not process.away for process in servers),
                "rate_per_s": rounded(sum(verdicts.values()) if changes else None),
                "held_per_s": rounded(held if is_told else None),
                "refused_per_s": rounded(refused if is_told else None),
                "errors_per_s": rounded(sum(verdicts.get(word, 0.0) for word in ERRORS) if changes else None),
                "accepted": accepted,
                "decided": decided,
            }
        )
    return rows


def gate(processes: Sequence[Process], at: float) -> Part:
    """The copy of the stock: how far it is from PostgreSQL, as upkeep says, and who has it, as the servers do."""
    keepers = [process for process in processes if process.role == UPKEEP and not process.away]
    servers = [process for process in processes if process.role == ASYNCIO_REDIS]
    rounds = [value for process in keepers if (value := process.value(ROUND))]
    # Without Redis its gauges keep their last value, and one that has just begun has none: neither is a gate without drift.
    sure = [process for process in keepers if at - (process.value(ROUND) or -math.inf) <= ROUND_SECONDS_MAX]
    drifts = [value for process in sure for value in by_label(process.says, DRIFT).values()]
    return {
        "drift_units": int(max(drifts, key=abs, default=0)) if sure else None,
        "lag_rows": _most(sure, LAG_ROWS),
        "pending": _most(sure, PENDING),
        "round_age_s": rounded(max(at - max(rounds), 0.0)) if rounds else None,
        "up": sum(process.value(GATE_UP) == 1 and not process.away for process in servers),
        "servers": len(servers),
    }


def commit_lag(processes: Sequence[Process]) -> Part:
    """How long a batch takes to be committed, whoever decides it; and the oldest attempt in a worker's hand."""
    changes = _changes(processes)
    both = [_cumulative(changes, COMMITS), _cumulative(changes, BATCHES)]
    together = {bound: sum(each.get(bound, 0.0) for each in both) for bound in sorted({*both[0], *both[1]})}
    told = percentiles(*_apart(together))
    deciders = [process for process in processes if process.role == CHECKOUT and not process.away]
    oldest = [value for process in deciders if (value := process.value(OLDEST)) is not None]
    return {
        "p50_ms": told["p50_ms"],
        "p99_ms": told["p99_ms"],
        "oldest_ms": rounded(1000 * max(oldest)) if oldest else None,
    }


def check(one: Process) -> None:
    """Raises ``ValueError`` or ``IndexError`` if a frame cannot be made of what it says: it alone is away then."""
    process(one, 0.0)
    for name in (SECONDS, DECIDED_SECONDS, COMMITS, BATCHES):
        _cumulative(_changes([one]), name)


def process(one: Process, at: float) -> Part:
    """One row of the table of processes."""
    rss, started = one.value(RSS), one.value(STARTED)
    return process_row(
        one.role,
        one.number,
        one.pid,
        cores=None if one.change is None else one.change.per_s((CPU, "")),
        rss=rss,
        up_s=None if started is None else at - started,
        away=one.away,
    )


def process_row(
    role: str,
    index: int,
    pid: int | None,
    *,
    cores: float | None,
    rss: float | None,
    up_s: float | None,
    away: str = "",
) -> Part:
    """The same of what is known otherwise. Of one that is away nothing is known."""
    return {
        "role": role,
        "index": index,
        "pid": None if away else pid,
        "cpu_cores": None if cores is None or away else round(cores, 3),
        "rss_mib": None if rss is None or away else round(rss / MIB, 1),
        "up_s": None if up_s is None or away else round(max(up_s, 0.0), 1),
        "away": away or None,
    }


def percentiles(bounds: Sequence[float], counts: Sequence[float]) -> Part:
    """Milliseconds, and of how many."""
    found: Part = {name: rounded(_ms(quantile(bounds, counts, share))) for name, share in SHARES.items()}
    return found | {"n": round(sum(counts))}


def iso(at: float) -> str:
    """A moment as the rest of the API writes it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rounded(value: float | None) -> float | None:
    """To a tenth, and to two decimals below ten."""
    return None if value is None else round(value, 2 if abs(value) < 10 else 1)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _changes(processes: Iterable[Process]) -> list[Change[Key]]:
    return [process.change for process in processes if process.change is not None and not process.away]


def _words(changes: Iterable[Change[Key]], name: str) -> dict[str, float]:
    # per second, all processes together
    found: dict[str, float] = {}
    for change in changes:
        for word, value in by_label(change.by, name).items():
            found[word] = found.get(word, 0.0) + value / change.seconds
    return found


def _refused(verdicts: Mapping[str, float]) -> float:
    return sum(rate for word, rate in verdicts.items() if word not in ACCEPTED_YES and word not in ERRORS)


def _most(keepers: Sequence[Process], name: str) -> int | None:
    # several keepers look at the same gates
    if not keepers:
        return None
    return int(max(sum(by_label(process.says, name).values()) for process in keepers))


def _cumulative(changes: Iterable[Change[Key]], name: str) -> dict[float, float]:
    found: dict[float, float] = {}
    for change in changes:
        for word, value in by_label(change.by, name).items():
            found[float(word)] = found.get(float(word), 0.0) + value
    return found


def _apart(cumulative: Mapping[float, float]) -> tuple[list[float], list[float]]:
    bounds, counts, seen = [], [], 0.0
    for bound, count in sorted(cumulative.items()):
        counts.append(max(count - seen, 0.0))  # two looks at one process are not of one moment
        seen = count
        if math.isfinite(bound):
            bounds.append(bound)
    return bounds, counts


def _worked_on(changes: Sequence[Change[Key]]) -> tuple[list[float], list[float]]:
    # Whoever was refused at once was counted with no time at all. In a sale that is sold out they are nearly all.
    bounds, counts = _apart(_cumulative(changes, SECONDS))
    if counts:
        at_once = sum(sum(by_label(change.by, AT_ONCE).values()) for change in changes)
        counts[0] = max(counts[0] - at_once, 0.0)
    return bounds, counts
