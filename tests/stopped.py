"""Work that is told to stop, and told so once more while it tidies up."""

import asyncio
import signal
from typing import Any

from tests.patience import PATIENCE_SECONDS

ORDERS = [
    (signal.SIGINT, signal.SIGTERM),  # a Ctrl-C, and the launcher's word to its child behind it
    (signal.SIGTERM, signal.SIGINT),
    (signal.SIGINT, signal.SIGINT),
]


class Stopped:
    """To be called in the place of something that would run for hours."""

    def __init__(self, first: signal.Signals, second: signal.Signals) -> None:
        self.is_tidy = False
        self._first = first
        self._second = second

    async def __call__(self, *_: object) -> Any:
        """Is signalled, and tidies up once it has been cancelled for that."""
        try:
            signal.raise_signal(self._first)
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            heard = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, heard.set)
            signal.raise_signal(self._second)
            # A loop hears signals in their order: whatever the second does is done by then.
            signal.raise_signal(signal.SIGUSR1)
            await heard.wait()
            self.is_tidy = True
