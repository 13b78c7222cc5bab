"""Which sale a SKU belongs to: a copy of few rows, read again when somebody asks for one it lacks."""

import asyncio

from flashsale.authority.client import Authority, AuthorityUnavailable
from flashsale.contract.wire import Cart

REFRESH_SECONDS_MIN = 0.1  # made-up SKUs, however many, cost one read per this


class Catalog:
    """SKU → sale. Never the reason for a refusal: what it does not know, the authority is asked."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._sales: dict[str, str] = {}
        self._refreshing: asyncio.Task[bool] | None = None
        self._refreshed_at = float("-inf")

    def sale_of(self, cart: Cart) -> str | None:
        """The sale of all lines of the cart; None when a SKU is unknown here or the lines span sales."""
        if len(cart.lines) == 1:  # nearly every cart, and every attempt comes by
            return self._sales.get(cart.lines[0].sku)
        sales = {self._sales.get(line.sku) for line in cart.lines}
        return sales.pop() if len(sales) == 1 else None

    async def refresh(self) -> bool:
        """Read the copy again, unless it is fresh. False: the authority did not answer, and it is left as it was."""
        if self._refreshing is None and asyncio.get_running_loop().time() - self._refreshed_at >= REFRESH_SECONDS_MIN:
            self._refreshing = asyncio.create_task(self._read())
        if self._refreshing is not None:
            return await asyncio.shield(self._refreshing)
        return True

    async def _read(self) -> bool:
        try:
            self._sales = await self._authority.sales_by_sku()
        except AuthorityUnavailable:
            return False
        finally:
            self._refreshed_at = asyncio.get_running_loop().time()
            self._refreshing = None
        return True
