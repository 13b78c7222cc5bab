# The law of sending again, by death: a server dies at each byte of the request it reads and of the answer it writes.
import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

import pytest

from loadbalancer.retry import RESERVE
from tests.balanced import Balancer, Message, balanced, ok
from tests.recorder import Heard, answers, deliver, take
from tests.servers import free_port

How = Literal["FIN", "RST"]

KEY = b"Idempotency-Key: 0123456789abcdef\r\n"
CLOSE = b"Host: shop\r\nConnection: close\r\n"
BY_LENGTH = b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nheld"
IN_CHUNKS = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nheld\r\n0\r\n\r\n"
TO_THE_END = b"HTTP/1.1 201 Created\r\n\r\nheld"


class Kind(NamedTuple):
    """A request, the answer it gets, and what the law says of sending it again."""

    request: bytes
    answer: bytes
    may_resend: bool

    @property
    def head_bytes(self) -> int:
        """Of the answer: once so much of it has come, something of it is on its way to the client."""
        return self.answer.index(b"\r\n\r\n") + 4


KINDS = {
    "a purchase without a key": Kind(
        b"POST /purchases HTTP/1.1\r\n" + CLOSE + b"Content-Length: 2\r\n\r\n{}", BY_LENGTH, may_resend=False
    ),
    "a purchase with a key": Kind(
        b"POST /purchases HTTP/1.1\r\n" + CLOSE + KEY + b"Content-Length: 2\r\n\r\n{}", IN_CHUNKS, may_resend=True
    ),
    "a key where nobody promised anything": Kind(
        b"POST /other HTTP/1.1\r\n" + CLOSE + KEY + b"Content-Length: 2\r\n\r\n{}", BY_LENGTH, may_resend=False
    ),
    "a question": Kind(b"GET /stock HTTP/1.1\r\n" + CLOSE + b"\r\n", BY_LENGTH, may_resend=True),
    "a question answered to the end": Kind(b"GET /sales HTTP/1.1\r\n" + CLOSE + b"\r\n", TO_THE_END, may_resend=True),
}


@dataclass
class Trial:
    """Whoever gets the first request of a trial dies of it; whoever gets another lives."""

    answer: bytes = BY_LENGTH
    reads: int | None = None  # bytes of the request, then death; None: all of it
    writes: int | None = None  # bytes of the answer, then death; None: no death; below 0: all but so many
    how: How = "FIN"
    came: list[bytes] = field(default_factory=list)  # every request
    arrivals: list[bytes] = field(default_factory=list)  # what was read of each
    executed: int = 0  # requests that were whole


class Mortal:
    """A server on bare sockets, which can stop reading and writing at any byte."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.trial = Trial()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> Self:
        """Listen."""
        self.port = free_port()
        listener = socket.create_server(("127.0.0.1", self.port))
        listener.setblocking(False)
        self._spawn(listener)
        return self

    async def kill(self) -> None:
        """Listen no more."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, found: socket.socket, *, is_client: bool = False) -> None:
        task = asyncio.create_task(self._serve(found) if is_client else self._accept(found))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                client, _ = await asyncio.get_running_loop().sock_accept(listener)
                client.setblocking(False)
                self._spawn(client, is_client=True)

    async def _serve(self, client: socket.socket) -> None:
        with client:
            while await _readable(client):
                # The balancer's write is one, and small: what is there is all there will be.
                request = client.recv(65_536, socket.MSG_PEEK)
                if not request:
                    return
                if request.startswith(b"GET /livez "):
                    client.recv(65_536)
                    client.send(ok())
                    continue
                trial = self.trial
                trial.came.append(request)
                is_first = not trial.arrivals
                dies_reading = is_first and trial.reads is not None
                request = client.recv(trial.reads or 0) if dies_reading else client.recv(65_536)
                trial.arrivals.append(request)
                if not dies_reading:
                    taken = take(request)
                    assert taken is not None
                    trial.executed += 1
                    numbers = [b"Link-Sequence: %b\r\n" % number for number in taken[0].values(b"link-sequence")]
                    answer = trial.answer.replace(b"\r\n", b"\r\n" + b"".join(numbers), 1)
                    client.send(answer[: trial.writes] if is_first and trial.writes is not None else answer)
                if dies_reading or (is_first and trial.writes is not None):
                    await _die(client, trial.how)
                    return
                if trial.answer is TO_THE_END:
                    await _die(client, "FIN")
                    return


async def _readable(client: socket.socket) -> bool:
    loop = asyncio.get_running_loop()
    there = asyncio.Event()
    loop.add_reader(client, there.set)
    try:
        return await there.wait()
    finally:
        loop.remove_reader(client)


async def _die(client: socket.socket, how: How) -> None:
    if how == "RST":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return
    client.shutdown(socket.SHUT_WR)  # to close with bytes unread would be a reset
    try:
        while await asyncio.get_running_loop().sock_recv(client, 65_536):
            pass
    except OSError:
        pass


async def play(balancer: Balancer, servers: list[Mortal], kind: Kind, trial: Trial) -> tuple[list[Heard], bytes]:
    """One request; the whole answers, and what came of another."""
    for server in servers:
        server.trial = trial
    return answers(await deliver(balancer.port, [kind.request]))


