"""Attacks by chance: the table's, joined, cut and broken. Everything follows from a seed and a number."""

import random
from collections.abc import Callable

from tests.attacks import ATTACKS, SMUGGLED
from tests.hostile import ANSWERS

BYTES_MAX = 2000
_ALL = [attack for attack in ATTACKS if len(attack.data) < BYTES_MAX]
BASES = [attack.data for attack in _ALL if attack.row != 8]  # of those made by a rule there are too many
GOOD = [attack.data for attack in _ALL if attack.refused is None and not attack.waits and not attack.closes]
SAID = [answer.data for answer in ANSWERS if answer.data and len(answer.data) < BYTES_MAX and answer.method == b"GET"]
WORDS = [
    *(b"\r\n", b"\r", b"\n", b"\n\n", b"\r\n\r\n", b"\0", b" ", b"\t", b"\x0b", b"\xff", b":", b",", b";", b"_", b"-", b"+"),
    *(b"0", b"5", b"0x", b"0\r\n\r\n", b"5\r\nhello\r\n", b"5;a=b\r\nhello\r\n", b"ffffffffffffffff\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n"),
    *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: Transfer-Encoding\r\n", b"Host: shop\r\n"),
    *(b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\n", b"Link-Sequence: 7\r\n", b"X: y\r\n", b" X: y\r\n", b"X: y\n"),
    *(b"chunked", b"close", b"HTTP/1.0", b"HTTP/1.1", b"HEAD", b"GET", b"POST", b"http://there", b"hello", SMUGGLED),
]  # fmt: skip

Mutation = Callable[[random.Random, bytes], bytes]


def _place(chance: random.Random, data: bytes) -> int:
    # half of them beside what gives a message its structure
    places = [at for at, byte in enumerate(data) if byte in b"\r\n:;, "] if chance.random() < 0.5 else []
    return chance.choice(places) + chance.randrange(2) if places else chance.randrange(len(data) + 1)


def _insert(chance: random.Random, data: bytes) -> bytes:
    at = _place(chance, data)
    return data[:at] + chance.choice(WORDS) + data[at:]


def _replace(chance: random.Random, data: bytes) -> bytes:
    at = _place(chance, data)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def _drop(chance: random.Random, data: bytes) -> bytes:
    at = _place(chance, data)
    return data[:at] + data[at + chance.choice((1, 1, 1, 2, 8)) :]


def _repeat(chance: random.Random, data: bytes) -> bytes:
    at, size = _place(chance, data), chance.randrange(1, 40)
    return data[:at] + data[at : at + size] + data[at:]


def _lines(chance: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    one, two = chance.randrange(len(lines)), chance.randrange(len(lines))
    if chance.random() < 0.5:
        lines[one], lines[two] = lines[two], lines[one]
    else:
        lines.insert(one, lines[two])
    return b"\r\n".join(lines)


def _case(chance: random.Random, data: bytes) -> bytes:
    at = _place(chance, data)
    return data[:at] + data[at : at + 6].swapcase() + data[at + 6 :]


def _splice(chance: random.Random, data: bytes) -> bytes:
    other = chance.choice(BASES)
    return data[: _place(chance, data)] + other[_place(chance, other) :]


MUTATIONS: tuple[Mutation, ...] = (_insert, _insert, _insert, _replace, _drop, _repeat, _lines, _case, _splice)


def answer(seed: int, number: int) -> bytes:
    """What a server says to a GET, all at once."""
    chance = random.Random(f"{seed} {number} answer")
    data = chance.choice(SAID)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3))):
        data = chance.choice(MUTATIONS)(chance, data)[:BYTES_MAX]
    return data


def case(seed: int, number: int) -> list[bytes]:
    """What is sent, and in which pieces."""
    chance = random.Random(f"{seed} {number}")
    kinds = [GOOD if chance.random() < 0.7 else BASES for _ in range(chance.choice((1, 1, 1, 2, 3)))]
    data = b"".join(map(chance.choice, kinds))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        data = chance.choice(MUTATIONS)(chance, data)[: 3 * BYTES_MAX]
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 0, 1, 1, 2, 4))))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [piece for piece in pieces if piece]
