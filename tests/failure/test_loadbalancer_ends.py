# Two letters say who ended a request, and when. Each end is made here once, by the accident that it stands for.
import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from tests.balanced import Balancer, Message, Upstream, balanced, ok

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nha"


def says(
    data: bytes, *, closes: bool = False
) -> Callable[[Message, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A server that says this and no more."""

    async def answer(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if closes:
            writer.close()
        else:
            await writer.drain()
            await asyncio.Event().wait()

    return answer


async def ended(balancer: Balancer, code: str, count: int = 1) -> None:
    """Wait until so many have ended so, and see that the one who asked is the only one."""

    async def has_come() -> bool:
        return await balancer.metric("loadbalancer_ended_total", code=code) == count

    await balancer.until(has_come)
    assert await balancer.metric("loadbalancer_ended_total") == count


async def asked(balancer: Balancer, data: bytes) -> None:
    """Ask and hear whatever there is to hear."""
    client = await balancer.client()
    client.writer.write(data)
    with contextlib.suppress(OSError):
        await client.rest()


async def test_an_answer_is_the_end_of_its_request() -> None:
    server = Upstream("a")
    async with balanced(server, LB_ACCESS_LOG="on") as balancer:
        await balancer.ask(GET)
        await ended(balancer, "--")
        assert b'"end": "--"' in await balancer.log.readline()


@pytest.mark.parametrize(
    ("code", "data", "closes", "environ"),
    [
        ("SH", b"", True, {}),
        ("SD", HALF, True, {}),
        ("PH", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", False, {}),
        ("sH", b"", False, {"LB_RESPONSE_TIMEOUT": "0.3"}),
        ("sD", HALF, False, {"LB_RESPONSE_TIMEOUT": "4"}),  # in which the half has come
    ],
)
async def test_a_server_ends_it_by_leaving_by_nonsense_or_by_silence(
    code: str,
    data: bytes,
    closes: bool,  # noqa: FBT001 - a row of the table
    environ: dict[str, str],
) -> None:
    server = Upstream("a")
    server.answer = says(data, closes=closes)
    async with balanced(server, **environ) as balancer:
        await asked(balancer, POST + b"body")
        await ended(balancer, code)


async def test_nobody_could_be_reached() -> None:
    server = Upstream("a")
    async with balanced(server, LB_CHECK_INTERVAL="3600") as balancer:
        await server.kill()
        assert (await balancer.ask(POST + b"body")).status == 503
        await ended(balancer, "SC")


async def test_there_was_no_place_in_time_and_none_to_wait_in() -> None:
    server = Upstream("a")
    server.answer = says(STREAM[:20])
    limits = {"LB_MAXCONN": "1", "LB_QUEUE": "1", "LB_RESPONSE_TIMEOUT": "300"}
    async with balanced(server, LB_QUEUE_TIMEOUT="0.3", **limits) as balancer:
        first = await balancer.client()
        first.writer.write(GET)
        await balancer.until(lambda: has_come(server))
        assert (await balancer.ask(GET)).status == 503
        await ended(balancer, "sQ")
    server = Upstream("a")
    server.answer = says(STREAM[:20])
    async with balanced(server, LB_QUEUE_TIMEOUT="300", **limits) as balancer:
        first, second = await balancer.client(), await balancer.client()
        first.writer.write(GET)
        await balancer.until(lambda: has_come(server))
        second.writer.write(GET)

        async def waits() -> bool:
            return bool((await balancer.stats())["queued"] == 1)

        await balancer.until(waits)
        assert (await balancer.ask(GET)).status == 503
        await ended(balancer, "PQ")


async def has_come(server: Upstream) -> bool:
    return len(server.requests) == 1


@pytest.mark.parametrize(("code", "data"), [("CH", b""), ("CD", STREAM)])
async def test_a_client_leaves(code: str, data: bytes) -> None:
    server = Upstream("a")
    server.answer = says(data)
    async with balanced(server) as balancer:
        client = await balancer.client()
        client.writer.write(POST + b"body")
        if data:
            await client.reader.readuntil(b"data: 1\n\n")
        await balancer.until(lambda: has_come(server))
        client.leave()
        await ended(balancer, code)


async def test_a_client_dawdles_or_sends_what_nobody_can_read() -> None:
    async with balanced(Upstream("a"), LB_HEAD_TIMEOUT="4") as balancer:  # counted from the connection, before a byte
        await asked(balancer, b"GET / HTT")
        await ended(balancer, "cR")
    async with balanced(Upstream("a")) as balancer:
        await asked(balancer, b"GET / HTTP/9.1\r\n\r\n")
        await ended(balancer, "PR")


async def test_the_balancer_ends_a_stream_when_it_retires() -> None:
    server = Upstream("a")
    server.answer = says(STREAM)
    async with balanced(server, LB_GRACE="0.3") as balancer:
        client = await balancer.client()
        client.writer.write(GET)
        await client.reader.readuntil(b"data: 1\n\n")
        assert (await balancer.admin("/restart")).status == 200
        await ended(balancer, "KD")


async def test_a_wait_for_a_place_is_timed() -> None:
    server = Upstream("a")
    go = asyncio.Event()

    async def answer(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(ok())

    server.answer = answer
    async with balanced(server, LB_MAXCONN="1", LB_QUEUE_TIMEOUT="300") as balancer:
        clients = [await balancer.client() for _ in range(2)]
        for client in clients:
            client.writer.write(GET)

        async def waits() -> bool:
            return bool((await balancer.stats())["queued"] == 1)

        await balancer.until(waits)
        go.set()
        assert [(await client.answer()).status for client in clients] == [200, 200]
        assert await balancer.metric("loadbalancer_queue_seconds_count") == 1
        await ended(balancer, "--", 2)
