"""What scripts/load-test hands to Locust, which is a stand-in here that says its words."""

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from flashsale.settings import REPOSITORY
from tests.patience import PATIENCE_SECONDS

OWN = {"FLASH_JWT_SECRET": "s" * 40}


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
    python = home / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["sh", str(REPOSITORY / "scripts/load-test"), *words],
        env={"PATH": os.environ["PATH"], "FLASH_HOME": str(home), **settings},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    if secrets is None:
        assert (done.returncode, "--secret-file FILE" in done.stderr) == (2, True)
        return
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [word for before, word in itertools.pairwise(said) if before == "--secret-file"] == [
        word.format(home=home) for word in secrets
    ]
