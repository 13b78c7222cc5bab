"""The gateway's memory: one line of JSON per change of a key, on disk before anybody hears of it.

Many changes share one fsync: while it runs, the next ones collect. A file cut off in the middle of its last line (a kill, a
power cut) loses that line, which nobody was told; a damaged line before it stops the start.
"""

import asyncio
import fcntl
import json
import os
from pathlib import Path
from typing import Self

from flashsale.payments.gateway.rules import Entry, State

TAIL_BYTES_MAX = 64 * 1024  # far longer than any line: past it the file's end is no torn line but something else


class JournalError(Exception):
    """The journal cannot be read, or could not be written; then nothing more may be promised."""


class Journal:
    """Entries by key, the latest of each; everything else is on disk only."""

    def __init__(self, path: Path, file: int, entries: dict[str, Entry]) -> None:
        self.path = path
        self.entries = entries
        self.failed = asyncio.Event()
        self._file = file
        self._unwritten: list[bytes] = []
        self._writing = asyncio.Lock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read what is there, cut a torn tail off, and go on behind it. Raises ``JournalError``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however it ends
        except BlockingIOError as error:
            raise JournalError(f"{path} is kept by another gateway") from error
        text = path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if len(text) - whole > TAIL_BYTES_MAX:
            raise JournalError(f"{path} ends in {len(text) - whole} bytes that are no line")
        entries = {}
        for number, line in enumerate(text[:whole].splitlines(), 1):
            try:
                document = json.loads(line)
                entries[document["key"]] = Entry(**(document | {"state": State(document["state"])}))
            except (ValueError, KeyError, TypeError) as error:
                raise JournalError(f"{path} line {number} is damaged: {error!r}") from error
        os.ftruncate(file, whole)
        os.lseek(file, whole, os.SEEK_SET)
        os.fsync(file)
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)  # the name of a new file is in its directory
        os.close(directory)
        return cls(path, file, entries)

    def append(self, entry: Entry) -> None:
        """Remember; nobody may be told before ``synced`` returns."""
        self.entries[entry.key] = entry
        self._unwritten.append(json.dumps(entry._asdict(), separators=(",", ":")).encode() + b"\n")

    async def synced(self) -> None:
        """Return when everything appended so far is on disk. Raises ``JournalError``, then and ever after."""
        # A caller who is cut off must not cut off the write: the next one would find nothing to write, and believe it on disk.
        await asyncio.shield(self._sync())

    async def close(self) -> None:
        """Close the file, after the write that is under way."""
        async with self._writing:
            os.close(self._file)

    async def _sync(self) -> None:
        async with (
            self._writing
        ):  # whoever waits here finds its line written by the one before, or writes it with others
            if self.failed.is_set():
                raise JournalError(f"{self.path} could not be written")
            lines, self._unwritten = self._unwritten, []
            if not lines:
                return
            try:
                await asyncio.to_thread(self._write, b"".join(lines))
            except OSError as error:
                # After a failed fsync the kernel may have dropped the pages: only a restart knows what is on disk.
                self.failed.set()
                raise JournalError(f"{self.path} could not be written: {error}") from error

    def _write(self, lines: bytes) -> None:
        while lines:
            lines = lines[os.write(self._file, lines) :]
        os.fdatasync(self._file)
