# The browser of the tests: the named one, else one on PATH, else Debian's package, else an error with the fix.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from flashsale.settings import Settings
from flashsale.stack import browser
from flashsale.stack.exits import Exit, StackError


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of one empty folder; the system's own folders are not looked into."""
    monkeypatch.setattr(browser, "SYSTEM_PATH", "")
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
    assert browser.find({"PATH": str(path), browser.VARIABLE: str(named)}) == named
    monkeypatch.setattr(browser, "may_install", lambda _: True)
    with pytest.raises(StackError, match=browser.VARIABLE) as told:
        browser.ensure(Settings.load({}), {"PATH": str(path), browser.VARIABLE: str(path / "nothing")}, quiet)
    assert told.value.code == Exit.MISSING


def test_one_on_path_is_used_and_nothing_is_installed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = put(path / "chromium-browser")
    monkeypatch.setattr(browser, "install", lambda *_: pytest.fail("there is one"))
    assert browser.ensure(Settings.load({}), {"PATH": str(path), browser.VARIABLE: ""}, quiet) == found


def test_a_missing_one_is_installed_where_that_is_allowed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def install(packages: Sequence[str], _: object) -> None:
        asked.extend(packages)
        put(path / "chromium")

    monkeypatch.setattr(browser, "install", install)
    with pytest.raises(StackError, match="apt-get install chromium"):
        browser.ensure(Settings.load({"FLASH_APT": "off"}), {"PATH": str(path)}, quiet)
    monkeypatch.setattr(browser, "may_install", lambda _: True)
    assert browser.ensure(Settings.load({}), {"PATH": str(path)}, quiet) == path / "chromium"
    assert asked == ["chromium"]


def test_an_installation_that_brings_nothing_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "may_install", lambda _: True)
    monkeypatch.setattr(browser, "install", lambda *_: None)
    with pytest.raises(StackError, match="yet not found"):
        browser.ensure(Settings.load({}), {"PATH": str(path)}, quiet)
