"""Live stock while stores are away, while only wake-ups come, and while a server stops."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from flashsale.settings import REPOSITORY
from flashsale.stream import wakeup
from tests.contract.test_stock_stream import BACKENDS, SHOWN_BY, Shop, shop_of
from tests.databases import PASSWORDS, given, url_for
from tests.patience import PATIENCE_SECONDS
from tests.proxy import Proxy, proxied
from tests.stages import Stage, staged
from tests.viewers import Viewer, viewing


class Place(NamedTuple):
    """A stage whose stores are reached through faults."""

    stage: Stage
    postgres: Proxy
    redis: Proxy


@contextlib.asynccontextmanager
async def placed(template: str, redis_url: str, settings: dict[str, str] | None = None) -> AsyncIterator[Place]:
    postgres_url = given("FLASH_TEST_POSTGRES_URL")
    async with proxied(postgres_url) as postgres, proxied(redis_url) as redis:
        app_url = url_for(postgres.lead(postgres_url), database="{}", user="flash_app", password=PASSWORDS["flash_app"])
        async with staged(
            template,
            redis.lead(redis_url),
            queued_servers=1,
            postgres_url=app_url,
            settings=settings,
        ) as stage:
            yield Place(stage, postgres, redis)


async def test_stores_that_are_away_make_numbers_old_and_never_wrong(template: str, redis_url: str) -> None:
    async with placed(template, redis_url) as place, contextlib.AsyncExitStack() as stack:
        shops = [await shop_of(place.stage, backend) for backend in BACKENDS]
        viewers = [await stack.enter_async_context(viewing(shop.url, shop.a)) for shop in shops]
        for viewer in viewers:
            await viewer.until(lambda viewer: viewer.of("beat"))

        # Redis: fresh enough without it
        await place.redis.refuse()
        for shop, viewer in zip(shops, viewers, strict=True):
            await shop.driver.restock("a", 1)
            await viewer.shows(shop.a, 11)
            await viewer.until(logs(shop, "stream.unlinked"))
        await place.redis.open()
        for shop, viewer in zip(shops, viewers, strict=True):
            await viewer.until(logs(shop, "stream.linked"), "listening again")

        # PostgreSQL: as_of stands still, beats do not
        place.postgres.freeze()
        for shop, viewer in zip(shops, viewers, strict=True):
            await viewer.until(stands_still, "beats that grow older")  # some fresh ones may have been on their way
            # what this process knows is still shown, with its age; of what it does not know nothing is said
            async with viewing(shop.url, shop.a) as late:
                await late.until(lambda late: late.of("snapshot"))
                assert age(late.of("snapshot")[0]) > 1.0
                assert late.available(shop.a) == 11
            async with viewing(shop.url, shop.b, is_patient=False) as blind:
                await blind.until(lambda blind: blind.ended)
                assert (blind.status, blind.events) == (200, [])
                assert blind.retry_ms >= 5000
        place.postgres.thaw()
        for shop, viewer in zip(shops, viewers, strict=True):
            await shop.driver.restock("a", 1)
            await viewer.shows(shop.a, 12)
            await viewer.until(lambda viewer: age(viewer.of("beat")[-1]) < 1.0, "fresh again")
            assert not viewer.ended


def logs(shop: Shop, event: str) -> Callable[[Viewer], bool]:
    return lambda _: event in shop.server.log.read_text()


def stands_still(viewer: Viewer) -> bool:
    """Have the last three beats told of one reading, ever older?"""
    beats = viewer.of("beat")[-3:]
    return len({beat["as_of"] for beat in beats}) == 1 and age(beats[-1]) > age(beats[0]) > 1.0


def age(told: dict[str, str]) -> float:
    return (datetime.fromisoformat(told["now"]) - datetime.fromisoformat(told["as_of"])).total_seconds()


async def test_a_wake_up_alone_brings_a_change(template: str, redis_url: str, tmp_path: Path) -> None:
    # With an hour between polls whatever is seen was woken for, in every process whoever committed.
    (tmp_path / "sitecustomize.py").write_text("from flashsale.stream import hub\nhub.POLL_SECONDS = 3600\n")
    settings = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY / 'src'}"}
    async with staged(template, redis_url, queued_servers=1, settings=settings) as stage:
        shop = await shop_of(stage, "asyncio_redis")
        async with contextlib.AsyncExitStack() as stack:
            viewers = [await stack.enter_async_context(viewing(url, shop.a)) for url in stage.urls]
            for viewer in viewers:
                await viewer.until(lambda viewer: viewer.of("beat"))
            await listening(stage)
            assert await shop.buy("ana", 2) == "held"
            for viewer in viewers:
                await viewer.shows(shop.a, 8)
            await shop.driver.lapse("ana", "ana")
            for viewer in viewers:
                await viewer.shows(shop.a, 10)

            # the committing server wakes its own viewers without Redis's help
            stage.upkeep.send(signal.SIGSTOP)
            try:
                assert await shop.buy("ben", 1) == "held"
                await viewers[0].shows(shop.a, 9)
            finally:
                stage.upkeep.send(signal.SIGCONT)


async def listening(stage: Stage) -> None:
    """Wait until every server hears wake-ups; what was published before is lost for good."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await stage.redis.pubsub_numsub(wakeup.CHANNEL))[0][1] < len(stage.servers):
            await asyncio.sleep(0.02)


async def test_a_server_that_stops_says_bye_to_everybody_at_moments_of_their_own(template: str, redis_url: str) -> None:
    async with (
        staged(template, redis_url, queued_servers=1, streams=1) as stage,
        contextlib.AsyncExitStack() as stack,
    ):
        for shown_by in SHOWN_BY:
            shop = await shop_of(stage, shown_by)
            viewers = [await stack.enter_async_context(viewing(shop.url, shop.a)) for _ in range(20)]
            for viewer in viewers:
                await viewer.until(lambda viewer: viewer.events)
            assert await shop.server.stop() == 0
            for viewer in viewers:
                await viewer.until(lambda viewer: viewer.ended)
                assert viewer.events[-1].name == "bye"
                assert viewer.events[-1].data == {}
            ends = sorted(viewer.ended or 0.0 for viewer in viewers)
            assert ends[-1] - ends[0] > 0.1, (
                "all at once"
            )  # spread over three seconds, of which we may have slept through most
