"""What is asked, and what the part about plain requests makes of what it saw."""

import json

import pytest

from benchmarks.backend.load import Seen
from benchmarks.lb import peers, plain, wants
from benchmarks.lb.balancers import HAPROXY, HAPROXY_UNIX, NGINX, OURS, OURS_UNIX
from benchmarks.lb.report import Cell
from loadbalancer.http1.reader import END, RequestReader


def seen(rate: float, cpu_us: float, p99_ms: float = 2.0) -> Seen:
    return Seen(rate, 1.0, p99_ms, 1000, 0, 0, {"server": cpu_us, "generator": 5.0}, 0.9, {"server": 30.0})


@pytest.mark.parametrize("method", [wants.POST, wants.GET])
@pytest.mark.parametrize("base", ["", "http://127.0.0.1:8000"])
def test_a_request_has_its_twelve_fields_and_is_whole(method: str, base: str) -> None:
    request = wants.request(method, base)
    head, _, body = request.partition(b"\r\n\r\n")
    assert len(head.split(b"\r\n")) - 1 == wants.FIELDS
    reader = RequestReader(2**20)
    reader.feed(request)
    events = []
    while (event := reader.read()) is not None:
        events.append(event)
    assert events[-1] is END
    assert reader.waiting_bytes == 0
    assert (json.loads(body) if method == wants.POST else {}) == (
        json.loads(wants.BODY) if method == wants.POST else {}
    )


def test_ratios_are_taken_within_a_round_and_each_bar_has_its_peer() -> None:
    loads = {
        Cell(wants.POST, plain.DIRECT): [seen(100_000, 4.0), seen(50_000, 8.0)],
        Cell(wants.POST, OURS.name): [seen(40_000, 20.0, 3.0), seen(20_000, 40.0, 6.0)],
        Cell(wants.POST, HAPROXY.name): [seen(60_000, 10.0, 1.0), seen(30_000, 25.0, 4.0)],
        Cell(wants.POST, NGINX.name): [seen(60_000, 10.0), seen(30_000, 25.0)],
        Cell(wants.POST, peers.TUNED): [seen(5_000, 160.0), seen(3_000, 300.0)],
    }
    said = plain.section(loads, plain.QUICK, ["nobody is left out"])
    assert [row[1] for row in said.rows] == [cell.balancer for cell in loads]
    assert {len(row) for row in said.rows} == {len(said.header)}
    assert said.rows[2][6] == "1.80 (1.60-2.00)"
    assert [row[6] for row in said.rows[:2]] == ["", ""]  # nobody is compared with himself, or with no balancer
    cpu, p99, python = said.bars
    assert [round(bar.found, 6) for bar in said.bars] == [1.8, 2.25, 7.75]
    assert (cpu.is_met, p99.is_met, python.is_met) == (False, False, True)
    assert said.notes[-1] == "nobody is left out"
    assert [len(cell["rounds"]) for cell in said.raw["cells"]] == [2] * len(loads)


def test_who_has_a_socket_of_the_file_system_stands_beside_who_has_one() -> None:
    loads = {
        Cell(wants.POST, OURS.name): [seen(40_000, 20.0, 3.0)],
        Cell(wants.POST, OURS_UNIX.name): [seen(40_000, 15.0, 2.0)],
        Cell(wants.POST, HAPROXY_UNIX.name): [seen(60_000, 10.0, 1.0)],
    }
    said = plain.section(loads, plain.QUICK, [])
    assert [round(bar.found, 6) for bar in said.bars] == [1.5, 2.0]
    assert plain.by_path([OURS, HAPROXY, NGINX]) == [OURS_UNIX, HAPROXY_UNIX]
    assert plain.by_path([OURS, NGINX]) == [OURS_UNIX]
    assert plain.by_path([OURS, HAPROXY]) == []
