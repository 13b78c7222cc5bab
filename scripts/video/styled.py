"""A line of text with colours, as rich knows it, as HTML."""

import html
from itertools import pairwise

from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

# The pages' dark colours.
THEME = TerminalTheme(
    (31, 28, 25),
    (243, 239, 233),
    [(80, 74, 67), (255, 156, 146), (111, 211, 154), (240, 189, 90), (109, 183, 255), (195, 160, 245), (95, 208, 180), (216, 209, 200)],
    [(171, 163, 151), (255, 156, 146), (111, 211, 154), (240, 189, 90), (109, 183, 255), (195, 160, 245), (95, 208, 180), (243, 239, 233)],
)  # fmt: skip


def as_html(line: Text) -> str:
    """The line, escaped."""
    edges = sorted({0, len(line.plain), *(edge for span in line.spans for edge in (span.start, span.end))})
    pieces = []
    for start, stop in pairwise(edges):
        styles = [span.style for span in line.spans if span.start <= start and span.end >= stop]
        css = _css(
            Style.combine([Style.null(), *(one if isinstance(one, Style) else Style.parse(one) for one in styles)])
        )
        text = html.escape(line.plain[start:stop])
        pieces.append(f'<span style="{css}">{text}</span>' if css else text)
    return "".join(pieces)


def _css(style: Style) -> str:
    rules = []
    if style.color is not None and not style.color.is_default:
        rules.append(f"color:{style.color.get_truecolor(THEME).hex}")
    if style.bold:
        rules.append("font-weight:700")
    if style.dim:
        rules.append("opacity:.6")
    return ";".join(rules)
