"""``python -m benchmarks.sse``: started by ``./flash bench``. Progress on stderr, one JSON line on stdout.

Laws as in ``benchmarks.backend``: whatever is compared is measured in every round, one after the other, and ratios are taken within
a round; a viewer that is left behind ends the run; a bar that is missed does not.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from benchmarks.backend.__main__ import processes
from benchmarks.backend.attempts import Names
from benchmarks.backend.field import Field
from benchmarks.backend.report import Section, whole
from benchmarks.backend.shop import Shop
from benchmarks.sse import beside, fan, hop, long

PARTS = {"fan": fan, "long": long, "hop": hop, "beside": beside}


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
                part = PARTS[name]
                sections[name] = await part.measure(field, part.QUICK if options.quick else part.FULL)
    finally:
        await shop.close()
    print(json.dumps(whole(sections)))
    return 0


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sse", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", action="append", dest="parts", choices=list(PARTS))
    parser.add_argument("--home", type=Path, required=True, help="where peers are installed")
    parser.add_argument("--pictures", type=Path, required=True, help="the first part of their names")
    parser.add_argument("--core", type=int, required=True, help="the server's own")
    parser.add_argument("--processes", type=processes, required=True, metavar="NAME=PID,...", help="services and roles")
    options = parser.parse_args(arguments)
    options.parts = [name for name in PARTS if name in (options.parts or PARTS)]
    return options


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
