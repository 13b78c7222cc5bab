"""``python -m flashsale.webhooks``: hand chosen events of FLASH_RABBITMQ_URL to one HTTP address, signed, until SIGTERM."""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from flashsale import logs
from flashsale.settings import Settings
from flashsale.webhooks.consumer import IN_HAND_MAX, Consumer, patterns
from flashsale.webhooks.sender import Sender, parse_secret, parse_url

ROLE = "webhooks"

log = structlog.get_logger()


async def serve(rabbitmq_url: str, url: str, key: bytes, topics: list[str]) -> None:
    """Deliver until SIGTERM or SIGINT; what is in hand then comes back to the queue unacknowledged."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    sender = Sender(url, key, connections=IN_HAND_MAX)
    consuming = asyncio.create_task(
        Consumer(rabbitmq_url, sender, topics).run(lambda: log.info("webhooks.consuming", topics=topics)), name=ROLE
    )
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({consuming, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    consuming.cancel()
    (result,) = await asyncio.gather(consuming, return_exceptions=True)
    await sender.close()
    log.info("webhooks.stopped")
    if isinstance(result, Exception):
        raise result


def main() -> int:
    """Exit status 0 stopped, 2 bad usage."""
    parser = argparse.ArgumentParser(prog="python -m flashsale.webhooks", description=__doc__)
    parser.add_argument("--url", required=True, help="https://..., or http:// on this machine")
    parser.add_argument(
        "--secret-file", required=True, type=Path, metavar="FILE", help="holds whsec_<base64 of 24 to 64 bytes>"
    )
    parser.add_argument(
        "--topic", action="append", choices=list(patterns()), metavar="TOPIC", help="may be given several times"
    )
    parsed = parser.parse_args()
    settings = Settings.load(os.environ)
    try:
        key, url = parse_secret(parsed.secret_file.read_text("ascii")), parse_url(parsed.url)
    except (OSError, ValueError) as error:
        print(f"webhooks: {error}", file=sys.stderr)
        return 2
    if not settings.rabbitmq_url:
        print("webhooks: FLASH_RABBITMQ_URL is not set", file=sys.stderr)
        return 2
    logs.configure(ROLE, settings.log_level)
    topics = parsed.topic or [topic for topic, by_default in patterns().items() if by_default]
    uvloop.run(serve(settings.rabbitmq_url, url, key, topics))
    return 0


if __name__ == "__main__":
    sys.exit(main())
