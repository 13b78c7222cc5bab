"""A connection to a server: idle in its pool, or carrying one exchange."""

import asyncio
from typing import TYPE_CHECKING, cast

from loadbalancer.http1.grammar import Refused
from loadbalancer.http1.plain import plain_answer
from loadbalancer.http1.reader import END, ResponseReader
from loadbalancer.servers import Server
from loadbalancer.sockets import set_buffer_limits

if TYPE_CHECKING:
    from loadbalancer.exchange import Exchange
    from loadbalancer.metrics import Totals


class ServerConnection(asyncio.Protocol):
    """Reads answers. Whoever holds it writes requests to ``transport``, one at a time."""

    def __init__(self, server: Server, totals: "Totals") -> None:
        self.server = server
        self.transport: asyncio.Transport
        self.exchange: Exchange | None = None
        self._totals = totals
        self._method = b""
        self._reader: ResponseReader | None = None  # of an answer that did not come whole
        self._held = b""  # to be written at the end of this loop turn
        self._ended = False  # the server closed in good order

    def begin(self, exchange: "Exchange", method: bytes) -> None:
        """The next answer is to a request of ``method`` and belongs to ``exchange``."""
        self.exchange = exchange
        self._method = method
        self._reader = None

    def send_soon(self, data: bytes) -> None:
        """Write it at the end of this loop turn; nothing else is to be sent until then."""
        self._held = data

    def flush(self) -> None:
        """The turn ends."""
        data, self._held = self._held, b""
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """End it; no exchange hears of it."""
        self.exchange = None
        self.transport.abort()  # nothing written to a server is worth waiting for once nobody wants its answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        set_buffer_limits(self.transport)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            # An answer nobody asked for would become the answer to whoever asks next.
            self._totals.unasked += 1
            self.server.pool.forget(self)
            self.transport.abort()
            return
        reader = self._reader
        if reader is None:
            if self._method != b"HEAD" and exchange.takes_whole:
                answer = plain_answer(data)
                if answer is not None:
                    self.exchange = None
                    exchange.answer_whole(answer.status, answer.data, is_clean=self._is_clean)
                    return
            reader = self._reader = ResponseReader(self._method)
        reader.feed(data)
        out: list[bytes] = []
        event = None
        try:
            while (event := reader.read()) is not None and event is not END:
                if isinstance(event, bytes):
                    exchange.answer_data(event, out)
                else:
                    exchange.answer_head(event, out)
        except Refused as refusal:
            self.close()
            exchange.lost(f"not an answer in HTTP/1.1: {refusal.detail}", may_resend=False)
            return
        if event is END:
            self._finish(exchange, out)
        elif out:
            exchange.client.write(b"".join(out))

    def eof_received(self) -> bool:
        self._ended = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self.exchange
        if exchange is None:
            self.server.pool.forget(self)
        elif self._ended and exc is None and self._reader is not None and self._reader.eof():
            self._finish(exchange, [])
        else:
            self.exchange = None
            exchange.lost("the connection to the server ended before its answer did", may_resend=True)

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.client.pause_reading()

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.client.resume_reading()

    def _finish(self, exchange: "Exchange", out: list[bytes]) -> None:
        self.exchange = None
        assert self._reader is not None
        exchange.answer_end(out, is_clean=self._is_clean and not self._reader.waiting_bytes)

    @property
    def _is_clean(self) -> bool:
        # With some of the request unsent, the server answered without having read it, and may never read it.
        return not (self._ended or self._held or self.transport.is_closing() or self.transport.get_write_buffer_size())
