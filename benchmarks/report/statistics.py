"""
What a few trials allow to be said. Pure: numbers in, numbers and words out.

Law 1: the sample is the trial, which began with fresh processes. Ten thousand requests of one trial saw the same processes in the same
minute; compared with ten thousand of another they are always "significant".
Law 2: A and B are compared within a block, where the machine was in one state and the seed was the same; blocks are compared never.
Law 3: nothing wins that does not exceed what the same thing differs by from itself (A against A again), nor what somebody would notice.
Law 4: everything is computed from unrounded values.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import scipy  # and not its stats, which it loads when they are first asked for: seconds, for whoever wants a constant of this module
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TAIL_MIN = 10  # observations that must lie beyond a quantile, or it is the place of a few stragglers
PAIRS_MIN = 6  # five pairs cannot come below p = 0.06 by their signs, whatever they show
FLOOR_PAIRS_MIN = 3  # the largest of fewer differences says little about what else may happen
SIGNIFICANCE = 0.05
CONFIDENCE = 0.95
NOTICEABLE_RATIO = math.log(1.05)
NOTICEABLE_SHARE = 0.001  # of shoppers without a verdict: what the objective of a capacity allows
LOST_TOLERATED = 0.01  # past this share of attempts without a verdict an average is one of survivors
EXACT_PAIRS_MAX = 14  # up to here every pattern of signs is tried, 16,384; beyond, as many are drawn
RESAMPLES = 9_999
INTERVALS = f"95 % intervals (of fewer than {PAIRS_MIN} trials: least and most)"  # of medians, wherever they are shown
UNDECIDED = "some attempts were never decided, and the difference may lie among them"
ALL_KEPT = "keeps up with all that was offered, and what it would bear beyond is not known"
NONE_KEPT = "keeps up with not even the first step, and what it would bear below is not known"


class Winner(StrEnum):
    """Who is better in one row. The labels are those of the run's plan."""

    A = "A"
    B = "B"
    TIE = "tie"
    INCONCLUSIVE = "inconclusive"
    DISQUALIFIED = "disqualified"


@dataclass(frozen=True)
class Value:
    """
    One trial's figure. `is_bound`: the true one is this or more, because it lies among attempts that were never decided, or beyond the
    last step of a series; `is_below`: it is less, because not even the first step was kept up with.
    """

    number: float
    is_bound: bool = False
    is_below: bool = False


@dataclass(frozen=True)
class Scale:
    """
    How two values are compared: by ratio, or, for shares that may be 0, by difference. `noticeable` is on that scale, and so is `grain`:
    a value is known no closer, so within it nothing is equal. `bounded`: what it means that the true value may be more.
    """

    is_ratio: bool
    noticeable: float
    grain: float = 0.0
    bounded: str = UNDECIDED

    def difference(self, first: float, second: float) -> float:
        """Of the second from the first; positive where it is larger."""
        return math.log(second / first) if self.is_ratio else second - first

    def shown(self, difference: float) -> float:
        """As people read it: 1.10 for a tenth more, or the difference itself."""
        return math.exp(difference) if self.is_ratio else difference


RATIO = Scale(is_ratio=True, noticeable=NOTICEABLE_RATIO)
SHARE = Scale(is_ratio=False, noticeable=NOTICEABLE_SHARE)


def ladder(steps: Sequence[float]) -> Scale:
    """Of what is known by steps: that one was kept up with and the next was not."""
    rising = sorted(steps)
    grain = max((math.log(above / below) for below, above in itertools.pairwise(rising)), default=math.inf)
    return Scale(is_ratio=True, noticeable=NOTICEABLE_RATIO, grain=grain, bounded=ALL_KEPT)


@dataclass(frozen=True)
class Effect:
    """B against A over all blocks. Differences are on the scale's own axis: 0 is equality."""

    scale: Scale
    pairs: int
    estimate: float
    low: float
    high: float
    p: float  # of the mean difference, by t: what Holm corrects
    p_exact: float  # by signs alone: whatever the distribution
    floor: float | None  # what A differs from A by; None: not known
    superiority: float  # share of blocks in which B is larger, ties half
    bounded: frozenset[Winner] = frozenset()  # of whom some value is a lower bound
    below: frozenset[Winner] = frozenset()  # of whom some value is an upper one

    @property
    def threshold(self) -> float:
        """What a difference must exceed to matter."""
        return max(self.scale.noticeable, self.floor or 0.0)

    @property
    def may_be_more(self) -> bool:
        """B against A, in truth."""
        return Winner.B in self.bounded or Winner.A in self.below

    @property
    def may_be_less(self) -> bool:
        """The same."""
        return Winner.A in self.bounded or Winner.B in self.below

    @property
    def unknown(self) -> str:
        """What the bounds keep from us; empty where there are none."""
        return NONE_KEPT if self.below else self.scale.bounded if self.bounded else ""


