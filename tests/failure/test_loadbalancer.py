# The balancer as a process between real sockets: it forwards, streams, shares out, refuses, drains.
import asyncio
import json
import os
from collections import Counter
from pathlib import Path

from tests.balanced import Balancer, Message, Upstream, balanced, ok, read_body, read_head
from tests.listeners import shut

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"


def post(body: bytes = b"{}", *fields: bytes, target: bytes = b"/purchases") -> bytes:
    lines = b"".join(line + b"\r\n" for line in fields)
    return b"POST %b HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n%b\r\n%b" % (target, len(body), lines, body)


async def test_requests_of_one_client_share_one_connection_to_the_server() -> None:
    server = Upstream("a")
    async with balanced(server) as balancer:
        client = await balancer.client()
        for number in range(20):
            answer = await client.ask(post(b"%d" % number))
            assert (answer.status, answer.body, "connection" in answer.fields) == (200, b"a", False)
        assert [request.body for request in server.requests] == [b"%d" % number for number in range(20)]
        assert server.connections == 1
        assert server.requests[0].fields["x-forwarded-for"] == "127.0.0.1"


async def test_a_server_may_listen_on_a_socket_of_the_file_system(tmp_path: Path) -> None:
    server, path = Upstream("a"), tmp_path / "a.sock"
    there = await asyncio.start_unix_server(server.accept, path)
    async with balanced(server, LB_SERVERS=f"a=unix:{path}", LB_CONNECT_FALL="1", LB_RETRIES="0") as balancer:
        assert (await balancer.ask(post())).body == b"a"
        [stats] = json.loads((await balancer.ops("/servers")).body)
        assert (stats["state"], stats["address"]) == ("up", f"unix:{path}")
        await shut(there)
        path.unlink()
        await server.kill()

        async def is_down() -> bool:
            return await balancer.states() == {"a": "down"}

        await balancer.until(is_down)
        assert (await balancer.ask(post())).status == 503


