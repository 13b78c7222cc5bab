"""How old a change was when somebody knew it."""

from benchmarks.sse.turn import lags_ms

MS = 1_000_000


def test_a_change_is_as_old_as_it_is_when_each_viewer_knows_it() -> None:
    moments = [100 * MS, 200 * MS, 300 * MS]
    seen = [(1, 101 * MS, 7), (2, 105 * MS, 7), (1, 203 * MS, 8), (2, 310 * MS, 9), (1, 302 * MS, 9)]
    # the second viewer heard of 8 with 9, when it was 110 ms old
    assert lags_ms(seen, 7, moments) == [1, 5, 3, 110, 10, 2]


def test_what_was_known_already_is_not_counted_again() -> None:
    assert lags_ms([(1, 105 * MS, 7), (1, 400 * MS, 7)], 7, [100 * MS]) == [5]
    assert lags_ms([(1, 50 * MS, 6)], 7, [100 * MS]) == []
