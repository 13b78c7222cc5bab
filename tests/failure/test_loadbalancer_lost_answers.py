# Servers and clients that fail in the middle: what is sent again, what is not, and what the client is told.
import asyncio
import json

import pytest

from tests.balanced import PROBLEM, Balancer, Message, Upstream, balanced, ok
from tests.patience import PATIENCE_SECONDS

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
KEY = b"Idempotency-Key: 0123456789abcdef"


def post(*fields: bytes, target: bytes = b"/purchases", body: bytes = b"{}") -> bytes:
    lines = b"".join(line + b"\r\n" for line in fields)
    return b"POST %b HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n%b\r\n%b" % (target, len(body), lines, body)


async def vanish(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read the request, do whatever it asks, and be gone."""
    writer.transport.abort()


async def never(_: Message, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Say nothing until the other side is gone."""
    await reader.read()


def one_that_loses(count: int = 2) -> list[Upstream]:
    servers = [Upstream(name) for name in "abcdef"[:count]]
    servers[0].answer = vanish
    return servers


def executed(servers: list[Upstream]) -> int:
    return sum(len(server.requests) for server in servers)


def is_unknown(answer: Message, status: int = 502) -> bool:
    assert answer.fields["content-type"] == PROBLEM
    problem = json.loads(answer.body)
    assert problem["status"] == answer.status
    said = "unknown: send the same key again" in problem["detail"]
    assert said is (problem["type"] == "/problems/unknown")
    return said and answer.status == status


async def test_a_lost_purchase_without_a_key_is_unknown_and_sent_once() -> None:
    servers = one_that_loses()
    async with balanced(*servers) as balancer:
        client = await balancer.client()
        assert is_unknown(await client.ask(post()))
        assert executed(servers) == 1
        assert (await client.ask(post())).body == b"b", "and the connection goes on"


async def test_a_lost_purchase_with_a_key_is_sent_again_and_marked() -> None:
    servers = one_that_loses()
    async with balanced(*servers) as balancer:
        answer = await balancer.ask(post(KEY, body=b"the same"))
        assert (answer.status, answer.body) == (200, b"b")
        (first,), (second,) = (server.requests for server in servers)
        assert ("retry-attempt" in first.fields, second.fields["retry-attempt"]) == (False, "1")
        assert (first.body, second.body) == (b"the same", b"the same")
        assert await balancer.metric("loadbalancer_retries_total", server="a") == 1


async def test_a_key_in_chunks_is_sent_again_whole() -> None:
    servers = one_that_loses()
    async with balanced(*servers) as balancer:
        data = b"POST /purchases HTTP/1.1\r\nHost: shop\r\n%b\r\nTransfer-Encoding: chunked\r\n\r\n" % KEY
        assert (await balancer.ask(data + b"2\r\n{ \r\n1\r\n}\r\n0\r\n\r\n")).body == b"b"
        assert [server.requests[0].body for server in servers] == [b"{ }", b"{ }"]


@pytest.mark.parametrize("key", [KEY, b"X: y"], ids=["with a key", "without"])
async def test_a_server_lost_while_the_body_is_coming(key: bytes) -> None:
    servers = one_that_loses()
    servers[0].reads_body = False
    async with balanced(*servers) as balancer:
        client = await balancer.client()
        data = post(key, body=b"the same")
        client.writer.write(data[:-4])

        async def is_lost() -> bool:  # for the balancer: one that has the whole body first hears of another loss
            return await balancer.metric("loadbalancer_lost_total", server="a") == 1

        await balancer.until(is_lost)
        client.writer.write(data[-4:])
        answer = await client.answer()
        if key is KEY:
            assert (answer.status, answer.body) == (200, b"b")
            (again,) = servers[1].requests
            assert (again.body, again.fields["retry-attempt"]) == (b"the same", "1")
        else:
            assert is_unknown(answer)
            assert answer.fields["connection"] == "close", "nobody knows which of the next bytes are the body's"
            assert executed(servers) == 1


@pytest.mark.parametrize(
    ("data", "environ"),
    [
        (post(KEY, target=b"/other"), {}),  # nobody declared it safe
        (post(KEY), {"LB_REPLAY_SAFE": "none"}),
        (post(KEY, body=b"x" * 20_000), {}),  # more than is kept
        (post(KEY), {"LB_RETRIES": "0"}),
        (post(KEY), {"LB_RETRY_BUDGET": "0"}),
    ],
)
async def test_what_the_law_does_not_allow_is_unknown(data: bytes, environ: dict[str, str]) -> None:
    servers = one_that_loses()
    async with balanced(*servers, **environ) as balancer:
        assert is_unknown(await balancer.ask(data))
        assert executed(servers) == 1


async def test_the_law_holds_for_a_connection_that_was_kept_too_long() -> None:
    server = Upstream("a")
    async with balanced(server, LB_POOL_TIMEOUT="60") as balancer:
        client = await balancer.client()
        await client.ask(GET)
        answer, server.answer = server.answer, vanish
        assert is_unknown(await client.ask(post()))  # the second request on that connection
        server.answer = answer
        await client.ask(GET)

        async def vanish_once(*_: object) -> None:
            server.answer = answer
            _[2].transport.abort()  # type: ignore[attr-defined]

        server.answer = vanish_once
        assert (await client.ask(post(KEY))).body == b"a", "the same server on a fresh connection: there is no other"
        assert server.requests[-1].fields["retry-attempt"] == "1"


async def test_a_server_that_closes_after_every_answer_costs_nobody_anything() -> None:
    server = Upstream("a")

    async def answer(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(b"x"))
        await writer.drain()
        writer.close()

    server.answer = answer
    async with balanced(server) as balancer:
        client = await balancer.client()
        assert [(await client.ask(GET)).status for _ in range(30)] == [200] * 30


async def test_a_refused_connection_is_tried_elsewhere_unmarked_whatever_the_method() -> None:
    servers = [Upstream("a"), Upstream("b")]
    for server in servers:
        await server.start()
    await servers[0].kill()
    async with balanced(*servers, LB_CHECK_INTERVAL="3600", LB_CONNECT_FALL="2") as balancer:
        client = await balancer.client()
        assert [(await client.ask(post())).body for _ in range(6)] == [b"b"] * 6
        assert not any("retry-attempt" in request.fields for request in servers[1].requests)
        assert await balancer.states() == {"a": "down", "b": "up"}
        assert await balancer.metric("loadbalancer_retries_total") == 2, "then it was out"
        assert await balancer.metric("loadbalancer_ejections_total", server="a") == 1


async def test_with_nobody_to_reach_nothing_is_promised() -> None:
    server = await Upstream("a").start()
    await server.kill()
    async with balanced(server) as balancer:
        client = await balancer.client()
        for _ in range(5):
            answer = await client.ask(post(KEY))
            assert (answer.status, answer.fields["retry-after"]) == (503, "1")
            assert "nothing was promised" in json.loads(answer.body)["detail"]


async def test_once_sent_it_stays_unknown_even_if_nobody_is_left() -> None:
    servers = [Upstream("a"), await Upstream("b").start()]
    await servers[1].kill()
    servers[0].answer = vanish
    async with balanced(*servers, LB_CONNECT_FALL="100", LB_CHECK_FALL="100") as balancer:
        answers = [await balancer.ask(post(KEY)) for _ in range(2)]
        assert all(is_unknown(answer) for answer in answers)


async def test_a_killed_server_is_taken_out_and_comes_back() -> None:
    servers = [Upstream(name) for name in "abc"]
    async with balanced(*servers) as balancer:
        told: list[int] = []
        is_over = asyncio.Event()

        async def shop() -> None:
            client = await balancer.client()
            while not is_over.is_set():
                told.append((await client.ask(post(KEY))).status)

        shopping = [asyncio.create_task(shop()) for _ in range(4)]

        async def is_busy() -> bool:
            return len(told) > 100

        await balancer.until(is_busy)
        await servers[0].kill()
        await until_state(balancer, "a", "down")
        await servers[0].start()
        await until_state(balancer, "a", "up")
        before = len(servers[0].requests)

        async def serves_again() -> bool:
            return len(servers[0].requests) > before

        await balancer.until(serves_again)
        is_over.set()
        await asyncio.gather(*shopping)
        assert set(told) == {200}


async def until_state(balancer: Balancer, server: str, state: str) -> None:
    async def is_so() -> bool:
        return (await balancer.states())[server] == state

    await balancer.until(is_so)


async def test_a_server_that_answers_checks_badly_is_taken_out() -> None:
    servers = [Upstream("a"), Upstream("b")]
    async with balanced(*servers, LB_CHECK_PATH="/missing") as balancer:
        # every path but /livez is counted as a request and answered by ``answer``
        async def missing(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")

        servers[0].answer = missing
        await until_state(balancer, "a", "down")
        assert {(await balancer.ask(GET)).body for _ in range(4)} == {b"b"}


async def test_an_answer_that_does_not_come_is_unknown_and_not_asked_for_twice() -> None:
    servers = [Upstream("a"), Upstream("b")]
    servers[0].answer = never
    async with balanced(*servers, LB_RESPONSE_TIMEOUT="2", LB_CONNECT_TIMEOUT="60") as balancer:
        assert is_unknown(await balancer.ask(post(KEY)), 504)
        assert await balancer.metric("loadbalancer_server_active") == 0

        async def is_closed() -> bool:
            return servers[0].closed == 1

        await balancer.until(is_closed)
        assert executed(servers) == 1


async def test_a_client_that_leaves_takes_its_request_along() -> None:
    server = Upstream("a")
    server.answer = never
    async with balanced(server) as balancer:
        client = await balancer.client()
        client.writer.write(post())

        async def has_come() -> bool:
            return len(server.requests) == 1

        await balancer.until(has_come)
        client.writer.close()

        async def is_dropped() -> bool:
            return server.closed == 1

        await balancer.until(is_dropped)
        assert await balancer.metric("loadbalancer_clients_gone_total") == 1
        assert await balancer.metric("loadbalancer_server_active") == 0


@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalfX",
    ],
)
async def test_half_an_answer_is_never_shown_as_a_whole_one(begun: bytes) -> None:
    server = Upstream("a")
    go = asyncio.Event()

    async def half(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begun)
        await writer.drain()
        await go.wait()
        writer.close()

    server.answer = half
    async with balanced(server) as balancer:
        for version in (b"1.1", b"1.0"):
            go.clear()
            client = await balancer.client()
            client.writer.write(GET.replace(b"1.1", version))
            with pytest.raises(ConnectionResetError):
                await _read_half(client.reader, go)
        assert executed([server]) == 2


