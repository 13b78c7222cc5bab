# What a broken or hostile server answers, through real sockets: what its client sees, and whose answer is whose afterwards.
import asyncio
import json
import random
import socket
from collections.abc import Iterator, Sequence

from tests.balanced import Balancer, Message, Upstream, balanced, ok
from tests.hostile import ANSWERS, Hostile
from tests.patience import PATIENCE_SECONDS
from tests.recorder import END, answers, deliver
from tests.scripted import Script
from tests.servers import free_port

SEED = 43
SPLITS = 4
SERVER = {"LB_CHECK_INTERVAL": "3600", "LB_POOL_TIMEOUT": "3600", "LB_RETRY_BUDGET": "100"}


def ways(answer: Hostile) -> Iterator[Sequence[bytes]]:
    yield [answer.data]
    # What comes behind an answer in a piece of its own may come when the next request is on its way: then it *is* the answer.
    if answer.row in {46, 52} or len(answer.data) < 2:
        return
    chance = random.Random(f"{SEED} {answer.row} {answer.name} {len(answer.data)}")
    for _ in range(SPLITS):
        cut = chance.randrange(1, min(len(answer.data), 20_000))
        yield [answer.data[:cut], answer.data[cut:]]
    if len(answer.data) < 100:
        yield [answer.data[i : i + 1] for i in range(len(answer.data))]


async def try_out(answer: Hostile, pieces: Sequence[bytes], balancer: Balancer, server: Script) -> None:
    server.play(pieces, closes=answer.closes)
    asked = answer.method + b" /hostile HTTP/1.1\r\nHost: shop\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    said = await deliver(balancer.port, [asked + END])
    assert b"poison" not in said
    heard, rest = answers(said, [answer.method])
    hostile = server.brought(b"/hostile")[-1]
    assert len(server.brought(b"/hostile")) == 1 or not answer.data, "only silence may be asked twice"
    if answer.is_cut:
        assert heard == []
        if rest:  # what came in one read with what is wrong is not passed on
            (half,), _ = answers(rest + (b"0\r\n\r\n" if b"chunked" in rest else bytes(10)))  # with the end it lacks
            assert half.status == answer.status
            assert answer.body.startswith(half.body.rstrip(b"\0"))
        assert server.brought(b"/end") == []
    else:
        assert rest == b""
        assert [each.status for each in heard] == [answer.status, 200]
        assert heard[1].body == b"/end"
        if answer.status == 502:
            assert json.loads(heard[0].body)["type"] == "/problems/unknown"
        else:
            assert heard[0].body == answer.body
        assert (server.brought(b"/end")[-1] is hostile) is answer.is_kept
    if not answer.is_kept:

        async def is_closed() -> bool:
            return hostile.closed

        await balancer.until(is_closed)


async def test_no_answer_of_a_server_is_taken_for_what_it_is_not() -> None:
    server = await Script().start()
    async with balanced(server, **SERVER) as balancer:
        for answer in ANSWERS:
            for pieces in ways(answer):
                try:
                    await try_out(answer, pieces, balancer, server)
                except AssertionError as error:
                    said = [piece[:200] for piece in pieces]
                    raise AssertionError(f"{answer.row} {answer.name}: {said}") from error
        assert await balancer.metric("loadbalancer_server_active") == 0


async def test_57_a_server_that_connects_and_reads_nothing_is_given_up() -> None:
    with socket.socket() as listener:  # its kernel takes connections, and nobody takes them from there
        listener.bind(("127.0.0.1", free_port()))
        listener.listen(16)
        listed = f"127.0.0.1:{listener.getsockname()[1]}"
        async with balanced(LB_SERVERS=listed, LB_RESPONSE_TIMEOUT="1", LB_CHECK_INTERVAL="3600") as balancer:
            answer = await balancer.ask(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            assert (answer.status, json.loads(answer.body)["type"]) == (504, "/problems/unknown")


async def test_59_an_answer_on_another_connection_than_its_request_is_nobodys() -> None:
    server = Upstream("a")
    writers: list[asyncio.StreamWriter] = []
    go = asyncio.Event()

    async def hold(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await go.wait()
        writer.write(ok(b"mine"))

    async with balanced(server, **SERVER) as balancer:
        server.answer = hold
        two = [await balancer.client() for _ in range(2)]
        for client in two:
            client.writer.write(b"GET /both HTTP/1.1\r\nHost: shop\r\n\r\n")

        async def are_there() -> bool:
            return len(writers) == 2

        await balancer.until(are_there)
        go.set()  # both connections are idle in the pool afterwards
        assert [(await client.answer()).body for client in two] == [b"mine"] * 2

        async def elsewhere(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            (other,) = (each for each in writers if each is not writer)
            other.write(ok(b"poison"))
            async with asyncio.timeout(PATIENCE_SECONDS):
                while server.closed == 0:
                    await asyncio.sleep(0.01)
            writer.write(ok(b"mine"))

        server.answer = elsewhere
        assert (await two[0].ask(b"GET /one HTTP/1.1\r\nHost: shop\r\n\r\n")).body == b"mine"
        assert await balancer.metric("loadbalancer_unasked_total") == 1
