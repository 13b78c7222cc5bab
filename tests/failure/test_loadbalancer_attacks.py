# Every attack of the table through real sockets: what a recording server sees of it, and what its sender hears.
import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice

import pytest

from tests.attacks import ATTACKS, BODY_MAX, CLIENTS_NUMBER, Attack
from tests.balanced import PROBLEM, Balancer, balanced
from tests.recorder import END, ENDED, Recorder, answers, deliver

BALANCER = {"LB_BODY_MAX": str(BODY_MAX), "LB_CHECK_INTERVAL": "3600", "LB_POOL_TIMEOUT": "3600"}
OURS = set(
    b"host content-length transfer-encoding expect via x-forwarded-for x-forwarded-proto x-request-id link-sequence".split()
)
CLIENTS = {b"x", b"e", b"a", b"b", b"c", b"x-foo"}  # fields of the table's that are no matter of the connection
SEED = 41
SPLITS = 3  # of each attack; of the generated ones, one
WHOLE = 2  # ways to send it in one piece
EVERYWHERE = {1, 2, 3, 11, 23}  # rows that are split at every byte here too


def ways(attack: Attack) -> Iterator[Sequence[bytes]]:
    """In one piece, alone or with a last request behind it that tells whether the connection went on; and in two pieces, cut
    somewhere or everywhere.
    """
    data = attack.data if attack.waits else attack.data + END
    yield [data]
    yield [attack.data, data[len(attack.data) :]]  # what comes whole and alone is read another way
    chance = random.Random(f"{SEED} {attack.row} {attack.name} {len(attack.data)}")
    cuts = [chance.randrange(1, min(len(attack.data), 20_000)) for _ in range(1 if attack.row == 8 else SPLITS)]
    for cut in range(1, len(attack.data)) if attack.row in EVERYWHERE else cuts:
        yield [data[:cut], data[cut:]]


async def try_out(
    attack: Attack, pieces: Sequence[bytes], balancer: Balancer, server: Recorder, *, is_linked: bool
) -> None:
    """Send it and judge what came of it."""
    server.forget()
    goes_on = attack.refused is None and not attack.waits and not attack.closes
    passes = [*attack.passes, *[ENDED] * goes_on]
    said = await deliver(balancer.port, pieces, leaves=attack.waits)
    heard, rest = answers(said, [method for method, _, _ in passes])
    assert rest == b""
    assert server.requests == passes
    assert [stream.malformed for stream in server.streams if stream.malformed is not None] == []
    for seen in server.seen:
        assert {name for name, _ in seen.fields} <= OURS | CLIENTS
        assert len(seen.values(b"link-sequence")) <= is_linked
        assert seen.values(b"link-sequence") != [CLIENTS_NUMBER]
        assert (len(seen.values(b"host")), len(seen.values(b"via"))) == (1, 1)
        assert seen.values(b"x-forwarded-for") == [b"127.0.0.1"]
    good = heard[: len(passes)]
    words = [b"" if method == b"HEAD" else method + b" " + target for method, target, _ in passes]
    assert [(answer.status, answer.body) for answer in good] == [(200, word) for word in words]
    if attack.refused is None:
        assert heard == good
        return
    refusal = heard[-1]
    assert heard[:-1] == good
    assert (refusal.status, refusal.fields[b"connection"]) == (attack.refused, b"close")
    assert refusal.fields[b"content-type"] == PROBLEM.encode()
    problem = json.loads(refusal.body)
    assert (problem["status"], bool(problem["detail"])) == (attack.refused, True)


@pytest.mark.parametrize("link", ["none", "GET /,POST /p,GET /smuggled,DELETE /p"], ids=["a pool", "a link"])
async def test_no_attack_reaches_a_server_and_everything_else_does_whole(link: str) -> None:
    server = await Recorder("a").start()
    most = None if link == "none" else WHOLE  # what comes in two pieces is not for a link
    environ = {**BALANCER, "LB_LINK": link, "LB_REPLAY_SAFE": link}
    async with balanced(server, **environ) as balancer:
        for attack in ATTACKS:
            for pieces in islice(ways(attack), most):
                try:
                    await try_out(attack, pieces, balancer, server, is_linked=link != "none")
                except AssertionError as error:
                    raise AssertionError(f"{attack.row} {attack.name}: {[piece[:300] for piece in pieces]}") from error
        refused = sum(attack.refused is not None for attack in ATTACKS for _ in islice(ways(attack), most))
        assert await balancer.metric("loadbalancer_refused_total") == refused
        assert (await balancer.metric("loadbalancer_link_requests_total") > 0) is (link != "none")
