# The shared link over real sockets: who hears what when a server answers out of turn, dies in the middle, or does not know links.
import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.balanced import Balancer, Message, Upstream, balanced, ok, read_body, read_head
from tests.patience import PATIENCE_SECONDS

LINK = {"LB_LINK": "POST /purchases"}


def post(name: str, *, is_keyed: bool = True) -> bytes:
    key = b"Idempotency-Key: %b\r\n" % name.encode() if is_keyed else b""
    return b"POST /purchases HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n%b\r\n%b" % (len(name), key, name.encode())


def numbered(head: Message, body: bytes) -> bytes:
    return (
        ok(body, b"Link-Sequence: " + head.fields["link-sequence"].encode())
        if "link-sequence" in head.fields
        else ok(body)
    )


class Linked(Upstream):
    """Works on all requests of a connection side by side, and answers each, with its number, when ``work`` is done."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.linked = 0  # requests that came with a number
        self.work: Callable[[Message], Awaitable[None]] = self._at_once

    async def _at_once(self, _: Message) -> None:
        """There is nothing to do."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                head = await read_head(reader)
                head = head._replace(body=await read_body(reader, head))
                if head.target == "/livez":
                    writer.write(ok())
                    continue
                self.requests.append(head)
                self.linked += "link-sequence" in head.fields
                tasks.add(asyncio.create_task(self._answer(head, writer)))
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, head: Message, writer: asyncio.StreamWriter) -> None:
        await self.work(head)
        writer.write(numbered(head, head.body))


@contextlib.asynccontextmanager
async def linked(server: Linked, *others: Upstream, **environ: str) -> AsyncIterator[Balancer]:
    """A balancer whose link to ``server`` is proven."""
    async with balanced(server, *others, **LINK, **environ) as balancer:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while server.linked < 2:  # the first of them was alone on it
                assert (await balancer.ask(post("warm-up-warm-up-"))).status == 200
        for each in (server, *others):  # the others had their share of these
            each.requests.clear()
        server.linked = 0
        yield balancer


async def test_a_refusal_does_not_wait_behind_a_commit() -> None:
    server, go_on = Linked("a"), asyncio.Event()

    async def slow_for_the_first(head: Message) -> None:
        if head.body == b"slow":
            await go_on.wait()

    async with linked(server) as balancer:
        server.work = slow_for_the_first
        slow = asyncio.create_task(balancer.ask(post("slow")))
        while not server.requests:
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(*(balancer.ask(post(f"quick-{n}")) for n in range(20)))
        assert [answer.body for answer in answers] == [b"quick-%d" % n for n in range(20)]
        assert not slow.done()
        go_on.set()
        assert (await slow).body == b"slow"
        assert server.linked == 21
        assert all("link-sequence" not in answer.fields for answer in answers)
        assert await balancer.metric("loadbalancer_server_active") == 0


async def test_when_a_link_breaks_each_of_its_requests_falls_under_the_law() -> None:
    server, other = Linked("a"), Linked("b")

    async def never(_: Message) -> None:
        await asyncio.Event().wait()

    async with linked(server, other) as balancer:
        server.work = other.work = never
        keyed = [asyncio.create_task(balancer.ask(post(f"key-{n:012}"))) for n in range(5)]
        bare = [asyncio.create_task(balancer.ask(post(f"bare-{n}", is_keyed=False))) for n in range(5)]
        while len(server.requests) + len(other.requests) < 10:
            await asyncio.sleep(0.01)
        there = [request.body for request in server.requests]
        other.work = other._at_once
        await server.kill()
        lost = [task for n, task in enumerate(bare) if b"bare-%d" % n in there]
        again = [task for n, task in enumerate(keyed) if b"key-%012d" % n in there]
        assert lost
        assert again
        assert {(await task).status for task in lost} == {502}
        for task in again:
            answer = await task
            [request] = [request for request in other.requests if request.body == answer.body]
            assert request.fields["retry-attempt"] == "1"
            assert "link-sequence" not in request.fields, "what was sent before is not sent among others"
        for task in (*keyed, *bare):
            task.cancel()  # those that the other server never answers
        await asyncio.gather(*keyed, *bare, return_exceptions=True)


