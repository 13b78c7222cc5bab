"""The whole machine: processor time, pressure, sockets, and what the kernel lost."""

import os
from pathlib import Path
from typing import NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# The kernel's counters (TcpExt) of connections that came too many at once; the names of SYSTEM's columns.
LOST = {
    "listen_overflows": "ListenOverflows",
    "listen_drops": "ListenDrops",
    "syn_retrans": "TCPSynRetrans",
    "req_q_full_drops": "TCPReqQFullDrop",
}


class Processor(NamedTuple):
    """Seconds of all cores together, since boot."""

    user: float
    system: float
    irq: float
    idle: float
    steal: float

    @property
    def total(self) -> float:
        return sum(self)


class System:
    """Rows of ``SYSTEM``."""

    period_s = 0.2

    def __init__(self) -> None:
        self.rows: list[tuple[object, ...]] = []

    def look(self, t_ns: int) -> None:
        used, pressure = processor(), pressure_s()  # first: of what moves fastest the moment matters most
        established, waiting = sockets()
        lost = tcp_losses()
        self.rows.append(
            (
                t_ns,
                *used,
                pressure,
                established,
                waiting,
                *(lost.get(name) for name in LOST),
                swapped_pages(),
                memory_available(),
            )
        )


def processor() -> Processor:
    fields = [
        int(ticks) / TICKS_PER_S
        for ticks in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    ]
    user, nice, system, idle, waiting, hard, soft, steal = fields
    return Processor(user + nice, system, hard + soft, idle + waiting, steal)


def pressure_s() -> float | None:
    """Seconds in which somebody waited for a processor, since boot; None where the kernel does not say."""
    try:
        first = Path("/proc/pressure/cpu").read_text(encoding="ascii").split("\n", 1)[0]
    except OSError:
        return None
    return int(first.rpartition("total=")[2]) / 1e6


def sockets() -> tuple[int | None, int | None]:
    """TCP sockets in use, and those in TIME-WAIT."""
    try:
        for line in Path("/proc/net/sockstat").read_text(encoding="ascii").splitlines():
            if line.startswith("TCP:"):
                words = line.split()
                return int(words[words.index("inuse") + 1]), int(words[words.index("tw") + 1])
    except (OSError, ValueError):
        pass
    return None, None


def tcp_losses() -> dict[str, int]:
    """The counters of LOST, those that this kernel has."""
    found: dict[str, int] = {}
    try:
        lines = Path("/proc/net/netstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return found
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if names.startswith("TcpExt:"):
            counters = dict(zip(names.split()[1:], values.split()[1:], strict=False))
            found |= {name: int(counters[theirs]) for name, theirs in LOST.items() if theirs in counters}
    return found


def swapped_pages() -> int | None:
    """Pages that went to swap or came from it, since boot."""
    try:
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    return int(counters.get("pswpin", 0)) + int(counters.get("pswpout", 0))


def memory_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
