"""From loads to bars: what is void counts for nothing, and is said."""

from typing import Any

from benchmarks.sse import fan, long
from benchmarks.sse.contestants import ASYNCIO, GEVENT, NCHAN
from benchmarks.sse.fan import Effort, Round
from benchmarks.sse.turn import Turn

EFFORT = Effort(2, 1.0, (10, 20), (5,))
TURN = Turn(10, 5, 5.0, 1.0, 50.0, 8.0, 0.1, 1.0, 20.0, 0.3)


def rounds(**changed: Any) -> dict[str, list[Round]]:
    """Two of everybody; theirs as they are, ours changed."""

    def one(turn: Turn, kib: float) -> Round:
        return Round([turn, turn._replace(viewers=20)], [kib])

    mine = one(TURN._replace(**changed), 1.5)
    return {ASYNCIO.name: [mine] * 2, NCHAN: [one(TURN, 14.0)] * 2, GEVENT.name: [one(TURN, 31.0)] * 2}


def test_bars_compare_within_a_round() -> None:
    bars = fan.bars(rounds(cpu_us=9.0), EFFORT)
    assert [bar.is_met for bar in bars] == [False, True, False, True, True, False]
    assert [bar.found for bar in bars] == [1.125, 1.0, 1.125, 1.0, 1.5, 31.0]


def test_a_void_load_meets_no_bar_and_is_said() -> None:
    found = rounds(crowd_busy=0.95)
    assert not any(bar.is_met for bar in fan.bars(found, EFFORT)[:4])
    rows = fan.section(found, EFFORT, []).rows
    assert [row[-1] for row in rows] == ["2 of 2", "", ""] * 2


def test_without_nchan_only_memory_is_judged() -> None:
    found = {name: of for name, of in rounds().items() if name != NCHAN}
    assert len(fan.bars(found, EFFORT)) == 2


def test_memory_that_grows_is_seen() -> None:
    effort = long.Effort(5.0, 1_010, 0.1)
    flat, grows = ([50.0] * 50, [50.0 + number / 10 for number in range(50)])
    met = [[bar.is_met for bar in long.section(TURN, mib, 49.0, effort).bars] for mib in (flat, grows)]
    assert met == [[True, True], [False, False]]
