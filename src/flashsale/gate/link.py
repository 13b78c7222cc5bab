"""One pipelined Redis connection that calls scripts and never re-sends one.

Law 1: a command is written at most once. A lost reply is an unknown outcome, and running a debit again would take its units
twice, so a broken connection fails everything in flight and nothing is retried here. Law 2: replies are matched in order,
so nothing but this file reads from the socket. Law 3: nobody waits for Redis to come back; while it is away, calls fail at
once and a background task reconnects. That makes it a circuit breaker: closed while connected, open after one missed deadline,
half-open while a new connection is greeted, which is nobody's call.

redis-py connects, because that has many forms (TLS, users, databases), and hands its socket over. Its own reader and writer
were measured beside hiredis in a protocol of our own, CPU per call with its caller, medians of seven interleaved runs: 1 call
at a time 23 and 16 us, 8 together 6.7 and 5.0, 64 together 4.4 and 3.5. A refusal by the gate costs the server some 25 us in
all, and few calls share a loop turn, so the protocol is worth its forty lines.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import hiredis
from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import RedisError

CALLS_IN_FLIGHT_MAX = 16_384  # four times a server's attempts in flight: each is a reserve and a settle, and some retry
CONNECT_SECONDS_MAX = 5.0  # for a handshake: meanwhile every call fails at once, and a machine under load takes seconds
RECONNECT_SECONDS_FIRST = 0.02  # a restart is usually over at the second or third try
RECONNECT_SECONDS_MAX = 0.2  # a tenth of the two seconds a gate may stay away
CHECKS_PER_DEADLINE = 10  # how often the oldest call is looked at: a call may overrun its deadline by a tenth


class GateUnavailable(Exception):  # noqa: N818 - said as the caller says it
    """Redis gave no answer. The outcome of a call that was under way is unknown; one refused at once was not sent."""


class GateDamaged(GateUnavailable):
    """A script failed on what it found in the sale's keys, e.g. one of another type. Redis and every other sale are well.

    What the script had written before it failed stays written: the gate must be replaced.
    """


class _Call(NamedTuple):
    deadline: float
    hear: Callable[[Any], None]


class Link:
    """Calls Lua scripts on one Redis. ``run_id`` is that of the Redis now connected, empty while there is none."""

    def __init__(self, url: str, scripts: Mapping[str, str], deadline_s: float) -> None:
        """Connects nothing yet. Raises ``ValueError`` for a URL that no connection can be made from."""
        self.run_id = ""
        self._options: dict[str, Any] = dict(parse_url(url))
        self._connection_class = self._options.pop("connection_class", Connection)
        self._scripts = scripts
        self._deadline_s = deadline_s
        self._sha: dict[str, bytes] = {}
        self._unsent: list[bytes] = []
        self._in_flight: deque[_Call] = deque()
        self._transport: asyncio.WriteTransport | None = None
        self._first_try = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        try:
            self._new_connection()  # an option it does not take must not first be found by the task that connects
        except (RedisError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"the Redis URL has an option that a connection does not take: {error}") from error

    @property
    def keeper(self) -> asyncio.Task[None]:
        """The task that connects and reconnects; outages do not end it. There is one from ``open`` on."""
        if self._keeper is None:
            raise RuntimeError("the link was not opened")
        return self._keeper

    async def open(self) -> None:
        """Start connecting. Returns when the first try has succeeded or failed, whichever; raises nothing for either."""
        self._keeper = asyncio.create_task(self._keep_connected(), name="gate link")
        self._keeper.add_done_callback(lambda _: self._first_try.set())
        await self._first_try.wait()
        if self._keeper.done():
            self._keeper.result()

    async def close(self) -> None:
        """Stop; calls in flight fail with ``GateUnavailable``."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))  # how it ended is for whoever watches it
        self._fail("the link was closed")

    def call(self, script: str, key: bytes, arguments: Sequence[bytes | str | int]) -> asyncio.Future[Any]:
        """``send`` for one who waits: the future has the reply, or raises what it was instead."""
        reply: asyncio.Future[Any] = self.keeper.get_loop().create_future()

        def hear(answer: Any) -> None:
            if reply.done():
                return  # its caller was cancelled; the reply still had its place in the order
            if isinstance(answer, GateUnavailable):
                reply.set_exception(answer)
            else:
                reply.set_result(answer)

        self.send(script, key, arguments, hear)
        return reply

    def send(
        self, script: str, key: bytes, arguments: Sequence[bytes | str | int], hear: Callable[[Any], None]
    ) -> None:
        """Queue one script call; all calls of a loop turn leave in one write. ``hear`` is told the reply, once, in a later turn.

        The reply has bytes, ints and lists, or is a ``GateUnavailable``: it did not come in time, the connection broke, or Redis
        refused the command; a ``GateDamaged`` when the script failed. Raises ``GateUnavailable`` when nothing is sent, because
        there is no connection or too much is in flight.
        """
        if not self.run_id:
            raise GateUnavailable("Redis is not connected")
        if len(self._in_flight) >= CALLS_IN_FLIGHT_MAX:
            raise GateUnavailable("too many calls wait for Redis")
        loop = self.keeper.get_loop()  # asyncio would ask the kernel which process this is, for each call
        # hiredis packs in C what redis-py's own packer needs 10 us for; its stub says "tuple of one" and means "of any".
        if not self._unsent:
            loop.call_soon(self._flush)
        self._unsent.append(hiredis.pack_command(("EVALSHA", self._sha[script], 1, key, *arguments)))  # type: ignore[arg-type]
        self._in_flight.append(_Call(time.monotonic() + self._deadline_s, hear))

    async def _keep_connected(self) -> None:
        pause = RECONNECT_SECONDS_FIRST
        while True:
            connection = self._new_connection()
            reason = "the connection to Redis was closed"
            try:
                async with asyncio.timeout(CONNECT_SECONDS_MAX):
                    self.run_id = await self._greet(connection)
                pause = RECONNECT_SECONDS_FIRST
                self._first_try.set()
                await self._serve(connection)
            # Whatever broke, be it Redis or what it said, a new connection is the cure, and its callers hear the reason.
            except Exception as error:  # noqa: BLE001
                reason = str(error) or type(error).__name__
            finally:
                try:
                    self._fail(reason)
                finally:
                    await connection.disconnect(nowait=True)
            self._first_try.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, RECONNECT_SECONDS_MAX)

    def _new_connection(self) -> Any:
        # RESP2 and no client info: the handshake is then AUTH and SELECT only, and no push message can come between
        # two replies. No socket timeout: redis-py's default of 5 s would end every quiet connection, and waits in a way
        # that swallows a cancellation on Python 3.11; _watch is the deadline here. Replies are decoded where they are read.
        fixed = {"protocol": 2, "driver_info": None, "socket_timeout": None, "decode_responses": False}
        return self._connection_class(**{**self._options, **fixed})

    async def _greet(self, connection: Any) -> str:
        await connection.connect()
        for name, source in self._scripts.items():
            await connection.send_command("SCRIPT LOAD", source)
            self._sha[name] = await connection.read_response()
        await connection.send_command("INFO", "server")
        server: bytes = await connection.read_response()
        fields = dict(line.partition(":")[::2] for line in server.decode().splitlines())
        return fields["run_id"]

    async def _serve(self, connection: Any) -> None:
        # redis-py has connected and greeted, which is rare and has many forms; from here on nothing of it is on the path.
        # Its socket without its reader: there is no public way to have one and not the other.
        self._transport = cast("asyncio.Transport", connection._writer.transport)  # noqa: SLF001
        replies = _Replies(self._take)
        self._transport.set_protocol(replies)
        watch = asyncio.create_task(self._watch())
        try:
            await asyncio.wait((watch, replies.ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            await asyncio.wait((watch,))
        raise (
            replies.ended.result() if replies.ended.done() else watch.exception() or AssertionError("nothing ended it")
        )

    def _flush(self) -> None:
        packed, self._unsent = self._unsent, []
        # One that is closing takes nothing (uvloop raises, where nobody would hear it): its end fails these calls in a moment.
        if packed and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(packed))

    def _take(self, answer: Any) -> None:
        if isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOSCRIPT"):
            raise answer  # somebody flushed the scripts: a new connection loads them again
        self._tell(_unanswered(answer) if isinstance(answer, hiredis.ReplyError) else answer)

    def _tell(self, answer: Any) -> None:
        call = self._in_flight.popleft()  # a reply that nobody waits for ends the connection: the order is lost
        try:
            call.hear(answer)
        except Exception as error:  # noqa: BLE001 - whoever hears is at fault; the replies behind are other callers'
            told = {"message": "who heard a reply of the gate failed", "exception": error}
            self.keeper.get_loop().call_exception_handler(told)

    async def _watch(self) -> None:
        # One look at the oldest call instead of a timer per call: all have the same deadline, so none is older.
        while True:
            await asyncio.sleep(self._deadline_s / CHECKS_PER_DEADLINE)
            if self._in_flight and self._in_flight[0].deadline < time.monotonic():
                raise TimeoutError(f"Redis did not answer within {self._deadline_s} s")

    def _fail(self, reason: str) -> None:
        self.run_id = ""
        self._unsent = []
        self._transport = None
        while self._in_flight:
            self._tell(GateUnavailable(reason))


class _Replies(asyncio.Protocol):
    """Hands each reply on, in order; ``ended`` has the reason when there will be no more."""

    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take
        self._reader = hiredis.Reader()
        self.ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Take every whole reply."""
        if self.ended.done():
            return  # those in flight have been told; what still comes must not be taken for the next connection's
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not False:
                self._take(answer)
        # What a reply can break is known to nobody but this connection, and a new one is the cure for all of it.
        except Exception as error:  # noqa: BLE001
            self._end(error)

    def eof_received(self) -> None:
        """Redis closed; the transport closes as well."""

    def connection_lost(self, exc: Exception | None) -> None:
        """There will be no more."""
        self._end(exc or ConnectionResetError("the connection to Redis was closed"))

    def _end(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


def _unanswered(error: hiredis.ReplyError) -> GateUnavailable:
    # A list of what means damage, not of what does not: to replace a gate because Redis is full (OOM), may not write
    # (MISCONF, READONLY) or is busy would lose pending attempts and cure nothing. ERR is a script's own error.
    damaged = str(error).startswith(("ERR ", "WRONGTYPE "))
    return (GateDamaged if damaged else GateUnavailable)(str(error))
