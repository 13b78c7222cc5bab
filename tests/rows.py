"""What a crash table is made of, and what must be so of each of them."""

import ast
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flashsale.settings import REPOSITORY


class Row(NamedTuple):
    """A moment, who puts right what is left of it, and the tests that it happens in."""

    moment: str
    repair: str
    tests: tuple[str, ...]


def missing_tests(table: Mapping[str, Row]) -> list[str]:
    """Those that a table names and that are not there."""
    missing = []
    for row in table.values():
        for test in row.tests:
            file, _, name = test.partition("::")
            tree = ast.parse((REPOSITORY / file).read_text("utf-8"))
            if name not in {node.name for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)}:
                missing.append(test)
    return missing


def unused_points(table: Mapping[str, Row], points: Iterable[str]) -> list[str]:
    """Crash points that no file of the table's tests comes to."""
    files = {test.partition("::")[0] for row in table.values() for test in row.tests}
    texts = [(REPOSITORY / file).read_text("utf-8") for file in files]
    return [point for point in points if not any(f'"{point}' in text for text in texts)]