async def test_events_come_as_they_are_sent_and_are_not_cut_by_the_response_timeout() -> None:
    server = Upstream("a")
    heard = asyncio.Event()

    async def answer(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await writer.drain()
        writer.write(b"data: 1\n\n")
        await heard.wait()
        writer.write(b"data: 2\n\n")
        await writer.drain()
        writer.close()

    server.answer = answer
    async with balanced(server, LB_RESPONSE_TIMEOUT="4") as balancer:
        client = await balancer.client()
        client.writer.write(GET)
        head = await read_head(client.reader)
        assert head.fields["transfer-encoding"] == "chunked"
        assert await client.reader.readexactly(len(b"9\r\ndata: 1\n\n\r\n")) == b"9\r\ndata: 1\n\n\r\n"
        await asyncio.sleep(5)  # longer than the timeout and a sweep
        heard.set()
        assert (
            await client.reader.readexactly(len(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")) == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"
        )
        assert await client.ask(GET), "and the connection goes on"


async def test_bodies_of_any_size_pass_both_ways_in_chunks_and_by_length() -> None:
    server = Upstream("a")
    sent = os.urandom(3_000_000)

    async def answer(request: Message, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.target == "/chunks":
            body = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (request.body[:7], request.body[7:]))
            writer.write(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0;x=y\r\nTrailer: z\r\n\r\n"
            )
        else:
            writer.write(ok(request.body))

    server.answer = answer
    async with balanced(server, LB_BODY_MAX="4000000") as balancer:
        client = await balancer.client()
        for target in (b"/chunks", b"/length"):
            assert (await client.ask(post(sent, target=target))).body == sent
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (sent[:1], sent[1:100_000], sent[100_000:]))
            head = b"POST %b HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n" % target
            assert (await client.ask(head + chunks + b"0\r\n\r\n")).body == sent
        assert [request.body == sent for request in server.requests] == [True] * 4
        assert server.connections == 1


async def test_head_has_a_length_and_no_body() -> None:
    server = Upstream("a")

    async def answer(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")

    server.answer = answer
    async with balanced(server) as balancer:
        client = await balancer.client()
        for _ in range(2):
            assert (await client.ask(b"HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n")).fields["content-length"] == "5"


async def test_an_old_client_is_answered_without_chunks_and_let_go() -> None:
    server = Upstream("a")

    async def answer(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")

    server.answer = answer
    async with balanced(server) as balancer:
        client = await balancer.client()
        client.writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert await client.rest() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi"


async def test_pipelined_requests_are_answered_in_order_and_a_bad_one_ends_them() -> None:
    server = Upstream("a")

    async def answer(request: Message, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05 if request.target == "/1" else 0)
        writer.write(ok(request.target.encode()))

    server.answer = answer
    async with balanced(server) as balancer:
        client = await balancer.client()
        client.writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: shop\r\n\r\n" % n for n in range(50)))
        assert [(await client.answer()).body for _ in range(50)] == [b"/%d" % n for n in range(50)]
        client.writer.write(GET + GET + b"G T / HTTP/1.1\r\n\r\n" + GET)
        assert [(await client.answer()).status for _ in range(3)] == [200, 200, 400]
        assert await client.rest() == b""
        assert len(server.requests) == 52


async def test_an_expectation_is_put_to_the_server() -> None:
    server = Upstream("a")
    server.reads_body = False

    async def answer(request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert request.fields["expect"] == "100-continue"
        if request.target == "/no":
            writer.write(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(ok(await read_body(reader, request)))

    server.answer = answer
    async with balanced(server) as balancer:
        client = await balancer.client()
        head = b"POST %b HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        assert (await client.ask(head % b"/yes")).status == 100
        assert (await client.ask(b"hello")).body == b"hello"
        refused = await client.ask(head % b"/no")
        assert (refused.status, refused.fields["connection"]) == (403, "close")
        client.writer.write(b"GET /smuggled HTTP/1.1\r\nHost: shop\r\n\r\n")  # as the body that was not wanted
        assert await client.rest() == b""
        assert (await balancer.ask(post(b"x", b"Expect: 100-continue", target=b"/no"))).status == 403
        assert [request.target for request in server.requests] == ["/yes", "/no", "/no"]
        assert server.connections == 2, "what had a body to come is not used again"


async def test_a_client_that_does_not_read_stops_the_server() -> None:
    server = Upstream("a")
    sent = 0

    async def answer(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        while sent < 200:
            writer.write(bytes(1_000_000))
            await writer.drain()
            sent += 1

    server.answer = answer
    async with balanced(server, LB_STALL_TIMEOUT="2") as balancer:
        client = await balancer.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(GET)

        async def is_cut() -> bool:
            return server.closed == 1

        await balancer.until(is_cut)
        assert sent < 150, "what sockets hold, and not the whole"
        assert await balancer.metric("loadbalancer_server_active") == 0


async def test_a_server_that_does_not_read_stops_the_client() -> None:
    server = Upstream("a")
    server.reads_body = False
    go = asyncio.Event()

    async def answer(request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(ok(b"%d" % len(await read_body(reader, request))))

    server.answer = answer
    async with balanced(server, LB_BODY_MAX="100000000") as balancer:
        client = await balancer.client()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 100000000\r\n\r\n")
        sending = asyncio.create_task(_send(client.writer, 100))
        done, _ = await asyncio.wait({sending}, timeout=1)
        assert not done
        go.set()
        await sending
        assert (await client.answer()).body == b"100000000"


async def _send(writer: asyncio.StreamWriter, megabytes: int) -> None:
    for _ in range(megabytes):
        writer.write(bytes(1_000_000))
        await writer.drain()


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: shop\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
POST = b"POST / HTTP/1.1\r\nHost: shop\r\n"


async def test_what_is_let_through_is_what_the_server_reads() -> None:
    server = Upstream("a")
    async with balanced(server) as balancer:
        client = await balancer.client()
        client.writer.write(
            post(SMUGGLED) + POST + CHUNKED + b"\r\n%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n"
        )
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
        assert [(request.method, request.body) for request in server.requests] == [("POST", SMUGGLED)] * 2


async def test_a_body_in_chunks_is_bounded_too() -> None:
    server = Upstream("a")
    async with balanced(server, LB_BODY_MAX="1000") as balancer:
        client = await balancer.client()
        client.writer.write(POST + CHUNKED + b"\r\n" + b"64\r\n" + b"x" * 100 + b"\r\n")
        client.writer.write((b"64\r\n" + b"x" * 100 + b"\r\n") * 20)
        assert (await client.answer()).status == 413
        assert server.requests == []


async def test_past_the_limit_a_connection_hears_503() -> None:
    async with balanced(Upstream("a"), LB_CLIENTS_MAX="2") as balancer:
        first = [await balancer.client() for _ in range(2)]
        assert [(await client.ask(GET)).status for client in first] == [200, 200]
        refused = await (await balancer.client()).answer()
        assert (refused.status, refused.fields["retry-after"]) == (503, "1")
        first[0].leave()

        async def is_taken() -> bool:
            return (await balancer.ask(GET)).status == 200

        await balancer.until(is_taken)


# Who gets what, seen in /metrics.


async def shares(balancer: Balancer, servers: list[Upstream]) -> list[float]:
    return [await balancer.metric("loadbalancer_requests_total", server=server.name) for server in servers]


async def test_round_robin_is_exact() -> None:
    servers = [Upstream(name) for name in "abc"]
    for server in servers:
        await server.start()
    listed = ",".join(f"{s.name}=127.0.0.1:{s.port}*{w}" for s, w in zip(servers, (1, 2, 3), strict=True))
    async with balanced(*servers, LB_SERVERS=listed) as balancer:
        client = await balancer.client()
        for _ in range(60):
            await client.ask(GET)
        assert await shares(balancer, servers) == [10, 20, 30]


async def test_least_connections_avoids_the_busy() -> None:
    servers = [Upstream(name) for name in "ab"]
    go = asyncio.Event()

    async def slow(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(ok(b"slow"))

    async with balanced(*servers, LB_ALGORITHM="least_connections") as balancer:
        for server in servers:
            server.answer = slow
        waiting = [await balancer.client() for _ in range(4)]
        for client in waiting:
            client.writer.write(GET)

        async def are_there() -> bool:
            return sum(len(server.requests) for server in servers) == 4

        await balancer.until(are_there)
        assert [len(server.requests) for server in servers] == [2, 2]
        assert [await balancer.metric("loadbalancer_server_peak", server=server.name) for server in servers] == [2, 2]
        waiting[0].leave()  # one of them is less busy now
        free = 0 if await _frees(balancer, servers[0]) else 1
        before = [len(server.requests) for server in servers]
        (last := await balancer.client()).writer.write(GET)

        async def has_come() -> bool:
            return sum(len(server.requests) for server in servers) == 5

        await balancer.until(has_come)
        assert len(servers[free].requests) == before[free] + 1
        go.set()
        assert {(await client.answer()).body for client in (*waiting[1:], last)} == {b"slow"}


async def _frees(balancer: Balancer, first: Upstream) -> bool:
    async def is_down() -> bool:
        return await balancer.metric("loadbalancer_server_active") == 3

    await balancer.until(is_down)
    return await balancer.metric("loadbalancer_server_active", server=first.name) == 1


async def test_the_same_key_meets_the_same_server() -> None:
    servers = [Upstream(name) for name in "abc"]
    async with balanced(*servers, LB_ALGORITHM="consistent_hash") as balancer:
        buyers = [b"buyer-%d" % number for number in range(60)]
        seen: dict[bytes, bytes] = {}
        for _ in range(2):
            for buyer in buyers:
                answer = await balancer.ask(b"GET / HTTP/1.1\r\nHost: shop\r\nBuyer-Id: %b\r\n\r\n" % buyer)
                assert seen.setdefault(buyer, answer.body) == answer.body
        counted = Counter(seen.values())
        assert min(counted.values()) >= 8
        assert await balancer.metric("loadbalancer_spilled_total") == 0
        assert await shares(balancer, servers) == [2 * counted[server.name.encode()] for server in servers]
