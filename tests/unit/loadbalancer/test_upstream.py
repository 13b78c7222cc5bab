# When a server's connection may carry another request.
from typing import Any

import pytest

from loadbalancer.config import Config
from loadbalancer.metrics import Totals
from loadbalancer.servers import Farm, Server
from loadbalancer.upstream import ServerConnection

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Transport:
    """Stands for a socket."""

    def __init__(self) -> None:
        self.closing = False
        self.unsent = 0

    def set_write_buffer_limits(self, **_: int) -> None:
        """Whatever."""

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True


class Exchange:
    """Takes an answer."""

    def __init__(self, *, takes_whole: bool) -> None:
        self.takes_whole = takes_whole
        self.ends: list[bool] = []

    def answer_head(self, *_: object) -> None:
        """Not looked at."""

    answer_data = answer_head

    def answer_end(self, _: object, *, is_clean: bool) -> None:
        self.ends.append(is_clean)

    def answer_whole(self, status: int, _: bytes, *, is_clean: bool) -> None:
        assert self.takes_whole
        assert status == 200
        self.ends.append(is_clean)


@pytest.fixture
def server() -> Server:
    return Farm(Config.load({"LB_SERVERS": "127.0.0.1:1"})).servers[0]


@pytest.fixture(params=[False, True], ids=["piece by piece", "whole"])
def takes_whole(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def connection(server: Server, *, takes_whole: bool) -> tuple[ServerConnection, Transport, Exchange]:
    made, transport, exchange = ServerConnection(server, Totals()), Transport(), Exchange(takes_whole=takes_whole)
    untyped: Any = transport, exchange
    made.connection_made(untyped[0])
    made.begin(untyped[1], b"GET")
    return made, transport, exchange


def test_after_a_whole_answer_it_is_clean(server: Server, *, takes_whole: bool) -> None:
    made, _, exchange = connection(server, takes_whole=takes_whole)
    made.data_received(ANSWER)
    assert exchange.ends == [True]


def test_after_more_than_an_answer_it_is_not(server: Server, *, takes_whole: bool) -> None:
    made, _, exchange = connection(server, takes_whole=takes_whole)
    made.data_received(ANSWER + b"!")
    assert exchange.ends == [False]


def test_with_some_of_the_request_unsent_it_is_not(server: Server, *, takes_whole: bool) -> None:
    made, transport, exchange = connection(server, takes_whole=takes_whole)
    transport.unsent = 1
    made.data_received(ANSWER)
    assert exchange.ends == [False]


def test_once_it_is_closing_it_is_not(server: Server, *, takes_whole: bool) -> None:
    made, transport, exchange = connection(server, takes_whole=takes_whole)
    transport.closing = True
    made.data_received(ANSWER)
    assert exchange.ends == [False]


def test_an_idle_one_that_is_closing_is_passed_over(server: Server, *, takes_whole: bool) -> None:
    good, bad = connection(server, takes_whole=takes_whole), connection(server, takes_whole=takes_whole)
    for made, _, _ in (good, bad):
        server.pool.give(made, 0)
    bad[1].closing = True
    assert server.take() is good[0]
    assert server.take() is None


def test_an_idle_one_that_says_something_is_closed_and_counted(server: Server, *, takes_whole: bool) -> None:
    made, transport, _ = connection(server, takes_whole=takes_whole)
    made.data_received(ANSWER)
    server.pool.give(made, 0)
    made.exchange = None
    made.data_received(b"more")
    assert (transport.closing, server.take(), made._totals.unasked) == (True, None, 1)
