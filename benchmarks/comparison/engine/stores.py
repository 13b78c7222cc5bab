"""Services that stay for a whole run, and for each trial a state that nobody has touched.

PostgreSQL, Redis and RabbitMQ take longer to start than a trial's load lasts, RabbitMQ longer than everything else together. So they
stay, and each trial gets a database of its own, an empty Redis and no queues; every process of the engine is started anew.
"""

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

import aio_pika
import asyncpg
from redis.asyncio import Redis

from flashsale.proof.stores import DEAD_QUEUES, WORKING_QUEUES
from flashsale.settings import Settings
from flashsale.stack.running import Urls

CONNECT_S = 60.0


@contextlib.asynccontextmanager
async def fresh(settings: Settings, urls: Urls) -> AsyncIterator[Settings]:
    """The settings of an engine on an empty database, an empty Redis and a RabbitMQ without queues; the database goes at the end."""
    name = f"comparison_{secrets.token_hex(6)}"
    owner = urlsplit(urls.postgres_owner)
    maintenance = urls.postgres_superuser or urls.postgres_owner
    await _execute(maintenance, f"CREATE DATABASE {name} OWNER {owner.username}")
    try:
        await _empty_redis(urls.redis)
        await _drop_queues(urls.rabbitmq)
        yield replace(
            settings,
            postgres_url=urlunsplit(owner._replace(path=f"/{name}")),
            redis_url=urls.redis,
            rabbitmq_url=urls.rabbitmq,
        )
    finally:
        await _execute(maintenance, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=CONNECT_S)
    try:
        await connection.execute(statement, timeout=CONNECT_S)
    finally:
        connection.terminate()


async def _empty_redis(url: str) -> None:
    redis: Redis = Redis.from_url(url, socket_timeout=CONNECT_S, socket_connect_timeout=CONNECT_S)
    try:
        await redis.flushall()
    finally:
        await redis.aclose()


async def _drop_queues(url: str) -> None:
    connection = await aio_pika.connect(url, timeout=CONNECT_S)
    async with connection:
        channel = await connection.channel()
        for queue in (*WORKING_QUEUES, *DEAD_QUEUES):
            await channel.queue_delete(queue)
