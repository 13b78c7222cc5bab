# A client that reads slowly: how long it may wait, and how little of a stream is kept for it. One that was refused: the end.
import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from loadbalancer.client import ClientConnection
from loadbalancer.config import Config
from loadbalancer.metrics import Totals
from loadbalancer.proxy import Proxy
from loadbalancer.servers import Farm
from loadbalancer.upstream import ServerConnection

NOW = 1000.0
GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
SECONDS = {"LB_STALL_TIMEOUT": "30", "LB_RESPONSE_TIMEOUT": "40", "LB_STREAM_TIMEOUT": "3600"}
CONFIG = Config.load({"LB_SERVERS": "127.0.0.1:1", **SECONDS})


class Transport:
    """Stands for a socket."""

    def __init__(self) -> None:
        self.unsent_max = -1
        self.written: list[bytes] = []

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return ("127.0.0.1", 1) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def set_write_buffer_limits(self, high: int, low: int = 0) -> None:
        assert low <= high
        self.unsent_max = high

    def abort(self) -> None:
        """Nobody looks."""

    pause_reading = resume_reading = write_eof = can_write_eof = abort


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    made = Proxy(CONFIG, Farm(CONFIG), Totals(), None)
    made.now = lambda: NOW
    yield made
    made.close()


def asked(proxy: Proxy) -> tuple[ClientConnection, ServerConnection, Transport]:
    """A client that has sent a request, the connection which that went to, and the client's transport."""
    untyped: Any = Transport(), Transport()
    server = ServerConnection(proxy.farm.servers[0], proxy.totals)
    server.connection_made(untyped[0])
    proxy.farm.servers[0].pool.give(server, NOW)
    client = ClientConnection(proxy)
    client.connection_made(untyped[1])
    client.data_received(GET)
    server.flush()
    return client, server, untyped[1]


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", 40),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", 3600),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 40),
    ],
)
async def test_after_a_stall_the_server_may_be_silent_as_long_as_before(
    proxy: Proxy, answer: bytes, seconds: float
) -> None:
    client, server, _ = asked(proxy)
    server.data_received(answer)
    assert client.deadline == NOW + seconds
    client.pause_writing()
    assert client.deadline == NOW + 30
    client.resume_writing()
    assert client.deadline == NOW + seconds


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: %b\r\n\r\n"


async def test_the_first_byte_of_a_stream_that_is_not_taken_counts_as_a_stall(proxy: Proxy) -> None:
    _, server, transport = asked(proxy)
    assert transport.unsent_max > 0
    server.data_received(CHUNKED % b"text/event-stream")
    assert transport.unsent_max == 0


async def test_a_connection_that_carried_a_stream_is_not_used_again(proxy: Proxy) -> None:
    for kind, is_kept in ((b"application/json", True), (b"text/event-stream; charset=utf-8", False)):
        _, server, _ = asked(proxy)
        server.data_received(CHUNKED % kind + b"0\r\n\r\n")
        assert (proxy.farm.servers[0].take() is server) is is_kept


async def test_behind_what_was_refused_nothing_is_read_not_even_what_was_about_to_be(proxy: Proxy) -> None:
    client, server, transport = asked(proxy)
    client.data_received(b"GET /next HTTP/1.1\r\nHost: shop\r\nX: ")  # waits for the answer before it
    server.data_received(
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    )  # its turn comes in the next turn of the loop,
    client.data_received(b"\0\r\n\r\n" + GET)  # and it is refused in this one
    await asyncio.sleep(0)
    said = [line for line in b"".join(transport.written).split(b"\r\n") if line.startswith(b"HTTP/1.1")]
    assert said == [b"HTTP/1.1 200 OK", b"HTTP/1.1 400 Bad Request"], "in this order"
    assert client._exchange is None
    assert proxy.farm.servers[0].active == 0


async def test_who_comes_in_after_all_had_left_is_waited_for(proxy: Proxy) -> None:
    proxy.drain()
    assert proxy.is_empty.is_set()
    client, _, _ = asked(proxy)  # it was shaking hands when the end came
    waiting = asyncio.create_task(proxy.emptied())
    await asyncio.sleep(0)
    assert not waiting.done()
    client.connection_lost(None)
    await waiting


async def test_answers_of_one_loop_turn_leave_in_one_write_and_in_their_order(proxy: Proxy) -> None:
    client, server, transport = asked(proxy)
    server.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
    assert transport.written == []
    client.data_received(b"GARBAGE\r\n")  # refused at once, and still not before the answer to what came first
    [said] = transport.written
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert said.count(b"HTTP/1.1 400 ") == 1
    await asyncio.sleep(0)
    assert transport.written == [said]


async def test_an_answer_whose_client_left_in_the_same_turn_is_not_written(proxy: Proxy) -> None:
    client, server, transport = asked(proxy)
    server.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")
    client.connection_lost(None)
    await asyncio.sleep(0)
    assert transport.written == []


async def test_what_is_large_does_not_wait_for_the_end_of_the_turn(proxy: Proxy) -> None:
    _, server, transport = asked(proxy)
    server.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    for _ in range(4):
        server.data_received(bytes(40_000))  # all of them in one turn, as a fast server's come
    assert sum(map(len, transport.written)) > 2 * 64 * 1024, (
        "or nobody could stop the server before it has sent everything"
    )
