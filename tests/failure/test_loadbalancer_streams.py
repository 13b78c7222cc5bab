# Event streams through the balancer: nothing is held, nothing is made up, and whoever leaves is missed at once.
import asyncio

import pytest

from tests.balanced import Message, Upstream, balanced, read_head
from tests.patience import PATIENCE_SECONDS

GET = b"GET /stock/stream HTTP/1.1\r\nHost: shop\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
EVENT = b"id: a:17\nevent: stock\ndata: {}\n\n"


def framed(payload: bytes, framing: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload) if framing else payload


async def next_chunk(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE_SECONDS):
        size = int(await reader.readuntil(b"\r\n"), 16)
        return (await reader.readexactly(size + 2))[:-2]


@pytest.mark.parametrize("framing", [b"", CHUNKED], ids=["to the end", "in chunks"])
async def test_60_and_66_the_head_and_every_byte_of_an_event_come_when_they_are_sent(framing: bytes) -> None:
    server = Upstream("a")
    heard: asyncio.Queue[None] = asyncio.Queue()

    async def answer(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % framing)
        for i in range(len(EVENT)):
            await heard.get()  # the client has everything that was sent
            writer.write(framed(EVENT[i : i + 1], framing))
        await heard.get()

    server.answer = answer
    async with balanced(server, LB_STALL_TIMEOUT="300") as balancer:
        client = await balancer.client()
        client.writer.write(GET)
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await read_head(client.reader)
        assert (head.status, head.fields["transfer-encoding"]) == (200, "chunked")
        for i in range(len(EVENT)):
            heard.put_nowait(None)
            assert await next_chunk(client.reader) == EVENT[i : i + 1]


async def test_60_an_event_in_pieces_of_any_framing_comes_whole() -> None:
    server = Upstream("a")
    go = asyncio.Event()

    async def answer(request: Message, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = framed(EVENT, CHUNKED)
        cut = int(request.target.removeprefix("/"))
        writer.write(HEAD % CHUNKED + data[:cut])
        await writer.drain()
        await asyncio.sleep(0.001)  # for who is to read them apart
        writer.write(data[cut:])
        await go.wait()

    server.answer = answer
    async with balanced(server) as balancer:
        for cut in range(1, len(framed(EVENT, CHUNKED))):
            client = await balancer.client()
            client.writer.write(GET.replace(b"/stock/stream", b"/%d" % cut))
            await read_head(client.reader)
            read = b""
            while len(read) < len(EVENT):
                read += await next_chunk(client.reader)
            assert read == EVENT
            client.leave()


async def test_63_a_server_that_dies_in_a_stream_ends_it_with_no_end_of_its_own() -> None:
    server = Upstream("a")

    async def answer(_: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % CHUNKED + framed(EVENT, CHUNKED))
        await reader.read()

    server.answer = answer
    async with balanced(server) as balancer:
        for _ in range(2):  # and afterwards it is there again
            client = await balancer.client()
            client.writer.write(GET)
            assert (await read_head(client.reader)).status == 200
            assert await next_chunk(client.reader) == EVENT
            await server.kill()
            with pytest.raises(ConnectionResetError):
                await client.rest()
            await server.start()

            async def is_up() -> bool:
                return await balancer.states() == {"a": "up"}

            await balancer.until(is_up)


async def test_64_a_viewer_that_leaves_is_missed_by_the_server_though_nothing_is_sent() -> None:
    server = Upstream("a")

    async def answer(_: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % CHUNKED)
        await reader.read()

    server.answer = answer
    async with balanced(server, LB_STREAM_TIMEOUT="3600") as balancer:
        for number, leaves in enumerate(("leave", "half-close"), 1):
            client = await balancer.client()
            client.writer.write(GET)
            await read_head(client.reader)
            client.leave() if leaves == "leave" else client.writer.write_eof()

            async def is_missed(number: int = number) -> bool:
                return server.closed == number

            await balancer.until(is_missed)
        assert await balancer.metric("loadbalancer_server_active") == 0
        assert await balancer.metric("loadbalancer_clients_gone_total") == 2


async def test_a_stream_has_a_time_of_its_own_to_be_silent() -> None:
    server = Upstream("a")

    async def answer(_: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % CHUNKED)
        await reader.read()

    server.answer = answer
    async with balanced(server, LB_STREAM_TIMEOUT="1", LB_RESPONSE_TIMEOUT="3600") as balancer:
        client = await balancer.client()
        client.writer.write(GET)
        await read_head(client.reader)
        with pytest.raises(ConnectionResetError):
            await client.rest()

        async def is_closed() -> bool:
            return server.closed == 1

        await balancer.until(is_closed)


async def test_a_path_has_servers_of_its_own_and_nobody_hears_of_their_death() -> None:
    shop, viewers = Upstream("shop"), Upstream("viewers")
    await shop.start()
    await viewers.start()
    servers = f"shop=127.0.0.1:{shop.port},viewers=127.0.0.1:{viewers.port}/stock/stream"
    async with balanced(shop, viewers, LB_SERVERS=servers) as balancer:

        async def served_by(target: bytes) -> bytes:
            answer = await balancer.ask(GET.replace(b"/stock/stream", target))
            assert answer.status == 200
            return answer.body

        for _ in range(3):
            assert await served_by(b"/stock/stream?sku=a") == b"viewers"
            assert await served_by(b"/stock/a") == b"shop"
        await viewers.kill()
        for _ in range(3):  # found out by asking, which nobody is told
            assert await served_by(b"/stock/stream?sku=a") == b"shop"
        await viewers.start()

        async def are_back() -> bool:
            return await served_by(b"/stock/stream") == b"viewers"

        await balancer.until(are_back)
