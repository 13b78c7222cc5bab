"""One client's connection: a greenlet that reads a request, has it answered, and writes.

Requests that came together and may be answered side by side are, each by a greenlet of its own, and written in order; what is
answered together is written together. Nothing else is read ahead: a client is slowed down by its own answers.
"""

import socket
import time
from typing import TYPE_CHECKING, Any

import gevent

from flashsale.edge.message import Request, Streaming, request_of, take_plain
from flashsale.lane.answer import Answer, encode, encode_chunk, encode_head
from loadbalancer.http1.grammar import Refused
from loadbalancer.http1.head import RequestHead
from loadbalancer.http1.reader import End, RequestReader

if TYPE_CHECKING:
    from flashsale.edge.port import Port

HEAD_SECONDS = 10.0  # for the head, once a request has begun
BODY_SECONDS = 5.0  # a client that sends 4 KiB slower than this is not shopping
SEND_SECONDS = 75.0  # for an answer that its client does not take
LINGER_SECONDS = 1.0  # a client is still read so long after the last answer, or a reset would overtake it
RECEIVE_BYTES = 64 * 1024
WORKED_ON_MAX = 64  # of one connection; further pipelined requests wait where they are
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE = b"Connection: close\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class _Gone(Exception):  # noqa: N818 - an end, and no error
    # The client says no more.
    pass


class Connection:
    """See above. ``idle_since`` is the tick of the last answer; None once more has come."""

    __slots__ = ("_address", "_port", "_readable", "_socket", "_unread", "idle_since")

    def __init__(self, port: "Port", client: Any, address: str) -> None:
        self.idle_since: int | None = port.now
        self._port = port
        self._socket = client
        self._address = address
        self._unread = b""
        self._readable = port.hub.loop.io(client.fileno(), 1)

    def serve(self) -> None:
        """Answer until the client, a silence or the end of the process closes the connection."""
        self._socket.settimeout(SEND_SECONDS)  # when it is told something; what it says is waited for otherwise
        try:
            while self._answer():
                pass
            self._linger()
        except (_Gone, OSError):
            return  # it left, before its answer or after, as people do
        finally:
            self._readable.close()

    def end(self) -> None:
        """Hear what it has said, and no more. What it is owed it gets."""
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:
            return  # it was closed already

    def _answer(self) -> bool:
        # The next request, with those beside it. False: that was the last.
        port = self._port
        if port.is_closing:
            self.end()
        if self._unread:
            gevent.sleep(0)  # whoever has sent much gets one answer in each turn, as everybody
        else:
            self.idle_since = port.now
            self._unread = self._receive()
        self.idle_since = None
        closes, has_chunks = False, True
        requests = self._take_plain()
        if not requests:
            try:
                head, body = self._read()
            except Refused as refused:
                self._send(encode(port.site.refuse(refused.status, refused.detail), port.tail + CLOSE))
                return False
            closes, has_chunks = head.closes, bool(head.minor)
            requests = [request_of(head, body, self._address)]
        beside = [gevent.spawn(port.site.answer, request) for request in requests[1:]]
        answer = port.site.answer(requests[0])
        if isinstance(answer, Streaming):
            self._stream(answer, has_chunks=has_chunks)
            raise _Gone
        out = []
        if beside:
            gevent.sleep(0)  # those that wait for nothing are answered after this turn
        for working in beside:
            out.append(encode(answer, port.tail))
            if not working.ready():  # what is answered does not wait for what is not
                self._send(b"".join(out))
                out = []
            answer = working.get()
        closes = closes or port.is_stopping
        out.append(_encode(answer, requests[0].method, port.tail + CLOSE if closes else port.tail))
        self._send(b"".join(out))
        return not closes

    def _take_plain(self) -> list[Request]:
        # Off what has come: the plain request at its front, and those behind it that may be answered beside it.
        site = self._port.site
        requests: list[Request] = []
        while self._unread and len(requests) < WORKED_ON_MAX:
            taken = take_plain(self._unread, site.body_bytes_max, self._address)
            if taken is None or (requests and taken.request.path != site.independent):
                break
            requests.append(taken.request)
            self._unread = self._unread[taken.ends :]
            if taken.request.path != site.independent:
                break
        return requests

    def _read(self) -> tuple[RequestHead, bytes]:
        # Any request, however slowly it comes. Raises Refused.
        reader = RequestReader(self._port.site.body_bytes_max)
        reader.feed(self._unread)
        self._unread = b""
        late = Refused(408, f"the head did not arrive within {HEAD_SECONDS:g} seconds")
        head = self._next(reader, time.monotonic() + HEAD_SECONDS, late)
        assert isinstance(head, RequestHead), "a message begins with its head"
        if head.expects_continue and not reader.waiting_bytes:
            self._send(CONTINUE)
        until, body = time.monotonic() + BODY_SECONDS, b""
        late = Refused(400, f"the body did not arrive within {BODY_SECONDS:g} seconds")
        while isinstance(piece := self._next(reader, until, late), bytes):
            body += piece
        self._unread = reader.take_waiting()
        return head, body

    def _next(self, reader: RequestReader, until: float, late: Refused) -> RequestHead | bytes | End:
        while (event := reader.read()) is None:
            with gevent.Timeout(max(until - time.monotonic(), 0.0), late):
                reader.feed(self._receive())
        return event

    def _receive(self) -> bytes:
        # Waits before it reads: whoever was just answered has said nothing yet, and to ask the kernel first is a call in vain.
        self._port.hub.wait(self._readable)
        data: bytes = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise _Gone
        return data

    def _send(self, data: bytes) -> None:
        sent = self._socket.send(data)
        if sent < len(data):
            self._socket.sendall(data[sent:])

    def _stream(self, answer: Streaming, *, has_chunks: bool) -> None:
        waiting = encode_head(200, answer.fields, self._port.tail + (CHUNKED if has_chunks else b"") + CLOSE)

        def write(frame: bytes) -> None:
            nonlocal waiting
            self._socket.sendall(waiting + (encode_chunk(frame) if has_chunks else frame))
            waiting = b""

        if answer.serve is None:
            self._send(waiting)
            return
        answer.serve(self._socket, write)
        self._socket.settimeout(LINGER_SECONDS)
        self._send(waiting + (LAST_CHUNK if has_chunks else b""))

    def _linger(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)
        with gevent.Timeout(LINGER_SECONDS, False):
            while True:
                self._receive()


def _encode(answer: Answer, method: str, tail: bytes) -> bytes:
    if answer.status in {204, 304}:  # no body, and no length: it would be that of what is not sent
        return encode_head(answer.status, answer.fields, tail)
    encoded = encode(answer, tail)
    return encoded[: len(encoded) - len(answer.body)] if method == "HEAD" else encoded
