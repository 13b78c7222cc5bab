"""The generator's law: nobody's wait is forgotten, and every wish comes to an end. In simulated time, so that every number is exact."""

import heapq
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import contract
from benchmarks.comparison.arrivals import NS, Wish, rate_at, times, wishes
from benchmarks.comparison.crowd import BUY, FOLLOW, FOLLOW_STEP_S, TRY_NS, Answer, Call, Crowd
from benchmarks.comparison.flight import NEVER, peak
from benchmarks.comparison.generate import outcome, summary
from benchmarks.comparison.scenario import MODELS, Load
from benchmarks.comparison.sockets import Sockets, parse
from flashsale.contract import wire
from flashsale.settings import REPOSITORY
from flashsale.stack.running import python_environment
from tests.patience import PATIENCE_SECONDS

MS = NS // 1000
SOLD_OUT = Answer(409, b'{"type":"x","verdict":"sold_out"}', None)
LATER = Answer(503, b'{"verdict":"try_later"}', 1)
STALL = (1 * NS, 2 * NS)  # the server stands still in between
RATE, SECONDS = 100, 4
PATIENCE = 60 * NS


def held(state: str = "HELD") -> Answer:
    document = {
        "id": "p",
        "state": state,
        "lines": [{"sku": "a", "quantity": 1, "seq": 1}],
        "deadline": "2026-11-30T08:00:00Z",
    }
    return Answer(201, json.dumps(document).encode(), None)


def queued() -> Answer:
    return Answer(202, b'{"state":"QUEUED","receipt":"r-1"}', None)


def at(*moments: int) -> list[Wish]:
    return [Wish(moment, f"buyer-{n}", f"key-{n:020d}", "a") for n, moment in enumerate(moments)]


def a_crowd(plans: list[Wish], **given: Any) -> Crowd:
    return Crowd(plans, **{"patience_ns": PATIENCE, "retry": "polite", "seed": 1, **given})


def done_at(start: int) -> int:
    """A server that takes a millisecond, and stands still for a second."""
    return (STALL[1] if STALL[0] <= start < STALL[1] else start) + MS


def simulate(crowd: Crowd, places: int) -> None:
    """Sockets of no duration: ``places`` connections to that server."""
    now, order = 0, 0
    ends: list[tuple[int, int, Call]] = []
    while crowd.open:
        while len(ends) < places and crowd.due(now):
            call, _ = crowd.begin(now)
            order += 1
            heapq.heappush(ends, (done_at(now), order, call))
        moments = [ends[0][0]] if ends else []
        if crowd.next_due is not None and len(ends) < places:
            moments.append(crowd.next_due)
        now = max(now, min(moments))
        while ends and ends[0][0] <= now:
            crowd.answer(heapq.heappop(ends)[2], SOLD_OUT, now)


def truth(plans: list[Wish], places: int) -> list[int]:
    """What shoppers wait, reckoned apart: each begins when it came, or when the first place is free."""
    free = [0] * places
    waits = []
    for plan in plans:
        end = done_at(max(plan.intended_ns, heapq.heappop(free)))
        heapq.heappush(free, end)
        waits.append(end - plan.intended_ns)
    return waits


def remembers(make: Callable[..., Crowd], places: int) -> bool:
    """Does what was written down agree with what shoppers waited?"""
    plans = at(*times(Load(model="constant", rate=RATE, seconds=SECONDS), 1))
    crowd = make(list(plans), patience_ns=PATIENCE, retry="polite", seed=1)
    simulate(crowd, places)
    written = [visit.decided - wish.intended_ns for wish, visit in zip(crowd.wishes, crowd.visits, strict=True)]
    return written == truth(plans, places)


class CountsFromSending(Crowd):
    """The bug of most load generators: the wait before sending is nobody's."""

    def begin(self, now: int) -> tuple[Call, bytes]:
        call, request = super().begin(now)
        self.wishes[call.seq] = self.wishes[call.seq]._replace(intended_ns=now)
        return call, request


class WaitsForAnswers(Crowd):
    """The other one: whoever would come meanwhile does not, until the last has been answered."""

    def due(self, now: int) -> bool:
        return super().due(now) and all(call.answered >= 0 for call in self.calls)

    @property
    def next_due(self) -> int | None:
        return super().next_due if all(call.answered >= 0 for call in self.calls) else None


@pytest.mark.parametrize("places", [1, 3, 1000])
def test_the_wait_of_a_stall_is_everybodys_who_came_in_it(places: int) -> None:
    assert remembers(Crowd, places)


def test_a_generator_that_omits_waits_is_found_out() -> None:
    assert not remembers(CountsFromSending, 1)
    assert not remembers(WaitsForAnswers, 1000)


