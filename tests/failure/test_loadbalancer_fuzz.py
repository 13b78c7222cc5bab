# Attacks by chance, for as long as --fuzz-seconds says: no crash, no hang, and no request that a strict reader would not take.
import itertools
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from tests import fuzzing, oracle
from tests.attacks import BODY_MAX
from tests.balanced import Balancer, balanced
from tests.recorder import END, FILLER, Recorder, answers, deliver
from tests.scripted import Script

SHRINKS_MAX = 400
BALANCER = {"LB_BODY_MAX": str(BODY_MAX), "LB_CHECK_INTERVAL": "3600", "LB_POOL_TIMEOUT": "3600"}
LINK = "GET /,POST /p,GET /smuggled"  # for what comes whole and alone


async def try_out(pieces: Sequence[bytes], balancer: Balancer, server: Recorder) -> str:
    """Send it and judge what came of it. One word for that."""
    server.forget()
    said = await deliver(balancer.port, [*pieces, END + FILLER])
    allowed, closes = oracle.requests(b"".join(pieces) + END + FILLER)
    passed = server.requests
    assert passed == allowed[: len(passed)], "a server saw what a strict reader would not take"
    assert [stream.malformed for stream in server.streams if stream.malformed is not None] == []
    methods = [method for method, _, _ in passed]
    heard, rest = answers(said, methods)
    if rest:  # what is refused may have been a HEAD, and then so is the refusal
        heard, rest = answers(said, [*methods, b"HEAD"])
    assert rest == b""
    words = [b"" if method == b"HEAD" else method + b" " + target for method, target, _ in passed]
    good = heard[: len(passed)]
    assert [(answer.status, answer.body) for answer in good] == [(200, word) for word in words], (
        "somebody else's answer"
    )
    if len(passed) == len(allowed) and closes:
        assert heard == good
        return "passed"
    (refusal,) = heard[len(passed) :]
    assert 400 <= refusal.status < 506
    assert refusal.status != 502
    assert refusal.fields[b"connection"] == b"close"
    return "refused" if len(passed) == len(allowed) else "refused what might pass"


async def shrink(pieces: Sequence[bytes], balancer: Balancer, server: Recorder) -> list[bytes]:
    """Less of it that is still judged so, found by leaving out."""
    data = b"".join(pieces)
    step, tries = len(data) // 2, 0
    while step and tries < SHRINKS_MAX:
        at = 0
        while at < len(data) and tries < SHRINKS_MAX:
            less, tries = data[:at] + data[at + step :], tries + 1
            try:
                await try_out([less], balancer, server)
                at += step
            except (AssertionError, ValueError):
                data = less
        step //= 2
    return [data]


async def test_no_attack_by_chance_comes_through(request: pytest.FixtureRequest) -> None:
    seconds, seed = request.config.getoption("--fuzz-seconds"), request.config.getoption("--fuzz-seed")
    server = await Recorder("a").start()
    told: Counter[str] = Counter()
    async with balanced(server, LB_LINK=LINK, LB_REPLAY_SAFE=LINK, **BALANCER) as balancer:
        end = time.monotonic() + seconds
        for number in itertools.count():
            if time.monotonic() > end and number >= 100:
                break
            pieces = fuzzing.case(seed, number)
            try:
                told[await try_out(pieces, balancer, server)] += 1
            except (AssertionError, ValueError, TimeoutError) as error:
                less = await shrink(pieces, balancer, server) if not isinstance(error, TimeoutError) else pieces
                raise AssertionError(f"--fuzz-seed {seed}, case {number}: {pieces}; enough of it: {less}") from error
    print(f"{sum(told.values())} cases: {dict(told)}")  # noqa: T201 - for who asked for many
    assert {"passed", "refused"} <= told.keys()


async def listen(said: bytes, balancer: Balancer, server: Script, *, ends: bool) -> str:
    """Ask a server that says this, and afterwards for the end, on one connection; judge what came of it."""
    server.play([said], closes=ends)
    heard, rest = answers(await deliver(balancer.port, [b"GET /hostile HTTP/1.1\r\nHost: shop\r\n\r\n" + END]))
    allowed = oracle.answer(said, ends=ends)
    if rest or not heard:
        assert heard == [], "an answer before half a one"
        assert server.brought(b"/end") == [], "an answer behind half a one"
        return "cut"
    first, last = heard
    assert (last.status, last.body) == (200, b"/end"), "somebody else's answer"
    if first.status == 502 and first.body.startswith(b'{"type": "/problems/unknown"'):
        return "refused what might pass" if allowed else "refused"
    assert (first.status, first.body) == allowed
    return "passed"


async def test_no_answer_by_chance_is_taken_for_what_it_is_not(request: pytest.FixtureRequest) -> None:
    seconds, seed = request.config.getoption("--fuzz-seconds"), request.config.getoption("--fuzz-seed")
    server = await Script().start()
    told: Counter[str] = Counter()
    async with balanced(server, LB_RETRY_BUDGET="100", **BALANCER) as balancer:
        end = time.monotonic() + seconds
        for number in itertools.count():
            if time.monotonic() > end and number >= 100:
                break
            said = fuzzing.answer(seed, number)
            # one that says half an answer and no more would be waited for
            ends = number % 4 == 0 or oracle.answer(said, ends=False) is None
            try:
                told[await listen(said, balancer, server, ends=ends)] += 1
            except (AssertionError, ValueError, TimeoutError) as error:
                raise AssertionError(f"--fuzz-seed {seed}, answer {number}: {said!r}, ends: {ends}") from error
    print(f"{sum(told.values())} answers: {dict(told)}")  # noqa: T201 - for who asked for many
    assert {"passed", "refused", "cut"} <= told.keys()
