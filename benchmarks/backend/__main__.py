"""``python -m benchmarks.backend asyncio_redis`` or ``gevent_rabbit``: started by ``./flash bench``, with the laws of ``benchmarks.parts``.

A unit that is not there, or that was sold twice, ends the run as well.
"""

import os
import sys

import uvloop

from benchmarks import parts
from benchmarks.backend import (
    accept,
    drain,
    edges,
    fsync,
    held,
    memory,
    million,
    overload,
    refusals,
    sellout,
    steady,
    telling,
)
from benchmarks.backend.field import opened
from benchmarks.backend.servers import EDGE, OURS

# By subject, and in this order: what fills PostgreSQL comes behind what it could slow down.
PARTS = {
    OURS.name: {
        "refusals": refusals,
        "sellout": sellout,
        "million": million,
        "overload": overload,
        "fsync": fsync,
        "held": held,
    },
    EDGE.name: {
        "memory": memory,
        "edges": edges,
        "accept": accept,
        "telling": telling,
        "steady": steady,
        "drain": drain,
    },
}


async def main() -> int:
    parser = parts.parser("backend")
    parser.add_argument("subject", choices=list(PARTS))
    options = parser.parse_args()
    found = PARTS[options.subject]
    options = parts.chosen(options, found)
    async with opened(options, dict(os.environ)) as field:
        await parts.measure(field, found, options)
    return 0


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
