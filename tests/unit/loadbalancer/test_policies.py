# The shares, the stability and the bounds that each algorithm promises.
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashsale.settings import REPOSITORY
from loadbalancer.config import ALGORITHMS
from loadbalancer.policies import POLICIES
from loadbalancer.policies.base import REQUEST, STREAM, Policy
from loadbalancer.policies.consistent_hash import LEAST, SLICE, TABLE_SIZE, ConsistentHash, load_bound, maglev
from loadbalancer.policies.round_robin import RoundRobin


@dataclass(eq=False)
class One:
    """A server."""

    name: str
    weight: int = 1
    load: int = 0
    percent: int = 100

    @property
    def share(self) -> int:
        return self.weight * self.percent


def some(*weights: int) -> list[One]:
    return [One(f"s{index}", weight) for index, weight in enumerate(weights)]


def made(algorithm: str, servers: Sequence[One], seed: int = 0) -> Policy:
    policy = POLICIES[algorithm](servers, Random(seed).random)
    for _ in policy.prepare():
        pass
    return policy


def chi_square(seen: Counter[str], expected: dict[str, float]) -> float:
    assert seen.keys() <= expected.keys()
    return sum((seen[name] - number) ** 2 / number for name, number in expected.items())


CHANCE = {2: 10.8, 3: 13.8, 4: 16.3, 5: 18.5, 6: 20.5}  # categories → chi-square exceeded once in a thousand at most

weights = st.lists(st.integers(1, 10), min_size=1, max_size=6)
seeds = st.integers(0, 2**32)


