"""``python -m benchmarks.comparison.generate SPEC``: send one trial's shoppers, and write down what each asked and heard.

Three lines between it and whoever started it: it says ``{"armed": n}`` once its connections stand; it is told the release, in
nanoseconds of CLOCK_MONOTONIC, on its standard input; it says the result (JSON) when the last wish is decided and all is written.
"""

import contextlib
import gc
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.comparison import contract
from benchmarks.comparison.arrivals import NS, wishes
from benchmarks.comparison.crowd import BUY, FOLLOW, Call, Crowd
from benchmarks.comparison.flight import NEVER, peak
from benchmarks.comparison.scenario import CONNECTIONS_MAX, Load
from benchmarks.comparison.sockets import Sockets
from benchmarks.load import told
from benchmarks.load.connections import parse_targets

OPEN_WITHIN_S = 60.0
NICENESS = -15
SPARE_S = 45.0  # beyond the last arrival and its patience: one look at a queue, and its own time-out


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    load = Load(**spec["load"])
    _raise_open_files()
    niceness = _hurry()
    plans = wishes(load, spec["skus"], spec["seed"])
    crowd = Crowd(plans, patience_ns=round(load.patience_s * NS), retry=load.retry, seed=spec["seed"])
    release = 0
    targets = [(target.host, target.port) for target in parse_targets(spec["targets"])]
    connections = max(load.connections, load.shoppers) if load.model == "burst" else load.connections
    # Whoever finds none free opens one: a slow backend keeps many busy, and must not find fewer shoppers at its door for that.
    most = max(connections, min(CONNECTIONS_MAX, len(plans)))
    sockets = Sockets(targets, most, lambda: time.monotonic_ns() - release)
    armed = sockets.open(connections, OPEN_WITHIN_S)
    gc.collect()
    gc.freeze()
    gc.disable()  # a crowd is big, nearly none of it is garbage, and a collection would be its lateness
    print(json.dumps({"armed": armed}), flush=True)
    if not (said := sys.stdin.readline()):
        return 1  # whoever armed us is gone
    release = int(said)
    last = plans[-1].intended_ns if plans else 0
    cpu = time.process_time()
    wall_minus_monotonic = time.time() - time.monotonic()
    sockets.drive(crowd, last + round((load.patience_s + SPARE_S) * NS))
    ended = time.monotonic_ns() - release
    result = {
        "niceness": niceness,
        "cpu_s": time.process_time() - cpu,
        "load_s": ended / NS,
        "clock_step_s": time.time() - time.monotonic() - wall_minus_monotonic,
        "exhausted": sockets.exhausted,
        "connections_peak": sockets.peak,
        **summary(crowd),
    }
    sockets.close()
    write(Path(spec["folder"]), crowd, release, spec["seed"])
    print(json.dumps(result), flush=True)
    return 0


def summary(crowd: Crowd) -> dict[str, Any]:
    """What can be told at a glance; the rows have the rest."""
    pairs = list(zip(crowd.wishes, crowd.visits, strict=True))
    lags = sorted(visit.sent - wish.intended_ns for wish, visit in pairs if visit.sent >= 0)
    responses = sorted(visit.decided - wish.intended_ns for wish, visit in pairs if visit.decided >= 0)
    outcomes = Counter(outcome(crowd, seq) for seq in range(len(pairs)))
    sold_out = [visit.decided for visit in crowd.visits if visit.outcome == contract.SOLD_OUT]
    sold = [visit.decided for visit in crowd.visits if visit.outcome == contract.SOLD]
    return {
        "planned": len(pairs),
        "counts": {name: outcomes[name] for name in contract.OUTCOMES},
        "deferred": sum(visit.deferred for visit in crowd.visits),
        "sent_last_ns": max((visit.sent for visit in crowd.visits), default=0),
        "lag_p50_ms": _ms(lags, 0.5),
        "lag_p99_ms": _ms(lags, 0.99),
        "response_p50_ms": _ms(responses, 0.5),
        "response_p99_ms": _ms(responses, 0.99),
        "in_flight_peak": peak((visit.sent, visit.decided) for visit in crowd.visits if visit.sent >= 0),
        "open_peak": peak((call.sent, call.ended) for call in crowd.calls),
        "first_sold_out_ns": min(sold_out, default=None),
        "last_sold_ns": max(sold, default=None),
    }


def outcome(crowd: Crowd, seq: int) -> str:
    """How the wish ended; one that was still open when the time was up was given up then."""
    visit = crowd.visits[seq]
    return visit.outcome or (contract.UNSENT if visit.sent < 0 else contract.TIMEOUT)


def write(folder: Path, crowd: Crowd, release: int, seed: int) -> None:
    """The raw rows, and what shoppers were told, for the audit."""
    contract.write_rows(folder, "requests", _requests(crowd))
    contract.write_rows(
        folder,
        "calls",
        (
            (call.seq, call.kind, call.sent, _or_empty(call.answered), call.status or None, _or_empty(call.ended))
            for call in crowd.calls
        ),
    )
    stories = {
        seq: told.Story(wish.buyer, "", (release + wish.intended_ns) / NS) for seq, wish in enumerate(crowd.wishes)
    }
    for call in crowd.calls:
        stories[call.seq].calls.append(_told(crowd, call, release))
    skus = {wish.sku for wish in crowd.wishes}
    with told.Told(folder / "told.jsonl.gz", sku=" ".join(sorted(skus)), seed=seed, shoppers=len(stories)) as file:
        for story in stories.values():
            file.add(story)


def _requests(crowd: Crowd) -> Iterator[tuple[object, ...]]:
    for seq, (wish, visit) in enumerate(zip(crowd.wishes, crowd.visits, strict=True)):
        yield (
            seq, wish.buyer, wish.sku, wish.intended_ns, *map(_or_empty, (visit.sent, visit.accepted, visit.decided)), visit.tries,
            visit.deferred, visit.status or None, outcome(crowd, seq),
        )  # fmt: skip


def _told(crowd: Crowd, call: Call, release: int) -> told.Call:
    wish, heard = crowd.wishes[call.seq], call.heard
    shown = heard.shown if heard else None
    return told.Call(
        call=call.kind,
        key=wish.key,
        lines=[(wish.sku, 1)],
        mark=call.mark,
        sent=(release + call.sent) / NS,
        answered=None if call.answered == NEVER else (release + call.answered) / NS,
        status=call.status or None,
        verdict=heard.verdict if heard else None,
        purchase=shown["id"] if shown else None,
        state=heard.state if heard else None,
        told_lines=[(line["sku"], line["quantity"], line["seq"]) for line in shown["lines"]] if shown else [],
        deadline=shown["deadline"] if shown else None,
    )


def _or_empty(moment: int) -> int | None:
    return None if moment == NEVER else moment


def _ms(ranked: list[int], share: float) -> float | None:
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] / 1e6 if ranked else None


def _hurry() -> int:
    """
    Go before the engine, where we may: shoppers have processors of their own, and in their machine's stead ours must not keep them
    waiting. What it costs the engine is seen in its ``run_delay_s``. Returns the niceness.
    """
    with contextlib.suppress(OSError):  # only root may
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    return os.getpriority(os.PRIO_PROCESS, 0)


def _raise_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


assert (BUY, FOLLOW) == ("buy", "follow"), "the words of the told file"

if __name__ == "__main__":
    sys.exit(main())
