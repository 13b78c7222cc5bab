"""``python -m scripts.video``: record, cut and encode. Progress on stderr, what came of it (JSON) on stdout.

Exit codes: 0 the film is there; 1 it could not be made, and stderr says why and what helps; 130 interrupted.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.async_api import Error

from flashsale.signals import until_signalled
from scripts.video.camera import CameraError
from scripts.video.cut import Picture, Take, cut
from scripts.video.director import Director, reported
from scripts.video.film import FilmError, Tools, encode
from scripts.video.shop import Shop, alone, environment, made_home
from scripts.video.source import SourceError
from scripts.video.stage import StageError, chromium, draw
from scripts.video.storyboard import Scene, StoryboardError, fill, in_film, load
from scripts.video.terminal import CommandError

HERE = Path(__file__).resolve().parent
BOARDS = {False: HERE / "storyboard.toml", True: HERE / "quick.toml"}


def main(arguments: Sequence[str]) -> int:
    """Make the film."""
    parser = argparse.ArgumentParser(prog="python -m scripts.video", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ten seconds, without the engine")
    parser.add_argument("--out", type=Path, required=True, help="the film")
    parser.add_argument("--home", type=Path, required=True, help="a folder for everything in between")
    parser.add_argument("--chromium", type=Path, required=True)
    parser.add_argument("--ffmpeg", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        with alone(options.home):
            found = until_signalled(_make(options))
    except (StoryboardError, CommandError, CameraError, SourceError, StageError, FilmError, Error) as error:
        print(f"video: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(found))
    return 0


async def _make(options: argparse.Namespace) -> dict[str, Any]:
    board = load(BOARDS[options.quick])
    report = reported(board)
    scenes = in_film(board, has_report=report is not None)
    folder = options.home
    home = await made_home(folder, os.environ)
    pictures = folder / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir()
    shop = Shop(home, environment(os.environ, home))
    say = _Says()
    async with Director(options.chromium, shop, pictures, report or {}) as director:
        takes = []
        for number, scene in enumerate(scenes, 1):
            say(f"{number} of {len(scenes)}: {scene.name}")
            takes.append(await director.play(scene))
    (folder / "facts.json").write_text(json.dumps(director.facts, indent=1) + "\n", encoding="utf-8")
    say("cutting")
    async with chromium(options.chromium) as browser:  # one that has no living page to paint
        shots = await draw(browser, _pictures(scenes, takes, director.facts), pictures)
    say(f"encoding {len(shots)} pictures")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = await encode(shots, options.out, Tools(options.ffmpeg))
    shutil.rmtree(pictures)
    shutil.rmtree(home)
    return {"film": str(options.out), "scenes": [scene.name for scene in scenes], **found}


def _pictures(scenes: Sequence[Scene], takes: Sequence[Take], facts: dict[str, str]) -> list[tuple[str, Picture]]:
    made = []
    for number, (scene, take) in enumerate(zip(scenes, takes, strict=True), 1):
        captions = [fill(caption, facts) for caption in scene.captions]
        place = f"{number} / {len(scenes)}"
        made += [(place, picture) for picture in cut(scene, take, fill(scene.heading, facts), captions)]
    return made


class _Says:
    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f}s] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
