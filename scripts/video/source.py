"""A piece of a file of this repository, with its line numbers and colours. What it names must be there: a film of old code is none."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from rich.syntax import Syntax

from scripts.video.stage import CHAR_WIDTH, INNER, PANE_HEIGHT
from scripts.video.styled import as_html

LANGUAGES = {".lua": "lua", ".sql": "postgresql", ".py": "python"}
THEME = "github-dark"
LINE_HEIGHT = 1.42
FONT_MAX, FONT_MIN = 19.0, 14.0  # below it, it cannot be read at 1280 by 720
MARGINS = (110, 26)


class SourceError(Exception):
    """What is not in the file any more."""


@dataclass(frozen=True)
class Piece:
    """Lines of a file, from ``first`` on; ``marked`` are their numbers that stand out."""

    path: str
    first: int
    lines: tuple[str, ...]
    marked: frozenset[int]


def read(root: Path, path: str, begins: str, ends: str, marked: tuple[str, ...]) -> Piece:
    """
    From the first line that holds ``begins`` to the next that holds ``ends``. Raises ``SourceError`` for whatever is not there, and for
    a piece that is too long to be read.
    """
    try:
        lines = (root / path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    first = _find(path, lines, begins, 0)
    last = _find(path, lines, ends, first)
    piece = dedent("\n".join(lines[first : last + 1])).split("\n")
    found = frozenset(_find(path, piece, text, 0) + first + 1 for text in marked)
    made = Piece(path, first + 1, tuple(piece), found)
    if font_of(made) < FONT_MIN:
        raise SourceError(f"{path}, lines {first + 1} to {last + 1}, would be too small to read")
    return made


def font_of(piece: Piece) -> float:
    """The size at which all of it is seen."""
    high = (PANE_HEIGHT - MARGINS[1]) / len(piece.lines) / LINE_HEIGHT
    wide = (INNER - MARGINS[0]) / max(len(line) for line in piece.lines) / CHAR_WIDTH
    return min(FONT_MAX, high, wide)


def shown(piece: Piece) -> str:
    """As HTML."""
    syntax = Syntax("", LANGUAGES[Path(piece.path).suffix], theme=THEME)
    text = syntax.highlight("\n".join(piece.lines))
    rows = []
    for number, line in enumerate(text.split("\n", allow_blank=True)[: len(piece.lines)], piece.first):
        kind = "row marked" if number in piece.marked else "row"
        rows.append(f'<span class="{kind}"><i>{number}</i>{as_html(line)}</span>')
    return f'<pre class="code" style="font-size:{font_of(piece):.2f}px;line-height:{LINE_HEIGHT}">{"".join(rows)}</pre>'


def _find(path: str, lines: list[str], text: str, start: int) -> int:
    for number in range(start, len(lines)):
        if text in lines[number]:
            return number
    raise SourceError(f"{path} has no line with: {text}")
