# Finds or installs Chromium, which the tests of the shoppers' page drive and nothing else needs. Standard library only.
from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from flashsale.settings import FOREIGN_PREFIX, Settings
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.services import SYSTEM_PATH, install, may_install

VARIABLE = f"{FOREIGN_PREFIX}CHROMIUM"  # where the tests learn it, and where a person may name another one
PACKAGE = "chromium"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FIX = f"apt-get install {PACKAGE} (as root), or set {VARIABLE} to a Chromium"


def find(environ: Mapping[str, str]) -> Path | None:
    """The browser to use: the one that is named, else the first on PATH. None if there is none, or not where it should be."""
    if named := environ.get(VARIABLE):
        return Path(named) if os.access(named, os.X_OK) else None
    path = f"{environ.get('PATH', '')}:{SYSTEM_PATH}"
    found = next(filter(None, (shutil.which(program, path=path) for program in PROGRAMS)), None)
    return None if found is None else Path(found)


def ensure(settings: Settings, environ: Mapping[str, str], say: Callable[[str], None]) -> Path:
    """The browser, installed if need be, which takes a minute. Raises StackError with the fix if there is none."""
    if (found := find(environ)) is not None:
        return found
    if environ.get(VARIABLE) or not may_install(settings):
        raise StackError(f"no Chromium for the tests of the page. Fix: {FIX}", Exit.MISSING)
    install([PACKAGE], say)
    found = find(environ)
    if found is None:
        raise StackError(f"installed {PACKAGE}, yet not found. Fix: {FIX}", Exit.MISSING)
    return found
