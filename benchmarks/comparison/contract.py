"""What a run of the comparison leaves behind. Whoever judges, draws or typesets reads these files and nothing else.

    FLASH_HOME/comparison/<utc>-<hash8>/
      run.json                               Run: the plan, the machine, the scenarios as they were, checksums of all that follows
      trials/<scenario>-<block>-<position>-<label>/
        trial.json                           Trial: one fresh engine, one load, one audit
        requests.csv.gz                      REQUESTS: a row per wish, in order of the intended times
        calls.csv.gz                         CALLS: a row per HTTP request that was sent for a wish, in order of sending
        resources.csv.gz                     RESOURCES: a row per process and look; counters are cumulative
        system.csv.gz                        SYSTEM: a row per look at the whole machine; counters are cumulative
        stock.csv.gz                         STOCK: units left, by who says so
        queues.csv.gz                        QUEUES: long form, a row per number: what waits, and where
        events.json                          [Event]: marks on the time axis
        told.jsonl.gz                        what shoppers asked and heard, as the auditor reads it (benchmarks/load/told.py)
        load.json                            the generator's orders
      lab.json                               optional: what the strategy lab found
    FLASH_HOME/benchmarks/running.json       Running: while a run goes on, and removed at its end

A run whose time was up, or that was interrupted, has no ``ended_at`` and fewer folders than its plan; what there is, is whole.

Law 1: every ``_ns`` is nanoseconds of CLOCK_MONOTONIC since the *release*, the moment at which the first arrival may happen; what
came before it is negative. Law 2: an empty field is *never* or *unknown*, and not 0. Law 3: counters are what the kernel or the
process said, summed since its own start; who wants a rate takes differences.

Latencies, all from one row of ``requests``:

* response  = decided - intended    what a shopper waited for the verdict: the headline, with no coordinated omission
* accepted  = accepted - intended   until the first answer that took the wish on: 201, 202 or a final refusal
* service   = decided - sent        what it would look like to who forgets the wait before sending
* lag       = sent - intended       the generator's own lateness

A wish that was never decided has an empty ``decided_ns``; its response is at least what it waited until it was given up, so a
percentile that reaches such rows is a lower bound. UNSENT rows are infinitely late.
"""

import csv
import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 2
SIZES = ("quick", "standard", "full", "scenario")

# Cells of the 2x2, and under which label a trial of each is planned. A second label of the same backend (A2, B2) is the same thing
# again: their difference is noise by construction.
ASYNCIO_REDIS, GEVENT_RABBIT = "asyncio_redis", "gevent_rabbit"
ASYNCIO_QUEUE, GEVENT_DIRECT = "asyncio_queue", "gevent_direct"
LABELS = {
    "A": ASYNCIO_REDIS,
    "A2": ASYNCIO_REDIS,
    "B": GEVENT_RABBIT,
    "B2": GEVENT_RABBIT,
    "C": ASYNCIO_QUEUE,
    "D": GEVENT_DIRECT,
}

# How a wish ended for its shopper. REFUSED: another refusal of the contract (over the limit, too late, not open). ERROR: an answer
# that a correct request never gets. TIMEOUT: no verdict when the shopper's patience ended. UNSENT: the generator never sent it.
SOLD, SOLD_OUT, REFUSED, ERROR, TIMEOUT, UNSENT = "SOLD", "SOLD_OUT", "REFUSED", "ERROR", "TIMEOUT", "UNSENT"
OUTCOMES = (SOLD, SOLD_OUT, REFUSED, ERROR, TIMEOUT, UNSENT)

# ``tries``: POSTs sent. ``deferred``: 503 and 429 heard, each of which promised nothing and was followed by another try with the
# same key. ``status``: of the last answer. No answer says which server gave it.
REQUESTS = (
    "seq", "shopper", "sku", "intended_ns", "sent_ns", "accepted_ns", "decided_ns", "tries", "deferred", "status", "outcome",
)  # fmt: skip
# The raw intervals. ``kind``: buy (the POST) or follow (the GET by which a 202 is followed). An empty ``answered_ns``: no answer;
# then ``ended_ns`` is when it was given up and its connection closed, and else the same moment.
CALLS = ("seq", "kind", "sent_ns", "answered_ns", "status", "ended_ns")

