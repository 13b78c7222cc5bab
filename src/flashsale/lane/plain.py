"""Is this head one that the lane may read by itself? What it asks for, then, and where its body ends. Pure.

The grammar is the balancer's. Its full reading costs twice as much, for fields that a plain request does not have; whatever has one
of them is no plain request and is read in full.
"""

from collections.abc import Mapping
from typing import NamedTuple

from loadbalancer.http1.grammar import FIELDS_MAX, LINE_BYTES_MAX, match_request, split_fields

JSON = b"application/json"
# Each changes how a message is framed, what follows it, or what its body is.
TELLING = frozenset(
    (b"connection", b"content-encoding", b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
LENGTH_DIGITS_MAX = 9


class Plain(NamedTuple):
    """Header fields by lower-case name, each there once; how long the body is."""

    values: Mapping[bytes, bytes]
    length: int


def read_plain(raw: bytes) -> Plain | None:
    """The head ``raw``, which ends with its empty line, of a request with a JSON body; None if it must be read in full."""
    match = match_request(raw)
    if match is None or len(raw) > LINE_BYTES_MAX:
        return None
    found = split_fields(match[4])
    values = {name.lower(): value.rstrip(b" \t") for name, value in found}
    length = values.get(b"content-length", b"")
    if (
        len(values) != len(found)  # a name stands twice: which one counts is not for two readers to say
        or len(found) > FIELDS_MAX
        or not TELLING.isdisjoint(values)
        or values.get(b"content-type") != JSON
        or not length.isdigit()
        or length[0] == 48  # "0", or one that begins with it
        or len(length) > LENGTH_DIGITS_MAX
        or not values.get(b"host")
    ):
        return None
    return Plain(values, int(length))
