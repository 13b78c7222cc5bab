"""The smallest comparison, from the manifest to the last checksum: one scenario, one block, both backends and the cells between them."""

import hashlib
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.comparison import contract, plan, scenario
from benchmarks.comparison.contract import Run
from benchmarks.comparison.engine import ceiling, run, trial
from benchmarks.comparison.flight import NEVER, peak
from benchmarks.comparison.observe import queues, stock
from flashsale.settings import Settings
from flashsale.stack.exits import Exit
from tests.databases import PASSWORDS, given
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

STOCK, SHOPPERS = 120, 200
TINY = {
    "question": "Does a trial leave behind what the contract says?",
    "labels": ["A", "B", "C", "D"],
    "viewers": 3,
    "load": {"model": "constant", "rate": 200, "seconds": 1, "connections": 20, "patience_s": 600},
    "shop": {"stock": STOCK},
    "engine": {"servers": 1},
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    # with the passwords that the test run's roles have already
    passwords = {
        f"FLASH_POSTGRES_{role.removeprefix('flash_').upper()}_PASSWORD": PASSWORDS[role] for role in PASSWORDS
    }
    services = {f"FLASH_{name}_URL": str(given(f"FLASH_TEST_{name}_URL")) for name in ("POSTGRES", "REDIS", "RABBITMQ")}
    return Settings.load({"FLASH_HOME": str(tmp_path), **services, **passwords})


async def test_all_meet_the_same_shoppers_and_everything_is_written_down(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SETTLES_S", 0.0)  # nothing is measured here
    monkeypatch.setattr(plan, "AGAIN_MAX", 0)  # and a void trial is as good
    monkeypatch.setattr(trial, "PRIMER", replace(trial.PRIMER, seconds=0.5))
    for observer in (stock, queues):  # whose last look is held against the books
        monkeypatch.setattr(observer, "ASK_S", PATIENCE_SECONDS)
    monkeypatch.setattr(ceiling, "FLOOD", replace(ceiling.FLOOD, rate=1_000.0))
    planned = plan.plan([scenario.parse("tiny", TINY)], "scenario", 1)
    manifest = Run("scenario", "a test", "unknown", 1, {}, {}, {"tiny": TINY}, tuple(planned), "now")
    folder = settings.home / "comparison" / "tiny"
    (folder / "trials").mkdir(parents=True)
    said: list[str] = []

    assert await run.conduct(settings, {}, folder, manifest, said.append) == Exit.OK, said

    ended = contract.read_run(folder)
    assert ended.ended_at
    assert contract.read_running(settings.home) is None
    for name, checksum in ended.checksums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum
    trials = {planned.label: where for planned, where in contract.trial_folders(folder, ended)}
    assert set(trials) == {"A", "B", "C", "D"}
    for where in trials.values():
        _is_whole(where)
    first, *others = [contract.read_frame(where, "requests")[["shopper", "intended_ns"]] for where in trials.values()]
    assert all(first.equals(other) for other in others)
    # who queues says 202 and is followed; who decides says it at once
    followed = {
        label for label, where in trials.items() if (contract.read_frame(where, "calls")["kind"] == "follow").any()
    }
    assert followed == {"B", "C"}


def _is_whole(where: Path) -> None:
    made = contract.read_trial(where)
    assert made.audit.clean, made.audit
    assert made.backend == contract.LABELS[made.label]
    assert (made.counts["SOLD"], made.counts["SOLD_OUT"]) == (STOCK, SHOPPERS - STOCK), made
    assert {event.kind for event in contract.read_events(where)} >= {
        "release",
        "first_sold_out",
        "last_sold",
        "load_end",
    }
    frames = {name: contract.read_frame(where, name) for name in contract.FILES}
    assert not [name for name, frame in frames.items() if frame.empty]
    requests, calls = frames["requests"], frames["calls"]
    assert len(requests) == SHOPPERS
    assert (requests["intended_ns"] <= requests["sent_ns"]).all()
    assert (requests["sent_ns"] <= requests["accepted_ns"]).all()
    assert (requests["accepted_ns"] <= requests["decided_ns"]).all()
    for frame, end, told in ((requests, "decided_ns", made.in_flight_peak), (calls, "ended_ns", made.open_peak)):
        ends = frame[end].fillna(NEVER)
        assert peak(zip(frame["sent_ns"], ends, strict=True)) == told >= 1
    roles = {"gen", "monitor", "lb", "backend", "upkeep", *(["worker"] if made.label in {"B", "C"} else [])}
    assert roles <= set(frames["resources"]["role"])
    assert set(frames["stock"]["source"]) == {"postgres", "gate", "viewer"}
    assert (made.viewed["viewers"], made.viewed["backwards"], made.viewed["contradictions"]) == (3, 0, 0)
    assert frames["stock"].query("source == 'postgres'")["available"].iloc[-1] == 0
    assert {"in_hand", "commits"} <= set(frames["queues"]["metric"])
    assert urlsplit(str(given("FLASH_TEST_POSTGRES_URL"))).password not in (None, ""), "or the next line proves nothing"
    assert str(urlsplit(str(given("FLASH_TEST_POSTGRES_URL"))).password) not in (where / "load.json").read_text()
