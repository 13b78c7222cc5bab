"""What the trials ran on: whatever a reader needs to know whether a figure of theirs may be compared with one of ours."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_SYSCTLS = (
    "net/core/somaxconn",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv4/tcp_abort_on_overflow",
    "net/ipv4/tcp_syn_linear_timeouts",
)
_LIBRARIES = ("uvloop", "aiohttp", "hiredis", "asyncpg", "gevent", "gunicorn", "pika", "aio-pika", "locust")


def machine() -> dict[str, Any]:
    """Processor, memory, kernel and the limits that a crowd meets."""
    memory = _read("/proc/meminfo").splitlines()
    cpus = _read("/proc/cpuinfo").splitlines()
    return {
        "cpu": next((line.partition(":")[2].strip() for line in cpus if line.startswith("model name")), "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": next((line.partition(":")[2].strip() for line in memory if line.startswith("MemTotal")), "unknown"),
        "kernel": platform.release(),
        "hypervisor": _read("/sys/hypervisor/type").strip() or ("some" if " hypervisor" in "".join(cpus) else "none"),
        "clock": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource").strip(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or "not visible",
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "limits": {name: " ".join(_read(f"/proc/sys/{name}").split()) for name in _SYSCTLS},
        "open_files": _open_files(),
    }


def versions() -> dict[str, str]:
    """Of Python and of what the backends are made of."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _LIBRARIES}}


def _open_files() -> str:
    lines = _read("/proc/self/limits").splitlines()
    return " ".join(next((line.split()[3:5] for line in lines if line.startswith("Max open files")), ["unknown"]))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
