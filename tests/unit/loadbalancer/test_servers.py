# A farm that changes while it is at work.
from collections.abc import Callable

import pytest

from loadbalancer.config import ALGORITHMS, SERVERS_MAX, Address, Config
from loadbalancer.policies.base import REQUEST, STREAM
from loadbalancer.servers import Farm, Server


def farm(count: int = 2, later: Callable[[Callable[[], None]], object] | None = None, **environ: str) -> Farm:
    servers = ",".join(f"s{number}=127.0.0.1:{number + 1}" for number in range(count))
    return Farm(Config.load({"LB_SERVERS": servers, **environ}), later=later)


def chosen(farm: Farm, times: int = 20) -> set[str]:
    found = (farm.choose(b"%d" % number, ()) for number in range(times))
    return {server.name for server in found if server is not None}


def test_what_is_taken_is_given_back() -> None:
    server = farm().servers[0]
    for _ in range(3):
        server.assign()
    assert (server.active, server.streams, server.load, server.peak) == (3, 0, 3 * REQUEST, 3)
    server.begin_stream()
    assert (server.active, server.streams, server.load) == (2, 1, 2 * REQUEST + STREAM)
    server.release(is_stream=True)
    server.release(is_stream=False)
    server.release(is_stream=False)
    assert (server.active, server.streams, server.load, server.peak) == (0, 0, 0, 3)


def test_processes_that_share_the_work_do_not_all_begin_with_the_same_server() -> None:
    config = Config.load({"LB_SERVERS": "a=127.0.0.1:1,b=127.0.0.1:2"})
    for algorithm in ("round_robin", "least_connections"):
        farms = [Farm(config, number=number) for number in range(4)]
        for made in farms:
            made.set_algorithm(algorithm)
        first = [made.choose(b"", ()) for made in farms]
        assert [server.name for server in first if server] == ["a", "b", "a", "b"]


def test_whoever_is_out_of_it_gets_nothing_until_it_is_back() -> None:
    made = farm()
    first, _ = made.servers
    assert chosen(made) == {"s0", "s1"}
    made.set_draining(first, is_draining=True)
    assert chosen(made) == {"s1"}
    made.set_draining(first, is_draining=False)
    assert chosen(made) == {"s0", "s1"}
    for _ in range(3):
        first.checked("no answer")
    assert chosen(made) == {"s1"}
    for _ in range(2):
        first.checked("")
    assert chosen(made) == {"s0", "s1"}
    for _ in range(2):
        first.unreached("refused")
    assert chosen(made) == {"s1"}
    assert made.choose(b"", [made.servers[1]]) is None


def test_the_full_get_nothing_and_a_stream_takes_nobodys_place() -> None:
    made = farm()
    first, second = made.servers
    made.set_maxconn(first, 2)
    first.assign()
    assert chosen(made) == {"s0", "s1"}
    first.assign()
    assert chosen(made) == {"s1"}
    made.set_maxconn(second, 1)
    second.assign()
    assert chosen(made) == set()
    first.begin_stream()
    assert chosen(made) == {"s0"}
    first.assign()
    first.release(is_stream=True)
    assert chosen(made) == set(), "it was not the stream that filled it"
    first.release(is_stream=False)
    assert chosen(made) == {"s0"}
    made.set_maxconn(second, 0)
    assert chosen(made) == {"s0", "s1"}


def test_a_limit_is_shared_out_among_the_processes_exactly_but_each_may_have_one() -> None:
    config = Config.load({"LB_SERVERS": "a=h:1", "LB_WORKERS": "4", "LB_MAXCONN": "10"})
    processes = [Farm(config, number=number) for number in range(4)]
    assert [made.servers[0].limit for made in processes] == [3, 3, 2, 2]
    for maxconn, limits in ((8, [2] * 4), (5, [2, 1, 1, 1]), (1, [1] * 4), (0, [0] * 4)):
        for made in processes:
            made.set_maxconn(made.servers[0], maxconn)
        assert [made.servers[0].limit for made in processes] == limits


