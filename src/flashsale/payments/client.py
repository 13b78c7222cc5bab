"""Talks to the gateways, one for each way to pay. Every call carries the try's key; a repeated key is answered with the same state."""

import json
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import aiohttp

from flashsale.authority.client import Payment, Told

CALL_SECONDS = 3.0  # a gateway that has not answered by then has told nothing; its answer to the next call is as good
CONNECTIONS_MAX = 256  # as many as messages are worked on at once
SILENCES_MAX = 8  # calls in a row without an answer, after which a gateway is taken to be away
AWAY_SECONDS = 0.5  # how often a gateway that is away is asked, by one call; the others hear so at once
ANSWER_BYTES_MAX = 4096
PENDING = "pending"  # begun, and no outcome yet: a webhook will tell
DISPUTED = "disputed"  # taken, and the buyer's bank decides who keeps it
OUTCOMES = frozenset(
    {"authorized", "declined", "captured", "voided", "refunded", DISPUTED, "dispute_won", "dispute_lost"}
)


class GatewayUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """The outcome is unknown, or there was no call. The same call may be made again."""


class GatewayRefused(Exception):  # noqa: N818 - see above
    """The gateway does not do this, and will not when asked again: the two of us disagree about this try."""


class Gateways:
    """The gateways at ``urls``, by way to pay."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._gateways = {method: Gateway(url) for method, url in urls.items()}

    async def close(self) -> None:
        """Close every connection."""
        for gateway in self._gateways.values():
            await gateway.close()

    async def do(self, operation: str, payment: Payment) -> Told:
        """As ``Gateway.do``, at the gateway of the payment's method."""
        gateway = self._gateways.get(payment.method)
        if gateway is None:
            raise GatewayUnavailable(f"{operation}: nobody said where the gateway for {payment.method} is")
        return await gateway.do(operation, payment)


class Gateway:
    """One gateway at ``url``. While it is away it costs nobody the time to find out."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._silences = 0
        self._asked_s = -AWAY_SECONDS
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX), timeout=aiohttp.ClientTimeout(CALL_SECONDS)
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def do(self, operation: str, payment: Payment) -> Told:
        """Authorize, capture, void, refund or look; the state the try is in now. Raises ``GatewayUnavailable``, ``GatewayRefused``."""
        now_s = time.monotonic()
        if self._silences >= SILENCES_MAX and now_s < self._asked_s + AWAY_SECONDS:
            raise GatewayUnavailable(f"{operation}: the gateway for {payment.method} is away")
        self._asked_s = now_s
        try:
            told = await self._call(operation, payment)
        except GatewayUnavailable:
            self._silences += 1
            raise
        except GatewayRefused:  # which is an answer
            self._silences = 0
            raise
        self._silences = 0
        return told

    async def _call(self, operation: str, payment: Payment) -> Told:
        asked = {
            "key": f"{payment.purchase}:{payment.number}",
            "purchase": str(payment.purchase),
            "amount_minor": payment.amount_minor,
            "currency": payment.currency,
            "method": payment.method,
        }
        try:
            # a redirect would turn the call into another one, at a place nobody configured
            url = f"{self._url}/payments/{operation}"
            async with self._session.post(url, json=asked, allow_redirects=False) as answer:
                if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status == HTTPStatus.TOO_MANY_REQUESTS:
                    raise GatewayUnavailable(f"{operation}: status {answer.status}")
                body = await _read(answer)
                if answer.status != HTTPStatus.OK:
                    raise GatewayRefused(f"{operation}: status {answer.status}: {body!r:.200}")
                document = json.loads(body)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            raise GatewayUnavailable(f"{operation}: {error or type(error).__name__}") from error
        return _told(payment, document)


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise GatewayRefused(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    return body


def _told(payment: Payment, document: Any) -> Told:
    # The money is what the gateway says, not what we asked for: the authority compares the two.
    try:
        told = Told(
            payment.purchase,
            payment.number,
            document["state"],
            document["amount_minor"],
            document["currency"],
        )
    except (KeyError, TypeError) as error:
        raise GatewayRefused(f"an answer that says nothing: {document!r:.200}") from error
    kinds = (type(told.outcome), type(told.amount_minor), type(told.currency))
    if kinds != (str, int, str) or told.outcome not in OUTCOMES | {PENDING}:
        raise GatewayRefused(f"an answer that says nothing: {document!r:.200}")
    return told
