"""What may be asked for, said once: the command line makes its options of it, and the admin page its forms and its checks."""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
SUFFIX_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)
CURRENCY_PATTERN = re.compile(r"[A-Z]{3}", re.ASCII)
TEXT_CHARS_MAX = 200


class Form(StrEnum):
    """How a person is asked for a value."""

    TEXT = "text"
    NUMBER = "number"
    TIME = "time"


class Kind(NamedTuple):
    """How a value is written (``allowed``, for people) and read (``parse``, of its text; raises ValueError)."""

    allowed: str
    parse: Callable[[str], Any]
    form: Form = Form.TEXT


class Field(NamedTuple):
    """One value that a deed is told. Without ``required`` it may be left out, and is ``default`` then."""

    name: str
    kind: Kind
    help: str = ""
    required: bool = True
    default: Any = None


class FieldError(ValueError):
    """Which value is wrong, and what is allowed."""


def matching(pattern: re.Pattern[str], allowed: str) -> Kind:
    """A text that is all of the pattern."""

    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError
        return text

    return Kind(allowed, parse)


def whole(low: int, high: int) -> Kind:
    """A whole number."""

    def parse(text: str) -> int:
        # a longer text is no such number, and takes long to become one
        if len(text) > len(str(high)) or not low <= (number := int(text)) <= high:
            raise ValueError
        return number

    return Kind(f"a whole number from {low} to {high}", parse, Form.NUMBER)


def _text(text: str) -> str:
    if not 1 <= len(text.strip()) <= TEXT_CHARS_MAX or not text.isprintable():
        raise ValueError
    return text


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError
    return at


NAME = matching(NAME_PATTERN, "1 to 64 of A-Z a-z 0-9 . _ -")
SUFFIX = matching(SUFFIX_PATTERN, "1 to 32 of A-Z a-z 0-9 . _ -")
CURRENCY = matching(CURRENCY_PATTERN, "three letters A-Z")
TEXT = Kind(f"1 to {TEXT_CHARS_MAX} printable characters", _text)
TIME = Kind("a time with its zone, as 2026-11-27T18:00:00Z", _time, Form.TIME)
_METAVARS = {Form.NUMBER: "N", Form.TIME: "TIME"}


def one_of(*words: str) -> Kind:
    """One of a few words."""
    return matching(re.compile("|".join(map(re.escape, words))), " | ".join(words))


def add_place(parser: argparse.ArgumentParser, field: Field) -> None:
    """A value that stands by its place on the command line."""
    parser.add_argument(field.name, type=_typed(field.kind), metavar=field.name.upper(), help=field.help or None)


def add_option(parser: argparse.ArgumentParser, field: Field) -> None:
    """A value that stands behind its name."""
    parser.add_argument(
        f"--{field.name.replace('_', '-')}", required=field.required, default=field.default, type=_typed(field.kind),
        help=field.help or None, metavar=_METAVARS.get(field.kind.form),
    )  # fmt: skip


def read(fields: Iterable[Field], document: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a document (of JSON) gives to ``fields``. Raises ``FieldError``, also for a name that is none of theirs."""
    known = {field.name: field for field in fields}
    if unknown := sorted(set(document) - set(known)):
        raise FieldError(f"{unknown[0][:64]!r} is not asked for; {', '.join(known) or 'nothing'} may be given")
    return {name: _value(field, document.get(name)) for name, field in known.items()}


def _value(field: Field, value: Any) -> Any:
    if value is None:
        if field.required:
            raise FieldError(f"{field.name} is missing: {field.kind.allowed}")
        return field.default
    # a number is a number in JSON; true is one to Python, and its text is none
    if not isinstance(value, int if field.kind.form is Form.NUMBER else str):
        raise FieldError(f"{field.name} is not {field.kind.allowed}")
    try:
        return field.kind.parse(str(value))
    except ValueError:
        raise FieldError(f"{field.name} is not {field.kind.allowed}") from None


def _typed(kind: Kind) -> Callable[[str], Any]:
    def parsed(text: str) -> Any:
        try:
            return kind.parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind.allowed}") from None

    return parsed