def test_a_limit_below_what_it_has_lets_nothing_in_before_there_is_room() -> None:
    made = farm(1)
    (server,) = made.servers
    for _ in range(3):
        server.assign()
    made.set_maxconn(server, 2)
    for _ in range(2):
        assert chosen(made) == set()
        server.release(is_stream=False)
    assert chosen(made) == {"s0"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_who_is_added_is_used_from_its_first_good_check_on(algorithm: str) -> None:
    made = farm(LB_ALGORITHM=algorithm)
    told: list[Server] = []
    made.joined = told.append
    third = made.add(Address("s2", "127.0.0.1", 3, 1))
    assert (told, third.state, chosen(made)) == ([third], "down", {"s0", "s1"})
    assert third.checked("")
    assert chosen(made) == {"s0", "s1", "s2"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_who_is_removed_finishes_what_it_has(algorithm: str) -> None:
    made = farm(3, LB_ALGORITHM=algorithm)
    told: list[Server] = []
    made.left = told.append
    first = made.servers[0]
    first.assign()
    first.assign()
    made.remove(first)
    assert (told, first.state, chosen(made)) == ([first], "leaving", {"s1", "s2"})
    first.begin_stream()
    first.release(is_stream=False)
    assert made.leaving == (first,)
    first.release(is_stream=True)
    assert not made.leaving


def test_what_cannot_be_is_refused_with_the_reason() -> None:
    made = farm(1)
    with pytest.raises(ValueError, match="there is a server 's0'"):
        made.add(Address("s0", "127.0.0.1", 9, 1))
    with pytest.raises(ValueError, match="is the last"):
        made.remove(made.servers[0])
    with pytest.raises(ValueError, match="no server 's0'"):
        made.remove(farm().servers[0])
    for number in range(1, SERVERS_MAX):
        made.add(Address(f"s{number}", "127.0.0.1", 9, 1))
    with pytest.raises(ValueError, match="64 servers"):
        made.add(Address("more", "127.0.0.1", 9, 1))


def test_a_weight_counts_from_the_next_request_on() -> None:
    made = farm()
    made.set_weight(made.servers[0], 3)
    found = [made.choose(b"", ()) for _ in range(40)]
    assert found.count(made.servers[0]) == 30


def test_the_algorithm_can_be_changed_and_what_was_counted_stays() -> None:
    made = farm(LB_ALGORITHM="consistent_hash")
    own = made.choose(b"ana", ())
    assert own is not None
    assert {made.choose(b"ana", ()) for _ in range(10)} == {own}
    made.choose(b"ana", [own])
    for algorithm in ALGORITHMS:
        made.set_algorithm(algorithm)
        assert made.choose(b"ana", ()) is not None
        assert made.spilled == 1
    made.set_algorithm("round_robin")
    assert {made.choose(b"ana", ()) for _ in range(10)} == set(made.servers)


def test_a_table_is_made_between_requests_and_the_old_one_serves_meanwhile() -> None:
    steps: list[Callable[[], None]] = []
    made = farm(3, steps.append, LB_ALGORITHM="consistent_hash")
    keys = [b"%d" % number for number in range(200)]

    def homes() -> list[Server | None]:
        return [made.choose(key, ()) for key in keys]

    before, leaving = homes(), made.servers[0]
    assert not steps
    made.remove(leaving)
    made.add(Address("s3", "127.0.0.1", 4, 1)).checked("")  # a second change while the first is being worked in
    passed = 0
    while made._next is not None:
        for old, now in zip(before, homes(), strict=True):
            assert now is old or old is leaving
        steps.pop(0)()
        passed += 1
    assert passed > 30, "slices"
    for step in steps:
        step()  # what the first change had still to do is done
    after = homes()
    assert made.servers[-1] in after
    assert leaving not in after
