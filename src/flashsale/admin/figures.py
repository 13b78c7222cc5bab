"""What the overview shows, read once for all who look at it: any number of open pages cost the stores what one does."""

import asyncio
import json
import time
from collections.abc import Awaitable
from typing import Any

import aiohttp

from flashsale.operate import dlq, sale
from flashsale.operate.context import Context, OperationError

FRESH_SECONDS = 1.0
AUDITOR_SECONDS = 2.0
PART_SECONDS = 20.0  # of one part, its wait for a turn included: what takes longer is away, and the others are not kept
REPORT_BYTES_MAX = 1024 * 1024


class Figures:
    """The overview, at most ``FRESH_SECONDS`` old. A part whose store is away says so, and the others are shown."""

    def __init__(
        self, context: Context, auditor_url: str, session: aiohttp.ClientSession, *, looking: asyncio.Lock
    ) -> None:
        self._context = context
        self._auditor_url = auditor_url
        self._session = session
        self._looking = looking
        self._reading: asyncio.Task[dict[str, Any]] | None = None
        self._read_at = float("-inf")

    async def overview(self) -> dict[str, Any]:
        """One reading, shared by whoever asks while it lasts and for a moment after."""
        reading = self._reading
        if reading is None or (reading.done() and time.monotonic() - self._read_at > FRESH_SECONDS):
            reading = self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(reading)  # who goes away takes it from nobody

    def changed(self) -> None:
        """Somebody did something: what was read before is not shown to whoever asks from now on."""
        self._reading = None

    def close(self) -> None:
        """Nobody asks any more."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> dict[str, Any]:
        audit, sales, aside = await asyncio.gather(
            _part(self._audit()), _part(sale.listed(self._context)), _part(self._aside())
        )
        self._read_at = time.monotonic()
        return {"audit": audit, "sales": sales, "aside": aside}

    async def _aside(self) -> dict[str, int]:
        async with self._looking:
            return await dlq.counted(self._context)

    async def _audit(self) -> dict[str, Any]:
        if not self._auditor_url:
            raise OperationError("no auditor is known here; run `./flash audit`")
        try:
            limit = aiohttp.ClientTimeout(total=AUDITOR_SECONDS)
            async with self._session.get(f"{self._auditor_url}/report", timeout=limit) as answer:
                report = json.loads(await whole_body(answer.content, REPORT_BYTES_MAX))
                shown = ("clean", "ready", "passes", "failed_passes", "age_s", "violations", "findings")
                return {name: report[name] for name in shown}
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise OperationError(f"the auditor does not answer: {str(error) or type(error).__name__}") from error


async def whole_body(content: aiohttp.StreamReader, bytes_max: int) -> bytes:
    """All of an answer. Raises ValueError for a longer one."""
    # One read is answered with what has come so far.
    body = b""
    while part := await content.readany():
        body += part
        if len(body) > bytes_max:
            raise ValueError(f"its answer is longer than {bytes_max} bytes")
    return body


async def _part(reading: Awaitable[Any]) -> dict[str, Any]:
    try:
        async with asyncio.timeout(PART_SECONDS):
            return {"is": await reading}
    except OperationError as error:
        return {"away": str(error)}
    except TimeoutError:
        return {"away": f"it takes longer than {PART_SECONDS:g} seconds"}
