"""Between the parent and a worker: questions and answers over a pair of sockets, a line of JSON each, paired by number.

A question may take long (to retire is answered at the end of it), so answers come in any order. Whoever of the two dies is
noticed by the end of the line.
"""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, Self

LINE_BYTES_MAX = 4 * 1024 * 1024  # a report on 64 servers is a fiftieth of it
SENT_SECONDS = 2.0
Line = dict[str, Any]


class GoneError(Exception):
    """The worker has ended, or does not answer in time."""


class Control:
    """The parent's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Line]] = {}
        self.told: Line = {}  # what it said last of each thing
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Ask over this end of the pair."""
        return cls(*await asyncio.open_connection(sock=end, limit=LINE_BYTES_MAX))

    async def ask(self, do: str, within: float, **data: object) -> Line:
        """One question's answer. Raises GoneError."""
        if self._listening.done():
            raise GoneError(f"{do}: it has ended")
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(within):
                self._writer.write(json.dumps({"number": number, "do": do, **data}).encode() + b"\n")
                answer: Line = await asked
                return answer
        except TimeoutError:
            raise GoneError(f"{do}: no answer within {within:g} s") from None
        finally:
            self._asked.pop(number, None)

    async def heard(self) -> None:
        """Wait until everything is read that a worker which has ended had said."""
        await asyncio.shield(self._listening)

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                said: Line = json.loads(line)
                self.told |= said
                asked = self._asked.get(said["number"])
                if asked is not None and not asked.done():
                    asked.set_result(said)
        except (OSError, ValueError):
            pass  # it was killed, be it in the middle of a line
        finally:
            self._writer.transport.abort()
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(GoneError("it has ended"))


class Questions:
    """The worker's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Be asked over this end of the pair."""
        return cls(*await asyncio.open_connection(sock=end, limit=LINE_BYTES_MAX))

    async def first(self) -> Line:
        """What is asked first. Raises ValueError if nobody asks."""
        line: Line = json.loads(await self._reader.readline())
        return line

    async def __aiter__(self) -> AsyncIterator[Line]:
        """Until the parent is gone."""
        try:
            while line := await self._reader.readline():
                yield json.loads(line)
        except OSError:
            pass

    def answer(self, question: Line, **data: object) -> None:
        """Answer one of them."""
        self._writer.write(json.dumps({"number": question["number"], **data}).encode() + b"\n")

    async def sent(self) -> None:
        """Wait until every answer is read: closed with a question unread, the pair is reset, and the last answer lost."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(SENT_SECONDS):
                await self._writer.drain()
                self._writer.write_eof()
                while await self._reader.read(LINE_BYTES_MAX):  # until the parent has read the end, and closes
                    pass
