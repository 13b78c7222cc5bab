"""What every operation knows: where the services are, who asks, why, and under which key."""

import argparse
import getpass
import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

KEY_BYTES = 16


class Context(NamedTuple):
    """URLs of the running instance (empty for a service it lacks), and how results are shown."""

    postgres: str  # as flash_operator, or as flash_admin
    postgres_auditor: str  # as whoever may read what the operation reads
    redis: str
    rabbitmq: str
    gateways: Mapping[str, str]  # by way to pay
    json: bool
    balancer: str = ""  # the unix socket where it is changed


class Deed(NamedTuple):
    """Who does something, why, and the key under which it is done once."""

    operator: str
    reason: str
    key: str

    @property
    def words(self) -> tuple[str, str, str]:
        """As the database's functions take them, before everything else."""
        return self.key, self.operator, self.reason


class Change(NamedTuple):
    """One thing that an operation would make another; None where there is nothing."""

    what: str
    before: Any
    after: Any


class OperationError(Exception):
    """Why an operation was refused, in words for the person who asked."""


class NothingError(OperationError):
    """What it is about is not there."""


class AwayError(OperationError):
    """A store does not answer, or is too busy. Whether it was done is unknown: the same key again does it once."""


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """What differs, in the order in which it is named."""
    names = dict.fromkeys((*before, *after))
    return [Change(n, before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)]


def add_deed_options(parser: argparse.ArgumentParser) -> None:
    """The options of everything that changes something."""
    parser.add_argument("--reason", required=True, help="why; kept with the operation")
    parser.add_argument("--operator", default=None, help="who; default: the user at this terminal")
    parser.add_argument(
        "--key", default=None, help="repeat a command with the key it printed, and it is done once; default: a new one"
    )


def deed(parsed: argparse.Namespace) -> Deed:
    """The deed that the options describe. A new key is printed at once, to stderr: whose answer is lost can repeat the command."""
    key = parsed.key
    if key is None:
        key = secrets.token_hex(KEY_BYTES)  # never begins with a dash, which an option's value may not
        print(f"flash: under key {key}", file=sys.stderr)
    return Deed(parsed.operator or getpass.getuser(), parsed.reason, key)


def show(context: Context, document: dict[str, Any] | Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print one result or several: as JSON, or as a table of ``columns``."""
    if context.json:
        print(json.dumps(document, default=str))
        return
    rows = [document] if isinstance(document, dict) else document
    cells = [[str(row[column]) for column in columns] for row in rows]
    header = [column.replace("_", " ").upper() for column in columns]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for line in (header, *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
