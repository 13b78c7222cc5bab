# What documents say that a program can hold them to: their commands, and the lines of submission-checklist.md. Pure, and of the
# standard library: `submission` reads them on a machine on which nothing is installed, and the tests read them all.
from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

SPAN = re.compile(r"`([^`]+)`")
PARAGRAPH = re.compile(r"(?:[^\n]+\n?)+")
LAUNCHER = "./flash "
TO_COME = "still to come"  # how a line says that what it names is not there yet
CELLS = 4


class Code(NamedTuple):
    """What a document sets as code: a line of a block, or a span within a sentence."""

    line: int
    text: str
    is_block: bool


@dataclass(frozen=True)
class Line:
    """One row of the checklist."""

    number: int
    requirement: str
    files: tuple[str, ...]  # a file, a folder with its slash, or a pattern; from the root
    commands: tuple[str, ...]
    is_to_come: bool


class ChecklistError(Exception):
    """The checklist is not the table that it should be; says where."""


def code_of(text: str) -> Iterator[Code]:
    """Blocks first (fenced, or indented by four), lines that a backslash joins as one; then the spans."""
    prose: list[str] = []
    fenced, begun, held = False, 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        is_fence = line.startswith("```")
        fenced ^= is_fence
        if is_fence or not (fenced or line.startswith("    ")):
            prose.append("" if is_fence else line)
            continue
        prose.append("")
        begun = begun or number
        held += line.strip()
        if held.endswith("\\"):
            held = held[:-1]
            continue
        yield Code(begun, held, is_block=True)
        begun, held = 0, ""
    whole = "\n".join(prose)
    for paragraph in PARAGRAPH.finditer(whole):
        for span in SPAN.finditer(paragraph[0]):
            line_of = whole.count("\n", 0, paragraph.start() + span.start()) + 1
            yield Code(line_of, " ".join(span[1].split()), is_block=False)


def flash_words(code: str) -> Iterator[list[str]]:
    """The words of each `./flash` in a line of shell, up to where its command ends. Raises ValueError for an open quote."""
    begin = code.find(LAUNCHER)
    while begin >= 0:
        begin += len(LAUNCHER)
        # a comment in a block may set a command as code once more
        lexer = shlex.shlex(code[begin:].partition("`")[0], posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if word[0] in "();<>|&":
                break
            words.append(word)
        if words:
            yield words
        begin = code.find(LAUNCHER, begin)


def refusal(parse: Callable[[list[str]], object], words: list[str]) -> str | None:
    """Why a parser of argparse's does not take these words; None if it does, or answers them with help."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parse(words)
    except SystemExit as error:
        last = said.getvalue().strip().rpartition("\n")[2]
        return last.rpartition("error: ")[2].partition(" (choose")[0] if error.code else None
    return None


def checklist(text: str) -> list[Line]:
    """The rows, in order. Raises ChecklistError."""
    lines = []
    for number, row in enumerate(text.splitlines(), 1):
        if not row.startswith("|") or set(row) <= set("|- "):
            continue
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        if len(cells) != CELLS:
            raise ChecklistError(f"line {number} has {len(cells)} cells instead of {CELLS}")
        requirement, file, proof, command = cells
        if requirement == "requirement":
            continue
        lines.append(
            Line(number, requirement, tuple(SPAN.findall(file + proof)), tuple(SPAN.findall(command)), TO_COME in row)
        )
    if not lines:
        raise ChecklistError("it has no lines")
    return lines
