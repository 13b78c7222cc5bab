"""``python -m benchmarks.backend asyncio_redis`` or ``gevent_rabbit``: started by ``./flash bench``. Progress on stderr, one JSON line on stdout.

Law 1: whatever is compared is measured in the same run, all in every round, one after the other, and ratios are taken within a
round: the machine's slow minute is everybody's. Law 2: an answer that is not the one asked for, or a unit that is not there, makes
the run worthless, so it ends it. A bar that is missed does not: it is the machine's as well.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from benchmarks.backend import (
    accept,
    drain,
    edges,
    fsync,
    held,
    memory,
    million,
    overload,
    refusals,
    sellout,
    steady,
    telling,
)
from benchmarks.backend.attempts import Names
from benchmarks.backend.field import Field
from benchmarks.backend.report import Section, whole
from benchmarks.backend.servers import EDGE, OURS
from benchmarks.backend.shop import Shop

# By subject, and in this order: what fills PostgreSQL comes behind what it could slow down.
PARTS = {
    OURS.name: {
        "refusals": refusals,
        "sellout": sellout,
        "million": million,
        "overload": overload,
        "fsync": fsync,
        "held": held,
    },
    EDGE.name: {
        "memory": memory,
        "edges": edges,
        "accept": accept,
        "telling": telling,
        "steady": steady,
        "drain": drain,
    },
}


async def main() -> int:
    options = _parse(sys.argv[1:])
    environment = dict(os.environ)
    shop = await Shop.open(environment["FLASH_POSTGRES_URL"])
    try:
        with tempfile.TemporaryDirectory(prefix="flash-bench-") as folder:
            field = Field(
                environment=environment,
                processes=options.processes,
                core=options.core,
                folder=Path(folder),
                home=options.home,
                pictures=options.pictures,
                shop=shop,
                names=Names(f"{time.time_ns():x}"),
                say=_say,
            )
            sections: dict[str, Section] = {}
            for number, name in enumerate(options.parts, 1):
                _say(f"part {number} of {len(options.parts)}: {name}")
                part = PARTS[options.subject][name]
                sections[name] = await part.measure(field, part.QUICK if options.quick else part.FULL)
    finally:
        await shop.close()
    print(json.dumps(whole(sections)))
    return 0


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def processes(text: str) -> dict[str, int]:
    """Pids by name, of ``name=pid,name=pid``; there may be none."""
    return {name: int(pid) for name, _, pid in (pair.partition("=") for pair in text.split(",") if pair)}


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backend", allow_abbrev=False)
    parser.add_argument("subject", choices=list(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", action="append", dest="parts")
    parser.add_argument("--home", type=Path, required=True, help="where peers are installed")
    parser.add_argument("--pictures", type=Path, required=True, help="the first part of their names")
    parser.add_argument("--core", type=int, required=True, help="the server's own")
    parser.add_argument(
        "--processes", type=processes, required=True, metavar="NAME=PID,...", help="whose CPU is counted"
    )
    options = parser.parse_args(arguments)
    parts = PARTS[options.subject]
    if unknown := {*(options.parts or ())} - parts.keys():
        parser.error(f"{options.subject} has no part {' '.join(sorted(unknown))}")
    options.parts = [name for name in parts if name in (options.parts or parts)]
    return options


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
