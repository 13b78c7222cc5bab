# A farm that changes while it is at work.
from collections.abc import Callable

import pytest

from loadbalancer.agent import Said
from loadbalancer.config import ALGORITHMS, SERVERS_MAX, Address, Config
from loadbalancer.http1.head import parse_request
from loadbalancer.http1.plain import plain_request
from loadbalancer.policies.base import REQUEST, STREAM
from loadbalancer.servers import Farm, Server


def farm(count: int = 2, later: Callable[[Callable[[], None]], object] | None = None, **environ: str) -> Farm:
    servers = ",".join(f"s{number}=127.0.0.1:{number + 1}" for number in range(count))
    return Farm(Config.load({"LB_SERVERS": servers, "LB_SLOW_START": "0", **environ}), later=later)


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
        made.checked(first, "no answer")
    assert chosen(made) == {"s1"}
    for _ in range(2):
        made.checked(first, "")
    assert chosen(made) == {"s0", "s1"}
    for _ in range(2):
        made.unreached(first, "refused")
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
    assert made.checked(third, "") == "up"
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
    assert (first.active, first.streams) == (0, 1)
    first.release(is_stream=True)
    assert (first.active, first.streams, first.load) == (0, 0, 0)


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


def paths(**environ: str) -> Farm:
    servers = (
        "a=127.0.0.1:1,b=127.0.0.1:2,v=127.0.0.1:3/stock/stream,w=127.0.0.1:4/stock/stream,x=127.0.0.1:5/stock/stream/x"
    )
    return Farm(Config.load({"LB_SERVERS": servers, "LB_SLOW_START": "0", **environ}))


def below(farm: Farm, target: bytes, times: int = 20) -> set[str]:
    path = farm.path_of(target)
    found = (farm.choose(b"%d" % number, (), path) for number in range(times))
    return {server.name for server in found if server is not None}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("target", "names"),
    [
        (b"/", {"a", "b"}),
        (b"/stock", {"a", "b"}),
        (b"/stock/streams", {"a", "b"}),
        (b"/other/stock/stream", {"a", "b"}),
        (b"/stock%2Fstream", {"a", "b"}),
        (b"*", {"a", "b"}),
        (b"/stock/stream", {"v", "w"}),
        (b"/stock/stream?sku=a", {"v", "w"}),
        (b"/stock/stream/", {"v", "w"}),
        (b"/stock/stream/y", {"v", "w"}),
        (b"/stock/stream/x?y", {"x"}),
    ],
)
def test_who_has_a_path_gets_what_is_asked_for_below_it_and_nothing_else(
    algorithm: str, target: bytes, names: set[str]
) -> None:
    assert below(paths(LB_ALGORITHM=algorithm), target) == names


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_while_none_of_a_path_can_take_a_request_those_without_one_do_and_never_the_other_way_round(
    algorithm: str,
) -> None:
    made = paths(LB_ALGORITHM=algorithm)
    a, b, v, w, x = made.servers
    made.set_draining(v, is_draining=True)
    assert below(made, b"/stock/stream") == {"w"}
    made.set_maxconn(w, 1)
    w.assign()
    assert below(made, b"/stock/stream") == {"a", "b"}
    w.release(is_stream=False)
    assert below(made, b"/stock/stream") == {"w"}
    made.remove(w)
    made.remove(x)
    assert below(made, b"/stock/stream/x") == {"a", "b"}
    made.set_draining(v, is_draining=False)
    assert below(made, b"/stock/stream/x") == {"v"}
    for server in (a, b):
        made.set_draining(server, is_draining=True)
    assert (below(made, b"/"), made.is_any_usable((), "")) == (set(), False)
    assert below(made, b"/stock/stream") == {"v"}
    made.set_draining(v, is_draining=True)
    assert not made.is_any_usable((), "/stock/stream")
    made.remove(b)
    with pytest.raises(ValueError, match="is the last"):
        made.remove(a)


