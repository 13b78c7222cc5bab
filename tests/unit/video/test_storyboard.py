"""The table of scenes: what it refuses, and that the one we have can be filmed with this tree."""

from pathlib import Path

import pytest

from scripts.video import source
from scripts.video.__main__ import BOARDS
from scripts.video.shop import ROOT
from scripts.video.storyboard import Scene, Shows, StoryboardError, caption_times, fill, holes, in_film, load, reading_s

SCENE = """
[[scene]]
name = "title"
shows = "card"
seconds = 10
heading = "A title"
captions = ["Something is said."]
"""


def board(tmp_path: Path, text: str) -> tuple[Scene, ...]:
    path = tmp_path / "board.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def test_a_scene_is_read(tmp_path: Path) -> None:
    [scene] = board(tmp_path, SCENE)
    assert (scene.name, scene.shows, scene.seconds) == ("title", Shows.CARD, 10.0)
    assert scene.captions == ("Something is said.",)


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ("Something is said.", "It took 12 ms.", "a number is typed"),
        ("A title", "Best of 3", "a number is typed"),
        ("seconds = 10", "seconds = 1", "to read"),
        ("seconds = 10", "seconds = 600", "allowed"),
        ('"card"', '"film"', "film"),
        ('"card"', '"code"', "needs file"),
        ('"card"', '"sale"', "needs backend"),
        ('captions = ["Something is said."]', "captions = []", "has no caption"),
        ("seconds = 10", "seconds = 10\ncues = [3]", "cues"),
        ("seconds = 10", "seconds = 10\ncues = [0, 0]", "cues"),
        ('heading = "A title"', 'heading = "A title"\ncolour = "red"', "colour"),
        ("[[scene]]", "[[scenes]]", "cannot be read"),
    ],
)
def test_what_cannot_be_filmed_is_refused_before_anything_is(tmp_path: Path, was: str, now: str, told: str) -> None:
    with pytest.raises(StoryboardError, match=told):
        board(tmp_path, SCENE.replace(was, now))


def test_a_number_may_be_code_or_the_runs(tmp_path: Path) -> None:
    board(tmp_path, SCENE.replace("Something is said.", "`kill -9` hit {{kill.2nd}}."))


def test_two_scenes_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoryboardError, match="two scenes are called so"):
        board(tmp_path, SCENE + SCENE)


@pytest.mark.parametrize("facts", [{}, {"held": ""}])
def test_a_hole_that_nobody_fills_ends_the_work_with_its_name(facts: dict[str, str]) -> None:
    with pytest.raises(StoryboardError, match="nothing fills held"):
        fill("{{ held }} holds", facts)


def test_a_hole_is_filled() -> None:
    assert fill("{{held}} of {{ units }}", {"held": "12", "units": "1,000"}) == "12 of 1,000"


def test_a_longer_caption_stands_longer() -> None:
    begun = caption_times(("short", "one that is very much longer than the other"), 10.0)
    assert begun[0] == 0.0
    assert 0.0 < begun[1] < 5.0


def test_a_caption_does_not_come_before_its_cue_unless_the_time_is_short() -> None:
    captions = ("a first caption", "a second caption", "a third caption")
    need = reading_s(captions[0])
    assert caption_times(captions, 60.0, [0.0, 20.0, 21.0]) == pytest.approx([0.0, 20.0, 20.0 + reading_s(captions[1])])
    late = caption_times(captions, 10.0, [0.0, 9.0, 9.5])
    assert late[0] == 0.0
    assert need < late[1] < late[2] < 9.0
    assert late[2] == pytest.approx(10.0 - reading_s(captions[2]))
    crowded = caption_times(captions, 2.0, [0.0, 1.9, 1.9])
    assert crowded == sorted(crowded)


@pytest.mark.parametrize("path", BOARDS.values(), ids=lambda path: path.name)
def test_our_boards_name_code_that_is_there(path: Path) -> None:
    for scene in load(path):
        if scene.shows is Shows.CODE:
            piece = source.read(ROOT, scene.file, scene.begins, scene.ends, scene.marked)
            assert len(piece.marked) == len(scene.marked)
            assert piece.marked <= set(range(piece.first, piece.first + len(piece.lines)))


def test_the_film_takes_about_five_minutes_with_a_report_and_without() -> None:
    scenes = load(BOARDS[False])
    for has_report in (True, False):
        assert 270 <= sum(scene.seconds for scene in in_film(scenes, has_report=has_report)) <= 360
    # without one nothing is said of it
    said = holes(text for scene in in_film(scenes, has_report=False) for text in (*scene.templates, scene.file))
    assert not {name for name in said if name.startswith(("report.", "figure."))}


def test_ten_seconds_are_ten_seconds() -> None:
    assert sum(scene.seconds for scene in load(BOARDS[True])) == pytest.approx(10.0)
