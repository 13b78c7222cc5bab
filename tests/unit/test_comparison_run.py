"""A run's manifest: what is needed to do the same again, to bring it to its end, and to stop in time."""

import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import __main__ as command
from benchmarks.comparison import contract, plan, scenario
from benchmarks.comparison.contract import NOT_AUDITED, Audit, Trial
from benchmarks.comparison.engine import ceiling, run, trial
from benchmarks.comparison.engine.ceiling import Ceiling
from benchmarks.comparison.engine.run import Wanted
from flashsale.settings import Settings
from flashsale.stack.exits import Exit, StackError
from tests.stopped import ORDERS, Stopped

CLEAN = Audit(clean=True)
QUICK = Wanted(size="quick", names=(), seed=3, blocks=None, command="./flash bench quick", commit="abc")


def test_the_manifest_is_there_before_the_first_trial(tmp_path: Path) -> None:
    folder, made = run.prepare(QUICK, tmp_path)
    assert contract.read_run(folder) == made
    assert made.seed == 3
    assert {each.scenario for each in made.plan} == set(made.scenarios)
    assert made.scenarios["burst"] == scenario.read("burst")
    assert made.machine["cores"] >= 1
    assert made.versions["python"]


def test_the_same_again_has_the_same_trials_whatever_the_files_say_by_then(tmp_path: Path) -> None:
    folder, made = run.prepare(QUICK, tmp_path)
    earlier = replace(made, scenarios={**made.scenarios, "burst": {**made.scenarios["burst"], "viewers": 7}})
    contract.write_run(folder, earlier)
    _, again = run.prepare(replace(QUICK, size="full", seed=9, again=folder), tmp_path)
    assert (again.size, again.seed, again.plan, again.scenarios) == ("quick", 3, earlier.plan, earlier.scenarios)


