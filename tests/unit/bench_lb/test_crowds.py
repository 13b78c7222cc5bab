"""What the parts about many clients and many streams make of what they saw."""

import pytest

from benchmarks.backend.load import Seen
from benchmarks.lb import idle, relay
from benchmarks.lb.balancers import HAPROXY, NGINX, OURS


def seen(rate: float) -> Seen:
    return Seen(rate, 1.0, 2.0, 1000, 0, 0, {"server": 20.0}, 0.9, {"server": 30.0})


def test_many_are_measured_by_few_and_by_nobody_else() -> None:
    turns = {
        OURS.name: [idle.Turn(seen(1_000), seen(700), 5.0), idle.Turn(seen(500), seen(450), 3.0)],
        HAPROXY.name: [idle.Turn(seen(1), seen(9), 1.0), idle.Turn(seen(1), seen(9), 1.0)],
    }
    said = idle.section(turns, idle.FULL, [])
    assert {len(row) for row in said.rows} == {len(said.header)}
    rate, kib = said.bars
    assert (round(rate.found, 6), rate.is_met) == (0.8, True)
    assert (kib.found, kib.is_met) == (4.0, True)


def test_events_are_measured_beside_nginx() -> None:
    def turn(cpu_us: float) -> relay.Turn:
        return relay.Turn(10_000, cpu_us, 0.2, 1.0, 5.0, 4.0)

    turns = {OURS.name: [turn(15.0), turn(30.0)], HAPROXY.name: [turn(1.0)] * 2, NGINX.name: [turn(10.0), turn(30.0)]}
    said = relay.section(turns, relay.FULL, [])
    assert {len(row) for row in said.rows} == {len(said.header)}
    (bar,) = said.bars
    assert (bar.found, bar.is_met) == (1.25, False)
    del turns[NGINX.name]
    assert not relay.section(turns, relay.FULL, ["nginx is left out"]).bars


@pytest.mark.parametrize(
    ("events", "gaps", "ended", "why"),
    [
        (10, [0, 0], 0, ""),
        (10, [0, 2], 0, "2 events are missing"),
        (10, [-1, 1], 0, "missing"),
        (10, [0], 3, "3 streams ended"),
        (0, [0], 0, "no event"),
    ],
)
def test_what_is_missing_makes_a_turn_worthless(events: int, gaps: list[int], ended: int, why: str) -> None:
    complaint = relay.complaint_of(events, gaps, ended)
    assert (why in complaint) if why else not complaint
