"""Is this head one that may be read by itself? What it asks for, then, and where its body ends. Or only where it ends. Pure.

The grammar is the balancer's. Its full reading costs several times as much, for fields that a plain request does not have; whatever has
one of them is no plain request and is read in full.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from loadbalancer.http1.grammar import FIELD_LINE, FIELDS_MAX, LINE_BYTES_MAX, match_request, split_fields
from loadbalancer.http1.head import FRAMING_LOOKALIKES

JSON = b"application/json"
# Each changes how a message is framed, what follows it, or what its body is.
TELLING = frozenset(
    (b"connection", b"content-encoding", b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
LENGTH_DIGITS_MAX = 9


def _other_than(names: Iterable[bytes]) -> bytes:
    # A field line that has none of these names, nor one that poses as one: who stands behind may read '_' as '-'.
    return rb"(?!(?i:%b):)" % b"|".join(sorted(names)).replace(b"-", b"[-_]") + FIELD_LINE


# What neither frames the request nor is repeated in its answer.
_OTHER_FIELD = _other_than({b"content-length", b"link-sequence", *TELLING} - {b"content-encoding"})
_LENGTH_FIELD = rb"(?i:content-length):[ \t]*+([1-9][0-9]{0,%d}+)[ \t]*+\r\n" % (LENGTH_DIGITS_MAX - 1)


def skimmer(line: bytes) -> Callable[[bytes, int], re.Match[bytes] | None]:
    """Finds a head that begins with ``line`` at a place in what was sent; group 1 is the length of its body, in digits.

    For answers that are the same whatever the request says. It takes a third of the time of ``read_plain`` and sees only where the
    request ends: what could end elsewhere is not matched.
    """
    others = rb"(?:%b){0,%d}+" % (_OTHER_FIELD, FIELDS_MAX)
    return re.compile(re.escape(line) + others + _LENGTH_FIELD + others + rb"\r\n").match


def reader(line: bytes, names: Sequence[str]) -> Callable[[str, int], re.Match[str] | None]:
    """Finds a plain head that begins with ``line`` at a place of a text (as Latin-1, whose places are those of the bytes).

    Group 1 is the length of its JSON body, in digits; from group 4 on are the values of ``names``, None for a field that is not there.
    One expression judges the head and takes it apart, in a third of the time of ``read_plain`` and of looking for the fields in what
    that finds. A field that counts stands once and is ASCII; any other head aiohttp reads.
    """
    trimmed = r"[\x21-\x7e]*+(?:[\t\x20]++[\x21-\x7e]++)*+"
    taken = {
        "content-length": rf"[1-9][0-9]{{0,{LENGTH_DIGITS_MAX - 1}}}+",
        "host": r"[\x21-\x7e]++",
        "content-type": re.escape(JSON.decode()),
        **dict.fromkeys(map(str.lower, names), trimmed),
    }
    once = [
        rf"(?i:{name}):(?({number})(?!))[ \t]*+({wanted})[ \t]*+\r\n"
        for number, (name, wanted) in enumerate(taken.items(), 1)
    ]
    other = _other_than({*map(str.encode, taken), *TELLING}).decode()
    there = "".join(rf"(?({number})|(?!))" for number in (1, 2, 3))
    # The repetition gives back what it took, and in vain, since each line fits one branch: a possessive one with groups in it is
    # wrong in Python 3.11 before 3.11.5.
    fields = rf"(?:{'|'.join(once)}|{other}){{0,{FIELDS_MAX}}}"
    return re.compile(rf"{re.escape(line.decode())}{fields}\r\n{there}", re.ASCII).match


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
        or not FRAMING_LOOKALIKES.isdisjoint(values)
        or values.get(b"content-type") != JSON
        or not length.isdigit()
        or length[0] == 48  # "0", or one that begins with it
        or len(length) > LENGTH_DIGITS_MAX
        or not values.get(b"host")
    ):
        return None
    return Plain(values, int(length))
