"""Runs of a comparison that are made up: what the latencies are is known, so what a report says of them can be held against it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison import contract
from benchmarks.comparison.contract import Audit, Event, Gate, Planned, Run, Trial
from benchmarks.report.reading import checksum

Floats = NDArray[np.float64]
Server = Callable[
    [np.random.Generator, Floats], Floats
]  # when each attempt comes, in seconds → what it takes, in ms; NaN: never

CLEAN = Audit(clean=True)
SECOND_NS = 1_000_000_000


def constant(ms: float) -> Server:
    return lambda _, arrivals: np.full(len(arrivals), ms)


def noisy(ms: float, noise: float = 0.2) -> Server:
    """Lognormal about its median."""
    return lambda rng, arrivals: ms * np.exp(rng.normal(0, noise, len(arrivals)))


def bimodal(fast_ms: float, slow_ms: float, slow_share: float) -> Server:
    """The last of every so many is slow."""

    def serve(_: np.random.Generator, arrivals: Floats) -> Floats:
        every = round(1 / slow_share)
        return np.where(np.arange(len(arrivals)) % every == every - 1, slow_ms, fast_ms)

    return serve


def stalled(ms: float, at_s: float, for_s: float) -> Server:
    """Answers nothing for a while, then everybody who waited at once."""
    return lambda _, arrivals: np.where(
        (arrivals >= at_s) & (arrivals < at_s + for_s), (at_s + for_s - arrivals) * 1000 + ms, ms
    )


def dropping(ms: float, every: int) -> Server:
    """One of so many is never answered."""
    return lambda _, arrivals: np.where(np.arange(len(arrivals)) % every == every - 1, np.nan, ms)


@dataclass(frozen=True)
class MadeUp:
    """One scenario of a run."""

    scenario: str
    servers: Mapping[str, Server]  # by label
    variant: str = ""
    rate: float = 600.0
    seconds: float = 2.0
    stock: int = 100
    blocks: int = 8
    noise_blocks: int = 3
    audits: Mapping[str, Audit] | None = None
    void: Sequence[tuple[int, str]] = ()  # block and label
    load_model: str = "open, poisson"
    cpu_ms: Mapping[str, float] | None = None  # per attempt, by label


def write(folder: Path, scenarios: Sequence[MadeUp], seed: int = 7) -> Path:
    """A whole run: every scenario's blocks of all labels, then its blocks of A against A."""
    plan: list[Planned] = []
    for scenario in scenarios:
        position = 100 * len({planned.variant for planned in plan if planned.scenario == scenario.scenario})
        for block in range(1, scenario.blocks + scenario.noise_blocks + 1):
            labels = list(scenario.servers) if block <= scenario.blocks else ["A", "A2"]
            for place, label in enumerate(labels if block % 2 else labels[::-1], position):
                name = contract.trial_name(scenario.scenario, block, place, label)
                planned = Planned(
                    name, scenario.scenario, block, place, label, contract.LABELS[label], scenario.variant
                )
                plan.append(planned)
                _trial(
                    folder / "trials" / name,
                    scenario,
                    planned,
                    np.random.default_rng([seed, block, *label.encode()]),
                    seed,
                )
    run = Run(
        size="standard",
        command="./flash bench standard",
        commit="0123456789abcdef0123456789abcdef01234567",
        seed=seed,
        machine={"cpu": "a made-up processor", "cores": 2, "kernel": "6.0", "memory_gib": 24, "hypervisor": "none"},
        versions={"python": "3.11.2", "postgres": "15.8", "redis": "7.0.15", "rabbitmq": "3.10.8"},
        scenarios={one.scenario: {"question": f"What does {one.scenario} do?"} for one in scenarios},
        plan=tuple(plan),
        started_at="2026-11-30T08:00:00+00:00",
        ended_at="2026-11-30T09:00:00+00:00",
    )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    contract.write_run(
        folder, replace(run, checksums={str(path.relative_to(folder)): checksum(path) for path in files})
    )
    return folder


