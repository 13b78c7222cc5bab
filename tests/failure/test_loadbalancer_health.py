# A server that answers its checks and fails its requests; one that comes back; one that says how it is.
import asyncio
import contextlib
import json
from collections import Counter

import pytest

from tests.balanced import Balancer, Message, Upstream, balanced, ok

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
LONG = "3600"
FOR_LONG = {"LB_EJECT_TIME": LONG, "LB_EJECT_TIME_MAX": LONG}


class Answers:
    """With one status, until it is told another; 0 breaks the connection, -1 says nothing, 1 is a stream that is cut."""

    def __init__(self, server: Upstream, status: int) -> None:
        self.status = status
        self.cut = asyncio.Event()
        self._name = server.name.encode()
        server.answer = self

    async def __call__(self, _: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.status == 0:
            writer.transport.abort()
        elif self.status < 0:
            await reader.read()
        elif self.status == 1:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            writer.write(head + b"9\r\ndata: 1\n\n\r\n")
            await writer.drain()
            await self.cut.wait()
            writer.transport.abort()
        elif self.status == 502:
            writer.write(b"HTTP/1.1 502 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n%b\r\n0\r\n\r\n" % self._name)
        else:
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 1\r\n\r\n%b" % (self.status, self._name))


class Checked(Upstream):
    """Answers its checks as a test wants."""

    def __init__(self, name: str, *fields: bytes) -> None:
        super().__init__(name)
        self.fields = fields
        self.is_good = True
        self.checks = 0

    def check(self) -> bytes:
        self.checks += 1
        return ok(b"", *self.fields) if self.is_good else b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"


async def server_of(balancer: Balancer, name: str) -> dict[str, object]:
    servers: list[dict[str, object]] = json.loads((await balancer.ops("/servers")).body)
    return next(server for server in servers if server["name"] == name)


async def becomes(balancer: Balancer, name: str, state: str) -> None:
    async def is_so() -> bool:
        return (await balancer.states())[name] == state

    await balancer.until(is_so)


async def fails_until_ejected(balancer: Balancer, name: str) -> list[int]:
    statuses = []
    while await balancer.metric("loadbalancer_ejections_total", server=name) == 0:
        statuses.append((await balancer.ask(GET)).status)
        assert len(statuses) < 50
    return statuses


async def test_a_server_that_fails_its_requests_is_ejected_and_comes_back_by_a_check() -> None:
    servers = [Upstream("a"), Upstream("b")]
    async with balanced(*servers, LB_EJECT_ERRORS="3", LB_EJECT_TIME="0.1") as balancer:
        failing = Answers(servers[0], 500)
        statuses = await fails_until_ejected(balancer, "a")
        assert Counter(statuses)[500] == 3, "which are enough"
        failing.status = 200
        await becomes(balancer, "a", "up")
        assert {(await balancer.ask(GET)).body for _ in range(4)} == {b"a", b"b"}


async def test_who_is_ejected_gets_nothing_while_its_time_has_not_passed() -> None:
    servers = [Upstream("a"), Upstream("b")]
    async with balanced(*servers, LB_EJECT_ERRORS="3", **FOR_LONG) as balancer:
        Answers(servers[0], 502)
        await fails_until_ejected(balancer, "a")
        found = await server_of(balancer, "a")
        assert (found["state"], found["reason"]) == ("ejected", "answered 502")
        assert await balancer.metric("loadbalancer_server_ejected", server="a") == 1
        before = len(servers[0].requests)
        assert {(await balancer.ask(GET)).body for _ in range(10)} == {b"b"}
        assert len(servers[0].requests) == before
        assert await balancer.metric("loadbalancer_server_up", server="a") == 1, "its checks are good"


@pytest.mark.parametrize("status", [0, -1])
async def test_lost_and_late_answers_are_failures_too(status: int) -> None:
    servers = [Upstream("a"), Upstream("b")]
    async with balanced(*servers, LB_EJECT_ERRORS="3", LB_RESPONSE_TIMEOUT="3", **FOR_LONG) as balancer:
        Answers(servers[0], status)
        await fails_until_ejected(balancer, "a")
        await becomes(balancer, "a", "ejected")


async def test_kept_connections_that_a_server_in_good_health_closes_are_no_failures() -> None:
    servers = [Upstream("a"), Upstream("b")]
    async with balanced(*servers, LB_EJECT_ERRORS="1", **FOR_LONG) as balancer:
        answers = Answers(servers[0], 200)
        client = await balancer.client()
        for _ in range(3):
            answers.status = 200
            assert {(await client.ask(GET)).body for _ in range(2)} == {b"a", b"b"}
            answers.status = 0  # on the connection that was kept
            assert {(await client.ask(GET)).body for _ in range(2)} == {b"b"}
        assert await balancer.metric("loadbalancer_lost_total", server="a") == 3
        assert await balancer.states() == {"a": "up", "b": "up"}


async def test_streams_that_are_cut_are_no_failures() -> None:
    servers = [Upstream("a"), Upstream("b")]
    async with balanced(*servers, LB_EJECT_ERRORS="1", **FOR_LONG) as balancer:
        answers = [Answers(server, 1) for server in servers]
        viewers = [await balancer.client() for _ in range(6)]
        for viewer in viewers:
            viewer.writer.write(GET)
            await viewer.reader.readuntil(b"data: 1\n\n")
        for answer in answers:
            answer.cut.set()
        for viewer in viewers:
            with contextlib.suppress(ConnectionResetError):
                await viewer.rest()
        assert await balancer.metric("loadbalancer_lost_total") == 6
        assert await balancer.states() == {"a": "up", "b": "up"}


async def test_refusals_never_eject_nor_does_what_a_store_away_makes_every_server_say() -> None:
    servers = [Upstream("a"), Upstream("b")]
    async with balanced(*servers, LB_EJECT_ERRORS="1", **FOR_LONG) as balancer:
        answers = Answers(servers[0], 409)
        client = await balancer.client()
        for status in (409, 429, 404, 503, 501):
            answers.status = status
            seen = [(await client.ask(GET)).status for _ in range(20)]
            assert Counter(seen) == {200: 10, status: 10}
        assert await balancer.states() == {"a": "up", "b": "up"}
        answers.status = 500
        await fails_until_ejected(balancer, "a")


async def test_when_all_fail_one_stays_and_if_that_one_is_down_the_ejected_serve() -> None:
    servers = [Upstream(name) for name in "ab"]
    async with balanced(*servers, LB_EJECT_ERRORS="1", **FOR_LONG) as balancer:
        failing = {server.name: Answers(server, 500) for server in servers}
        client = await balancer.client()
        assert [(await client.ask(GET)).status for _ in range(6)] == [500] * 6
        assert await balancer.states() == {"a": "ejected", "b": "up"}
        failing["a"].status = 200
        await servers[1].kill()

        async def serves() -> bool:
            return (await client.ask(GET)).body == b"a"

        await balancer.until(serves)
        await becomes(balancer, "b", "down")
        assert (await balancer.states())["a"] == "ejected", "it serves for want of a better one"


async def test_who_comes_back_begins_with_a_little() -> None:
    servers = [Checked("a"), Checked("b")]
    limits = {"LB_SLOW_START": LONG, "LB_MAXCONN": "100"}
    async with balanced(*servers, **limits) as balancer:
        assert [(await server_of(balancer, name))["percent"] for name in "ab"] == [100, 100], "never at the start"
        servers[0].is_good = False
        await becomes(balancer, "a", "down")
        servers[0].is_good = True
        await becomes(balancer, "a", "up")
        assert await balancer.metric("loadbalancer_server_percent", server="a") == 10
        client = await balancer.client()
        seen = Counter([(await client.ask(GET)).body for _ in range(110)])
        assert seen == {b"a": 10, b"b": 100}


async def test_a_slow_start_has_an_end() -> None:
    servers = [Checked("a"), Checked("b")]
    async with balanced(*servers, LB_SLOW_START="1") as balancer:
        servers[0].is_good = False
        await becomes(balancer, "a", "down")
        servers[0].is_good = True

        async def is_warm() -> bool:
            found = await server_of(balancer, "a")
            return (found["state"], found["percent"]) == ("up", 100)

        await balancer.until(is_warm)


async def test_a_server_says_how_much_it_can_carry_and_that_it_is_leaving() -> None:
    servers = [Checked("a", b"LB-Weight: 50"), Checked("b")]
    async with balanced(*servers) as balancer:

        async def is_heard() -> bool:
            return (await server_of(balancer, "a"))["percent"] == 50

        await balancer.until(is_heard)
        client = await balancer.client()
        seen = Counter([(await client.ask(GET)).body for _ in range(90)])
        assert seen == {b"a": 30, b"b": 60}
        servers[0].fields = (b"LB-Drain: 1",)
        await becomes(balancer, "a", "draining")
        assert {(await client.ask(GET)).body for _ in range(6)} == {b"b"}
        servers[0].fields = ()
        await becomes(balancer, "a", "up")
        assert {(await client.ask(GET)).body for _ in range(6)} == {b"a", b"b"}


async def test_once_a_check_says_otherwise_the_next_ones_come_fast() -> None:
    servers = [Checked("a"), Checked("b")]
    # at the slow interval alone thirty checks would take five minutes
    limits = {
        "LB_CHECK_INTERVAL": "10",
        "LB_CHECK_FAST_INTERVAL": "0.05",
        "LB_CHECK_FALL": "30",
    }
    async with balanced(*servers, **limits) as balancer:
        servers[0].is_good = False
        await becomes(balancer, "a", "down")
        assert servers[0].checks >= 30
        assert servers[1].checks < 30
