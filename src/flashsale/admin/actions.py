"""What the page can do: every deed of ``flashsale.operate`` that it has, by name, with what it is told. One table for the API's
checks, the page's forms and the plans.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from flashsale.operate import balancer, dlq, purchase, sale
from flashsale.operate.context import Change, Context, Deed
from flashsale.operate.fields import Field, Kind, one_of

MESSAGE_CHARS_MAX = 255  # as AMQP has an id

Asked = Mapping[str, Any]


class Action(NamedTuple):
    """One deed: what it means, what it is told, what it would change, and its doing."""

    means: str
    fields: tuple[Field, ...]
    plan: Callable[[Asked, Deed, Context], Awaitable[list[Change]]]
    do: Callable[[Asked, Deed, Context], Awaitable[Any]]


def _message(text: str) -> str:
    if not 1 <= len(text) <= MESSAGE_CHARS_MAX or not text.isprintable():
        raise ValueError
    return text


QUEUE = Field("queue", one_of(*dlq.QUEUES))
MESSAGE = Field("message", Kind(f"1 to {MESSAGE_CHARS_MAX} printable characters", _message))


async def _plan_purchase(action: str, asked: Asked, by: Deed, context: Context) -> list[Change]:
    return await purchase.plan(action, asked["purchase"], by, context)


async def _do_purchase(action: str, asked: Asked, by: Deed, context: Context) -> None:
    await purchase.do(action, asked["purchase"], by, context)


async def _plan_message(action: str, asked: Asked, _: Deed, context: Context) -> list[Change]:
    return await dlq.plan(action, asked["queue"], asked["message"], context)


async def _do_message(action: str, asked: Asked, by: Deed, context: Context) -> dict[str, Any]:
    return await dlq.do(action, asked["queue"], asked["message"], by, context)


async def _plan_balancer(verb: str, asked: Asked, _: Deed, context: Context) -> list[Change]:
    return await balancer.plan(verb, asked, context)


ACTIONS: Mapping[str, Action] = {
    **{
        f"sale.{name}": Action(verb.means, verb.places + verb.options, partial(sale.plan, name), partial(sale.do, name))
        for name, verb in sale.VERBS.items()
    },
    **{
        f"purchase.{name}": Action(
            means, (purchase.SUBJECT,), partial(_plan_purchase, name), partial(_do_purchase, name)
        )
        for name, means in purchase.DEEDS.items()
    },
    **{
        f"dlq.{name}": Action(means, (QUEUE, MESSAGE), partial(_plan_message, name), partial(_do_message, name))
        for name, means in dlq.DEEDS.items()
    },
    **{
        f"balancer.{name}": Action(verb.means, verb.fields, partial(_plan_balancer, name), partial(balancer.do, name))
        for name, verb in balancer.VERBS.items()
    },
}
