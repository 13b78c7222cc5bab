"""What is shown when."""

import pytest

from scripts.video.cut import GRID_S, Pane, Picture, Take, cut, still_s
from scripts.video.storyboard import Scene, Shows


def scene(seconds: float, *captions: str) -> Scene:
    return Scene("a", Shows.TERMINAL, seconds, "heading", captions or ("said",))


def take(seconds: float, *changes: tuple[float, str]) -> Take:
    return Take(seconds, (Pane("terminal", 1240, changes),))


def shown(pictures: list[Picture]) -> list[tuple[float, str]]:
    at = 0.0
    found = []
    for picture in pictures:
        found.append((round(at, 3), picture.panes[0][2]))
        at += picture.seconds
    return found


@pytest.mark.parametrize(("seconds", "recorded"), [(10.0, 4.0), (10.0, 60.0), (3.2, 0.0), (2.0, 1.9)])
def test_the_pictures_of_a_scene_take_its_seconds(seconds: float, recorded: float) -> None:
    pictures = cut(
        scene(seconds, "one", "two and more"),
        take(recorded, (0.0, "a"), (recorded / 2, "b")),
        "h",
        ["one", "two and more"],
    )
    assert sum(picture.seconds for picture in pictures) == pytest.approx(seconds)
    assert all(picture.seconds >= GRID_S - 1e-9 for picture in pictures)


def test_a_short_take_is_played_as_it_was_and_then_stands() -> None:
    pictures = cut(scene(10.0), take(5.0, (0.0, "a"), (2.0, "b"), (4.9, "c")), "h", ["said"])
    assert shown(pictures) == [(0.0, "a"), (2.0, "b"), (4.8, "c")]
    assert {picture.faster for picture in pictures} == {""}


def test_a_long_take_is_played_faster_says_so_and_its_end_can_be_read() -> None:
    recorded = 4 * (10.0 - still_s(10.0))
    pictures = cut(scene(10.0), take(recorded, (0.0, "a"), (16.0, "b"), (recorded - 0.1, "c")), "h", ["said"])
    assert {picture.faster for picture in pictures} == {"played 4.0 times as fast"}
    assert shown(pictures)[1] == (4.0, "b")
    assert pictures[-1].panes[0][2] == "c"
    assert pictures[-1].seconds >= still_s(10.0)


def test_of_changes_within_a_moment_the_last_is_shown() -> None:
    pictures = cut(scene(4.0), take(1.0, (0.0, "a"), (0.05, "b"), (0.41, "c"), (0.55, "d")), "h", ["said"])
    assert shown(pictures) == [(0.0, "b"), (0.4, "d")]


def test_captions_follow_each_other_over_what_moves() -> None:
    pictures = cut(scene(6.0, "one", "two"), take(6.0, (0.0, "a"), (1.0, "b")), "h", ["one", "two"])
    captions = [picture.caption for picture in pictures]
    assert captions == ["one", "one", "two"]


def test_what_is_said_of_a_command_comes_with_it_at_the_rate_it_is_played() -> None:
    captions = ["one", "two"]
    board = Scene("a", Shows.TERMINAL, 10.0, "heading", ("one", "two"), commands=("sleep",), cues=(0, 1))
    played = Take(2 * (10.0 - still_s(10.0)), (Pane("terminal", 1240, ((0.0, "a"),)),), marks=(0.0,))
    pictures = cut(board, played, "h", captions)
    assert [picture.caption for picture in pictures] == captions
    assert pictures[0].seconds == pytest.approx(10.0 - still_s(10.0))  # where the command ended, played twice as fast
