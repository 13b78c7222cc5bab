# The shares, the stability and the bounds that each algorithm promises.
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashsale.settings import REPOSITORY
from loadbalancer.config import ALGORITHMS
from loadbalancer.policies import POLICIES
from loadbalancer.policies.consistent_hash import LEAST, TABLE_SIZE, ConsistentHash, load_bound, maglev
from loadbalancer.policies.least_connections import LeastConnections
from loadbalancer.policies.round_robin import RoundRobin


@dataclass(eq=False)
class One:
    """A server."""

    name: str
    weight: int = 1
    active: int = 0


def some(*weights: int) -> list[One]:
    return [One(f"s{index}", weight) for index, weight in enumerate(weights)]


weights = st.lists(st.integers(1, 10), min_size=1, max_size=6)


def test_the_settings_and_the_menu_name_the_same_algorithms() -> None:
    assert set(ALGORITHMS) == set(POLICIES)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_candidates_are_chosen(algorithm: str) -> None:
    servers = some(1, 2, 3)
    policy = POLICIES[algorithm](servers)
    for number in range(50):
        assert policy.choose(servers[1:], b"%d" % number) in servers[1:]
        assert policy.choose(servers[:1], b"%d" % number) is servers[0]


# round_robin


@given(weights)
def test_any_window_holds_exact_shares(weights: list[int]) -> None:
    servers, window = some(*weights), sum(weights)
    policy = RoundRobin(servers)
    chosen = [policy.choose(servers, b"") for _ in range(3 * window)]
    for start in range(2 * window):
        counted = Counter(server.name for server in chosen[start : start + window])
        assert counted == {server.name: server.weight for server in servers}


def test_the_heavy_one_does_not_come_in_a_burst() -> None:
    servers = some(5, 1, 1)
    policy = RoundRobin(servers)
    assert [policy.choose(servers, b"").name[1] for _ in range(7)] == list("0010200")


def test_shares_stay_even_among_those_that_are_left() -> None:
    servers = some(1, 1, 1)
    policy = RoundRobin(servers)
    for _ in range(10):
        policy.choose(servers, b"")
    shares = Counter(policy.choose(servers[:2], b"").name for _ in range(100))
    assert abs(shares["s0"] - shares["s1"]) <= 2, "what they owed each other before, and no more"


# least_connections


@given(weights, st.lists(st.integers(0, 30), min_size=6, max_size=6))
def test_nobody_is_less_busy_than_the_chosen(weights: list[int], active: list[int]) -> None:
    servers = some(*weights)
    for server, count in zip(servers, active, strict=False):
        server.active = count
    chosen = LeastConnections(servers).choose(servers, b"")
    assert all(chosen.active * other.weight <= other.active * chosen.weight for other in servers)


def test_equals_take_turns() -> None:
    servers = some(1, 1, 1)
    policy = LeastConnections(servers)
    assert Counter(policy.choose(servers, b"").name for _ in range(300)) == {"s0": 100, "s1": 100, "s2": 100}


def test_work_follows_speed() -> None:
    # one server ends a request per step, the other three: each is to get work as it gets rid of it
    servers = some(1, 1)
    policy = LeastConnections(servers)
    got: Counter[str] = Counter()
    for _ in range(1000):
        for server, speed in zip(servers, (1, 3), strict=True):
            server.active = max(0, server.active - speed)
        for _ in range(4):
            chosen = policy.choose(servers, b"")
            chosen.active += 1
            got[chosen.name] += 1
    assert 0.22 < got["s0"] / sum(got.values()) < 0.28


# consistent_hash

KEYS = [b"buyer-%d" % number for number in range(4000)]


def owners(policy: ConsistentHash, servers: list[One]) -> dict[bytes, str]:
    return {key: policy.choose(servers, key).name for key in KEYS}


def test_the_table_is_shared_by_weight_and_does_not_depend_on_the_order() -> None:
    named = [("a", 1), ("b", 2), ("c", 5)]
    table = maglev(named, TABLE_SIZE)
    assert table == maglev(named[::-1], TABLE_SIZE)
    for name, weight in named:
        assert abs(table.count(name) - TABLE_SIZE * weight / 8) <= 2


@pytest.mark.parametrize("count", [2, 4, 8])
def test_when_one_leaves_only_its_keys_move_and_evenly(count: int) -> None:
    servers = some(*[1] * count)
    policy = ConsistentHash(servers)
    before, after = owners(policy, servers), owners(policy, servers[1:])
    moved = [key for key in KEYS if before[key] != after[key]]
    assert moved == [key for key in KEYS if before[key] == "s0"]
    assert 0.7 < len(moved) * count / len(KEYS) < 1.3
    if count > 2:
        heirs = Counter(after[key] for key in moved)
        assert min(heirs.values()) > 0.6 * len(moved) / (count - 1)
    assert owners(policy, servers) == before, "and they return with it"


def test_a_new_server_takes_its_share_and_little_else_moves() -> None:
    before, after = (
        maglev([(f"s{i}", 1) for i in range(4)], TABLE_SIZE),
        maglev([(f"s{i}", 1) for i in range(5)], TABLE_SIZE),
    )
    moved = sum(a != b for a, b in zip(before, after, strict=True)) / TABLE_SIZE
    assert 0.2 <= moved < 0.25  # a fifth has to


@settings(deadline=None)
@given(weights, st.integers(0, 2**32))
def test_no_server_is_loaded_beyond_its_bound(weights: list[int], seed: int) -> None:
    servers, random = some(*weights), Random(seed)
    policy = ConsistentHash.__new__(ConsistentHash)
    policy.spilled = 0
    policy._table = [server.name for server in servers for _ in range(TABLE_SIZE // len(servers) + 1)]
    working: list[One] = []
    for _ in range(300):
        if working and random.random() < 0.2:
            working.pop(random.randrange(len(working))).active -= 1
        else:
            chosen = policy.choose(
                servers, b"the one everybody wants" if random.random() < 0.9 else random.randbytes(4)
            )
            chosen.active += 1
            working.append(chosen)
            fair = len(working) * chosen.weight / sum(weights)
            assert chosen.active <= max(LEAST, 1.25 * fair + 1)


def test_who_does_not_get_its_own_server_is_counted() -> None:
    servers = some(1, 1)
    policy = ConsistentHash(servers)
    own = policy.choose(servers, b"ana")
    assert policy.spilled == 0
    own.active = LEAST - 1
    assert policy.choose(servers, b"ana") is own
    assert policy.spilled == 0
    own.active = LEAST
    assert policy.choose(servers, b"ana") is not own
    policy.choose([server for server in servers if server is not own], b"ana")
    assert policy.spilled == 2


def test_the_bound_is_a_quarter_above_the_fair_share() -> None:
    assert [load_bound(1, 4, working) for working in (52, 100, 101, 400)] == [17, 32, 32, 125]


@pytest.mark.parametrize("scale", [1, 100])
def test_a_handful_is_no_load_however_light_the_server(scale: int) -> None:
    for weight, working in ((1, 1), (1, 3), (1, 100), (9, 14)):
        assert load_bound(weight * scale, 10 * scale, working) == LEAST


def test_every_process_has_the_same_map() -> None:
    code = (
        "from tests.unit.loadbalancer.test_policies import *\n"
        "servers = some(1, 2, 3)\nprint(list(owners(ConsistentHash(servers), servers).values()))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}", "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    servers = some(1, 2, 3)
    assert told == {f"{list(owners(ConsistentHash(servers), servers).values())}\n"}
