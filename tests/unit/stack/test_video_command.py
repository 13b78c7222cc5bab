# What `video` needs before it starts anything; what it makes is tested where that is done.
from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from flashsale.settings import Settings
from flashsale.stack import video
from flashsale.stack.console import Say
from flashsale.stack.exits import Exit, StackError


@pytest.mark.parametrize("missing", ["ffmpeg", "chromium"])
async def test_without_a_program_the_command_that_obtains_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in ("ffmpeg", "chromium"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\n", encoding="utf-8")
        program.chmod(0o644 if name == missing else 0o755)
        monkeypatch.setenv(f"FLASH_TEST_{name.upper()}", str(program))
    settings = Settings.load({"FLASH_HOME": str(tmp_path / "home")})
    with pytest.raises(StackError, match=f"apt-get install {missing}") as told:
        await video.run(argparse.Namespace(quick=True, out=None, json=True), settings, Say())
    assert told.value.code == Exit.MISSING
    assert not (tmp_path / "home").exists()