def test_a_path_added_later_is_served_at_once_by_whom_it_is_for() -> None:
    made = farm(LB_ALGORITHM="consistent_hash")
    assert below(made, b"/v/1") == {"s0", "s1"}
    added = made.add(Address("v", "127.0.0.1", 9, 1, "/v"))
    assert below(made, b"/v/1") == {"s0", "s1"}, "until its first good check"
    made.checked(added, "")
    assert (below(made, b"/v/1"), below(made, b"/")) == ({"v"}, {"s0", "s1"})
    assert made.spilled == 0, "nobody owns a key of what is not its path"


def test_of_each_path_somebody_always_stays_who_is_not_ejected() -> None:
    made = paths(LB_EJECT_MAX="50")
    a, b, v, w, x = made.servers
    assert made.eject(a, "errors")
    assert not made.eject(b, "errors")
    assert not made.eject(x, "errors"), "alone on its path"
    assert made.eject(v, "errors")
    for _ in range(3):
        made.checked(b, "no answer")
        made.checked(w, "no answer")
    assert (below(made, b"/"), below(made, b"/stock/stream")) == ({"a"}, {"v"})
    made = paths(LB_EJECT_MAX="100")
    assert not made.eject(made.servers[-1], "errors"), "alone on its path, whatever is allowed"
    made = paths()
    made.checked(made.add(Address("c", "127.0.0.1", 9, 1)), "")
    assert made.eject(made.servers[0], "errors")
    assert not made.eject(made.servers[1], "errors"), "half of those of its path, and not of all"


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
    made.checked(made.add(Address("s3", "127.0.0.1", 4, 1)), "")  # a second change while the first is being worked in
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


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        (b"Cookie: a=1; Sid=abc; b=2\r\nX-Key: k\r\n", b"abc"),
        (b"Cookie: Sid=abc\r\n", b"abc"),
        (b"Cookie: a=1\r\nCookie: Sid=abc\r\n", b"abc"),
        (b"Cookie: NotSid=abc; sid=abc; a=Sid=abc\r\nx-key: k\r\n", b"k"),
        (b"Cookie: Sid=; a=1\r\n", b"10.0.0.1"),
        (b"", b"10.0.0.1"),
    ],
)
def test_a_request_is_known_by_a_cookie_a_header_or_its_address(fields: bytes, key: bytes) -> None:
    made = farm(LB_ALGORITHM="consistent_hash", LB_HASH="cookie:Sid,header:X-Key,address")
    data = b"GET / HTTP/1.1\r\nHost: shop\r\n%b\r\n" % fields
    plain = plain_request(data, 0)
    assert plain is not None
    assert made.key_of(plain[0], b"10.0.0.1") == key
    assert made.key_of(parse_request(data, 0), b"10.0.0.1") == key
    made.set_algorithm("round_robin")
    assert made.key_of(plain[0], b"10.0.0.1") == b"10.0.0.1"


# Ejected, warming up, and what a server says of itself.


def ejecting(count: int, **environ: str) -> Farm:
    made = farm(count, None, LB_EJECT_TIME="30", **environ)
    made._now = lambda: 1000.0
    return made


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_half_of_the_servers_may_be_ejected_and_one_always_stays(count: int, most: int) -> None:
    made = ejecting(count)
    assert [made.eject(server, "answered 500") for server in made.servers] == [True] * most + [False] * (count - most)
    assert chosen(made, 100) == {server.name for server in made.servers[most:]}
    everyone = ejecting(count, LB_EJECT_MAX="100")
    assert sum(everyone.eject(server, "answered 500") for server in everyone.servers) == count - 1


def test_the_last_that_may_be_chosen_is_not_ejected() -> None:
    made = ejecting(4)
    for server in made.servers[1:]:
        made.set_draining(server, is_draining=True)
    assert not made.eject(made.servers[0], "answered 500")
    assert not made.eject(made.servers[1], "answered 500"), "it is out already, and would use up what may be"


