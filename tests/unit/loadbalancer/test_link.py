# The shared link: many clients' requests on one connection, and not a byte of an answer to whom it does not belong.
import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from loadbalancer import link as link_module
from loadbalancer.http1.plain import ANSWER_BYTES_MAX
from loadbalancer.link import DEPTH_MAX, Link, Links


class Transport:
    """Stands for a socket to the server."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_aborted = False

    def set_write_buffer_limits(self, **_: int) -> None:
        """Whatever."""

    def is_closing(self) -> bool:
        return self.is_aborted

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def abort(self) -> None:
        self.is_aborted = True


class Exchange:
    """Takes an answer."""

    def __init__(self) -> None:
        self.number = 0
        self.heard: list[tuple[int, bytes]] = []
        self.losses: list[bool] = []

    def answer_whole(self, status: int, data: bytes, *, is_clean: bool) -> None:
        assert is_clean
        self.heard.append((status, data))

    def lost(self, problem: str, *, may_resend: bool) -> None:
        assert "link" in problem
        self.losses.append(may_resend)


class Shared:
    """A link, what it wrote, and the exchanges that are out on it."""

    def __init__(self, *, is_proven: bool = True) -> None:
        self.links = Links("127.0.0.1", 1, 1, 1.0)
        self.link = Link(self.links)
        self.links._links.append(self.link)
        self.transport = Transport()
        untyped: Any = self.transport
        self.link.connection_made(untyped)
        self.link.is_proven = is_proven

    def send(self, count: int) -> list[Exchange]:
        exchanges = [Exchange() for _ in range(count)]
        for exchange in exchanges:
            untyped: Any = exchange
            exchange.number = self.link.send(untyped, b"POST /p HTTP/1.1\r\nHost: a\r\n", b"\r\n")
        return exchanges

    def ended(self) -> bool:
        """Was it ended? Then its exchanges hear of that, as they do of every lost connection."""
        if self.transport.is_aborted:
            self.link.connection_lost(None)
        return self.transport.is_aborted


def answer(number: int | None, body: bytes = b"{}", status: int = 409) -> bytes:
    field = b"" if number is None else b"Link-Sequence: %d\r\n" % number
    return b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), field, body)


def plain(body: bytes) -> tuple[int, bytes]:
    return 409, answer(None, body)


async def test_the_requests_of_one_loop_turn_leave_in_one_write() -> None:
    shared = Shared()
    exchanges = shared.send(3)
    assert shared.transport.writes == []
    await asyncio.sleep(0)
    [written] = shared.transport.writes
    assert [int(n) for n in re.findall(rb"Link-Sequence: ([0-9]+)\r\n\r\n", written)] == [e.number for e in exchanges]
    assert len({e.number for e in exchanges}) == 3


async def test_answers_find_their_clients_in_any_order_and_however_they_are_split() -> None:
    for cut in range(1, 200):
        shared = Shared()
        first, second, third = shared.send(3)
        said = answer(third.number, b"3") + answer(first.number, b"1") + answer(second.number, b"2")
        shared.link.data_received(said[:cut])
        shared.link.data_received(said[cut:])
        assert (first.heard, second.heard, third.heard) == ([plain(b"1")], [plain(b"2")], [plain(b"3")])
        assert not shared.ended()


Wrong = Callable[[list[Exchange]], bytes]


@pytest.mark.parametrize("wrong", [
    lambda _: answer(None),
    lambda out: answer(out[0].number + 1),  # counted wrong by one, somewhere
    lambda out: answer(out[-1].number + (out[1].number - out[0].number)),  # the next one's, which is not out yet
    lambda out: answer(out[0].number).replace(b"Content-Length: 2", b"Transfer-Encoding: chunked"),
    lambda out: answer(out[0].number).replace(b"409", b"204"),
    lambda out: answer(out[0].number).replace(b"HTTP/1.1", b"HTTP/1.0"),
    lambda out: answer(out[0].number, b"x" * ANSWER_BYTES_MAX),
    lambda out: answer(out[0].number) * 2,  # an answer more than there were requests
    lambda _: b"\r\n" * 16_000,
    lambda _: b"x" * 16_500,
])  # fmt: skip
async def test_what_is_nobody_s_answer_ends_the_link_before_a_byte_is_passed_on(wrong: Wrong) -> None:
    shared = Shared()
    exchanges = shared.send(3)
    shared.link.data_received(wrong(exchanges))
    assert shared.ended()
    told = [exchange for exchange in exchanges if exchange.heard]
    assert all(exchange.heard == [plain(b"{}")] for exchange in told)  # of the doubled one, the first was right
    assert [exchange.losses for exchange in exchanges if exchange not in told] == [[True]] * (3 - len(told))
    assert shared.links.breaks == 1
    assert shared.links.take(0) is None


async def test_a_registry_that_is_off_by_one_is_noticed() -> None:
    shared = Shared()
    exchanges = shared.send(3)
    numbers = [exchange.number for exchange in exchanges]
    untyped: Any = dict(zip(numbers, exchanges[1:] + exchanges[:1], strict=True))
    shared.link._waiting = untyped
    shared.link.data_received(b"".join(answer(number) for number in numbers))
    assert shared.ended()
    assert [(exchange.heard, exchange.losses) for exchange in exchanges] == [([], [True])] * 3


async def test_until_a_server_has_repeated_a_number_one_request_is_out_at_a_time() -> None:
    shared = Shared(is_proven=False)
    assert shared.links.take(0) is shared.link
    [first] = shared.send(1)
    assert shared.links.take(0) is None
    shared.link.data_received(answer(first.number))
    assert shared.links.take(0) is shared.link
    shared.send(1)
    assert shared.links.take(0) is shared.link


async def test_a_server_that_does_not_repeat_numbers_is_heard_once_and_not_asked_again() -> None:
    shared = Shared(is_proven=False)
    [only] = shared.send(1)
    shared.link.data_received(answer(None))
    assert only.heard == [plain(b"{}")]
    assert shared.ended()
    assert only.losses == []
    assert (shared.links.take(1e9), shared.links._connecting) == (None, None)


async def test_an_answer_whose_client_has_gone_is_thrown_away() -> None:
    shared = Shared()
    gone, here = shared.send(2)
    shared.link.forget(gone.number, was_late=False)
    shared.link.data_received(answer(gone.number, b"1") + answer(here.number, b"2"))
    assert (gone.heard, here.heard) == ([], [plain(b"2")])
    assert not shared.ended()


async def test_a_link_on_which_an_answer_is_late_gets_nothing_new_and_ends_with_its_last() -> None:
    shared = Shared()
    late, other = shared.send(2)
    shared.link.forget(late.number, was_late=True)
    assert shared.links.take(0) is None
    assert not shared.transport.is_aborted
    shared.link.data_received(answer(other.number))
    assert other.heard == [plain(b"{}")]
    assert shared.ended()


async def test_a_link_takes_so_many_and_none_while_its_server_does_not_read() -> None:
    shared = Shared()
    shared.send(DEPTH_MAX - 1)
    assert shared.links.take(0) is shared.link
    shared.link.pause_writing()
    assert shared.links.take(0) is None
    shared.link.resume_writing()
    shared.send(1)
    assert shared.links.take(0) is None


async def test_a_link_ends_before_its_numbers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared()
    monkeypatch.setattr(link_module, "NUMBER_MAX", shared.link._stride * 4)
    assert all(exchange.number < link_module.NUMBER_MAX for exchange in shared.send(2))
    assert shared.links.take(0) is None


async def test_a_server_that_is_taken_out_may_say_something_else_when_it_is_back() -> None:
    shared = Shared()
    shared.links.refuse()
    [out] = shared.send(1)
    shared.links.retire()
    assert not shared.transport.is_aborted
    shared.link.data_received(answer(out.number))
    assert shared.ended()
    assert out.heard == [plain(b"{}")]
    assert not shared.links._is_refused


async def test_a_retired_link_ends_when_the_last_who_waited_has_left() -> None:
    shared = Shared()
    first, second = shared.send(2)
    shared.link.retire()
    shared.link.forget(first.number, was_late=False)
    assert not shared.transport.is_aborted
    shared.link.forget(second.number, was_late=False)
    assert shared.transport.is_aborted, "or a server that fell silent would keep its links for ever"


async def test_a_link_whose_making_was_called_off_before_it_began_may_be_made_later() -> None:
    links = Links("127.0.0.1", 1, 1, 1.0)
    assert links.take(10.0) is None
    links.retire()
    await asyncio.sleep(0)
    assert links.take(20.0) is None
    assert links._connecting is not None, "it is being made again"
    links.retire()
