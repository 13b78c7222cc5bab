"""A moment of a shop, as its processes tell it twice, four seconds apart: what ``operations_frame.json`` is made of."""

from collections.abc import Iterable, Mapping
from typing import Any

from flashsale.admin.operations import bench, exposition, frame, happenings, servers
from flashsale.admin.operations.window import Window

AT = 1_790_000_000.0
SECONDS = 4.0
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
LB_BOUNDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]


def histogram(name: str, counts: Iterable[int]) -> str:
    """As Prometheus is told: each bucket holds all that are smaller."""
    lines, seen = [f"# HELP {name} Seconds.", f"# TYPE {name} histogram"], 0
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), counts, strict=True):
        seen += count
        lines.append(f'{name}_bucket{{le="{bound}"}} {seen}.0')
    return "\n".join([*lines, f"{name}_count {seen}.0", f"{name}_sum 1.5"])


def tally(name: str, label: str, **counts: int) -> str:
    """One counter by word."""
    return "\n".join(f'{name}_total{{{label}="{word}"}} {count}.0' for word, count in counts.items())


def process(pid: int, cpu: float, rss_mib: float, *, up_s: float) -> str:
    """What every process says of itself."""
    return "\n".join(
        [
            f'flash_process_info{{pid="{pid}"}} 1.0',
            f"process_cpu_seconds_total {cpu}",
            f"process_resident_memory_bytes {rss_mib * 2**20}",
            f"process_start_time_seconds {AT - up_s}",
        ]
    )


def seen(role: str, index: int, *texts: str) -> frame.Process:
    """A process after these looks, the last of which was at ``AT``."""
    window: Window[tuple[str, str]] = Window()
    says: exposition.Series = {}
    for place, text in enumerate(texts):
        says = exposition.read(text, frame.NAMES)
        counters = {key: value for key, value in says.items() if key[0] in frame.COUNTERS}
        window.hear(AT - SECONDS * (len(texts) - 1 - place), counters, says.get((frame.STARTED, "")))
    return frame.Process(role, index, says, window.change)


def asyncio_server(index: int, times: int) -> str:
    """Its text after so many times the same four seconds."""
    worked = [n * times for n in (40, 1200, 900, 300, 120, 30, 8, 2, 0, 0, 0, 0, 0)]
    worked[0] += 5000 * times  # refused at once
    return "\n".join(
        [
            process(4100 + index, 3.0 + 2.4 * times, 68.5, up_s=312.0),
            tally("flashsale_attempts", "verdict", held=180 * times, sold_out=7380 * times, over_limit=40 * times,
                  try_later=8 * times, queued=0),
            tally("flashsale_refused_at_once", "verdict", sold_out=5000 * times),
            histogram("flashsale_attempt_seconds", worked),
            histogram("flashsale_commit_seconds", [0, 4 * times, 30 * times, 12 * times, 2 * times, 0, 0, 0, 0, 0, 0, 0, 0]),
            "flashsale_gate_up 1.0",
        ]
    )  # fmt: skip


def gevent_front(index: int, times: int) -> str:
    """The same of a front."""
    worked = [n * times for n in (0, 100, 900, 700, 200, 80, 18, 2, 0, 0, 0, 0, 0)]
    worked[0] += 3000 * times
    return "\n".join(
        [
            process(4200 + index, 2.0 + 2.0 * times, 74.25, up_s=310.0),
            tally(
                "flashsale_attempts", "verdict", held=0, sold_out=3000 * times, queued=1996 * times, try_later=4 * times
            ),
            tally("flashsale_refused_at_once", "verdict", sold_out=3000 * times),
            histogram("flashsale_attempt_seconds", worked),
            'flashsale_queue_depth{queue="checkout.0"} NaN',
        ]
    )


def checkout(times: int) -> str:
    """The same of a checkout worker."""
    return "\n".join(
        [
            process(4300, 1.0 + 1.6 * times, 61.0, up_s=308.0),
            tally("flashsale_checkout_decided", "verdict", held=150 * times, sold_out=1846 * times),
            histogram("flashsale_checkout_decided_seconds", [n * times for n in (0, 0, 50, 400, 900, 500, 120, 24, 2, 0, 0, 0, 0)]),
            histogram("flashsale_checkout_batch_seconds", [0, 0, 10 * times, 16 * times, 3 * times, 0, 0, 0, 0, 0, 0, 0, 0]),
            "flashsale_checkout_oldest_age_seconds 0.021",
        ]
    )  # fmt: skip


UPKEEP = "\n".join(
    [
        process(4400, 5.0, 59.5, up_s=309.0),
        'flash_gate_drift_units{sku="lamp"} 0.0',
        'flash_gate_drift_units{sku="radio"} -2.0',
        'flash_gate_lag_rows{sku="lamp"} 3.0',
        'flash_gate_pending{sale="sale-1"} 7.0',
        f"flash_gate_last_good_round_timestamp_seconds {AT - 0.42}",
    ]
)

REPORT = {
    "clean": True, "ready": True, "passes": 12, "failed_passes": 0, "age_s": 3.4, "violations": [],
    "findings": {"oversold": 0, "lost": 0, "duplicated": 0, "leaked": 0, "gate_drift": 0, "money": 0, "stuck": 0},
}  # fmt: skip


