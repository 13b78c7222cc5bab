# The Python environment of everything but the launcher's first step: FLASH_HOME/venv, exactly requirements.lock. A
# stamp written last says that it is whole, so an interrupted installation is repeated and a finished one needs no
# network. Standard library only.
from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from flashsale.settings import REPOSITORY, Settings
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.services import install, may_install

LOCK = REPOSITORY / "requirements.lock"
VENV_WITHIN_S = 120.0
PIP_WITHIN_S = 900.0


def ensure(settings: Settings, say: Callable[[str], None]) -> Path:
    """The environment's Python, made or renewed if need be. Raises StackError with the fix if that fails."""
    venv = settings.home / "venv"
    python = venv / "bin" / "python"
    stamp = venv / "flash-stamp"
    wanted = stamp_for(LOCK)
    if is_whole(settings):
        return python
    settings.home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    # Two first starts at once would install into each other; the second waits and finds the stamp.
    with (settings.home / "venv.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if is_whole(settings):
            return python
        stamp.unlink(missing_ok=True)
        if not _works(python):
            _need_venv_module(settings, say)
            say(f"making the Python environment {venv}")
            _run([sys.executable, "-m", "venv", "--clear", str(venv)], VENV_WITHIN_S, "python3 -m venv")
        say(f"installing {LOCK.name}, every package checked against its hash")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        _run([*pip, "--require-hashes", "--requirement", str(LOCK)], PIP_WITHIN_S, "pip install")
        stamp.write_text(wanted, encoding="ascii")
    return python


def is_whole(settings: Settings) -> bool:
    """Is the environment there, finished, and made from this lock file by this Python?"""
    venv = settings.home / "venv"
    try:
        return (venv / "flash-stamp").read_text(encoding="ascii") == stamp_for(LOCK) and (venv / "bin/python").exists()
    except OSError:
        return False


def stamp_for(lock: Path) -> str:
    """What an environment made now would be stamped with."""
    base = f"{sys.version}\n{sys.base_prefix}\n".encode()
    return hashlib.sha256(base + lock.read_bytes()).hexdigest()


def _works(python: Path) -> bool:
    # A half-made environment has a Python without pip, or one whose base is gone or has another version.
    question = "import pip, sys; print(sys.version, sys.base_prefix, sep='\\n')"
    try:
        done = subprocess.run([str(python), "-c", question], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout == f"{sys.version}\n{sys.base_prefix}\n"


def _need_venv_module(settings: Settings, say: Callable[[str], None]) -> None:
    # Debian ships Python without the part that puts pip into an environment.
    if importlib.util.find_spec("ensurepip") is not None:
        return
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if not may_install(settings):
        raise StackError(f"this Python cannot make environments. Fix: apt-get install {package}", Exit.MISSING)
    install([package], say)


def _run(command: list[str], within_s: float, name: str) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StackError(f"{name} took longer than {within_s:.0f} s; start again to go on", Exit.MISSING) from error
    if done.returncode != 0:
        words = "\n  ".join(done.stdout.splitlines()[-8:])
        raise StackError(f"{name} failed; is a package index reachable?\n  {words}", Exit.MISSING)
