# The stamp decides whether an environment is whole; pip is only asked when it is not.
from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from flashsale.settings import Settings
from flashsale.stack import environment
from flashsale.stack.exits import Exit, StackError
from tests.patience import PATIENCE_SECONDS


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    lock = tmp_path / "requirements.lock"
    lock.write_text("", encoding="utf-8")
    monkeypatch.setattr(environment, "LOCK", lock)
    # A minute of a slow core, if it had one alone.
    monkeypatch.setattr(environment, "VENV_WITHIN_S", 4 * PATIENCE_SECONDS)
    return Settings.load({"FLASH_HOME": str(tmp_path / "home")})


def quiet(_: str) -> None:
    pass


def test_a_first_start_that_was_interrupted_is_repeated_and_the_next_asks_nobody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = settings.home / "venv" / "bin"
    half.mkdir(parents=True)
    (half / "python").write_text("", encoding="utf-8")
    assert not environment.is_whole(settings)
    python = environment.ensure(settings, quiet)
    assert environment.is_whole(settings)
    assert subprocess.run([str(python), "-c", "import pip"], check=False, timeout=PATIENCE_SECONDS).returncode == 0

    def nobody(*_: object, **__: object) -> None:
        pytest.fail("a whole environment needs no program")

    monkeypatch.setattr(subprocess, "run", nobody)
    assert environment.ensure(settings, quiet) == python


def test_another_lock_file_is_another_environment(settings: Settings) -> None:
    before = environment.stamp_for(environment.LOCK)
    environment.LOCK.write_text("# renewed\n", encoding="utf-8")
    assert environment.stamp_for(environment.LOCK) != before
    assert not environment.is_whole(settings)


def test_a_package_without_a_hash_is_refused_and_leaves_no_stamp(settings: Settings) -> None:
    wheel = settings.home.parent / "tiny-1.0-py3-none-any.whl"  # on disk, so that the refusal needs no network
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    environment.LOCK.write_text(f"tiny @ {wheel.as_uri()}\n", encoding="utf-8")
    with pytest.raises(StackError, match="hash") as caught:
        environment.ensure(settings, quiet)
    assert caught.value.code is Exit.MISSING
    assert not environment.is_whole(settings)
