"""How the making of a film ends when it is not to go on."""

import argparse
import asyncio
import os
import signal
from typing import Any

import pytest

from scripts.video import __main__ as video
from tests.patience import PATIENCE_SECONDS

WORDS = ("--out", "film.mp4", "--home", "home", "--chromium", "chromium", "--ffmpeg", "ffmpeg")
TURNS = 100  # of the loop, which sees a signal to its own process in the next


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGINT)],
)
def test_whoever_is_told_twice_to_stop_still_stops_what_it_started(
    first: signal.Signals, second: signal.Signals, monkeypatch: pytest.MonkeyPatch
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
    assert video.main(WORDS) == 130
    assert stopped == ["the shop"]
