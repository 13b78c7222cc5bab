"""The lane on a transport that writes down what it is told, with a protocol behind it that answers by the book."""

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest
import uvloop

from flashsale.lane import connection as connection_module
from flashsale.lane.answer import Answer
from flashsale.lane.connection import UNREAD_BYTES_MAX, WORKED_ON_MAX, Connection, hand_over
from flashsale.lane.listener import LAST_SECONDS, PARTIAL_TICKS, Listener, Route
from flashsale.lane.promised import Promised
from loadbalancer.http1.grammar import LINE_BYTES_MAX

NAMES = ("Idempotency-Key",)
BODY_BYTES_MAX = 64


class Wire(asyncio.Transport):
    """The client's side: every write, and whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.reads = True
        self.closed = ""
        self.protocol: asyncio.Protocol | None = None

    @property
    def said(self) -> bytes:
        return b"".join(self.writes)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        assert self.reads
        assert not self.closed
        self.reads = False

    def resume_reading(self) -> None:
        assert not self.reads
        self.reads = True

    def is_reading(self) -> bool:
        return self.reads

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = cast("asyncio.Protocol", protocol)

    def is_closing(self) -> bool:
        return bool(self.closed)

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        self._end("aborted")

    def _end(self, how: str) -> None:
        if not self.closed:
            self.closed = how
            assert self.protocol is not None
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class Behind(asyncio.Protocol):
    """Answers on demand, and writes down what it was given."""

    def __init__(self) -> None:
        self.given = b""
        self.transport: asyncio.Transport | None = None
        self.is_paused = False
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.given += data

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self.is_lost = True

    def answer(self, fields: bytes = b"Content-Length: 2\r\n", body: bytes = b"ok") -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")
        self.transport.writelines([body])


class World:
    """One connection; ``begin`` answers keys that start with "now" at once, others when they are told to."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.open: dict[str, Promised] = {}
        self.behinds: list[Behind] = []
        self.limit = 1_000
        busy = Answer(503, {"Retry-After": "1"}, b"busy")
        self.shed = 0
        route = Route("/purchases", NAMES, BODY_BYTES_MAX, self.begin, self.is_full, busy, self.count)
        self.listener = Listener(route, self.make_behind, "test")
        self.listener.tail = b"Server: test\r\n"
        self.wire, self.connection = Wire(), Connection(self.listener)
        self.wire.protocol = self.connection
        self.connection.connection_made(self.wire)

    def is_full(self, working: int) -> bool:
        return working >= self.limit

    def count(self, shed: int) -> None:
        self.shed += shed

    def begin(self, values: Sequence[str | None], body: bytes) -> Answer | Promised:
        (key,) = values
        assert key is not None
        self.begun.append(f"{key} {body.decode()}")
        if key.startswith("now"):
            return Answer(409, {"A": "b"}, key.encode())
        self.open[key] = Promised()
        return self.open[key]

    def make_behind(self) -> Behind:
        self.behinds.append(Behind())
        return self.behinds[-1]

    def hear(self, *data: bytes) -> None:
        for part in data:
            self.connection.data_received(part)

    async def tell(self, *keys: str) -> None:
        for key in keys:
            self.open[key].tell(Answer(201, {}, key.encode()))
        await turns()

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.listener._tick()
            assert self.listener._ticking is not None
            self.listener._ticking.cancel()


@pytest.fixture
async def world() -> World:
    return World()


async def turns() -> None:
    """Enough loop turns for whatever was set off."""
    for _ in range(10):
        await asyncio.sleep(0)


def purchase(key: str, extra: str = "", body: bytes = b"{}") -> bytes:
    head = f"POST /purchases HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n{extra}"
    return head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


GET = b"GET /sales HTTP/1.1\r\nHost: h\r\n\r\n"


def told(key: str, status: str = "201 Created") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(key)}\r\nServer: test\r\n\r\n{key}".encode()


