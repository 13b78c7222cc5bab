# What an operator changes while requests are being worked on, through `./flash lb`: in all workers, and in those that come later.
import asyncio
import json
import os
import signal
import sys
from collections import Counter
from typing import Any

import pytest

from flashsale.settings import REPOSITORY
from flashsale.stack.exits import Exit
from tests.balanced import Balancer, Message, Upstream, balanced, ok
from tests.patience import PATIENCE_SECONDS

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"


async def lb(balancer: Balancer, *words: str) -> tuple[int, str, str]:
    """`./flash lb …` for this balancer: its exit code, and what it printed to whom."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(REPOSITORY / "flash"),
        "lb",
        *words,
        "--socket",
        str(balancer.socket),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY / "src")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        out, err = await child.communicate()
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


async def done(balancer: Balancer, *words: str) -> dict[str, Any]:
    """What the balancer says of itself after it."""
    code, out, err = await lb(balancer, *words, "--json")
    assert (code, err) == (Exit.OK, "")
    found: dict[str, Any] = json.loads(out)
    return found


async def shares(balancer: Balancer, number: int) -> Counter[str]:
    """Who answers so many requests."""
    return Counter([(await balancer.ask(GET)).body.decode() for _ in range(number)])


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_servers_come_and_go_and_weigh_more_by_hand(workers: str) -> None:
    a, b, spare = [await Upstream(name).start() for name in ("a", "b", "spare")]
    async with balanced(a, b, LB_WORKERS=workers) as balancer:
        try:
            stats = await done(balancer, "add", f"spare=127.0.0.1:{spare.port}*2")
            assert [server["name"] for server in stats["servers"]] == ["a", "b", "spare"]
            await balancer.until(lambda: is_up(balancer, "spare"))
            assert (await shares(balancer, 24))["spare"] > 0
            await done(balancer, "remove", "a")
            await done(balancer, "remove", "b")
            assert await shares(balancer, 8) == {"spare": 8}
            assert (await balancer.states()).keys() == {"spare"}
            # A worker that comes later is told the same.
            [first, *_] = await balancer.workers()
            os.kill(first, signal.SIGKILL)
            await balancer.until(lambda: has_left(balancer, first))
            assert (await balancer.states()).keys() == {"spare"}
            await done(balancer, "restart")
            assert await shares(balancer, 8) == {"spare": 8}
            # A reload makes the configuration true again.
            await done(balancer, "reload")
            assert (await balancer.states()).keys() == {"a", "b"}
        finally:
            await spare.kill()


async def is_up(balancer: Balancer, name: str) -> bool:
    return (await balancer.states())[name] == "up"


async def has_left(balancer: Balancer, pid: int) -> bool:
    workers = await balancer.workers()
    return bool(workers) and pid not in workers


async def test_weights_and_the_algorithm_count_from_the_next_request_on() -> None:
    async with balanced(Upstream("a"), Upstream("b")) as balancer:
        assert await shares(balancer, 8) == {"a": 4, "b": 4}
        stats = await done(balancer, "weight", "a", "3")
        assert {server["name"]: server["weight"] for server in stats["servers"]} == {"a": 3, "b": 1}
        assert await shares(balancer, 8) == {"a": 6, "b": 2}
        assert (await done(balancer, "algorithm", "consistent_hash"))["algorithm"] == "consistent_hash"

        async def is_one() -> bool:  # one address, one server, from when its table is made: until then they take turns
            return len(await shares(balancer, 8)) == 1

        await balancer.until(is_one)


async def test_a_limit_of_a_server_is_kept_by_all_workers_together() -> None:
    server = Upstream("a")
    go = asyncio.Event()

    async def answer(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(ok(b"a"))

    server.answer = answer
    async with balanced(server, LB_WORKERS="2", LB_QUEUE_TIMEOUT="300") as balancer:
        await done(balancer, "maxconn", "a", "3")
        clients = [await balancer.client() for _ in range(40)]
        for client in clients:
            client.writer.write(GET)

        async def is_full() -> bool:  # by the server: the balancer counts a request before there is a connection for it
            return len(server.requests) >= 3

        await balancer.until(is_full)
        await asyncio.sleep(0.2)  # time for what must not come
        assert len(server.requests) == 3
        go.set()
        answers = [await client.answer() for client in clients]
        assert {answer.status for answer in answers} == {200}


async def test_what_is_wrong_ends_with_a_code_of_its_own_and_says_why() -> None:
    async with balanced(Upstream("a")) as balancer:
        for words, wanted, why in (
            (("drain", "z"), Exit.USAGE, "no server is named 'z'; there are a"),
            (("weight", "a", "0"), Exit.USAGE, "weight is '0'; allowed: a whole number, 1 to 256"),
            (("add", "a=h:1"), Exit.USAGE, "a server is named 'a' already"),
            (("add", "a b"), Exit.USAGE, "'a b' is not a server; allowed: [name=]host:port[/path][*weight]"),
            (("remove", "a"), Exit.USAGE, "'a' is the last server"),
            (("algorithm", "least_connection"), Exit.USAGE, "did you mean least_connections?"),
            (("weight", "a"), Exit.USAGE, "the following arguments are required: N"),
            (("grow",), Exit.USAGE, "invalid choice: 'grow'"),
        ):
            ended, out, err = await lb(balancer, *words)
            assert (ended, out) == (wanted, ""), words
            assert why in err
        code, out, _ = await lb(balancer, "show")
        assert code == Exit.OK
        assert "round_robin" in out
        address = (await balancer.stats())["servers"][0]["address"]
        assert ["a", address, "up"] in [line.split()[:3] for line in out.splitlines()]
        balancer.terminate()
        await balancer.child.wait()
        code, _, err = await lb(balancer, "show")
        assert code == Exit.MISSING
        assert "start it with `./flash up`" in err
