"""``python -m benchmarks.sse``: started by ``./flash bench``, with the laws of ``benchmarks.parts``.

A viewer that is left behind ends the run.
"""

import os
import sys

import uvloop

from benchmarks import parts
from benchmarks.backend.field import opened
from benchmarks.sse import beside, fan, hop, long

PARTS = {"fan": fan, "long": long, "hop": hop, "beside": beside}


async def main() -> int:
    options = parts.chosen(parts.parser("sse").parse_args(), PARTS)
    async with opened(options, dict(os.environ)) as field:
        await parts.measure(field, PARTS, options)
    return 0


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
