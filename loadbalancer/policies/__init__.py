"""How to choose among servers, one algorithm per file. Pure: no clock, no socket, no hidden chance."""

from collections.abc import Callable, Sequence

from loadbalancer.policies.base import Candidate, Policy
from loadbalancer.policies.consistent_hash import ConsistentHash
from loadbalancer.policies.least_connections import LeastConnections
from loadbalancer.policies.round_robin import RoundRobin

POLICIES: dict[str, Callable[[Sequence[Candidate]], Policy]] = {
    "round_robin": RoundRobin,
    "least_connections": LeastConnections,
    "consistent_hash": ConsistentHash,
}
