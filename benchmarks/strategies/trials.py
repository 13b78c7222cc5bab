"""All trials of one strategy, and what they come to: counted, bounded, and held against what it claims."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np
import scipy  # and not its stats, which it loads when they are first asked for: seconds, before anything can begin

from benchmarks.strategies.field import Field
from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.strategy import Attack, Strategy
from benchmarks.strategies.trial import RACE, RUSH, Crowd, Trial, attack, races, storm

CONFIDENCE = 0.95
SEED = 1
PATIENCE_SECONDS = 0.25  # for an attack to come about; doubled when it should have and did not
PATIENCE_SECONDS_MAX = 60.0
KILLED_MS = 4  # so that the one who is killed has something in hand
# The worst first: whoever does several is named after the first.
VERDICTS = (
    ("oversells", {Kind.OVERSOLD, Kind.LOST}),
    ("undersells", {Kind.UNDERSOLD, Kind.LEAKED}),
    ("sells twice", {Kind.DUPLICATE, Kind.PHANTOM}),
)
SAFE = "safe"


class Effort(NamedTuple):
    """How often. ``ours``: of attacks on our two, which start processes of the engine each time."""

    attacks: int
    ours: int
    rushes: int
    killed: int  # rushes in which a process is killed
    races: int  # times SIDE_BY_SIDE, for each delay
    delays_ms: tuple[int, ...]


class Attacked(NamedTuple):
    """All trials of one attack that count, and how many did not."""

    trials: Sequence[Trial]
    void: int


class Stormed(NamedTuple):
    """All storms of one kind."""

    delay_ms: int
    killed: bool
    crowd: Crowd
    trials: Sequence[Trial]


class Seen(NamedTuple):
    """Everything about one strategy."""

    strategy: type[Strategy]
    attacks: Mapping[Attack, Attacked]
    storms: Sequence[Stormed]


def attacks_on(strategy: type[Strategy]) -> list[Attack]:
    """Those that can happen to it: who has nothing in Redis loses nothing with it."""
    return [what for what in Attack if what is not Attack.LOSE or "redis" in strategy.stores]


async def try_strategy(field: Field, name: str, effort: Effort, say: Callable[[str], None]) -> Seen:
    """Everything that is done to one strategy. Raises ``RuntimeError`` when a buyer never has an answer."""
    attacks: dict[Attack, Attacked] = {}
    storms = []
    async with field.trying(name) as strategy:
        for what in attacks_on(type(strategy)):
            attacks[what] = await attacked(field, strategy, what, effort.ours if strategy.is_ours else effort.attacks)
            say(f"{name}, {what}: {_words(attacks[what].trials)}")
        await storm(field, strategy, -1, 0, killed=False)  # opens every connection, and counts for nothing
        rushes = [
            (delay_ms, killed, times)
            for delay_ms, killed, times in ((0, False, effort.rushes), (KILLED_MS, True, effort.killed))
            if times
        ]
        for delay_ms, killed, times in rushes:
            trials = [await storm(field, strategy, number, delay_ms, killed=killed) for number in range(times)]
            storms.append(Stormed(delay_ms, killed, RUSH, trials))
            say(f"{name}, a rush{' and a kill' if killed else ''}: {_words(trials)}")
        chance = Random(SEED)  # the same arrivals for everybody
        raced: dict[int, list[Trial]] = {delay_ms: [] for delay_ms in effort.delays_ms}
        for _ in range(effort.races):  # all delays in every round: a slow minute is everybody's
            for delay_ms, so_far in raced.items():
                so_far.extend(await races(field, strategy, chance, delay_ms))
        for delay_ms, trials in raced.items():
            say(f"{name}, races, {delay_ms} ms: {_words(trials)}")
    by_delay = [Stormed(delay_ms, killed=False, crowd=RACE, trials=trials) for delay_ms, trials in raced.items()]
    return Seen(type(strategy), attacks, [*by_delay, *storms])


async def attacked(field: Field, strategy: Strategy, what: Attack, times: int) -> Attacked:
    """So many trials. One that must come about and did not is repeated with more patience, and does not count, unless it found
    what nothing is known of.
    """
    trials: list[Trial] = []
    void, patience_s = 0, PATIENCE_SECONDS
    while len(trials) < times:
        trial = await attack(field, strategy, what, len(trials) + void, patience_s)
        is_news = bool(trial.found.wrongs.keys() - strategy.may_do())
        if trial.arranged or is_news or not must_come_about(strategy, what):
            trials.append(trial)
            continue
        if patience_s > PATIENCE_SECONDS_MAX:
            raise RuntimeError(f"{strategy.name()}: {what} does not come about within {patience_s:.0f} s")
        void, patience_s = void + 1, 2 * patience_s
    return Attacked(trials, void)


def must_come_about(strategy: Strategy, what: Attack) -> bool:
    """Whatever is claimed to break by it; and ours, since a kill that never happened proves nothing. Pure.

    Others may withstand an attack by not letting it come about: who waits for a lock never meets its holder.
    """
    return bool(strategy.claims.get(what)) or (strategy.is_ours and what in {Attack.DIE, Attack.AGAIN})


def contradictions(seen: Seen) -> list[str]:
    """Where it is not as it claims. Pure."""
    known = seen.strategy.may_do()
    wrong = []
    for what, of in seen.attacks.items():
        claims = seen.strategy.claims.get(what, frozenset())
        missed = sum(not claims <= one.found.wrongs.keys() for one in of.trials)
        if missed:
            wrong.append(
                f"{what}: {' and '.join(sorted(claims))} in {len(of.trials) - missed} of {len(of.trials)} trials only"
            )
    for kind, trials in sorted(tally(_every(seen)).items()):
        if kind not in known:
            wrong.append(f"{kind} in {trials} trials, of which nothing is known")
    return wrong


def verdict(found: Iterable[Kind]) -> str:
    """The worst that was found. Pure."""
    kinds = set(found)
    return next((word for word, of in VERDICTS if of & kinds), SAFE)


def result(seen: Seen) -> dict[str, Any]:
    """As the package describes it. Pure."""
    wrong = contradictions(seen)
    every = _every(seen)
    text = seen.strategy.text()
    return {
        "name": seen.strategy.name(),
        "title": seen.strategy.title,
        "summary": text.partition("\n\n")[0].replace("\n", " "),
        "text": text,
        "ours": seen.strategy.is_ours,
        "stores": list(seen.strategy.stores),
        "verdict": verdict(tally(every)),
        "trials": len(every),
        "oversold_trials": tally(every)[Kind.OVERSOLD],
        "as_claimed": not wrong,
        "contradictions": wrong,
        "attacks": {
            what.value: _attack(seen.strategy.claims.get(what, frozenset()), of) for what, of in seen.attacks.items()
        },
        "storms": [_storm(of) for of in seen.storms],
        "traces": list(_traces(seen)),
    }


def _every(seen: Seen) -> list[Trial]:
    attacks, storms = (of.trials for of in seen.attacks.values()), (of.trials for of in seen.storms)
    return [one for trials in (*attacks, *storms) for one in trials]


def tally(trials: Iterable[Trial]) -> Counter[Kind]:
    """In how many of them each kind of wrong was found."""
    return Counter(kind for one in trials for kind in one.found.wrongs)


def bounds(hits: int, of: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a rate."""
    found = scipy.stats.binomtest(hits, of).proportion_ci(CONFIDENCE, "exact")
    return float(found.low), float(found.high)