def deaths(kind: Kind, size: int) -> Iterator[tuple[int | None, int | None]]:
    """(bytes read, bytes written): every one of a request of ``size``, then every one of its answer."""
    yield from ((reads, None) for reads in range(size))
    yield from ((None, writes) for writes in range(len(kind.answer)))


def is_marked(request: bytes) -> bool:
    return b"\r\nRetry-Attempt: 1\r\n" in request


def judge(kind: Kind, trial: Trial, heard: list[Heard], rest: bytes) -> None:
    """What the law says of this death."""
    begun = trial.writes is not None and trial.writes >= kind.head_bytes
    again = kind.may_resend and not begun
    assert len(trial.arrivals) == 1 + again
    assert [is_marked(request) for request in trial.arrivals] == [False, True][: 1 + again]
    assert trial.executed == (trial.reads is None) + again
    if again:
        assert [(each.status, each.body, rest) for each in heard] == [(201, b"held", b"")], "one verdict"
    elif not begun:
        assert [(each.status, rest) for each in heard] == [(502, b"")]
        assert json.loads(heard[0].body)["type"] == "/problems/unknown"
    elif kind.answer is TO_THE_END and trial.how == "FIN":
        assert [each.body for each in heard] == [kind.answer[kind.head_bytes : trial.writes]], "nobody could know"
    else:
        assert heard == [], "half an answer is none"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("is_kept", [False, True], ids=["a fresh connection", "a kept one"])
async def test_a_server_may_die_at_any_byte(kind: Kind, *, is_kept: bool) -> None:
    servers = [Mortal("a"), Mortal("b")]
    pool = "256" if is_kept else "0"
    environ = {"LB_POOL_SIZE": pool, "LB_POOL_TIMEOUT": "3600", "LB_CHECK_INTERVAL": "3600", "LB_RETRY_BUDGET": "100"}
    async with balanced(*servers, **environ) as balancer:
        well = Trial(kind.answer)
        for _ in servers:
            await play(balancer, servers, kind, well)
        (size,) = {len(request) for request in well.arrivals}
        for reads, writes in deaths(kind, size):
            hows: tuple[How, ...] = ("FIN", "RST")
            if is_kept:  # the way to die changes nothing here that it does not change there
                hows = (hows[((reads or 0) + (writes or 0)) % 2],)
                for _ in servers:
                    await play(balancer, servers, kind, Trial(kind.answer))
            for how in hows:
                trial = Trial(kind.answer, reads, writes, how)
                heard, rest = await play(balancer, servers, kind, trial)
                try:
                    judge(kind, trial, heard, rest)
                except AssertionError as error:
                    raise AssertionError(f"read {reads}, written {writes}, {how}: {heard}, {rest!r}") from error


def is_numbered(request: bytes) -> bool:
    return b"\r\nLink-Sequence: " in request


@pytest.mark.parametrize("is_keyed", [True, False], ids=["with a key", "without"])
async def test_a_server_may_die_at_any_byte_of_a_link(*, is_keyed: bool) -> None:
    servers = [Mortal("a"), Mortal("b")]
    key = KEY if is_keyed else b""
    request = b"POST /purchases HTTP/1.1\r\nHost: shop\r\n" + key + b"Content-Length: 2\r\n\r\n{}"
    environ = {"LB_LINK": "POST /purchases", "LB_CHECK_INTERVAL": "3600", "LB_RETRY_BUDGET": "100"}
    async with balanced(*servers, **environ) as balancer:
        client = await balancer.client()

        async def ask(trial: Trial) -> Message:
            for server in servers:
                server.trial = trial
            return await client.ask(request)

        async def are_linked() -> bool:
            well = Trial()
            for _ in servers:
                await ask(well)
            return all(map(is_numbered, well.came))

        reads = [(reads, None) for reads in range(len(request))]
        writes = [(None, -left) for left in range(1, len(BY_LENGTH) + len("Link-Sequence: 10000000000\r\n"))]
        for number, (read, written) in enumerate([*reads, *writes]):
            await balancer.until(are_linked)
            trial = Trial(BY_LENGTH, read, written, "RST" if number % 2 else "FIN")
            answer = await ask(trial)
            assert is_numbered(trial.came[0])
            assert [is_marked(each) for each in trial.arrivals] == [False, True][: 1 + is_keyed]
            assert trial.executed == (read is None) + is_keyed
            assert (answer.status, answer.body == b"held") == ((201, True) if is_keyed else (502, False))


async def test_no_death_gets_more_than_the_budget() -> None:
    kind = KINDS["a purchase with a key"]
    servers = [Mortal("a"), Mortal("b")]
    async with balanced(*servers, LB_CHECK_INTERVAL="3600", LB_RETRY_BUDGET="20") as balancer:
        told: Counter[int] = Counter()
        again = 0
        for number, (reads, writes) in enumerate(deaths(kind, 60), 1):
            if writes is not None and writes >= kind.head_bytes:
                break
            trial = Trial(kind.answer, reads, writes, "RST")
            (answer,), _ = await play(balancer, servers, kind, trial)
            told[answer.status] += 1
            assert (answer.status == 201) is (len(trial.arrivals) == 2)
            again += len(trial.arrivals) - 1
            assert again <= RESERVE + 0.2 * number
        assert told[201] == again
        assert told[502] == await balancer.metric("loadbalancer_retry_budget_empty_total") > 0
