"""How the making of a film ends when it is not to go on."""

import argparse
import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from scripts.video import __main__ as video
from scripts.video.shop import alone
from tests.patience import PATIENCE_SECONDS

WORDS = ("--out", "film.mp4", "--chromium", "chromium", "--ffmpeg", "ffmpeg", "--home")
TURNS = 100  # of the loop, which sees a signal to its own process in the next


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGINT)],
)
def test_whoever_is_told_twice_to_stop_still_stops_what_it_started(
    first: signal.Signals, second: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []

    async def making(_: argparse.Namespace) -> dict[str, Any]:
        try:
            os.kill(os.getpid(), first)
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            os.kill(os.getpid(), second)
            for _turn in range(TURNS):
                await asyncio.sleep(0)
            stopped.append("the shop")
        return {}

    monkeypatch.setattr(video, "_make", making)
    assert video.main([*WORDS, str(tmp_path)]) == 130
    assert stopped == ["the shop"]


def test_a_second_film_in_the_same_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def making(_: argparse.Namespace) -> dict[str, Any]:
        raise AssertionError("begun")

    monkeypatch.setattr(video, "_make", making)
    with alone(tmp_path):
        assert video.main([*WORDS, str(tmp_path)]) == 1
    assert "another film is being made" in capsys.readouterr().err
    with alone(tmp_path):
        pass
