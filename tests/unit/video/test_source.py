"""A piece of a file: found by what stands in it, or not at all."""

from pathlib import Path

import pytest

from scripts.video.source import SourceError, read, shown


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lines = ["# a file", "def one() -> int:", "    return 1 < 2", "", "def two() -> int:", "    return 2"]
    (tmp_path / "code.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "long.py").write_text("\n".join(f"x{number} = 1" for number in range(90)), encoding="utf-8")
    return tmp_path


def test_a_piece_has_its_own_line_numbers_and_marks(root: Path) -> None:
    piece = read(root, "code.py", "def one", "return 1", ("return 1",))
    assert (piece.first, len(piece.lines), piece.marked) == (2, 2, frozenset({3}))
    text = shown(piece)
    assert "<i>2</i>" in text
    assert "&lt;" in text
    assert text.count('class="row') == 2
    assert text.count("row marked") == 1


def test_empty_lines_keep_their_place(root: Path) -> None:
    assert shown(read(root, "code.py", "def one", "return 2", ())).count('class="row"') == 5


@pytest.mark.parametrize(
    ("path", "piece", "told"),
    [
        ("gone.py", ("def one", "return 1", ()), "cannot be read"),
        ("code.py", ("def three", "return 1", ()), "no line with: def three"),
        ("code.py", ("def two", "return 1", ()), "no line with: return 1"),
        ("code.py", ("def one", "return 1", ("return 3",)), "no line with: return 3"),
        ("long.py", ("x0", "x89", ()), "too small to read"),
    ],
)
def test_what_is_not_there_any_more_is_told(
    root: Path, path: str, piece: tuple[str, str, tuple[str, ...]], told: str
) -> None:
    with pytest.raises(SourceError, match=told):
        read(root, path, *piece)
