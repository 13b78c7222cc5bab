# The hand-in, on a small made-up project and, as far as it goes without what is made later, on this one.
from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flashsale.settings import REPOSITORY
from flashsale.stack import cli, submission
from flashsale.stack.console import Say
from flashsale.stack.documents import ChecklistError, checklist, flash_words, refusal
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.submission import FOLDERS, LAYOUT, Problem, belonging, find_problems, project, write
from tests.gits import git
from tests.patience import PATIENCE_SECONDS
from tests.project_files import project_files

HEAD = "| requirement | file | proof | command |\n|---|---|---|---|\n"
SCRIPT = "scripts/load-test"
RUN = "20261130T080000Z-0a1b2c3d"
MADE = {
    "reports/results.json": json.dumps({"run": {"name": RUN}}),
    f"reports/results/{RUN}.tar": "",
    **dict.fromkeys(submission.OF_THE_RUN, f"of {RUN}"),
    "reports/demo-video.mp4": "pictures",
}


def parse(words: list[str]) -> argparse.Namespace:
    return cli._parser().parse_args(words)


def row(file: str, command: str, requirement: str = "something") -> str:
    return HEAD + f"| {requirement} | {file} | | {command} |\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project in which everything asked for is there: an unpacked archive, so that no git is needed."""
    root = tmp_path / "project"
    files = {name: "x" for name in LAYOUT if not name.endswith("/") and name not in submission.FILES}
    sources = [source for folder in FOLDERS.values() for source in folder]
    files |= {source if "." in source else f"{source}/part.py": "x" for source in sources if source != SCRIPT}
    files |= MADE | {
        "submission-checklist.md": row(
            "`README.md`, `src/`, `src/flashsale/*/part.py`", "`./flash demo --backend mixed`"
        ),
        SCRIPT: "run me",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / SCRIPT).chmod(0o755)
    (root / submission.SUMS).write_text("".join(f"{'0' * 64}  {name}\n" for name in files))
    return root


def problems(root: Path) -> list[Problem]:
    return find_problems(root, project(belonging(root)), parse)


def test_of_a_whole_project_nothing_is_said(root: Path) -> None:
    assert problems(root) == []


Spoil = Callable[[Path], object]


def list_(text: str) -> Spoil:
    return lambda root: (root / "submission-checklist.md").write_text(text)


def write_(name: str, text: str) -> Spoil:
    return lambda root: (root / name).write_text(text)


def forget(name: str) -> Spoil:
    def spoil(root: Path) -> None:
        sums = root / submission.SUMS
        kept = [line for line in sums.read_text().splitlines() if not line.partition("  ")[2].startswith(name)]
        sums.write_text("\n".join(kept))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "where", "what", "fix"),
    [
        (list_(row("`a.py`", "`./flash up`")), "submission-checklist.md:3", "a.py is not in", "restore it"),
        (list_(row("`src/*/none.py`", "`./flash up`")), "submission-checklist.md:3", "src/*/none.py is not", "restore"),
        (list_(row("`none/`", "`./flash up`")), "submission-checklist.md:3", "none/ is not in", "restore it"),
        (
            list_(row("`a.py`", "`./flash bench quick`, `./flash report`", "a: still to come")),
            *("submission-checklist.md:3", "a.py is not in", "./flash bench quick && ./flash report"),
        ),
        (list_(row("`src/`", "`./flash up`", "a: still to come")), "submission-checklist.md:3", "all that it", "strike"),
        (list_(row("`src/`", "then look")), "submission-checklist.md:3", "names no file, or no command", "both"),
        (list_(row("here", "`./flash up`")), "submission-checklist.md:3", "names no file, or no command", "both"),
        (list_(row("`src/`", "`X=1 ./flash fly`")), "submission-checklist.md:3", "invalid choice: 'fly'", "--help"),
        (list_(row("`src/`", "`./flash demo --stok 1`")), "submission-checklist.md:3", "arguments: --stok", "--help"),
        (list_(row("`src/`", "`./flash demo --kill 'x`")), "submission-checklist.md:3", "No closing quotation", "--help"),
        (list_(row("`/metrics`", "`./flash up`")), "submission-checklist.md:3", "/metrics is not in", "restore it"),
        (list_(row("`a**b`", "`./flash up`")), "submission-checklist.md:3", "a**b is not in", "restore it"),
        (list_(row(f"`{'a' * 300}`", "`./flash up`")), "submission-checklist.md:3", "a is not in", "restore it"),
        (list_("| a | b |\n"), "submission-checklist.md", "line 1 has 2 cells instead of 4", "a row is"),
        (list_("nothing"), "submission-checklist.md", "it has no lines", "a row is"),
        (lambda root: (root / "README.md").unlink(), "README.md", "is not here", "git restore README.md"),
        (forget("docker-compose.yml"), "archive", "docker-compose.yml would not be", "git add docker-compose.yml"),
        (forget("reports/demo-video.mp4"), "archive", "demo-video.mp4 would not be", "git add reports/demo-video.mp4"),
        (forget("tests/results"), "archive", "tests/results/ would not be", "git add tests/results/"),
        (forget("loadbalancer"), "archive", "src/load-balancer/ would not be", "submission-checklist.md"),
        (write_("reports/ANALYSIS_REPORT.pdf", "of another run"), "reports/ANALYSIS_REPORT.pdf", RUN, "./flash report"),
        (write_("reports/report.html", "of another run"), "reports/report.html", RUN, "./flash report"),
        (write_("tests/results/summary.json", "of another run"), "tests/results/summary.json", RUN, "./flash report"),
        (forget(f"reports/results/{RUN}.tar"), "reports/results.json", "the raw files", "./flash report"),
        (write_("reports/results.json", "{}"), "reports/results.json", "cannot be read", "./flash report"),
    ],
)  # fmt: skip
def test_what_does_not_hold_is_told_with_its_cure(root: Path, spoil: Spoil, where: str, what: str, fix: str) -> None:
    spoil(root)
    (problem,) = problems(root)
    assert problem.where == where
    assert what in problem.what
    assert fix in problem.fix


