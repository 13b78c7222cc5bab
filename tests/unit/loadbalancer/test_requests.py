# What a client may send, and the precise refusal of everything else; the same however its bytes are split.
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadbalancer.http1.grammar import Refused
from loadbalancer.http1.head import RequestHead
from loadbalancer.http1.reader import END, RequestReader
from tests.attacks import ATTACKS, BODY_MAX, HEAD_MAX, LINE_MAX, Attack, Request

EVERYWHERE_MAX = 4096  # bytes that are split at every offset

Told = tuple[list[Request], int | None, bytes]  # messages, refused with, unread


def tell(pieces: list[bytes]) -> Told:
    """Every request in ``pieces`` up to one that closes, the status of the refusal, and what was left."""
    reader = RequestReader(BODY_MAX)
    messages: list[Request] = []
    head, body = None, b""
    for piece in pieces:
        reader.feed(piece)
        try:
            while (event := reader.read()) is not None:
                if isinstance(event, RequestHead):
                    head, body = event, b""
                elif event is END:
                    assert head is not None
                    messages.append((head.method, head.target, body))
                    if head.closes:
                        return messages, None, b""
                    head = None
                else:
                    assert isinstance(event, bytes)
                    assert event
                    body += event
        except Refused as refusal:
            return messages, refusal.status, body if head else b""
    return messages, None, body if head else b""


def everywhere(data: bytes) -> Told:
    """What ``data`` says, having checked that it says so under every split in two, and byte by byte."""
    whole = tell([data])
    assert tell([data[i : i + 1] for i in range(len(data))]) == whole
    for i in offsets(len(data)):
        assert tell([data[:i], data[i:]]) == whole, data[:i]
    return whole


def offsets(size: int) -> Iterable[int]:
    """Where to split: everywhere; of what is huge, at its ends, around the limits, and here and there."""
    if size <= EVERYWHERE_MAX:
        return range(1, size)
    edges = (0, LINE_MAX, HEAD_MAX, size)
    near = {i for edge in edges for i in range(edge - 40, edge + 40)}
    return sorted(i for i in near | set(range(0, min(size, 2 * HEAD_MAX), 397)) if 0 < i < size)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.row} {attack.name}")
def test_every_attack_comes_to_the_same_however_it_is_split(attack: Attack) -> None:
    messages, refused, _ = everywhere(attack.data)
    assert (tuple(messages), refused) == (attack.passes, attack.refused)


def test_what_a_head_says() -> None:
    reader = RequestReader(BODY_MAX)
    reader.feed(
        b"POST http://There:81/p HTTP/1.1\r\nHost: elsewhere\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: 2\r\nA_B: c\r\n"
        b"Connection: close, X-Foo\r\nExpect: 100-Continue\r\n\r\n"
    )
    head = reader.read()
    assert isinstance(head, RequestHead)
    assert head.host == b"There:81", "the URL says where to, and Host is not looked at"
    assert head.values[b"x-a"] == b"1, 2"
    assert b"a_b" not in head.values, "a server may read it as A-B"
    assert (head.closes, head.nominated, head.expects_continue) == (True, frozenset({b"x-foo"}), True)


def test_a_client_of_http_1_0_is_not_kept() -> None:
    reader = RequestReader(BODY_MAX)
    reader.feed(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head = reader.read()
    assert isinstance(head, RequestHead)
    assert head.closes


FRAGMENTS = [
    *(attack.data for attack in ATTACKS if len(attack.data) < 300 and attack.row != 8),
    *(b"\r\n", b"\r", b"\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b": ", b"\x00", b"GET / HTTP/1.1\r\n", b"Host: a\r\n"),
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=4), max_size=6), st.data())
def test_any_bytes_say_the_same_under_any_split(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert tell(pieces) == tell([whole])
