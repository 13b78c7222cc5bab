"""What a run leaves behind reads as it was written."""

import math
from pathlib import Path

import pytest

from benchmarks.comparison import contract
from benchmarks.comparison.contract import Audit, Event, Gate, Planned, Ratio, Run, Running, Trial

TRIAL = Trial(
    scenario="normal",
    block=1,
    position=0,
    label="A",
    backend=contract.LABELS["A"],
    variant="",
    algorithm="round_robin",
    servers=2,
    skus=1,
    shoppers=2,
    stock=1,
    viewers=0,
    seed=7,
    started_at="2026-11-30T08:00:00+00:00",
    wall_s=12.5,
    load_s=1.25,
    load_model="open, poisson",
    offered_per_s=100.0,
    is_void=True,
    void_reasons=("lag_p99_ms",),
    gates={"lag_p99_ms": Gate(7.5, 5.0, False, "ms"), "steal": Gate(None, 0.01, True)},
    audit=Audit(clean=False, oversold=1, findings=("one unit too many",)),
    counts=dict.fromkeys(contract.OUTCOMES, 0),
    deferred=3,
    in_flight_peak=2,
    open_peak=2,
    null_ceiling_per_s=None,
    phases_s={"start": 9.5},
)


def test_a_trial_reads_as_it_was_written(tmp_path: Path) -> None:
    events = [Event(0, "release"), Event(1_000_000, "first_sold_out", "sku")]
    contract.write_trial(tmp_path, TRIAL, events)
    assert contract.read_trial(tmp_path) == TRIAL
    assert contract.read_events(tmp_path) == events
    assert TRIAL.name == "normal-1-0-A"


def test_a_run_reads_as_it_was_written_and_names_its_finished_trials(tmp_path: Path) -> None:
    done, due = (Planned(f"normal-1-{n}-A", "normal", 1, n, "A", "asyncio_redis") for n in (0, 1))
    run = Run("quick", "./flash bench quick", "abc", 1, {}, {}, {"normal": {"rate": 1}}, (done, due), "2026")
    contract.write_run(tmp_path, run)
    folder = tmp_path / "trials" / done.trial
    folder.mkdir(parents=True)
    (tmp_path / "trials" / due.trial).mkdir()
    contract.write_trial(folder, TRIAL, [])
    assert contract.read_run(tmp_path) == run
    assert list(contract.trial_folders(tmp_path, run)) == [(done, folder)]


def test_another_schema_is_refused(tmp_path: Path) -> None:
    contract.write_json(tmp_path / "run.json", {"schema": contract.SCHEMA + 1})
    with pytest.raises(ValueError, match=f"schema {contract.SCHEMA + 1}"):
        contract.read_run(tmp_path)


def test_an_empty_field_is_never_and_nanoseconds_are_exact(tmp_path: Path) -> None:
    late = 301_000_000_001
    row = [0, "shopper-1", "", 0, late, None, None, 1, 0, None, "TIMEOUT"]
    contract.write_rows(tmp_path, "requests", [row])
    frame = contract.read_frame(tmp_path, "requests")
    assert int(frame["sent_ns"][0]) == late
    assert math.isnan(frame["decided_ns"][0])
    assert frame["sku"][0] == ""


@pytest.mark.parametrize("name", contract.FILES)
def test_a_file_without_rows_is_a_table_with_its_columns(tmp_path: Path, name: str) -> None:
    contract.write_rows(tmp_path, name, [])
    assert tuple(contract.read_frame(tmp_path, name).columns) == contract.FILES[name]


def test_other_columns_are_refused(tmp_path: Path) -> None:
    contract.write_rows(tmp_path, "stock", [])
    (tmp_path / "stock.csv.gz").rename(tmp_path / "calls.csv.gz")
    with pytest.raises(ValueError, match="columns"):
        contract.read_frame(tmp_path, "calls")


def test_what_goes_on_is_told_until_it_ends(tmp_path: Path) -> None:
    assert contract.read_running(tmp_path) is None
    running = Running("quick", "normal-1-0-A: load", 3, 12, 95.5, "2026", (Ratio("decided p99", 1.2, 1.1, 1.3),))
    contract.write_running(tmp_path, running)
    assert contract.read_running(tmp_path) == running
