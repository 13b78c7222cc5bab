"""The contract as scenes. Each is played by the model, the SQL, two servers of each backend, and one of each in turn."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.contract.drivers import HttpDriver, ModelDriver, SqlDriver
from tests.contract.script import Driver, play
from tests.stages import Stage, staged

SCENES = {
    "never oversells": """
        open a=2
        reserve ana          -> held
        reserve ben          -> held
        reserve cyd          -> sold_out
        stock   a=0
    """,
    "same key same answer": """
        open a=1
        reserve ana          -> held
        reserve ana          -> replayed
        replay  ana          -> replayed
        reserve ben          -> sold_out
        reserve ana          -> replayed
        stock   a=0
    """,
    "same key other body": """
        open a=5 b=5 limit=9
        reserve ana          -> held
        reserve ana x2       -> key_reused
        replay  ana of=b     -> key_reused
        reserve ana of=zzz   -> key_reused
        stock   a=4 b=5
    """,
    "a refusal is forgotten": """
        open a=1
        reserve ana          -> held
        reserve ben          -> sold_out
        cancel  ana          -> CANCELLED
        reserve ben          -> held
        replay  ana          -> replayed
        state   ana          -> CANCELLED
    """,
    "unpaid units return": """
        open a=1
        reserve ana          -> held
        lapse   ana
        state   ana          -> EXPIRED
        reserve ben          -> held
        cancel  ana          -> too_late
        reserve ana          -> replayed
        stock   a=0
    """,
    "a buyer has a limit": """
        open a=9 b=9 limit=3
        reserve ana x2 key=1 -> held
        reserve ana x2 key=2 -> over_limit
        reserve ana    key=3 of=b -> held
        reserve ana    key=4 -> over_limit
        reserve ben x4       -> over_limit
        cancel  ana key=1    -> CANCELLED
        reserve ana x2 key=4 -> held
    """,
    "a cart is whole": """
        open a=5 b=1 limit=9
        reserve ana of=a+b   -> held
        reserve ben of=b+a   -> sold_out
        reserve ben of=a     -> held
        stock   a=3 b=0
        cancel  ana          -> CANCELLED
        stock   a=4 b=1
    """,
    "one cart one sale": """
        open s a=1
        open t z=1
        reserve ana of=a+z   -> mixed_sales
        reserve ana of=a+zzz -> unknown_sku
        reserve ana of=zzz   -> unknown_sku
        stock   a=1 z=1
    """,
    "a paused sale keeps its promises": """
        open a=2
        reserve ana          -> held
        pause
        reserve ben          -> sale_not_open
        reserve ana          -> replayed
        cancel  ana          -> CANCELLED
        reopen
        reserve ben          -> held
        end
        reserve cyd          -> sale_not_open
        replay  ben          -> replayed
    """,
    "restocked units sell": """
        open a=1
        reserve ana          -> held
        reserve ben          -> sold_out
        restock a=2
        reserve ben          -> held
        reserve cyd x2       -> sold_out
        stock   a=1
    """,
    "cancel is told twice": """
        open a=1
        reserve ana          -> held
        cancel  ana          -> CANCELLED
        cancel  ana          -> CANCELLED
        cancel  ben          -> unknown_purchase
        stock   a=1
    """,
}

CASTS = ("model", "sql", "asyncio_redis", "gevent_rabbit", "mixed")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(template: str, redis_url: str) -> AsyncIterator[Stage]:
    async with staged(template, redis_url, servers=2, queued_servers=2) as made:
        yield made


def cast(name: str, stage: Stage) -> Driver:
    if name == "model":
        return ModelDriver()
    if name == "sql":
        return SqlDriver(stage.authority, stage.owner)
    urls = [stage.urls_of("asyncio_redis")[0], stage.urls_of("gevent_rabbit")[0]]
    if name != "mixed":
        urls = stage.urls_of(name)
    return HttpDriver(stage.authority, stage.owner, stage.session, urls)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", CASTS)
@pytest.mark.parametrize("scene", SCENES)
async def test_scene(scene: str, name: str, stage: Stage) -> None:
    await play(SCENES[scene], cast(name, stage))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_scene_that_comes_out_otherwise_fails(stage: Stage) -> None:
    for name in CASTS:
        with pytest.raises(AssertionError, match="heard held"):
            await play("open a=1\n reserve ana -> sold_out", cast(name, stage))
