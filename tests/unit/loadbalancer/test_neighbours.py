# How many connections one address may have.
from loadbalancer.neighbours import Neighbours


def test_one_too_many_is_said_and_counted_until_it_leaves() -> None:
    neighbours = Neighbours(2)
    assert [neighbours.enter("10.0.0.1") for _ in range(3)] == [True, True, False]
    assert neighbours.enter("10.0.0.2")
    neighbours.leave("10.0.0.1")
    assert not neighbours.enter("10.0.0.1")
    for _ in range(2):
        neighbours.leave("10.0.0.1")
    assert neighbours.enter("10.0.0.1")


def test_of_ipv6_a_whole_network_is_one_and_an_ipv4_inside_it_is_not() -> None:
    neighbours = Neighbours(1)
    assert neighbours.enter("2001:db8::1")
    assert not neighbours.enter("2001:db8::ffff:2")
    assert neighbours.enter("2001:db8:0:1::1")
    assert neighbours.enter("::ffff:10.0.0.1")
    assert neighbours.enter("::ffff:10.0.0.2")
    assert neighbours.enter("fe80::1%eth0")


def test_nothing_is_kept_of_who_is_gone() -> None:
    neighbours = Neighbours(1)
    for address in ("10.0.0.1", "2001:db8::1"):
        neighbours.enter(address)
        neighbours.leave(address)
    assert len(neighbours) == 0
