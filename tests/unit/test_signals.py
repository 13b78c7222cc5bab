"""Work that a person may stop: the first signal ends it, the second finds it tidying up, and nothing else is taken for one."""

import asyncio
import signal

import pytest

from flashsale.signals import until_signalled
from tests.stopped import ORDERS, Stopped


@pytest.mark.parametrize(("first", "second"), ORDERS)
def test_whoever_is_told_twice_to_stop_still_tidies_up(first: signal.Signals, second: signal.Signals) -> None:
    work = Stopped(first, second)
    with pytest.raises(KeyboardInterrupt):
        until_signalled(work())
    assert work.is_tidy


def test_what_nobody_stops_gives_its_result() -> None:
    assert until_signalled(asyncio.sleep(0, "done")) == "done"


def test_a_cancellation_that_no_signal_asked_for_is_none() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        until_signalled(work())