async def test_pipelined_requests_are_worked_on_side_by_side_and_answered_in_order_in_one_write(world: World) -> None:
    world.hear(purchase("a") + purchase("b") + purchase("c"))
    assert world.begun == ["a {}", "b {}", "c {}"]
    await world.tell("c", "b")
    assert world.wire.said == b""
    await world.tell("a")
    assert world.wire.writes == [told("a") + told("b") + told("c")]


async def test_answers_of_one_loop_turn_leave_in_one_write(world: World) -> None:
    world.hear(purchase("a"), purchase("b"))
    await world.tell("a", "b")
    assert world.wire.writes == [told("a") + told("b")]


async def test_what_is_known_at_once_leaves_in_one_write_at_the_end_of_the_turn(world: World) -> None:
    other = World()
    other.listener = other.connection._listener = world.listener
    for one in (world, other, world):
        one.hear(purchase("now"))
        assert not one.wire.writes
    await asyncio.sleep(0)
    assert [len(one.wire.writes) for one in (world, other)] == [1, 1]
    assert world.wire.said == other.wire.said * 2


async def test_a_stop_says_what_is_known_at_once_before_it_closes(world: World) -> None:
    world.hear(purchase("now"))
    world.listener.is_draining = True
    world.connection.end_if_idle()
    assert not world.wire.closed
    await turns()
    assert (world.wire.said[-3:], world.wire.closed) == (b"now", "closed")


async def test_what_is_known_at_once_waits_for_those_before_it(world: World) -> None:
    world.hear(purchase("now-1") + purchase("a") + purchase("now-2"))
    first = b"HTTP/1.1 409 Conflict\r\nA: b\r\nContent-Length: 5\r\nServer: test\r\n\r\nnow-1"
    await turns()
    assert world.wire.writes == [first]
    await world.tell("a")
    assert world.wire.said == first + told("a") + first.replace(b"now-1", b"now-2")


async def test_an_answer_in_the_turn_in_which_its_client_left_leaves_nothing_to_wait_for(world: World) -> None:
    world.hear(purchase("a") + purchase("half")[:-1])
    await turns()
    world.wire.close()
    await world.tell("a")
    await turns()
    assert world.connection not in world.listener.partial, "or the clock would give it to a protocol that has no client"


async def test_what_carries_a_sequence_is_answered_with_it_and_waits_for_nobody(world: World) -> None:
    sent = [purchase(key, f"Link-Sequence: {number}\r\n") for key, number in (("a", 7), ("now", 8), ("b", 10**17))]
    world.hear(purchase("first") + b"".join(sent) + purchase("last"))
    await world.tell("last", "b")
    await world.tell("a")
    answers = world.wire.said.split(b"HTTP/1.1 ")[1:]
    assert [answer.partition(b"Server: test\r\n")[2] for answer in answers] == [
        b"Link-Sequence: 8\r\n\r\nnow",
        b"Link-Sequence: 100000000000000000\r\n\r\nb",
        b"Link-Sequence: 7\r\n\r\na",
    ]
    world.wire.writes.clear()
    await world.tell("first")
    assert world.wire.said == told("first") + told("last"), "who gives no number is answered in order"


@pytest.mark.parametrize("value", ["", "x", "-1", "1.0", "1 2", "1, 2", "0x1", "1" * 19])
async def test_what_is_no_sequence_is_not_repeated(world: World, value: str) -> None:
    world.hear(purchase("now", f"Link-Sequence: {value}\r\n"))
    await turns()
    assert world.wire.said.startswith(b"HTTP/1.1 409 ")
    assert b"Link-Sequence" not in world.wire.said


async def test_one_too_many_hears_so_in_its_turn_and_nothing_of_it_is_looked_at(world: World) -> None:
    busy = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 4\r\nServer: test\r\n%b\r\nbusy"
    world.limit = 2
    world.hear(b"".join(map(purchase, ("a", "b", "now"))) + purchase("c", "Link-Sequence: 9\r\n", b"no json"))
    assert world.begun == ["a {}", "b {}"]
    await world.tell("a")
    numbered = busy % b"Link-Sequence: 9\r\n"
    assert world.wire.said == numbered + told("a")
    world.hear(purchase("d"))
    assert world.begun == ["a {}", "b {}", "d {}"]
    await world.tell("b", "d")
    assert world.wire.said == numbered + told("a") + told("b") + busy % b"" + told("d")
    assert world.shed == 2


