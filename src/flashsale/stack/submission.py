# `submission`: is everything there that was asked for, and one archive of it. What was asked for stands in submission-checklist.md,
# line by line, and in LAYOUT. Nothing is run here: a line's command is held against the command line's own parser, and the tests
# run it. Nothing is written unless all of it holds. Standard library only: whoever hands in need not install anything first.
from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import stat
import subprocess
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from flashsale.clone import ask_git
from flashsale.settings import REPOSITORY
from flashsale.stack.console import Say
from flashsale.stack.documents import TO_COME, ChecklistError, Line, checklist, flash_words, refusal
from flashsale.stack.exits import Exit, StackError

CHECKLIST = "submission-checklist.md"
SUMS = "SHA256SUMS"  # in an archive: what it holds, for `sha256sum -c`; and where it was unpacked, by its names alone, for `submission`
NAME = re.compile(r"[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*")
NAME_BYTES_MAX = 100  # twice that and the rest of a file's name is less than the 255 that file systems take
ARCHIVE_BYTES_MAX = 500 * 10**6  # asked for
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of the format: a file's time is no part of what is handed in
UNIX = 3

RESULTS = "reports/results.json"
# What must be of the run that RESULTS is of. Contents are compared, since a clone gives every file the time of the clone.
OF_THE_RUN = ("reports/ANALYSIS_REPORT.pdf", "reports/report.html", "tests/results/summary.json")

# What the assignment calls otherwise, or looks for elsewhere, and where it lives.
FILES = {"ANALYSIS_REPORT.pdf": "reports/ANALYSIS_REPORT.pdf", "demo-video.mp4": "reports/demo-video.mp4"}
FOLDERS = {
    "src/implementation-1": ("src/flashsale/backends/asyncio_redis", "src/flashsale/gate", "src/flashsale/lane"),
    "src/implementation-2": ("src/flashsale/backends/gevent_rabbit", "src/flashsale/edge", "src/flashsale/queued"),
    "src/load-balancer": ("loadbalancer",),
    "tests/load-tests": ("benchmarks/locustfile.py", "benchmarks/comparison/scenarios", "scripts/load-test"),
}
NOTE = "README.md"
LAYOUT = (
    *("README.md", "ARCHITECTURE.md", CHECKLIST, "docker-compose.yml"),
    *FILES,
    *(f"{folder}/" for folder in FOLDERS),
    "tests/results/",
    *(f"benchmarks/{name}.png" for name in ("latency-comparison", "throughput-comparison", "resource-usage")),
)


class Problem(NamedTuple):
    """What does not hold, and what to do about it."""

    where: str
    what: str
    fix: str


def options(parser: argparse.ArgumentParser) -> None:
    for name in ("lastname", "firstname"):
        parser.add_argument(name, type=_name, metavar=name.upper(), help="letters, with - or ' between them")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="FOLDER", help="where the archive goes (default: this folder)"
    )


def _name(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    if not NAME.fullmatch(text) or len(text.encode()) > NAME_BYTES_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name of letters, with single - or ' between them, of {NAME_BYTES_MAX} bytes at most"
        )
    return text


def run(parsed: argparse.Namespace, parse: Callable[[list[str]], object], say: Say) -> int:
    """Check the tree, then write the archive. Raises StackError where there is no tree to check, or no place to write to."""
    if not parsed.out.is_dir():
        raise StackError(f"{parsed.out} is no folder. Fix: mkdir -p {parsed.out}", Exit.USAGE)
    files = project(belonging(REPOSITORY))
    problems = find_problems(REPOSITORY, files, parse)
    path = parsed.out / f"{parsed.lastname}_{parsed.firstname}_backend_project.zip"
    found: dict[str, object] = {
        "passed": not problems,
        "problems": [one._asdict() for one in problems],
        "archive": None,
    }
    if not problems:
        say(f"packing {len(files)} files")
        found |= {"archive": str(path), "files": len(files), **write(REPOSITORY, files, path)}
    if parsed.json:
        print(json.dumps(found))
    elif problems:
        for problem in problems:
            print(f"{problem.where}: {problem.what}. Fix: {problem.fix}")
        say(f"{len(problems)} of what was asked for is not as it should be; nothing was written")
    else:
        print(f"{path}\n{found['files']} files, {found['bytes']} bytes, sha256 {found['sha256']}")
    return Exit.FAILED if problems else Exit.OK


