"""The film's short version, made as ``./flash video --quick`` makes it: what a player finds in it, and that something is to be seen."""

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.video.film import FilmError, Tools, encode, probe
from scripts.video.shop import ROOT
from scripts.video.stage import StageError, chromium
from tests.databases import told
from tests.patience import PATIENCE_SECONDS

SMALL = (64, 36)
WORK_S = 5 * PATIENCE_SECONDS  # a start of Chromium, a command, pictures, an encoding, a look at it: a wait for each


def ran(*words: str) -> bytes:
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True) as child:
        try:
            said, _ = child.communicate(timeout=WORK_S)
        finally:
            # It ends what it has in sessions of their own when it is told to stop; what shares its session goes with it.
            for number in (signal.SIGTERM, signal.SIGKILL):
                if child.poll() is None:
                    os.killpg(child.pid, number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(PATIENCE_SECONDS)
    assert child.returncode == 0
    return said


def test_ten_seconds_of_film_can_be_played_and_seen(tmp_path: Path) -> None:
    tools = Tools(Path(told("FLASH_TEST_FFMPEG")))
    film = tmp_path / "film.mp4"
    programs = ("--chromium", told("FLASH_TEST_CHROMIUM"), "--ffmpeg", str(tools.ffmpeg))
    said = ran(
        *(sys.executable, "-m", "scripts.video", "--quick", "--out", str(film), "--home", str(tmp_path), *programs)
    )
    assert json.loads(said)["film"] == str(film)
    found = asyncio.run(probe(film, tools))
    assert (found["codec"], found["pixels"]) == ("h264", "yuv420p")
    assert (found["width"], found["height"]) == (1280, 720)
    assert found["seconds"] == pytest.approx(10.0, abs=0.2)
    assert 20_000 < found["bytes"] < 2_000_000
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4", "facts.json"}
    start = film.read_bytes()[:4096]
    assert b"moov" in start  # the index: a browser plays before it has everything
    grey = ran(
        *(str(tools.ffmpeg), "-v", "error", "-i", str(film), "-vf", f"fps=1,scale={SMALL[0]}:{SMALL[1]}"),
        *("-f", "rawvideo", "-pix_fmt", "gray", "-"),
    )
    size = SMALL[0] * SMALL[1]
    pictures = [grey[at : at + size] for at in range(0, len(grey), size)]
    assert len(pictures) == 10
    assert all(statistics.pstdev(picture) > 5 for picture in pictures)  # letters on a ground, and no ground alone
    assert len(set(pictures)) >= 4  # a scene of each kind


async def test_what_is_no_browser_and_no_ffmpeg_is_told_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="apt-get install chromium"):
        async with chromium(tmp_path / "nothing"):
            pass
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"no picture")
    with pytest.raises(FilmError, match="apt-get install ffmpeg"):
        await encode([(picture, 1.0)], tmp_path / "film.mp4", Tools(tmp_path / "nothing"))
    with pytest.raises(FilmError, match=r"ended with 1: .*PNG"):
        await encode([(picture, 1.0)], tmp_path / "film.mp4", Tools(Path(told("FLASH_TEST_FFMPEG"))))
    assert not (tmp_path / "film.mp4").exists()
