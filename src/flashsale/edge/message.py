"""What an edge hands to whoever answers, and what it may be given besides an ``Answer``. Pure."""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from flashsale.lane.answer import Answer
from flashsale.lane.plain import read_plain
from loadbalancer.http1.grammar import HEAD_BYTES_MAX
from loadbalancer.http1.head import RequestHead

HEAD_END = b"\r\n\r\n"


class Fields(Mapping[str, str]):
    """The first value of each header field, by its name in any case."""

    __slots__ = ("_repeated", "_values")

    def __init__(self, values: Mapping[bytes, bytes], repeated: Collection[bytes] = ()) -> None:
        self._values = values
        self._repeated = repeated

    def __getitem__(self, name: str) -> str:
        return _text(self._values[_lower(name)])

    def __iter__(self) -> Iterator[str]:
        return map(_text, self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _lower(name) in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """As every mapping's, which would raise and catch an exception for each field that is not there."""
        value = self._values.get(_lower(name))
        return default if value is None else _text(value)

    def is_repeated(self, name: str) -> bool:
        """Does it stand there more than once?"""
        return _lower(name) in self._repeated


class Request(NamedTuple):
    """A whole request. ``path`` is decoded, ``query`` is not; ``address`` is the client's, or that of the proxy before it."""

    method: str
    path: str
    query: str
    fields: Fields
    body: bytes
    address: str

    @property
    def part(self) -> str:
        """The second segment of the path: which one, of what the first names."""
        return self.path.split("/", 3)[2]


class Peer(Protocol):
    """The connection of a client who is told something for as long as it listens, as whoever tells needs it."""

    def setsockopt(self, level: int, name: int, value: int, /) -> None: ...
    def settimeout(self, value: float | None, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...


class Streaming(NamedTuple):
    """An answer of 200 that ends when it likes. ``serve`` gets the connection and what writes to it; None: the head is all."""

    fields: Mapping[str, str]
    serve: Callable[[Peer, Callable[[bytes], object]], None] | None


class Site(NamedTuple):
    """What is served at one port. Neither function raises.

    ``refuse`` puts a status and the reason why something is no request into an answer. Requests that come together and are
    POSTs of a JSON body to ``independent`` are answered side by side; all others of a connection one after the other.
    """

    answer: Callable[[Request], Answer | Streaming]
    refuse: Callable[[int, str], Answer]
    body_bytes_max: int
    independent: str = ""


class Taken(NamedTuple):
    """A request that was taken off what has come, and where it ended there."""

    request: Request
    ends: int


def take_plain(waiting: bytes, body_bytes_max: int, address: str) -> Taken | None:
    """The POST of a JSON body that ``waiting`` begins with, if it is whole and nothing about it is unusual. Costs half of a full reading."""
    if not waiting.startswith(b"POST /"):
        return None
    ends = waiting.find(HEAD_END, 0, HEAD_BYTES_MAX) + len(HEAD_END)
    if ends < len(HEAD_END):
        return None
    raw = waiting[:ends]
    target, is_current, _ = raw[len("POST ") : raw.index(b"\r\n") + 2].partition(b" HTTP/1.1\r\n")
    if not is_current or (plain := read_plain(raw)) is None:
        return None
    body = waiting[ends : ends + plain.length]
    if plain.length > body_bytes_max or len(body) < plain.length:
        return None
    return Taken(_request("POST", target, Fields(plain.values), body, address), ends + plain.length)


def request_of(head: RequestHead, body: bytes, address: str) -> Request:
    """The same of a request that was read in full."""
    values: dict[bytes, bytes] = {}
    repeated = set()
    for name, _, value in head.fields:
        if name in values:
            repeated.add(name)
        else:
            values[name] = value
    return _request(head.method.decode(), head.target, Fields(values, repeated), body, address)


def _request(method: str, target: bytes, fields: Fields, body: bytes, address: str) -> Request:
    path, _, query = target.partition(b"?")
    if b"%" in path:
        path = unquote_to_bytes(path)
    return Request(method, _text(path), query.decode(), fields, body, address)


@lru_cache(maxsize=64)
def _lower(name: str) -> bytes:
    return name.lower().encode()


def _text(value: bytes) -> str:
    # as aiohttp does it: what is no UTF-8 is kept, and refused by whoever knows what should be there
    return value.decode("utf-8", "surrogateescape")