def server(name: str, port: int, times: int, **more: Any) -> dict[str, Any]:
    """As the balancer's ``/stats`` has it."""
    counts = [n * times for n in (0, 500, 900, 400, 150, 40, 8, 2, 0, 0, 0, 0, 0, 0, 0)]
    return {
        "name": name, "address": f"127.0.0.1:{port}", "weight": 1, "percent": 100, "state": "up", "reason": "",
        "since_seconds": 290.5, "active": 12, "streams": 40, "ejections": 0, "retries": 0, "lost": 0,
        "answers": {"1xx": 0, "2xx": 300 * times, "3xx": 0, "4xx": 1696 * times, "5xx": 4 * times},
        "response_seconds": {"p50": 0.002, "counts": counts}, **more,
    }  # fmt: skip


def stats(times: int) -> dict[str, Any]:
    """The same of the balancer."""
    zero = [0] * (len(LB_BOUNDS) + 1)
    return {
        "pid": 4000, "process": {"cpu_seconds": 0.6, "rss_bytes": 30 * 2**20, "started": AT - 311.0},
        "uptime_seconds": 311.0 - SECONDS * (2 - times), "algorithm": "least_connections",
        "algorithms": ["round_robin", "least_connections", "consistent_hash", "power_of_two"],
        "drained": ["gevent_rabbit-1"], "bounds": LB_BOUNDS, "clients": 512, "queued": 3,
        "queue_refused": 2 * times, "queue_late": 0,
        "request_seconds": {"p50": 0.003, "counts": [n * times for n in (0, 900, 3600, 2400, 800, 200, 80, 16, 4, 0, 0, 0, 0, 0, 0)]},
        "queue_seconds": {"p50": None, "counts": [0, 0, 0, 10 * times, 4 * times, *zero[5:]]},
        "workers": [
            {"slot": slot, "pid": 4001 + slot, "state": "serving",
             "report": {"process": {"cpu_seconds": 1.0 + 1.2 * times, "rss_bytes": 44 * 2**20, "started": AT - 311.0}}}
            for slot in (0, 1)
        ],
        "servers": [
            server("asyncio_redis-0", 8081, times),
            server("asyncio_redis-1", 8082, times, retries=2 * times),
            server("gevent_rabbit-0", 8083, times, weight=2),
            server("gevent_rabbit-1", 8084, 1, state="draining", since_seconds=12.0, active=1,
                   streams=6),
        ],
    }  # fmt: skip


RUNNING = (
    b'{"name": "both backends, 500 units", "phase": "trial 7 of 12: gevent_rabbit", "done": 6, "of": 12, "eta_s": 140, "at": "2026-09-21T14:13:15+00:00",'
    b' "ratios": [{"metric": "accepted p99", "ratio": 1.84, "low": 1.52, "high": 2.21}]}'
)
QUEUES = {"checkout.0": (120, 1), "checkout.1": (0, 1), "checkout.2": (0, 1), "checkout.3": (4, 1), "payments": (2, 1)}
DEAD = {"checkout.dead": (0, 0), "payments.dead": (1, 0)}
SALES = [
    {"sale": "sale-1", "name": "Lamps and radios", "state": "OPEN", "units": 1000, "available": 214},
    {"sale": "sale-2", "name": "Tomorrow's", "state": "SCHEDULED", "units": 50, "available": 50},
]
DEED = {"operator": "olga", "action": "balancer.drain", "subject": "gevent_rabbit-1", "reason": "a new disk"}


def balancer() -> tuple[Window[servers.Counter], dict[int, Window[str]]]:
    """What is remembered of the balancer after both looks."""
    window: Window[servers.Counter] = Window()
    lives: dict[int, Window[str]] = {}
    for at, times in ((AT - SECONDS, 1), (AT, 2)):
        told = stats(times)
        window.hear(at, servers.counters(told), told["pid"])
        for pid, life in servers.lives(told):
            lives.setdefault(pid, Window()).hear(at, {servers.CPU: life["cpu_seconds"]}, pid)
    return window, lives


def made() -> Mapping[str, Any]:
    """The frame of it."""
    window, lives = balancer()
    seen_ones = [
        *(seen("asyncio_redis", n, asyncio_server(n, 1), asyncio_server(n, 2)) for n in (0, 1)),
        *(seen("gevent_rabbit", n, gevent_front(n, 1), gevent_front(n, 2)) for n in (0, 1)),
        seen("checkout", 0, checkout(1), checkout(2)),
        seen("upkeep", 0, UPKEEP, UPKEEP),
        frame.Process("payments", 0, away="it does not answer: refused"),
    ]
    changes = {pid: change for pid, life in lives.items() if (change := life.change) is not None}
    parts = {
        "audit": frame.audit(REPORT),
        "sales": SALES,
        "backends": frame.backends(seen_ones),
        "balancer": servers.balancer(stats(2), window.change),
        "queues": frame.queues(QUEUES),
        "dead_letters": frame.dead_letters(DEAD),
        "gate": frame.gate(seen_ones, AT),
        "commit_lag": frame.commit_lag(seen_ones),
        "processes": [*servers.processes(stats(2), changes, AT), *(frame.process(one, AT) for one in seen_ones)],
    }
    happened = [
        happenings.Event("sale.opened", "sale-1", "Lamps and radios is open"),
        happenings.deed(DEED),
        happenings.Event("server.drained", "gevent_rabbit-1", "gevent_rabbit-1 gets nothing new"),
    ]
    events = [happenings.marker(number, AT - 30 + number, event) for number, event in enumerate(happened, 1)]
    return frame.whole(AT, parts, events, bench.progress(RUNNING, AT))