# --- what belongs to the project


def project(belong: Iterable[str]) -> dict[str, str]:
    """Every file of an archive: its name there, and its name in the project; none for the notes beside copies."""
    added = tuple(f"{folder}/" for folder in FOLDERS)
    names = sorted(name for name in belong if name not in {*FILES, SUMS} and not name.startswith(added))
    files = {name: name for name in names}
    files |= {name: source for name, source in FILES.items() if source in files}
    for folder, sources in FOLDERS.items():
        for source in sources:
            last = source.rpartition("/")[2]
            files |= {
                f"{folder}/{last}{name.removeprefix(source)}": name
                for name in names
                if name == source or name.startswith(f"{source}/")
            }
        files[f"{folder}/{NOTE}"] = ""
    return files


def belonging(root: Path) -> list[str]:
    """The names of the project's files. Raises StackError if nobody can say what belongs to it."""
    # Not a walk: what lies about beside the project, secrets perhaps, must not be handed in.
    if (root / ".git").exists():
        try:
            said = ask_git(root, os.environ, "ls-files", "-z")
        except subprocess.CalledProcessError as error:
            raise StackError(f"git ls-files: {error.stderr.decode(errors='replace').strip()}", Exit.MISSING) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StackError(f"git cannot be asked what belongs to the project: {error}", Exit.MISSING) from error
        return [os.fsdecode(name) for name in said.split(b"\0") if name]
    try:
        return [line.partition("  ")[2] for line in (root / SUMS).read_text(encoding="utf-8").splitlines()]
    except OSError:
        raise StackError(
            f"{root} is neither a git clone nor an unpacked archive, so nobody can say what belongs to it. "
            "Fix: git init && git add -A",
            Exit.MISSING,
        ) from None


# --- what must hold


def find_problems(root: Path, files: Mapping[str, str], parse: Callable[[list[str]], object]) -> list[Problem]:
    """Everything that does not hold, in the order in which a person would look."""
    unfit = [
        # what is not UTF-8 is no text here either, and neither the list nor a terminal could say it
        Problem(ascii(name), "is a name that is not UTF-8, or holds what is not printed", "git mv it to another")
        for name in files
        if not name.isprintable()
    ]
    if unfit:
        return unfit
    gone = [
        Problem(name, "belongs to the project and is not here", f"git restore {name}, or unpack again")
        for name, source in files.items()
        if name == source and not (root / source).is_file()
    ]
    if gone:
        return gone  # whatever else would be said follows from it
    try:
        lines = checklist((root / CHECKLIST).read_text(encoding="utf-8"))
    except (OSError, ChecklistError) as error:
        return [Problem(CHECKLIST, str(error), "a row is | requirement | file | proof | command |")]
    missing = {name for line in lines for name in line.files if not _holds(files, name)}
    return [
        *(problem for line in lines for problem in _problems_of(line, missing, root, parse)),
        # what no line names
        *(
            Problem("archive", f"{name} would not be in it", _added(root, place) or f"give it a line in {CHECKLIST}")
            for name in LAYOUT
            if not _holds(files, name) and (place := FILES.get(name, name)) not in missing
        ),
        *_stale(root, files),
    ]


