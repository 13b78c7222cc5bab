"""
The storyboard: what is shown, for how long, and what is said of it. A table (TOML), so that it can be recut without reading code.

Law 1: a caption types no number. It has holes, ``{{name}}``, for what the recording or a report found; a hole that nobody fills ends the
work with its name. Law 2: what cannot be read in its time is refused, before anything is recorded.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

HOLE = re.compile(r"\{\{([^{}]*)\}\}")
CODE = re.compile(r"`[^`]*`")
CHARS_PER_S = 18.0  # read by somebody who looks at the picture as well; subtitles of television have 15 to 20
FIRST_LOOK_S = 0.8  # until the eye has found the new caption
CAPTION_CHARS_MAX = 170  # two lines of the stage
SECONDS_MAX = 120.0
FILLED = "1,234"  # what a hole is counted as


class Shows(StrEnum):
    """What a scene is made of."""

    CARD = "card"  # lines of text, and perhaps a picture of this folder
    TERMINAL = "terminal"  # commands, as they really ran
    SALE = "sale"  # the shoppers' page and the operations page, while a crowd buys
    WATCHED = "watched"  # commands beside the operations page
    CODE = "code"  # a piece of a file
    FIGURE = "figure"  # a picture that a report drew


class When(StrEnum):
    """Whether a scene is in the film, which depends on whether a report was built."""

    ALWAYS = ""
    REPORT = "report"
    NO_REPORT = "no report"


class Meanwhile(StrEnum):
    """What goes on beside the commands of a scene."""

    NOTHING = ""
    CROWD = "crowd"  # shoppers, to whom something is done
    BUYER = "buyer"  # one buyer who asks and asks


class StoryboardError(Exception):
    """Everything that is wrong with a storyboard, a line each."""


@dataclass(frozen=True)
class Scene:
    """One scene. What is empty does not matter for what it shows."""

    name: str
    shows: Shows
    seconds: float
    heading: str
    captions: tuple[str, ...]  # one after the other, each as long as its text wants
    when: When = When.ALWAYS
    lines: tuple[str, ...] = ()
    picture: str = ""
    commands: tuple[str, ...] = ()
    cues: tuple[
        int, ...
    ] = ()  # with which command each caption comes, counted from 0; one more than the last: with its end
    columns: int = 100  # of the terminal
    split: int = 800  # pixels that the terminal has beside the operations page
    meanwhile: Meanwhile = Meanwhile.NOTHING
    looks: tuple[
        str, ...
    ] = ()  # what the operations page is scrolled to, one after the other; as many as commands: with its command each
    backend: str = ""
    file: str = ""
    begins: str = ""  # with which line of the file the piece begins, and which is its last
    ends: str = ""
    marked: tuple[str, ...] = ()  # texts whose lines stand out

    @property
    def templates(self) -> tuple[str, ...]:
        """Everything of it that has holes."""
        return (self.heading, *self.captions, *self.lines, *self.commands)


def load(path: Path) -> tuple[Scene, ...]:
    """All scenes in their order. Raises ``StoryboardError``."""
    problems: list[str] = []
    scenes = []
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))["scene"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise StoryboardError(f"{path.name} cannot be read: {error}") from error
    for number, row in enumerate(rows, 1):
        try:
            scene = _scene(row)
        except (TypeError, ValueError, KeyError) as error:
            problems.append(f"scene {number}: {error}")
            continue
        problems += [f"{scene.name}: {problem}" for problem in _problems(scene)]
        scenes.append(scene)
    names = [scene.name for scene in scenes]
    problems += [f"{name}: two scenes are called so" for name in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        raise StoryboardError("\n".join(problems))
    return tuple(scenes)


def in_film(scenes: Iterable[Scene], *, has_report: bool) -> tuple[Scene, ...]:
    """Those that are shown."""
    away = When.NO_REPORT if has_report else When.REPORT
    return tuple(scene for scene in scenes if scene.when is not away)


def holes(templates: Iterable[str]) -> set[str]:
    """The names that somebody must fill."""
    return {name.strip() for template in templates for name in HOLE.findall(template)}


def fill(template: str, facts: Mapping[str, str]) -> str:
    """The text. Raises ``StoryboardError`` with every hole that is left, or that is filled with nothing."""
    left = sorted(name for name in holes([template]) if not facts.get(name))
    if left:
        raise StoryboardError(f"nothing fills {', '.join(left)} in: {template}")
    return HOLE.sub(lambda hole: facts[hole[1].strip()], template)


def caption_times(captions: Sequence[str], seconds: float, cues: Sequence[float] = ()) -> list[float]:
    """
    When each begins: the time is shared out by their lengths, of filled ones, since a hole may be longer than its name. Where there are
    cues none comes before its own, as far as all can be read; the first begins the scene.
    """
    needed = [reading_s(caption) for caption in captions]
    share = min(1.0, seconds / sum(needed)) if cues else seconds / sum(needed)
    needed = [share * need for need in needed]
    begins = [0.0]
    for number, need in enumerate(needed[:-1], 1):
        begins.append(max(begins[-1] + need, cues[number] if cues else 0.0))
    latest = seconds
    for number in reversed(range(len(begins))):
        latest -= needed[number]
        begins[number] = min(begins[number], latest)
    return [max(0.0, begin) for begin in begins]


def reading_s(caption: str) -> float:
    """How long somebody takes to read it."""
    return FIRST_LOOK_S + len(caption) / CHARS_PER_S


def _scene(row: Mapping[str, Any]) -> Scene:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    values["shows"] = Shows(values["shows"])
    values["when"] = When(values.get("when", ""))
    values["meanwhile"] = Meanwhile(values.get("meanwhile", ""))
    values["seconds"] = float(values["seconds"])
    return Scene(**values)


_NEEDED: Mapping[Shows, tuple[str, ...]] = {
    Shows.CARD: (),
    Shows.TERMINAL: ("commands",),
    Shows.SALE: ("backend", "looks"),
    Shows.WATCHED: ("commands", "looks"),
    Shows.CODE: ("file", "begins", "ends"),
    Shows.FIGURE: ("file",),
}


def _problems(scene: Scene) -> list[str]:
    found = [f"{scene.shows} needs {field}" for field in _NEEDED[scene.shows] if not getattr(scene, field)]
    if not 0 < scene.seconds <= SECONDS_MAX:
        found.append(f"{scene.seconds:g} seconds; allowed: up to {SECONDS_MAX:g}")
    if not scene.captions:
        found.append("has no caption")
    found += [
        f"a number is typed, which the run has to say: {text}"
        for text in (scene.heading, *scene.captions, *scene.lines)
        if re.search(r"\d", HOLE.sub("", CODE.sub("", text)))
    ]
    captions = [HOLE.sub(FILLED, caption) for caption in scene.captions]
    needed = sum(map(reading_s, captions))
    if needed > scene.seconds:
        found.append(f"its captions take {needed:.1f} s to read, and it has {scene.seconds:g}")
    if scene.cues and (
        len(scene.cues) != len(scene.captions) or not set(scene.cues) <= {*range(len(scene.commands) + 1)}
    ):
        found.append("its cues are not a command for each caption")
    found += [f"{len(text)} characters do not fit: {text}" for text in captions if len(text) > CAPTION_CHARS_MAX]
    return found
