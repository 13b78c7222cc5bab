"""Queues and exchanges: names, arguments, and the reason for each. Data only; whoever connects declares all of it.

Declaring is idempotent, and a process that disagrees with the broker about an argument must not start.
"""

import hashlib
import zlib
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

# One consumer is active per shard, so that attempts for one item are decided in the order they came. More shards would
# only spread a single hot item no further.
SHARDS = 4
# Past this a shard refuses and the shopper hears 503: at some thousand decisions a second it is ten seconds of waiting.
SHARD_MESSAGES_MAX = 50_000
SHARD_BYTES_MAX = 64 * 1024 * 1024  # the same many messages of the size that one-line carts have, with room to spare
DEAD_MESSAGES_MAX = 50_000  # far more than anybody will look at; past it they stay in their shard
# Every crash of a worker counts once for everything it had in hand, so a small limit would throw accepted attempts away.
# Past this one the broker itself is in the way, and they go to the dead-letter queue instead of round in circles.
DELIVERIES_MAX = 1_000
PREFETCH = 512  # two batches: one being decided, one collecting behind it

CLAIM = "checkout.claim"
CLAIM_SECONDS = 30  # after which a claim lapses whose maker died before it could hold on to it
DEAD = "checkout.dead"
VERDICTS = "checkout.verdicts"  # fanout; every front has a queue of its own behind it
# A front that reads slower than this many batches are decided loses the oldest; its poll finds out anyway.
FEED_MESSAGES_MAX = 1_000

PERSISTENT = 2  # AMQP's word for it
PURCHASE_HEADER = "purchase"  # so that an unreadable body can still be fenced
HEARTBEAT_SECONDS = 10  # a broker that hangs is noticed in two of these; the default is a minute

_QUORUM = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}  # a classic queue may confirm before it has synced


class Queue(NamedTuple):
    """A queue to declare; durable, all but the claim."""

    name: str
    arguments: Mapping[str, str | int | bool]


def claim_of(postgres_url: str) -> Queue:
    """The claim to all these queues for the database in ``postgres_url``: declared before them, and consumed from.

    Queues have the same names on every broker, so two shops on one virtual host would decide each other's attempts in the
    wrong database. The broker refuses a queue that exists with other arguments, and this one's name a database: whoever comes
    second with another is refused, until the last of the others is gone. It never holds a message, and it is not durable:
    after a broker's crash whoever is back first claims anew, also a private PostgreSQL that has come back on another port.
    """
    parts = urlsplit(postgres_url)
    database = f"{parts.hostname}:{parts.port or 5432}{parts.path}"  # whoever it is opened as
    name = hashlib.sha256(database.encode()).hexdigest()[:16]
    return Queue(
        CLAIM,
        {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": name, "x-expires": CLAIM_SECONDS * 1000},
    )


CLAIM_REFUSED = (
    "another shop's processes, with another PostgreSQL, use this virtual host of RabbitMQ: "
    "give each its own in FLASH_RABBITMQ_URL (rabbitmqctl add_vhost), or all of one shop the same FLASH_POSTGRES_URL"
)


def queue_of(sku: str) -> str:
    """The queue of a cart whose first SKU is this one; the same in every process."""
    return f"checkout.{zlib.crc32(sku.encode()) % SHARDS}"


SHARD_QUEUES = tuple(
    Queue(
        f"checkout.{number}",
        {
            **_QUORUM,
            "x-max-length": SHARD_MESSAGES_MAX,
            "x-max-length-bytes": SHARD_BYTES_MAX,
            "x-single-active-consumer": True,
            "x-delivery-limit": DELIVERIES_MAX,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": DEAD,
            "x-dead-letter-strategy": "at-least-once",  # the default forgets what the other queue did not take
        },
    )
    for number in range(SHARDS)
)
QUEUES = (Queue(DEAD, {**_QUORUM, "x-max-length": DEAD_MESSAGES_MAX}), *SHARD_QUEUES)
FEED_ARGUMENTS = {"x-max-length": FEED_MESSAGES_MAX, "x-overflow": "drop-head"}
