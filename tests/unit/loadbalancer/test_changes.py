# What an operator may change by hand, and what that makes of the settings.
import pytest

from loadbalancer.changes import VERBS, Change, Told
from loadbalancer.config import Config, ConfigError, gather
from loadbalancer.servers import Farm

GIVEN = {"LB_SERVERS": "a=h:1,[::1]:2*3,h.example:4", "LB_WORKERS": "2", "LB_GRACE": "7"}


def told() -> Told:
    return Told.of(*gather(GIVEN))


def names(settings: Told) -> list[str]:
    return [server.name for server in settings.config.servers]


def test_servers_are_written_as_they_are_read() -> None:
    config = Config.load(GIVEN)
    assert ",".join(map(str, config.servers)) == "a=h:1*1,[::1]:2*3,h.example:4*1"
    assert Config.load({"LB_SERVERS": ",".join(map(str, config.servers))}).servers == config.servers


def test_a_server_on_a_socket_is_written_as_it_is_read_too() -> None:
    now = Change("add", "local=unix:/run/a.sock*2").on(told())
    assert now.texts["LB_SERVERS"].endswith(",local=unix:/run/a.sock*2")


def test_a_change_is_in_the_settings_that_a_later_worker_is_told() -> None:
    now = told()
    for change in (
        Change("add", "b=h:5*2"),
        Change("remove", "h.example:4"),
        Change("weight", "[::1]:2", "9"),
        Change("algorithm", "", "least_connections"),
        Change("maxconn", "a", "5"),
        Change("drain", "a"),
        Change("drain", "b"),
        Change("undrain", "b"),
    ):
        now = change.on(now)
    assert Config.load(now.texts) == now.config
    assert [(server.name, server.weight) for server in now.config.servers] == [("a", 1), ("[::1]:2", 9), ("b", 2)]
    assert (now.config.algorithm, now.config.grace) == ("least_connections", 7)
    assert (dict(now.maxconn), now.drained) == ({"a": 5}, frozenset({"a"}))


def test_what_was_set_for_a_server_leaves_with_it() -> None:
    now = Change("remove", "a").on(Change("maxconn", "a", "5").on(Change("drain", "a").on(told())))
    assert (now.drained, dict(now.maxconn)) == (frozenset(), {})
    assert names(Change("add", "a=h:9").on(now)) == ["[::1]:2", "h.example:4", "a"]


def test_a_reload_makes_the_configuration_true_again_but_for_drained_servers() -> None:
    now = Change("drain", "a").on(Change("drain", "h.example:4").on(Change("maxconn", "a", "5").on(told())))
    now = Change("weight", "a", "9").on(now)
    anew = Told.of(*gather({"LB_SERVERS": "a=h:1,c=h:2"}))
    again = now.again(anew)
    assert (again.config, again.drained, dict(again.maxconn)) == (anew.config, frozenset({"a"}), {})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (Change("add", "b"), "'b' is not a server; allowed: [name=]host:port[/path][*weight]"),
        (Change("add", "a=h:9"), "a server is named 'a' already; allowed: another name"),
        (Change("weight", "a", "257"), "weight is '257'; allowed: a whole number, 1 to 256"),
        (Change("weight", "a", "x"), "weight is 'x'; allowed: a whole number, 1 to 256"),
        (Change("maxconn", "a", "-1"), "maxconn is '-1'; allowed: a whole number, 0 to 1000000"),
        (Change("maxconn", "a", "1"), "maxconn is 1; allowed: 0, or 2 and more: one per worker"),
        (Change("algorithm", "", "random"), "LB_ALGORITHM is 'random'; allowed: round_robin"),
        (Change("algorithm", "", "round_robbin"), "did you mean round_robin?"),
    ],
)
def test_what_is_wrong_is_refused_with_what_is_allowed(change: Change, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        change.on(told())
    assert problem in str(caught.value)


def test_a_server_that_is_none_and_the_last_one_are_refused() -> None:
    for verb in set(VERBS) - {"add"}:
        with pytest.raises(KeyError):
            Change(verb, "z", "1").on(told())
    one = Told.of(*gather({"LB_SERVERS": "a=h:1"}))
    with pytest.raises(ConfigError, match="'a' is the last server"):
        Change("remove", "a").on(one)


def test_a_worker_follows() -> None:
    farm = Farm(Config.load(GIVEN))
    for change in (
        Change("add", "b=h:5*2"),
        Change("remove", "h.example:4"),
        Change("weight", "[::1]:2", "9"),
        Change("algorithm", "", "least_connections"),
        Change("drain", "b"),
        Change("maxconn", "a", "5"),
    ):
        change.to(farm)
    found = {server.name: (server.weight, server.maxconn, server.is_draining) for server in farm.servers}
    assert found == {"a": (1, 5, False), "[::1]:2": (9, 1024, False), "b": (2, 1024, True)}
    Change("undrain", "b").to(farm)
    assert not farm.servers[2].is_draining
    assert farm.algorithm == "least_connections"
