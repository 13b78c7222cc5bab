# Finds or installs what the engine does without: Chromium, in which the tests look at the pages and which the film shows, ffmpeg for
# the film, and the proxies that the balancer is compared with. Standard library only.
from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flashsale.settings import FOREIGN_PREFIX, Settings
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.services import SYSTEM_PATH, install, may_install


class Program(NamedTuple):
    """One of them: the Debian package it is in, and what it may be called there and elsewhere."""

    package: str
    names: tuple[str, ...]

    @property
    def variable(self) -> str:
        """Where the tests learn it, and where a person may name another one."""
        return f"{FOREIGN_PREFIX}{self.package.upper()}"

    @property
    def fix(self) -> str:
        """The one command that obtains it."""
        return f"apt-get install {self.package} (as root), or set {self.variable} to one"


CHROMIUM = Program("chromium", ("chromium", "chromium-browser", "google-chrome"))
FFMPEG = Program("ffmpeg", ("ffmpeg",))
# What the tests drive.
PROGRAMS = (CHROMIUM, FFMPEG, Program("nginx", ("nginx",)), Program("haproxy", ("haproxy",)))


def find(program: Program, environ: Mapping[str, str]) -> Path | None:
    """The one to use: the one that is named, else the first on PATH. None if there is none, or not where it should be."""
    if named := environ.get(program.variable):
        return Path(named) if os.access(named, os.X_OK) else None
    path = f"{environ.get('PATH', '')}:{SYSTEM_PATH}"
    found = next(filter(None, (shutil.which(name, path=path) for name in program.names)), None)
    return None if found is None else Path(found)


def ensure(
    programs: Sequence[Program], settings: Settings, environ: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, str]:
    """Where they are, by their variables; installed if need be, which takes a minute. Raises StackError with the fix."""
    missing = [program for program in programs if find(program, environ) is None]
    for program in missing:
        if environ.get(program.variable) or not may_install(settings):
            raise StackError(f"no {program.package} here. Fix: {program.fix}", Exit.MISSING)
    if missing:
        install([program.package for program in missing], say)
    found = {program.variable: find(program, environ) for program in programs}
    for program in missing:
        if found[program.variable] is None:
            raise StackError(f"installed {program.package}, yet not found. Fix: {program.fix}", Exit.MISSING)
    return {variable: str(path) for variable, path in found.items()}
