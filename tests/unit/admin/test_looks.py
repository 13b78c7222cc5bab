"""Who looks at the messages that were set aside, when the broker is slow, keeps nobody else."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from flashsale.admin import figures
from flashsale.admin.figures import Figures
from flashsale.admin.guard import Door
from flashsale.admin.metrics import Metrics
from flashsale.admin.operations.collector import Collector, Where
from flashsale.admin.operations.stream import Stream
from flashsale.admin.routes import LOOKS_WAITING_MAX, Routes
from flashsale.admin.turns import FullError
from flashsale.admin.users import Users
from flashsale.operate.context import Context
from tests.patience import PATIENCE_SECONDS

NOWHERE = Context("postgresql://x:x@127.0.0.1:1/x", "", "", "amqp://127.0.0.1:1", {}, json=True)


def unseen(session: aiohttp.ClientSession) -> Stream:
    """Nobody's."""
    return Stream(Collector(Where(NOWHERE, {}, "", Path("/nonexistent")), session), {})


async def test_many_looks_leave_the_turns_to_others_and_are_bounded(tmp_path: Path) -> None:
    looking = asyncio.Lock()
    async with aiohttp.ClientSession() as session, looking, asyncio.timeout(PATIENCE_SECONDS):
        shown = Figures(NOWHERE, "", session, looking=looking)
        routes = Routes(
            Door.at("", 1),
            Users(tmp_path / "none"),
            NOWHERE,
            shown,
            unseen(session),
            looking=looking,
            metrics=Metrics(),
        )

        async def look() -> None:
            async with routes._at("dlq.drop"):
                pass

        looks = [asyncio.create_task(look()) for _ in range(1 + LOOKS_WAITING_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await look()
        async with routes._at("sale.pause"):
            pass
        assert not any(each.done() for each in looks)
        for each in looks:
            each.cancel()
        await asyncio.gather(*looks, return_exceptions=True)


async def test_a_part_that_does_not_come_is_away_and_the_overview_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "PART_SECONDS", 0.1)
    looking = asyncio.Lock()
    async with aiohttp.ClientSession() as session, looking, asyncio.timeout(PATIENCE_SECONDS):
        found = await Figures(NOWHERE, "", session, looking=looking).overview()
    assert found["aside"] == {"away": "it takes longer than 0.1 seconds"}
    assert found["audit"] == {"away": "no auditor is known here; run `./flash audit`"}
