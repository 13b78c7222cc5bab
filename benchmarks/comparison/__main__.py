"""``python -m benchmarks.comparison SIZE [NAME...]``: make the trials of a comparison. ``./flash bench`` starts it.

Exit codes as everywhere: 0 all is well; 1 a trial's books are wrong; 2 bad usage; 3 something is missing.
"""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.comparison.contract import SIZES
from benchmarks.comparison.engine import run
from benchmarks.comparison.engine.run import Wanted
from benchmarks.comparison.scenario import ScenarioError
from flashsale.settings import REPOSITORY, Settings, SettingsError
from flashsale.signals import until_signalled
from flashsale.stack.console import Say
from flashsale.stack.exits import Exit, StackError

LATEST = "latest"


def main() -> int:
    say = Say()
    try:
        return until_signalled(_compare(_parse(sys.argv[1:]), say))
    except (ScenarioError, SettingsError) as error:
        say(str(error))
        return Exit.USAGE
    except StackError as error:
        say(str(error))
        return error.code
    except KeyboardInterrupt:
        say("stopped; --resume brings it to its end")
        return Exit.INTERRUPTED


async def _compare(options: argparse.Namespace, say: Say) -> int:
    settings = Settings.load(os.environ, REPOSITORY / ".env")
    resume = options.resume and (
        run.latest_unfinished(settings.home) if options.resume == LATEST else Path(options.resume)
    )
    wanted = Wanted(
        size=options.size,
        names=tuple(options.names),
        seed=options.seed,
        blocks=options.blocks,
        command=options.command,
        commit=options.commit,
        resume=resume or None,
        again=options.again,
    )
    folder, manifest = run.prepare(wanted, settings.home)
    return await run.conduct(settings, os.environ, folder, manifest, say)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--resume", nargs="?", const=LATEST)
    parser.add_argument("--again", type=Path)
    parser.add_argument("--command", default="", help="what a person typed, for the manifest")
    parser.add_argument("--commit", default="unknown")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
