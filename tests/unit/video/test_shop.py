"""What the filmed engine is told of the caller's settings."""

from pathlib import Path

from scripts.video.shop import environment, made_home


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


def test_a_home_is_new_and_the_environment_outlives_it(tmp_path: Path) -> None:
    home = made_home(tmp_path)
    (home / "up").mkdir()
    python = (home / "venv" / "bin").resolve()
    assert python.exists()
    assert not (made_home(tmp_path) / "up").exists()
    assert python.exists()
