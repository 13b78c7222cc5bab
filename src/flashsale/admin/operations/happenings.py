"""What has happened, told from two states that follow each other. Pure: a state is what one frame is made of.

A thing that nobody could see in one of the two has not happened: a source that was away makes no news of what it says when it is back.
The balancer alone is compared with what it said last: one that is killed is away before it is back.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flashsale.admin.operations.frame import FINDINGS, Part, iso

KEPT, DEEDS_KEPT = 30, 20  # apart, or a busy hour at the keyboard would push out what it was about
REPEAT_SECONDS = 60.0
SALES_MAX = 20  # that are shown, as flashsale.operate.watching has it
DEED = "deed"
OUT = ("down", "ejected")
SALE_STATES = {
    "OPEN": ("sale.opened", "is open"),
    "PAUSED": ("sale.paused", "is paused"),
    "ENDED": ("sale.ended", "has ended"),
}


class Event(NamedTuple):
    """One marker of the timeline; when it was seen is added by whoever sees it."""

    kind: str
    subject: str
    text: str


def between(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Event]:
    """What made one frame's parts the other's."""
    return [
        *_sales(before["sales"], after["sales"]),
        *_servers(before["balancer"], after["balancer"]),
        *_processes(before["processes"], after["processes"]),
        *_audit(before["audit"], after["audit"]),
    ]


def known(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state that the next is compared with."""
    if before is not None and "away" in now["balancer"]:
        return {**now, "balancer": before["balancer"]}
    return now


class Timeline:
    """The last events, and the last deeds. The caller brings the time."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, Part]] = deque(maxlen=KEPT)
        self._deeds: deque[tuple[float, Part]] = deque(maxlen=DEEDS_KEPT)
        self._numbered = 0

    def add(self, at: float, event: Event) -> None:
        """It happened. What was said a moment ago, and nothing else of its subject since, is not said again."""
        if event.kind != DEED:
            said = next(
                ((then, each) for then, each in reversed(self._events) if each["subject"] == event.subject), None
            )
            if said is not None and said[1]["kind"] == event.kind and at - said[0] < REPEAT_SECONDS:
                return
        self._numbered += 1
        kept = self._deeds if event.kind == DEED else self._events
        kept.append((at, marker(self._numbered, at, event)))

    def parts(self) -> list[Part]:
        """The oldest first."""
        return [part for _, part in sorted([*self._events, *self._deeds], key=lambda each: each[0])]


def deed(row: Mapping[str, Any]) -> Event:
    """Somebody did something by hand, as it is on record."""
    return Event(DEED, row["subject"], f"{row['operator']}: {row['action']} {row['subject']} ({row['reason']})")


def _sales(before: Any, after: Any) -> Iterator[Event]:
    if isinstance(before, dict) or isinstance(after, dict):
        return
    old = {row["sale"]: row for row in before}
    is_known = not old
    for now in after:
        sale, name, was = now["sale"], now["name"], old.get(now["sale"])
        is_known = is_known or was is not None
        if was is None:
            # New; unless more than are shown were there before, and it is older than those: then it was only not shown.
            if now["state"] == "OPEN" and (is_known or len(before) < SALES_MAX):
                yield Event("sale.opened", sale, f"{name} is open")
            continue
        if now["state"] != was["state"] and now["state"] in SALE_STATES:
            kind, text = SALE_STATES[now["state"]]
            yield Event(kind, sale, f"{name} {text}")
        if was["available"] and not now["available"]:
            yield Event("sale.sold_out", sale, f"{name}: nothing is left")
        # Not of units that come back: near a sale's end each hold that lapses is some.
        if was["units"] and now["units"] > was["units"]:
            yield Event("sale.restocked", sale, f"{name}: {now['units'] - was['units']} more units")


def _servers(before: Part, after: Part) -> Iterator[Event]:
    if "away" in before or "away" in after:
        return
    if before["algorithm"] != after["algorithm"]:
        yield Event("balancer.algorithm", after["algorithm"], f"servers are chosen by {after['algorithm']}")
    if after["uptime_s"] < before["uptime_s"]:
        yield Event("balancer.restarted", "loadbalancer", "the balancer was started anew")
    old, new = ({server["name"]: server for server in part["servers"]} for part in (before, after))
    for name in [name for name in old if name not in new]:
        yield Event("server.removed", name, f"{name} is no server any more")
    for name, now in new.items():
        if name in old:
            yield from _server(name, old[name], now)
        else:
            yield Event("server.added", name, f"{name} is a server now: {now['word']}")


def _server(name: str, was: Part, now: Part) -> Iterator[Event]:
    if now["drained"] != was["drained"]:
        kind = "server.drained" if now["drained"] else "server.undrained"
        yield Event(kind, name, f"{name} {'gets nothing new' if now['drained'] else 'gets requests again'}")
    if now["state"] != was["state"] and now["state"] in OUT:
        yield Event(f"server.{now['state']}", name, f"{name}: {now['word']}")
    if was["state"] in OUT and now["state"] == "up":
        yield Event("server.up", name, f"{name} serves again")


def _processes(before: Any, after: Any) -> Iterator[Event]:
    if isinstance(before, dict) or isinstance(after, dict):
        return
    old = {(row["role"], row["index"]): row for row in before}
    for row in after:
        was, name = old.get((row["role"], row["index"])), f"{row['role']}-{row['index']}"
        if was is None or row["role"].startswith("loadbalancer"):  # a reload replaces its workers, as it should
            continue
        if row["away"] and not was["away"]:
            yield Event("process.away", name, f"{name}: {row['away']}")
        elif was["away"] and not row["away"]:
            yield Event("process.back", name, f"{name} answers, up for {row['up_s'] or 0:.0f} s")
        elif row["up_s"] is not None and was["up_s"] is not None and row["up_s"] < was["up_s"]:
            yield Event("process.restarted", name, f"{name} was started anew")


def _audit(before: Part, after: Part) -> Iterator[Event]:
    if "away" in before or "away" in after:
        return
    for finding in FINDINGS:
        if after[finding] > before[finding]:
            yield Event("audit.found", finding, f"the audit found {after[finding]} {finding}")
    if before["clean"] and not after["clean"] and all(after[f] <= before[f] for f in FINDINGS):
        yield Event("audit.found", "audit", f"the audit: {after['word']}")


def marker(number: int, at: float, event: Event) -> Part:
    """The event as the page gets it."""
    return {"id": number, "at": iso(at), **event._asdict()}
