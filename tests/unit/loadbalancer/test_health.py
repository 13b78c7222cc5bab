# When a server is taken out, and when it comes back.
from loadbalancer.health import Health


def health() -> Health:
    return Health(rise=2, fall=3, connect_fall=2)


def test_bad_checks_in_a_row_take_it_out_and_good_ones_bring_it_back() -> None:
    server = health()
    assert [server.checked("no answer") for _ in range(4)] == [False, False, True, False]
    assert (server.is_up, server.reason) == (False, "no answer")
    assert [server.checked("") for _ in range(3)] == [False, True, False]
    assert (server.is_up, server.reason) == (True, "")


def test_a_good_check_between_breaks_the_row() -> None:
    server = health()
    assert not any(server.checked(problem) for problem in ("x", "x", "", "x", "x", ""))
    server.checked("x")
    server.checked("x")
    assert server.checked("x")
    assert not any(server.checked(problem) for problem in ("", "x", "", "x"))
    assert not server.is_up


def test_failed_connections_take_it_out_without_waiting_for_a_check() -> None:
    server = health()
    assert [server.unreached("refused") for _ in range(3)] == [False, True, False]
    assert (server.is_up, server.reason) == (False, "refused")
    assert [server.checked("") for _ in range(2)] == [False, True]
    assert not server.unreached("refused"), "it starts anew"


def test_a_connection_between_breaks_the_row() -> None:
    server = health()
    for _ in range(5):
        assert not server.unreached("refused")
        server.reached()
    assert server.is_up


def test_it_turns_from_the_first_check_that_says_otherwise_until_it_is_decided() -> None:
    server = health()
    turning = []
    for problem in ("", "x", "", "x", "x", "x", "x", "", "x", "", ""):
        server.checked(problem)
        turning.append(server.is_turning)
    assert turning == [False, True, False, True, True, False, False, True, False, True, False]
