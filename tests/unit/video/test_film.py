"""What becomes of ffmpeg when the film is not to be made after all. What it makes is looked at in tests/browser."""

import asyncio
import os
from pathlib import Path

import pytest

from scripts.video.film import Tools, probe
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
