# What workers have in hand, for each other to read.
import os
from collections.abc import Callable, Iterator

import pytest

from loadbalancer import shared
from loadbalancer.config import Config
from loadbalancer.policies.base import REQUEST, STREAM
from loadbalancer.servers import Farm
from loadbalancer.shared import COLUMNS, Shared, Sum

ROWS = 6
CONFIG = Config.load({"LB_SERVERS": "a=h:1,b=h:2", "LB_ALGORITHM": "least_connections"})


@pytest.fixture
def file() -> Iterator[int]:
    number = shared.make(ROWS)
    yield number
    os.close(number)


def farms(file: int) -> tuple[Farm, Farm]:
    """Two workers' own."""
    made = Farm(CONFIG), Farm(CONFIG, number=1)
    for row, farm in enumerate(made):
        farm.share(Shared(file, ROWS), row, {"a": 0, "b": COLUMNS - 1})
    return made


def test_a_sum_is_what_every_row_says_now(file: int) -> None:
    one, other = farms(file)
    seen = Shared(file, ROWS)
    a, b = one.servers
    a.assign()
    b.assign()
    b.assign()
    other.servers[1].assign()
    b.begin_stream()
    assert (seen.sum(0), seen.sum(COLUMNS - 1)) == (Sum(1, 0), Sum(2, 1))
    a.release(is_stream=False)
    b.release(is_stream=False)
    b.release(is_stream=True)
    assert (seen.sum(0), seen.sum(COLUMNS - 1)) == (Sum(0, 0), Sum(1, 0))
    other.servers[1].release(is_stream=False)
    assert seen.sum(COLUMNS - 1) == Sum(0, 0)


def test_one_worker_goes_by_what_the_other_has_in_hand(file: int) -> None:
    one, other = farms(file)
    for _ in range(3):
        other.servers[0].assign()
    chosen = [one.choose(b"", ()) for _ in range(4)]
    assert {server.name for server in chosen if server is not None} == {"b"}
    a, b = one.servers
    assert (a.load, b.load, a.active) == (3 * REQUEST, 0, 0)
    other.servers[0].begin_stream()
    for _ in range(2):
        other.servers[0].release(is_stream=False)
    a.assign()
    one.choose(b"", ())
    assert a.load == REQUEST + STREAM
    a.release(is_stream=False)
    other.servers[0].release(is_stream=True)
    one.choose(b"", ())
    assert (a.load, b.load) == (0, 0)


def test_others_are_heard_once_in_a_loop_turn(file: int) -> None:
    later: list[Callable[[], None]] = []
    one, other = Farm(CONFIG, later=later.append), Farm(CONFIG)
    one.share(Shared(file, ROWS), 0, {"a": 0, "b": 1})
    other.share(Shared(file, ROWS), 1, {"a": 0, "b": 1})
    one.choose(b"", ())
    other.servers[0].assign()
    one.choose(b"", ())
    assert one.servers[0].load == 0
    for call in later:
        call()
    one.choose(b"", ())
    assert one.servers[0].load == REQUEST


def test_who_died_has_nothing_in_hand_and_the_others_keep_theirs(file: int) -> None:
    one, other = farms(file)
    for farm in (one, other):
        for server in farm.servers:
            server.assign()
            server.assign()
            server.begin_stream()
    seen = Shared(file, ROWS)
    seen.clear(0)
    assert (seen.sum(0), seen.sum(COLUMNS - 1)) == (Sum(1, 1), Sum(1, 1))


def test_a_column_is_given_again_only_when_nothing_is_in_hand_there(file: int) -> None:
    one, _ = farms(file)
    seen = Shared(file, ROWS)
    one.servers[0].assign()
    assert seen.free_column([]) == 1
    assert seen.free_column([1, 2]) == 3
    one.servers[0].release(is_stream=False)
    assert seen.free_column([]) == 0
    with pytest.raises(LookupError):
        seen.free_column(range(COLUMNS))
