"""What shoppers were told against the books, and the observers' reading of others' words."""

import os
import time
from typing import Any

import pytest

from benchmarks.comparison.contract import ERROR, RESOURCES, SOLD, SOLD_OUT, SYSTEM, TIMEOUT, UNSENT
from benchmarks.comparison.engine.ceiling import read_wrk
from benchmarks.comparison.engine.shop import GAVE_UP, Left, Told, compare
from benchmarks.comparison.observe.processes import Processes, family
from benchmarks.comparison.observe.queues import said
from benchmarks.comparison.observe.system import System
from benchmarks.comparison.observe.watching import watching
from flashsale.proof.auditor import Look, Report
from flashsale.proof.findings import Tally
from flashsale.proof.invariants import RULE

CLEAN = Report(Look((), frozenset(), {}), 1, {})
TOLD = {"ana": Told("a", SOLD), "ben": Told("a", SOLD_OUT), "cem": Told("a", SOLD_OUT)}
BOUGHT = {"ana": 1}
NOTHING_LEFT = {"a": Left(0, 1)}


def test_books_that_agree_are_clean() -> None:
    audit = compare(CLEAN, TOLD, BOUGHT, NOTHING_LEFT)
    assert audit.clean
    assert not audit.findings


@pytest.mark.parametrize(
    ("kind", "told", "bought", "left"),
    [
        ("phantom", TOLD, BOUGHT | {"ben": 1}, NOTHING_LEFT),
        ("phantom", TOLD, BOUGHT | {"stranger": 1}, NOTHING_LEFT),
        ("phantom", TOLD | {"ana": Told("a", UNSENT)}, BOUGHT, NOTHING_LEFT),
        ("duplicate", TOLD, {"ana": 2}, NOTHING_LEFT),
        ("lost_ack", TOLD, {}, NOTHING_LEFT),
        ("undersold", TOLD, BOUGHT, {"a": Left(1, 2)}),
    ],
)
def test_each_kind_of_wrong_is_counted_apart(
    kind: str, told: dict[str, Told], bought: dict[str, int], left: dict[str, Left]
) -> None:
    audit = compare(CLEAN, told, bought, left)
    assert not audit.clean
    wrong = {
        name for name in ("oversold", "undersold", "phantom", "duplicate", "lost_ack", "leaked") if getattr(audit, name)
    }
    assert wrong == {kind}


@pytest.mark.parametrize("outcome", [TIMEOUT, ERROR])
def test_who_heard_nothing_was_not_told_otherwise(outcome: str) -> None:
    audit = compare(CLEAN, TOLD | {"ana": Told("a", outcome)}, BOUGHT, NOTHING_LEFT)
    assert (audit.clean, audit.unheard, audit.phantom, audit.findings) == (True, 1, 0, ())


def test_who_gave_up_is_no_fault_in_the_books() -> None:
    gave_up = Tally(GAVE_UP, 1, ("ana",), ("ana never heard what became of it",))
    told = TOLD | {"ana": Told("a", TIMEOUT)}
    audit = compare(Report(Look((gave_up,), frozenset(), {}), 1, {}), told, BOUGHT, NOTHING_LEFT)
    assert (audit.clean, audit.unheard, audit.findings) == (True, 1, ())
    assert GAVE_UP in RULE


def test_no_more_is_undersold_than_somebody_wanted() -> None:
    assert compare(CLEAN, TOLD, BOUGHT, {"a": Left(10, 11)}).undersold == 2
    assert compare(CLEAN, {"ana": Told("a", SOLD)}, BOUGHT, {"a": Left(10, 11)}).clean


def test_what_the_auditor_finds_disqualifies() -> None:
    oversold = Tally("certain-holds-above-total", 3, ("a",), ("three too many",))
    audit = compare(Report(Look((oversold,), frozenset(), {}), 1, {}), TOLD, BOUGHT, NOTHING_LEFT)
    assert not audit.clean
    assert audit.oversold == 3
    assert audit.findings == ("oversold: three too many",)


def test_metrics_are_read_under_their_names_here() -> None:
    page = (
        "# HELP loadbalancer_queued x\n"
        "loadbalancer_queued 3.0\n"
        'loadbalancer_server_active{server="a"} 2.0\n'
        'loadbalancer_server_active{server="b"} 5.0\n'
        'loadbalancer_refused_total{status="503"} 4.0\n'
        "loadbalancer_requests_total 9.0\n"
    )
    assert sorted(said("lb", page)) == [("lb", "in_hand", 7.0), ("lb", "refused", 4.0), ("lb", "waiting", 3.0)]
    page = 'flashsale_in_flight 6.0\nflashsale_queue_depth{queue="checkout.0"} 8.0\nflashsale_queue_depth{queue="checkout.1"} NaN\n'
    assert sorted(said("front-0", page)) == [("front-0", "in_hand", 6.0), ("rabbitmq:checkout.0", "depth", 8.0)]


def test_wrk_is_read_in_its_own_units() -> None:
    said = "  Latency Distribution\n     50%  150.00us\n     99%    1.2ms\nRequests/sec:  12345.67\n"
    assert read_wrk(said) == (12345.67, 0.15)
    assert read_wrk("     50%    2.50ms\n") == (None, 2.5)
    assert read_wrk("unable to connect") == (None, None)


def test_a_process_is_dated_when_it_is_read_and_not_when_the_look_began() -> None:
    processes = Processes(lambda: [("gen", os.getpid()), ("lb", os.getppid())], alone=os.getpid())
    processes.look(7)
    assert 7 <= processes.rows[0][0] < processes.rows[1][0]  # type: ignore[operator] # numbers both


async def test_observers_see_this_process_and_this_machine() -> None:
    here = os.getpid()
    processes, machine = Processes(lambda: [("gen", here), ("lb", 2**22 + 1)], alone=here), System()
    processes.period_s = machine.period_s = 0.01
    async with watching([processes, machine], time.monotonic_ns()):
        pass
    moments: list[Any] = [row[0] for row in processes.rows]
    assert moments == sorted(set(moments))
    assert {row[1:3] for row in processes.rows} == {("gen", here)}  # nobody has the other number
    first: dict[str, Any] = dict(zip(RESOURCES, processes.rows[0], strict=True))
    assert first["cpu_user_s"] > 0
    assert first["rss"] >= first["pss"] > 0
    assert first["threads"] >= 1
    assert {len(row) for row in machine.rows} == {len(SYSTEM)}
    assert here in list(family(os.getppid()))
