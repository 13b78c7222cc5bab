"""What the part about links makes of what it saw."""

from collections.abc import Mapping

import pytest

from benchmarks.backend.attempts import Attempts
from benchmarks.backend.load import Seen
from benchmarks.lb import link, wants
from benchmarks.lb.balancers import HAPROXY, OURS
from benchmarks.lb.report import Cell


def seen(balancer_us: float, backend_us: float, p99_ms: float) -> Seen:
    return Seen(1_000, 1.0, p99_ms, 1000, 0, 0, {"server": balancer_us, "backend": backend_us, "redis": 9.0}, 0.9, {})


def test_links_are_measured_with_their_backend_and_beside_haproxy_with_the_same() -> None:
    loads = {
        Cell("sold out", OURS.name): [seen(25.0, 30.0, 5.0)] * 2,
        Cell("sold out", HAPROXY.name): [seen(20.0, 30.0, 4.0), seen(40.0, 60.0, 8.0)],
        Cell("sold out", link.LINKS.name): [seen(10.0, 15.0, 5.0), seen(20.0, 60.0, 6.0)],
    }
    shares = {cell: [1.0, 1.0] if cell.balancer == link.LINKS.name else [0.0, 0.0] for cell in loads}
    said = link.section(link.Found(loads, shares, 3, ["fsync is left out"]), link.FULL)
    assert {len(row) for row in said.rows} == {len(said.header)}
    assert [row[5] for row in said.rows] == ["0.83 (0.55-1.10)", "", "0.65 (0.50-0.80)"]
    cpu, p99 = said.bars
    assert (round(cpu.found, 6), cpu.is_met) == (0.65, False)
    assert (p99.found, p99.is_met) == (1.0, True)
    assert "3 attempts were told try_later" in said.notes[0]
    assert said.notes[-1] == "fsync is left out"


def test_without_haproxy_there_is_nothing_to_be_compared_with() -> None:
    loads = {Cell("sold out", link.LINKS.name): [seen(10.0, 15.0, 5.0)]}
    said = link.section(link.Found(loads, {cell: [1.0] for cell in loads}, 0, []), link.QUICK)
    assert not said.bars
    assert said.rows[0][5] == ""


def test_an_attempt_has_as_many_fields_as_any_other_request() -> None:
    head, _, _ = link.attempts(Attempts(["{}"], None, "key-")).requests("shop.example")(1).partition(b"\r\n\r\n")
    assert len(head.split(b"\r\n")) - 1 == wants.FIELDS


@pytest.mark.parametrize(
    ("what", "answers", "refusals", "told", "wrong"),
    [
        (link.SOLD, 90, 90, {"sold_out": 100}, False),  # ten were under way at the end
        (link.SOLD, 90, 90, {"sold_out": 99, "held": 1}, True),
        (link.SOLD, 90, 90, {"sold_out": 80}, True),  # ten were the balancer's
        (link.SOLD, 0, 0, {}, True),
        (link.MIXED, 90, 81, {"sold_out": 80, "held": 10, "try_later": 2}, False),
        (link.MIXED, 90, 85, {"sold_out": 80, "held": 10}, True),
        (link.MIXED, 90, 81, {"sold_out": 81, "held": 10, "malformed": 1}, True),
    ],
)
def test_what_nobody_should_hear_ends_the_run(
    what: str, answers: int, refusals: int, told: Mapping[str, int], *, wrong: bool
) -> None:
    one = seen(10.0, 15.0, 5.0)._replace(answers=answers, refusals=refusals)
    assert link.is_unexpected(one, told, what) is wrong
    assert link.is_unexpected(one._replace(broken=1), told, what)
