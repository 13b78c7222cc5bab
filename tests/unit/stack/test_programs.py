# What the tests drive: the named one, else one on PATH, else Debian's package, else an error with the fix.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from flashsale.settings import Settings
from flashsale.stack import programs
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.programs import CHROMIUM


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of one empty folder; the system's own folders are not looked into."""
    monkeypatch.setattr(programs, "SYSTEM_PATH", "")
    return tmp_path


def put(path: Path) -> Path:
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def quiet(_: str) -> None:
    pass


def test_the_named_one_wins_and_is_never_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path / "chromium")
    named = put(path / "mine")
    assert programs.find(CHROMIUM, {"PATH": str(path), CHROMIUM.variable: str(named)}) == named
    monkeypatch.setattr(programs, "may_install", lambda _: True)
    with pytest.raises(StackError, match=CHROMIUM.variable) as told:
        programs.ensure(
            [CHROMIUM], Settings.load({}), {"PATH": str(path), CHROMIUM.variable: str(path / "nothing")}, quiet
        )
    assert told.value.code == Exit.MISSING


def test_one_on_path_is_used_and_nothing_is_installed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = put(path / "chromium-browser")
    monkeypatch.setattr(programs, "install", lambda *_: pytest.fail("there is one"))
    assert programs.ensure([CHROMIUM], Settings.load({}), {"PATH": str(path), CHROMIUM.variable: ""}, quiet) == {
        CHROMIUM.variable: str(found)
    }


def test_a_missing_one_is_installed_where_that_is_allowed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def install(packages: Sequence[str], _: object) -> None:
        asked.extend(packages)
        put(path / "chromium")

    monkeypatch.setattr(programs, "install", install)
    with pytest.raises(StackError, match="apt-get install chromium"):
        programs.ensure([CHROMIUM], Settings.load({"FLASH_APT": "off"}), {"PATH": str(path)}, quiet)
    monkeypatch.setattr(programs, "may_install", lambda _: True)
    assert programs.ensure([CHROMIUM], Settings.load({}), {"PATH": str(path)}, quiet) == {
        CHROMIUM.variable: str(path / "chromium")
    }
    assert asked == ["chromium"]


def test_an_installation_that_brings_nothing_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "may_install", lambda _: True)
    monkeypatch.setattr(programs, "install", lambda *_: None)
    with pytest.raises(StackError, match="yet not found"):
        programs.ensure([CHROMIUM], Settings.load({}), {"PATH": str(path)}, quiet)


def test_what_is_there_is_not_installed_again_beside_what_is_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path / "chromium")
    put(path / "nginx")
    monkeypatch.setattr(programs, "may_install", lambda _: True)
    monkeypatch.setattr(programs, "install", lambda packages, _: [put(path / name) for name in packages])
    found = programs.ensure(programs.PROGRAMS, Settings.load({}), {"PATH": str(path)}, quiet)
    names = ("chromium", "ffmpeg", "nginx", "haproxy")
    assert found == {f"FLASH_TEST_{name.upper()}": str(path / name) for name in names}