def _trial(folder: Path, made: MadeUp, planned: Planned, rng: np.random.Generator, seed: int) -> None:
    folder.mkdir(parents=True)
    count = round(made.rate * made.seconds)
    # Equal in a block for everybody, as the real one's are.
    arrivals = np.sort(np.random.default_rng([seed, planned.block]).uniform(0, made.seconds, count))
    server = made.servers[planned.label] if planned.label in made.servers else made.servers["A"]
    took_ms = server(rng, arrivals)
    intended = (arrivals * SECOND_NS).astype(np.int64)
    sent = intended + rng.integers(1_000, 200_000, count)
    counts = dict.fromkeys(contract.OUTCOMES, 0)
    left = made.stock
    is_queue = planned.backend == contract.GEVENT_RABBIT
    with contract.Rows(folder, "requests") as rows, contract.Rows(folder, "calls") as calls:
        for seq in range(count):
            shopper, sku = f"s{seq}", "sneaker"
            is_lost = bool(np.isnan(took_ms[seq]))
            outcome = contract.TIMEOUT if is_lost else contract.SOLD if left > 0 else contract.SOLD_OUT
            left -= outcome == contract.SOLD
            counts[outcome] += 1
            decided = None if is_lost else int(intended[seq] + took_ms[seq] * 1_000_000)
            accepted = decided if decided is None or not is_queue else int(intended[seq] + took_ms[seq] * 300_000)
            status = {contract.SOLD: 201, contract.SOLD_OUT: 409}.get(outcome)
            rows.add(
                seq,
                shopper,
                sku,
                intended[seq],
                sent[seq],
                accepted,
                decided,
                1,
                0,
                status,
                outcome,
            )
            calls.add(seq, "buy", sent[seq], accepted, status, accepted)
    _resources(folder, made, planned, count)
    _stock(folder, made, took_ms, arrivals)
    contract.write_rows(
        folder, "queues", [(step * SECOND_NS // 10, "lb", "in_hand", 20) for step in range(int(made.seconds * 10))]
    )
    is_void = (planned.block, planned.label) in made.void
    open_s = made.seconds + 1
    trial = Trial(
        scenario=made.scenario,
        block=planned.block,
        position=planned.position,
        label=planned.label,
        backend=planned.backend,
        variant=made.variant,
        algorithm="round_robin",
        servers=2,
        skus=1,
        shoppers=count,
        stock=made.stock,
        viewers=0,
        seed=seed + planned.block,
        started_at=f"2026-11-30T08:{planned.block:02d}:{planned.position % 60:02d}+00:00",
        wall_s=open_s + 10,
        load_s=open_s,
        load_model=made.load_model,
        offered_per_s=made.rate,
        is_void=is_void,
        void_reasons=("the generator was late",) if is_void else (),
        gates={
            "lag_p99": Gate(9.0 if is_void else 0.2, 5.0, not is_void, "ms"),
            "generator": Gate(0.4, 0.8, passed=True, unit="of a core"),
        },
        audit=(made.audits or {}).get(planned.label, CLEAN),
        counts=counts,
        deferred=0,
        in_flight_peak=min(count, 40),
        open_peak=min(count, 40),
        null_ceiling_per_s=5 * made.rate,
    )
    first_out = int(intended[min(made.stock, count - 1)])
    contract.write_trial(
        folder,
        trial,
        [Event(0, "release"), Event(first_out, "first_sold_out"), Event(int(made.seconds * SECOND_NS), "load_end")],
    )


def _resources(folder: Path, made: MadeUp, planned: Planned, count: int) -> None:
    per_attempt_s = (made.cpu_ms or {}).get(planned.label.rstrip("2"), 1.0) / 1000  # A2 is A
    roles = {"gen": 0.2, "monitor": 0.02, "lb": 0.2, "backend": 0.4, "postgres": 0.3, "redis": 0.1}
    looks = np.arange(-0.5, made.seconds + 1.01, 0.25)
    with contract.Rows(folder, "resources") as rows, contract.Rows(folder, "system") as system:
        for look, t_s in enumerate(looks):
            done = count * min(1.0, max(0.0, t_s / made.seconds))
            for pid, (role, share) in enumerate(roles.items(), 1000):
                cpu = 5.0 + done * per_attempt_s * share
                size = int(60e6 * share + 2e7 + done * 1000)
                pss = size - 5_000_000 if look % 2 == 0 else None
                rows.add(
                    round(t_s * 1e9),
                    role,
                    pid,
                    f"{cpu * 0.7:.4f}",
                    f"{cpu * 0.3:.4f}",
                    f"{done * 1e-5:.5f}",
                    size,
                    pss,
                    40,
                    1,
                )
            busy = done * per_attempt_s * 1.22
            user, kernel, idle = (
                f"{seconds:.3f}" for seconds in (100 + busy * 0.7, 50 + busy * 0.3, 500 + 2 * t_s - busy)
            )
            system.add(
                round(t_s * 1e9),
                user,
                kernel,
                1,
                idle,
                0,
                f"{done * 1e-4:.4f}",
                1000,
                20,
                0,
                0,
                0,
                0,
                0,
                20_000_000_000,
            )


def _stock(folder: Path, made: MadeUp, took_ms: Floats, arrivals: Floats) -> None:
    done = np.sort(arrivals + np.nan_to_num(took_ms, nan=60_000) / 1000)
    with contract.Rows(folder, "stock") as rows:
        for t_s in np.arange(0, made.seconds + 1, 0.1):
            left = max(0, made.stock - int(np.searchsorted(done, t_s)))
            for source in ("postgres", "gate", "viewer"):
                rows.add(round(t_s * 1e9), "sneaker", left, source)
