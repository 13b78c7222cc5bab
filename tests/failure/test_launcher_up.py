# `up` as people meet it: started, started again, wounded, asked, stopped, and never in two minds about what runs.
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flashsale.settings import REPOSITORY
from flashsale.stack.exits import Exit
from flashsale.stack.lifecycle import UP_WITHIN_S
from flashsale.stack.processes import Identity, port_is_free
from flashsale.stack.roles import ROLES
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.timeout(3 * UP_WITHIN_S)


class Flash:
    """The command line, with a home of its own and free ports."""

    def __init__(self, home: Path) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "FLASH_HOME": str(home),
            "FLASH_PORT": "0",
            "FLASH_OPS_PORT": "0",
            "FLASH_ADMIN_PORT": "0",
            "FLASH_AUTH": "off",
            "FLASH_STREAM_PROCESSES": "1",  # or there would be one role less
        }

    def __call__(self, *words: str) -> tuple[int, Any]:
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "flash"), *words, "--json"],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=UP_WITHIN_S + PATIENCE_SECONDS,
            check=False,
        )
        return done.returncode, json.loads(done.stdout) if done.stdout else None

    def await_ready(self, restarts: int) -> dict[str, dict[str, Any]]:
        deadline = time.monotonic() + UP_WITHIN_S  # stores and all
        while True:
            code, found = self("status")
            rows = {row["role"]: row for row in found["processes"]}
            if code == Exit.OK and all(row["restarts"] >= restarts for row in rows.values()):
                return rows
            assert time.monotonic() < deadline, found
            time.sleep(1)  # each look is a Python that starts, beside those that are waited for


@pytest.fixture
def flash() -> Iterator[Flash]:
    if not (Path(sys.prefix) / "flash-stamp").exists():
        pytest.skip("needs the environment that `./flash test` makes")
    home = Path(tempfile.mkdtemp(prefix="flash-"))
    home.chmod(0o711)
    (home / "venv").symlink_to(sys.prefix)
    flash = Flash(home)
    yield flash
    flash("down")
    shutil.rmtree(home)


def test_up_is_ready_heals_survives_a_second_up_and_goes_down_whole(flash: Flash) -> None:
    first = up_elsewhere(flash, "::1")
    assert first["sale"]["skus"]
    before = flash.await_ready(restarts=0)
    assert first["admin"] == [f"http://127.0.0.1:{before['admin']['port']}"]
    assert {role.name for role in ROLES} < set(before)
    assert flash("up") == (Exit.OK, first)
    for row in before.values():
        os.kill(row["pid"], signal.SIGKILL)
    after = flash.await_ready(restarts=1)
    for role, row in after.items():
        assert row["pid"] != before[role]["pid"]
        assert (row["port"], row["ops_port"]) == (before[role]["port"], before[role]["ops_port"])
    code, report = flash("audit")
    assert (code, report["clean"]) == (Exit.OK, True)
    assert flash("down") == (Exit.OK, {"stopped": True})
    assert flash("status")[0] == Exit.MISSING
    assert all(Identity.of(row["pid"]) is None for row in after.values())
    assert all(
        port_is_free(host, row["port"]) for host in ("127.0.0.1", "::1") for row in after.values() if row["port"]
    )


def test_a_killed_supervisor_is_noticed_and_the_next_up_keeps_the_data(flash: Flash) -> None:
    first = up_elsewhere(flash, "127.0.0.2")
    _, found = flash("status")
    os.kill(found["supervisor_pid"], signal.SIGKILL)
    pids = [row["pid"] for row in found["processes"]]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(Identity.of(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert flash("status")[0] == Exit.MISSING
    del flash.environment["FLASH_HOST"]
    code, again = flash("up")
    assert (code, again["sale"]) == (Exit.OK, first["sale"])
    assert again["addresses"][0].startswith("http://127.0.0.1:")


def up_elsewhere(flash: Flash, host: str) -> dict[str, Any]:
    """With the shop at ``host``, and operations on loopback all the same."""
    flash.environment["FLASH_HOST"] = host
    code, found = flash("up")
    assert code == Exit.OK
    assert "127.0.0.1" not in found["addresses"][0]
    rows = flash.await_ready(restarts=0)
    operations = [f"http://127.0.0.1:{row['ops_port']}" for row in rows.values() if row["ops_port"]]
    assert len(operations) == len(ROLES) + 1  # one of each role, and the balancer
    (admin,) = found["admin"]
    assert admin.startswith("http://127.0.0.1:")
    for address in [*(f"{address}/livez" for address in (*found["addresses"], *operations)), f"{admin}/"]:
        with urllib.request.urlopen(address, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - our own address
            assert answer.status == 200
    return dict(found)