def test_the_settings_and_the_menu_name_the_same_algorithms() -> None:
    assert set(ALGORITHMS) == set(POLICIES)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_candidates_are_chosen(algorithm: str) -> None:
    servers = some(1, 2, 3)
    policy = made(algorithm, servers)
    for number in range(50):
        assert policy.choose(servers[1:], b"%d" % number) in servers[1:]
        assert policy.choose(servers[:1], b"%d" % number) is servers[0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_that_came_later_may_be_chosen(algorithm: str) -> None:
    policy, late = made(algorithm, some(1)), One("late")
    assert policy.choose([late], b"ana") is late


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_makes_the_same_choices(algorithm: str) -> None:
    servers = some(1, 2, 3)
    first, second = made(algorithm, servers, seed=7), made(algorithm, servers, seed=7)
    for number in range(100):
        assert first.choose(servers, b"%d" % number) is second.choose(servers, b"%d" % number)


# round_robin


@given(weights)
def test_any_window_holds_exact_shares(weights: list[int]) -> None:
    servers, window = some(*weights), sum(weights)
    policy = made("round_robin", servers)
    chosen = [policy.choose(servers, b"") for _ in range(3 * window)]
    for start in range(2 * window):
        counted = Counter(server.name for server in chosen[start : start + window])
        assert counted == {server.name: server.weight for server in servers}


@given(weights, seeds)
def test_what_they_owe_each_other_adds_up_to_nothing(weights: list[int], seed: int) -> None:
    servers, random = some(*weights), Random(seed)
    policy = RoundRobin(servers, random.random)
    for _ in range(200):
        policy.choose(random.sample(servers, random.randint(1, len(servers))), b"")
        assert sum(policy._credit.values()) == 0


@given(weights.filter(lambda weights: len(weights) > 1))
def test_no_burst_is_longer_than_the_others_make_it(weights: list[int]) -> None:
    servers = some(*weights)
    policy = made("round_robin", servers)
    heaviest = max(weights)
    longest, length, before = 0, 0, None
    for _ in range(4 * sum(weights)):
        chosen = policy.choose(servers, b"")
        length = length + 1 if chosen is before else 1
        longest, before = max(longest, length), chosen
    assert longest <= ceil(heaviest / (sum(weights) - heaviest)) + 2


def test_the_heavy_one_does_not_come_in_a_burst() -> None:
    servers = some(5, 1, 1)
    policy = made("round_robin", servers)
    assert [policy.choose(servers, b"").name[1] for _ in range(7)] == list("0010200")


def test_shares_stay_even_among_those_that_are_left() -> None:
    servers = some(1, 1, 1)
    policy = made("round_robin", servers)
    for _ in range(10):
        policy.choose(servers, b"")
    shares = Counter(policy.choose(servers[:2], b"").name for _ in range(100))
    assert abs(shares["s0"] - shares["s1"]) <= 2, "what they owed each other before, and no more"


def test_half_a_share_is_half_the_turns() -> None:
    servers = some(1, 1)
    servers[0].percent = 50
    policy = made("round_robin", servers)
    assert Counter(policy.choose(servers, b"").name for _ in range(300)) == {"s0": 100, "s1": 200}


# least_connections


@given(weights, st.lists(st.integers(0, 300), min_size=6, max_size=6))
def test_nobody_is_less_busy_than_the_chosen(weights: list[int], loads: list[int]) -> None:
    servers = some(*weights)
    for server, load in zip(servers, loads, strict=False):
        server.load = load
    chosen = made("least_connections", servers).choose(servers, b"")
    assert all(chosen.load * other.share <= other.load * chosen.share for other in servers)


def test_equals_take_turns() -> None:
    servers = some(1, 1, 1)
    policy = made("least_connections", servers)
    assert Counter(policy.choose(servers, b"").name for _ in range(300)) == {"s0": 100, "s1": 100, "s2": 100}


def test_whoever_are_equals_nobody_is_preferred() -> None:
    servers, random = some(1, 1, 1, 1), Random(4)
    policy = made("least_connections", servers)
    seen: Counter[str] = Counter()
    due = dict.fromkeys((server.name for server in servers), 0.0)
    for _ in range(20_000):
        idle = random.sample(servers, random.randint(1, 4))
        for server in servers:
            server.load = 0 if server in idle else REQUEST
        seen[policy.choose(servers, b"").name] += 1
        for server in idle:
            due[server.name] += 1 / len(idle)
    assert chi_square(seen, due) < CHANCE[4]


def test_ten_streams_are_one_request() -> None:
    servers = some(1, 1)
    policy = made("least_connections", servers)
    servers[0].load, servers[1].load = REQUEST, 9 * STREAM
    assert policy.choose(servers, b"") is servers[1]
    servers[1].load = 11 * STREAM
    assert policy.choose(servers, b"") is servers[0]


def test_work_follows_speed() -> None:
    # one server ends a request per step, the other three: each is to get work as it gets rid of it
    servers = some(1, 1)
    policy = made("least_connections", servers)
    got: Counter[str] = Counter()
    for _ in range(1000):
        for server, speed in zip(servers, (1, 3), strict=True):
            server.load = max(0, server.load - speed * REQUEST)
        for _ in range(4):
            chosen = policy.choose(servers, b"")
            chosen.load += REQUEST
            got[chosen.name] += 1
    assert 0.22 < got["s0"] / sum(got.values()) < 0.28


# power_of_two


@given(st.tuples(st.integers(1, 10), st.integers(1, 10)), st.tuples(st.integers(0, 300), st.integers(0, 300)), seeds)
def test_of_two_servers_the_less_busy_is_always_chosen(
    weights: tuple[int, int], loads: tuple[int, int], seed: int
) -> None:
    servers = some(*weights)
    for server, load in zip(servers, loads, strict=True):
        server.load = load
    policy = made("power_of_two", servers, seed)
    for _ in range(20):
        chosen = policy.choose(servers, b"")
        assert all(chosen.load * other.share <= other.load * chosen.share for other in servers)


def test_the_busiest_of_many_is_never_chosen() -> None:
    servers = some(1, 2, 3, 4)
    servers[2].load = 100 * REQUEST
    policy = made("power_of_two", servers)
    seen = Counter(policy.choose(servers, b"").name for _ in range(1000))
    assert set(seen) == {"s0", "s1", "s3"}


@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1), (1, 2, 3)])
def test_among_equals_chance_decides_by_weight(weights: tuple[int, ...]) -> None:
    servers = some(*weights)
    policy = made("power_of_two", servers)
    seen = Counter(policy.choose(servers, b"").name for _ in range(6000))
    due = {server.name: 6000 * server.weight / sum(weights) for server in servers}
    assert chi_square(seen, due) < CHANCE[len(weights)]


