# Crowds that want to be a burden: who is slow, greedy or only there costs little, and nobody else anything.
import asyncio
import contextlib
import socket
from collections.abc import Iterator

import psutil
import pytest

from tests.balanced import Balancer, Message, Upstream, balanced, ok
from tests.descriptors import room_for
from tests.patience import PATIENCE_SECONDS
from tests.recorder import Recorder, answers, hear

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
IDLE = 10_000
IDLE_BYTES_MAX = 16 * 1024  # of memory, each; it is a tenth of that
LEFT_BYTES_MAX = 6 * 1024 * 1024  # three crowds of a quarter that left theirs would leave twice as much
GROWTH_BYTES_MAX = 64 * 1024 * 1024  # with four hundred who want to fill it


def memory(balancer: Balancer) -> int:
    """Of all its processes."""
    parent = psutil.Process(balancer.child.pid)
    return sum(process.memory_info().rss for process in (parent, *parent.children(recursive=True)))


@pytest.fixture
def count() -> Iterator[int]:
    with room_for(IDLE) as clients:
        yield clients


def come(port: int, count: int, stack: contextlib.ExitStack) -> int:
    """So many clients ask once each and stay; how many were answered."""
    told = 0
    for _ in range(count):
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS))
        client.sendall(GET)
        (answer,), _ = answers(client.recv(65_536))
        told += answer.status == 200
    return told


async def test_ten_thousand_idle_clients_are_no_burden(count: int) -> None:
    server = await Recorder("a").start()
    async with balanced(server, LB_IDLE_TIMEOUT="3600", LB_CHECK_INTERVAL="3600") as balancer:
        with contextlib.ExitStack() as stack:
            assert await asyncio.to_thread(come, balancer.port, 100, stack) == 100
        before = memory(balancer)
        taken = []
        for clients in (count, count // 4, count // 4, count // 4):
            with contextlib.ExitStack() as stack:
                assert await asyncio.to_thread(come, balancer.port, clients, stack) == clients
                assert await balancer.metric("loadbalancer_clients") >= clients
                taken.append(memory(balancer) - before)
                good = await balancer.client()
                assert [(await good.ask(GET)).status for _ in range(100)] == [200] * 100
                good.leave()

            async def are_gone() -> bool:
                return await balancer.metric("loadbalancer_clients") == 0

            await balancer.until(are_gone)
            server.forget()
        print(f"{count} idle clients: {taken[0] / count:.0f} bytes each")  # noqa: T201 - for who wants to know
        assert taken[0] < count * IDLE_BYTES_MAX
        assert taken[-1] < taken[0] + LEFT_BYTES_MAX, "what they cost is there for the next ones"


LARGE = bytes(8_000_000)
EACH = 100


def begin(port: int, data: bytes) -> socket.socket:
    """A client that has sent ``data``. At once, or a slow test would be taken for a slow client."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # for those who do not read
    client.connect(("127.0.0.1", port))
    client.sendall(data)
    client.setblocking(False)
    return client


async def send(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # it has said why
        await asyncio.get_running_loop().sock_sendall(client, data)


async def trickle(port: int, head: bytes) -> bytes:
    """Send what begins well and goes on a byte at a time; what is said in the end."""
    with begin(port, head) as client:

        async def drip() -> None:
            while True:
                await send(client, b"x")
                await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        try:
            return await hear(client)
        finally:
            dripping.cancel()


async def flood(port: int) -> bytes:
    """Send header lines until somebody objects; what is said."""
    with begin(port, b"GET / HTTP/1.1\r\nHost: shop\r\n") as client:
        await send(client, b"X: y\r\n" * 200_000)
        return await hear(client)


async def stare(port: int) -> None:
    """Ask for much and read nothing, until cut off."""
    with begin(port, b"GET /large HTTP/1.1\r\nHost: shop\r\n\r\n") as client:
        while client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            await asyncio.sleep(0.1)


async def test_slow_and_greedy_clients_hold_up_nobody_and_fill_nothing() -> None:
    server = Upstream("a")

    async def answer(request: Message, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(LARGE if request.target == "/large" else b"a"))
        await writer.drain()

    server.answer = answer
    environ = {"LB_HEAD_TIMEOUT": "4", "LB_BODY_TIMEOUT": "4", "LB_STALL_TIMEOUT": "4", "LB_IDLE_TIMEOUT": "3600"}
    async with balanced(server, **environ) as balancer:
        good = await balancer.client()
        assert (await good.ask(GET)).status == 200
        before = most = memory(balancer)
        heads = [trickle(balancer.port, b"GET / HTTP/1.1\r\nHost: shop\r\nX: ") for _ in range(EACH)]
        post = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 500\r\n\r\n"
        bodies = [trickle(balancer.port, post) for _ in range(EACH)]
        floods = [flood(balancer.port) for _ in range(EACH)]
        stares = [stare(balancer.port) for _ in range(EACH)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            crowd = asyncio.gather(*heads, *bodies, *floods, *stares)
            served = 0
            while not crowd.done():
                assert (await good.ask(GET)).status == 200
                served += 1
                most = max(most, memory(balancer))
            told = await crowd
        statuses = [answers(said)[0][0].status for said in told if said is not None]
        assert served > 0
        assert (statuses.count(408), statuses.count(431)) == (2 * EACH, EACH)
        assert most - before < GROWTH_BYTES_MAX

        async def are_gone() -> bool:
            return await balancer.metric("loadbalancer_clients") == 1

        await balancer.until(are_gone)
        assert await balancer.metric("loadbalancer_server_active") == 0
