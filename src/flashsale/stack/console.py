# What the launcher tells people. Progress goes to stderr, results to stdout, so `--json` output can be piped as it is.
from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence


class Say:
    """Progress lines on stderr, each with the seconds since the start; dimmed on a terminal, plain elsewhere."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._styled = sys.stderr.isatty() and "NO_COLOR" not in os.environ

    def __call__(self, text: str) -> None:
        stamp = f"[{time.monotonic() - self._begin:6.1f}s]"
        if self._styled:
            stamp = f"\x1b[2m{stamp}\x1b[0m"
        print(f"{stamp} {text}", file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart; the last column runs free."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    )
