"""What each worker has in hand, for all to read: one piece of memory, a row per worker process, a cell per server in it.

Who writes a row is alone in it, so there is no lock and nothing to be wrong by: it holds what its worker has assigned and not
released, exactly. A worker that dies has nothing in hand any more, and the parent zeroes its row. Others read the sum, which
is what policies compare; it may be older by the loop turn in which it is read, as everything heard from others is.
"""

import mmap
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

COLUMNS = 128  # servers at once, and those that left and still have something in hand
FIELDS = 2  # active, streams
WORD_BYTES = 8


class Sum(NamedTuple):
    """What several workers have in hand at one server."""

    active: int
    streams: int


class Shared:
    """The memory, as one process sees it."""

    def __init__(self, number: int, rows: int) -> None:
        """``number`` is the file for ``rows`` rows that ``make`` made."""
        self._rows = rows
        self._memory = mmap.mmap(number, size(rows))
        self._words = memoryview(self._memory).cast("q")
        # One call for all rows; adding up a view of them word by word takes twice as long.
        self._read = struct.Struct(f"{rows}q").unpack_from

    def cell(self, column: int, row: int) -> memoryview:
        """Where the worker of ``row`` writes what it has in hand at the server of ``column``: active, streams."""
        first = column * FIELDS * self._rows + row
        return self._words[first : first + FIELDS * self._rows : self._rows]

    def sum(self, column: int) -> Sum:
        """What all of them have in hand at the server of ``column``."""
        first = column * FIELDS * self._rows * WORD_BYTES
        return Sum(sum(self._read(self._memory, first)), sum(self._read(self._memory, first + self._rows * WORD_BYTES)))

    def clear(self, row: int) -> None:
        """Its worker has died."""
        for column in range(COLUMNS):
            cell = self.cell(column, row)
            cell[0] = cell[1] = 0

    def free_column(self, taken: Iterable[int]) -> int:
        """One that is nobody's, and in which nobody has anything in hand. Raises LookupError."""
        used = {*taken}
        for column in range(COLUMNS):
            if column not in used and not any(self.sum(column)):
                return column
        raise LookupError("no room for another server: those that were removed have not finished yet")


def make(rows: int) -> int:
    """The number of a file in memory alone, for processes to inherit."""
    number = os.memfd_create("loadbalancer", os.MFD_CLOEXEC)
    os.ftruncate(number, size(rows))
    return number


def size(rows: int) -> int:
    """Of the memory, in bytes."""
    return COLUMNS * rows * FIELDS * WORD_BYTES
