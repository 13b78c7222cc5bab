"""The number that a link gives each of its requests and whose answer repeats it. Pure.

Whoever sends many requests one behind the other over a connection (a balancer for many clients) would hand an answer to the wrong
client if a server ever gave two answers to one request, or none. So an answer repeats what its request said, and one that does
not, for whatever reason, ends the link before a byte of it is passed on. Only what carries a number gets one; what carries
something else is answered as if it had carried nothing, since it is for the sender to notice.
"""

SEQUENCE_FIELD = "Link-Sequence"
DIGITS_MAX = 18


def is_sequence(value: str) -> bool:
    """Is this a number that an answer may repeat?"""
    return value.isascii() and value.isdigit() and len(value) <= DIGITS_MAX
