# The words of the command line by which a person steps into a running shop. A new word is a module of flashsale.operate and a row
# in cli.COMMANDS.
from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

from flashsale.operate.context import Context, OperationError
from flashsale.settings import Settings
from flashsale.stack.exits import Exit
from flashsale.stack.lifecycle import running_urls
from flashsale.stack.roles import GATEWAYS
from flashsale.stack.running import python_environment

Run = Callable[[argparse.Namespace, Context], Awaitable[None]]


def run(work: Run, parsed: argparse.Namespace, settings: Settings) -> Exit:
    """Do it to what `up` started. Raises StackError if nothing runs."""
    urls = running_urls(settings)
    context = Context(
        postgres=urls["postgres_operator"],
        postgres_auditor=urls["postgres_auditor"],
        redis=urls["redis"],
        rabbitmq=urls["rabbitmq"],
        gateways={method: urls[role] for method, role in GATEWAYS.items() if urls[role]},
        json=parsed.json,
    )
    try:
        asyncio.run(_awaited(work(parsed, context)))
    except OperationError as error:
        print(f"flash: {error}", file=sys.stderr)
        return Exit.FAILED
    return Exit.OK


def deliver(parsed: argparse.Namespace, settings: Settings) -> NoReturn:
    """Become the example consumer of events, beside what `up` started. Raises StackError if nothing runs."""
    environment = python_environment(os.environ) | {"FLASH_RABBITMQ_URL": running_urls(settings)["rabbitmq"]}
    topics = [word for topic in parsed.topic or () for word in ("--topic", topic)]
    where = ["--url", parsed.url, "--secret-file", parsed.secret_file]
    os.execve(sys.executable, [sys.executable, "-m", "flashsale.webhooks", *where, *topics], environment)


async def _awaited(work: Awaitable[None]) -> None:
    await work
