"""A look at the messages that were set aside ends, whatever becomes of the broker meanwhile."""

import asyncio

import pytest

from flashsale.operate import broker
from flashsale.operate.context import AwayError
from flashsale.payments import queues
from tests.databases import given
from tests.patience import PATIENCE_SECONDS
from tests.proxy import proxied
from tests.queues import empty_payments, put, ready_messages


async def test_a_broker_that_hangs_keeps_nobody_in_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    await empty_payments()
    await put(queues.DEAD, b"one", b"two")
    for name in ("CONNECT_SECONDS", "CALL_SECONDS", "QUIET_SECONDS"):  # until it hangs
        monkeypatch.setattr(broker, name, PATIENCE_SECONDS)
    url = given("FLASH_TEST_RABBITMQ_URL")
    async with proxied(url) as proxy:

        async def look() -> None:
            async with broker.aside(proxy.lead(url), queues.DEAD) as messages:
                assert messages.in_hand == 2
                for name in ("CALL_SECONDS", "END_SECONDS"):
                    monkeypatch.setattr(broker, name, 0.5)
                proxy.freeze()

        async with asyncio.timeout(2 * PATIENCE_SECONDS):
            with pytest.raises(AwayError):
                await look()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await ready_messages(queues.DEAD) < 2:
            await asyncio.sleep(0.1)
    await empty_payments()
