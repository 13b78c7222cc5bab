"""When a trial may be believed. Pure: facts in, gates out.

A trial that fails one is *void*: kept, shown as void, and never part of a figure. Each gate asks about the instrument or the machine, and
none about how a backend did, or the slower one would be void more often and so look better.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.comparison.contract import Gate

LAG_MS = 5.0  # of the generator, at its 99th percentile
BURST_LAG_MS = 1_000.0  # everybody has one moment, and ten thousand sends take their time: all within a second
LAG_SHARE = 0.10  # or this part of what shoppers waited, if that is more
CEILING_SHARE = 0.7  # of what the generator can do at all


@dataclass(frozen=True)
class Facts:
    """What the generator and the machine were doing while the load went on. None: nobody could tell."""

    is_burst: bool
    planned: int  # wishes
    recorded: int  # of them, by outcome
    sent: int
    connections_wanted: int
    connections_armed: int
    offered_per_s: float
    lag_p99_ms: float | None
    response_p99_ms: float | None
    generator_cpu: float  # its part of one core
    ceiling_per_s: float | None
    busy_before: float | None  # part of the last second before the release in which somebody waited for a processor
    steal: float | None  # part of all cores' time that the hypervisor gave to others
    clock_step_s: float
    exhausted: int  # times without a descriptor or a port
    kernel: Mapping[str, int]  # how far the kernel's counters of lost connections went
    swapped_pages: int
    restarts: int  # of processes that nobody killed on purpose


def judge(facts: Facts) -> dict[str, Gate]:
    """Every gate, by name."""
    lag = max(BURST_LAG_MS if facts.is_burst else LAG_MS, LAG_SHARE * (facts.response_p99_ms or 0.0))
    ceiling = CEILING_SHARE * (facts.ceiling_per_s or 0.0)
    return {
        "connections_armed": _at_least(facts.connections_armed, facts.connections_wanted),
        "sent_share": _at_least(facts.sent / facts.planned if facts.planned else 0.0, 0.99),
        "rows_recorded": _at_least(facts.recorded, facts.planned),
        "generator_lag_p99": _at_most(facts.lag_p99_ms, lag, "ms"),
        "generator_cpu": _at_most(facts.generator_cpu, 0.8, "cores"),
        "generator_ceiling": _at_most(facts.offered_per_s if facts.ceiling_per_s else None, ceiling, "/s"),
        "machine_busy_before": _at_most(facts.busy_before, 0.25),
        "steal": _at_most(facts.steal, 0.01),
        "clock_step": _at_most(abs(facts.clock_step_s), 0.01, "s"),
        "descriptors_exhausted": _at_most(facts.exhausted, 0),
        **{f"kernel_{name}": _at_most(count, 0) for name, count in facts.kernel.items()},
        "swapped_pages": _at_most(facts.swapped_pages, 0),
        "restarts": _at_most(facts.restarts, 0),
    }


def void_reasons(gates: Mapping[str, Gate]) -> tuple[str, ...]:
    """The gates that were not passed, with what they saw."""
    return tuple(
        f"{name}: {'unknown' if gate.value is None else f'{gate.value:.4g}'}{f' {gate.unit}' if gate.unit else ''}, limit {gate.limit:.4g}"
        for name, gate in gates.items()
        if not gate.passed
    )


def _at_most(value: float | None, limit: float, unit: str = "") -> Gate:
    # what could not be told spoils nothing: no steal is shown on bare metal, no pressure by an old kernel
    return Gate(value, limit, value is None or value <= limit, unit)


def _at_least(value: float, limit: float, unit: str = "") -> Gate:
    return Gate(value, limit, value >= limit, unit)
