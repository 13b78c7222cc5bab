"""What one trial came to, as numbers. Pure: tables in, values out."""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.comparison.contract import ERROR, SOLD, SOLD_OUT, TIMEOUT, UNSENT, Trial
from benchmarks.report.statistics import RATIO, SHARE, TAIL_MIN, Floats, Scale, Value, average, quantile

NS_PER_MS, NS_PER_S, BYTES_PER_MIB = 1e6, 1e9, float(1 << 20)
# Everything between a shopper and a verdict. The rest is the instrument.
SERVING = ("lb", "backend", "worker", "payments", "upkeep", "postgres", "redis", "rabbitmq")
WITHOUT_VERDICT = (ERROR, TIMEOUT, UNSENT)
GRAIN_S = 0.5  # the grain of what processes used over time, or as much as leaves
MOMENTS_MAX = 100


@dataclass(frozen=True)
class Metric:
    """A row of the table of verdicts."""

    key: str
    title: str
    unit: str
    scale: Scale = RATIO
    more_is_better: bool = False
    factor: float = 1.0  # of the value, to be shown in its unit
    is_asked: bool = False  # has a row wherever backends are compared, be it to say why there is no value
    unknown: str = "was not measured in any trial"


# Law: a latency says from when to when. Response is from the intended arrival to the verdict, accepted from there to the first answer
# that took the wish on.
FEW = f"in no trial do {TAIL_MIN} attempts lie beyond it"
METRICS = (
    Metric("response_mean", "average response (decided)", "ms", is_asked=True),
    Metric("response_p50", "median response (decided)", "ms"),
    Metric("response_p95", "p95 response (decided)", "ms", is_asked=True, unknown=FEW),
    Metric("response_p99", "p99 response (decided)", "ms", is_asked=True, unknown=FEW),
    Metric("accepted_p50", "median until accepted", "ms"),
    Metric("accepted_p99", "p99 until accepted", "ms"),
    Metric("throughput", "throughput (decided)", "/s", more_is_better=True, is_asked=True),
    Metric("sellout", "time until sold out", "s"),
    Metric("cpu", "CPU per decided attempt", "ms", is_asked=True),
    Metric("memory", "peak memory (PSS)", "MiB", is_asked=True),
    Metric("errors", "without a verdict", "%", scale=SHARE, factor=100, is_asked=True),
)
# Of a series, and not of a trial.
CAPACITY = Metric("capacity", "capacity (p99 ≤ 1 s, ≤ 0.1 % lost)", "/s", more_is_better=True)
BY_KEY = {metric.key: metric for metric in (*METRICS, CAPACITY)}
QUANTILES = (0.5, 0.95, 0.99, 0.999)
Attempts = pd.DataFrame  # of REQUESTS, or some of its columns


@dataclass(frozen=True)
class Waits:
    """Of all attempts in milliseconds, sorted, and how many never came to it."""

    times: Floats
    never: int

    @property
    def count(self) -> int:
        return len(self.times) + self.never


def waits(requests: pd.DataFrame, end: str = "decided_ns", begin: str = "intended_ns") -> Waits:
    """From one column to another. Who has no verdict never came to it, whatever was said before."""
    if end == "decided_ns":
        decided = requests["decided_ns"].where(~requests["outcome"].isin(WITHOUT_VERDICT))
    else:
        decided = requests[end]
    times = ((decided - requests[begin]) / NS_PER_MS).dropna().to_numpy(dtype=np.float64)
    return Waits(np.sort(times), len(requests) - len(times))


PARTS = ("until it is sent", "from there until accepted", "from there until decided")


def parts(requests: pd.DataFrame) -> Floats:
    """Of every attempt with a verdict, in milliseconds, a row each and a column per part; in order of the whole."""
    decided = requests[~requests["outcome"].isin(WITHOUT_VERDICT)].dropna(subset=["decided_ns"])
    moments = decided[["intended_ns", "sent_ns", "accepted_ns", "decided_ns"]].to_numpy(dtype=np.float64)
    found: Floats = np.diff(moments, axis=1) / NS_PER_MS
    return found[np.argsort(found.sum(axis=1), kind="stable")]


