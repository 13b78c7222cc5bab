# `report`: what a comparison came to, as figures, PDF and HTML; and what differs between two. Everything is computed in a process
# of its own (benchmarks.report), as benchmarks are, because a launcher needs no statistics to start.
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from flashsale.settings import REPOSITORY, Settings
from flashsale.stack.bench import heard
from flashsale.stack.console import Say, table
from flashsale.stack.exits import Exit, StackError

DIFF = "diff"
RESULT_BYTES_MAX = 64 << 20  # a difference of two long runs is some hundred KiB


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="*",
        metavar="RUN",
        help="a run's folder, or its name under FLASH_HOME/comparison (default: the latest); or: diff A B, where A and B are runs "
        "or results.json files",
    )


async def run(parsed: argparse.Namespace, settings: Settings, say: Say) -> int:
    """Build the report of one run, or compare two. Raises StackError where there is no run."""
    words = list(parsed.what)
    if words[:1] == [DIFF]:
        if len(words) != 3:
            raise StackError("report diff takes two runs: ./flash report diff A B", Exit.USAGE)
        work = [DIFF, *(str(_found(word, settings)) for word in words[1:])]
    elif len(words) > 1:
        raise StackError("report takes one run, or: diff A B", Exit.USAGE)
    else:
        folder = _found(words[0], settings) if words else _latest(settings)
        say(f"reporting {folder}")
        labs = sorted((settings.home / "benchmarks").glob("strategies-*.json"))
        work = ["build", str(folder), str(REPOSITORY), *(("--lab", str(labs[-1])) if labs else ())]
    code, said = await _measured(work, settings)
    if parsed.json:
        print(json.dumps(said))
    elif said:
        print(table(said["table"]["header"], said["table"]["rows"]))
        for line in [*said.get("written", []), *(f"WRONG BOOKS: {wrong}" for wrong in said.get("wrong", {}).values())]:
            print(line)
        for other in said.get("circumstances", []):
            print(f"different: {other['what']}: {other['before']} -> {other['after']}")
    return code


def _found(word: str, settings: Settings) -> Path:
    for path in (Path(word), settings.home / "comparison" / word):
        if path.exists():
            return path.resolve()
    raise StackError(
        f"there is no run {word}. Fix: ls {settings.home / 'comparison'}, or ./flash bench standard makes one",
        Exit.MISSING,
    )


def _latest(settings: Settings) -> Path:
    """Of those that came to their end, since one may be going on; of the others if there is none."""
    runs = sorted(path.parent for path in (settings.home / "comparison").glob("*/run.json"))
    if not runs:
        raise StackError(
            f"no comparison was run yet: nothing is in {settings.home / 'comparison'}. Fix: ./flash bench standard",
            Exit.MISSING,
        )
    return ([run for run in runs if _has_ended(run)] or runs)[-1]


def _has_ended(run: Path) -> bool:
    try:
        return bool(json.loads((run / "run.json").read_text(encoding="utf-8")).get("ended_at"))
    except (OSError, ValueError):
        return False


async def _measured(words: list[str], settings: Settings) -> tuple[int, dict[str, Any]]:
    settings.home.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": "src",
        "MPLCONFIGDIR": str(settings.home / "benchmarks" / "matplotlib"),
    }
    code, said = await heard(["-m", "benchmarks.report", *words], environment, RESULT_BYTES_MAX)
    if code not in {Exit.OK, Exit.FAILED, Exit.MISSING}:
        raise StackError(f"benchmarks.report ended with {code}; it says why above")
    return code, json.loads(said) if said else {}
