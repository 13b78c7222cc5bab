# `video`: the film of the engine, recorded, cut and encoded in a process of its own (scripts.video), as benchmarks are. Here is only
# what it needs: Chromium, ffmpeg, and a folder.
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from flashsale.settings import REPOSITORY, Settings
from flashsale.stack import programs
from flashsale.stack.bench import heard
from flashsale.stack.console import Say
from flashsale.stack.exits import Exit, StackError

FILM = REPOSITORY / "reports" / "demo-video.mp4"
QUICK = "quick-video.mp4"  # under FLASH_HOME/video: nobody's film is replaced by ten seconds without the engine
RESULT_BYTES_MAX = 1 << 20
STOPS_WITHIN_S = 180.0  # it has an engine to stop, and `down` has bounds of its own


def options(parser: argparse.ArgumentParser) -> None:
    """What may be asked for."""
    parser.add_argument(
        "--quick", action="store_true", help=f"ten seconds without the engine, as FLASH_HOME/video/{QUICK}"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to instead")


async def run(parsed: argparse.Namespace, settings: Settings, say: Say) -> Exit:
    """Make the film. Raises StackError if something it needs is not here."""
    found = programs.ensure((programs.CHROMIUM, programs.FFMPEG), settings, os.environ, say)
    home = settings.home / "video"
    home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    out: Path = parsed.out or (home / QUICK if parsed.quick else FILM)
    words = ["-m", "scripts.video", "--out", str(out.absolute()), "--home", str(home)]
    words += ["--chromium", found[programs.CHROMIUM.variable], "--ffmpeg", found[programs.FFMPEG.variable]]
    words += ["--quick"] if parsed.quick else []
    environment = dict(os.environ) | {"PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"}
    code, said = await heard(words, environment, RESULT_BYTES_MAX, STOPS_WITHIN_S)
    if code != 0 or not said:
        raise StackError("no film was made; why stands above")
    told = json.loads(said)
    if parsed.json:
        print(json.dumps(told))
    else:
        print(
            f"{told['film']}: {told['seconds']:.0f} s, {told['width']}x{told['height']}, {told['codec']}, "
            f"{told['bytes'] / 1e6:.1f} MB, {len(told['scenes'])} scenes"
        )
    return Exit.OK
