"""How to choose among servers, one algorithm per file. Pure: no clock, no socket, no hidden chance."""

from loadbalancer.policies.base import Policy
from loadbalancer.policies.consistent_hash import ConsistentHash
from loadbalancer.policies.least_connections import LeastConnections
from loadbalancer.policies.power_of_two import PowerOfTwo
from loadbalancer.policies.round_robin import RoundRobin

POLICIES: dict[str, type[Policy]] = {
    "round_robin": RoundRobin,
    "least_connections": LeastConnections,
    "consistent_hash": ConsistentHash,
    "power_of_two": PowerOfTwo,
}
