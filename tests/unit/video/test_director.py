"""What is asked of a report before anything is recorded, and how a recording ends."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest
from playwright.async_api import Error, Page

from benchmarks.report import words
from scripts.video.director import Director, looking, reported
from scripts.video.shop import Shop
from scripts.video.stage import StageError
from scripts.video.storyboard import Scene, Shows, StoryboardError, When
from scripts.video.terminal import CommandError
from tests.patience import PATIENCE_SECONDS

SCENES = (
    Scene("one", Shows.CARD, 9.0, "{{figure.latency.title}}", ("{{report.answer}}",), When.REPORT),
    Scene("two", Shows.FIGURE, 9.0, "h", ("said",), When.REPORT, file="reports/figures/{{figure.latency.name}}.png"),
)
FIGURES = [{"kind": "latency", "name": "no-such-figure", "title": "Latency"}]


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(words, "words", lambda document: document["words"])
    (tmp_path / "results.json").write_text(json.dumps({"words": {"answer": "A tie."}, "figures": FIGURES}))
    return tmp_path


def test_no_report_is_no_mistake(tmp_path: Path) -> None:
    assert reported(SCENES, tmp_path) is None


def test_what_it_says_is_known(reports: Path) -> None:
    assert reported(SCENES[:1], reports) == {
        "report.answer": "A tie.",
        "figure.latency.title": "Latency",
        "figure.latency.name": "no-such-figure",
    }


@pytest.mark.parametrize("text", ["", "{}", '{"words": {"answer": "A tie."}}', '{"words": {}, "figures": []}'])
def test_one_that_does_not_say_what_is_wanted_is_told_with_the_fix(reports: Path, text: str) -> None:
    (reports / "results.json").write_text(text)
    with pytest.raises(StoryboardError, match=r"\./flash report"):
        reported(SCENES, reports)


def test_a_figure_that_is_not_there_is_told_before_the_recording(reports: Path) -> None:
    with pytest.raises(StageError, match="no-such-figure"):
        reported(SCENES, reports)


async def test_a_shop_that_cannot_be_stopped_is_told_of_unless_something_went_wrong_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def flash(_: Shop, *words: str) -> None:
        raise CommandError(f"{words} ended with 1")

    monkeypatch.setattr(Shop, "flash", flash)
    (tmp_path / "up").mkdir()
    director = Director(tmp_path / "chromium", Shop(tmp_path, {}), tmp_path)
    with pytest.raises(CommandError, match="down"):
        async with director:
            pass
    with pytest.raises(StageError, match="first"):
        async with director:
            raise StageError("first")


class Paged:
    """A page with one part."""

    def __init__(self) -> None:
        self.looked = asyncio.Event()

    async def evaluate(self, _: str, part: str) -> Any:
        self.looked.set()
        if part != "#books":
            raise Error(f"no {part}")


@pytest.mark.parametrize("part", ["#books", "#renamed"])
async def test_a_part_that_a_page_no_longer_has_fails_the_scene(part: str) -> None:
    page = Paged()
    shown = False

    async def scene() -> None:
        nonlocal shown
        async with looking(cast("Page", page), [part], PATIENCE_SECONDS):
            await page.looked.wait()
            shown = True

    if part == "#books":
        await scene()
    else:
        with pytest.raises(Error, match="no #renamed"):
            await scene()
    assert shown
