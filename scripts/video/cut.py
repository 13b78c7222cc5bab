"""
From what was recorded to what is shown when: pure. A take that is longer than its scene is played faster, and the picture says so; a
shorter one stands still in the end.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from scripts.video.storyboard import Scene, caption_times

GRID_S = 0.2  # nothing changes more often: fewer pictures to draw, and nothing flickers
STILL_S, STILL_SHARE_MAX = (
    3.0,
    0.2,
)  # how long the end of a take stands, so that its result can be read; of a short scene a share
FASTER_TOLD = 1.05  # from here on the picture says how much faster it is


@dataclass(frozen=True)
class Pane:
    """One part of the stage: what it shows from which moment of the take on, as HTML."""

    title: str
    width: int
    changes: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Take:
    """What was recorded for a scene."""

    seconds: float
    panes: tuple[Pane, ...]
    marks: tuple[float, ...] = ()  # when each command began


@dataclass(frozen=True)
class Picture:
    """One picture of the film, and how long it stands."""

    seconds: float
    heading: str
    caption: str
    faster: str
    panes: tuple[tuple[str, int, str], ...]  # title, width, HTML


def cut(scene: Scene, take: Take, heading: str, captions: Sequence[str]) -> list[Picture]:
    """The scene's pictures, which add up to its seconds. ``heading`` and ``captions`` are filled."""
    rate = max(1.0, take.seconds / (scene.seconds - still_s(scene.seconds)))
    faster = f"played {rate:.1f} times as fast" if rate > FASTER_TOLD else ""
    marks = [*take.marks, take.seconds]
    begins = caption_times(captions, scene.seconds, [marks[cue] / rate for cue in scene.cues])
    slots = round(scene.seconds / GRID_S)
    changes = {0, *(slot for at in begins if (slot := round(at / GRID_S)) < slots)}
    for pane in take.panes:
        changes |= {slot for at, _ in pane.changes if 0 <= (slot := int(at / rate / GRID_S)) < slots}
    edges = [*sorted(changes), slots]
    pictures: list[Picture] = []
    for begin, end in pairwise(edges):
        # what a slot shows is what stands at its end: nothing is shown later than it happened by more than a slot
        shown = tuple((pane.title, pane.width, _at(pane, ((begin + 1) * GRID_S) * rate)) for pane in take.panes)
        caption = captions[max(0, bisect_right([round(at / GRID_S) for at in begins], begin) - 1)]
        picture = Picture((end - begin) * GRID_S, heading, caption, faster, shown)
        pictures.append(picture)
    return pictures


def still_s(seconds: float) -> float:
    """How much of a scene the end of its take stands."""
    return min(STILL_S, seconds * STILL_SHARE_MAX)


def _at(pane: Pane, moment: float) -> str:
    place = bisect_left([at for at, _ in pane.changes], moment)
    return pane.changes[max(0, place - 1)][1] if pane.changes else ""
