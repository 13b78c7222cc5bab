"""How far a comparison has come, as it writes down while it runs. Pure: the text is read by the collector."""

import json
import math
from datetime import datetime
from typing import Any

from flashsale.admin.operations.frame import Part

FRESH_SECONDS = 60.0  # what was written longer ago is of a run that has ended, or died
RATIOS_MAX = 50
BYTES_MAX = 64 * 1024
CHARS_MAX = 200


def progress(text: bytes, at: float) -> Part | None:
    """What the file says; None if it is old, or no such file."""
    try:
        told = json.loads(text)
        if abs(at - datetime.fromisoformat(told["at"]).timestamp()) > FRESH_SECONDS:
            return None
        return {
            "name": _text(told["name"]),
            "phase": _text(told["phase"]),
            "done": _number(told["done"]),
            "of": _number(told["of"]),
            "eta_s": None if told["eta_s"] is None else _number(told["eta_s"]),
            "ratios": [
                {"metric": _text(row["metric"]), **{name: _number(row[name]) for name in ("ratio", "low", "high")}}
                for row in told["ratios"][:RATIOS_MAX]
            ],
        }
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # another program's file, or half of one


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value[:CHARS_MAX]
