"""Makes the two extra cells known to the launcher, for as long as a trial needs them: a server of theirs is a role like any other."""

import contextlib
from collections.abc import Iterator

from benchmarks.comparison.contract import ASYNCIO_QUEUE, GEVENT_DIRECT
from flashsale.settings import BACKENDS
from flashsale.stack.roles import ROLE_BY_NAME, DatabaseRole, Role

# by cell, what else it needs that no other sale does
BESIDE = {ASYNCIO_QUEUE: ("checkout",), GEVENT_DIRECT: ()}


@contextlib.contextmanager
def known(backend: str) -> Iterator[tuple[str, ...]]:
    """The roles to be started for ``backend`` by name, besides those the launcher starts for it anyway."""
    if backend not in BESIDE:
        yield ()
        return
    BACKENDS[backend] = (backend,)
    ROLE_BY_NAME[backend] = Role(
        name=backend,
        module=f"benchmarks.comparison.cells.{backend}",
        needs=frozenset({"postgres", "redis", "rabbitmq"}),
        database=DatabaseRole.APP,
        serves=True,
        count="gevent_rabbit_processes",  # a trial has as many servers of every kind
    )
    try:
        yield (*BESIDE[backend], backend)
    finally:
        del BACKENDS[backend], ROLE_BY_NAME[backend]
