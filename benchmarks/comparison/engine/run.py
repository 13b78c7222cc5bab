"""A whole run: its manifest, its trials one after the other, and how far it is.

Law 1: the manifest is written before the first trial, and everything needed to do the same again stands in it. Law 2: a trial is whole or
is done again: what was interrupted has no ``trial.json``. Law 3: nothing but the trial itself runs while one runs.
"""

import asyncio
import contextlib
import hashlib
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.comparison import contract, machine, plan, scenario
from benchmarks.comparison.contract import Planned, Ratio, Run, Running, Trial
from benchmarks.comparison.engine import ceiling, trial
from benchmarks.comparison.engine.trial import Place
from benchmarks.comparison.scenario import Scenario
from flashsale.settings import Settings
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.running import running_stack

SERVICES = ("postgres", "redis", "rabbitmq")
INSTANCE = "comparison-services"
RATIOS = {"response p50": "response_p50_ms", "response p99": "response_p99_ms"}
# Whole blocks that have not been begun by then are left out: a machine slower than ours gets fewer, and not a longer night.
MINUTES = {"quick": 10, "standard": 60, "full": 300}
SHARE = 0.95  # of the interval of a ratio


@dataclass(frozen=True)
class Wanted:
    """What was asked for. ``again``: an earlier run, to be repeated. ``resume``: one that was interrupted, to be brought to its end."""

    size: str
    names: tuple[str, ...]
    seed: int
    blocks: int | None
    command: str
    commit: str
    resume: Path | None = None
    again: Path | None = None


def prepare(wanted: Wanted, home: Path) -> tuple[Path, Run]:
    """The run's folder, with its manifest in it. Raises ScenarioError, and StackError for a run that cannot be taken up."""
    if wanted.resume is not None:
        return wanted.resume, _taken_up(wanted)
    if wanted.again is not None:
        earlier = _manifest(wanted.again)
        size, seed, documents, planned = earlier.size, earlier.seed, earlier.scenarios, list(earlier.plan)
    else:
        size, seed = wanted.size, wanted.seed
        scenarios = [scenario.load(name) for name in wanted.names or scenario.names()]
        planned = plan.plan(scenarios, size, seed, wanted.blocks)
        used = {each.scenario for each in planned}
        documents = {name: scenario.read(name) for name in scenario.names() if name in used}
    run = Run(
        size=size,
        command=wanted.command,
        commit=wanted.commit,
        seed=seed,
        machine=machine.machine(),
        versions=machine.versions(),
        scenarios=documents,
        plan=tuple(planned),
        started_at=_now(),
    )
    what = json.dumps([documents, seed, [asdict(each) for each in planned]], sort_keys=True)
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"
    folder = home / "comparison" / name
    (folder / "trials").mkdir(parents=True)
    contract.write_run(folder, run)
    return folder, run


def latest_unfinished(home: Path) -> Path:
    """The newest run without an end. Raises StackError when there is none."""
    for folder in sorted((home / "comparison").glob("*-*"), reverse=True):
        with contextlib.suppress(StackError):  # of an earlier program, or no run
            if not _manifest(folder).ended_at:
                return folder
    raise StackError("there is no run that was interrupted", Exit.USAGE)


async def conduct(
    settings: Settings, environment: Mapping[str, str], folder: Path, run: Run, say: Callable[[str], None]
) -> int:
    """Every trial that has not been yet. OK if no trial of the run sold, lost or invented anything wrongly."""
    scenarios = {name: scenario.parse(name, document) for name, document in run.scenarios.items()}
    due = [each for each in run.plan if not (folder / "trials" / each.trial / "trial.json").exists()]
    progress = _Progress(settings.home, run, scenarios, due, say)
    say(f"{len(due)} of {len(run.plan)} trials are to be made, in about {progress.left_s / 60:.0f} minutes; {folder}")
    try:
        progress.phase("services")
        async with running_stack(
            settings, instance=INSTANCE, services=SERVICES, roles=(), say=lambda _: None, fresh=True
        ) as services:
            progress.phase("the generator's ceiling")
            most = await ceiling.measure(environment)
            say(
                f"the generator alone sends and hears {most.per_s:,.0f} requests per second; wrk {most.wrk_per_s or 0:,.0f}"
            )
            run = replace(run, machine={**run.machine, "generator": most.document()})
            contract.write_run(folder, run)
            place = Place(settings, services, most.per_s, environment)
            while True:
                for planned in due:
                    if progress.must_stop(planned):
                        say(f"the time of {run.size} is up with {progress.left} trials left; --resume makes them")
                        return _told(folder, run, say)
                    progress.phase(planned.trial)
                    where = folder / "trials" / planned.trial
                    where.mkdir(exist_ok=True)
                    seed = plan.block_seed(run.seed, planned.scenario, planned.block)
                    variant = plan.variant_of(scenarios[planned.scenario], planned)
                    progress.made(*await trial.run(place, planned, variant, seed, where))
                due = _made_again(folder, run, progress)
                if not due:
                    break
                run = replace(run, plan=(*run.plan, *due))
                contract.write_run(folder, run)
    finally:
        contract.running_path(settings.home).unlink(missing_ok=True)
    contract.write_run(folder, replace(run, ended_at=_now(), checksums=await asyncio.to_thread(_checksums, folder)))
    return _told(folder, run, say)


