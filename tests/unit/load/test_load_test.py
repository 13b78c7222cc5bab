"""What scripts/load-test hands to Locust, which is a stand-in here that says its words."""

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from flashsale.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS

OWN = {"FLASH_JWT_SECRET": "s" * 40}


def started(home: Path, settings: dict[str, str], words: list[str]) -> subprocess.CompletedProcess[str]:
    python = home / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    return subprocess.run(
        ["sh", str(REPOSITORY / "scripts/load-test"), *words],
        env={"PATH": os.environ["PATH"], "FLASH_HOME": str(home), **settings},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def given(done: subprocess.CompletedProcess[str], option: str) -> list[str]:
    """Each value of an option, in order."""
    assert done.returncode == 0, done.stderr
    return [word for before, word in itertools.pairwise(done.stdout.splitlines()) if before == option]


@pytest.mark.parametrize(
    ("settings", "words", "secrets"),
    [
        ({}, [], ["{home}/jwt_secret"]),
        ({"FLASH_AUTH": "off", **OWN}, [], []),
        (OWN, ["--secret-file", "mine"], ["mine"]),
        (OWN, [], None),
    ],
)
def test_tokens_are_signed_as_the_launcher_has_the_shop_believe_them(
    tmp_path: Path, settings: dict[str, str], words: list[str], secrets: list[str] | None
) -> None:
    home = tmp_path / "it's home"
    done = started(home, settings, words)
    if secrets is None:
        assert (done.returncode, "--secret-file FILE" in done.stderr) == (2, True)
        return
    assert given(done, "--secret-file") == [word.format(home=home) for word in secrets]


def test_shoppers_go_where_the_launcher_has_the_balancer_listen_or_where_they_are_told(tmp_path: Path) -> None:
    done = started(tmp_path, {"FLASH_PORT": "18123"}, ["--host", "http://shop.example"])
    assert given(done, "--host") == ["http://127.0.0.1:18123", "http://shop.example"]  # of two Locust takes the last
