"""``python -m benchmarks.comparison.watch TARGETS SKU VIEWERS``: people who only watch the live stock, beside a trial's shoppers.

It says ``{"watching": n}`` once everybody has been shown the stock, and, when its standard input ends, what they all saw, with what the
first of them was shown and when (nanoseconds of CLOCK_MONOTONIC).
"""

import asyncio
import json
import sys
import time
from typing import Any

import uvloop

from benchmarks.load.connections import parse_targets
from benchmarks.load.viewers import Viewers

SHOWN_WITHIN_S = 60.0
POLL_S = 0.05
SHOWN_MAX = 5_000  # a trial's worth of changes, at five a second


class _Watchers(Viewers):
    # What the first of them was shown, and when; all others see the same, which their own counts say.

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.shown: list[tuple[int, str, int]] = []
        self.began: set[int] = set()

    def _show(self, number: int, stock: dict[str, Any], shown: int) -> int:
        self.began.add(number)
        if number == 0:
            self.shown.append((time.monotonic_ns(), stock["sku"], stock["available"]))
        return super()._show(number, stock, shown)


async def main() -> int:
    targets, sku, count = sys.argv[1:]
    viewers = _Watchers(parse_targets(targets), sku, int(count))
    async with viewers.watching():
        until = time.monotonic() + SHOWN_WITHIN_S
        while len(viewers.began) < int(count) and time.monotonic() < until:  # noqa: ASYNC110 - what is awaited are frames
            await asyncio.sleep(POLL_S)
        print(json.dumps({"watching": len(viewers.began)}), flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until the load is over
    seen = viewers.result()
    del seen["heard"]  # long, and judged here already: backwards, contradictions
    print(json.dumps(seen | {"shown": viewers.shown[:SHOWN_MAX]}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