# gen: who sends the load, and its helpers; monitor: whoever looks on, the launcher among them. kernel threads are no row.
ROLES = ("gen", "monitor", "lb", "backend", "worker", "payments", "upkeep", "postgres", "redis", "rabbitmq")
# ``run_delay_s``: time that the process's threads were ready to run and had no processor. Sizes in bytes; ``pss`` is looked at less
# often than the rest and empty in between.
RESOURCES = ("t_ns", "role", "pid", "cpu_user_s", "cpu_sys_s", "run_delay_s", "rss", "pss", "fds", "threads")
# CPU seconds of all cores together (``irq``: hard and soft). ``psi_cpu_s``: time in which somebody waited for a processor.
# Sockets are this moment's. The four TCP counters are the kernel's: a listener's queue overflowed, a SYN was dropped, a SYN sent
# again, a request for a connection dropped because its queue was full.
SYSTEM = (
    "t_ns", "cpu_user_s", "cpu_sys_s", "cpu_irq_s", "cpu_idle_s", "cpu_steal_s", "psi_cpu_s", "sockets_established",
    "sockets_time_wait", "listen_overflows", "listen_drops", "syn_retrans", "req_q_full_drops", "swapped_pages",
    "memory_available",
)  # fmt: skip
# ``source``: postgres (the authority), gate (Redis's copy), viewer (what the live stream showed).
STOCK = ("t_ns", "sku", "available", "source")
# ``place``: lb, a process by role and number (asyncio_redis-0), rabbitmq:<queue>, postgres, redis. ``metric``: see METRICS.
QUEUES = ("t_ns", "place", "metric", "value")
METRICS = {
    "in_hand": "requests being worked on now: at the balancer given to servers, at a server taken in",
    "waiting": "requests that wait for a place at the balancer now",
    "peak": "most requests in hand at once since its start, per server, as the balancer counts them",
    "refused": "503s and 429s given since its start",
    "retries": "requests that the balancer sent again since its start",
    "depth": "messages in a queue that nobody has in hand now",
    "connections": "PostgreSQL's backends that run a statement now",
    "commits": "PostgreSQL's transactions committed since its start",
    "lock_waits": "PostgreSQL's backends that wait for a lock now",
    "commands": "Redis's commands since its start",
    "clients": "connections at the balancer, or at Redis, now",
}

FILES = {
    "requests": REQUESTS,
    "calls": CALLS,
    "resources": RESOURCES,
    "system": SYSTEM,
    "stock": STOCK,
    "queues": QUEUES,
}
_TEXTS = frozenset({"shopper", "sku", "outcome", "kind", "role", "source", "place", "metric"})

EVENTS = ("release", "first_sold_out", "last_sold", "kill", "recover", "load_end", "void")


@dataclass(frozen=True)
class Gate:
    """One condition on which a trial may be believed. ``passed`` false makes the trial void; ``value`` None: could not be told."""

    value: float | None
    limit: float
    passed: bool
    unit: str = ""


@dataclass(frozen=True)
class Audit:
    """
    The books against what shoppers were told, after the load. Units or purchases, each counted apart:

    * oversold    units sold beyond the stock, as the auditor finds them
    * undersold   units left in the end although somebody was finally told SOLD_OUT and would have taken them
    * phantom     purchases in the books whose shopper was finally told something else, or never came
    * unheard     purchases whose shopper was finally told nothing: patience ended, or an error came. It is no breach, since nothing is
                  not no, and the same key still finds the purchase; so it is counted, and leaves the books clean
    * duplicate   purchases too many for one buyer and key
    * lost_ack    shoppers told SOLD whose purchase is not in the books
    * leaked      units that nobody has and nobody can buy
    """

    clean: bool
    oversold: int = 0
    undersold: int = 0
    phantom: int = 0
    duplicate: int = 0
    lost_ack: int = 0
    leaked: int = 0
    unheard: int = 0
    findings: tuple[str, ...] = ()


# Of a trial whose engine or stores went away: nothing is known of its books, neither good nor bad. Such a trial is void.
NOT_AUDITED = Audit(clean=False, findings=("was not audited",))


@dataclass(frozen=True)
class Event:
    """A mark on the time axis."""

    t_ns: int
    kind: str
    detail: str = ""


@dataclass(frozen=True)
class Planned:
    """One trial to be. ``variant`` says what differs where a scenario compares something else than backends; else empty."""

    trial: str  # the folder's name
    scenario: str
    block: int
    position: int
    label: str
    backend: str
    variant: str = ""


