"""What is set on the stage, where that is worked out."""

import re
import struct
from itertools import pairwise
from pathlib import Path

import pytest

from scripts.video import stage
from scripts.video.stage import FIGURE_HEIGHT, FIGURE_OVERLAP, FIGURE_WIDTH, INNER, StageError


def png(path: Path, width: int, height: int) -> Path:
    path.write_bytes(stage.PNG + struct.pack(">I4sII", 13, b"IHDR", width, height))
    return path


def numbers(part: str) -> tuple[int, int]:
    [width], [offset] = re.findall(r"width:(\d+)px", part), re.findall(r"margin-top:-(\d+)px", part)
    return int(width), int(offset)


@pytest.mark.parametrize(("size", "width"), [((1600, 640), INNER), ((1600, 900), FIGURE_HEIGHT * 1600 // 900)])
def test_a_wide_figure_is_shown_whole(tmp_path: Path, size: tuple[int, int], width: int) -> None:
    [part] = stage.figure(png(tmp_path / "a.png", *size))
    assert numbers(part) == (width, 0)


def test_a_tall_figure_is_shown_in_parts_that_overlap_and_leave_nothing_out(tmp_path: Path) -> None:
    parts = stage.figure(png(tmp_path / "a.png", 1600, 4000))
    offsets = [numbers(part)[1] for part in parts]
    assert {numbers(part)[0] for part in parts} == {FIGURE_WIDTH}
    assert offsets[0] == 0
    assert offsets[-1] == FIGURE_WIDTH * 4000 // 1600 - FIGURE_HEIGHT
    steps = [after - before for before, after in pairwise(offsets)]
    assert all(0 < step <= FIGURE_HEIGHT - FIGURE_OVERLAP for step in steps)


def test_a_figure_that_is_none_is_told_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"<svg>")
    for name in ("a.png", "b.png"):
        with pytest.raises(StageError, match=r"\./flash report"):
            stage.figure(tmp_path / name)


def test_code_in_a_text_is_marked_and_the_rest_is_no_markup() -> None:
    assert stage.marked_up("`a<b` & <i>") == "<code>a&lt;b</code> &amp; &lt;i&gt;"


def test_a_terminal_of_more_columns_has_smaller_letters_and_more_rows() -> None:
    assert stage.font_of(140, INNER) < stage.font_of(120, INNER)
    assert stage.rows_of(140, INNER) > stage.rows_of(120, INNER)
