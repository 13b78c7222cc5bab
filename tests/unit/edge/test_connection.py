"""The edge on real sockets: a port in a thread with a loop of its own, and clients that say whatever they like.

gevent patches nothing here. Who answers waits by looking again and again at what the test's thread has set.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import gevent
import pytest
from gevent import socket as green_socket

from flashsale.edge import connection as connection_module
from flashsale.edge import port as port_module
from flashsale.edge.connection import WORKED_ON_MAX, Connection
from flashsale.edge.message import Peer, Request, Site, Streaming
from flashsale.edge.port import Port
from flashsale.lane.answer import Answer
from tests.patience import PATIENCE_SECONDS

BODY_BYTES_MAX = 10_000  # more than a test that sends a byte at a time comes to within its patience
SIDE_BY_SIDE = "/side-by-side"
JSON = b"Content-Type: application/json\r\n"
SHORT_SECONDS = 0.2  # a deadline that is waited for
LOOK_SECONDS = 0.005


class Edge:
    """A port that repeats what it is asked, at once, or once the test lets it."""

    def __init__(self, connections_max: int) -> None:
        self.begun: list[str] = []  # paths with queries, in the order in which they were handed over
        self.let = threading.Event()
        self.sends: list[bytes] = []
        self.address = ("127.0.0.1", 0)
        self._connections_max = connections_max
        self._orders: list[Callable[[Port], None]] = []
        self._is_over = threading.Event()
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._is_up.wait(PATIENCE_SECONDS)

    def order(self, what: Callable[[Port], None]) -> None:
        """Have this done in the port's own thread."""
        self._orders.append(what)
        until(lambda: what not in self._orders)

    @contextlib.contextmanager
    def standing_still(self, then: Callable[[Port], object] = lambda _: None) -> Iterator[None]:
        """Inside, what clients say stays in their sockets; ``then`` is the first thing that is done about it."""
        has_stopped, may_go_on = threading.Event(), threading.Event()

        def stand(port: Port) -> None:
            has_stopped.set()
            assert may_go_on.wait(PATIENCE_SECONDS)
            then(port)

        ordering = threading.Thread(target=self.order, args=[stand])
        ordering.start()
        assert has_stopped.wait(PATIENCE_SECONDS)
        try:
            yield
        finally:
            may_go_on.set()
            ordering.join(PATIENCE_SECONDS)

    def is_alone(self) -> bool:
        """Is nobody connected?"""
        counts: list[int] = []
        self.order(lambda port: counts.append(port.connections))
        return counts == [0]

    def close(self) -> None:
        """End everything."""
        self.let.set()
        self._is_over.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    @contextlib.contextmanager
    def client(self, said: bytes = b"") -> Iterator[socket.socket]:
        """A connection on which so much was said."""
        with socket.create_connection(self.address, PATIENCE_SECONDS) as client:
            client.sendall(said)
            yield client

    def hear(self, said: bytes) -> bytes:
        """All that is answered until the edge closes the connection."""
        with self.client(said) as client:
            return rest(client)

    def answer(self, request: Request) -> Answer | Streaming:
        self.begun.append(f"{request.path}?{request.query}" if request.query else request.path)
        if request.path.startswith("/let") or request.query.startswith("let"):
            while not self.let.is_set():
                gevent.sleep(LOOK_SECONDS)
        if request.path == "/stream":
            return Streaming({"Content-Type": "text/plain"}, None if request.method == "HEAD" else tell)
        if request.path == "/large":
            return Answer(HTTPStatus.OK, {}, b"x" * 50_000_000)
        if request.path in {"/204", "/304"}:
            return Answer(int(request.path[1:]), {}, b"")
        body = repr((request.method, request.path, request.query, request.fields.get("x-word"), request.body))
        return Answer(HTTPStatus.OK, {"Begun": str(len(self.begun))}, body.encode())

    def _serve(self) -> None:
        listener = green_socket.socket()
        listener.bind(self.address)
        listener.listen(64)
        self.address = listener.getsockname()
        port = Port(listener, Site(self.answer, refuse, BODY_BYTES_MAX, SIDE_BY_SIDE), self._connections_max)
        self._is_up.set()
        while not self._is_over.is_set():
            while self._orders:
                self._orders[0](port)
                del self._orders[0]
            gevent.sleep(LOOK_SECONDS)
        port.close()
        port.kill()
        gevent.get_hub().destroy(destroy_loop=True)


