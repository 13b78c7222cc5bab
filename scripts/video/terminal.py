"""
A terminal that is recorded: commands run under a pseudo terminal, and what they write is kept with the moment at which they wrote it.

What is shown is what came, with its colours, cut at the right edge. Programs that move the cursor about are not understood: nothing
that is shown does.
"""

import asyncio
import codecs
import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.ansi import AnsiDecoder

from scripts.video.styled import as_html

PROMPT = "\x1b[1;38;2;255;143;92m$\x1b[0m "
KEYS_PER_S = 28.0
KEYS_AT_ONCE = 4
ROWS = 60  # as a program sees it; the stage shows the last of them that fit
READ_BYTES = 65_536
TEXT_CHARS_MAX = 2_000_000
COMMAND_WITHIN_S = 240.0
STOP_WITHIN_S = 5.0


class CommandError(Exception):
    """A command that should have ended well did not, with its last words."""


@dataclass
class Terminal:
    """One that commands are typed into, from ``began`` on."""

    columns: int
    environment: Mapping[str, str]
    folder: Path
    keys_per_s: float = KEYS_PER_S
    within_s: float = COMMAND_WITHIN_S  # of each command, once it is typed
    began: float = field(default_factory=time.monotonic)
    marks: list[float] = field(default_factory=list)  # when each command began
    _written: list[tuple[float, str]] = field(default_factory=list)
    _size: int = 0

    async def run(self, command: str) -> None:
        """Type a command, and wait for its end. Raises ``CommandError``."""
        self.marks.append(time.monotonic() - self.began)
        await self.type(command)
        code, said = await self._under_a_pty(command)
        self._write("\r\n")
        if code != 0:
            raise CommandError(f"`{command}` ended with {code}:\n{said[-2000:]}")

    async def type(self, command: str) -> None:
        """Like somebody who types fast."""
        self._write(PROMPT)
        command = command.replace("\n", "\r\n")
        for start in range(0, len(command), KEYS_AT_ONCE):
            await asyncio.sleep(KEYS_AT_ONCE / self.keys_per_s)
            self._write(command[start : start + KEYS_AT_ONCE])
        await asyncio.sleep(KEYS_AT_ONCE / self.keys_per_s)
        self._write("\r\n")

    def screens(self, rows: int, grid_s: float) -> list[tuple[float, str]]:
        """What stands there from when on, as HTML; one screen for all that came within ``grid_s``."""
        shown: list[tuple[float, str]] = []
        text = ""
        for at, piece in self._written:
            text += piece
            slot = int(at / grid_s) * grid_s
            screen = render(text, self.columns, rows)
            if shown and shown[-1][0] == slot:
                shown[-1] = (slot, screen)
            elif not shown or shown[-1][1] != screen:
                shown.append((slot, screen))
        return shown

    def _write(self, text: str) -> None:
        self._size += len(text)
        if self._size > TEXT_CHARS_MAX:
            raise CommandError(f"a command wrote more than {TEXT_CHARS_MAX:,} characters to the terminal")
        self._written.append((time.monotonic() - self.began, text))

    async def _under_a_pty(self, command: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, self.columns, 0, 0))
        try:
            child = await asyncio.create_subprocess_exec(
                *("bash", "-c", command),
                cwd=self.folder,
                env=dict(self.environment)
                | {"TERM": "xterm-256color", "COLUMNS": str(self.columns), "LINES": str(ROWS)},
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        said = ""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        os.set_blocking(ours, False)
        try:
            # Its end is when nobody has the other side open, so a process that it left behind would be waited for as well.
            async with asyncio.timeout(self.within_s):
                while piece := await _read(ours):
                    text = decoder.decode(piece)
                    said = (said + text)[-READ_BYTES:]
                    self._write(text)
                code = await child.wait()
        except TimeoutError:
            raise CommandError(f"`{command}` did not end within {self.within_s:.0f} s:\n{said[-2000:]}") from None
        finally:
            os.close(ours)
            await end(child)
        return code, said


async def end(child: asyncio.subprocess.Process) -> None:
    """Stop it and its children, if they have not ended: those of its own session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_WITHIN_S):
                await child.wait()


async def _read(handle: int) -> bytes:
    # Empty at the end, which Linux tells with an error once nobody has the other side open.
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(handle, ready.set)
    try:
        await ready.wait()
        return os.read(handle, READ_BYTES)
    except OSError:
        return b""
    finally:
        loop.remove_reader(handle)


async def quietly(command: Sequence[str], environment: Mapping[str, str], folder: Path, within_s: float) -> str:
    """Run a command that nobody sees; its stdout. Raises ``CommandError``."""
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(within_s):
            said, trouble = await child.communicate()
    except TimeoutError:
        raise CommandError(f"`{' '.join(command)}` did not end within {within_s:.0f} s") from None
    finally:
        await end(child)
    if child.returncode != 0:
        raise CommandError(
            f"`{' '.join(command)}` ended with {child.returncode}:\n{trouble.decode(errors='replace')[-2000:]}"
        )
    return said.decode()


def render(text: str, columns: int, rows: int) -> str:
    """The last ``rows`` lines of what was written, as HTML."""
    lines = list(AnsiDecoder().decode(text.replace("\r\n", "\n").removesuffix("\n")))
    for line in lines:
        line.expand_tabs(8)
        line.truncate(columns, overflow="ellipsis")
    return "\n".join(as_html(line) for line in lines[-rows:])