def test_what_git_was_not_told_of_is_not_handed_in(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / submission.SUMS).write_text("")  # which git comes before
    (root / "secret.key").write_text("mine")
    (root / ".git").mkdir()
    if shutil.which("git") is None:
        with pytest.raises(StackError, match="git cannot be asked"):
            belonging(root)
        return
    (root / ".git").rmdir()
    git(root, "init", "--quiet")
    git(root, "add", "README.md")
    monkeypatch.setenv("GIT_INDEX_FILE", str(root / "of another project"))
    assert belonging(root) == ["README.md"]


@pytest.mark.parametrize("name", [b"docs/caf\xe9.md", b"a\nb.md"])
def test_a_file_whose_name_nobody_can_write_down_is_a_problem(root: Path, name: bytes) -> None:
    (problem,) = find_problems(root, project([*belonging(root), os.fsdecode(name)]), parse)
    assert problem.where == ascii(os.fsdecode(name))
    assert problem.fix.startswith("git mv")


def test_a_copy_goes_with_its_original() -> None:
    files = project(
        ["src/flashsale/gate/link.py", "src/implementation-1/gate/link.py", "src/implementation-1/gate/gone.py"]
    )
    assert "src/implementation-1/gate/gone.py" not in files
    assert files["src/implementation-1/gate/link.py"] == "src/flashsale/gate/link.py"


def test_an_archive_unpacked_elsewhere_is_the_project_again_and_makes_the_same_archive(
    root: Path, tmp_path: Path
) -> None:
    first, second, place = tmp_path / "first.zip", tmp_path / "second.zip", tmp_path / "elsewhere"
    made = write(root, project(belonging(root)), first)
    with zipfile.ZipFile(first) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == [*sorted(set(names) - {submission.SUMS}), submission.SUMS]
        assert [name for name in LAYOUT if not any(one == name or one.startswith(name) for one in names)] == []
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
        archive.extractall(place)
    assert {name for name, mode in modes.items() if mode == 0o100755} == {
        "scripts/load-test",
        "tests/load-tests/load-test",
    }
    for note in ("src/implementation-1", "src/implementation-2", "src/load-balancer", "tests/load-tests"):
        text = (place / note / "README.md").read_text()
        assert all(f"`{source}`" in text for source in FOLDERS[note])
    sums = subprocess.run(
        ["sha256sum", "--check", "--quiet", submission.SUMS], cwd=place, check=False, timeout=PATIENCE_SECONDS
    )
    assert sums.returncode == 0
    assert problems(place) == []
    (place / "scripts/load-test").chmod(0o755)  # this Python does not give it back, unzip does
    (place / "tests/load-tests/load-test").chmod(0o755)
    assert write(place, project(belonging(place)), second) == made
    assert second.read_bytes() == first.read_bytes()


