"""What the benchmarks that measure in parts have in common: their options, their progress on stderr, their one JSON line on stdout.

Law 1: whatever is compared is measured in the same run, all in every round, one after the other, and ratios are taken within a
round: the machine's slow minute is everybody's. Law 2: an answer that is not the one asked for makes the run worthless, so it
ends it. A bar that is missed does not: it is the machine's as well.
"""

import argparse
import json
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.backend.report import Section, whole


async def measure(field: Any, parts: Mapping[str, ModuleType], options: argparse.Namespace) -> None:
    """Measure those asked for, one after the other, and print what they have to say.

    A part is a module with ``measure(field, effort)``, which returns a ``Section``, and its efforts ``FULL`` and ``QUICK``.
    """
    sections: dict[str, Section] = {}
    for number, name in enumerate(options.parts, 1):
        say(f"part {number} of {len(options.parts)}: {name}")
        part = parts[name]
        sections[name] = await part.measure(field, part.QUICK if options.quick else part.FULL)
    print(json.dumps(whole(sections)))


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def parser(benchmark: str) -> argparse.ArgumentParser:
    """For what ``./flash bench`` tells its benchmarks."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}", allow_abbrev=False)
    made.add_argument("--quick", action="store_true")
    made.add_argument("--part", action="append", dest="parts")
    made.add_argument("--home", type=Path, required=True, help="where peers are installed")
    made.add_argument("--pictures", type=Path, required=True, help="the first part of their names")
    made.add_argument("--core", type=int, required=True, help="of who is measured, alone")
    made.add_argument(
        "--processes",
        type=_processes,
        default={},
        metavar="NAME=PID,...",
        help="services and roles whose CPU is counted",
    )
    return made


def chosen(options: argparse.Namespace, parts: Collection[str]) -> argparse.Namespace:
    """The parts asked for, in their own order; all of them if none is named. Exits with 2 for one that is none."""
    if unknown := {*(options.parts or ())} - {*parts}:
        say(f"there is no part {' '.join(sorted(unknown))}; there are {', '.join(parts)}")
        sys.exit(2)
    options.parts = [name for name in parts if name in (options.parts or parts)]
    return options


def _processes(text: str) -> dict[str, int]:
    # there may be none
    return {name: int(pid) for name, _, pid in (pair.partition("=") for pair in text.split(",") if pair)}
