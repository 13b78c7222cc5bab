"""The viewers of the benchmark, against a server that says what the test wants."""

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from benchmarks.sse.crowd import Viewers

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
BEAT = b'event: beat\ndata: {"now":"2026-01-01T00:00:00Z","as_of":"2026-01-01T00:00:00Z"}\n\n'
PATIENCE_SECONDS = 60.0


def frame(seq: int) -> bytes:
    return b'event: stock\ndata: {"sku":"a","seq":%d,"available":1}\n\n' % seq


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as one:
        yield one


@contextlib.contextmanager
def greeted(listener: socket.socket, count: int) -> Iterator[tuple[Viewers, list[socket.socket]]]:
    """Viewers whose streams have begun; the kernel accepts and keeps the greeting until it is read."""
    viewers = Viewers(listener.getsockname()[1], b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200")
    ends: list[socket.socket] = []
    connect: Callable[[], int] = viewers._connect

    def connect_and_greet() -> int:
        fd = connect()
        end, _ = listener.accept()
        end.sendall(HEAD)
        ends.append(end)
        return fd

    viewers._connect = connect_and_greet  # type: ignore[method-assign] # one thread plays both sides
    try:
        viewers.open(count, PATIENCE_SECONDS)
        yield viewers, ends
    finally:
        viewers.close()
        for end in ends:
            end.close()


def test_frames_are_counted_and_the_last_change_is_asked_of_all(listener: socket.socket) -> None:
    with greeted(listener, 3) as (viewers, ends):
        viewers.begin()
        viewers.read_all()
        for end in ends:
            end.sendall(frame(1) + BEAT)
            end.sendall(frame(12))
        assert viewers.settle(12) == 0
        found = viewers.end()
        assert (found["frames"], found["least"], found["most"], found["over"]) == (6, 2, 2, 0)
        assert [newest for _, _, newest in found["seen"]][-1:] == [12]  # one of fifty is followed: here the first
        assert len({viewer for viewer, _, _ in found["seen"]}) == 1


def test_a_number_that_is_cut_in_two_is_one(listener: socket.socket) -> None:
    with greeted(listener, 1) as (viewers, (end,)):
        viewers.read_all()
        whole = frame(123)
        at = whole.index(b"123") + 1
        end.sendall(whole[:at])
        while viewers._poll.poll(0):
            viewers._read(0)
        end.sendall(whole[at:])
        assert viewers.settle(123) == 0


def test_who_is_left_behind_and_who_ended_is_told(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.sse.crowd.WITHIN_SECONDS", 0.2)
    with greeted(listener, 2) as (viewers, (one, other)):
        viewers.begin()
        viewers.read_all()
        one.sendall(frame(2))
        other.sendall(frame(1))
        assert viewers.settle(2) == 1
        other.close()
        while not viewers.end()["over"]:
            viewers._read(1.0)
        assert viewers.end()["over"] == 1


def test_streams_that_do_not_begin_are_complained_of(listener: socket.socket) -> None:
    viewers = Viewers(listener.getsockname()[1], b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200")
    with contextlib.closing(viewers), pytest.raises(RuntimeError, match="of 2 streams 2 have not begun"):
        viewers.open(2, 0.2)
