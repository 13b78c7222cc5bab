"""How pytest's workers share the tests out (``./flash test`` alone; a part of the tests has one worker, and none of this).

Each worker has services of its own and takes what is next whenever it is free. What must stay together is a *share*: by
default a file, because its tests may share a fixture. What loads the machine with a crowd is a share of its own kind, so that
there is never a second crowd of that kind beside it. Tried before: all crowds at the end and alone, which took seven of 22
minutes, half of them waiting.
"""

from typing import Any
from zlib import crc32

import pytest
from xdist.scheduler import LoadScopeScheduling

# Long ones whose tests share nothing.
ONE_BY_ONE = ("tests/contract/test_payments_mutants.py", "tests/failure/")
# Crowds, by the beginning of their files: whole sales under kills, and benchmarks in short. The longest shares, so they come
# first; a launcher's instance and its ports are then one's at a time as well.
CROWDS = {
    "tests/failure/test_soak.py": "storms",
    "tests/failure/test_demo_kill.py": "storms",
    "tests/contract/test_bench_": "benchmarks",
}
# The longest shares but for those: begun last, one of them would be waited for alone.
FIRST = (
    "tests/contract/test_authority_states.py",
    "tests/browser/test_admin_page.py",
    "tests/contract/test_payments.py",
    "tests/browser/test_ticker_page.py",
    "tests/contract/test_authority_details.py",
    "tests/browser/test_page_logic.py",
    "tests/browser/test_operations_page.py",
    "tests/browser/test_ticker_states.py",
    "tests/contract/test_comparison.py",
    "tests/contract/test_stock_stream.py",
)


def share_of(test: str) -> str:
    """The share that a test, named as pytest names it, is part of."""
    file = test.partition("::")[0]
    for beginning, crowd in CROWDS.items():
        if file.startswith(beginning):
            return crowd
    return test if file.startswith(ONE_BY_ONE) else file


def turn_of(test: str) -> tuple[bool, bool, int]:
    """Its place: the longest first, the others mixed, those that wait with those that compute."""
    share = share_of(test)
    return share not in CROWDS.values(), share not in FIRST, crc32(share.encode())


class Sharing(LoadScopeScheduling):  # type: ignore[misc] # it carries no types
    """Gives a worker a whole share."""

    def _split_scope(self, nodeid: str) -> str:
        return share_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    """Xdist's hook, in the process that has the workers."""
    return Sharing(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Pytest's hook, in each worker; where there is but one, it takes the tests as they stand."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: turn_of(item.nodeid))