@dataclass(frozen=True)
class Judged:
    """A row's answer and, in words, why it is that one."""

    winner: Winner
    reason: str
    p_holm: float | None = None


def quantile(decided: Floats, never: int, q: float) -> Value | None:
    """
    The q-quantile of all attempts, of which `never` have no verdict and are later than every other; None where fewer than TAIL_MIN
    lie beyond it. `decided` is sorted. A quantile among those without a verdict is at least the latest verdict there was.
    """
    count = len(decided) + never
    if count * (1 - q) < TAIL_MIN - 1e-9 or not len(decided):  # 1 - 0.99 is a little less than a hundredth
        return None
    rank = math.ceil(q * count - 1e-9)
    return Value(float(decided[rank - 1])) if rank <= len(decided) else Value(float(decided[-1]), is_bound=True)


def average(decided: Floats, never: int) -> Value | None:
    """
    Of those decided, which is a lower bound once more than LOST_TOLERATED were not: whoever leaves the slow ones unanswered would
    otherwise look fast.
    """
    if not len(decided):
        return None
    return Value(float(np.mean(decided)), is_bound=never > LOST_TOLERATED * (len(decided) + never))


def middle(values: Sequence[float], seed: int) -> tuple[float, float, float] | None:
    """
    The median over trials with its interval: BCa, which covers too little below some ten trials; below PAIRS_MIN, and where all but
    nothing varies, least and most.
    """
    if not values:
        return None
    data = np.asarray(values, dtype=np.float64)
    median, least, most = float(np.median(data)), float(data.min()), float(data.max())
    if len(data) < PAIRS_MIN or most - least <= 1e-9 * abs(most):
        return median, least, most
    found = scipy.stats.bootstrap(
        (data,),
        np.median,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (median, low, high) if math.isfinite(low) and math.isfinite(high) else (median, least, most)


def effect(
    pairs: Sequence[tuple[Value, Value]], same: Sequence[tuple[Value, Value]], scale: Scale, seed: int
) -> Effect | None:
    """B against A, a pair per block; `same` are pairs of one backend under two labels. None where no pair can be compared."""
    usable = _usable(pairs, scale)
    if len(usable) < 2:  # one difference has no spread
        return None
    differences = np.asarray([scale.difference(a.number, b.number) for a, b in usable])
    mean = float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(usable))
    reach = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(usable) - 1)) * error
    bounded = {Winner.A for a, _ in usable if a.is_bound} | {Winner.B for _, b in usable if b.is_bound}
    below = {Winner.A for a, _ in usable if a.is_below} | {Winner.B for _, b in usable if b.is_below}
    return Effect(
        scale=scale,
        pairs=len(usable),
        estimate=mean,
        low=mean - reach,
        high=mean + reach,
        p=_p_of_mean(mean, error, len(usable)),
        p_exact=_p_of_signs(differences, seed),
        floor=noise_floor(same, scale),
        superiority=float(np.mean((differences > 0) + 0.5 * (differences == 0))),
        bounded=frozenset(bounded),
        below=frozenset(below),
    )


def compared(
    pairs: Sequence[tuple[Value, Value]], same: Sequence[tuple[Value, Value]], scale: Scale, seed: int
) -> Effect | str:
    """The effect, or in words why there is none."""
    found = effect(pairs, same, scale, seed)
    if found is not None:
        return found
    if not pairs:
        return "no valid pair to compare"
    if len(_usable(pairs, scale)) < len(pairs):
        return "a zero has no ratio, and fewer than two pairs are without one"
    return f"one pair, and fewer than {PAIRS_MIN} decide nothing"


def noise_floor(same: Sequence[tuple[Value, Value]], scale: Scale) -> float | None:
    """The largest difference between one backend and itself; None where it was looked at too seldom."""
    usable = _usable(same, scale)
    if len(usable) < FLOOR_PAIRS_MIN:
        return None
    return max(abs(scale.difference(a.number, b.number)) for a, b in usable)


def _usable(pairs: Sequence[tuple[Value, Value]], scale: Scale) -> list[tuple[Value, Value]]:
    return [(a, b) for a, b in pairs if not scale.is_ratio or (a.number > 0 and b.number > 0)]


