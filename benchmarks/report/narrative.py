"""
The argument, written by hand in reports/narrative.md, with holes for everything that a run decides: ``{{name}}`` in a sentence, and on a
line of their own ``{{table:name}}``, ``{{list:name}}``, ``{{figure:kind}}``. Law: a hole that nobody fills, or that fills with nothing,
ends the build with its name; a report never shows one. A table without rows and a figure that the run has nothing for are left out: the
sentence beside them says what was not measured.

Of Markdown: ``#`` to ``###``, paragraphs, ``- `` lists, ``**bold**``, ``*emphasis*`` and `` `code` ``. The result is blocks, which PDF and HTML both set.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

HOLE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
DIRECTIVE = re.compile(r"\{\{\s*(table|list|figure):([^{}\s]+)\s*\}\}")
SPAN = re.compile(r"\*\*(?P<bold>.+?)\*\*|`(?P<code>.+?)`|\*(?P<emphasis>.+?)\*")
HEADING = re.compile(r"(#{1,3}) (.+)")

Block = dict[str, Any]


class NarrativeError(Exception):
    """What is wrong with the narrative: every hole that cannot be filled, by name."""


class Given(NamedTuple):
    """What holes may be filled with."""

    words: Mapping[str, str | None]
    lists: Mapping[str, Sequence[str]]
    tables: Mapping[str, Mapping[str, Any]]
    figures: Sequence[Mapping[str, str]]
    figure_kinds: Collection[str]


def compose(text: str, given: Given) -> list[Block]:
    """The narrative's blocks, filled. Raises NarrativeError."""
    problems: list[str] = []
    blocks: list[Block] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = paragraph.strip().splitlines()
        if found := DIRECTIVE.fullmatch(paragraph.strip()):
            blocks += _directed(found[1], found[2], given, problems)
        elif found := HEADING.fullmatch(paragraph.strip()):
            blocks.append({"kind": "heading", "level": len(found[1]), "text": _fill(found[2], given, problems)})
        elif lines[0].startswith("- "):
            items = re.split(r"\n- ", "\n" + paragraph.strip())[1:]
            blocks.append({"kind": "list", "items": [_spans(_fill(_joined(item), given, problems)) for item in items]})
        else:
            blocks.append({"kind": "para", "spans": _spans(_fill(_joined(paragraph), given, problems))})
    if problems:
        raise NarrativeError("the narrative cannot be filled: " + "; ".join(dict.fromkeys(problems)))
    return blocks


def _directed(kind: str, name: str, given: Given, problems: list[str]) -> list[Block]:
    if kind == "table" and name in given.tables:
        return [{"kind": "table", "name": name, **given.tables[name]}] if given.tables[name]["rows"] else []
    if kind == "list" and given.lists.get(name):
        return [{"kind": "list", "items": [_spans(item) for item in given.lists[name]]}]
    if kind == "figure" and name in given.figure_kinds:
        return [{**figure, "kind": "figure", "figure_kind": name} for figure in given.figures if figure["kind"] == name]
    problems.append(f"{{{{{kind}:{name}}}}} is not a {kind}")
    return []


def _fill(text: str, given: Given, problems: list[str]) -> str:
    def filled(hole: re.Match[str]) -> str:
        name = hole[1]
        if name not in given.words:
            problems.append(f"{{{{{name}}}}} is not known")
        elif not (word := given.words[name]):
            problems.append(f"{{{{{name}}}}} is filled with nothing")
        else:
            return word
        return ""

    text = HOLE.sub(filled, text)
    if "{{" in text or "}}" in text:
        problems.append(f"a hole is not closed: {text[:60]!r}")
    return text


def _joined(paragraph: str) -> str:
    return " ".join(line.strip() for line in paragraph.splitlines())


def _spans(text: str) -> list[list[str]]:
    spans: list[list[str]] = []
    at = 0
    for found in SPAN.finditer(text):
        if found.start() > at:
            spans.append(["text", text[at : found.start()]])
        assert found.lastgroup
        spans.append([found.lastgroup, found[found.lastgroup]])
        at = found.end()
    if at < len(text):
        spans.append(["text", text[at:]])
    return spans
