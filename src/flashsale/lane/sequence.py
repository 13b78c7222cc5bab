"""The number that a link gives each of its requests and whose answer repeats it. Pure.

Whoever sends many requests one behind the other over a connection (a balancer for many clients) knows each answer by the number
that it repeats, and ends the link before a byte is passed on of one that is not expected. So numbered requests are answered as
soon as may be, in any order: a refusal does not wait for the commit in front of it. Only what carries a number gets one; what
carries something else is answered as if it had carried nothing, since it is for the sender to notice.
"""

SEQUENCE_FIELD = "Link-Sequence"
DIGITS_MAX = 18


def is_sequence(value: str) -> bool:
    """Is this a number that an answer may repeat?"""
    return value.isascii() and value.isdigit() and len(value) <= DIGITS_MAX
