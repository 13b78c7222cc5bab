"""Who runs the tests with how many workers, and that one worker meets nothing of another's."""

import itertools
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from flashsale.settings import REPOSITORY, Settings
from flashsale.stack.checks import WORKERS, check_environment, checks, spread, workers
from flashsale.stack.processes import PORT_FIRST as LAUNCHERS_FIRST
from flashsale.stack.running import Urls
from tests import databases, servers
from tests.patience import PATIENCE_SECONDS
from tests.sharing import CROWDS, FIRST, ONE_BY_ONE, share_of, turn_of

NOWHERE = Settings.load({})
NO_URLS = Urls(**{field.name: "" for field in fields(Urls)})
HOUSES = ("tests/a/test_old_house.py", "tests/a/test_new_house.py")
FILES = (*HOUSES, FIRST[0], "tests/failure/test_free.py")
VARIABLES = {"FLASH_TEST_CHROMIUM", *(f"FLASH_TEST_{name}_URL" for name in ("POSTGRES", "REDIS", "RABBITMQ"))}
TESTS = 4  # in each
SLEEPER = "def test_it(n): time.sleep(0.1)\n"  # so that nobody has done everything before the other has begun


def test_the_whole_is_shared_out_and_a_part_is_not() -> None:
    assert workers(NOWHERE, []) == WORKERS > 1
    assert workers(NOWHERE, ["tests/unit"]) == 1
    *_, shared = checks([], WORKERS)
    assert shared.arguments == ("-m", "pytest", *spread(WORKERS))
    *_, types, one_by_one = checks([], 1)
    assert one_by_one.arguments == ("-m", "pytest")
    assert types.name == "mypy --strict"
    [part] = checks(["tests/unit"], 1)
    assert part.arguments == ("-m", "pytest", "tests/unit")


@pytest.mark.parametrize("name", ["POSTGRES", "REDIS", "RABBITMQ"])
def test_a_service_that_is_given_is_not_shared(name: str) -> None:
    schemes = {"POSTGRES": "postgresql", "REDIS": "redis", "RABBITMQ": "amqp"}
    given = Settings.load({f"FLASH_{name}_URL": f"{schemes[name]}://host/0"})
    assert workers(given, []) == 1


def test_every_worker_has_an_address_of_its_own_and_one_too_many_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [replace(NO_URLS, postgres_superuser=f"pg{n}", redis=f"redis{n}", rabbitmq=f"rabbit{n}") for n in range(2)]
    environment = check_environment(
        {"PYTHONDONTWRITEBYTECODE": "1"}, found, {"FLASH_TEST_CHROMIUM": "/a path/chromium"}
    )
    assert "PYTHONDONTWRITEBYTECODE" not in environment, "each would compile every test"
    for variable in environment.keys() & VARIABLES:
        monkeypatch.setenv(variable, environment[variable])
    names = ("POSTGRES", "REDIS", "RABBITMQ")
    for number in range(2):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{number}")
        seen = [str(databases.given(f"FLASH_TEST_{name}_URL")) for name in names]
        assert seen == [f"pg{number}", f"redis{number}", f"rabbit{number}"]
    assert databases.told("FLASH_TEST_CHROMIUM") == "/a path/chromium", "all have the same"
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw2")
    with pytest.raises(pytest.fail.Exception, match="worker 2"):
        databases.given("FLASH_TEST_REDIS_URL")


def test_workers_and_launchers_take_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for number in range(WORKERS):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{number}")
        taken.append(set(itertools.islice(servers._ports(), 2 * servers.PORTS)))
    assert [len(ports) for ports in taken] == [servers.PORTS] * WORKERS
    assert not any(one & other for one, other in itertools.combinations(taken, 2))
    assert max(map(max, taken)) < LAUNCHERS_FIRST


def test_a_share_is_a_file_and_of_some_files_a_test() -> None:
    assert all((REPOSITORY / file).exists() for file in (*ONE_BY_ONE, *FIRST))
    assert share_of("tests/unit/test_logs.py::test_a[1]") == share_of("tests/unit/test_logs.py::test_b[2]")
    assert share_of("tests/failure/test_proxy.py::test_a[1]") != share_of("tests/failure/test_proxy.py::test_a[2]")


def test_crowds_of_a_kind_are_one_share_and_come_first() -> None:
    assert all(list(REPOSITORY.glob(f"{beginning}*")) for beginning in CROWDS)
    soak, kill, bench = (f"{file}::test_a" for file in [*list(CROWDS)[:2], "tests/contract/test_bench_lb.py"])
    assert share_of(soak) == share_of(kill) != share_of(bench) == share_of("tests/contract/test_bench_edges.py::test_b")
    first = [f"{file}::test_a" for file in FIRST]
    assert max(map(turn_of, (soak, kill, bench))) < min(map(turn_of, first))
    assert max(map(turn_of, first)) < turn_of("tests/unit/test_logs.py::test_a")


def test_workers_share_the_tests_out_and_what_must_stay_together_does(tmp_path: Path) -> None:
    for file in FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"import time, pytest\n@pytest.mark.parametrize('n', range({TESTS}))\n{SLEEPER}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "tests.sharing", f"--rootdir={tmp_path}", "-c", os.devnull,
         *spread(2), "tests"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.findall(r"\[(gw\d)\] \[.*?\] PASSED (\S+)::", done.stdout)
    assert len(ran) == len(FILES) * TESTS
    (first,) = {who for who, file in ran if file == FIRST[0]}
    assert [len({who for who, file in ran if file == house}) for house in HOUSES] == [1, 1], done.stdout
    assert {file for who, file in [each for each in ran if each[0] == first][:TESTS]} == {FIRST[0]}, done.stdout


def test_no_password_is_shown_with_a_test_that_failed() -> None:
    address = databases.url_for("postgresql://me:secret@host:1/x", database="y", user="flash_app", password="pass")
    made = databases.Database(*[address] * len(databases.Database._fields))
    assert "pass" not in repr(made)
    assert "flash_app:***@host:1/y" in repr(made)
    assert str(address) == "postgresql://flash_app:pass@host:1/y"
