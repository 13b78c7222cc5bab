"""``python -m benchmarks.lb``: started by ``./flash bench``, with the laws of ``benchmarks.parts``."""

import os
import sys
import tempfile
from pathlib import Path

import uvloop

from benchmarks import parts
from benchmarks.lb import idle, link, plain, relay, tls
from benchmarks.lb.field import Field

PARTS = {"plain": plain, "tls": tls, "idle": idle, "relay": relay, "link": link}


async def main() -> int:
    options = parts.chosen(parts.parser("lb").parse_args(), PARTS)
    with tempfile.TemporaryDirectory(prefix="flash-bench-") as folder:
        field = Field(
            environment=dict(os.environ),
            processes=options.processes,
            core=options.core,
            folder=Path(folder),
            home=options.home,
            pictures=options.pictures,
            say=parts.say,
        )
        await parts.measure(field, PARTS, options)
    return 0


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