def _problems_of(
    line: Line, missing: AbstractSet[str], root: Path, parse: Callable[[list[str]], object]
) -> Iterable[Problem]:
    where = f"{CHECKLIST}:{line.number}"
    makes = " && ".join(line.commands)
    for name in line.files:
        if name in missing:
            fix = makes if line.is_to_come else "restore it, or correct the line"
            yield Problem(where, f"{name} is not in the project", _added(root, name) or fix)
    if line.is_to_come and missing.isdisjoint(line.files):
        yield Problem(where, "all that it names is there", f"strike “{TO_COME}” from it")
    if not line.files or not line.commands:
        yield Problem(where, "names no file, or no command", "every line has both")
    for command in line.commands:
        try:
            refused = next(filter(None, (refusal(parse, words) for words in flash_words(command))), None)
        except ValueError as error:  # of a quote that is left open
            refused = str(error)
        if refused:
            yield Problem(where, f"`{command}` is no command: {refused}", "./flash --help")


def _added(root: Path, name: str) -> str | None:
    # It was made, and git was not told.
    try:
        return f"git add {name}" if next(root.glob(name), None) else None
    # What is no name from the root: `/metrics`, or longer than names can be.
    except (NotImplementedError, ValueError, OSError):
        return None


def _holds(files: Mapping[str, str], name: str) -> bool:
    if name.endswith("/"):
        return any(one.startswith(name) and source for one, source in files.items())
    return name in files or ("*" in name and any(fnmatchcase(one, name) for one in files))


def _stale(root: Path, files: Mapping[str, str]) -> Iterable[Problem]:
    if RESULTS not in files:
        return
    try:
        run = str(json.loads((root / RESULTS).read_text(encoding="utf-8"))["run"]["name"])
    except (ValueError, KeyError, TypeError) as error:
        yield Problem(RESULTS, f"cannot be read: {error!r}", "./flash report")
        return
    for name in OF_THE_RUN:
        if name in files and run.encode() not in (root / name).read_bytes():
            yield Problem(name, f"is not of {run}, which {RESULTS} is of", "./flash report")
    if f"reports/results/{run}.tar" not in files:
        yield Problem(RESULTS, f"the raw files of {run} are not beside it", "./flash report && git add reports/results")


# --- the archive


def write(root: Path, files: Mapping[str, str], path: Path, bytes_max: int = ARCHIVE_BYTES_MAX) -> dict[str, object]:
    """
    The archive, whole or not at all; equal trees give equal bytes. Returns its size and checksum. Raises StackError if it is too
    large, or cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    sums = []
    try:
        with zipfile.ZipFile(part, "w") as archive:
            for name, source in sorted(files.items()):
                data = (root / source).read_bytes() if source else _note(name)
                sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
                _put(archive, name, data, runs=bool(source) and bool((root / source).stat().st_mode & stat.S_IXUSR))
                _bound(part, bytes_max)  # of what was written so far, lest it fill the disk
            _put(archive, SUMS, "".join(sums).encode(), runs=False)
        _bound(part, bytes_max)
        with part.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        size = part.stat().st_size
        part.replace(path)
    except OSError as error:
        raise StackError(f"{path} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return {"bytes": size, "sha256": checksum}


def _bound(part: Path, bytes_max: int) -> None:
    if part.stat().st_size > bytes_max:
        raise StackError(
            f"the archive would be larger than {bytes_max} bytes, the most that is taken. "
            "Fix: git ls-files -z | xargs -0 du -h | sort -h"
        )


def _put(archive: zipfile.ZipFile, name: str, data: bytes, *, runs: bool) -> None:
    entry = zipfile.ZipInfo(name, FIRST_DAY)
    entry.create_system = UNIX
    entry.external_attr = (0o100755 if runs else 0o100644) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data, compresslevel=9)


def _note(name: str) -> bytes:
    folder = name.rpartition("/")[0]
    lines = "".join(f"- `{source}`\n" for source in FOLDERS[folder])
    return (
        f"# {folder}\n\nCopies, so that they are found where they are looked for. What runs, and what the tests test, is in this "
        f"archive as well:\n\n{lines}\nNothing imports the copies. `ARCHITECTURE.md` says what the parts are.\n"
    ).encode()
