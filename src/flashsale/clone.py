"""What git knows of one clone, and of no other that the environment or a folder above may mean. Standard library only: the launcher
asks before anything is installed.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path

WITHIN_S = 60.0


def ask_git(root: Path, environment: Mapping[str, str], *words: str) -> bytes:
    """What it says. Raises OSError where there is no git, SubprocessError where it refuses or takes too long."""
    # --git-dir, because an unpacked archive has none, and a folder above it may be another project's clone; told so, git does not ask
    # who owns it either. A hook of another project's gives its own index and tree besides, and no option overrides an index.
    kept = {name: value for name, value in environment.items() if not name.startswith("GIT_")}
    git = ("git", "-C", str(root), "--git-dir", str(root / ".git"), "-c", "core.fsmonitor=false")
    return subprocess.run([*git, *words], env=kept, capture_output=True, timeout=WITHIN_S, check=True).stdout