async def test_many_too_many_hear_so_in_one_write_and_the_rest_is_waited_for(world: World) -> None:
    world.limit = 0
    last = purchase("last")
    world.hear(b"".join(purchase(f"key-{number}") for number in range(200)) + last[:-1])
    await turns()
    assert len(world.wire.writes) == 1
    assert world.wire.said.count(b"HTTP/1.1 503 ") == world.shed == 200
    world.limit = 1
    world.hear(last[-1:])
    await world.tell("last")
    assert world.wire.said.endswith(told("last"))
    assert world.begun == ["last {}"]


@pytest.mark.parametrize(
    "request_",
    [
        GET,
        purchase("a", "Connection: close\r\n"),
        purchase("a", "Expect: 100-continue\r\n"),
        purchase("a", "Content-Length: 3\r\n"),
        purchase("a", body=b"x" * (BODY_BYTES_MAX + 1)),
        purchase("a", f"X: {'x' * LINE_BYTES_MAX}\r\n"),
    ],
)
async def test_what_is_no_plain_request_is_not_shed(world: World, request_: bytes) -> None:
    world.limit = 0
    world.hear(request_)
    assert world.shed == 0
    assert not world.wire.said
    assert world.behinds[0].given == request_


async def test_the_bound_is_of_all_connections_together(world: World) -> None:
    world.limit = 1
    world.hear(purchase("a"))
    other, wire = Connection(world.listener), Wire()
    wire.protocol = other
    other.connection_made(wire)
    other.data_received(purchase("b"))
    await turns()
    assert world.begun == ["a {}"]
    assert wire.said.startswith(b"HTTP/1.1 503 ")


async def test_bytes_may_come_one_by_one(world: World) -> None:
    whole = purchase("now") + GET + purchase("later")
    for at in range(len(whole)):
        world.hear(whole[at : at + 1])
    assert world.begun == ["now {}"]
    assert world.behinds[0].given == GET
    world.behinds[0].answer()
    await turns()
    assert world.begun == ["now {}", "later {}"]


async def test_what_is_not_the_lane_s_takes_its_turn_and_the_next_is_again(world: World) -> None:
    world.hear(purchase("a") + GET + purchase("b") + GET)
    assert not world.behinds
    await world.tell("a")
    (behind,) = world.behinds
    assert (world.begun, behind.given) == (["a {}"], GET)
    behind.answer(b"Content-Length: 2\r\n", b"o")
    assert behind.transport is not None
    await turns()
    assert world.begun == ["a {}"]
    behind.transport.write(b"k")
    await turns()
    assert world.begun == ["a {}", "b {}"]
    await world.tell("b")
    assert behind.given == GET + GET
    assert world.wire.said.endswith(b"ok" + told("b"))


async def test_an_interim_answer_is_not_the_answer(world: World) -> None:
    world.hear(GET + purchase("a"))
    (behind,) = world.behinds
    assert behind.transport is not None
    behind.transport.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    await turns()
    assert world.begun == []
    behind.answer()
    await turns()
    assert world.begun == ["a {}"]


@pytest.mark.parametrize(
    "request_",
    [
        purchase("a", "Connection: close\r\n"),
        purchase("a", "Expect: 100-continue\r\n"),
        purchase("a", "Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 2\r\n", b""),
        purchase("a", "Transfer-Encoding: chunked\r\n"),
        purchase("a", body=b"x" * (BODY_BYTES_MAX + 1)),
        purchase("a").replace(b"Host: h\r\n", b""),
        purchase("a", "Content-Length: 2\r\n"),
        purchase("a", "Bad name: x\r\n"),
        purchase("a", " folded: x\r\n"),
        purchase("a").replace(b"HTTP/1.1", b"HTTP/1.0"),
        purchase("a").replace(b"Content-Length: 2", b"Content-Length: 2x"),
        purchase("a").replace(b"Content-Length: 2", b"Content-Length: " + b"9" * 5_000),
        purchase("a", f"X: {'x' * 8_200}\r\n"),
        purchase("a", "".join(f"X{number}: 1\r\n" for number in range(100))),
        b"\x16\x03\x01 this is TLS\r\n\r\n",
        b"G" * 20_000,
    ],
)
async def test_what_cannot_be_told_apart_goes_behind_for_good_with_every_byte(world: World, request_: bytes) -> None:
    world.hear(purchase("now") + request_ + b"and more")
    world.hear(purchase("b"))
    assert world.behinds[0].given == request_ + b"and more" + purchase("b")
    assert world.begun == ["now {}"]