def test_a_thousand_requests_on_a_hundred_servers_lie_nearly_even() -> None:
    servers = some(*[1] * 100)
    policy = made("power_of_two", servers)
    for _ in range(1000):
        policy.choose(servers, b"").load += REQUEST
    assert max(server.load for server in servers) <= 14 * REQUEST, "one choice leaves the fullest with about 20"


# consistent_hash

KEYS = [b"buyer-%d" % number for number in range(4000)]


def owners(policy: Policy, servers: list[One]) -> dict[bytes, str]:
    return {key: policy.choose(servers, key).name for key in KEYS}


def table(servers: Iterable[tuple[str, int]], size: int = TABLE_SIZE) -> list[str]:
    slices = maglev(list(servers), size)
    while True:
        try:
            next(slices)
        except StopIteration as ended:
            filled: list[str] = ended.value
            return filled


def test_the_table_is_shared_by_weight_and_does_not_depend_on_the_order() -> None:
    named = [("a", 1), ("b", 2), ("c", 5)]
    filled = table(named)
    assert filled == table(named[::-1])
    for name, weight in named:
        assert abs(filled.count(name) - TABLE_SIZE * weight / 8) <= 2


def test_the_table_is_what_it_was() -> None:
    # another hash or another walk would send every buyer to another server after an upgrade
    assert "".join(table([("a", 1), ("b", 1), ("c", 1)], 17)) == "caabababccccbbaba"
    policy, servers = made("consistent_hash", some(1, 1, 1)), some(1, 1, 1)
    assert "".join(policy.choose(servers, key).name[1] for key in KEYS[:20]) == "10000210012011022111"


def test_the_table_is_filled_a_slice_at_a_time() -> None:
    assert sum(1 for _ in maglev([("a", 1), ("b", 3)], TABLE_SIZE)) == TABLE_SIZE // SLICE


@pytest.mark.parametrize("count", [2, 4, 8])
def test_when_one_leaves_only_its_keys_move_and_evenly(count: int) -> None:
    servers = some(*[1] * count)
    policy = made("consistent_hash", servers)
    before, after = owners(policy, servers), owners(policy, servers[1:])
    moved = [key for key in KEYS if before[key] != after[key]]
    assert moved == [key for key in KEYS if before[key] == "s0"]
    share = len(KEYS) / count
    assert abs(len(moved) - share) < 3 * (share * (1 - 1 / count)) ** 0.5
    if count > 2:
        heirs = Counter(after[key] for key in moved)
        assert min(heirs.values()) > 0.6 * len(moved) / (count - 1)
    assert owners(policy, servers) == before, "and they return with it"


@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_when_one_goes_for_good_hardly_any_other_key_moves(count: int) -> None:
    named = [(f"s{number}", 1) for number in range(count)]
    before, after = table(named), table(named[1:])
    moved = sum(old != new for old, new in zip(before, after, strict=True) if old != "s0")
    assert moved <= 0.003 * TABLE_SIZE


def test_a_new_server_takes_its_share_and_little_else_moves() -> None:
    before, after = table((f"s{i}", 1) for i in range(4)), table((f"s{i}", 1) for i in range(5))
    moved = sum(old != new for old, new in zip(before, after, strict=True)) / TABLE_SIZE
    assert 0.2 <= moved < 0.203  # a fifth has to


def test_keys_follow_weights() -> None:
    servers = some(1, 2)
    seen = Counter(owners(made("consistent_hash", servers), servers).values())
    assert 0.9 < seen["s1"] / seen["s0"] / 2 < 1.1


