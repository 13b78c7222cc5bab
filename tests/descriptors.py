"""Room for crowds of clients: each costs a descriptor here and one at the server."""

import contextlib
import resource
from collections.abc import Iterator

SPARE = 1000  # of one process, for everything else


@contextlib.contextmanager
def room_for(clients: int) -> Iterator[int]:
    """So many clients, or as many as this machine lets one process have; what is started inside may have as many.

    Given back afterwards: what other tests start shall not inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(soft, min(hard, clients + SPARE))
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield min(clients, most - SPARE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