@pytest.mark.parametrize(
    "request_",
    [
        purchase("a", "Idempotency-Key: b\r\n"),
        purchase("\u00e9"),
        purchase("a", "Idempotency_Key: b\r\n"),
        purchase("a", "Content-Encoding: gzip\r\n"),
        purchase("a", "Upgrade: h2c\r\n"),
        purchase("a", "TE: trailers\r\n"),
        purchase("a").replace(b"application/json", b"text/plain"),
        purchase("a").replace(b"Content-Type: application/json\r\n", b""),
        purchase("a", body=b""),
        purchase("a").replace(b"/purchases", b"/purchases/"),
        purchase("a").replace(b"/purchases", b"http://h/purchases"),
        purchase("a").replace(b"POST", b"PUT"),
    ],
)
async def test_what_is_not_plain_is_answered_behind_and_the_next_is_the_lane_s(world: World, request_: bytes) -> None:
    world.hear(request_ + purchase("now"))
    assert (world.behinds[0].given, world.begun) == (request_, [])
    world.behinds[0].answer()
    await turns()
    assert world.begun == ["now {}"]


async def test_an_answer_that_closes_or_never_ends_has_the_connection_for_good(world: World) -> None:
    world.hear(GET)
    (behind,) = world.behinds
    assert behind.transport is not None
    behind.answer(b"Content-Type: text/event-stream\r\nConnection: close\r\n", b"data: 1\n\n")
    world.hear(purchase("a"))
    assert behind.given == GET + purchase("a")
    behind.transport.pause_reading()
    assert not world.wire.reads
    behind.transport.resume_reading()
    behind.transport.close()
    assert world.wire.closed == "closed"


async def test_who_is_handed_over_is_nobody_s_here_any_more(world: World) -> None:
    world.hear(GET)
    (behind,) = world.behinds
    assert behind.transport is not None
    behind.answer(b"Content-Type: text/event-stream\r\nConnection: close\r\n", b"data: 1\n\n")
    behind.transport.pause_reading()
    viewer = Behind()
    assert hand_over(behind.transport, viewer) is world.wire
    assert (world.wire.protocol, world.wire.reads) == (viewer, True)
    assert not world.listener.connections
    await world.listener.close(5)
    await turns()
    assert not world.wire.closed
    assert not behind.is_lost
    world.wire.close()
    await turns()
    assert viewer.is_lost


async def test_what_goes_behind_for_good_waits_for_what_was_asked_before(world: World) -> None:
    last = purchase("b", "Connection: close\r\n")
    world.hear(purchase("a") + last)
    assert not world.behinds
    await world.tell("a")
    assert world.wire.writes == [told("a")]
    assert world.behinds[0].given == last


async def test_reading_is_the_lane_s_to_stop_while_a_whole_request_is_answered_behind(world: World) -> None:
    world.hear(GET)
    (behind,) = world.behinds
    assert behind.transport is not None
    behind.transport.pause_reading()
    assert world.wire.reads
    behind.transport.resume_reading()
    assert world.wire.reads


async def test_half_a_request_is_waited_for_a_little_and_then_goes_behind(world: World) -> None:
    whole = purchase("a")
    world.hear(whole[:-1])
    world.ticks(PARTIAL_TICKS)
    assert not world.behinds
    world.ticks(1)
    assert world.behinds[0].given == whole[:-1]
    world.hear(whole[-1:])
    assert world.behinds[0].given == whole