def test_percentiles_count_from_the_intended_time() -> None:
    crowd = a_crowd(at(*times(Load(model="constant", rate=RATE, seconds=SECONDS), 1)))
    simulate(crowd, 1)
    found = summary(crowd)
    # a quarter of all came in the stall, and the middle of those waited half a second
    assert found["response_p99_ms"] > 950
    assert found["lag_p99_ms"] > 950
    assert found["counts"]["SOLD_OUT"] == RATE * SECONDS


def test_a_refusal_for_now_is_deferred_and_asked_again_unmarked() -> None:
    crowd = a_crowd(at(0))
    call, request = crowd.begin(0)
    crowd.answer(call, LATER, 1)
    assert not crowd.due(1 * NS)  # Retry-After: 1
    assert crowd.due(3 * NS)
    call, again = crowd.begin(3 * NS)
    assert again == request
    crowd.answer(call, held(), 4 * NS)
    visit = crowd.visits[0]
    assert (visit.outcome, visit.deferred, visit.tries) == (contract.SOLD, 1, 2)
    assert (visit.sent, visit.accepted, visit.decided) == (0, 4 * NS, 4 * NS)
    assert not crowd.open


def test_a_request_that_was_given_up_is_open_no_more() -> None:
    crowd = a_crowd(at(0), retry="storm")
    for moment in (0, 5 * NS, 10 * NS):
        call, _ = crowd.begin(moment)
        crowd.lose(call, moment + NS, was_sent=True)
    assert summary(crowd)["open_peak"] == 1


def test_an_error_took_nothing_on() -> None:
    crowd = a_crowd(at(0))
    call, _ = crowd.begin(0)
    crowd.answer(call, Answer(500, b"", None), 1)
    assert (crowd.visits[0].outcome, crowd.visits[0].accepted, crowd.visits[0].decided) == (contract.ERROR, NEVER, 1)


