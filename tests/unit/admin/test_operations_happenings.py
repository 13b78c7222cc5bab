"""What two states that follow each other say has happened, and that a source that was away makes no news."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from flashsale.admin.operations.happenings import DEEDS_KEPT, KEPT, REPEAT_SECONDS, Event, Timeline, between, known
from flashsale.operate.watching import SALES_MAX
from tests.unit.admin import operations_inputs as inputs

AWAY = {"away": "it does not answer"}


def state() -> dict[str, Any]:
    return copy.deepcopy(dict(inputs.made()))


def told(
    change: Callable[[dict[str, Any]], None], first: Callable[[dict[str, Any]], None] | None = None
) -> list[tuple[str, str]]:
    """The events of a state that ``first`` made and ``change`` changed."""
    before = state()
    if first is not None:
        first(before)
    after = copy.deepcopy(before)
    change(after)
    return [(event.kind, event.subject) for event in between(before, after)]


def sale(**facts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda made: made["sales"][0].update(facts)


def server(**facts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda made: made["balancer"]["servers"][0].update(facts)


def process(**facts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda made: made["processes"][3].update(facts)


def audit(**facts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda made: made["audit"].update(facts)


def nothing(_: dict[str, Any]) -> None:
    """The same again."""


GONE = {"pid": None, "up_s": None, "cpu_cores": None, "rss_mib": None, "away": "refused"}


@pytest.mark.parametrize(
    ("first", "change", "events"),
    [
        (None, nothing, []),
        (sale(state="SCHEDULED"), sale(state="OPEN"), ["sale.opened sale-1"]),
        (None, sale(state="PAUSED"), ["sale.paused sale-1"]),
        (None, sale(state="ENDED", available=0), ["sale.ended sale-1", "sale.sold_out sale-1"]),
        (None, sale(available=213), []),
        (None, sale(available=0), ["sale.sold_out sale-1"]),
        (sale(available=0), sale(available=2), []),
        (sale(available=0), sale(available=2, units=1002), ["sale.restocked sale-1"]),
        (sale(available=0, units=0), sale(available=9, units=9), []),
        (None, lambda made: made["sales"].pop(0), []),
        (lambda made: made["sales"].pop(0), lambda made: made["sales"].insert(0, inputs.SALES[0]), ["sale.opened sale-1"]),
        (None, server(state="down", word="down: refused"), ["server.down asyncio_redis-0"]),
        (server(state="ejected"), server(state="down"), ["server.down asyncio_redis-0"]),
        (server(state="down"), server(state="draining"), []),
        (server(state="down"), server(state="up"), ["server.up asyncio_redis-0"]),
        (None, server(state="ejected"), ["server.ejected asyncio_redis-0"]),
        (server(state="ejected"), server(state="up"), ["server.up asyncio_redis-0"]),
        (None, server(state="drained", drained=True), ["server.drained asyncio_redis-0"]),
        (server(state="drained", drained=True), server(state="up", drained=False), ["server.undrained asyncio_redis-0"]),
        (None, server(name="other"), ["server.removed asyncio_redis-0", "server.added other"]),
        (None, lambda made: made["balancer"].update(algorithm="round_robin"), ["balancer.algorithm round_robin"]),
        (None, lambda made: made["balancer"].update(uptime_s=1.0), ["balancer.restarted loadbalancer"]),
        (None, process(up_s=2.0, pid=9), ["process.restarted asyncio_redis-0"]),
        (None, process(up_s=313.0), []),
        (None, process(**GONE), ["process.away asyncio_redis-0"]),
        (process(**GONE), process(away=None, up_s=1.0), ["process.back asyncio_redis-0"]),
        (None, lambda made: made["processes"][1].update(up_s=0.0, pid=9), []),
        (None, audit(oversold=2, clean=False), ["audit.found oversold"]),
        (audit(oversold=2, clean=False), audit(oversold=2), []),
        (None, audit(clean=False, word="not clean: money"), ["audit.found audit"]),
        (audit(clean=False), audit(clean=False), []),
    ],
)  # fmt: skip
def test_what_happened_between_two_states(first: Any, change: Any, events: list[str]) -> None:
    assert [" ".join(event) for event in told(change, first)] == events


@pytest.mark.parametrize("why", ["it does not answer: refused", "it answers 503"])
def test_a_process_that_is_away_is_told_of_with_its_reason_and_no_other_word(why: str) -> None:
    after = state()
    process(**GONE | {"away": why})(after)
    [event] = between(state(), after)
    assert event.text == f"asyncio_redis-0: {why}"


@pytest.mark.parametrize("part", ["sales", "balancer", "audit"])
def test_a_part_that_was_away_makes_no_news(part: str) -> None:
    changed = state()
    sale(state="ENDED")(changed)
    server(state="down", drained=True)(changed)
    audit(lost=1, clean=False)(changed)
    prefix = {"sales": "sale.", "balancer": "server.", "audit": "audit."}[part]
    assert any(event.kind.startswith(prefix) for event in between(state(), changed))
    for before, after in ((state() | {part: AWAY}, changed), (state(), changed | {part: AWAY})):
        assert not [event for event in between(before, after) if event.kind.startswith(prefix)]


@pytest.mark.parametrize(
    ("change", "event"),
    [
        (lambda made: made["balancer"].update(uptime_s=1.0), "balancer.restarted"),
        (lambda made: made["balancer"].update(algorithm="round_robin"), "balancer.algorithm"),
        (server(state="down"), "server.down"),
    ],
)
def test_a_balancer_that_was_killed_is_compared_with_what_it_said_last(change: Any, event: str) -> None:
    last = known(None, state())
    for _ in range(2):
        last = known(last, state() | {"balancer": AWAY})
    back = state()
    change(back)
    assert [each.kind for each in between(last, back)] == [event]
    assert not between(known(last, back), back)


def numbered(first: int) -> dict[str, Any]:
    """As many sales as are shown, from this one on."""
    return state() | {"sales": [inputs.SALES[0] | {"sale": f"sale-{n}"} for n in range(first, first + SALES_MAX)]}


def test_a_sale_that_was_only_not_shown_is_not_opened_now() -> None:
    assert not between(numbered(1), numbered(0))
    assert [each.kind for each in between(numbered(0), numbered(1))] == ["sale.opened"]
    ended = state()
    sale(state="ENDED")(ended)
    assert not between(state() | {"sales": []}, ended)


def test_what_was_said_a_moment_ago_is_not_said_again() -> None:
    timeline = Timeline()
    out, open_ = Event("sale.sold_out", "s", "s: nothing is left"), Event("sale.restocked", "s", "s: 2 more units")
    for at, event in (
        (0, out),
        (1, out),
        (2, open_),
        (3, out),
        (3 + REPEAT_SECONDS, out),
        (3 + REPEAT_SECONDS, out._replace(subject="t")),
    ):
        timeline.add(at, event)
    assert [part["kind"] for part in timeline.parts()] == [out.kind, open_.kind, out.kind, out.kind, out.kind]


def test_deeds_push_out_deeds_alone_and_stand_where_they_happened() -> None:
    timeline = Timeline()
    for number in range(200):
        timeline.add(number, Event("server.down", f"server-{number}", ""))
    for number in range(200):
        timeline.add(number + 0.5, Event("deed", "server", f"{number}"))
    told = timeline.parts()
    assert [part["at"] for part in told] == sorted(part["at"] for part in told)
    assert [sum((part["kind"] == "deed") is is_deed for part in told) for is_deed in (True, False)] == [
        DEEDS_KEPT,
        KEPT,
    ]
