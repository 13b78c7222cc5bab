"""What the queued backend's parts make of what they saw: bars are per core and within a round, growth is a trend, nothing stays undecided."""

from collections import Counter

import pytest

from benchmarks.backend import accept, checkout, drain, memory, steady
from benchmarks.backend.flood import Record
from benchmarks.backend.load import Seen
from benchmarks.backend.report import Cell
from benchmarks.backend.servers import EDGE

ACCEPT = accept.Effort(2, 1, 0, ("off",))


def seen(rate: float, cpu_us: float, p99_ms: float = 40.0) -> Seen:
    return Seen(rate, 10.0, p99_ms, 1000, 0, 0, {"server": cpu_us}, 0.9, {"server": 60.0})


def test_accepted_is_compared_by_the_server_s_cpu_and_within_a_round() -> None:
    # the broker is the limit of the rate, and a round is a slow minute of the machine
    loads = {
        Cell(accept.CONSTANT, "off", EDGE.name): [seen(9_000, 100), seen(4_500, 200)],
        Cell(accept.ACCEPTED, "off", EDGE.name): [seen(3_000, 125), seen(1_500, 250, 41.0)],
        Cell(accept.ACCEPTED, "off", "peer"): [seen(1_000, 374), seen(500, 748)],
    }
    constant, tail, peer = accept.section(loads, ACCEPT).bars
    assert (round(constant.found, 6), constant.is_met) == (0.8, True)
    assert (round(tail.found, 6), tail.is_met) == (4.05, False)
    assert (round(peer.found, 3), peer.is_met) == (2.992, False)
    assert "ours 6,000/s" in constant.beside


def test_a_queue_is_drained_by_the_size_that_the_bar_names() -> None:
    turns = {items: [drain.Turn(1_000, 0.15, {"checkout": 50.0, "idle": 0.1})] for items in drain.ITEMS}
    said = drain.section(turns, drain.Effort(1, 1_000))
    assert [bar.found for bar in said.bars] == pytest.approx([3.0, 3.0])
    assert said.rows[0] == ["one item", "6,667", "6,667-6,667", "3.00", "checkout 50"]


def test_an_edge_s_memory_is_itself_and_what_a_thousand_add() -> None:
    found = {memory.STARTED: 70.0, memory.WARM: 80.0, memory.POLLS: 1.5, memory.STREAMS: 3.0}
    said = memory.section([found, found], memory.Effort(2, 10, 100))
    assert [row[1] for row in said.rows] == ["70.0", "80.0", "15.0", "30.0"]


@pytest.mark.parametrize(
    ("decided_per_s", "grows_by"),
    [(100, 0), (90, 10), (110, 0)],
)
def test_growth_is_of_those_that_are_due_and_undecided(decided_per_s: int, grows_by: int) -> None:
    due = [number / 100 for number in range(600)]
    counts = [(50 + at / 20, 7 + min(round(decided_per_s * at / 20), 5 * at)) for at in range(130)]
    assert steady.growth(due, 50.0, counts, 6.0) == pytest.approx(grows_by, abs=0.5)


def test_too_few_looks_say_nothing_of_growth() -> None:
    assert steady.growth([0.0, 1.0], 0.0, [(0.0, 0), (0.5, 1)], 1.0) == 0.0
    assert steady.growth([], 0.0, [(0.0, 0)], 0.0) == 0.0


def crowd(due: list[float], late_s: float, takes_s: float, status: int) -> steady.Crowd:
    sent = [9 + moment + late_s for moment in due]
    return steady.Crowd(9.0, due, Record(sent, [moment + takes_s for moment in sent], [status] * len(due)))


DUE = [number / 100 for number in range(1, 301)]
WAITING, LEAVING = DUE[::20], [moment for number, moment in enumerate(DUE) if number % 20]


def test_times_are_from_due_and_a_late_generator_keeps_up_with_nothing() -> None:
    counts = [(9 + at / 10, at * 10) for at in range(40)]
    leaving, waiting = crowd(LEAVING, 0.001, 0.02, steady.ACCEPTED), crowd(WAITING, 0.0, 0.2, steady.HELD)
    found = steady.point(100, leaving, waiting, counts, {"checkout": 0.039})
    assert found.accepted_ms == pytest.approx({"p50": 21, "p95": 21, "p99": 21})
    assert found.decided_ms == pytest.approx({"p50": 200, "p95": 200, "p99": 200})
    assert found.cpu_us["checkout"] == pytest.approx(100)
    assert found.is_kept_up
    assert found._replace(growth=10.0).is_kept_up
    assert not found._replace(growth=10.1).is_kept_up
    assert found._replace(rate=1_000, growth=20.0).is_kept_up
    assert not found._replace(rate=1_000, growth=20.1).is_kept_up
    late = crowd(LEAVING, 0.06, 0.02, steady.ACCEPTED)
    assert not steady.point(100, late, waiting, counts, {}).is_kept_up
    assert not steady.point(100, leaving, crowd([1.0], 0, 0, steady.LATER), counts, {}).is_kept_up


def test_the_highest_rate_that_was_kept_up_with_is_told() -> None:
    counts = [(9 + at / 10, at * 10) for at in range(40)]
    one = steady.point(
        100, crowd(LEAVING, 0, 0.02, steady.ACCEPTED), crowd(WAITING, 0, 0.2, steady.HELD), counts, {"a": 1}
    )
    points = [one, one._replace(rate=400, growth=11), one._replace(rate=200), one._replace(rate=300, later=1)]
    said = steady.section([points, [one._replace(growth=11)]], steady.Effort(2, 3.0, 3))
    assert [row[1] for row in said.rows] == ["200", "nothing was kept up with"]
    assert {len(row) for row in said.rows} == {len(said.header)}


class Counts(checkout.Worker):
    """Says what it is told to, and then the last of it for ever."""

    said: list[dict[str, int]]

    async def decided(self) -> Counter[str]:
        return Counter(self.said.pop(0) if len(self.said) > 1 else self.said[0])


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([{}, {"held": 5}, {"held": 10}], ""),
        ([{"held": 11}], ""),
        ([{"held": 12}], "decided were"),
        ([{"held": 9, "sold_out": 1}], "decided were"),
        ([{"held": 10, "malformed": 1}], "decided were"),
        ([{"held": 9}], "1 of 10 attempts stay undecided"),
    ],
)
async def test_whatever_was_queued_is_decided_and_held(
    monkeypatch: pytest.MonkeyPatch, said: list[dict[str, int]], why: str
) -> None:
    monkeypatch.setattr(checkout, "SILENT_SECONDS", 0.05)
    worker = Counts(0, 0)
    worker.said = said
    if not why:
        assert (await worker.until_decided(10, 11)).total() >= 10
        return
    with pytest.raises(RuntimeError, match=why):
        await worker.until_decided(10, 11)
