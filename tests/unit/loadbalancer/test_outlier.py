# When failed requests take a server out, for how long, and what a server says of itself.
import pytest

from loadbalancer.agent import NOTHING, Said, parse
from loadbalancer.outlier import FAILED, SAY_NOTHING, Outlier
from loadbalancer.slow_start import LEAST_PERCENT, warmth


def outlier(after: int = 3) -> Outlier:
    return Outlier(after, time_s=30, time_max_s=100)


@pytest.mark.parametrize("status", sorted(FAILED))
def test_failures_in_a_row_eject(status: int) -> None:
    server = outlier()
    assert [server.answered(status) for _ in range(3)] == [False, False, True]
    assert server.answered(status), "and if it had to stay, the next is asked about again"


def test_lost_and_failed_are_one_row_and_a_good_answer_breaks_it() -> None:
    server = outlier()
    assert [server.failed(), server.answered(500), server.failed()] == [False, False, True]
    server.answered(200)
    for _ in range(5):
        assert not any((server.failed(), server.failed(), server.answered(200)))


@pytest.mark.parametrize("status", [200, 201, 304, 400, 404, 409, 429])
def test_whatever_is_no_fault_of_the_server_is_a_good_answer(status: int) -> None:
    server = outlier(1)
    assert not any(server.answered(status) for _ in range(100))
    server.failures = 2
    server.answered(status)
    assert server.failures == 0


@pytest.mark.parametrize("status", sorted(SAY_NOTHING))
def test_what_a_store_away_makes_every_server_say_says_nothing(status: int) -> None:
    server = outlier()
    assert not any(server.answered(status) for _ in range(100))
    assert [server.failed(), server.answered(status), server.failed(), server.answered(status), server.failed()] == [
        False,
        False,
        False,
        False,
        True,
    ]


def test_with_nought_nothing_ejects() -> None:
    server = outlier(0)
    assert not any(server.failed() for _ in range(100))


def lasts(server: Outlier, now: float) -> float:
    """For how long it is ejected at ``now``, in whole seconds; it is back after that."""
    server.eject(now, "answered 500")
    for seconds in range(1000):
        if server.checked(now + seconds):
            return seconds
    raise AssertionError


def test_it_is_out_longer_each_time_it_fails_soon_again_up_to_a_bound() -> None:
    server, now = outlier(), 1000.0
    lasted = []
    for _ in range(5):
        lasted.append(lasts(server, now))
        now += lasted[-1] + 10  # it holds for ten seconds
    assert lasted == [30, 60, 90, 100, 100]
    now += 100  # and now as long as it was out
    assert lasts(server, now) == 30


def test_it_comes_back_by_a_good_check_and_not_by_time_alone() -> None:
    server = outlier()
    for _ in range(3):
        server.failed()
    server.eject(0, "answered 500")
    assert (server.is_ejected, server.reason) == (True, "answered 500")
    assert not server.checked(29)
    assert server.is_ejected
    assert server.checked(5000)
    assert (server.is_ejected, server.reason, server.failures) == (False, "", 0)
    assert not server.checked(5001), "once"


# slow start


def test_it_gets_more_in_a_straight_line() -> None:
    assert [warmth(seconds, 10) for seconds in (0, 0.5, 1, 2.5, 5, 9.99, 10, 1000)] == [
        10,
        10,
        10,
        25,
        50,
        99,
        100,
        100,
    ]
    assert warmth(0, 0) == 100
    assert LEAST_PERCENT == 10


# what a server says of itself


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, NOTHING),
        ({b"lb-weight": b"50"}, Said(50, False)),
        ({b"lb-weight": b"100"}, NOTHING),
        ({b"lb-weight": b"1"}, Said(1, False)),
        ({b"lb-weight": b"0"}, Said(100, True)),
        ({b"lb-drain": b"1"}, Said(100, True)),
        ({b"lb-weight": b"30", b"lb-drain": b"1"}, Said(30, True)),
        ({b"lb-drain": b"0"}, NOTHING),
        *(({b"lb-weight": text}, NOTHING) for text in (b"", b"101", b"-1", b"050", b"5.0", b"50%", b"50, 60", b"x")),
    ],
)
def test_what_is_not_written_as_it_has_to_be_is_not_said(fields: dict[bytes, bytes], said: Said) -> None:
    assert parse(fields) == said
