"""The strategy lab on real stores: every strategy does what it claims, and the naive ones are caught every time, by construction."""

import os
from collections.abc import AsyncIterator
from random import Random

import pytest
import pytest_asyncio

from benchmarks.strategies import field as lab
from benchmarks.strategies.catalogue import STRATEGIES, strategy
from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.strategy import Attack
from benchmarks.strategies.trial import RACE, RUSH, SIDE_BY_SIDE, races, storm
from benchmarks.strategies.trials import Effort, attacked, attacks_on, contradictions, result, try_strategy
from flashsale.settings import REPOSITORY
from tests.databases import given
from tests.queues import drop_queues

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

OURS = [name for name in STRATEGIES if strategy(name).is_ours]
OTHERS = [name for name in STRATEGIES if name not in OURS]
FOR_OURS = {
    "asyncio_redis": (Attack.AGAIN, Attack.LOSE),
    "gevent_rabbit": (Attack.AGAIN,),
}  # the rest: the crash tables


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def field(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[lab.Field]:
    await drop_queues()  # what an earlier test left is nobody's here
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"}
    urls = given("FLASH_TEST_POSTGRES_URL"), given("FLASH_TEST_RABBITMQ_URL")
    async with lab.opened(*urls, tmp_path_factory.mktemp("lab"), environment) as opened:
        yield opened


@pytest.mark.parametrize("name", OTHERS)
async def test_a_pattern_breaks_where_it_says_and_nowhere_else(field: lab.Field, name: str) -> None:
    async with field.trying(name) as tried:
        for what in attacks_on(type(tried)):
            claims = tried.claims.get(what, frozenset())
            if not claims and what is not Attack.MEET:
                continue  # a few seconds each: what it withstands is for the lab itself to try
            of = await attacked(field, tried, what, 1)
            (trial,) = of.trials
            assert claims <= trial.found.wrongs.keys() <= tried.may_do(), trial.steps


@pytest.mark.parametrize("name", OURS)
async def test_ours_withstand_what_breaks_the_others(field: lab.Field, name: str) -> None:
    async with field.trying(name) as tried:
        for what in FOR_OURS[name]:
            (trial,) = (await attacked(field, tried, what, 1)).trials
            assert not trial.found.wrongs, trial.steps
            assert len(trial.ledger.finally_recorded) == trial.ledger.stock


async def test_a_crowd_is_judged_whole_and_races_each(field: lab.Field) -> None:
    async with field.trying("sql_conditional_update") as tried:
        rush = await storm(field, tried, 0, 1, killed=True)
        assert len(rush.ledger.told) == RUSH.buyers + len(rush.ledger.strangers)
        assert len(rush.ledger.finally_recorded) >= RUSH.stock
        assert rush.found.wrongs.keys() <= tried.may_do()
        raced = await races(field, tried, Random(1), 1)
    assert [len(one.ledger.recorded) for one in raced] == [RACE.stock] * SIDE_BY_SIDE
    assert not [one.found.wrongs for one in raced if one.found.wrongs]


async def test_everything_about_one_strategy_makes_a_result(field: lab.Field) -> None:
    seen = await try_strategy(field, "redis_get_then_decr", Effort(1, 1, 1, 0, 1, (0,)), print)
    assert not contradictions(seen)
    told = result(seen)
    assert told["verdict"] == "oversells"
    assert [(one["delay_ms"], one["spread_ms"]) for one in told["storms"]] == [(0, RACE.spread_ms), (0, 0)]
    trace = next(one for one in told["traces"] if (one["kind"], one["attack"]) == (Kind.OVERSOLD, Attack.MEET))
    steps = [one["step"] for one in trace["steps"]]
    assert steps.count("GET 1") == 4  # who was last to read was told what the first was
    assert max(place for place, step in enumerate(steps) if step == "GET 1") < min(
        place for place, step in enumerate(steps) if step.startswith("DECR")
    )
