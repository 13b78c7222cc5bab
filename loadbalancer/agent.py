"""What a server says of itself beside a good answer to a check: how much of its weight it can carry, and that it is leaving.

``LB-Weight: 50`` is half of it, ``LB-Weight: 0`` and ``LB-Drain: 1`` are nothing new. Header fields and no body: any server
can add one to the answer that it gives anyway, and a check need not read on. What is not written so is not said.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

is_percent = re.compile(rb"100|[1-9]?[0-9]").fullmatch


class Said(NamedTuple):
    """By a server, of itself."""

    percent: int  # of its weight, 1 to 100
    is_leaving: bool


NOTHING = Said(100, False)


def parse(values: Mapping[bytes, bytes]) -> Said:
    """Of an answer's fields by lower-case name."""
    weight = values.get(b"lb-weight", b"")
    percent = int(weight) if is_percent(weight) else 100
    return Said(percent or 100, values.get(b"lb-drain") == b"1" or percent == 0)
