# Several workers behind one port: replaced under load without a failed request, killed, and gone with their parent.
import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.balanced import Balancer, Client, Message, Upstream, balanced, ok
from tests.patience import PATIENCE_SECONDS

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
# Without a key, so that nothing of it is ever sent again: whatever is lost is seen.
POST = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n\r\nbody"
TURNS = int(os.environ.get("FLASH_TEST_LB_TURNS", "3"))  # of each kind; 20 takes about two minutes
SHOPPERS = 16


@dataclass
class Load:
    """Well-behaved clients, one request after another: who is told that a connection ends makes another one."""

    asked: int = 0
    failed: list[str] = field(default_factory=list)
    connections: int = 0

    async def shop(self, balancer: Balancer) -> None:
        client: Client | None = None
        while True:
            try:
                if client is None:
                    client = await balancer.client()
                    self.connections += 1
                self.asked += 1
                answer = await client.ask(POST)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failed.append(repr(error))
                client = None
                continue
            if answer.status != 200:
                self.failed.append(f"{answer.first} {answer.body!r}")
            if answer.fields.get("connection") == "close":
                client.leave()
                client = None


@contextlib.asynccontextmanager
async def loaded(balancer: Balancer) -> AsyncIterator[Load]:
    """Clients at work, once each has had its first answers; they finish what they asked."""
    load = Load()
    shoppers = [asyncio.create_task(load.shop(balancer)) for _ in range(SHOPPERS)]
    await balancer.until(lambda: _true(load.asked > 5 * SHOPPERS))
    yield load
    for shopper in shoppers:
        shopper.cancel()
    await asyncio.gather(*shoppers, return_exceptions=True)


async def _true(value: bool) -> bool:  # noqa: FBT001 - it is what it is
    return value


async def is_at_rest(balancer: Balancer) -> bool:
    """Does nobody have anything in hand, by what each worker says and by what all of them can read of each other?"""
    stats = await balancer.stats()
    held = [*stats["servers"], *(stats["in_hand"] or {}).values()]
    return all(server["active"] == server["streams"] == 0 for server in held)


