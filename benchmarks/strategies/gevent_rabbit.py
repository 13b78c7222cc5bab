"""Ours: the attempt goes to a quorum queue and is confirmed before the 202; a worker decides batches, commits, and then acknowledges.

Why it holds: PostgreSQL decides by the same function as for the other backend. What is delivered again finds its attempt decided and
hears what was decided; what a worker took and did not decide is delivered to the next. Redis has no part in a decision. Workers are stopped
with attempts in hand (`meet`), and killed with attempts in hand (`die`) and between commit and acknowledgement (`again`), by crash
points that are compiled in.
"""

from types import MappingProxyType

from benchmarks.strategies.engine import Arming, Engine
from benchmarks.strategies.strategy import Attack


class GeventRabbit(Engine):
    """Two fronts, two checkout workers and upkeep."""

    title = "ours: gevent_rabbit"
    stores = ("rabbitmq", "redis", "postgres")
    servers = ("gevent_rabbit", "gevent_rabbit")
    behind = ("checkout", "checkout")
    arming = MappingProxyType(
        {
            Attack.MEET: Arming("checkout", "checkout.taken:stop", 2),
            Attack.DIE: Arming("checkout", "checkout.taken", 2),
            Attack.AGAIN: Arming("checkout", "checkout.decided", 2),
        }
    )