def _made_again(folder: Path, run: Run, progress: "_Progress") -> list[Planned]:
    # One block at a time: how long it takes is known better after each.
    void = {
        planned.trial for planned, where in contract.trial_folders(folder, run) if contract.read_trial(where).is_void
    }
    for block in plan.again(run.plan, void):
        if progress.has_time(block):
            progress.more(block)
            return block
    return []


def _told(folder: Path, run: Run, say: Callable[[str], None]) -> int:
    # void trials too: a generator that was late oversells nothing
    trials = [contract.read_trial(where) for _, where in contract.trial_folders(folder, run)]
    void = sum(each.is_void for each in trials)
    unclean = [each for each in trials if not each.audit.clean and each.audit != contract.NOT_AUDITED]
    for each in unclean:
        say(f"{each.name}: {'; '.join(each.audit.findings) or each.audit}")
    say(f"{len(trials)} trials, {void} of them void, {len(unclean)} with something wrong in the books; {folder}")
    return Exit.FAILED if unclean else Exit.OK


class _Progress:
    # For people, and for whoever reads running.json.

    def __init__(
        self,
        home: Path,
        run: Run,
        scenarios: Mapping[str, Scenario],
        due: Sequence[Planned],
        say: Callable[[str], None],
    ) -> None:
        self._home = home
        self._name = run.size if run.size != "scenario" else " ".join(run.scenarios)
        self._size = run.size
        self._began = time.monotonic()
        self._block: tuple[str, int] | None = None
        self._of = len(run.plan)
        self._scenarios = scenarios
        self._due = list(due)
        self._say = say
        self._around_s: list[float] = []
        self._pairs: dict[tuple[str, int, str, str], dict[str, dict[str, float]]] = defaultdict(dict)

    @property
    def left(self) -> int:
        return len(self._due)

    def must_stop(self, planned: Planned) -> bool:
        """Would this trial begin a block for which there is no time?"""
        block = planned.scenario, planned.block
        is_new, self._block = block != self._block, block
        return is_new and not self.has_time([each for each in self._due if (each.scenario, each.block) == block])

    def has_time(self, block: Sequence[Planned]) -> bool:
        minutes = MINUTES.get(self._size)
        return minutes is None or time.monotonic() - self._began + self._seconds(block) <= minutes * 60

    def more(self, block: Sequence[Planned]) -> None:
        """The plan has grown by it."""
        self._due += block
        self._of += len(block)

    @property
    def left_s(self) -> float:
        return self._seconds(self._due)

    def _seconds(self, due: Sequence[Planned]) -> float:
        around = statistics.fmean(self._around_s) if self._around_s else plan.AROUND_S
        return plan.total_seconds(due, self._scenarios, around)

    def phase(self, phase: str) -> None:
        running = Running(
            self._name, phase, self._of - len(self._due), self._of, round(self.left_s, 1), _now(), self._ratios()
        )
        contract.write_running(self._home, running)

    def made(self, made: Trial, glance: Mapping[str, Any]) -> None:
        self._due.pop(0)
        self._around_s.append(made.wall_s - made.load_s)
        if made.label in {"A", "B"} and not made.is_void:
            pair = self._pairs[made.scenario, made.block, made.variant, ""]
            pair[made.label] = {name: glance[key] for name, key in RATIOS.items() if glance.get(key)}
        waits = (
            ""
            if made.is_void
            else f"response p50 {glance['response_p50_ms']:,.0f} ms, p99 {glance['response_p99_ms']:,.0f} ms; "
        )
        books = "books clean" if made.audit.clean else f"BOOKS: {made.audit}"
        void = f"VOID ({'; '.join(made.void_reasons)}); " if made.is_void else ""
        counts = ", ".join(f"{count:,} {name}" for name, count in made.counts.items() if count)
        self._say(
            f"{self._of - len(self._due)}/{self._of} {made.name} {made.backend} {made.variant}: {counts}; {made.in_flight_peak:,} in flight; "
            f"{waits}{void}{books}; {made.wall_s:.0f} s; about {self.left_s / 60:.0f} min left"
        )

    def _ratios(self) -> tuple[Ratio, ...]:
        found = []
        for metric in RATIOS:
            logs = [
                math.log(pair["B"][metric] / pair["A"][metric])
                for pair in self._pairs.values()
                if all(metric in pair.get(label, {}) for label in ("A", "B"))
            ]
            if len(logs) > 1:
                found.append(_ratio(metric, logs))
        return tuple(found)


def _ratio(metric: str, logs: Sequence[float]) -> Ratio:
    from scipy import stats  # noqa: PLC0415 - a second of loading that a short run does not need

    middle = statistics.fmean(logs)
    half = stats.t.ppf((1 + SHARE) / 2, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(metric, *(round(math.exp(value), 4) for value in (middle, middle - half, middle + half)))


def _manifest(folder: Path) -> Run:
    try:
        return contract.read_run(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StackError(f"{folder} is no run of the comparison that can be read: {error}", Exit.USAGE) from error


def _taken_up(wanted: Wanted) -> Run:
    assert wanted.resume is not None
    run = _manifest(wanted.resume)
    if run.ended_at:
        raise StackError(f"{wanted.resume} has come to its end; --again repeats it", Exit.USAGE)
    if run.commit != wanted.commit:
        raise StackError(
            f"{wanted.resume} was begun with commit {run.commit}, and this is {wanted.commit}: trials of two programs are no comparison",
            Exit.USAGE,
        )
    return run


def _checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