def test_what_was_interrupted_is_taken_up_by_the_same_program_alone(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no run that was interrupted"):
        run.latest_unfinished(tmp_path)
    folder, made = run.prepare(QUICK, tmp_path)
    assert run.latest_unfinished(tmp_path) == folder
    assert run.prepare(replace(QUICK, resume=folder), tmp_path) == (folder, made)
    with pytest.raises(StackError, match="two programs"):
        run.prepare(replace(QUICK, resume=folder, commit="def"), tmp_path)
    contract.write_run(folder, replace(made, ended_at="now"))
    with pytest.raises(StackError, match="come to its end"):
        run.prepare(replace(QUICK, resume=folder), tmp_path)
    with pytest.raises(StackError, match="no run that was interrupted"):
        run.latest_unfinished(tmp_path)


def test_what_is_no_run_is_said_to_be_none(tmp_path: Path) -> None:
    for wanted in (replace(QUICK, resume=tmp_path), replace(QUICK, again=tmp_path)):
        with pytest.raises(StackError, match="no run of the comparison"):
            run.prepare(wanted, tmp_path)
    (tmp_path / "comparison" / "1-other").mkdir(parents=True)
    (tmp_path / "comparison" / "1-other" / "run.json").write_text('{"schema": 0}')
    with pytest.raises(StackError, match="no run that was interrupted"):
        run.latest_unfinished(tmp_path)


@pytest.mark.parametrize(("first", "second"), ORDERS)
def test_whoever_is_told_twice_to_stop_still_takes_everything_down(
    first: signal.Signals,
    second: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    conducting = Stopped(first, second)
    monkeypatch.setattr(run, "conduct", conducting)
    monkeypatch.setattr(sys, "argv", ["comparison", "quick"])
    monkeypatch.setenv("FLASH_HOME", str(tmp_path))
    assert command.main() == Exit.INTERRUPTED
    assert conducting.is_tidy
    assert "--resume brings it to its end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("audit", "code"),
    [(CLEAN, Exit.OK), (NOT_AUDITED, Exit.OK), (Audit(clean=False, lost_ack=1), Exit.FAILED)],
)
def test_books_that_are_wrong_fail_the_run_and_void_trials_too(tmp_path: Path, audit: Audit, code: Exit) -> None:
    folder, made = run.prepare(QUICK, tmp_path)
    planned = made.plan[0]
    where = folder / "trials" / planned.trial
    where.mkdir()
    contract.write_trial(where, replace(a_trial(planned, 1.0), is_void=True, audit=audit), [])
    assert run._told(folder, made, lambda _: None) == code


@pytest.mark.parametrize(("minutes", "blocks"), [(10, {1, 101}), (1, {1})])
async def test_a_void_block_is_made_again_if_there_is_time(
    minutes: int, blocks: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(planned: contract.Planned, where: Path, *, is_void: bool) -> Trial:
        made = replace(a_trial(planned, 1.0), is_void=is_void)
        contract.write_trial(where, made, [])
        return made

    async def run_trial(_: object, planned: contract.Planned, __: object, ___: object, where: Path) -> Any:
        return leave(planned, where, is_void=False), {"response_p50_ms": 1.0, "response_p99_ms": 2.0}

    async def measure(_: object) -> Ceiling:
        return Ceiling(1.0, None, None, None)

    @contextlib.asynccontextmanager
    async def no_stack(*_: object, **__: object) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(run, "running_stack", no_stack)
    monkeypatch.setattr(ceiling, "measure", measure)
    monkeypatch.setattr(trial, "run", run_trial)
    monkeypatch.setattr(run, "MINUTES", {"quick": minutes})
    folder, made = run.prepare(replace(QUICK, names=("burst",)), tmp_path)
    for planned in made.plan:
        where = folder / "trials" / planned.trial
        where.mkdir()
        leave(planned, where, is_void=planned.label == "B")
    settings = Settings.load({"FLASH_HOME": str(tmp_path)})
    assert await run.conduct(settings, {}, folder, made, lambda _: None) == Exit.OK
    ended = contract.read_run(folder)
    assert ended.ended_at
    assert {each.block for each, _ in contract.trial_folders(folder, ended)} == blocks


def progress(tmp_path: Path) -> tuple[run._Progress, list[contract.Planned]]:
    _, made = run.prepare(QUICK, tmp_path)
    scenarios = {name: scenario.parse(name, document) for name, document in made.scenarios.items()}
    said: list[str] = []
    return run._Progress(tmp_path, made, scenarios, made.plan, said.append), list(made.plan)


def a_trial(planned: contract.Planned, wall_s: float) -> Trial:
    return Trial(
        scenario=planned.scenario, block=planned.block, position=planned.position, label=planned.label, backend=planned.backend,
        variant="", algorithm="round_robin", servers=2, skus=1, shoppers=1, stock=1, viewers=0, seed=1, started_at="", wall_s=wall_s,
        load_s=1.0, load_model="", offered_per_s=1.0, is_void=False, void_reasons=(), gates={}, audit=Audit(clean=True), counts={},
        deferred=0, in_flight_peak=1, open_peak=1, null_ceiling_per_s=None,
    )  # fmt: skip


def test_whoever_looks_sees_how_far_it_is_and_a_first_ratio(tmp_path: Path) -> None:
    going, planned = progress(tmp_path)
    going.phase("services")
    seen = contract.read_running(tmp_path)
    assert seen is not None
    assert (seen.name, seen.phase, seen.done, seen.of, seen.ratios) == ("quick", "services", 0, len(planned), ())
    assert 60 < seen.eta_s <= 600
    for each in planned:
        slow = 2.0 if each.label == "B" else 1.0
        going.made(a_trial(each, wall_s=3.0), {"response_p50_ms": slow, "response_p99_ms": 4.0})
    going.phase("the end")
    seen = contract.read_running(tmp_path)
    assert seen is not None
    assert (seen.done, seen.eta_s) == (len(planned), 0)
    assert [(each.metric, each.ratio) for each in seen.ratios] == [("response p50", 2.0), ("response p99", 1.0)]


def test_no_block_is_begun_for_which_there_is_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going, planned = progress(tmp_path)
    assert not going.must_stop(planned[0])
    going.made(a_trial(planned[0], wall_s=1_000.0), {"response_p50_ms": 1.0, "response_p99_ms": 1.0})
    assert not going.must_stop(planned[1]), "a block that was begun is brought to its end"
    going.made(a_trial(planned[1], wall_s=1_000.0), {"response_p50_ms": 1.0, "response_p99_ms": 1.0})
    assert going.must_stop(planned[2])
    monkeypatch.setattr(run, "MINUTES", {})
    going._block = None
    assert not going.must_stop(planned[2]), "what was asked for by name has no bound"


def test_a_trial_of_a_backend_against_itself_has_the_files_own_values() -> None:
    series = scenario.parse(
        "mine", {"question": "How many servers?", "vary": {"setting": "engine.servers", "values": [1, 3]}}
    )
    [noise, *_] = [
        each
        for each in plan.plan([replace(series, noise=scenario.Noise(scenario=1))], "scenario", 1)
        if each.label == "A2"
    ]
    assert plan.variant_of(series, noise) == series
