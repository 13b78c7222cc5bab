"""PostgreSQL and RabbitMQ looked at again and again through one connection each, for somebody who watches.

Each is an iterator that looks once whenever it is asked for the next, and raises ``OperationError`` when it cannot: whoever watches
begins anew. A connection a look would cost the stores more than the look.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, NamedTuple

from flashsale.operate.context import Context

CALL_SECONDS = 5.0
SALES_MAX, DEEDS_MAX = 20, 50
NEWS_MINUTES = 10

# As `flash sale list` has them, without what is held, which costs what is open.
_SALES = """
    WITH latest AS (SELECT * FROM sale ORDER BY opens DESC, id DESC LIMIT $1)
    SELECT s.id AS sale, s.name,
           CASE WHEN s.state = 'ENDED' OR clock_timestamp() >= s.closes THEN 'ENDED'
                WHEN s.state = 'OPEN' AND clock_timestamp() < s.opens THEN 'SCHEDULED' ELSE s.state END AS state,
           coalesce(sum(k.total), 0)::bigint AS units, coalesce(sum(k.available), 0)::bigint AS available
    FROM latest s LEFT JOIN stock k ON k.sale_id = s.id
    GROUP BY s.id, s.name, s.state, s.opens, s.closes ORDER BY s.opens, s.id"""
# Whoever knows of none yet is told of the last minutes: what was done last month is no news.
_DEEDS = f"""
    SELECT id, extract(epoch FROM at)::float8 AS at, operator, action, subject, reason
    FROM (SELECT * FROM operation WHERE id > $1 ORDER BY id DESC LIMIT $2) latest
    WHERE $1 > 0 OR at > clock_timestamp() - interval '{NEWS_MINUTES} minutes' ORDER BY id DESC"""  # noqa: S608 - a number of ours


class Books(NamedTuple):
    """The latest sales, and what was done by hand since the look before, the latest last."""

    sales: list[dict[str, Any]]
    deeds: list[dict[str, Any]]


class Queues(NamedTuple):
    """Messages in nobody's hand, and consumers, by queue: those that somebody works on, and what was set aside.
    None of one that was not there when it was looked for last.
    """

    worked: Mapping[str, tuple[int, int] | None]
    aside: Mapping[str, tuple[int, int] | None]


async def books(context: Context, since: int) -> AsyncGenerator[Books, None]:
    """What the books say; of deeds those behind the one with the id ``since``."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres, CALL_SECONDS) as connection:
        while True:
            sales = [dict(row) for row in await connection.fetch(_SALES, SALES_MAX)]
            deeds = [dict(row) for row in await connection.fetch(_DEEDS, since, DEEDS_MAX)][::-1]
            since = deeds[-1]["id"] if deeds else since
            yield Books(sales, deeds)


def queues(context: Context) -> AsyncGenerator[Queues, None]:
    """What the broker says."""
    from flashsale.operate.broker import looks  # noqa: PLC0415 - needs third-party packages

    return looks(context.rabbitmq)
