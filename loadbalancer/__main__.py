"""``python -m loadbalancer``: a balancer, configured by environment and file; ``--help`` prints every setting."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping

from loadbalancer import logs
from loadbalancer.changes import Told
from loadbalancer.config import FILE, ConfigError, gather, shown, usage
from loadbalancer.parent import FailedError, Parent

EXIT_FAILED, EXIT_WRONG = 1, 2


def main(arguments: list[str]) -> int:
    """Run; the exit status."""
    environ = dict(os.environ)
    only_checks = False
    while arguments:
        word, *arguments = arguments
        if word in {"--help", "-h"}:
            print(usage(), end="")
            return 0
        if word == "--check":
            only_checks = True
        elif word == "--config" and arguments:
            environ[FILE], *arguments = arguments
        elif word.startswith("--config="):
            environ[FILE] = word.partition("=")[2]
        else:
            print(f"loadbalancer: takes --help, --check and --config FILE, not {word!r}", file=sys.stderr)
            return EXIT_WRONG
    given, problems = gather(environ)
    try:
        told = Told.of(given, problems)
    except ConfigError as error:
        for problem in error.problems:
            print(f"loadbalancer: {problem}", file=sys.stderr)
        return EXIT_WRONG
    if only_checks:
        print(shown(told.config, given), end="")
        return 0
    logs.configure()
    try:
        asyncio.run(_serve(environ, told))
    except (OSError, FailedError) as error:
        logs.say("loadbalancer.failed", level=logging.ERROR, reason=str(error))
        return EXIT_FAILED
    return 0


async def _serve(environ: Mapping[str, str], told: Told) -> None:
    await Parent(environ, told).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
