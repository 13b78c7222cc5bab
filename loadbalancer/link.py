"""The shared upstream link: requests of many clients on one connection to a server that works on them side by side.

A balancer spends most of its time in system calls, four for a request. On a link, all requests of one loop turn leave in one
write, and what the server answered meanwhile comes in one read: two remain, the client's own.

Each request carries a number that its answer repeats (``Link-Sequence``), and the answers come as they are ready: a refusal
does not wait behind a commit. So nothing is matched by its place. The number is looked up among those that are out, and
compared with what its exchange was given, before a byte is passed on; an answer without one, or with any other, ends the
link. The numbers lie far and irregularly apart, so that one that was counted wrong anywhere is nobody's.

A server says that it speaks this by repeating the number of the first request on a link, which is alone there: without a
number its answer is still that request's, and further requests take the pool's connections.
"""

import asyncio
import logging
import random
from typing import TYPE_CHECKING, cast

from loadbalancer.http1.grammar import Refused
from loadbalancer.http1.plain import PlainAnswer, plain_answers
from loadbalancer.logs import say
from loadbalancer.sockets import connect, set_buffer_limits

if TYPE_CHECKING:
    from loadbalancer.exchange import Exchange

DEPTH_MAX = 64  # requests out on one link; what a server reads ahead of them would wait
REQUEST_BYTES_MAX = 16 * 1024  # larger ones would hold up the others
NUMBER_MAX = 10**18  # 18 digits are the most that is repeated
STRIDES = (10**5, 10**8)  # so a link lives for ten thousand million requests, and ends then
AWAY_SECONDS = 1.0  # between two attempts to make a link


class Link(asyncio.Protocol):
    """One of them."""

    def __init__(self, links: "Links") -> None:
        self.transport: asyncio.Transport
        self.is_proven = False  # the server has repeated a number
        self._links = links
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []  # of this loop turn
        self._waiting: dict[int, Exchange | None] = {}  # by number; None: nobody waits any more
        self._unread = b""
        self._is_full = False  # the server does not take what it is sent
        self._is_retired = False  # gets nothing new
        self._stride = random.randrange(*STRIDES)
        self._number = self._stride

    @property
    def has_room(self) -> bool:
        """Does it take another request?"""
        return (
            len(self._waiting) < (DEPTH_MAX if self.is_proven else 1)
            and not self._is_full
            and not self._is_retired
            and not self.transport.is_closing()
        )

    def send(self, exchange: "Exchange", lines: bytes, rest: bytes) -> int:
        """Send a request, its number between ``lines`` and ``rest``, with the others of this loop turn; the number."""
        number = self._number = self._number + self._stride
        if number + self._stride >= NUMBER_MAX:
            self._is_retired = True
        self._waiting[number] = exchange
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(b"%bLink-Sequence: %d\r\n%b" % (lines, number, rest))
        return number

    def forget(self, number: int, *, was_late: bool) -> None:
        """Nobody waits for this answer any more. One that was late says that the others may be: nothing new, then."""
        self._waiting[number] = None
        if was_late or self._is_retired:
            self.retire()

    def retire(self) -> None:
        """Nothing new; what is out is still waited for."""
        self._is_retired = True
        if not any(self._waiting.values()):
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        set_buffer_limits(self.transport)

    def data_received(self, data: bytes) -> None:
        try:
            found, self._unread = plain_answers(self._unread + data if self._unread else data)
            for answer in found:
                self._pass_on(answer)
        except Refused as refusal:
            self._links.broken(self, refusal.detail)
            self.transport.abort()  # whose answers are still out hears of it from there
            return
        if self._is_retired:
            self.retire()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - lost is lost
        self._links.left(self)
        waiting, self._waiting = self._waiting, {}
        for exchange in waiting.values():
            if exchange is not None:
                exchange.lost("the link to the server ended before its answer came", may_resend=True)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False

    def _flush(self) -> None:
        out, self._out = self._out, []
        if not self.transport.is_closing():
            self.transport.write(b"".join(out))

    def _pass_on(self, answer: PlainAnswer) -> None:
        if answer.number is None and not self.is_proven and len(self._waiting) == 1:
            number = next(iter(self._waiting))  # the only request that ever was on this connection
            self._links.refuse()
            self._is_retired = True
        elif answer.number is None:
            raise Refused(400, "an answer without a number")
        else:
            number = answer.number
            if number not in self._waiting:
                raise Refused(400, "an answer to what was not asked")
            self.is_proven = True
        exchange = self._waiting[number]
        if exchange is not None:
            if exchange.number != number:
                raise Refused(400, "an answer to what somebody else asked")
            exchange.answer_whole(answer.status, answer.data, is_clean=True)
        del self._waiting[number]


class Links:
    """The links to one server: made when they are asked for, one at a time."""

    def __init__(self, host: str, port: int, most: int, connect_timeout: float) -> None:
        """At most ``most``; 0 for none."""
        self.requests = 0
        self.breaks = 0
        self._host = host
        self._port = port
        self._most = most
        self._connect_timeout = connect_timeout
        self._links: list[Link] = []
        self._is_refused = False  # the server does not repeat numbers
        self._connecting: asyncio.Task[None] | None = None
        self._not_before = 0.0

    def __len__(self) -> int:
        return len(self._links)

    def take(self, now: float) -> Link | None:
        """One that has room, the first of them: few full links make longer writes than many. None: take the pool's."""
        for link in self._links:
            if link.has_room:
                self.requests += 1
                return link
        if (
            self._connecting is None
            and len(self._links) < self._most
            and not self._is_refused
            and now >= self._not_before
            and all(link.is_proven for link in self._links)
        ):
            self._not_before = now + AWAY_SECONDS
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        return None

    def retire(self) -> None:
        """The server gets nothing new. What it says of links, it may say again."""
        self._is_refused = False
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None  # it may not have begun, and then ends without a word
        for link in list(self._links):
            link.retire()

    # From a link.

    def refuse(self) -> None:
        """The server does not repeat numbers."""
        self._is_refused = True

    def broken(self, link: Link, reason: str) -> None:
        """It had to be ended."""
        self.breaks += 1
        if not link.is_proven:
            self.refuse()
        say("link.broken", level=logging.WARNING, server=f"{self._host}:{self._port}", reason=reason)

    def left(self, link: Link) -> None:
        """Its connection has ended."""
        if link in self._links:
            self._links.remove(link)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                link = await connect(lambda: Link(self), self._host, self._port)
        except (OSError, UnicodeError, TimeoutError):
            return  # the pool's connections find out about a server that is away
        finally:
            if self._connecting is asyncio.current_task():
                self._connecting = None
        if not link.transport.is_closing():
            self._links.append(link)
            self._not_before = 0.0
