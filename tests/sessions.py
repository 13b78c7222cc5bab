"""How tests speak to servers: as clients that try later when they are told to, since a machine under load makes them hear so.

A server has its deadlines, and a test that expects a yes is not about them. Who is about a 503 asks with ``AS_IT_COMES``.
"""

import asyncio
from typing import Any

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from multidict import CIMultiDict, CIMultiDictProxy

from flashsale.contract import wire
from tests.patience import PATIENCE_SECONDS

AS_IT_COMES: Any = ()  # `middlewares` of a request whose first answer is the one that counts
PAUSE_SECONDS = 0.1
_SHOP = (wire.PURCHASES_PATH, wire.SALES_PATH, wire.STOCK_PATH)  # operations' 503 are states, and no refusals


def patient_session(*, force_close: bool = False) -> aiohttp.ClientSession:
    """A session without a limit of connections, whose requests to the shop are sent again while the answer is 503.

    ``force_close``: with a connection for each request, for who talks to servers that die.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=force_close),
        timeout=aiohttp.ClientTimeout(total=2 * PATIENCE_SECONDS),
        middlewares=(_TryLater(),),
    )


class _TryLater:
    def __init__(self) -> None:
        self._answered: set[tuple[str | None, str | None]] = set()  # whose key has bought
        self._receipts: set[str] = set()  # of wishes that were queued once more

    async def __call__(self, request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        buyer = request.headers.get(wire.BUYER_HEADER) or request.headers.get("Authorization")
        wish = buyer, request.headers.get(wire.KEY_HEADER)
        is_wish = request.method == "POST" and request.url.path == wire.PURCHASES_PATH
        is_new = is_wish and wish not in self._answered
        until = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        answer, tries = await send(request), 1
        while answer.status == 503 and request.url.path.startswith(_SHOP) and asyncio.get_running_loop().time() < until:
            await answer.read()  # or its connection is not free again
            await asyncio.sleep(PAUSE_SECONDS)
            answer, tries = await send(request), tries + 1
        if is_new and tries > 1:
            # 503 promises nothing, and may yet come true: what is shown is what this very wish has bought, now or later.
            if answer.status == 200:
                answer.status = 201
            elif answer.status == 202:
                self._receipts.add((await answer.json(content_type=None))["receipt"])
        if request.headers.get(wire.RECEIPT_HEADER) in self._receipts:
            first = CIMultiDict(answer.headers)
            first.popall(wire.REPLAYED_HEADER, None)
            answer._headers = answer._cache["headers"] = CIMultiDictProxy(first)  # which aiohttp keeps once it was read
        if is_wish and answer.ok:
            self._answered.add(wish)
        return answer
