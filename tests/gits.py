"""git on a repository of a test's own: whatever the caller's environment or configuration says, nobody else's is touched."""

import os
import subprocess
from pathlib import Path

from tests.patience import PATIENCE_SECONDS


def git(folder: Path, *words: str) -> str:
    """What it says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook's GIT_DIR, say
    who = {f"GIT_{role}_{what}": "ana@shop" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        env=kept | who | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    return done.stdout.strip()
