"""Two shops on one virtual host of RabbitMQ would decide each other's attempts: the second one is refused, aloud."""

import asyncio

from tests.databases import drop_database, given, make_database
from tests.patience import PATIENCE_SECONDS
from tests.servers import JWT_SECRET, Process
from tests.stages import staged


async def test_another_shop_is_refused_until_the_first_is_gone(template: str, redis_url: str) -> None:
    other = await make_database(template)
    environment = {
        "FLASH_POSTGRES_URL": other.app_url,
        "FLASH_RABBITMQ_URL": given("FLASH_TEST_RABBITMQ_URL"),
        "FLASH_REDIS_URL": given("FLASH_TEST_REDIS_URL"),
        "FLASH_AUTH": "off",
        "FLASH_JWT_SECRET": JWT_SECRET,
    }
    newcomers = [Process(role, environment) for role in ("checkout", "gevent_rabbit")]
    try:
        async with staged(template, redis_url, servers=0, queued_servers=1) as stage:
            for newcomer in newcomers:
                await newcomer.spawn()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not all("another shop" in newcomer.log.read_text() for newcomer in newcomers):
                    await asyncio.sleep(0.05)
            assert not any([await newcomer.is_ready(stage.session) for newcomer in newcomers])  # and none is dead
            for process in (*stage.servers, *stage.workers):
                await process.stop()
            await asyncio.gather(*(newcomer.ready() for newcomer in newcomers))
    finally:
        await asyncio.gather(*(newcomer.stop() for newcomer in newcomers if newcomer.child is not None))
        await drop_database(other)