@dataclass(frozen=True)
class Trial:
    """What one trial came to."""

    scenario: str
    block: int
    position: int
    label: str
    backend: str
    variant: str
    algorithm: str  # LB_ALGORITHM
    servers: int
    skus: int
    shoppers: int  # wishes planned
    stock: int  # units over all SKUs
    viewers: int  # of the live stock, alongside
    seed: int
    started_at: str  # ISO 8601, UTC
    wall_s: float  # from the first process started to the last one ended
    load_s: float  # from the release to the last verdict
    load_model: str  # open, poisson | open, constant | open, burst at a barrier | ...
    offered_per_s: float  # wishes over the span of the intended times; 0 for a burst, which has none
    is_void: bool
    void_reasons: tuple[str, ...]
    gates: Mapping[str, Gate]
    audit: Audit
    counts: Mapping[str, int]  # by outcome; every outcome is named
    deferred: int  # 503 and 429 heard in all
    in_flight_peak: int  # most wishes sent and not decided at one moment, from `requests`
    open_peak: int  # most HTTP requests sent, and neither answered nor given up, at one moment, from `calls`
    null_ceiling_per_s: float | None  # what the same generator sends and hears at a server that does nothing
    is_linked: bool = False  # LB_LINK: the balancer's shared links, off where backends are compared
    phases_s: Mapping[str, float] = field(default_factory=dict)  # where wall_s went
    # What viewers saw, if there were any: ``age_ms`` (p50, p95, p99, max: from PostgreSQL's word to the viewer's eye), ``backwards`` and
    # ``contradictions`` (which must be 0), ``behind`` (who were not shown the last movement), frames by kind.
    viewed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name."""
        return trial_name(self.scenario, self.block, self.position, self.label)


@dataclass(frozen=True)
class Run:
    """The manifest: with its command, commit and seed the same trials happen again."""

    size: str
    command: str
    commit: str
    seed: int
    machine: Mapping[str, Any]  # ``generator`` in it: what the generator and wrk can do at a server that does nothing
    versions: Mapping[str, str]
    scenarios: Mapping[str, Mapping[str, Any]]  # by name, the TOML as it was read
    plan: tuple[Planned, ...]
    started_at: str
    ended_at: str = ""  # empty while it goes on
    checksums: Mapping[str, str] = field(default_factory=dict)  # SHA-256 by path below the folder
    schema: int = SCHEMA


@dataclass(frozen=True)
class Ratio:
    """A first impression while a run goes on: B over A so far."""

    metric: str
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Running:
    """What goes on now; ``at`` is when this was written (ISO 8601, UTC), by which a reader sees that nobody writes any more."""

    name: str
    phase: str
    done: int
    of: int
    eta_s: float
    at: str
    ratios: tuple[Ratio, ...] = ()


def trial_name(scenario: str, block: int, position: int, label: str) -> str:
    return f"{scenario}-{block}-{position}-{label}"


def write_run(folder: Path, run: Run) -> None:
    write_json(folder / "run.json", asdict(run))


def read_run(folder: Path) -> Run:
    """Raises ValueError for another schema."""
    document = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if document.get("schema") != SCHEMA:
        raise ValueError(f"{folder}: schema {document.get('schema')!r}, and this reads {SCHEMA}")
    plan = tuple(Planned(**planned) for planned in document["plan"])
    return Run(**{**document, "plan": plan})


def write_trial(folder: Path, trial: Trial, events: Sequence[Event]) -> None:
    """The trial's file comes last: a folder that has one is whole."""
    write_json(folder / "events.json", [asdict(event) for event in events])
    write_json(folder / "trial.json", asdict(trial))


def read_trial(folder: Path) -> Trial:
    document = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
    gates = {name: Gate(**gate) for name, gate in document["gates"].items()}
    audit = Audit(**{**document["audit"], "findings": tuple(document["audit"]["findings"])})
    return Trial(**{**document, "gates": gates, "audit": audit, "void_reasons": tuple(document["void_reasons"])})


def read_events(folder: Path) -> list[Event]:
    return [Event(**event) for event in json.loads((folder / "events.json").read_text(encoding="utf-8"))]


def trial_folders(run_folder: Path, run: Run) -> Iterator[tuple[Planned, Path]]:
    """The planned trials that were brought to an end, in the order of the plan."""
    for planned in run.plan:
        folder = run_folder / "trials" / planned.trial
        if (folder / "trial.json").exists():
            yield planned, folder


class Rows:
    """One of FILES while it is written; rows are in the order of its columns."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = gzip.open(folder / f"{name}.csv.gz", "wt", compresslevel=1, encoding="utf-8", newline="")  # noqa: SIM115 - closed in __exit__
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(FILES[name])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, *values: object) -> None:
        """None becomes an empty field."""
        self._writer.writerow(values)


def write_rows(folder: Path, name: str, rows: Iterable[Sequence[object]]) -> None:
    with Rows(folder, name) as file:
        for row in rows:
            file.add(*row)


def read_frame(folder: Path, name: str) -> "pd.DataFrame":
    """
    One of FILES as a table: texts as they are (empty ones empty), numbers as 64-bit floats with NaN for an empty field, which hold
    nanoseconds of a hundred days exactly. Raises ValueError for other columns than the contract's.
    """
    import pandas as pd  # noqa: PLC0415 - who only writes need not wait a second for it

    path = folder / f"{name}.csv.gz"
    kinds = {column: str if column in _TEXTS else "float64" for column in FILES[name]}
    frame = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values={c: [""] for c in kinds if c not in _TEXTS})
    if tuple(frame.columns) != FILES[name]:
        raise ValueError(f"{path}: columns {list(frame.columns)}, and the contract has {list(FILES[name])}")
    return frame


def running_path(home: Path) -> Path:
    return home / "benchmarks" / "running.json"


def write_running(home: Path, running: Running) -> None:
    path = running_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(running))


def read_running(home: Path) -> Running | None:
    """What goes on now, or None."""
    try:
        document = json.loads(running_path(home).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Running(**{**document, "ratios": tuple(Ratio(**ratio) for ratio in document["ratios"])})


def write_json(path: Path, document: object) -> None:
    """All of it or nothing: whoever reads at the same moment sees the old or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
