"""Crash points: what they do armed and unarmed, and that the table and the code name the same."""

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from flashsale import crash
from flashsale.settings import REPOSITORY

WITHIN_S = 60
SCRIPT = """
import sys
from flashsale import crash
crash.arm(sys.argv[1])
reach = crash.point("upkeep.applied")
other = crash.point("upkeep.published")
for number in (1, 2, 3):
    other()
    print(number, flush=True)
    reach()
"""


def armed(text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, text], env={"PYTHONPATH": str(REPOSITORY / "src")}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("", 0, "1\n2\n3\n"),
        ("upkeep.applied", -signal.SIGKILL, "1\n"),
        ("upkeep.applied:3", -signal.SIGKILL, "1\n2\n3\n"),
        ("upkeep.applied:4", 0, "1\n2\n3\n"),
        ("payments.answered", 0, "1\n2\n3\n"),
    ],
)
def test_a_process_dies_at_the_point_it_is_armed_for_and_nowhere_else(text: str, status: int, said: str) -> None:
    process = armed(text)
    assert (process.communicate(timeout=WITHIN_S)[0], process.returncode) == (said, status)


def test_a_process_stands_still_once_and_goes_on_when_told_to() -> None:
    process = armed("upkeep.applied:2:stop")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=WITHIN_S)[0] == "1\n2\n3\n"
    assert process.returncode == 0


def test_every_point_of_the_table_stands_in_the_code_once() -> None:
    asked: list[str] = []
    for path in Path(crash.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "crash.point":
                assert isinstance(node.args[0], ast.Constant), "a name is written out"
                asked.append(str(node.args[0].value))
    assert Counter(asked) == Counter(list(crash.POINTS))
