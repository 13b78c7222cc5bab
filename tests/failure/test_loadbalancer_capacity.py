# More requests than servers may have at once: they wait in a queue, and its end is known beforehand.
import asyncio
import json

from tests.balanced import PROBLEM, Balancer, Client, Message, Upstream, balanced, ok

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
LONG = "60"  # a queue's deadline that no test waits for
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def get(target: str, *fields: str) -> bytes:
    lines = "".join(f"{field}\r\n" for field in fields)
    return f"GET {target} HTTP/1.1\r\nHost: shop\r\n{lines}\r\n".encode()


class Busy:
    """Answers when told to, and knows how many it has."""

    def __init__(self, *servers: Upstream) -> None:
        self.working = 0
        self.peak = 0
        self.came: list[str] = []
        self._places = asyncio.Semaphore(0)
        for server in servers:
            server.answer = self

    async def __call__(self, request: Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.append(request.target)
        self.working += 1
        self.peak = max(self.peak, self.working)
        try:
            await self._places.acquire()
        finally:
            self.working -= 1
        if request.target == "/reset" and self.came.count("/reset") == 1:
            writer.transport.abort()
        elif request.target.startswith("/stream"):
            writer.write(STREAM_HEAD + b"data: 1\n\n")
            await writer.drain()
            await reader.read()
        else:
            writer.write(ok(request.target.encode()))

    def let(self, count: int = 1) -> None:
        for _ in range(count):
            self._places.release()


async def queued(balancer: Balancer, count: int) -> None:
    async def are() -> bool:
        return await balancer.metric("loadbalancer_queued") == count

    await balancer.until(are)


async def at_rest(balancer: Balancer) -> None:
    async def is_at_rest() -> bool:
        names = ("loadbalancer_queued", "loadbalancer_server_active", "loadbalancer_server_streams")
        return [await balancer.metric(name) for name in names] == [0, 0, 0]

    await balancer.until(is_at_rest)


async def send(balancer: Balancer, *requests: bytes) -> list[Client]:
    clients = []
    for request in requests:
        client = await balancer.client()
        client.writer.write(request)
        clients.append(client)
    return clients


async def send_in_turn(balancer: Balancer, already: int, *requests: bytes) -> list[Client]:
    clients = []
    for number, request in enumerate(requests, 1):
        clients += await send(balancer, request)
        await queued(balancer, already + number)
    return clients


async def test_a_server_never_has_more_than_its_limit_and_everybody_is_answered() -> None:
    server = Upstream("a")
    working = peak = 0

    async def answer(_: Message, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal working, peak
        working += 1
        peak = max(peak, working)
        await asyncio.sleep(0.001)
        working -= 1
        writer.write(ok(b"done"))

    server.answer = answer
    async with balanced(server, LB_MAXCONN="3", LB_QUEUE_TIMEOUT=LONG) as balancer:
        clients = [await balancer.client() for _ in range(40)]

        async def ask(client: Client) -> None:
            for _ in range(10):
                assert (await client.ask(GET)).body == b"done"

        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(ask(client))
        assert peak == 3
        assert await balancer.metric("loadbalancer_server_peak") == 3
        assert server.connections == 3, "who waited has the connection of who made room"
        await at_rest(balancer)


async def test_who_came_first_goes_first() -> None:
    server = Upstream("a")
    busy = Busy(server)
    async with balanced(server, LB_MAXCONN="1", LB_QUEUE_TIMEOUT=LONG) as balancer:
        clients = await send(balancer, get("/first"))

        async def has_come() -> bool:
            return busy.working == 1

        await balancer.until(has_come)
        targets = [f"/{number}" for number in range(8)]
        clients += await send_in_turn(balancer, 0, *map(get, targets))
        busy.let(9)
        assert [(await client.answer()).body.decode() for client in clients] == ["/first", *targets]
        assert busy.came == ["/first", *targets]
        assert busy.peak == 1


async def test_who_leaves_the_queue_is_never_seen_by_a_server() -> None:
    server = Upstream("a")
    busy = Busy(server)
    async with balanced(server, LB_MAXCONN="1", LB_QUEUE_TIMEOUT=LONG) as balancer:
        first, gone, last = await send_all(balancer, busy, "/first", "/gone", "/last")
        gone.leave()
        await queued(balancer, 1)
        busy.let(2)
        assert [(await client.answer()).body for client in (first, last)] == [b"/first", b"/last"]
        assert busy.came == ["/first", "/last"]
        await at_rest(balancer)


async def send_all(balancer: Balancer, busy: Busy, first: str, *others: str) -> list[Client]:
    """The first is at work, the others wait."""
    clients = await send(balancer, get(first))

    async def is_at_work() -> bool:
        return busy.working == 1

    await balancer.until(is_at_work)
    return clients + await send_in_turn(balancer, 0, *map(get, others))


async def test_who_waits_in_vain_is_told_that_nothing_was_promised_and_when_to_come_back() -> None:
    server = Upstream("a")
    busy = Busy(server)
    async with balanced(server, LB_MAXCONN="1", LB_QUEUE_TIMEOUT="0.5") as balancer:
        (first,) = await send_all(balancer, busy, "/first")
        (late,) = await send(balancer, get("/late"))
        answer = await late.answer()
        assert (answer.status, answer.fields["content-type"], answer.fields["retry-after"]) == (503, PROBLEM, "1")
        assert json.loads(answer.body)["type"] == "/problems/nothing_promised"
        assert "full for too long; nothing was promised" in json.loads(answer.body)["detail"]
        assert await balancer.metric("loadbalancer_queue_late_total") == 1
        late.writer.write(get("/again"))  # its connection goes on
        assert (await late.answer()).status == 503
        busy.let()
        assert (await first.answer()).body == b"/first"
        assert busy.came == ["/first"]
        await at_rest(balancer)


async def test_past_the_queues_length_the_refusal_is_immediate() -> None:
    server = Upstream("a")
    busy = Busy(server)
    async with balanced(server, LB_MAXCONN="1", LB_QUEUE="1", LB_QUEUE_TIMEOUT=LONG) as balancer:
        first, second = await send_all(balancer, busy, "/first", "/second")
        refused = await balancer.ask(get("/refused"))
        assert (refused.status, refused.fields["retry-after"]) == (503, "1")
        assert "nothing was promised" in json.loads(refused.body)["detail"]
        assert await balancer.metric("loadbalancer_queue_refused_total") == 1
        busy.let(2)
        assert [(await client.answer()).body for client in (first, second)] == [b"/first", b"/second"]


async def test_streams_and_long_polls_take_nobodys_place_and_a_purchase_that_waits_does() -> None:
    server = Upstream("a")
    busy = Busy(server)
    async with balanced(server, LB_MAXCONN="1", LB_QUEUE_TIMEOUT=LONG) as balancer:
        for number in range(3):
            (viewer,) = await send(balancer, get(f"/stream/{number}"))
            busy.let()
            await viewer.reader.readuntil(b"data: 1\n\n")
        (poll,) = await send(balancer, get("/poll", "Prefer: respond-async, wait=10"))

        async def are_apart() -> bool:
            return await balancer.metric("loadbalancer_server_streams") == 4

        await balancer.until(are_apart)
        assert await balancer.metric("loadbalancer_server_active") == 0
        (buying,) = await send(
            balancer, b"POST / HTTP/1.1\r\nHost: shop\r\nPrefer: wait=10\r\nContent-Length: 0\r\n\r\n"
        )

        async def is_there() -> bool:
            return busy.came[-1] == "/"

        await balancer.until(is_there)
        assert await balancer.metric("loadbalancer_server_active") == 1
        (second,) = await send_in_turn(balancer, 0, get("/second"))
        busy.let(3)
        assert [(await client.answer()).body for client in (poll, buying, second)] == [b"/poll", b"/", b"/second"]
        for client in balancer.clients:
            client.leave()
        await at_rest(balancer)


async def test_a_place_is_given_back_however_the_request_ends() -> None:
    server = Upstream("a")
    busy = Busy(server)
    # so long that who is at work is not late before who waits behind it is seen in the queue
    limits = {"LB_MAXCONN": "1", "LB_QUEUE_TIMEOUT": LONG, "LB_RESPONSE_TIMEOUT": "10"}
    async with balanced(server, **limits) as balancer:
        # the server resets; the client leaves; the server says nothing
        (reset,) = await send(balancer, get("/reset"))
        busy.let()
        assert (await reset.answer()).status == 502
        (gone,) = await send_all(balancer, busy, "/gone")
        (waiting,) = await send_in_turn(balancer, 0, get("/waiting"))
        gone.leave()

        async def has_come() -> bool:
            return busy.came[-1] == "/waiting"

        await balancer.until(has_come)
        assert (await waiting.answer()).status == 504
        await at_rest(balancer)
        busy.let(10)
        assert (await balancer.ask(get("/fine"))).body == b"/fine"


async def test_who_is_sent_again_goes_behind_those_who_wait() -> None:
    server = Upstream("a")
    busy = Busy(server)
    async with balanced(server, LB_MAXCONN="1", LB_QUEUE_TIMEOUT=LONG) as balancer:
        busy.let()
        assert (await balancer.ask(get("/warm"))).body == b"/warm"  # leaves a connection, whose loss says little
        reset, waiting = await send_all(balancer, busy, "/reset", "/waiting")
        busy.let(3)
        assert [(await client.answer()).body for client in (reset, waiting)] == [b"/reset", b"/waiting"]
        assert busy.came == ["/warm", "/reset", "/waiting", "/reset"]
        assert (busy.peak, await balancer.metric("loadbalancer_server_peak")) == (1, 1)


async def test_who_waits_gets_the_server_that_comes_back() -> None:
    servers = [Upstream("a"), Upstream("b")]
    busy = Busy(*servers)
    async with balanced(*servers, LB_MAXCONN="1", LB_QUEUE_TIMEOUT=LONG) as balancer:
        await balancer.admin("/servers/b/drain")
        await send_all(balancer, busy, "/first", "/second")
        await balancer.admin("/servers/b/undrain")

        async def has_come() -> bool:
            return busy.came == ["/first", "/second"]

        await balancer.until(has_come)
        assert [request.target for request in servers[1].requests] == ["/second"]
        assert await balancer.metric("loadbalancer_queued") == 0


async def test_one_address_may_not_have_every_connection() -> None:
    async with balanced(Upstream("a"), LB_CLIENT_MAX="2") as balancer:
        first = [await balancer.client() for _ in range(2)]
        assert [(await client.ask(GET)).status for client in first] == [200, 200]
        refused = await (await balancer.client()).answer()
        assert (refused.status, refused.fields["retry-after"], refused.fields["connection"]) == (429, "1", "close")
        assert "nothing was promised" in json.loads(refused.body)["detail"]
        assert await balancer.metric("loadbalancer_address_refused_total") == 1
        other = Client(*await asyncio.open_connection("127.0.0.1", balancer.port, local_addr=("127.0.0.2", 0)))
        balancer.clients.append(other)
        assert (await other.ask(GET)).status == 200
        first[0].leave()

        async def is_taken() -> bool:
            return (await balancer.ask(GET)).status == 200

        await balancer.until(is_taken)
