"""How pytest's workers share the tests out (``./flash test`` alone; a part of the tests has one worker, and none of this).

Each worker has services of its own and takes what is next whenever it is free. What must stay together is a *share*: by
default a file, because its tests may share a fixture. Tests marked ``alone`` come when all workers have ended.
"""

from typing import Any
from zlib import crc32

import pytest
from xdist.scheduler import LoadScopeScheduling

# Long ones whose tests share nothing.
ONE_BY_ONE = ("tests/browser/test_ticker_page.py", "tests/contract/test_payments_mutants.py", "tests/failure/")
FIRST = "tests/contract/test_stock_stream.py"  # the longest share


def share_of(test: str) -> str:
    """The share that a test, named as pytest names it, is part of."""
    file = test.partition("::")[0]
    return test if file.startswith(ONE_BY_ONE) else file


def turn_of(test: str) -> tuple[bool, int]:
    """Its place: the longest first, the others mixed, those that wait with those that compute."""
    share = share_of(test)
    return share != FIRST, crc32(share.encode())


class Sharing(LoadScopeScheduling):  # type: ignore[misc] # it carries no types
    """Gives a worker a whole share."""

    def _split_scope(self, nodeid: str) -> str:
        return share_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    """Xdist's hook, in the process that has the workers."""
    return Sharing(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Pytest's hook, in each worker; one that is alone takes the tests as they stand."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: turn_of(item.nodeid))
