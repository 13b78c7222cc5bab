"""A run's folder as it was left: every trial that came to its end, and its tables when they are asked for."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.comparison.contract import (
    Event,
    Planned,
    Run,
    Trial,
    read_events,
    read_frame,
    read_run,
    read_trial,
    trial_folders,
)

if TYPE_CHECKING:
    import pandas as pd


class UnreadableError(Exception):
    """Why a run cannot be reported, in words for the person at the terminal."""


@dataclass(frozen=True)
class Case:
    """What is compared as one thing: a scenario, or one step of a series."""

    scenario: str
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.scenario} {self.variant}".strip()

    @property
    def slug(self) -> str:
        """The name, as part of a file's."""
        return "".join(letter if letter.isalnum() else "_" for letter in self.name)


@dataclass(frozen=True)
class Left:
    """What one trial left."""

    folder: Path
    planned: Planned
    trial: Trial
    events: tuple[Event, ...]

    @property
    def case(self) -> Case:
        return Case(self.trial.scenario, self.trial.variant)

    def frame(self, name: str) -> "pd.DataFrame":
        """Read anew each time: all tables of a run are more than memory is for."""
        return read_frame(self.folder, name)


@dataclass(frozen=True)
class RunLeft:
    """What a run left."""

    folder: Path
    run: Run
    trials: tuple[Left, ...]
    lab: Mapping[str, Any] | None
    lab_file: Path | None

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """In the order of the plan."""
        return tuple(dict.fromkeys(left.case for left in self.trials))

    def of(self, case: Case) -> list[Left]:
        return [left for left in self.trials if left.case == case]

    def changed_files(self) -> list[str]:
        """Those that are not what the manifest says they were: figures of such a run are of something else."""
        return [
            path
            for path, said in self.run.checksums.items()
            if not (self.folder / path).is_file() or checksum(self.folder / path) != said
        ]


def checksum(path: Path) -> str:
    """SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(folder: Path, lab_file: Path | None = None) -> RunLeft:
    """Raises UnreadableError for what is no run, has no trial, or was changed since. A run's own lab.json goes before the given one."""
    try:
        run = read_run(folder)
        trials = tuple(
            Left(path, planned, read_trial(path), tuple(read_events(path)))
            for planned, path in trial_folders(folder, run)
        )
        own = folder / "lab.json"
        chosen = own if own.exists() else lab_file
        lab = json.loads(chosen.read_text(encoding="utf-8")) if chosen else None
        left = RunLeft(folder, run, trials, lab, chosen)
    except FileNotFoundError as error:
        raise UnreadableError(f"{folder} is no comparison's run: {error.filename} is missing") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UnreadableError(f"{folder} cannot be read: {error}") from error
    if not trials:
        raise UnreadableError(f"{folder} has no trial that came to its end")
    if changed := left.changed_files():
        raise UnreadableError(
            f"{folder} is not what the run left: {', '.join(changed[:3])} differ from the checksums in run.json"
        )
    return left