def _p_of_mean(mean: float, error: float, count: int) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * scipy.stats.t.sf(abs(mean / error), count - 1))


def _p_of_signs(differences: Floats, seed: int) -> float:
    if not np.any(differences):
        return 1.0
    exact = len(differences) <= EXACT_PAIRS_MAX
    found = scipy.stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=2 ** len(differences) if exact else RESAMPLES,
        rng=np.random.default_rng(seed),
        vectorized=True,
    )
    return float(found.pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """Each p as if it stood alone: the chance of one false finding among all of them stays what it is for one."""
    corrected = [0.0] * len(ps)
    worst = 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        worst = max(worst, min(1.0, ps[index] * (len(ps) - place)))
        corrected[index] = worst
    return corrected


def judge(effects: Sequence[tuple[Effect | str, bool]], wrong: Sequence[str] = ()) -> list[Judged]:
    """
    All rows that name a winner, at once, because Holm counts them; each with whether more is better, and with the reason where there is
    no effect. `wrong` says what the books of which backend are not: then nothing else counts. In order: correctness, enough pairs, a known noise floor, a finding that survives
    correction and signs, a difference that matters; a tie is a finding too, namely that the interval has no room for one that does.
    """
    if wrong:
        return [Judged(Winner.DISQUALIFIED, "; ".join(wrong)) for _ in effects]
    # A row of too few pairs cannot win, so it takes nothing from those that can.
    counted = {
        index: found.p
        for index, (found, _) in enumerate(effects)
        if isinstance(found, Effect) and found.pairs >= PAIRS_MIN
    }
    corrected = dict(zip(counted, holm(list(counted.values())), strict=True))
    return [
        Judged(Winner.INCONCLUSIVE, found)
        if isinstance(found, str)
        else _judge(found, corrected.get(index), more_is_better=more_is_better)
        for index, (found, more_is_better) in enumerate(effects)
    ]


def _judge(found: Effect, p_holm: float | None, *, more_is_better: bool) -> Judged:
    better = Winner.B if (found.estimate > 0) == more_is_better else Winner.A
    if p_holm is None:
        reason = f"{found.pairs} pairs, and fewer than {PAIRS_MIN} decide nothing"
    elif found.floor is None:
        reason = f"fewer than {FLOOR_PAIRS_MIN} pairs of the same backend: its noise is not known"
    elif _is_tie(found):
        if not found.unknown:
            return Judged(Winner.TIE, "the interval has no room for a difference that matters", p_holm)
        reason = found.unknown
    elif found.scale.grain and not found.estimate:
        reason = found.unknown or "the same step, and what lies between two is not known"
    elif abs(found.estimate) <= found.threshold:
        reason = "no more than noise, or than what matters, and the interval has room for more"
    elif p_holm >= SIGNIFICANCE:  # so is every row whose interval includes equality
        reason = "may be chance, once all rows are counted"
    elif found.p_exact >= SIGNIFICANCE:
        reason = "the blocks do not agree on the sign"
    elif found.may_be_less if found.estimate > 0 else found.may_be_more:
        reason = found.unknown  # so it may be equality, or the other way round
    else:
        return Judged(better, "exceeds noise and what matters", p_holm)
    return Judged(Winner.INCONCLUSIVE, reason, p_holm)


def _is_tie(found: Effect) -> bool:
    # An interval without equality that lies within the noise alone is no tie: there is a difference, and nobody knows whose.
    reach = max(-found.low, found.high) + found.scale.grain
    return reach < found.scale.noticeable or (reach < found.threshold and found.low <= 0 <= found.high)


def at_most(successes: int, trials: int) -> float | None:
    """What the share may be at most, with CONFIDENCE (Clopper and Pearson); one-sided, as 3/n for none in n."""
    if not trials:
        return None
    return float(
        scipy.stats.binomtest(successes, trials, alternative="less").proportion_ci(CONFIDENCE, method="exact").high
    )


def hodges_lehmann(before: Sequence[float], after: Sequence[float], scale: Scale) -> tuple[float, float] | None:
    """How much larger `after` is than `before`, unpaired, and p by Mann and Whitney; for two runs, whose blocks do not match."""
    if scale.is_ratio and min([*before, *after], default=0.0) <= 0:
        return None
    if not before or not after:
        return None
    shift = float(np.median([scale.difference(a, b) for a in before for b in after]))
    if set(before) == set(after) and len(set(before)) == 1:
        return shift, 1.0
    return shift, float(scipy.stats.mannwhitneyu(before, after, alternative="two-sided").pvalue)