def test_who_is_ejected_comes_back_by_a_check_after_its_time() -> None:
    made = ejecting(2)
    first = made.servers[0]
    assert made.eject(first, "answered 500")
    assert (first.state, first.reason, chosen(made)) == ("ejected", "answered 500", {"s1"})
    assert made.checked(first, "") == ""
    made._now = lambda: 1030.0
    assert chosen(made) == {"s1"}
    assert made.checked(first, "no answer") == ""
    assert made.checked(first, "") == "readmitted"
    assert (first.state, first.reason, chosen(made)) == ("up", "", {"s0", "s1"})


def test_when_nobody_else_is_left_the_ejected_serve() -> None:
    made = ejecting(3)
    first, second, third = made.servers
    made.eject(first, "answered 500")
    made.set_draining(second, is_draining=True)
    for _ in range(3):
        made.checked(third, "no answer")
    assert chosen(made) == {"s0"}, "and neither who is down nor who is draining"
    made.set_draining(second, is_draining=False)
    assert chosen(made) == {"s1"}


def test_while_the_others_are_only_full_the_ejected_do_not_serve() -> None:
    made = ejecting(2, LB_MAXCONN="1")
    made.eject(made.servers[0], "answered 500")
    made.servers[1].assign()
    assert chosen(made) == set()


def test_who_was_down_meanwhile_is_another_process_which_has_done_nothing() -> None:
    made = ejecting(2)
    first = made.servers[0]
    first.outlier.failures = 4
    made.eject(first, "answered 500")
    for _ in range(3):
        made.checked(first, "no answer")
    assert first.state == "down"
    assert [made.checked(first, "") for _ in range(2)] == ["", "up"]
    assert (first.state, first.outlier.failures) == ("up", 0)


def test_who_comes_back_is_given_more_and_more_and_who_was_there_from_the_start_everything() -> None:
    made = ejecting(2, LB_SLOW_START="10", LB_MAXCONN="40")
    first, second = made.servers
    assert [(server.share, server.limit) for server in made.servers] == [(100, 40)] * 2
    for problem in ("x", "x", "x", "", ""):
        made.checked(first, problem)
    shares = []
    for now in (1000.0, 1002.5, 1005.0, 1007.5, 1010.0):
        made._now = lambda now=now: now  # type: ignore[misc]
        made.warm_up()
        shares.append((first.share, first.limit))
    assert shares == [(10, 4), (25, 10), (50, 20), (75, 30), (100, 40)]
    assert (first.back_since, second.share) == (None, 100)


def test_half_way_through_its_slow_start_it_gets_half_a_share() -> None:
    made = ejecting(2, LB_SLOW_START="10")
    first = made.servers[0]
    for problem in ("x", "x", "x", "", ""):
        made.checked(first, problem)
    made._now = lambda: 1005.0
    made.warm_up()
    found = [made.choose(b"", ()) for _ in range(300)]
    assert abs(found.count(first) - 100) <= 1


def test_a_server_says_how_much_it_can_carry_and_that_it_is_leaving() -> None:
    made = ejecting(2)
    first, second = made.servers
    assert made.checked(first, "", Said(50, is_leaving=False)) == ""
    assert (first.weight, first.percent, first.share, second.share) == (1, 50, 50, 100)
    for _ in range(3):
        made.checked(first, "no answer")
    assert (first.state, first.percent) == ("down", 50), "a bad check says nothing of that"
    for _ in range(2):
        made.checked(first, "", Said(50, is_leaving=False))
    made.set_weight(first, 3)
    assert first.share == 150
    made.checked(first, "", Said(50, is_leaving=True))
    assert (first.state, chosen(made)) == ("draining", {"s1"})
    made.set_draining(first, is_draining=False)
    assert chosen(made) == {"s1"}, "by its own word, which no hand takes back"
    made.checked(first, "")
    assert (first.state, first.share, chosen(made)) == ("up", 300, {"s0", "s1"})


def test_what_a_server_says_and_how_warm_it_is_are_multiplied_and_never_nothing() -> None:
    made = ejecting(2, LB_SLOW_START="10")
    first = made.servers[0]
    for problem in ("x", "x", "x", ""):
        made.checked(first, problem)
    made.checked(first, "", Said(5, is_leaving=False))
    assert (first.percent, first.share) == (1, 1)