def closed_loop(requests: pd.DataFrame, users: int) -> Waits:
    """
    What so many users would have told of this very trial who ask for nothing while they wait: each takes the next attempt that is due, and
    counts from its sending. What came while all were waiting is not asked, and so not told of: that is coordinated omission. One that
    never had a verdict keeps its user for good.
    """
    rows = requests.sort_values("intended_ns", kind="stable").dropna(subset=["sent_ns"])
    decided = rows["decided_ns"].where(~rows["outcome"].isin(WITHOUT_VERDICT), np.inf).fillna(np.inf)
    free = [-math.inf] * users  # when each of them is
    times, never = [], 0
    for intended, sent, done in zip(rows["intended_ns"], rows["sent_ns"], decided, strict=True):
        if free[0] > intended:
            continue
        heapq.heapreplace(free, done)
        if done == math.inf:
            never += 1
        else:
            times.append((done - sent) / NS_PER_MS)
    return Waits(np.sort(np.asarray(times, dtype=np.float64)), never)


def by_rate(requests: pd.DataFrame, slots: int) -> tuple[Floats, list[Floats], list[Floats]]:
    """
    Of load that changes: in equal slots of the intended time, how many came per second, and in milliseconds what those waited until
    accepted and until decided. Who never came to it is not among them.
    """
    intended = requests["intended_ns"].to_numpy(dtype=np.float64)
    edges = np.linspace(0, float(intended.max()) * (1 + 1e-9), slots + 1)
    slot = np.digitize(intended, edges) - 1
    rates = np.bincount(slot, minlength=slots)[:slots] * NS_PER_S / edges[1]
    waited = []
    for end in ("accepted_ns", "decided_ns"):
        took = (requests[end].where(~requests["outcome"].isin(WITHOUT_VERDICT)) - requests["intended_ns"]) / NS_PER_MS
        waited.append([took[slot == place].dropna().to_numpy(dtype=np.float64) for place in range(slots)])
    return rates, waited[0], waited[1]


def values(
    trial: Trial, requests: pd.DataFrame, cpu_s: Mapping[str, float], peak_mib: float
) -> dict[str, Value | None]:
    """All metrics of one trial; None where it has none, such as a sell-out in a sale that did not sell out."""
    response, accepted = waits(requests), waits(requests, "accepted_ns")
    found: dict[str, Value | None] = {"response_mean": average(response.times, response.never)}
    for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")):
        found[f"response_{name}"] = quantile(response.times, response.never, q)
    for q, name in ((0.5, "p50"), (0.99, "p99")):
        found[f"accepted_{name}"] = quantile(accepted.times, accepted.never, q)
    decided = len(response.times)
    verdicts = requests.loc[~requests["outcome"].isin(WITHOUT_VERDICT), "decided_ns"]
    span_s = float(verdicts.max() - requests["intended_ns"].min()) / NS_PER_S if decided else 0.0
    found["throughput"] = Value(decided / span_s) if span_s > 0 else None
    found["sellout"] = _sellout(trial, requests)
    used = sum(cpu_s.get(role, 0.0) for role in SERVING)
    found["cpu"] = Value(used * 1000 / decided) if decided and used else None
    found["memory"] = Value(peak_mib) if peak_mib else None
    found["errors"] = Value(response.never / len(requests)) if len(requests) else None
    return found


def _sellout(trial: Trial, requests: pd.DataFrame) -> Value | None:
    """From the first arrival to the last unit's buyer, where somebody was then told that nothing is left."""
    sold = requests.loc[requests["outcome"] == SOLD, "decided_ns"]
    if len(sold) < trial.stock or not (requests["outcome"] == SOLD_OUT).any():
        return None
    return Value(float(sold.max() - requests["intended_ns"].min()) / NS_PER_S)


@dataclass(frozen=True)
class Used:
    """Seconds by role: on a processor, and ready without one."""

    cpu_s: Mapping[str, float]
    delay_s: Mapping[str, float]


def used(resources: pd.DataFrame) -> Used:
    """Counters are per process: of one that was born after the first look everything counts."""
    if resources.empty:
        return Used({}, {})
    frame = resources.sort_values("t_ns", kind="stable")
    key = ["role", "pid"]
    # Of each column what was known first and last: a look that could not tell is no 0.
    first, last = frame.groupby(key).first(), frame.groupby(key).last()
    # The first look ends where somebody is looked at again. It takes as long as it takes: rows have the moment of their own reading.
    again = frame.duplicated(key).to_numpy()
    until = frame["t_ns"].iloc[int(again.argmax()) if again.any() else -1]
    was_there = (first["t_ns"] <= until).to_numpy(dtype=np.float64)
    sums: list[dict[str, float]] = []
    for columns in (["cpu_user_s", "cpu_sys_s"], ["run_delay_s"]):
        # a thread that ended takes along what it waited
        since = (last[columns].sum(axis=1) - first[columns].sum(axis=1) * was_there).clip(lower=0)
        sums.append({str(role): float(seconds) for role, seconds in since.groupby(level="role").sum().items()})
    return Used(*sums)


