"""What every part of the benchmark is given."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple


class Field(NamedTuple):
    """The cores, and places for files."""

    environment: Mapping[str, str]  # of a Python process of ours
    processes: Mapping[str, int]  # pids of services and roles, by name
    core: int  # the balancer's own
    folder: Path  # ends with the run
    home: Path  # stays
    pictures: Path  # the first part of their names
    say: Callable[[str], None]

    @property
    def others(self) -> set[int]:
        """The cores of client and upstream."""
        return os.sched_getaffinity(0) - {self.core}