def test_an_archive_that_is_too_large_is_not_written_and_the_old_one_stays(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.zip"
    path.parent.mkdir()
    made = write(root, project(belonging(root)), path)
    before = path.read_bytes()
    with pytest.raises(StackError, match="larger than"):
        write(root, project(belonging(root)), path, int(str(made["bytes"])) - 1)
    assert [one.name for one in path.parent.iterdir()] == ["a.zip"]
    assert path.read_bytes() == before


def test_without_git_and_without_a_list_nobody_says_what_belongs_to_it(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="git init") as error:
        belonging(tmp_path)
    assert error.value.code == Exit.MISSING


@pytest.mark.parametrize("text", ["Lovelace", "O'Neil-Smith", "O\u2019Neil", "Zoë", "Zoe\u0308", "a" * 100])
def test_names_are_letters(text: str) -> None:
    assert refusal(parse, ["submission", text, text]) is None


@pytest.mark.parametrize(
    "text",
    ["", "a" * 101, "ë" * 51, "-a", "a-", "a--b", "a b", "../a", "a/b", "a_b", "a1", "a\n", "a.b"],
)
def test_names_are_nothing_else_and_few(text: str) -> None:
    for words in ([text, "Ada"], ["Lovelace", text]):
        assert "is not a name of letters" in (refusal(parse, ["submission", "--", *words]) or "")


@pytest.fixture
def asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(submission, "REPOSITORY", root)
    return lambda *words: submission.run(parse(["submission", "Lovelace", "Ada", *words]), parse, Say())


def test_the_command_names_the_archive_and_its_checksum(
    asked: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked("--out", str(tmp_path), "--json") == Exit.OK
    said = json.loads(capsys.readouterr().out)
    path = tmp_path / "Lovelace_Ada_backend_project.zip"
    assert said == {"passed": True, "problems": [], "archive": str(path), "files": said["files"], "bytes": path.stat().st_size, "sha256": said["sha256"]}  # fmt: skip
    assert asked("--out", str(tmp_path)) == Exit.OK
    assert said["sha256"] in capsys.readouterr().out


def test_the_command_writes_nothing_when_something_is_missing(
    asked: Callable[..., int], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget("docker-compose.yml")(root)
    assert asked("--out", str(tmp_path)) == Exit.FAILED
    assert "Fix: git add docker-compose.yml" in capsys.readouterr().out
    assert asked("--out", str(tmp_path), "--json") == Exit.FAILED
    said = json.loads(capsys.readouterr().out)
    assert (said["passed"], said["archive"], [one["where"] for one in said["problems"]]) == (False, None, ["archive"])
    assert not list(tmp_path.glob("*.zip"))
    with pytest.raises(StackError, match="mkdir") as error:
        asked("--out", str(tmp_path / "none"))
    assert error.value.code == Exit.USAGE


def test_every_line_of_ours_is_there_or_said_to_come(tmp_path: Path) -> None:
    files = project(project_files())
    lines = checklist((REPOSITORY / "submission-checklist.md").read_text(encoding="utf-8"))
    to_come = {f"submission-checklist.md:{line.number}" for line in lines if line.is_to_come}
    assert [one for one in find_problems(REPOSITORY, files, parse) if one.where not in to_come] == []
    write(REPOSITORY, files, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "a")
    # What was copied is not checked twice, and Python's packages have no such names.
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."],
        cwd=tmp_path / "a",
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0


def test_a_command_ends_where_a_shell_ends_it() -> None:
    line = "LB=x ./flash demo --kill 'a b' > out.json && ./flash up   # and ./flash down\n"
    assert list(flash_words(line)) == [["demo", "--kill", "a b"], ["up"], ["down"]]
    assert list(flash_words('curl -H "Bearer $(./flash token --buyer ana)" x')) == [["token", "--buyer", "ana"]]
    assert list(flash_words("what ./flash does, and flash up")) == [["does,", "and", "flash", "up"]]


def test_a_checklist_is_a_table_of_four_columns() -> None:
    (line,) = checklist(f"# Title\n\n{HEAD}| a | `b`, `c/` | `d_*.py`: still to come | `./flash e`, then `f` |\n")
    assert (line.number, line.files, line.commands, line.is_to_come) == (
        5,
        ("b", "c/", "d_*.py"),
        ("./flash e", "f"),
        True,
    )
    with pytest.raises(ChecklistError, match="line 3 has 3 cells"):
        checklist(HEAD + "| a | b | c |\n")
