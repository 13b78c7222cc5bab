"""A terminal that is recorded: real commands, their colours, and their ends."""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.video.terminal import CommandError, Terminal, quietly, render
from tests.patience import PATIENCE_SECONDS

GRID_S = 0.1


def terminal(folder: Path, columns: int = 40) -> Terminal:
    return Terminal(columns, {"PATH": os.environ["PATH"]}, folder, keys_per_s=10_000)


async def test_what_a_command_writes_is_kept_with_its_moment(tmp_path: Path) -> None:
    one = terminal(tmp_path)
    wait = "until test -e more; do sleep 0.05; done"
    running = asyncio.create_task(one.run(f"printf 'first\\n'; {wait}; test -t 1 && printf 'second\\n'"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not running.done() and not any(screen.endswith("\nfirst") for _, screen in one.screens(20, GRID_S)):
            await asyncio.sleep(0.01)
    await asyncio.sleep(2 * GRID_S)  # what comes within one is one screen
    (tmp_path / "more").touch()
    await running
    screens = one.screens(20, GRID_S)
    moments = [at for at, _ in screens]
    assert moments == sorted(moments)
    assert "first" in screens[-1][1]
    assert screens[-1][1].rstrip().endswith("second")
    assert "first" in [screen.splitlines()[-1] for _, screen in screens[:-1]]


async def test_a_command_that_fails_ends_the_recording_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"(?s)ended with 2.*port 8080 is taken. Fix: set FLASH_PORT"):
        await terminal(tmp_path).run("echo 'port 8080 is taken. Fix: set FLASH_PORT'; exit 2")


async def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    one = replace(terminal(tmp_path), within_s=0.05)
    with pytest.raises(CommandError, match="did not end within"):
        await one.run("sleep 600")


async def test_a_command_that_nobody_sees_is_told_of_when_it_fails_and_bounded(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"]}
    assert await quietly([sys.executable, "-c", "print(1)"], environment, tmp_path, 60) == "1\n"
    with pytest.raises(CommandError, match=r"(?s)ended with 3.*no such thing"):
        await quietly(["bash", "-c", "echo no such thing >&2; exit 3"], environment, tmp_path, 60)
    with pytest.raises(CommandError, match="did not end within"):
        await quietly(["sleep", "600"], environment, tmp_path, 0.05)


def test_colours_are_kept_and_what_looks_like_markup_is_text() -> None:
    shown = render("\x1b[1;31mred\x1b[0m <b>\r\n", 40, 5)
    assert 'font-weight:700">red</span>' in shown
    assert "&lt;b&gt;" in shown


def test_the_last_lines_are_shown_cut_at_the_edge() -> None:
    shown = render("".join(f"line {number} {'x' * 60}\r\n" for number in range(9)), 20, 3).splitlines()
    assert len(shown) == 3
    assert shown[-1].startswith("line 8 x")
    assert all(len(line) <= 20 for line in shown)
    assert shown[-1].endswith("…")
