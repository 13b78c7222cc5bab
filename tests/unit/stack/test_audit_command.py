# What `./flash audit` runs for its options, and as whom.
from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from flashsale.settings import Settings
from flashsale.stack.checks import CERTIFICATE_KEY, audit_command, audit_options
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.roles import DatabaseRole, OneShot

AUDITOR, CERTIFICATE, REPAIR = (f"flashsale.proof.{name}" for name in ("auditor", "certificate", "repair"))


def asked(words: str, home: Path, *, as_json: bool = False) -> OneShot:
    parser = argparse.ArgumentParser()
    audit_options(parser)
    parsed = parser.parse_args(words.split())
    parsed.json = as_json
    return audit_command(parsed, Settings.load({"FLASH_HOME": str(home)}))


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ("", [AUDITOR]),
        ("--sale s", [AUDITOR, "--sale", "s"]),
        ("--certify s --out /f", [CERTIFICATE, "--sale", "s", "--out", "/f", "--key"]),
        ("--verify /f", [CERTIFICATE, "--verify", "/f"]),
        ("--verify /f --fingerprint ab", [CERTIFICATE, "--verify", "/f", "--fingerprint", "ab"]),
        ("--repair", [REPAIR]),
        ("--repair --out /f", [REPAIR, "--out", "/f"]),
        ("--apply /p --operator o --reason r", [REPAIR, "--apply", "/p", "--operator", "o", "--reason", "r"]),
    ],
)
def test_each_question_has_its_process(words: str, runs: list[str], tmp_path: Path) -> None:
    shot = asked(words, tmp_path)
    key = [str(tmp_path / CERTIFICATE_KEY)] if "--certify" in words else []
    assert list(shot.arguments) == ["-m", *runs, *key]
    assert shot.database is (DatabaseRole.OPERATOR if "--apply" in words else DatabaseRole.AUDITOR)
    assert asked(words, tmp_path, as_json=True).arguments == (*shot.arguments, "--json")


@pytest.mark.parametrize(
    "words",
    [
        "--certify s",
        "--apply /p",
        "--apply /p --operator o",
        "--apply /p --reason r",
        "--out /f",
        "--verify /f --out /g",
        "--repair --operator o",
        "--sale s --reason r",
        "--certify s --out /f --fingerprint ab",
    ],
)
def test_options_that_do_not_fit_together_are_refused(words: str, tmp_path: Path) -> None:
    with pytest.raises(StackError) as caught:
        asked(words, tmp_path)
    assert caught.value.code is Exit.USAGE
