# What somebody can make the balancer keep, wait for or repeat has an end.
import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from flashsale.stream.hub import SEND_BYTES
from loadbalancer.client import LINGER_SECONDS
from tests.balanced import Balancer, Client, Message, Upstream, balanced, ok
from tests.patience import PATIENCE_SECONDS
from tests.servers import free_port

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"


@pytest.fixture
def full() -> Iterator[socket.socket]:
    """A listener that takes no more connections: whoever connects waits."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener


async def is_held_up(client: Client, piece: bytes, pieces: int) -> bool:
    """Does the balancer stop reading, for a second, before so many pieces are through?"""
    sent = 0

    async def send() -> None:
        nonlocal sent
        while sent < pieces:
            client.writer.write(piece)
            await client.writer.drain()
            sent += 1

    sending = asyncio.create_task(send())
    before = -1
    while before < sent and not sending.done():
        before = sent
        await asyncio.wait({sending}, timeout=1)
    sending.cancel()
    return sent < pieces


async def test_requests_behind_one_being_answered_are_not_read_without_end() -> None:
    server = Upstream("a")

    async def never(_: Message, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await reader.read()

    server.answer = never
    async with balanced(server, LB_GRACE="0") as balancer:
        client = await balancer.client()
        client.writer.write(GET)

        async def has_come() -> bool:
            return len(server.requests) == 1

        await balancer.until(has_come)
        assert await is_held_up(client, GET * 25_000, 100)
        assert len(server.requests) == 1


async def test_a_body_is_not_read_without_end_while_a_connection_is_made(full: socket.socket) -> None:
    listed = f"127.0.0.1:{full.getsockname()[1]}"
    async with balanced(LB_SERVERS=listed, LB_CONNECT_TIMEOUT="30", LB_BODY_MAX="1000000000", LB_GRACE="0") as balancer:
        client = await balancer.client()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 100000000\r\n\r\n")
        assert await is_held_up(client, bytes(1_000_000), 100)


async def test_a_connection_that_is_not_made_in_time_is_tried_elsewhere(full: socket.socket) -> None:
    server = await Upstream("b").start()
    listed = f"a=127.0.0.1:{full.getsockname()[1]},b=127.0.0.1:{server.port}"
    async with balanced(server, LB_SERVERS=listed, LB_CONNECT_TIMEOUT="3", LB_CHECK_INTERVAL="60") as balancer:
        assert [(await balancer.ask(GET)).body for _ in range(3)] == [b"b"] * 3
        assert await balancer.metric("loadbalancer_retries_total", server="a") > 0


EVENT_BYTES = 1000
EVENT = b"data: " + b"x" * EVENT_BYTES + b"\n\n"
READ_BYTES = 2_000_000  # after which buffers that grow have grown
KEPT_BYTES_MAX = 384 * 1024  # in four sockets and two processes


class Stream:
    """Answers with events, from a socket as small as the servers' own: as many as are taken, or as a test allows."""

    def __init__(self, events_max: int = 10**9) -> None:
        self.sent = 0
        self._events_max = events_max

    async def __call__(self, _: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while self.sent < self._events_max:
            writer.write(EVENT)
            await writer.drain()
            self.sent += 1
        await reader.read()


async def narrow_client(balancer: Balancer) -> Client:
    """One whose own socket keeps little."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    narrow.connect(("127.0.0.1", balancer.port))
    client = Client(*await asyncio.open_connection(sock=narrow, limit=16_384))
    balancer.clients.append(client)
    return client


async def test_a_server_notices_soon_that_a_viewer_does_not_read_its_events() -> None:
    server = Upstream("a")
    server.answer = stream = Stream()
    async with balanced(server, LB_STALL_TIMEOUT="300") as balancer:
        client = await narrow_client(balancer)
        client.writer.write(GET)
        read = 0
        async with asyncio.timeout(4 * PATIENCE_SECONDS):
            while read < READ_BYTES:
                read += (await client.reader.read(65_536)).count(b"x")  # what frames the chunks has none
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        before = -1
        while before < stream.sent * EVENT_BYTES < 10 * READ_BYTES:
            before = stream.sent * EVENT_BYTES
            await asyncio.sleep(1)
        assert stream.sent * EVENT_BYTES - read < KEPT_BYTES_MAX


async def test_a_viewer_that_does_not_read_is_given_up_though_it_has_little_to_read() -> None:
    server = Upstream("a")
    server.answer = stream = Stream(KEPT_BYTES_MAX // 2 // EVENT_BYTES)
    async with balanced(server, LB_STALL_TIMEOUT="1") as balancer:
        client = await narrow_client(balancer)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(GET)

        async def is_cut() -> bool:
            return server.closed == 1

        await balancer.until(is_cut)
        assert stream.sent > 0
        assert await balancer.metric("loadbalancer_clients") == 0


async def test_who_does_not_read_gets_no_more_answers() -> None:
    server = Upstream("a")

    # one read each, so that the balancer finds itself stuck between two answers
    async def large(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(bytes(60_000)))

    server.answer = large
    async with balanced(server, LB_STALL_TIMEOUT="4") as balancer:
        client = await narrow_client(balancer)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(GET * 2000)

        async def is_cut() -> bool:
            client.writer.write(GET * 100)
            return await balancer.metric("loadbalancer_clients") == 0

        await balancer.until(is_cut)
        assert len(server.requests) < 150, "what sockets hold"


async def test_a_refusal_is_heard_by_a_client_that_is_still_sending() -> None:
    server = Upstream("a")
    heard = 0
    async with balanced(server) as balancer:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while heard < 5:
                client = await balancer.client()
                began = time.monotonic()
                client.writer.write(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 4000000\r\n\r\n")
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                client.writer.write(bytes(4_000_000))
                try:
                    await client.writer.drain()
                    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
                    assert (await client.answer()).status == 413
                except ConnectionError:  # nobody is read for longer than this, and a machine may need longer to send
                    assert time.monotonic() - began > LINGER_SECONDS, "cut off while it was sending"
                    client.leave()
                else:
                    heard += 1
        assert server.requests == []


async def test_an_outage_is_not_doubled_by_sending_again() -> None:
    servers = [Upstream("a"), Upstream("b")]

    async def vanish(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    for server in servers:
        server.answer = vanish
    async with balanced(*servers) as balancer:
        client = await balancer.client()
        answers = [await client.ask(GET) for _ in range(100)]
        assert {answer.status for answer in answers} == {502}
        again = sum(len(server.requests) for server in servers) - 100
        assert 20 < again <= 31, "a fifth, and the reserve"
        assert await balancer.metric("loadbalancer_retry_budget_empty_total") > 0


async def test_a_check_without_an_answer_is_a_bad_one() -> None:
    servers = [Upstream("a"), Upstream("b")]

    async def never(_: Message, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await reader.read()

    servers[0].answer = never
    async with balanced(*servers, LB_CHECK_PATH="/alive", LB_CHECK_TIMEOUT="1") as balancer:

        async def is_out() -> bool:
            return await balancer.states() == {"a": "down", "b": "up"}

        await balancer.until(is_out)


async def test_a_port_that_is_taken_ends_the_start_with_1() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        with pytest.raises(AssertionError, match="ended with 1"):
            async with balanced(Upstream("a"), LB_PORT=str(taken.getsockname()[1])):
                pass
