# What `report` says before anything is computed; what it computes is tested where that is done.
from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from flashsale.settings import Settings
from flashsale.stack import report
from flashsale.stack.console import Say
from flashsale.stack.exits import Exit, StackError


async def refused(home: Path, *words: str) -> StackError:
    settings = Settings.load({"FLASH_HOME": str(home)})
    with pytest.raises(StackError) as error:
        await report.run(argparse.Namespace(what=list(words), json=True), settings, Say())
    return error.value


async def test_without_a_run_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    for words in ((), ("20261130T080000Z-0a1b2c3d",), ("diff", "a", "b")):
        error = await refused(tmp_path, *words)
        assert error.code == Exit.MISSING
        assert "./flash bench standard" in str(error)


@pytest.mark.parametrize("words", [("a", "b"), ("diff",), ("diff", "a"), ("diff", "a", "b", "c")])
async def test_too_many_or_too_few_runs_are_bad_usage(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert (await refused(tmp_path, *words)).code == Exit.USAGE


async def test_what_is_no_run_ends_with_the_word_of_who_reads_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, ended in (
        ("20261128T080000Z-00000000", "2026"),
        ("20261129T080000Z-00000000", "2026"),
        ("20261130T080000Z-00000000", ""),
    ):
        (tmp_path / "comparison" / name).mkdir(parents=True)
        (tmp_path / "comparison" / name / "run.json").write_text(f'{{"ended_at": "{ended}"}}')
    settings = Settings.load({"FLASH_HOME": str(tmp_path)})
    assert await report.run(argparse.Namespace(what=[], json=True), settings, Say()) == Exit.MISSING
    assert "20261129T080000Z-00000000 cannot be read" in capfd.readouterr().err  # the latest that came to its end