def test_whoever_storms_does_not_wait_to_be_told() -> None:
    crowd = a_crowd(at(0), retry="storm")
    call, _ = crowd.begin(0)
    assert call.until == NS
    crowd.answer(call, LATER, 1)
    assert crowd.due(NS // 5)


def test_a_retry_after_silence_is_marked() -> None:
    crowd = a_crowd(at(0))
    call, request = crowd.begin(0)
    assert call.until == TRY_NS
    crowd.lose(call, 1, was_sent=True)
    call, again = crowd.begin(crowd.next_due or 0)
    assert f"{wire.RETRY_HEADER}: 1\r\n".encode() in again
    assert again.replace(f"{wire.RETRY_HEADER}: 1\r\n".encode(), b"") == request
    crowd.lose(call, 2 * NS, was_sent=False)
    assert crowd.begin(crowd.next_due or 0)[0].mark == 1


def test_what_is_queued_is_followed_to_its_verdict() -> None:
    crowd = a_crowd(at(0))
    call, _ = crowd.begin(0)
    crowd.answer(call, queued(), 5)
    assert crowd.open == 1
    call, request = crowd.begin(crowd.next_due or 0)
    assert call.kind == FOLLOW
    assert b"GET /purchases/" in request
    assert b"r-1" in request
    crowd.answer(call, Answer(200, b'{"state":"QUEUED"}', None), FOLLOW_STEP_S * NS + 10)
    call, _ = crowd.begin(crowd.next_due or 0)
    crowd.answer(call, SOLD_OUT, 9 * NS)
    visit = crowd.visits[0]
    assert (visit.accepted, visit.decided, visit.outcome, visit.tries) == (5, 9 * NS, contract.SOLD_OUT, 1)


def test_a_receipt_that_leads_nowhere_is_put_in_again() -> None:
    crowd = a_crowd(at(0))
    call, _ = crowd.begin(0)
    crowd.answer(call, queued(), 5)
    now = 5
    while call.kind != BUY or call.mark == 0:
        now = max(now, crowd.next_due or 0)
        call, _ = crowd.begin(now)
        if call.kind == FOLLOW:
            crowd.answer(call, LATER, now)
    assert crowd.visits[0].tries == 2


def test_patience_ends() -> None:
    crowd = a_crowd(at(0, 0), patience_ns=NS)
    call, _ = crowd.begin(0)
    crowd.lose(call, NS, was_sent=True)
    assert not crowd.due(10 * NS)
    assert [outcome(crowd, seq) for seq in (0, 1)] == [contract.TIMEOUT, contract.UNSENT]
    assert not crowd.open


def test_an_answer_that_is_not_of_the_contract_is_an_error() -> None:
    crowd = a_crowd(at(0))
    call, _ = crowd.begin(0)
    crowd.answer(call, Answer(201, b"{}", None), 1)
    assert crowd.visits[0].outcome == contract.ERROR


@pytest.mark.parametrize("model", MODELS)
def test_equal_seeds_bring_equal_shoppers_in_order(model: str) -> None:
    load = Load(model=model, rate=200, rate_from=10, seconds=3, shoppers=500)
    plans = wishes(load, ["a", "b"], 7)
    assert plans == wishes(load, ["a", "b"], 7)
    assert plans != wishes(load, ["a", "b"], 8)
    intended = [plan.intended_ns for plan in plans]
    assert intended == sorted(intended)
    assert intended[0] >= 0
    assert intended[-1] <= 3 * NS
    assert len({(plan.buyer, plan.key) for plan in plans}) == len(plans)


def test_a_poisson_crowd_comes_at_its_rate_and_varies_as_one() -> None:
    load = Load(model="poisson", rate=1000, seconds=20)
    found = times(load, 3)
    per_second = [sum(second * NS <= t < (second + 1) * NS for t in found) for second in range(20)]
    assert abs(len(found) - 20_000) < 5 * 20_000**0.5
    mean = sum(per_second) / 20
    variance = sum((count - mean) ** 2 for count in per_second) / 19
    assert 0.3 < variance / mean < 2.5  # of a steady beat it is 0


def test_a_ramp_is_highest_in_the_middle() -> None:
    load = Load(model="ramp", rate=1000, rate_from=100, seconds=10)
    assert [rate_at(load, t) for t in (0, 2.5, 5, 10)] == [100, 550, 1000, 100]
    found = times(load, 3)
    thirds = [sum(low <= t / NS < low + 2 for t in found) for low in (0, 4, 8)]
    assert thirds[1] > 2 * max(thirds[0], thirds[2])


def test_the_peak_is_of_one_moment() -> None:
    assert peak([]) == 0
    assert peak([(0, 10), (10, 20)]) == 1
    assert peak([(0, 11), (10, 20), (5, 6)]) == 2
    assert peak([(0, NEVER), (100, 101), (200, NEVER)]) == 2


def test_an_answer_is_whole_or_none() -> None:
    whole = b"HTTP/1.1 503 Later\r\nRetry-After: 2\r\ncontent-length: 2\r\n\r\nok"
    assert parse(whole) == (Answer(503, b"ok", 2), False)
    assert all(parse(whole[:cut]) is None for cut in range(len(whole)))
    assert parse(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n") == (Answer(200, b"", None), True)


def test_over_sockets_nobody_waits_for_anybody_elses_answer() -> None:
    """A server that answers nobody until everybody has asked: a closed loop would wait for ever."""
    plans = at(*times(Load(model="constant", rate=1000, seconds=0.2), 1))
    crowd = a_crowd(plans)
    everybody = threading.Barrier(len(plans) + 1)
    body = SOLD_OUT.body
    reply = b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    def serve(sock: socket.socket) -> None:
        with sock:
            if sock.recv(65536):
                everybody.wait(PATIENCE_SECONDS)
                sock.sendall(reply)

    def accept(listener: socket.socket) -> None:
        for _ in plans:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
        everybody.wait(PATIENCE_SECONDS)

    with socket.create_server(("127.0.0.1", 0), backlog=len(plans)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        release = time.monotonic_ns()
        sockets = Sockets([listener.getsockname()], len(plans), lambda: time.monotonic_ns() - release)
        assert sockets.open(len(plans), PATIENCE_SECONDS) == len(plans)
        sockets.drive(crowd, round(PATIENCE_SECONDS * NS))
        sockets.close()
    found = summary(crowd)
    assert found["counts"]["SOLD_OUT"] == len(plans)
    assert found["open_peak"] == len(plans)
    assert all(visit.tries == 1 for visit in crowd.visits)


def test_a_generator_whose_run_was_stopped_sends_nobody_and_says_nothing_more(tmp_path: Path) -> None:
    """Armed, it waits for the release; and its input ends, as it does when whoever would tell it is gone."""
    spec = tmp_path / "load.json"
    load = Load(model="constant", rate=1, seconds=1, connections=3)
    with socket.create_server(("127.0.0.1", 0), backlog=load.connections) as listener:
        targets = f"http://127.0.0.1:{listener.getsockname()[1]}"
        given = {"load": asdict(load), "skus": ["a"], "seed": 1, "targets": targets, "folder": str(tmp_path)}
        spec.write_text(json.dumps(given), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.comparison.generate", str(spec)],
            cwd=REPOSITORY,
            env=python_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")
    assert [*json.loads(done.stdout)] == ["armed"]
    assert [*tmp_path.iterdir()] == [spec]
