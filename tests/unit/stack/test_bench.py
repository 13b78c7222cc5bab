# What `bench` promises: one word per benchmark, and figures that say on what they were measured.
from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.backend.__main__ import PARTS
from benchmarks.lb.__main__ import PARTS as LB_PARTS
from benchmarks.sse.__main__ import PARTS as SSE_PARTS
from benchmarks.strategies.catalogue import STRATEGIES
from flashsale.settings import Settings
from flashsale.stack import bench
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.roles import ROLE_BY_NAME


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.options(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("row", bench.BENCHES, ids=lambda row: row.name)
def test_every_row_names_a_module_and_roles_that_exist(row: bench.Bench) -> None:
    assert importlib.util.find_spec(f"{row.module}.__main__") is not None
    assert {*row.roles, row.role} <= ROLE_BY_NAME.keys()
    assert parse(row.name, *(subject.name for subject in row.subjects[:1])).bench is row


def test_the_parts_that_can_be_asked_for_are_those_that_there_are() -> None:
    row = bench.BENCHES[0]
    assert {subject.name: list(subject.parts) for subject in row.subjects} == {
        name: list(parts) for name, parts in PARTS.items()
    }
    for subject in row.subjects:
        assert all(f"\n  {part} " in subject.about for part in subject.parts)
        words = [subject.name, *("--part", subject.parts[0], "--part", subject.parts[1], "--quick")]
        assert bench._words(parse(row.name, *words)) == words
    for name, there in (("lb", LB_PARTS), ("sse", SSE_PARTS)):
        (row,) = [one for one in bench.BENCHES if one.name == name]
        assert list(row.parts) == list(there)
        assert all(f"\n  {part} " in row.about for part in row.parts)
        assert bench._words(parse(name, "--part", row.parts[0])) == ["--part", row.parts[0]]
    (row,) = [one for one in bench.BENCHES if one.name == "strategies"]
    assert list(row.parts) == list(STRATEGIES)
    assert bench._words(parse("authority")) == []


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nothing",),
        ("backend", "asyncio_redis", "--part", "all"),
        ("authority", "--part", "million"),
        ("backend",),
        ("backend", "nothing"),
        ("backend", "gevent_rabbit", "--part", "million"),
        ("backend", "--slow"),
        ("scenario", "normal", "--blocks", "0"),
    ],
)
def test_what_cannot_be_measured_is_bad_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*words)
    assert ended.value.code == Exit.USAGE


async def test_one_core_is_too_few_for_a_server_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    row = replace(bench.BENCHES[0], programs=())
    parsed = argparse.Namespace(bench=row, subject=row.subjects[0].name, parts=None, quick=True, json=True)
    with pytest.raises(StackError, match="two cores") as refused:
        await bench.run(parsed, Settings.load({"FLASH_HOME": str(tmp_path)}), print)
    assert refused.value.code == Exit.MISSING


async def test_a_missing_program_is_named_with_its_cure(tmp_path: Path) -> None:
    row = replace(bench.BENCHES[0], programs=("no-such-program",), files=(("no-such-package", "/no/such/file"),))
    parsed = argparse.Namespace(bench=row, subject=row.subjects[0].name, parts=None, quick=True, json=True)
    say: Callable[[str], None] = print
    with pytest.raises(StackError, match="apt-get install no-such-program no-such-package") as refused:
        await bench.run(parsed, Settings.load({"FLASH_HOME": str(tmp_path), "FLASH_APT": "off"}), say)
    assert refused.value.code == Exit.MISSING