def tell(peer: Peer, write: Callable[[bytes], object]) -> None:
    peer.settimeout(PATIENCE_SECONDS)
    for word in (b"one", b"two"):
        write(word)


def refuse(status: int, detail: str) -> Answer:
    return Answer(status, {}, detail.encode())


def until(what: Callable[[], Any]) -> None:
    """Wait for something that must come."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < ends, "never came"
        time.sleep(LOOK_SECONDS)


def rest(client: socket.socket) -> bytes:
    """All that is still said."""
    heard = b""
    while piece := client.recv(65536):
        heard += piece
    return heard


def one(client: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of the next answer, byte by byte, so that nothing of the one behind it is taken."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        assert byte, head
        head += byte
    body, length = b"", int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        piece = client.recv(length - len(body))
        assert piece, body
        body += piece
    return head, body


def post(target: str, body: bytes = b"{}", more: bytes = JSON) -> bytes:
    """A plain request."""
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (target.encode(), more, len(body), body)


def get(target: str, method: str = "GET", version: str = "1.1", more: bytes = b"") -> bytes:
    return b"%b %b HTTP/%b\r\nHost: x\r\n%b\r\n" % (method.encode(), target.encode(), version.encode(), more)


@pytest.fixture
def edge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edge]:
    made = Edge(getattr(request, "param", 100))
    send = Connection._send

    def sending(self: Connection, data: bytes) -> None:
        made.sends.append(data)
        send(self, data)

    monkeypatch.setattr(Connection, "_send", sending)
    try:
        yield made
    finally:
        made.close()


WHOLE = {
    "plain": (
        post("/a%20b?c=d%20e", b'{"n":1}', JSON + b"X-Word: y\r\n"),
        ("POST", "/a b", "c=d%20e", "y", b'{"n":1}'),
    ),
    "no body": (get("/a"), ("GET", "/a", "", None, b"")),
    "of another kind": (post("/a", b"n=1", b"Content-Type: text/plain\r\n"), ("POST", "/a", "", None, b"n=1")),
    "chunked": (
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: u\r\n\r\n",
        ("POST", "/a", "", None, b"abcde"),
    ),
    "the first of two words": (get("/a", more=b"X-Word: y\r\nx-word: z\r\n"), ("GET", "/a", "", "y", b"")),
    "a URL": (b"GET http://x/a?b HTTP/1.1\r\nHost: y\r\n\r\n", ("GET", "/a", "b", None, b"")),
    "a word in UTF-8": (get("/%C3%A9", more="X-Word: é\r\n".encode()), ("GET", "/é", "", "é", b"")),
    "an empty line before it": (b"\r\n" + get("/a"), ("GET", "/a", "", None, b"")),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("pieces", [1, 2, 10_000])
def test_a_request_is_the_same_in_however_many_pieces_it_comes(edge: Edge, name: str, pieces: int) -> None:
    said, wanted = WHOLE[name]
    with edge.client() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):  # the connection is as good as new afterwards
            size = -(-len(said) // pieces)
            for begin in range(0, len(said), size):
                client.sendall(said[begin : begin + size])
                if pieces > 1:
                    time.sleep(0.001)
            assert one(client)[1] == repr(wanted).encode()


def test_requests_of_one_piece_are_answered_in_order(edge: Edge) -> None:
    targets = ["/a", f"{SIDE_BY_SIDE}?1", f"{SIDE_BY_SIDE}?2", "/b", f"{SIDE_BY_SIDE}?3"]
    with edge.client(b"".join(map(post, targets)) + get("/c") + post("/d")) as client:
        answers = [one(client)[1] for _ in range(7)]
    assert edge.begun == [*targets, "/c", "/d"]
    assert [answer.split(b"'")[3] for answer in answers] == [
        *(target.partition("?")[0].encode() for target in targets),
        b"/c",
        b"/d",
    ]


def test_a_burst_is_worked_on_side_by_side_and_answered_in_one_write(edge: Edge) -> None:
    said = b"".join(post(f"{SIDE_BY_SIDE}?{number}") for number in range(16))
    with edge.client(said) as client:
        answers = [one(client)[1] for _ in range(16)]
    assert [answer.split(b"'")[5] for answer in answers] == [b"%d" % number for number in range(16)]
    assert len(edge.sends) == 1


def test_what_is_answered_does_not_wait_for_what_is_not(edge: Edge) -> None:
    targets = [f"{SIDE_BY_SIDE}?1", f"{SIDE_BY_SIDE}?2", f"{SIDE_BY_SIDE}?let", f"{SIDE_BY_SIDE}?4"]
    with edge.client(b"".join(map(post, targets))) as client:
        for number in (1, 2):
            assert b"'%d'" % number in one(client)[1]
        until(lambda: len(edge.begun) == 4)  # the fourth is worked on beside the third
        edge.let.set()
        assert b"'let'" in one(client)[1]
        assert b"'4'" in one(client)[1]


def test_only_so_many_of_a_connection_are_worked_on_at_once(edge: Edge) -> None:
    with edge.client(post(f"{SIDE_BY_SIDE}?let") * (WORKED_ON_MAX + 6)) as client:
        until(lambda: len(edge.begun) == WORKED_ON_MAX)
        time.sleep(SHORT_SECONDS)
        assert len(edge.begun) == WORKED_ON_MAX
        edge.let.set()
        assert all(b"'let'" in one(client)[1] for _ in range(WORKED_ON_MAX + 6))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (post("/let"), post("/b")),
        (post("/let"), get("/b")),
        (post("/let"), post(SIDE_BY_SIDE)),
        (post(f"{SIDE_BY_SIDE}?let"), post("/b")),
        (post(f"{SIDE_BY_SIDE}?let"), get("/b")),
    ],
)
def test_all_other_requests_wait_for_the_answer_before_theirs(edge: Edge, first: bytes, second: bytes) -> None:
    with edge.client(first + second) as client:
        until(lambda: edge.begun)
        time.sleep(SHORT_SECONDS)
        assert len(edge.begun) == 1
        edge.let.set()
        for _ in range(2):
            one(client)
    assert len(edge.begun) == 2


CHUNKS = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
REFUSED = {
    "two lengths": (400, post("/a", more=b"Content-Length: 2\r\n")),
    "length and chunks": (400, post("/a", more=b"Transfer-Encoding: chunked\r\n")),
    "another coding": (501, b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"),
    "chunks in 1.0": (400, b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "no chunk": (400, CHUNKS + b"xyz\r\n"),
    "no host": (400, b"GET /a HTTP/1.1\r\n\r\n"),
    "LF alone": (400, b"GET /a HTTP/1.1\nHost: x\n\n"),
    "no version": (400, b"GET /a\r\n\r\n"),
    "a version to come": (505, b"GET /a HTTP/2.0\r\nHost: x\r\n\r\n"),
    "a tunnel": (405, b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "small letters": (501, b"get /a HTTP/1.1\r\nHost: x\r\n\r\n"),
    "an expectation": (417, get("/a", more=b"Expect: miracles\r\n")),
    "a body too large": (413, post("/a", b"x" * (BODY_BYTES_MAX + 1))),
    "chunks too large": (
        413,
        CHUNKS + b"%x\r\n%b" % (BODY_BYTES_MAX + 1, b"x" * 80),
    ),
    "a target too long": (414, get("/" + "a" * 9000)),
    "a field too long": (431, get("/a", more=b"X: " + b"y" * 9000)),
    "too many fields": (431, get("/a", more=b"X: y\r\n" * 101)),
    "too much in all": (431, get("/a", more=(b"X: " + b"y" * 500 + b"\r\n") * 40)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_refused_and_ends_the_connection(edge: Edge, name: str) -> None:
    status, said = REFUSED[name]
    # what stands before it is answered first, and what stands behind it never
    heard = edge.hear(post("/before") + said + get("/behind"))
    before, _, refusal = heard.partition(b"HTTP/1.1 %d " % status)
    assert before.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in refusal
    assert refusal.count(b"\r\n\r\n") == 1
    assert edge.begun == ["/before"]


LATE = {
    "half a head": (408, b"GET /a HT"),
    "a head without its end": (408, b"GET /a HTTP/1.1\r\nHost: x\r\n"),
    "no body": (400, post("/a", b"x" * BODY_BYTES_MAX)[:-BODY_BYTES_MAX]),
    "half a body": (400, post("/a", b"x" * BODY_BYTES_MAX)[: 50 - BODY_BYTES_MAX]),
    "half a chunk": (400, CHUNKS + b"%x\r\na" % BODY_BYTES_MAX),
}


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("more", [b"", b"z"])
def test_half_a_request_is_waited_for_so_long_however_it_dribbles(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, name: str, more: bytes
) -> None:
    for deadline in ("HEAD_SECONDS", "BODY_SECONDS"):
        monkeypatch.setattr(connection_module, deadline, SHORT_SECONDS)
    status, said = LATE[name]
    with edge.client(said) as client:
        client.settimeout(0.02)
        heard, ends = b"", time.monotonic() + PATIENCE_SECONDS
        while not heard:
            assert time.monotonic() < ends
            with contextlib.suppress(OSError):
                client.sendall(more)  # a byte at a time never makes it whole
            with contextlib.suppress(TimeoutError):
                heard = client.recv(1000)
    assert heard.startswith(b"HTTP/1.1 %d " % status), heard
    assert not edge.begun


def test_a_body_is_asked_for_when_its_client_waits_to_be_asked(edge: Edge) -> None:
    whole = post("/a", more=JSON + b"Expect: 100-continue\r\n")
    with edge.client(whole[:-2]) as client:
        asked = b"HTTP/1.1 100 Continue\r\n\r\n"
        heard = b""
        while len(heard) < len(asked):
            heard += client.recv(len(asked) - len(heard))
        assert heard == asked
        client.sendall(b"{}")
        assert one(client)[0].startswith(b"HTTP/1.1 200 ")
        client.sendall(whole)  # who did not wait is not asked
        assert one(client)[0].startswith(b"HTTP/1.1 200 ")


def test_a_head_alone_says_how_long_the_body_would_be(edge: Edge) -> None:
    with edge.client(get("/a", "HEAD") + get("/a")) as client:
        heads = []
        for _ in range(2):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            assert head.startswith(b"HTTP/1.1 200 ")
            heads.append(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        assert int(heads[0]) == int(heads[1]) + 1  # "HEAD" is longer than "GET"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_has_no_length(edge: Edge, status: int) -> None:
    heard = edge.hear(get(f"/{status}", more=b"Connection: close\r\n"))
    assert heard.startswith(b"HTTP/1.1 %d " % status)
    assert heard.endswith(b"\r\n\r\n")
    assert b"Content-Length" not in heard


@pytest.mark.parametrize(
    "said",
    [
        get("/a", version="1.0"),
        get("/a", version="1.0", more=b"Connection: keep-alive\r\n"),
        get("/a", more=b"Connection: close\r\n"),
    ],
)
def test_who_wants_no_more_than_one_answer_gets_one(edge: Edge, said: bytes) -> None:
    heard = edge.hear(said + get("/behind"))
    assert heard.count(b"HTTP/1.1 200 ") == 1
    assert b"\r\nConnection: close\r\n" in heard
    assert edge.begun == ["/a"]


def test_a_stream_is_framed_for_who_understands_it_and_ends_with_its_connection(edge: Edge) -> None:
    head, _, body = edge.hear(get("/stream") + get("/behind")).partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked\r\nConnection: close" in head
    assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    head, _, body = edge.hear(get("/stream", version="1.0")).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert body == b"onetwo"
    head, _, body = edge.hear(get("/stream", "HEAD")).partition(b"\r\n\r\n")
    assert b"Content-Length" not in head
    assert body == b""
    assert edge.begun == ["/stream"] * 3


def test_a_refusal_reaches_a_client_that_is_still_talking(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "LINGER_SECONDS", PATIENCE_SECONDS)  # it is read until it has said all
    with edge.client(post("/a", b"x" * 2 * BODY_BYTES_MAX)[:-BODY_BYTES_MAX]) as client:
        until(lambda: edge.sends)
        client.sendall(
            b"x" * 1_000_000
        )  # a closed socket that is told this resets the connection, and the answer with it
        client.shutdown(socket.SHUT_WR)
        assert rest(client).startswith(b"HTTP/1.1 413 ")


def test_who_takes_no_answer_is_let_go(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "SEND_SECONDS", SHORT_SECONDS)
    with edge.client(get("/large")):
        until(lambda: edge.sends)
        until(edge.is_alone)


def test_who_does_not_leave_after_the_last_answer_is_let_go(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "LINGER_SECONDS", SHORT_SECONDS)
    with edge.client(get("/a", version="1.0")) as client:
        assert rest(client)
        until(edge.is_alone)


@pytest.mark.parametrize("edge", [1], indirect=True)
def test_one_too_many_waits_until_another_leaves(edge: Edge) -> None:
    with edge.client(get("/first")) as first, edge.client(get("/second")) as second:
        one(first)
        time.sleep(SHORT_SECONDS)
        assert edge.begun == ["/first"]
        first.close()
        one(second)


def test_a_connection_on_which_nothing_is_said_ends_and_one_that_is_owed_something_does_not(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def are_busy(count: int) -> bool:
        found: list[int] = []
        edge.order(lambda port: found.append([one.idle_since for one in port._connections].count(None)))
        return found == [count]

    with edge.client(get("/a")) as kept, edge.client() as new:
        one(kept)
        with edge.client(get("/let")) as owed, edge.client(b"GET /half") as half:
            until(lambda: are_busy(2))
            for name, ticks in {"IDLE_TICKS": 0, "SWEEP_TICKS": 1}.items():
                monkeypatch.setattr(port_module, name, ticks)
            assert rest(kept) == rest(new) == b""
            monkeypatch.undo()
            time.sleep(SHORT_SECONDS)  # whoever was ended with them has noticed by now
            half.sendall(b" HTTP/1.1\r\nHost: x\r\n\r\n")
            one(half)
            edge.let.set()
            one(owed)


def test_a_stop_ends_who_is_idle_and_answers_who_is_not(edge: Edge) -> None:
    with (
        edge.client(get("/a")) as idle,
        edge.client(get("/a") + b"GET /half") as half,
        edge.client(get("/let") + get("/behind")) as owed,
        edge.client(get("/a")) as last,
    ):
        for client in (idle, half, last):
            one(client)
        until(lambda: "/let" in edge.begun)
        edge.order(lambda port: port.stop())
        last.sendall(get("/c"))  # a stop that has begun still answers, once
        assert b"\r\nConnection: close\r\n" in rest(last)
        edge.order(lambda port: port.close())
        assert rest(idle) == rest(half) == b""
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(edge.address)
        edge.let.set()
        heard = rest(owed)
    assert heard.count(b"HTTP/1.1 200 ") == 1
    assert b"\r\nConnection: close\r\n" in heard
    assert "/behind" not in edge.begun


def test_what_was_said_before_the_stop_is_answered(edge: Edge) -> None:
    with edge.client(get("/a")) as client:
        one(client)
        with edge.standing_still(then=Port.close):
            client.sendall(get("/b"))
        assert b"'/b'" in rest(client)


def test_who_sends_much_at_once_does_not_keep_the_others_waiting(edge: Edge) -> None:
    # one on either side, since nobody says in which order a loop looks at its sockets
    with edge.client(get("/a")) as left, edge.client(get("/a")) as greedy, edge.client(get("/a")) as right:
        for client in (left, greedy, right):
            one(client)
        with edge.standing_still():
            left.sendall(get("/left"))
            greedy.sendall(get("/greedy") * 200)
            right.sendall(get("/right"))
        for client in (left, right, *[greedy] * 200):
            one(client)
    assert max(edge.begun.index(path) for path in ("/left", "/right")) < 100


def test_who_was_let_in_at_the_last_moment_is_not_kept(edge: Edge) -> None:
    connected = threading.Event()
    clients: list[socket.socket] = []

    def close(port: Port) -> None:
        # the loop stands still until somebody has connected; it is let in now, and its greenlet begins after the close
        clients.append(socket.create_connection(edge.address, PATIENCE_SECONDS))
        port._server._do_read()
        port.close()
        connected.set()

    edge.order(close)
    assert connected.wait(PATIENCE_SECONDS)
    (client,) = clients
    assert rest(client) == b""
    client.close()