async def test_a_server_that_answers_with_another_s_number_is_not_believed() -> None:
    server = Linked("a")
    async with linked(server, LB_RETRIES="0") as balancer:

        async def swap(head: Message) -> None:
            head.fields["link-sequence"] = str(int(head.fields["link-sequence"]) + 1)

        server.work = swap
        answer = await balancer.ask(post("mine"))
        assert (answer.status, b"mine" in answer.body) == (502, False)
        assert await balancer.metric("loadbalancer_link_breaks_total", server="a") == 1


async def test_a_server_that_knows_no_links_is_served_as_before() -> None:
    server = Upstream("a")

    async def echo(head: Message, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(head.body))

    server.answer = echo
    async with balanced(server, **LINK) as balancer:
        for round_ in range(5):
            answers = await asyncio.gather(*(balancer.ask(post(f"{round_}-{n}")) for n in range(10)))
            assert [answer.body for answer in answers] == [b"%d-%d" % (round_, n) for n in range(10)]
        assert sum("link-sequence" in request.fields for request in server.requests) <= 1
        assert await balancer.metric("loadbalancer_link_breaks_total") == 0


async def test_a_client_that_leaves_takes_nobody_with_it() -> None:
    server, go_on = Linked("a"), asyncio.Event()

    async def wait(_: Message) -> None:
        await go_on.wait()

    async with linked(server) as balancer:
        server.work = wait
        leaver = await balancer.client()
        leaver.writer.write(post("leaver"))
        stayer = asyncio.create_task(balancer.ask(post("stayer")))
        while len(server.requests) < 2:
            await asyncio.sleep(0.01)
        leaver.leave()

        async def is_gone() -> bool:
            return await balancer.metric("loadbalancer_clients_gone_total") == 1

        await balancer.until(is_gone)
        go_on.set()
        assert (await stayer).body == b"stayer"
        assert server.linked == 2


async def test_an_answer_that_is_late_is_told_so_and_the_others_are_not() -> None:
    server, go_on = Linked("a"), asyncio.Event()

    async def wait(head: Message) -> None:
        if head.body == b"late":
            await go_on.wait()

    async with linked(server, LB_RESPONSE_TIMEOUT="4") as balancer:  # in which the link is made, too
        server.work = wait
        late = asyncio.create_task(balancer.ask(post("late")))
        while not server.requests:
            await asyncio.sleep(0.01)
        answer = await balancer.ask(post("quick"))
        assert answer.status in {200, 504}  # that may be too little for a machine that has much to do
        assert (await late).status == 504
        go_on.set()


@pytest.mark.parametrize("body", [b"x" * 20_000, b"{}"])
async def test_what_is_large_or_not_plain_takes_a_connection_of_its_own(body: bytes) -> None:
    server = Linked("a")
    async with linked(server) as balancer:
        fields = b"TE: trailers\r\nConnection: te\r\n" if body == b"{}" else b""
        head = b"POST /purchases HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n%b\r\n" % (len(body), fields)
        answer = await balancer.ask(head + body)
        assert (answer.body, server.linked) == (body, 0)


async def test_the_balancer_stops_without_losing_what_is_out_on_a_link() -> None:
    server, go_on = Linked("a"), asyncio.Event()

    async def wait(_: Message) -> None:
        await go_on.wait()

    async with linked(server) as balancer:
        idle = await balancer.client()
        assert (await idle.ask(post("before"))).body == b"before"
        server.requests.clear()
        server.work = wait
        asked = [asyncio.create_task(balancer.ask(post(f"key-{n}"))) for n in range(10)]
        while len(server.requests) < 10:
            await asyncio.sleep(0.01)
        balancer.terminate()
        assert await idle.rest() == b"", "who is idle is let go at once"
        go_on.set()
        answers = await asyncio.gather(*asked)
        assert [(answer.body, answer.fields["connection"]) for answer in answers] == [
            (b"key-%d" % n, "close") for n in range(10)
        ]
