"""``python -m loadbalancer``: one balancer process, configured by the environment; ``--help`` prints every setting."""

import logging
import os
import sys

import uvloop

from loadbalancer import logs
from loadbalancer.app import UncheckedError, serve
from loadbalancer.config import Config, ConfigError, usage

EXIT_FAILED, EXIT_WRONG = 1, 2


def main(arguments: list[str]) -> int:
    """Run; the exit status."""
    if arguments in (["--help"], ["-h"]):
        print(usage(), end="")
        return 0
    if arguments:
        print(f"loadbalancer: takes no arguments but --help, not {arguments[0]!r}", file=sys.stderr)
        return EXIT_WRONG
    try:
        config = Config.load(os.environ)
    except ConfigError as error:
        for problem in error.problems:
            print(f"loadbalancer: {problem}", file=sys.stderr)
        return EXIT_WRONG
    logs.configure()
    try:
        uvloop.run(serve(config))
    except (OSError, UncheckedError) as error:
        logs.say("loadbalancer.failed", level=logging.ERROR, reason=str(error))
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
