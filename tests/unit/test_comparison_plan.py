"""Order and validity: who goes first is fair, blocks are spread, and a spoiled trial is void for a reason that is told."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.comparison import plan, scenario
from benchmarks.comparison.contract import SIZES, Planned
from benchmarks.comparison.gates import Facts, judge, void_reasons
from benchmarks.comparison.scenario import Load, Noise, Repeats, Scenario, ScenarioError, Vary

NORMAL = Scenario("normal", "?", blocks=Repeats(standard=6), noise=Noise(standard=2))
SERIES = Scenario("series", "?", blocks=Repeats(standard=2), vary=Vary("engine.servers", (1, 2, 3)))
BUDGET_MINUTES = {"quick": 10, "standard": 60, "full": 300}

CLEAN = Facts(
    is_burst=False,
    planned=1000,
    recorded=1000,
    sent=1000,
    connections_wanted=100,
    connections_armed=100,
    offered_per_s=500.0,
    lag_p99_ms=1.0,
    response_p99_ms=20.0,
    generator_cpu=0.2,
    ceiling_per_s=5000.0,
    busy_before=0.0,
    steal=0.0,
    clock_step_s=0.0,
    exhausted=0,
    kernel={"listen_overflows": 0},
    swapped_pages=0,
    restarts=0,
)


def of(planned: list[Planned], name: str, block: int) -> list[tuple[str, str]]:
    return [(each.label, each.variant) for each in planned if (each.scenario, each.block) == (name, block)]


def test_every_block_has_everything_once_and_the_next_turns_it_round() -> None:
    planned = plan.plan([NORMAL, SERIES], "standard", 1)
    for first in (1, 3, 5):
        assert sorted(of(planned, "normal", first)) == [("A", ""), ("B", "")]
        assert of(planned, "normal", first + 1) == of(planned, "normal", first)[::-1]
    assert len(of(planned, "series", 1)) == len(set(of(planned, "series", 1))) == 6
    assert of(planned, "series", 2) == of(planned, "series", 1)[::-1]
    assert len({each.trial for each in planned}) == len(planned)


def test_a_backend_is_compared_with_itself_in_blocks_of_their_own() -> None:
    planned = plan.plan([NORMAL], "standard", 1)
    assert [sorted(of(planned, "normal", block)) for block in (7, 8)] == [
        [("A", ""), ("A2", "")],
        [("B", ""), ("B2", "")],
    ]
    assert {each.label: each.backend for each in planned}["A2"] == "asyncio_redis"


def test_blocks_of_all_kinds_are_spread_over_the_run() -> None:
    planned = plan.plan([NORMAL, SERIES], "standard", 1)
    halves = [
        Counter(each.scenario for each in half) for half in (planned[: len(planned) // 2], planned[len(planned) // 2 :])
    ]
    assert all(half["normal"] >= 4 and half["series"] >= 4 for half in halves)


def test_trials_of_a_block_follow_each_other() -> None:
    planned = plan.plan([NORMAL, SERIES], "standard", 1)
    blocks = [(each.scenario, each.block) for each in planned]
    assert len([1 for one, next_one in itertools.pairwise(blocks) if one != next_one]) + 1 == len(set(blocks))


def test_equal_seeds_equal_plans() -> None:
    plans = [plan.plan([NORMAL, SERIES], "standard", seed) for seed in range(20)]
    assert plans[3] == plan.plan([NORMAL, SERIES], "standard", 3)
    assert len({str(each) for each in plans}) > 1
    assert {of(each, "normal", 1)[0][0] for each in plans} == {"A", "B"}
    assert plan.block_seed(1, "normal", 1) == plan.block_seed(1, "normal", 1) != plan.block_seed(1, "normal", 2)


def test_as_many_blocks_as_are_asked_for() -> None:
    assert {each.block for each in plan.plan([NORMAL], "scenario", 1, blocks=4)} == {1, 2, 3, 4}
    assert len(plan.plan([NORMAL], "scenario", 1)) == 2


def test_a_block_with_a_void_trial_is_made_again_whole_in_the_same_order() -> None:
    planned = plan.plan([SERIES, NORMAL], "standard", 1)
    series, pair, noise = (
        next(each.trial for each in planned if (each.scenario, each.block) == wanted)
        for wanted in (("series", 2), ("normal", 4), ("normal", 8))
    )
    first, second, third = plan.again(planned, {series, pair, noise})
    assert [{(each.scenario, each.block) for each in block} for block in (first, second, third)] == [
        {("normal", 104)},
        {("normal", 108)},
        {("series", 102)},
    ], "where there are most blocks one more decides"
    assert of(first, "normal", 104) == of(planned, "normal", 4)
    assert of(third, "series", 102) == of(planned, "series", 2)
    everything = [*planned, *first, *second, *third]
    assert len({each.trial for each in everything}) == len(everything)
    assert plan.block_seed(1, "normal", 104) != plan.block_seed(1, "normal", 4)


def test_nothing_is_made_again_that_is_valid_or_has_been() -> None:
    planned = plan.plan([NORMAL], "standard", 1)
    assert plan.again(planned, ()) == []
    void = next(each.trial for each in planned if each.block == 4)
    (block,) = plan.again(planned, {void})
    planned += block
    assert plan.again(planned, {void}) == []
    (block,) = plan.again(planned, {void, block[0].trial})
    assert {each.block for each in block} == {204}
    planned += block
    assert plan.again(planned, {each.trial for each in planned if each.block % plan.AGAIN == 4}) == [], (
        "and no third time"
    )


def test_no_block_has_the_number_of_one_that_was_made_again() -> None:
    assert plan.plan([NORMAL], "standard", 1, blocks=97)
    with pytest.raises(ScenarioError, match="fewer than 100"):
        plan.plan([NORMAL], "standard", 1, blocks=98)


@pytest.mark.parametrize("size", [size for size in SIZES if size != "scenario"])
def test_a_size_fits_into_its_time(size: str) -> None:
    scenarios = {name: scenario.load(name) for name in scenario.names()}
    planned = plan.plan(list(scenarios.values()), size, 1)
    assert planned
    assert plan.total_seconds(planned, scenarios) <= BUDGET_MINUTES[size] * 60


@pytest.mark.parametrize("name", scenario.names())
def test_every_trial_of_a_scenario_has_a_p99(name: str) -> None:
    """Ten attempts must lie beyond it: a thousand shoppers, and as Poisson draws them, five deviations more."""
    for variant, each in scenario.load(name).variants():
        shoppers = scenario.expected_shoppers(each.load)
        is_drawn = each.load.model in {"poisson", "ramp"}
        assert shoppers - 5 * shoppers**0.5 * is_drawn >= 1_000, variant


def test_a_burst_takes_as_long_as_it_is_answered() -> None:
    assert plan.seconds(Load(model="burst", shoppers=12_000)) > plan.seconds(Load(model="burst", shoppers=10))


def test_a_clean_trial_passes_every_gate() -> None:
    assert void_reasons(judge(CLEAN)) == ()


@pytest.mark.parametrize(
    ("gate", "spoiled"),
    [
        ("connections_armed", {"connections_armed": 99}),
        ("sent_share", {"sent": 989}),
        ("rows_recorded", {"recorded": 999}),
        ("generator_lag_p99", {"lag_p99_ms": 5.1}),
        ("generator_cpu", {"generator_cpu": 0.81}),
        ("generator_ceiling", {"offered_per_s": 3501.0}),
        ("machine_busy_before", {"busy_before": 0.26}),
        ("steal", {"steal": 0.011}),
        ("clock_step", {"clock_step_s": -0.011}),
        ("descriptors_exhausted", {"exhausted": 1}),
        ("kernel_listen_overflows", {"kernel": {"listen_overflows": 1}}),
        ("swapped_pages", {"swapped_pages": 1}),
        ("restarts", {"restarts": 1}),
    ],
)
def test_what_spoils_a_trial_is_named(gate: str, spoiled: dict[str, object]) -> None:
    [reason] = void_reasons(judge(replace(CLEAN, **spoiled)))  # type: ignore[arg-type] # the fields' types differ
    assert reason.startswith(f"{gate}: ")


def test_lateness_is_judged_by_what_shoppers_waited() -> None:
    assert judge(replace(CLEAN, lag_p99_ms=90.0, response_p99_ms=1000.0))["generator_lag_p99"].passed
    assert judge(replace(CLEAN, is_burst=True, lag_p99_ms=999.0))["generator_lag_p99"].passed
    assert not judge(replace(CLEAN, is_burst=True, lag_p99_ms=1001.0))["generator_lag_p99"].passed


def test_what_nobody_could_tell_spoils_nothing() -> None:
    unknown = replace(CLEAN, steal=None, busy_before=None, ceiling_per_s=None, lag_p99_ms=None)
    assert void_reasons(judge(unknown)) == ()
