# What a server may answer, where it ends, and what is not forwarded.
import pytest

from loadbalancer.http1.grammar import Refused
from loadbalancer.http1.head import ResponseHead
from loadbalancer.http1.reader import END, ResponseReader
from tests.hostile import ANSWERS, Hostile

Told = tuple[list[int], bytes, bool, int | None, int]  # statuses, body, complete, refused with, bytes left


def tell(pieces: list[bytes], method: bytes = b"GET", *, eof: bool = False) -> Told:
    reader = ResponseReader(method)
    statuses: list[int] = []
    body = b""
    try:
        for piece in pieces:
            reader.feed(piece)
            while (event := reader.read()) is not None and event is not END:
                if isinstance(event, ResponseHead):
                    statuses.append(event.status)
                else:
                    assert isinstance(event, bytes)
                    body += event
        complete = reader.eof() if eof else reader.is_done
    except Refused as refusal:
        return statuses, body, False, refusal.status, 0
    return statuses, body, complete, None, reader.waiting_bytes


def everywhere(data: bytes, method: bytes = b"GET", *, eof: bool = False) -> Told:
    whole = tell([data], method, eof=eof)
    assert tell([data[i : i + 1] for i in range(len(data))], method, eof=eof) == whole
    for i in range(1, min(len(data), 600)):
        assert tell([data[:i], data[i:]], method, eof=eof) == whole
    return whole


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (OK + b"Content-Length: 2\r\n\r\nhi", ([200], b"hi", True, None, 0)),
        (OK + b"Content-Length: 2\r\n\r\nhi!", ([200], b"hi", True, None, 1)),
        (OK + b"Content-Length: 2\r\n\r\nh", ([200], b"h", False, None, 0)),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", ([200], b"", True, None, 0)),
        (b"HTTP/1.1 299 \xff\r\nContent-Length: 0\r\n\r\n", ([299], b"", True, None, 0)),
        (b"HTTP/1.1 204 No\r\n\r\n", ([204], b"", True, None, 0)),
        (b"HTTP/1.1 304 No\r\nContent-Length: 7\r\n\r\n", ([304], b"", True, None, 0)),
        (
            OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nDigest: x\r\n\r\n",
            ([200], b"hi", True, None, 0),
        ),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n", ([200], b"hi", False, None, 0)),
        (b"HTTP/1.1 100 Go\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx", ([100, 200], b"x", True, None, 0)),
        (OK + b"\r\nfor ever", ([200], b"for ever", False, None, 0)),
    ],
)
def test_where_an_answer_ends(data: bytes, told: Told) -> None:
    assert everywhere(data) == told


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    assert everywhere(OK + b"\r\nhi", eof=True) == ([200], b"hi", True, None, 0)


def test_an_answer_with_a_length_does_not() -> None:
    assert everywhere(OK + b"Content-Length: 3\r\n\r\nhi", eof=True)[2] is False
    assert everywhere(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", eof=True)[2] is False


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_what_answers_head_has_no_body(framing: bytes) -> None:
    assert everywhere(OK + framing + b"\r\n", b"HEAD") == ([200], b"", True, None, 0)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer.row} {answer.name}")
def test_a_hostile_answer_comes_to_the_same_however_it_is_split(answer: Hostile) -> None:
    statuses, body, complete, refused, _ = everywhere(answer.data, answer.method, eof=answer.closes)
    if answer.status == 502:
        assert not complete
        assert all(status < 200 for status in statuses)
        assert (refused is None) is (answer.data == b"")
    else:
        assert (statuses[-1], body, complete) == (answer.status, answer.body, not answer.is_cut)


def test_who_may_be_asked_again() -> None:
    def closes(data: bytes) -> bool:
        reader = ResponseReader(b"GET")
        reader.feed(data)
        head = reader.read()
        assert isinstance(head, ResponseHead)
        return head.closes

    assert not closes(OK + b"Content-Length: 0\r\n\r\n")
    assert closes(OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
    assert closes(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")
    assert closes(OK + b"\r\n")
