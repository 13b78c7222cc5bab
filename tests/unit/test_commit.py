"""Which commit a figure or a certificate is of: this project's, or none that is known."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flashsale.proof import certificate
from flashsale.stack import bench
from tests.gits import git

UNKNOWN = {"bench": "unknown", "certificate": None}
ASK: dict[str, Callable[[], str | None]] = {
    "bench": bench._commit,
    "certificate": lambda: certificate._git("rev-parse", "HEAD"),
}


def clone(folder: Path) -> str | None:
    """A commit in a repository of its own; None where nobody has git."""
    if shutil.which("git") is None:
        return None
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "one")
    return git(folder, "rev-parse", "HEAD")


@pytest.mark.parametrize("who", ASK)
def test_it_is_that_of_the_clone_and_never_of_one_that_it_lies_in(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = clone(tmp_path / "clone")
    # as in a hook of another project
    monkeypatch.setenv("GIT_WORK_TREE", str(Path(__file__).parent))
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    module = {"bench": bench, "certificate": certificate}[who]
    monkeypatch.setattr(module, "REPOSITORY", tmp_path / "clone")
    assert ASK[who]() == (commit or UNKNOWN[who])
    (tmp_path / "clone" / "unpacked").mkdir(parents=True)
    monkeypatch.setattr(module, "REPOSITORY", tmp_path / "clone" / "unpacked")
    assert ASK[who]() == UNKNOWN[who]
