"""How the making of a film ends when it is not to go on."""

import argparse
import signal
from pathlib import Path
from typing import Any

import pytest

from scripts.video import __main__ as video
from scripts.video.shop import alone
from tests.stopped import ORDERS, Stopped

WORDS = ("--out", "film.mp4", "--chromium", "chromium", "--ffmpeg", "ffmpeg", "--home")


@pytest.mark.parametrize(("first", "second"), ORDERS)
def test_whoever_is_told_twice_to_stop_still_stops_what_it_started(
    first: signal.Signals, second: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making = Stopped(first, second)
    monkeypatch.setattr(video, "_make", making)
    assert video.main([*WORDS, str(tmp_path)]) == 130
    assert making.is_tidy


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
