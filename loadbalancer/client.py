"""A client's connection: bytes to requests, one exchange at a time, and a bound on everything a client can do."""

import asyncio
from math import inf
from typing import TYPE_CHECKING, cast

from loadbalancer import answers
from loadbalancer.answers import Problem
from loadbalancer.exchange import Exchange
from loadbalancer.http1.forward import Sender
from loadbalancer.http1.grammar import Refused
from loadbalancer.http1.head import RequestHead
from loadbalancer.http1.plain import plain_request
from loadbalancer.http1.reader import END, RequestReader
from loadbalancer.sockets import BUFFER_HIGH, keep_little_unsent, reset, set_buffer_limits

if TYPE_CHECKING:
    from loadbalancer.proxy import Proxy

LINGER_SECONDS = 2.0  # a client is still read so long after a refusal, or a reset would overtake the answer
PIPELINED_BYTES_MAX = 64 * 1024  # read ahead of the request being answered
BODY_BYTES_PER_SECOND = 1024  # slower than this, and a body is not being sent but held


class ClientConnection(asyncio.Protocol):
    """One client. Its requests are answered one after another, in their order."""

    # Ten thousand of them may be idle: no dictionary each, and no reader before there is something to read piece by piece.
    __slots__ = (
        "__weakref__",
        "_body_began",
        "_exchange",
        "_held",
        "_is_lingering",
        "_is_paused",
        "_is_receiving",
        "_is_stalled",
        "_paused_at",
        "_proxy",
        "_reader",
        "_transport",
        "address",
        "deadline",
        "forwarded",
        "sender",
        "will_close",
    )

    def __init__(self, proxy: "Proxy") -> None:
        self.address = b""
        self.sender: Sender  # once it is known
        self.forwarded = b""  # what all its requests say last
        self.deadline = inf
        self.will_close = False  # after the answer being given
        self._proxy = proxy
        self._transport: asyncio.Transport
        self._reader: RequestReader | None = None  # from the first piece that is not a whole request to the last
        self._exchange: Exchange | None = None
        self._held = b""  # of an answer, to be written at the end of this loop turn
        self._is_receiving = False  # the body of the exchange's request
        self._body_began = 0.0  # later by as long as the server did not take it
        self._paused_at = 0.0
        self._is_paused = False  # we do not read what it sends
        self._is_lingering = False
        self._is_stalled = False  # does not read what it is sent

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        set_buffer_limits(self._transport)
        proxy = self._proxy
        proxy.clients.add(self)
        peer = transport.get_extra_info("peername")
        if peer is None:  # reset before it was accepted
            self._transport.abort()
            return
        self.address = str(peer[0]).encode()
        self.sender = proxy.sender(self.address)
        self.forwarded = self.sender.lines
        self.wait(proxy.config.head_timeout)
        if not proxy.neighbours.enter(peer[0]):
            proxy.totals.address_refused += 1
            self._say(answers.too_many(), is_head=False)
        elif len(proxy.clients) > proxy.config.clients_max:
            proxy.totals.clients_refused += 1
            self._say(answers.nothing_promised("too many connections"), is_head=False)

    def data_received(self, data: bytes) -> None:
        if self._is_lingering:
            return
        if self._exchange is None and self._reader is None and not self._is_stalled:
            plain = plain_request(data, self._proxy.config.body_max)
            if plain is not None:
                exchange = self._exchange = Exchange(self._proxy, self, plain[0])
                exchange.start_whole(plain[1])
                return
        self._take(data)

    def eof_received(self) -> bool:
        # A client that has shut its sending side and still listens cannot be told from one that left; as everywhere,
        # it counts as gone. What it asked for may happen all the same: nobody can call a request back.
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        self._proxy.leave(self)
        self._held = b""
        self.deadline = inf
        if self._exchange is not None:
            self._proxy.totals.clients_gone += 1
            exchange, self._exchange = self._exchange, None
            exchange.ends("C")
            self._proxy.note(exchange, 499)
            exchange.drop()

    def pause_writing(self) -> None:
        self._is_stalled = True
        self.deadline = self._proxy.now() + self._proxy.config.stall_timeout
        if self._exchange is not None:
            self._exchange.pause_answer()

    def resume_writing(self) -> None:
        self._is_stalled = False
        if self._exchange is not None:
            self._exchange.resume_answer()
            self.wait(self._exchange.silence_s)
        elif not self._is_lingering:
            self._resume()
            self.wait(self._proxy.config.idle_timeout)
            self._proceed()

    # From the exchange.

    def write(self, data: bytes) -> None:
        """Send some of an answer, at the end of this loop turn."""
        if self._held:
            self._held += data
        else:
            self._held = data
            self._proxy.flush_soon(self)
        if len(self._held) >= BUFFER_HIGH:
            self.flush()  # one turn can read 32 times from a server that sends fast; what stops it is the pause that a write brings

    def flush(self) -> None:
        """The turn ends, or the connection does."""
        data, self._held = self._held, b""
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def begin_stream(self) -> None:
        """What is written on this connection from now on is news, which must not grow old here when the client reads slowly."""
        keep_little_unsent(self._transport)

    def pause_reading(self) -> None:
        """No more of the body for now: the server does not take it as fast. Its pause is not the client's fault."""
        self._pause()
        if self._is_receiving and not self._paused_at:
            self._paused_at = self._proxy.now()
            self.deadline = self._paused_at + self._proxy.config.stall_timeout

    def resume_reading(self) -> None:
        """Go on."""
        if self._is_paused and not self._transport.is_closing():
            self._resume()
            if self._paused_at:
                self._body_began += self._proxy.now() - self._paused_at
                self._paused_at = 0.0
                self._allow_body()

    def wait(self, seconds: float) -> None:
        """Something has to happen within ``seconds``; what, follows from how things stand."""
        if not self._is_stalled and not (
            self._is_receiving and self._exchange is not None and not self._exchange.status
        ):
            self.deadline = self._proxy.now() + seconds

    def finish(self, data: bytes) -> None:
        """The answer is complete with ``data``, which may be empty."""
        if data:
            self.write(data)
        exchange = self._exchange
        assert exchange is not None
        self._proxy.note(exchange, exchange.status)
        self._next()

    def fail(self, problem: Problem) -> None:
        """No server answers this one."""
        exchange = self._exchange
        assert exchange is not None
        self._proxy.totals.fail(problem.status)
        self._proxy.note(exchange, problem.status)
        self.will_close = self.will_close or exchange.head.closes or self._is_receiving
        self.write(answers.encode(problem, closes=self.will_close, is_head=exchange.head.method == b"HEAD"))
        self._next()

    def break_off(self, who: str = "K") -> None:
        """End at once, so that nobody takes half an answer for a whole one; ``who`` as in ``Exchange.ends``."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.ends(who)
            self._proxy.note(exchange, exchange.status)
            exchange.drop()
        else:
            self.flush()  # a whole answer
        reset(self._transport)

    # From the proxy.

    @property
    def is_made(self) -> bool:
        """Has its connection been made, with TLS also greeted?"""
        return hasattr(self, "_transport")

    def expire(self) -> None:
        """The deadline has passed."""
        exchange = self._exchange
        self.deadline = inf
        if self._is_stalled or self._is_lingering:
            self.break_off("c")
        elif exchange is not None and (not self._is_receiving or exchange.status):
            exchange.time_out()
        elif exchange is not None or self._has_waiting:
            self._refuse(Refused(408, "the request did not come in time"), "c")
        else:
            self._transport.abort()

    def drain(self) -> None:
        """Let the client go as soon as it has what it asked for."""
        self.will_close = True
        if self._is_lingering:
            return
        if self._exchange is None and not self._has_waiting:
            self._close()
        else:
            self.end_stream()

    def retire(self) -> None:
        """Let the client go with the next answer that can still tell it so.

        An idle connection stays: closed now, it could cross a request on its way, which would be lost. Whoever is in the
        middle of an answer has been promised another one.
        """
        if self._exchange is None or not self._exchange.status:
            self.will_close = True

    @property
    def is_streaming(self) -> bool:
        """Is it being sent an event stream?"""
        return self._exchange is not None and self._exchange.is_stream and bool(self._exchange.status)

    def end_stream(self) -> None:
        """Its stream, if it is still there, goes on elsewhere."""
        if self.is_streaming:
            self.break_off()

    # Own steps.

    def _take(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            reader = self._reader = RequestReader(self._proxy.config.body_max)
        is_first = self._exchange is None and not reader.waiting_bytes
        reader.feed(data)
        if self._is_stalled and self._exchange is None:
            # Who does not read its answers gets no more of them.
            if reader.waiting_bytes > PIPELINED_BYTES_MAX:
                self._pause()
        elif self._exchange is None:
            if is_first:  # the deadline of a head does not move again until the head is complete
                self.wait(self._proxy.config.head_timeout)
            self._advance(reader)
        elif self._is_receiving:
            self._advance(reader)
        elif reader.waiting_bytes > PIPELINED_BYTES_MAX:
            self._pause()

    @property
    def _has_waiting(self) -> bool:
        return self._reader is not None and self._reader.waiting_bytes > 0

    def _pause(self) -> None:
        self._is_paused = True
        self._transport.pause_reading()

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def _advance(self, reader: RequestReader) -> None:
        exchange = self._exchange
        try:
            while (event := reader.read()) is not None:
                if isinstance(event, RequestHead):
                    self._proxy.refuse_loop(event)
                    exchange = self._exchange = Exchange(self._proxy, self, event)
                    self._is_receiving = True
                elif exchange is None or self._exchange is not exchange:
                    return
                elif event is END:
                    self._is_receiving = False
                    exchange.take_end()
                    break
                else:
                    assert isinstance(event, bytes)
                    exchange.take(event)
        except Refused as refusal:
            self._refuse(refusal)
            return
        if exchange is None:
            return
        if not exchange.is_started:
            self._body_began = self._proxy.now()
            self._paused_at = 0.0
            self._allow_body()
            exchange.start()
        elif not self._paused_at:
            self._allow_body()

    def _next(self) -> None:
        self._exchange = None
        if self._is_receiving:
            self._linger()
        elif self.will_close:
            self._close()
        else:
            self._resume()
            self.wait(self._proxy.config.idle_timeout)
            if self._reader is None:
                return
            if not self._reader.waiting_bytes:
                self._reader = None
            else:
                # not from here: fifty pipelined requests must not be fifty frames deep
                self._proxy.call_soon(self._proceed)

    def _proceed(self) -> None:
        # A client that was refused meanwhile may have sent what looks like a request behind what was refused.
        if self._exchange is not None or self._is_stalled or self._is_lingering or self._transport.is_closing():
            return
        if self._reader is not None and self._reader.waiting_bytes:
            self.wait(self._proxy.config.head_timeout)
            self._advance(self._reader)

    def _refuse(self, refusal: Refused, who: str = "P") -> None:
        self._proxy.totals.refuse(refusal.status)
        exchange = self._exchange
        if exchange is not None and exchange.status:
            self.break_off(who)
            return
        if exchange is None:
            self._proxy.totals.end(f"{who}R")
        else:
            self._exchange = None
            exchange.ends(who)
            self._proxy.note(exchange, refusal.status)
            exchange.drop()
        is_head = exchange is not None and exchange.head.method == b"HEAD"
        self._say(answers.refused(refusal), is_head=is_head)

    def _say(self, problem: Problem, *, is_head: bool) -> None:
        self.write(answers.encode(problem, closes=True, is_head=is_head))
        self._linger()

    def _close(self) -> None:
        # What was written is still sent; a client that does not take it has no more time than any other.
        self._is_lingering = True
        self.flush()
        self._transport.close()
        self.deadline = self._proxy.now() + self._proxy.config.stall_timeout

    def _linger(self) -> None:
        # To close with bytes unread is to reset, and a reset overtakes the answer. So: our end first, then theirs.
        self._is_lingering = True
        self._resume()
        self.flush()
        if self._transport.can_write_eof():  # TLS cannot; there the answer says how long it is, and that it is the last
            self._transport.write_eof()
        self.deadline = self._proxy.now() + LINGER_SECONDS

    def _allow_body(self) -> None:
        exchange = self._exchange
        if self._is_receiving and exchange is not None and not exchange.status:
            allowed = self._proxy.config.body_timeout + exchange.body_bytes / BODY_BYTES_PER_SECOND
            self.deadline = self._body_began + allowed
