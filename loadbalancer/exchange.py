"""One request on its way to one answer: choose a server, send, send again if the law allows, relay.

``retry.py`` holds the law. Here is kept what the law asks: whether a byte was handed to a connection, whether everything
that came of the body is still here, and whether the client was sent some of an answer.
"""

import re
from math import inf
from typing import TYPE_CHECKING

from loadbalancer import answers, retry
from loadbalancer.http1 import forward
from loadbalancer.http1.head import RequestHead, ResponseHead
from loadbalancer.http1.plain import PlainRequest, closing
from loadbalancer.link import REQUEST_BYTES_MAX, Link, Links
from loadbalancer.servers import Server
from loadbalancer.sockets import keep_little_received
from loadbalancer.upstream import ServerConnection

if TYPE_CHECKING:
    from loadbalancer.client import ClientConnection
    from loadbalancer.proxy import Proxy

KEPT_BYTES_MAX = 16 * 1024  # of a body, for sending it again
WAITING_BYTES_MAX = 64 * 1024  # of a body, while a connection is being made
EVENT_STREAM = b"text/event-stream"
asks_to_wait = re.compile(rb"(?:^|[,;\s])wait\s*=", re.IGNORECASE).search  # RFC 7240


class Exchange:
    """Owned by a client's connection; lent a server's connection from the request's first byte to the answer's last."""

    # What most exchanges never change costs nothing to set here.
    is_started = False
    is_stream = False  # its answer is an event stream, which ends when somebody ends it
    status = 0  # of the answer, once its head has been relayed
    server: Server | None = None  # while it is at work
    served_by = ""  # the last one tried
    body_bytes = 0  # that came of the request's body
    tried: tuple[Server, ...] = ()  # in vain
    number = 0  # on the link that it is out on
    request_id = b""  # once it was sent
    end_code = ""  # who ended it and when, if it was not its answer that did
    _queued_at = 0.0
    _connection: ServerConnection | None = None
    _link: Link | None = None
    _was_reused = False
    _is_apart = False  # counted among its server's streams
    _is_over = False
    _was_sent = False
    _sent_at = 0.0
    _attempts = 0
    _is_complete = False
    _chunks_out = False
    _may_reuse = False

    def __init__(self, proxy: "Proxy", client: "ClientConnection", head: RequestHead | PlainRequest) -> None:
        self.client = client
        self.head = head
        self.began = proxy.now()
        self.silence_s = proxy.config.response_timeout  # allowed before the answer, then between two pieces of it
        self.key = proxy.farm.key_of(head, client.address)
        self.path = proxy.farm.path_of(head.target)
        self._proxy = proxy
        self._body: list[bytes] | None = []  # what came of it; None once some of it was let go

    # From the client.

    def start(self) -> None:
        """Everything that came at once is here: choose a server."""
        self.is_started = True
        self._proxy.budget.earn()
        self._attempt(self._proxy.farm.choose(self.key, self.tried, self.path))

    def start_whole(self, body: bytes) -> None:
        """The whole request came at once: choose a server."""
        self._is_complete = True
        if body:
            self._body = [body]
            self.body_bytes = len(body)
        self.start()

    def take(self, payload: bytes) -> None:
        """More of the request's body."""
        self.body_bytes += len(payload)
        if self._body is not None:
            self._body.append(payload)
        if self._connection is not None:
            self._connection.transport.write(forward.chunk(payload) if self.head.is_chunked else payload)
            self._let_go()
        elif self.body_bytes > WAITING_BYTES_MAX:
            self.client.pause_reading()

    def take_end(self) -> None:
        """The request is complete."""
        self._is_complete = True
        if self._connection is not None:
            if self.head.is_chunked:
                self._connection.transport.write(forward.LAST_CHUNK)
            self._await_answer()

    def admitted(self, server: Server) -> None:
        """It waited for a place, and has one."""
        self._proxy.totals.queue_seconds.add(self._proxy.now() - self._queued_at)
        self.server = server
        # Not from here: who made room has not yet given back the connection that this one can have.
        self._proxy.call_soon(self._begin, server)

    def late(self) -> None:
        """It waited for a place as long as one may."""
        self._proxy.totals.queue_late += 1
        self._give_up("every server was full for too long", "sQ")

    def drop(self) -> None:
        """The client is gone, or is not to be answered any more. The server's connection ends with it."""
        self._drop(was_late=False)

    def time_out(self) -> None:
        """The server did not begin its answer in time, or fell silent within it."""
        self.ends("s")
        if self.server is None or (self._connection is None and self._link is None):
            self._give_up("no connection in time", "sC")
            return
        server = self.server
        server.lost += 1
        self._drop(was_late=True)
        if not self.is_stream and server.outlier.failed():
            self._proxy.failed(server, "no answer in time")
        if self.status:
            self.client.break_off()
        else:
            self.client.fail(answers.too_slow())

    def pause_answer(self) -> None:
        """The client does not read as fast as the server writes."""
        if self._connection is not None:
            self._connection.transport.pause_reading()

    def resume_answer(self) -> None:
        """It has caught up."""
        if self._connection is not None:
            self._connection.transport.resume_reading()

    # From the pool or the network.

    def connected(self, connection: ServerConnection, *, is_reused: bool) -> None:
        """Send what is here, in one write."""
        self._connection = connection
        self._was_reused = is_reused
        head = self.head
        connection.begin(self, head.method)
        body = self._body
        assert body is not None
        data = forward.request(head, connection.server.authority, self._last(), is_resent=self._was_sent)
        if head.is_chunked:
            data = b"".join((data, *map(forward.chunk, body), forward.LAST_CHUNK if self._is_complete else b""))
        else:
            data = data + body[0] if len(body) == 1 else b"".join((data, *body))
        self._was_sent = True
        self._sent_at = self._proxy.now()
        self.client.resume_reading()  # before the write, which may ask for a pause
        if self._is_complete:
            connection.send_soon(data)
            self._proxy.flush_soon(connection)
        else:
            connection.transport.write(data)  # more of it may come in this very turn
        self._let_go()
        if self._is_complete:
            self._await_answer()
        if head.method in retry.SAFE_METHODS and asks_to_wait(self.head.value(b"prefer") or b""):
            self._stand_apart(connection.server)  # a long poll: by its own word no work, but waiting

    def unreached(self, server: Server, problem: str) -> None:
        """No connection could be made; not a byte was sent this time."""
        if self._is_over:
            return
        self._release(server)
        self.tried = (*self.tried, server)
        self._again(server, f"{server.name}: {problem}", "SC")

    @property
    def is_over(self) -> bool:
        """Is nobody waiting for this any more?"""
        return self._is_over

    def ends(self, who: str) -> None:
        """``who`` ended it: C or c the client, S or s a server, by leaving or by time; P the balancer, K the balancer's end."""
        if self.end_code:
            return
        if not self.is_started:
            phase = "R"  # the request had not come
        elif self.server is None:
            phase = "Q"
        elif self._connection is None and self._link is None:
            phase = "C"
        else:
            phase = "D" if self.status else "H"
        self.end_code = who + phase

    # From the server's connection.

    def answer_head(self, head: ResponseHead, out: list[bytes]) -> None:
        """A head came: an interim one, or the answer's."""
        client = self.client
        if head.is_interim:
            if self.head.minor:
                out.append(forward.response(head, to_minor=1, closes=False))
            return
        assert self.server is not None
        self.server.response_seconds.add(self._proxy.now() - self._sent_at)
        self.server.answers[head.status // 100 - 1] += 1
        self.status = head.status
        self.is_stream = head.values.get(b"content-type", b"").lower().startswith(EVENT_STREAM)
        self._chunks_out = forward.is_chunked_to(head, self.head.minor)
        self._may_reuse = not (head.closes or self.is_stream)
        client.will_close = client.will_close or self.head.closes or not self._is_complete
        out.append(forward.response(head, to_minor=self.head.minor, closes=client.will_close))
        config = self._proxy.config
        # An answer of a known length is not a stream: its server has no reason to fall silent within it.
        self.silence_s = config.stream_timeout if head.framing.length is None else config.response_timeout
        client.wait(self.silence_s)
        self._body = None
        if self.is_stream and self._connection is not None:
            self._stand_apart(self.server)
            # The server finds out who reads slowly, and gives them up, by what its own small buffer takes.
            keep_little_received(self._connection.transport)
            client.begin_stream()

    def answer_whole(self, status: int, data: bytes, *, is_clean: bool) -> None:
        """The whole answer came at once, and may leave as ``data``."""
        server, connection = self.server, self._connection
        assert server is not None
        server.response_seconds.add(self._proxy.now() - self._sent_at)
        server.answers[status // 100 - 1] += 1
        self.status = status
        self._judge(server)
        self._end()
        if connection is None:
            pass  # it came on a link
        elif is_clean:
            self._proxy.give_back(connection)
        else:
            connection.close()
        client = self.client
        client.finish(closing(data) if client.will_close else data)

    @property
    def takes_whole(self) -> bool:
        """May a whole plain answer leave as it came? Else it has to say, or to be, what this client needs."""
        return self._is_complete and self.head.minor == 1 and not self.head.closes

    def answer_data(self, payload: bytes, out: list[bytes]) -> None:
        """Some of the answer's body."""
        out.append(forward.chunk(payload) if self._chunks_out else payload)
        self.client.wait(self.silence_s)

    def answer_end(self, out: list[bytes], *, is_clean: bool) -> None:
        """The answer is complete; ``is_clean`` if its connection may carry another."""
        if self._chunks_out:
            out.append(forward.LAST_CHUNK)
        connection = self._connection
        assert connection is not None
        self._judge(connection.server)
        self._end()
        if is_clean and self._may_reuse and self._is_complete:
            self._proxy.give_back(connection)
        else:
            connection.close()
        self.client.finish(b"".join(out))

    def lost(self, problem: str, *, may_resend: bool) -> None:
        """The connection ended before the answer did."""
        server = self.server
        assert server is not None
        server.lost += 1
        if self.status:
            self.ends("S" if may_resend else "P")
        # A kept connection may have been closed by a server in good health, and a stream is cut with every restart.
        if not self.is_stream and (self.status or not may_resend or not self._was_reused) and server.outlier.failed():
            self._proxy.failed(server, problem)
        self._release(server)
        self._connection = self._link = None
        if self.status:
            self._is_over = True
            self.client.break_off()
            return
        if not self._was_reused:
            # A kept connection may have been closed by a server in good health; a fresh one tells more.
            self.tried = (*self.tried, server)
        if may_resend:
            self._again(server, f"{server.name}: {problem}", "SH")
        else:
            self._give_up(f"{server.name}: {problem}", "PH")

    # Own steps.

    def _attempt(self, server: Server | None, *, is_fresh: bool = False) -> None:
        if server is not None:
            server.assign()
            self.server = server
            self._begin(server, is_fresh=is_fresh)
        elif problem := self._proxy.farm.wait(self):
            self._give_up(problem, "PQ" if self._proxy.farm.is_any_usable(self.tried, self.path) else "SC")
        else:
            self._queued_at = self._proxy.now()
            self.client.wait(inf)  # the queue has its own deadline

    def _begin(self, server: Server, *, is_fresh: bool = False) -> None:
        if self._is_over:
            return
        self.served_by = server.name
        self._attempts += 1
        if server.links is not None and not self._was_sent and self._send_on_link(server.links):
            return
        connection = None if is_fresh else server.take()
        if connection is None:
            self.client.wait(self._proxy.config.connect_timeout * 2)  # the attempt has its own bound; this is the net
            self._proxy.connect(server, self)
        else:
            self.connected(connection, is_reused=True)

    def _send_on_link(self, links: Links) -> bool:
        # What was sent before is not plain any more: it says so.
        head = self.head
        if (
            not isinstance(head, PlainRequest)
            or len(head.lines) + head.length > REQUEST_BYTES_MAX
            or (head.method, head.target) not in self._proxy.linked
        ):
            return False
        now = self._proxy.now()
        link = links.take(now)
        if link is None:
            return False
        self._link = link
        self._was_reused = self._was_sent = True
        self._sent_at = now
        self.number = link.send(self, head.lines, b"".join((self._last(), *(self._body or ()))))
        self.client.wait(self.silence_s)
        return True

    def _drop(self, *, was_late: bool) -> None:
        connection, link = self._connection, self._link
        self._end()
        if connection is not None:
            connection.close()
        elif link is not None:
            link.forget(self.number, was_late=was_late)

    def _again(self, failed: Server, problem: str, end_code: str) -> None:
        allowed = self._attempts <= self._proxy.config.retries and retry.may_resend(
            was_sent=self._was_sent,
            is_safe=self.head.method in retry.SAFE_METHODS,
            is_keyed=self._is_keyed(),
            is_kept=self._body is not None,
            answer_began=bool(self.status),
        )
        if not allowed:
            self._give_up(problem, end_code)
            return
        is_same = False
        others = self._proxy.farm.choose(self.key, {*self.tried, failed}, self.path)
        if others is None and failed not in self.tried and failed.is_usable and not failed.is_full:
            others, is_same = failed, True  # it closed a kept connection: that says nothing against a fresh one
        if others is None and not self._proxy.farm.is_any_usable(self.tried, self.path):
            self._give_up(problem, end_code)
        elif not self._proxy.budget.spend():
            self._proxy.totals.budget_empty += 1
            self._give_up(f"{problem}; too many requests are being tried again", end_code)
        else:
            failed.retries += 1
            self._attempt(others, is_fresh=is_same)

    def _give_up(self, problem: str, end_code: str) -> None:
        self.end_code = end_code
        self._end()
        if self._was_sent:
            self.client.fail(answers.unknown(problem))
        else:
            self.client.fail(answers.nothing_promised(problem))

    def _is_keyed(self) -> bool:
        return (
            b"idempotency-key" in self.head.values and (self.head.method, self.head.target) in self._proxy.replay_safe
        )

    def _last(self) -> bytes:
        # The id is made once: what is sent again is the same request.
        sender, head = self.client.sender, self.head
        if sender.is_trusted and isinstance(head, RequestHead):
            self.request_id = self.request_id or forward.request_id(head) or self._proxy.next_id()
            return forward.last(sender.lines_of(head), self.request_id)
        number = self.request_id = self.request_id or self._proxy.next_id()
        return forward.last(self.client.forwarded, number)

    def _await_answer(self) -> None:
        if not self.status:
            self.client.wait(self.silence_s)

    def _let_go(self) -> None:
        if self.body_bytes > KEPT_BYTES_MAX:
            self._body = None

    def _end(self) -> None:
        self._is_over = True
        self._connection = self._link = None
        if self.server is not None:
            self._release(self.server)
        else:
            self._proxy.farm.queue.leave(self)

    def _judge(self, server: Server) -> None:
        outlier = server.outlier
        if (self.status >= 500 or outlier.failures) and outlier.answered(self.status):
            self._proxy.failed(server, f"answered {self.status}")

    def _stand_apart(self, server: Server) -> None:
        if not self._is_apart:
            self._is_apart = True
            server.begin_stream()

    def _release(self, server: Server) -> None:
        self.server = None
        server.release(is_stream=self._is_apart)
        self._is_apart = False