def test_an_owner_at_half_strength_keeps_half_of_its_keys_and_nobody_else_loses_one() -> None:
    servers = some(1, 1, 1)
    policy = made("consistent_hash", servers)
    before = owners(policy, servers)
    own = {key for key in KEYS if before[key] == "s0"}
    kept: list[set[bytes]] = []
    for servers[0].percent in (10, 50, 100):
        now = owners(policy, servers)
        kept.append({key for key in KEYS if now[key] == "s0"})
        assert [key for key in KEYS if now[key] != before[key]] == [key for key in KEYS if key in own - kept[-1]]
    assert kept[0] < kept[1] < kept[2] == own, "who came back stays"
    assert 0.07 < len(kept[0]) / len(own) < 0.13
    assert 0.45 < len(kept[1]) / len(own) < 0.55


@settings(deadline=None)
@given(weights, seeds)
def test_no_server_is_loaded_beyond_its_bound(weights: list[int], seed: int) -> None:
    servers, random = some(*weights), Random(seed)
    policy = ConsistentHash(servers, random.random)
    policy._table = [server.name for server in servers for _ in range(TABLE_SIZE // len(servers) + 1)]
    working: list[One] = []
    streaming: list[One] = []
    for _ in range(400):
        event = random.random()
        if event < 0.2 and working:
            server = working.pop(random.randrange(len(working)))
            server.load -= REQUEST
            if event < 0.05:
                server.load += STREAM
                streaming.append(server)
        elif event < 0.25 and streaming:
            streaming.pop(random.randrange(len(streaming))).load -= STREAM
        else:
            key = b"the one everybody wants" if random.random() < 0.9 else random.randbytes(4)
            chosen = policy.choose(servers, key)
            chosen.load += REQUEST
            working.append(chosen)
            fair = sum(server.load for server in servers) / REQUEST * chosen.weight / sum(weights)
            assert chosen.load // REQUEST <= max(LEAST, ceil(1.25 * fair))


def test_who_does_not_get_its_own_server_is_counted() -> None:
    servers = some(1, 1)
    policy = made("consistent_hash", servers)
    own = policy.choose(servers, b"ana")
    assert policy.spilled == 0
    own.load = (LEAST - 1) * REQUEST
    assert policy.choose(servers, b"ana") is own
    assert policy.spilled == 0
    own.load = LEAST * REQUEST
    assert policy.choose(servers, b"ana") is not own
    policy.choose([server for server in servers if server is not own], b"ana")
    assert policy.spilled == 2


def test_what_one_server_cannot_take_is_not_all_heaped_on_one_neighbour() -> None:
    servers = some(*[1] * 5)
    policy = made("consistent_hash", servers)
    own = policy.choose(servers, b"ana")
    own.load = LEAST * REQUEST
    spilled = [policy.choose(servers, key).name for key in KEYS if owner_of(policy, key) == own.name]
    assert chi_square(Counter(spilled), {s.name: len(spilled) / 4 for s in servers if s is not own}) < CHANCE[4]


def owner_of(policy: Policy, key: bytes) -> str:
    return policy.choose(some(*[1] * 5), key).name


def test_the_bound_is_a_quarter_above_the_fair_share() -> None:
    bounds = [load_bound(1, 4, working * REQUEST) for working in (52, 100, 101, 400)]
    assert bounds == [17, 32, 32, 125]


@pytest.mark.parametrize("scale", [1, 100])
def test_a_handful_is_no_load_however_light_the_server(scale: int) -> None:
    for weight, working in ((1, 1), (1, 3), (1, 100), (9, 14)):
        assert load_bound(weight * scale, 10 * scale, working * REQUEST) == LEAST


def test_every_process_has_the_same_map() -> None:
    code = (
        "from tests.unit.loadbalancer.test_policies import *\n"
        "servers = some(1, 2, 3)\nprint(list(owners(made('consistent_hash', servers), servers).values()))"
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
    assert told == {f"{list(owners(made('consistent_hash', servers), servers).values())}\n"}
