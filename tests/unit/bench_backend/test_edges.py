"""What the part about edges makes of what it saw."""

from benchmarks.backend import edges
from benchmarks.backend.load import Seen
from benchmarks.backend.report import Cell


def seen(p99_ms: float, cpu_us: float) -> Seen:
    return Seen(1_000.0, 1.0, p99_ms, 1000, 0, 0, {"server": cpu_us}, 0.9, {"server": 60.0})


def test_the_others_are_measured_by_ours_and_ours_by_itself() -> None:
    loads = [(seen(3.0, 20.0), seen(5.0, 22.0)), (seen(2.0, 60.0), seen(2.0, 66.0)), (seen(9.0, 30.0), seen(9.0, 22.0))]
    names = [one.name for one in edges.CONTESTANTS]
    cells = {Cell(edges.WHAT, "off", name): rounds for name, rounds in zip(names, loads, strict=True)}
    turns = {cell: [1.5, 2.5] for cell in cells}
    said = edges.section(edges.Found(cells, turns), edges.QUICK)
    assert [row[2] for row in said.rows] == names
    evenly, other, last = said.bars
    assert (evenly.found, evenly.is_met) == (2.0, True)
    assert (other.found, other.is_met) == (3.0, True)
    assert (last.found, last.is_met) == (1.25, False)
    assert [len(cell["rounds"]) for cell in said.raw["cells"]] == [2, 2, 2]
    assert "ours 2.00 (1.50-2.50)" in said.notes[1]