def cores_over_time(resources: pd.DataFrame) -> pd.DataFrame:
    """Cores in use: a row per half second since the release, a column per role."""
    return _over_time(resources.assign(value=resources["cpu_user_s"] + resources["cpu_sys_s"]), is_counter=True)


def run_delay_over_time(resources: pd.DataFrame) -> pd.DataFrame:
    """Processes that were ready and had no core, on average: the same shape."""
    return _over_time(resources.assign(value=resources["run_delay_s"]), is_counter=True)


def memory_over_time(resources: pd.DataFrame, column: str = "pss") -> pd.DataFrame:
    """MiB: the same shape."""
    return _over_time(resources.assign(value=resources[column] / BYTES_PER_MIB), is_counter=False)


def _over_time(frame: pd.DataFrame, *, is_counter: bool) -> pd.DataFrame:
    # Looks come late when the machine is busy, so each process's line is read off at equal moments, a hundred at most; before its
    # first look and after its last one it is nothing.
    looks = frame.dropna(subset=["value"])
    if looks.empty:
        return pd.DataFrame()
    begin, end = float(looks["t_ns"].min()), float(looks["t_ns"].max())
    grain = max(GRAIN_S * NS_PER_S, (end - begin) / MOMENTS_MAX)
    moments = np.arange(np.ceil(begin / grain), np.floor(end / grain) + 1) * grain
    if not len(moments):
        return pd.DataFrame()
    sums: dict[str, Floats] = {}
    for (role, _), of_process in looks.sort_values("t_ns", kind="stable").groupby(["role", "pid"]):
        at, values = of_process["t_ns"].to_numpy(), of_process["value"].to_numpy()
        if is_counter:
            line = np.diff(np.interp(moments, at, values), prepend=values[0]).clip(min=0) * NS_PER_S / grain
        else:
            line = np.interp(moments, at, values, left=0.0, right=0.0)
        sums[str(role)] = sums.get(str(role), np.zeros(len(moments))) + line
    return pd.DataFrame(sums, index=moments / NS_PER_S)


def peak_memory(resources: pd.DataFrame) -> float:
    """MiB of all that serves, at its largest; 0 where nobody looked."""
    table = memory_over_time(resources)
    mine = [role for role in SERVING if role in table.columns]
    return float(table[mine].sum(axis=1).max()) if mine else 0.0


def unaccounted(cpu_s: Mapping[str, float], system: pd.DataFrame) -> float | None:
    """What the machine used and no process did, as a share of it: kernel threads, and processes that nobody looked at."""
    if len(system) < 2 or not cpu_s:
        return None
    columns = ["cpu_user_s", "cpu_sys_s", "cpu_irq_s"]
    busy = float(system[columns].iloc[-1].sum() - system[columns].iloc[0].sum())
    return (busy - sum(cpu_s.values())) / busy if busy > 0 else None


def in_flight(requests: pd.DataFrame) -> tuple[Floats, Floats]:
    """Attempts sent and not decided: moments in seconds, and how many from there on. Who never was decided stays."""
    sent = requests["sent_ns"].dropna().to_numpy(dtype=np.float64)
    done = requests.loc[requests["sent_ns"].notna(), "decided_ns"].dropna().to_numpy(dtype=np.float64)
    moments = np.concatenate([sent, done])
    order = np.argsort(moments, kind="stable")
    steps = np.concatenate([np.ones(len(sent)), -np.ones(len(done))])
    return moments[order] / NS_PER_S, np.cumsum(steps[order])


def outcomes(trial: Trial) -> Mapping[str, float]:
    """Shares."""
    total = sum(trial.counts.values()) or 1
    return {outcome: count / total for outcome, count in trial.counts.items()}


def fairness(requests: pd.DataFrame, places: int = 20) -> tuple[Floats, Floats] | None:
    """Who came when, in so many equal groups by intended time, and which share of each got a unit."""
    ordered = requests.sort_values("intended_ns", kind="stable")
    if len(ordered) < places * 10 or ordered["intended_ns"].nunique() < places:
        return None
    won = (ordered["outcome"] == SOLD).to_numpy(dtype=np.float64)
    groups = np.array_split(won, places)
    return (np.arange(places) + 0.5) * 100 / places, np.array([group.mean() for group in groups])