def _attack(claims: frozenset[Kind], of: Attacked) -> dict[str, Any]:
    caught = sum(claims <= one.found.wrongs.keys() for one in of.trials) if claims else None
    hits = sum(bool(one.found.wrongs) for one in of.trials) if caught is None else caught
    low, high = bounds(hits, len(of.trials))
    found = tally(of.trials)
    return {
        "claims": sorted(claims),
        "trials": len(of.trials),
        "void": of.void,
        "found": dict(found),
        "most": {kind: max(one.found.wrongs.get(kind, 0) for one in of.trials) for kind in found},
        "caught": caught,
        "low": low,
        "high": high,
        "unheard": sum(one.found.unheard for one in of.trials),
    }


def _storm(of: Stormed) -> dict[str, Any]:
    oversold = [one.found.wrongs.get(Kind.OVERSOLD, 0) for one in of.trials]
    low, high = bounds(sum(map(bool, oversold)), len(oversold))
    ms = [value for one in of.trials for value in one.ms]
    return {
        "delay_ms": of.delay_ms,
        "killed": of.killed,
        "trials": len(of.trials),
        "stock": of.crowd.stock,
        "buyers": of.crowd.buyers,
        "spread_ms": of.crowd.spread_ms,
        "oversold": oversold,
        "oversold_trials": sum(map(bool, oversold)),
        "low": low,
        "high": high,
        "found": dict(tally(of.trials)),
        "deadlocks": sum(one.deadlocks for one in of.trials),
        "retries": sum(one.again for one in of.trials),
        "unheard": sum(one.found.unheard for one in of.trials),
        "per_second": statistics.median([of.crowd.buyers / one.seconds for one in of.trials]),
        "p50_ms": float(np.percentile(ms, 50)),
        "p99_ms": float(np.percentile(ms, 99)),
    }


def _traces(seen: Seen) -> Iterable[dict[str, Any]]:
    for what, of in seen.attacks.items():
        for kind in Kind:
            for number, one in enumerate(of.trials):
                if kind in one.found.wrongs:
                    yield one.trace(kind, what, number)
                    break


def _words(trials: Sequence[Trial]) -> str:
    found = ", ".join(f"{kind} in {count}" for kind, count in tally(trials).items())
    return f"{len(trials)} trials, {found or 'nothing wrong'}"
