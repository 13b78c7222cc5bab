"""``python -m benchmarks.load``: send a crowd of shoppers to a running sale. Progress on stderr, the result (JSON) on stdout.

Exit codes: 0 every shopper got a definite answer of the contract; 1 not; 2 bad usage.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.load.arrivals import SHOPPERS_MAX, crowd
from benchmarks.load.connections import Connections, parse_targets
from benchmarks.load.shoppers import Crowd, by_word
from benchmarks.load.tally import Tally
from benchmarks.load.told import Told
from benchmarks.load.viewers import VIEWERS_MAX, Viewers
from flashsale.identity import mint

CONNECTIONS = 384  # keep-alive connections the crowd shares; a shopper without one waits, and the wait is measured
WATCHING = 128  # long polls at once; a shopper beyond them looks once the hold is due
FOLLOWING = 512  # the same for what is queued or being paid; who waits for one is likely decided before it is free
TOKEN_SECONDS = 2 * 3600  # a crowd's arrival time is an hour at most
PROGRESS_SECONDS = 0.5
COLLECT_EVERY = 100_000  # allocations between two garbage collections: a crowd is big, and nearly none of it is garbage


def main() -> int:
    options = _parse(sys.argv[1:])
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)
    result = uvloop.run(_run(options))
    print(json.dumps(result))
    return 0 if result["everybody_was_answered"] else 1


async def _run(options: argparse.Namespace) -> dict[str, Any]:
    plans = crowd(
        sku=options.sku,
        count=options.shoppers,
        seed=options.seed,
        arrival_seconds=options.arrival_seconds,
        buyer_limit=options.buyer_limit,
    )
    tally = Tally(options.shoppers)
    connections = Connections(options.targets, options.connections)
    watching = Connections(options.targets, WATCHING)
    following = Connections(options.targets, FOLLOWING)
    with Told(options.told, sku=options.sku, seed=options.seed, shoppers=options.shoppers) as told:
        shoppers = Crowd(
            sku=options.sku,
            buyer_limit=options.buyer_limit,
            connections=connections,
            watching=watching,
            following=following,
            tally=tally,
            told=told,
            identify=_by_token(options.secret_file) if options.secret_file else by_word,
        )
        started = time.monotonic()
        progress = asyncio.create_task(_report(tally, started, as_json=options.json))
        viewers = Viewers(options.targets, options.sku, options.viewers)
        async with viewers.watching():
            await shoppers.visit(plans, started)
        progress.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await progress
        result = tally.result(time.monotonic() - started)
        result |= {"watching": viewers.result(), "cpu_s": round(time.process_time(), 3)}
    connections.close()
    watching.close()
    following.close()
    return result


def _by_token(secret_file: Path) -> Callable[[str], str]:
    secret = secret_file.read_text(encoding="ascii").strip()
    return lambda buyer: f"Authorization: Bearer {mint(secret, buyer, 'buyer', TOKEN_SECONDS)}"


async def _report(tally: Tally, started: float, *, as_json: bool) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        line = tally.progress(time.monotonic() - started)
        text = json.dumps(line) if as_json else " ".join(f"{name}={value}" for name, value in line.items())
        print(text, file=sys.stderr, flush=True)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--targets", required=True, type=_targets, help="http://host:port[,http://host:port...]")
    parser.add_argument("--sku", required=True, help="what everybody wants")
    parser.add_argument("--shoppers", type=_between(1, SHOPPERS_MAX), default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--arrival-seconds", type=_between(1, 3600), default=10)
    parser.add_argument("--buyer-limit", type=_between(1, 1000), default=2, help="units one buyer may hold of the sale")
    parser.add_argument(
        "--viewers", type=_between(0, VIEWERS_MAX), default=0, help="people who only watch the live stock"
    )
    parser.add_argument("--connections", type=_between(1, 4096), default=CONNECTIONS)
    parser.add_argument(
        "--told", type=Path, help="write what every shopper asked and heard to this file (JSON lines, gzip)"
    )
    parser.add_argument(
        "--secret-file",
        type=Path,
        help="sign a bearer token for every shopper with the secret in this file (FLASH_AUTH=jwt)",
    )
    parser.add_argument("--json", action="store_true", help="progress lines as JSON")
    return parser.parse_args(arguments)


def _targets(text: str) -> Any:
    try:
        return parse_targets(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _between(low: int, high: int) -> Any:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


if __name__ == "__main__":
    sys.exit(main())
