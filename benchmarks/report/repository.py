"""What the repository says of itself: the size of what a backend alone needs. Lines that are neither empty nor comment."""

import ast
import io
import tokenize
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "flashsale"
# What would go if the other backend were the only one. What both use is nobody's.
ALONE = {
    "asyncio_redis": ("backends/asyncio_redis", "gate", "lane", "upkeep/gate_keeper.py"),
    "gevent_rabbit": ("backends/gevent_rabbit", "edge", "queued"),
}
STORES = {
    "asyncio_redis": ("PostgreSQL", "Redis for the gate"),
    "gevent_rabbit": ("PostgreSQL", "RabbitMQ for the attempts"),
}
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}


def code() -> dict[str, Any]:
    """By backend."""
    return {
        backend: {
            "lines": sum(_lines(SOURCES / place) for place in places),
            "folders": list(places),
            "stores": list(STORES[backend]),
        }
        for backend, places in ALONE.items()
    }


def _lines(place: Path) -> int:
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    return sum(
        lines_of_python(path.read_text(encoding="utf-8"))
        if path.suffix == ".py"
        else sum(
            bool(line.strip()) and not line.lstrip().startswith("--")
            for line in path.read_text(encoding="utf-8").splitlines()
        )
        for path in files
        if path.suffix in {".py", ".lua"}
    )


def lines_of_python(text: str) -> int:
    """Without comments and docstrings."""
    coded = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            coded |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            coded -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(coded)
