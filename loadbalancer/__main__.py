"""``python -m loadbalancer``: a balancer, configured by environment and file; ``--help`` prints every setting."""

import logging
import os
import sys

import uvloop

from loadbalancer import logs
from loadbalancer.app import UncheckedError, serve
from loadbalancer.config import FILE, Config, ConfigError, gather, shown, usage

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
        config = Config.of(given, problems)
    except ConfigError as error:
        for problem in error.problems:
            print(f"loadbalancer: {problem}", file=sys.stderr)
        return EXIT_WRONG
    if only_checks:
        print(shown(config, given), end="")
        return 0
    logs.configure()
    try:
        uvloop.run(serve(config))
    except (OSError, UncheckedError) as error:
        logs.say("loadbalancer.failed", level=logging.ERROR, reason=str(error))
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