async def ask_until_told(client: Client) -> None:
    """Ask until an answer says that it is the last: within a moment of the answer that was owed."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (answer := await client.ask(GET)).fields.get("connection") != "close":
            assert answer.status == 200
    assert answer.status == 200
    assert await client.rest() == b""


async def has_retired(balancer: Balancer) -> bool:
    """Has an old worker seen to its clients?"""
    return any(line["event"] == "worker.retiring" for line in balancer.said)


async def replaced(balancer: Balancer, before: list[int]) -> list[int]:
    """The workers, once none is one of ``before`` and none of those is left."""

    async def is_done() -> bool:
        workers = (await balancer.stats())["workers"]
        return len(workers) == len(before) and not {worker["pid"] for worker in workers} & set(before)

    await balancer.until(is_done)
    return await balancer.workers()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_reloads_and_rolling_restarts_under_load_fail_no_request(workers: str) -> None:
    servers = [Upstream(name) for name in "ab"]
    async with balanced(*servers, LB_WORKERS=workers) as balancer:
        async with loaded(balancer) as load:
            for how in ("/reload", "/restart"):
                for _ in range(TURNS):
                    before, asked = await balancer.workers(), load.asked
                    assert len(before) == int(workers)
                    assert (await balancer.admin(how)).status == 200
                    await replaced(balancer, before)
                    await balancer.until(lambda asked=asked: _true(load.asked > asked + SHOPPERS))  # type: ignore[misc]
        assert load.failed == []
        assert load.connections > SHOPPERS  # or nobody was told to go
        for client in balancer.clients:
            client.leave()
        await balancer.until(lambda: is_at_rest(balancer))

        # What the workers that have ended had counted is still counted; a request that was given up is, or is not.
        async def is_counted() -> bool:
            counted = await balancer.metric("loadbalancer_requests_total")
            assert counted <= load.asked
            return counted >= load.asked - SHOPPERS  # a worker that is slow to answer is known by what it told before

        await balancer.until(is_counted)
        stats = await balancer.stats()
        assert stats["reloads"] == TURNS


async def test_signals_reload_and_restart_too() -> None:
    async with balanced(Upstream("a")) as balancer:
        for number, event in ((signal.SIGHUP, "reload.done"), (signal.SIGUSR2, "restart.done")):
            before = await balancer.workers()
            balancer.child.send_signal(number)
            await replaced(balancer, before)
            await balancer.until(lambda event=event: _true(event in {line["event"] for line in balancer.said}))  # type: ignore[misc]


async def test_an_idle_client_of_an_old_worker_is_told_to_go_with_its_next_answer_and_not_before() -> None:
    async with balanced(Upstream("a")) as balancer:
        idle = await balancer.client()
        assert (await idle.ask(GET)).fields.get("connection") is None
        before = await balancer.workers()
        assert (await balancer.admin("/reload")).status == 200
        assert await balancer.workers("retiring") == before
        await balancer.until(lambda: has_retired(balancer))
        last = await idle.ask(GET)
        assert (last.status, last.fields["connection"]) == (200, "close")
        assert await idle.rest() == b""
        await replaced(balancer, before)


async def test_an_answer_that_has_begun_without_saying_so_is_not_the_last_on_its_connection() -> None:
    server = Upstream("a")
    go = asyncio.Event()

    async def answer(request: Message, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.target == "/slow":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
            await go.wait()
            writer.write(b"lf")
        else:
            writer.write(ok(b"whole"))

    server.answer = answer
    async with balanced(server) as balancer:
        client = await balancer.client()
        client.writer.write(b"GET /slow HTTP/1.1\r\nHost: shop\r\n\r\n")
        begun = await client.reader.readuntil(b"ha")
        assert b"Connection: close" not in begun
        before = await balancer.workers()
        await balancer.admin("/reload")
        assert await balancer.workers("retiring") == before
        await balancer.until(lambda: has_retired(balancer))
        go.set()
        assert await client.reader.readexactly(2) == b"lf"
        await ask_until_told(client)
        await replaced(balancer, before)


async def test_the_streams_of_an_old_worker_end_within_its_grace() -> None:
    server = Upstream("a")

    async def answer(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await writer.drain()
        await asyncio.Event().wait()

    server.answer = answer
    async with balanced(server, LB_GRACE="1") as balancer:
        stream = await balancer.client()
        stream.writer.write(GET)
        await stream.reader.readuntil(b"data: 1\n\n")
        before = await balancer.workers()
        await balancer.admin("/reload")
        with pytest.raises(ConnectionResetError):  # not an end that could be taken for the stream's own
            await stream.rest()
        await replaced(balancer, before)
        await balancer.until(lambda: is_at_rest(balancer))


# What is wrong with the new leaves the old as they were.


async def test_a_reload_takes_what_the_file_says_now(tmp_path: Path) -> None:
    servers = [await Upstream(name).start() for name in "ab"]
    a, b = (f'"{server.name}=127.0.0.1:{server.port}"' for server in servers)
    path = tmp_path / "lb.toml"
    path.write_text(f"servers = [{a}]\n", encoding="utf-8")
    async with balanced(*servers, LB_SERVERS="", LB_CONFIG=str(path)) as balancer:
        assert await balancer.states() == {"a": "up"}
        path.write_text(f'servers = [{a}, {b}]\nalgorithm = "least_connections"\n', encoding="utf-8")
        assert (await balancer.admin("/reload")).status == 200
        assert await balancer.states() == {"a": "up", "b": "up"}
        assert (await balancer.stats())["algorithm"] == "least_connections"
        await balancer.admin("/servers/b/drain")
        assert (await balancer.admin("/reload")).status == 200
        # Somebody took it out by hand, and a reload is no reason to put it back.
        assert await balancer.states() == {"a": "up", "b": "draining"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('algorithm = "random"', "algorithm is 'random'; allowed: round_robin"),
        ("workers = 2", "LB_WORKERS is '2'; allowed at a reload: what it was at the start, '1'"),
        ("retrys = 1", "retrys is not a setting; did you mean retries?"),
    ],
)
async def test_a_reload_of_something_wrong_is_refused_aloud_and_changes_nothing(
    tmp_path: Path, line: str, problem: str
) -> None:
    server = await Upstream("a").start()
    path = tmp_path / "lb.toml"
    good = f'servers = ["a=127.0.0.1:{server.port}"]\n'
    path.write_text(good, encoding="utf-8")
    async with balanced(server, LB_SERVERS="", LB_CONFIG=str(path)) as balancer:
        before = await balancer.workers()
        path.write_text(good + line + "\n", encoding="utf-8")
        refused = await balancer.admin("/reload")
        assert refused.status == 422
        told = refused.body.decode().rstrip()
        assert problem in told

        async def is_said() -> bool:
            return any((line["event"], line.get("problem")) == ("reload.refused", told) for line in balancer.said)

        await balancer.until(is_said)
        assert await balancer.workers() == before
        assert (await balancer.ask(GET)).status == 200


async def test_a_new_worker_knows_from_the_old_one_which_servers_are_down() -> None:
    servers = [Upstream(name) for name in "ab"]
    async with balanced(*servers) as balancer:
        await servers[0].kill()

        async def is_down() -> bool:
            return await balancer.states() == {"a": "down", "b": "up"}

        await balancer.until(is_down)
        assert (await balancer.admin("/restart")).status == 200
        assert await is_down()
        await servers[0].start()
        await balancer.until(lambda: is_up(balancer, "a"))


async def is_up(balancer: Balancer, name: str) -> bool:
    return (await balancer.states())[name] == "up"


# Deaths.


async def test_a_killed_worker_takes_nothing_with_it_but_its_own_requests() -> None:
    servers = [Upstream(name) for name in "ab"]
    async with balanced(*servers, LB_WORKERS="2") as balancer:
        async with loaded(balancer) as load:
            first, second = await balancer.workers()
            os.kill(first, signal.SIGKILL)

            async def is_back() -> bool:
                workers = await balancer.workers()
                return len(workers) == 2 and first not in workers

            await balancer.until(is_back)
            assert second in await balancer.workers()
            asked = load.asked
            await balancer.until(lambda: _true(load.asked > asked + 5 * SHOPPERS))
        assert len(load.failed) <= SHOPPERS, load.failed
        for client in balancer.clients:
            client.leave()
        await balancer.until(lambda: is_at_rest(balancer))


async def any_way_out(request: Message, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    match request.target:
        case "/held" | "/late":
            await asyncio.Event().wait()
        case "/stream":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            await writer.drain()
            await asyncio.Event().wait()
        case "/half":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nha")
            writer.close()
        case "/lost":
            writer.close()
        case "/wrong":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
        case target:
            writer.write(ok(target.encode()))


def asked(target: str) -> bytes:
    return f"POST {target} HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\n\r\n".encode()


async def test_what_is_in_hand_is_shared_exactly_and_nothing_after_every_way_out() -> None:
    server = Upstream("a")
    server.answer = any_way_out
    # "/late" must be given up soon, and "/held" not before it was seen: two balancers.
    async with balanced(server, LB_WORKERS="2", LB_RESPONSE_TIMEOUT="0.5") as hasty:
        assert {(await hasty.ask(asked("/late"))).status for _ in range(4)} == {504}
        await hasty.until(lambda: is_at_rest(hasty))
    await server.start()
    async with balanced(server, LB_WORKERS="2", LB_RESPONSE_TIMEOUT="300") as balancer:
        for target, status in (("/ok", 200), ("/lost", 502), ("/wrong", 502)):
            assert {(await balancer.ask(asked(target))).status for _ in range(4)} == {status}
        for _ in range(4):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await balancer.ask(asked("/half"))
        assert {(await balancer.ask(b"POST / HTTP/9.1\r\n\r\n")).status for _ in range(4)} == {505}
        held = [await balancer.client() for _ in range(12)]
        for number, client in enumerate(held):
            client.writer.write(asked("/stream" if number % 3 == 0 else "/held"))

        async def is_held(active: int, streams: int) -> bool:
            stats = await balancer.stats()
            # one that is just being started has told nothing yet
            told = [worker["report"]["servers"]["a"] for worker in stats["workers"] if worker["report"]]
            shown = [(sum(one["active"] for one in told), sum(one["streams"] for one in told))]
            shown.append((stats["in_hand"]["a"]["active"], stats["in_hand"]["a"]["streams"]))
            return shown == [(active, streams)] * 2

        await balancer.until(lambda: is_held(8, 4))
        for client in held[:3]:  # a stream and two requests
            client.leave()
        await balancer.until(lambda: is_held(6, 3))
        first, second = await balancer.workers()
        [left] = [
            worker["report"]["servers"]["a"]
            for worker in (await balancer.stats())["workers"]
            if worker["pid"] == second
        ]
        os.kill(first, signal.SIGKILL)
        await balancer.until(lambda: is_held(left["active"], left["streams"]))
        for client in held:
            client.leave()
        await balancer.until(lambda: is_at_rest(balancer))


async def test_a_killed_parent_leaves_no_worker() -> None:
    balancing = balanced(Upstream("a"), LB_WORKERS="2")
    balancer = await balancing.__aenter__()
    try:
        workers = [psutil.Process(pid) for pid in await balancer.workers()]
        assert len(workers) == 2
        balancer.child.kill()
        await balancer.until(lambda: _true(not any(map(is_alive, workers))))
    finally:
        with pytest.raises(AssertionError):  # killed is no good end
            await balancing.__aexit__(None, None, None)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_two_balancers_do_not_share_a_port(workers: str) -> None:
    async with balanced(Upstream("a"), LB_WORKERS=workers) as balancer:
        with pytest.raises(AssertionError, match="Address already in use"):
            async with balanced(Upstream("b"), LB_WORKERS="2", LB_PORT=str(balancer.port)):
                pass
        assert {(await balancer.ask(GET)).body for _ in range(8)} == {b"a"}
