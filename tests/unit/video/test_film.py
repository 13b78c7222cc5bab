"""What becomes of ffmpeg, and of the film before, when no film is made after all. What ffmpeg makes is looked at in tests/browser."""

import asyncio
import os
from pathlib import Path

import pytest

from scripts.video.film import BYTES_MAX, FilmError, Tools, encode, probe
from tests.patience import PATIENCE_SECONDS


async def test_whoever_is_told_to_stop_while_ffmpeg_works_ends_it(tmp_path: Path) -> None:
    tools = Tools(tmp_path / "ffmpeg")
    told = tmp_path / "pid"
    tools.ffprobe.write_text(f"#!/bin/sh\necho $$ > {told}\nexec sleep 600\n")
    tools.ffprobe.chmod(0o700)
    task = asyncio.create_task(probe(tmp_path / "film.mp4", tools))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not task.done() and not (told.exists() and told.read_text()):
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


@pytest.mark.parametrize(("code", "size", "why"), [(0, BYTES_MAX + 1, "allowed: 10,000,000"), (1, 9, "ended with 1")])
async def test_a_film_that_is_refused_leaves_the_one_before_and_nothing_else(
    code: int, size: int, why: str, tmp_path: Path
) -> None:
    tools = Tools(tmp_path / "programs" / "ffmpeg")
    tools.ffmpeg.parent.mkdir()
    # The last word of ffmpeg's is the file that it writes.
    tools.ffmpeg.write_text(f'#!/bin/sh\nfor file; do :; done\necho new > "$file"\nexit {code}\n')
    stream = '{"codec_name": "h264", "width": 1, "height": 1, "pix_fmt": "yuv420p", "avg_frame_rate": "10/1"}'
    said = f'{{"streams": [{stream}], "format": {{"duration": "1.0", "size": "{size}"}}}}'
    tools.ffprobe.write_text(f"#!/bin/sh\necho '{said}'\n")
    for program in (tools.ffmpeg, tools.ffprobe):
        program.chmod(0o700)
    film = tmp_path / "reports" / "film.mp4"
    film.parent.mkdir()
    film.write_text("good")
    with pytest.raises(FilmError, match=why):
        await encode([(tmp_path / "picture.png", 1.0)], film, tools)
    assert film.read_text() == "good"
    assert list(film.parent.iterdir()) == [film]
