"""``python -m benchmarks.strategies``: started by ``./flash bench``. Progress on stderr, one JSON line on stdout.

FLASH_POSTGRES_URL is the owner's, who may create databases. A buyer who never has an answer ends the run: whatever is said of such a
trial is a guess.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.strategies.catalogue import STRATEGIES
from benchmarks.strategies.field import opened
from benchmarks.strategies.picture import draw
from benchmarks.strategies.report import whole
from benchmarks.strategies.trials import Effort, result, try_strategy

FULL = Effort(attacks=20, ours=5, rushes=10, killed=5, races=2, delays_ms=(0, 1, 4, 16, 64))
QUICK = Effort(attacks=2, ours=1, rushes=1, killed=0, races=1, delays_ms=(0, 16))


async def main() -> int:
    options = _parse(sys.argv[1:])
    found = []
    with tempfile.TemporaryDirectory(prefix="flash-lab-") as folder:
        at = os.environ["FLASH_POSTGRES_URL"], os.environ["FLASH_RABBITMQ_URL"], Path(folder), os.environ
        async with opened(*at) as field:
            for number, name in enumerate(options.parts, 1):
                _say(f"strategy {number} of {len(options.parts)}: {name}")
                try:
                    found.append(result(await try_strategy(field, name, QUICK if options.quick else FULL, _say)))
                except RuntimeError as error:  # somebody never had an answer, or a process ended by itself
                    _say(f"given up: {error}")
                    return 1
    pictures = draw(found, options.pictures)
    # by name, since they lie beside the result: it is handed on with a report, and whose disk it was says nothing to anybody
    print(json.dumps(whole(found, [picture.name for picture in pictures])))
    return 0


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strategies", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", action="append", dest="parts", choices=list(STRATEGIES))
    parser.add_argument("--pictures", type=Path, required=True, help="the first part of their names")
    options, _ = parser.parse_known_args(arguments)  # what else `bench` tells is for others
    options.parts = [name for name in STRATEGIES if name in (options.parts or STRATEGIES)]
    return options


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