async def test_half_a_request_behind_open_ones_waits_for_them(world: World) -> None:
    world.hear(purchase("a") + purchase("b")[:-1])
    world.ticks(PARTIAL_TICKS + 2)
    assert not world.behinds
    await world.tell("a")
    world.ticks(1)
    assert world.behinds[0].given == purchase("b")[:-1]


async def test_no_more_than_so_many_are_worked_on_and_the_rest_is_not_read(world: World) -> None:
    keys = [f"k{number}" for number in range(WORKED_ON_MAX + 2)]
    world.hear(b"".join(map(purchase, keys)))
    assert len(world.begun) == WORKED_ON_MAX
    world.hear(b"x" * UNREAD_BYTES_MAX)
    assert not world.wire.reads
    await world.tell(keys[0])
    assert len(world.begun) == WORKED_ON_MAX + 1


async def test_a_client_that_does_not_read_is_asked_for_no_more(world: World) -> None:
    world.connection.pause_writing()
    world.hear(purchase("now-1"))
    world.ticks(PARTIAL_TICKS + 2)
    assert (world.begun, world.behinds) == ([], [])
    world.connection.resume_writing()
    assert world.begun == ["now-1 {}"]


async def test_the_protocol_behind_hears_of_a_client_that_does_not_read(world: World) -> None:
    world.hear(GET)
    world.connection.pause_writing()
    assert world.behinds[0].is_paused
    world.behinds[0].answer()
    await turns()
    world.connection.resume_writing()
    assert not world.behinds[0].is_paused


async def test_the_protocol_behind_leaves_alone_when_it_is_not_its_turn(world: World) -> None:
    world.hear(GET)
    (behind,) = world.behinds
    assert behind.transport is not None
    behind.answer()
    await turns()
    behind.transport.close()
    await turns()
    assert behind.is_lost
    assert not world.wire.closed
    world.hear(GET)
    assert world.behinds[1].given == GET


async def test_it_closes_the_connection_when_it_is(world: World) -> None:
    world.hear(GET)
    (behind,) = world.behinds
    assert behind.transport is not None
    behind.transport.close()
    assert world.wire.closed == "closed"


async def test_an_answer_that_does_not_come_about_resets_the_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hear(purchase("a") + purchase("b"))
    monkeypatch.setattr(connection_module, "encode", _broken)
    with pytest.raises(ZeroDivisionError):
        await world.tell("a")
    assert world.wire.closed == "aborted"
    assert len(world.listener.working) == 1


async def test_a_task_that_ends_without_an_answer_resets_the_connection(world: World) -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    world.hear(purchase("a") + purchase("b"))
    world.open["a"].come_from(_fails())
    await turns()
    assert (world.wire.closed, len(world.listener.working)) == ("aborted", 1)
    await world.tell("b")
    assert world.wire.writes == []
    assert not problems or "never retrieved" in problems[0]["message"]


async def test_a_promise_is_kept_for_one_who_waits_as_for_the_lane() -> None:
    promised, broken, left = Promised(), Promised(), Promised()
    waiting = [asyncio.create_task(one.answer()) for one in (promised, broken, left)]
    await turns()
    waiting[2].cancel()
    promised.tell(Answer(201, {}, b""))
    broken.tell(None)
    left.tell(Answer(201, {}, b""))
    assert await waiting[0] == Answer(201, {}, b"")
    with pytest.raises(RuntimeError):
        await waiting[1]
    with pytest.raises(asyncio.CancelledError):
        await waiting[2]


async def test_a_connection_that_ended_and_has_not_said_so_hears_nothing_more(world: World) -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    world.hear(purchase("a"))
    world.wire.closed = "closed"
    world.hear(purchase("now") + b"x" * UNREAD_BYTES_MAX)
    await world.tell("a")
    assert (world.begun, world.wire.writes, problems) == (["a {}"], [], [])


async def test_who_left_is_answered_by_nobody_and_their_purchase_goes_on(world: World) -> None:
    world.hear(purchase("a"))
    world.connection.connection_lost(None)
    assert world.listener.working
    await world.tell("a")
    assert not world.listener.working
    assert world.wire.writes == []


