"""What the filmed engine is told of the caller's settings."""

import asyncio
from pathlib import Path

import pytest

from scripts.video.shop import Shop, environment, made_home
from scripts.video.terminal import CommandError


def test_a_film_is_the_same_whatever_somebody_has_set_but_for_its_ports() -> None:
    given = {
        "PATH": "/bin",
        "FLASH_STOCK": "5",
        "FLASH_POSTGRES_URL": "postgres://elsewhere/",
        "LB_ALGORITHM": "consistent_hash",
        "FLASH_PORT": "0",
        "FLASH_TEST_CHROMIUM": "/opt/chromium",
        "FLASH_HOME": "/somewhere",
    }
    seen = environment(given, Path("/home"))
    assert seen["FLASH_PORT"] == "0"
    assert seen["FLASH_TEST_CHROMIUM"] == "/opt/chromium"
    assert seen["FLASH_HOME"] == "/home"
    assert not {"FLASH_STOCK", "FLASH_POSTGRES_URL", "LB_ALGORITHM"} & seen.keys()


async def test_a_home_is_new_and_the_environment_outlives_it(tmp_path: Path) -> None:
    home = await made_home(tmp_path, {})
    (home / "data").mkdir()
    python = (home / "venv" / "bin").resolve()
    assert python.exists()
    assert not (await made_home(tmp_path, {}) / "data").exists()
    assert python.exists()


async def test_the_home_of_a_shop_that_may_run_goes_once_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    stops = False

    async def flash(_: Shop, *words: str) -> None:
        asked.append(words)
        if not stops:
            raise CommandError("it goes on")

    monkeypatch.setattr(Shop, "flash", flash)
    up = await made_home(tmp_path, {}) / "up"
    up.mkdir()
    with pytest.raises(CommandError, match="it goes on"):
        await made_home(tmp_path, {})
    assert up.exists()
    stops = True
    await made_home(tmp_path, {})
    assert not up.exists()
    assert asked == [("down",)] * 2


async def test_whoever_is_told_to_stop_while_the_shop_is_being_stopped_sees_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on, stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def flash(_: Shop, *_words: str) -> None:
        begun.set()
        await goes_on.wait()
        stopped.set()

    monkeypatch.setattr(Shop, "flash", flash)
    (tmp_path / "up").mkdir()
    closing = asyncio.create_task(Shop(tmp_path, {}).close())
    await begun.wait()
    closing.cancel()
    await asyncio.sleep(0)  # it hears of that
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert stopped.is_set()
