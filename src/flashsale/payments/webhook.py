"""What gateways tell us by themselves. Nothing is believed that is not signed, recent, new, and about money we asked for.

What follows from an event goes to the worker through the outbox, in the same statement in which the event was heard.
"""

import json
import time
import uuid
from typing import Any, NamedTuple

import structlog
from aiohttp import web

from flashsale.authority.client import Authority, AuthorityUnavailable, BadBatch, Told
from flashsale.contract import wire
from flashsale.payments.client import OUTCOMES
from flashsale.payments.metrics import Metrics
from flashsale.payments.signature import HEADER, why_not

BODY_BYTES_MAX = 4096
EVENT_CHARS_MAX = 128

log = structlog.get_logger()


class Heard(NamedTuple):
    """An event, parsed."""

    event: str
    told: Told


def parse(body: bytes) -> Heard:
    """Raises ``ValueError`` saying what is wrong."""
    try:
        document = json.loads(body)
        data = document["data"]
        event, key, purchase, currency = document["id"], data["key"], data["purchase"], data["currency"]
        amount_minor, state = data["amount_minor"], data["state"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the event lacks something: {error!r}") from error
    texts = (event, key, purchase, currency, state)
    if not all(isinstance(text, str) for text in texts) or type(amount_minor) is not int:
        raise ValueError("a field of the event is of the wrong kind")
    named, _, number = key.rpartition(":")
    if named != purchase or number not in {str(n) for n in range(1, wire.TRIES_MAX + 1)}:
        raise ValueError("the event's key is of another purchase, or of none")
    if state not in OUTCOMES or not 1 <= len(event) <= EVENT_CHARS_MAX:
        raise ValueError("the event tells nothing that a payment can become")
    return Heard(event, Told(uuid.UUID(purchase), int(number), state, amount_minor, currency))


class Webhook:
    """The route that gateways call."""

    def __init__(self, authority: Authority, secret: str, metrics: Metrics) -> None:
        self._authority = authority
        self._secret = secret
        self._metrics = metrics

    def add_to(self, app: web.Application) -> None:
        """Register the route."""
        app.router.add_post(wire.WEBHOOK_PATH, self.post)

    async def post(self, request: web.Request) -> web.Response:
        """200 heard, now or before; 4xx not believed; 503 not now. Only the first changes anything."""
        body = await request.read()
        why = why_not(self._secret, request.headers.get(HEADER), body, time.time())
        if why:
            return self._answer("unsigned", 401, why)
        try:
            heard = parse(body)
        except ValueError as error:
            return self._answer("malformed", 400, str(error))
        try:
            effect = await self._authority.hear_payment(heard.event, heard.told)
        except AuthorityUnavailable:
            return self._answer("try_later", 503, "nothing was heard; send it again")
        except BadBatch as error:
            return self._answer("malformed", 400, str(error))
        if effect in {"unknown", "mismatch"}:
            log.warning("webhook.disbelieved", why=effect, event_id=heard.event)
            return self._answer(
                effect, 404 if effect == "unknown" else 409, "this is not about money that we asked for"
            )
        return self._answer("repeated" if effect == "heard" else "heard", 200, "")

    def _answer(self, effect: str, status: int, detail: str) -> web.Response:
        self._metrics.webhooks.labels(effect).inc()
        document: dict[str, Any] = {"heard": status == 200} | ({"detail": detail} if detail else {})
        headers = {"Retry-After": str(wire.RETRY_AFTER_SECONDS)} if status == 503 else None
        return web.json_response(document, status=status, headers=headers)
