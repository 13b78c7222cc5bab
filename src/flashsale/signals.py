"""How work that a person may stop comes to its end. Standard library only: the launcher imports it before anything is installed."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def until_signalled(work: Coroutine[Any, Any, Result]) -> Result:
    """Run it. The first Ctrl-C or SIGTERM cancels it, and once it has taken down what it started ``KeyboardInterrupt`` is raised.

    Only the first: Ctrl-C is the terminal's word to all of us, and SIGTERM then the launcher's to its child. Whichever comes second
    finds the work tidying up, and would strike whatever it awaits by then.
    """
    signalled = False

    async def run() -> Result:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def on_signal() -> None:
            nonlocal signalled
            if not signalled:
                signalled = True
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        return await work

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if signalled:
            raise KeyboardInterrupt from None
        raise