async def test_a_stop_takes_what_is_on_its_way(world: World) -> None:
    closing = asyncio.create_task(world.listener.close(5))
    await turns()
    world.hear(purchase("a"))
    assert (world.begun, world.wire.closed) == (["a {}"], "")
    await world.tell("a")
    await closing
    assert (world.wire.writes, world.wire.closed) == ([told("a")], "closed")


async def test_a_stop_answers_what_was_asked_and_takes_nothing_new(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashsale.lane.listener.LAST_SECONDS", 0)
    world.hear(purchase("a"))
    closing = asyncio.create_task(world.listener.close(5))
    await turns()
    world.hear(purchase("b"))
    assert (world.begun, world.wire.closed) == (["a {}"], "")
    await world.tell("a")
    await closing
    assert (world.wire.writes, world.wire.closed) == ([told("a")], "closed")


async def test_a_stop_answers_all_that_was_read_however_much_of_it_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashsale.lane.listener.LAST_SECONDS", 0)
    keys = [f"k{number}" for number in range(WORKED_ON_MAX + 2)]
    world.hear(b"".join(map(purchase, keys)) + GET + purchase("last"))
    closing = asyncio.create_task(world.listener.close(60))
    await turns()
    await world.tell(*keys[:WORKED_ON_MAX])
    assert world.wire.said == b"".join(map(told, keys[:WORKED_ON_MAX]))
    await world.tell(*keys[WORKED_ON_MAX:])
    world.behinds[0].answer()
    await turns()
    assert not closing.done()
    await world.tell("last")
    await closing
    assert world.wire.said.endswith(told(keys[-1]) + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + told("last"))
    assert world.wire.closed == "closed"


def test_a_stop_answers_what_came_while_the_loop_was_busy() -> None:
    async def stop() -> bytes:
        world = World()
        await world.listener.open("127.0.0.1", 0, 16)
        assert world.listener._server is not None
        address = world.listener._server.sockets[0].getsockname()
        with socket.create_connection(address, 60) as busy, socket.create_connection(address, 60) as client:

            def begin(values: Sequence[str | None], body: bytes) -> Answer | Promised:
                if values == ["now-busy"]:
                    client.sendall(purchase("now"))
                    time.sleep(2 * LAST_SECONDS)
                return world.begin(values, body)

            world.listener.route = world.listener.route._replace(begin=begin)
            while len(world.listener.connections) < 3:
                await asyncio.sleep(0.001)
            closing = asyncio.create_task(world.listener.close(60))
            while world.listener._server.is_serving():
                await asyncio.sleep(0)
            busy.sendall(purchase("now-busy"))
            await closing
            heard = b""
            while data := await asyncio.to_thread(client.recv, 65_536):
                heard += data
        return heard

    with asyncio.Runner(
        loop_factory=uvloop.new_event_loop
    ) as runner:  # whose order of timers and sockets is the server's
        assert runner.run(stop()).endswith(b"\r\n\r\nnow")


async def test_a_stop_closes_who_asked_nothing_at_once(world: World) -> None:
    await world.listener.close(5)
    assert world.wire.closed == "closed"


async def test_a_stop_lets_the_protocol_behind_finish_and_waits_for_nobody_for_ever(world: World) -> None:
    world.hear(GET)
    closing = asyncio.create_task(world.listener.close(5))
    await turns()
    assert not closing.done()
    world.behinds[0].answer()
    await closing
    assert world.wire.closed == "closed"
    other = World()
    other.hear(purchase("a"))
    await other.listener.close(0.01)
    assert other.wire.closed == "closed"


async def test_the_idle_are_let_go_and_the_busy_are_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashsale.lane.listener.IDLE_TICKS", 3)
    busy = World()
    busy.hear(purchase("a"))
    busy.ticks(10)
    assert not busy.wire.closed
    world.hear(purchase("now"))
    await turns()
    world.ticks(10)
    assert world.wire.closed == "closed"


async def _fails() -> Answer:
    raise ZeroDivisionError


def _broken(*_: object) -> bytes:
    raise ZeroDivisionError
