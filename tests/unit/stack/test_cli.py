# What the command line promises: help at once, stable exit codes, results on stdout alone.
from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flashsale.settings import REPOSITORY
from flashsale.stack.cli import COMMANDS
from flashsale.stack.exits import Exit
from flashsale.stack.state import Instance
from tests.patience import PATIENCE_SECONDS


def flash(*words: str, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLASH_")}
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "flash"), *words],
        env=kept | {"FLASH_HOME": str(home)} | environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


# `./flash NAME --help` for each name, in one process: nearly all of each would be its start.
EVERY_HELP = """
import contextlib, io, json, sys

from flashsale.stack.cli import main

told = {}
for name in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            code = main([name, "--help"])
        except SystemExit as end:
            code = end.code
    told[name] = code, said.getvalue()
print(json.dumps(told))
"""
NAMES = [command.name for command in COMMANDS]


def test_help_answers_without_an_environment_and_names_the_exit_codes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-c", EVERY_HELP, *NAMES],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}", "FLASH_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    told = json.loads(done.stdout)
    assert list(told) == NAMES
    for name, (code, text) in told.items():
        assert code == Exit.OK, name
        assert "exit codes" in text, name
        assert "example" in text, name
    assert not home.exists()


def test_an_old_python_can_read_the_launcher_and_is_told_what_to_install(tmp_path: Path) -> None:
    launcher = REPOSITORY / "flash"
    ast.parse(launcher.read_text(encoding="utf-8"), feature_version=(3, 5))
    pretend = f"import sys, runpy; sys.version_info = (3, 8, 0); runpy.run_path({str(launcher)!r})"
    done = subprocess.run(
        [sys.executable, "-c", pretend],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == Exit.MISSING
    assert "Python 3.8" in done.stderr
    assert "apt-get install python3.11" in done.stderr


@pytest.mark.parametrize("words", [(), ("fly",), ("up", "--fast"), ("demo", "--stock", "0"), ("token",)])
def test_a_wrong_command_line_is_bad_usage(words: tuple[str, ...], tmp_path: Path) -> None:
    assert flash(*words, home=tmp_path).returncode == Exit.USAGE


@pytest.mark.parametrize("words", [("operations", "--last"), ("token", "--buyer", "ana", "--minutes")])
@pytest.mark.parametrize("number", ["0", "1000000", "x", "-1"])
def test_a_number_out_of_bounds_is_told_its_bounds(words: tuple[str, ...], number: str, tmp_path: Path) -> None:
    done = flash(*words[:-1], f"{words[-1]}={number}", home=tmp_path)
    assert done.returncode == Exit.USAGE
    assert f"'{number}' is not a whole number from 1 to 1" in done.stderr
    assert len(done.stderr) < 500


def test_wrong_settings_are_all_told_and_bad_usage(tmp_path: Path) -> None:
    done = flash("status", home=tmp_path, FLASH_PORT="x", FLASH_STOK="1")
    assert done.returncode == Exit.USAGE
    assert "FLASH_PORT" in done.stderr
    assert "did you mean FLASH_STOCK?" in done.stderr


def test_config_as_json_says_where_each_value_comes_from(tmp_path: Path) -> None:
    done = flash("config", "--json", home=tmp_path, FLASH_STOCK="7", FLASH_JWT_SECRET="s" * 40)
    rows = {row["variable"]: row for row in json.loads(done.stdout)}
    assert (rows["FLASH_STOCK"]["value"], rows["FLASH_STOCK"]["origin"]) == ("7", "environment")
    assert "s" * 40 not in done.stdout


def test_nothing_running_is_told_by_status_and_fine_for_down(tmp_path: Path) -> None:
    assert flash("status", home=tmp_path).returncode == Exit.MISSING
    assert json.loads(flash("status", "--json", home=tmp_path).stdout)["running"] is False
    assert flash("down", home=tmp_path).returncode == Exit.OK


def test_doctor_names_a_fix_for_what_cannot_be_had(tmp_path: Path) -> None:
    done = flash(
        "doctor", "--json", home=tmp_path, FLASH_APT="off", FLASH_PORT="0", FLASH_OPS_PORT="0", FLASH_ADMIN_PORT="0"
    )
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert {
        "python",
        "environment",
        "postgres",
        "redis",
        "rabbitmq",
        "port",
        "admin_port",
        "open files",
        "memory",
    } <= set(findings)
    assert all(bool(finding["fix"]) == (finding["health"] == "bad") for finding in findings.values())
    bad = [finding for finding in findings.values() if finding["health"] == "bad"]
    assert done.returncode == (Exit.MISSING if bad else Exit.OK)


def test_clean_removes_the_data_and_nothing_else(tmp_path: Path) -> None:
    with Instance(tmp_path, "demo").locked():
        pass
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    assert flash("clean", home=tmp_path).returncode == Exit.OK
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_clean_refuses_while_something_runs(tmp_path: Path) -> None:
    with Instance(tmp_path, "up").locked():
        done = flash("clean", home=tmp_path)
    assert done.returncode == Exit.USAGE
    assert "./flash down" in done.stderr
    assert (tmp_path / "up").exists()