async def test_a_server_that_falls_silent_within_an_answer_of_known_length_is_given_up() -> None:
    server = Upstream("a")

    async def half(_: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await reader.read()

    server.answer = half
    async with balanced(server, LB_RESPONSE_TIMEOUT="2") as balancer:
        client = await balancer.client()
        client.writer.write(GET)
        with pytest.raises(ConnectionResetError):
            await client.rest()
        assert await balancer.metric("loadbalancer_server_active") == 0


async def _read_half(reader: asyncio.StreamReader, go: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await reader.readuntil(b"half")
        go.set()
        await reader.read()


async def test_what_a_server_says_unasked_is_never_somebodys_answer() -> None:
    server = Upstream("a")

    async def twice(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(b"asked") + ok(b"poison"))

    async def later(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(b"asked"))
        await writer.drain()
        writer.write(ok(b"poison"))

    async with balanced(server, LB_POOL_TIMEOUT="60") as balancer:
        client = await balancer.client()
        for answer in (twice, later):
            server.answer = answer
            for _ in range(10):
                assert (await client.ask(GET)).body == b"asked"


# Clients.


async def test_a_head_has_its_time_however_it_trickles() -> None:
    async with balanced(Upstream("a"), LB_HEAD_TIMEOUT="2", LB_IDLE_TIMEOUT="60") as balancer:
        for is_second in (False, True):
            client = await balancer.client()
            if is_second:
                await client.ask(GET)
            trickling = asyncio.create_task(_trickle(client.writer))
            answer = await client.answer()
            trickling.cancel()
            assert (answer.status, answer.fields["connection"]) == (408, "close")


async def _trickle(writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET / HTTP/1.1\r\n")
    while True:
        writer.write(b"X: y\r\n")
        await asyncio.sleep(0.1)


async def test_who_says_nothing_is_let_go_without_a_word() -> None:
    async with balanced(Upstream("a"), LB_HEAD_TIMEOUT="2", LB_IDLE_TIMEOUT="2") as balancer:
        client = await balancer.client()
        assert await client.rest() == b""
        client = await balancer.client()
        await client.ask(GET)
        assert await client.rest() == b""


async def test_a_body_has_its_time_too() -> None:
    server = Upstream("a")
    async with balanced(server, LB_BODY_TIMEOUT="0.4", LB_HEAD_TIMEOUT="60") as balancer:
        client = await balancer.client()
        client.writer.write(post(body=b"{}").replace(b"Length: 2", b"Length: 200"))
        assert (await client.answer()).status == 408
        assert server.requests == []
        assert await balancer.metric("loadbalancer_server_active") == 0


async def test_a_body_that_flows_has_more_time() -> None:
    server = Upstream("a")
    async with balanced(server, LB_BODY_TIMEOUT="0.4") as balancer:
        client = await balancer.client()
        data = post(body=bytes(20_000))
        client.writer.write(data[:-1])  # twenty seconds' worth
        await asyncio.sleep(1)
        assert (await client.ask(data[-1:])).status == 200


async def test_an_answer_before_the_body_ends_the_connections() -> None:
    server = Upstream("a")
    server.reads_body = False
    async with balanced(server) as balancer:
        client = await balancer.client()
        answer = await client.ask(post().replace(b"Length: 2", b"Length: 200"))
        assert (answer.body, answer.fields["connection"]) == (b"a", "close")
        client.writer.write(b"GET /smuggled HTTP/1.1\r\nHost: shop\r\n\r\n")
        assert await client.rest() == b""
        server.reads_body = True
        assert (await balancer.ask(GET)).body == b"a"
        assert [request.target for request in server.requests] == ["/purchases", "/"]
        assert server.connections == 2
