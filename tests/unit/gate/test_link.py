"""The pipelined connection, against a Redis that does exactly what the test says."""

import asyncio
import time
from collections.abc import AsyncIterator

import hiredis
import pytest
import uvloop

from flashsale.gate import link as link_module
from flashsale.gate.client import Gate, GateAnswer
from flashsale.gate.link import GateDamaged, GateUnavailable, Link
from tests.patience import PATIENCE_SECONDS

SCRIPTS = {"echo": "return ARGV[1]"}
DEADLINE_SECONDS = 0.2  # for who waits for it


class FakeRedis:
    """Answers the handshake; what else arrives is kept, read by read, and answered by the test."""

    def __init__(self) -> None:
        self.run_id = "a" * 40
        self.reads: list[list[bytes]] = []  # arguments of the calls that came in one read
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()
        self.accepted = 0
        self.greets = asyncio.Event()
        self.greets.set()
        self.url = ""
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def answer(self, data: bytes) -> None:
        self._writers[-1].write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        parser = hiredis.Reader()
        while data := await reader.read(65_536):
            parser.feed(data)
            calls = []
            while (command := parser.gets()) is not False:
                if command[0] == b"SCRIPT":
                    writer.write(b"+0123\r\n")
                elif command[0] == b"INFO":
                    await self.greets.wait()
                    info = f"# Server\r\nrun_id:{self.run_id}\r\n".encode()
                    writer.write(b"$%d\r\n%s\r\n" % (len(info), info))
                else:
                    calls.append(command[-1])
            if calls:
                self.reads.append(calls)
        writer.close()


@pytest.fixture
async def redis() -> AsyncIterator[FakeRedis]:
    fake = FakeRedis()
    await fake.open()
    yield fake
    await fake.close()


@pytest.fixture
async def link(redis: FakeRedis) -> AsyncIterator[Link]:
    made = Link(redis.url, SCRIPTS, PATIENCE_SECONDS)
    await made.open()
    yield made
    await made.close()


async def until(condition: object, seconds: float = PATIENCE_SECONDS) -> None:
    """Poll until the callable is true."""
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


async def test_calls_of_one_loop_turn_leave_in_one_write_and_replies_find_their_callers(
    redis: FakeRedis, link: Link
) -> None:
    replies = [link.call("echo", b"k", [word]) for word in ("one", "two", "three")]
    await until(lambda: redis.reads)
    assert redis.reads == [[b"one", b"two", b"three"]]
    redis.answer(b"+1\r\n+2\r\n:3\r\n")
    assert await asyncio.gather(*replies) == [b"1", b"2", 3]


async def test_a_cancelled_callers_reply_keeps_its_place(redis: FakeRedis, link: Link) -> None:
    gone, stays = link.call("echo", b"k", ["gone"]), link.call("echo", b"k", ["stays"])
    gone.cancel()
    await until(lambda: redis.reads)
    redis.answer(b"+gone\r\n+stays\r\n")
    assert await stays == b"stays"


async def test_one_who_fails_to_hear_a_reply_is_not_in_the_way_of_the_others(redis: FakeRedis, link: Link) -> None:
    heard: list[object] = []
    failed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context["exception"]))

    def fail(answer: object) -> None:
        heard.append(answer)
        raise ZeroDivisionError

    for hear in (fail, heard.append):
        link.send("echo", b"k", ["word"], hear)
    await until(lambda: redis.reads)
    redis.answer(b"+1\r\n+2\r\n")
    await until(lambda: len(heard) == 2)
    link.send("echo", b"k", ["word"], fail)
    redis.hang_up()
    await until(lambda: len(heard) == 3)
    await until(lambda: link.run_id)
    assert heard[:2] == [b"1", b"2"]
    assert isinstance(heard[2], GateUnavailable)
    assert [type(error) for error in failed] == [ZeroDivisionError] * 2


async def test_an_answer_that_nobody_can_read_is_none(redis: FakeRedis) -> None:
    gate = Gate(Link(redis.url, {"reserve": "return ARGV[1]"}, PATIENCE_SECONDS))
    await gate._link.open()
    heard: list[object] = []
    for _ in range(3):
        gate.ask("s", 1, 2, "ana", (), hear=heard.append)
    await until(lambda: redis.reads)
    redis.answer(b"*2\r\n$4\r\nwhat\r\n:1\r\n+word\r\n*2\r\n$8\r\nsold_out\r\n:1\r\n")
    await until(lambda: len(heard) == 3)
    assert [type(answer) for answer in heard] == [GateUnavailable, GateUnavailable, GateAnswer]
    await gate.close()


async def test_an_error_is_its_callers_alone(redis: FakeRedis, link: Link) -> None:
    bad, good = link.call("echo", b"k", ["bad"]), link.call("echo", b"k", ["good"])
    await until(lambda: redis.reads)
    redis.answer(b"-OOM command not allowed\r\n+good\r\n")
    with pytest.raises(GateUnavailable, match="OOM"):
        await bad
    assert await good == b"good"
    assert redis.accepted == 1


@pytest.mark.parametrize(
    ("reply", "damaged"),
    [
        ("WRONGTYPE Operation against a key holding the wrong kind of value script: 0123, on @user_script:1.", True),
        ("ERR user_script:1: attempt to perform arithmetic on a nil value script: 0123, on @user_script:1.", True),
        ("ERR hash value is not an integer script: 0123, on @user_script:1.", True),
        ("OOM command not allowed when used memory > 'maxmemory'. script: 0123, on @user_script:1.", False),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", False),
        ("READONLY You can't write against a read only replica.", False),
        ("BUSY Redis is busy running a script.", False),
        ("NOPERM User default has no permissions to run the 'evalsha' command", False),
    ],
)
async def test_only_a_scripts_own_failure_is_damage(redis: FakeRedis, link: Link, reply: str, *, damaged: bool) -> None:
    call = link.call("echo", b"k", ["one"])
    await until(lambda: redis.reads)
    redis.answer(f"-{reply}\r\n".encode())
    with pytest.raises(GateUnavailable) as raised:
        await call
    assert isinstance(raised.value, GateDamaged) is damaged
    assert redis.accepted == 1


async def test_silence_ends_everything_in_flight_and_nothing_is_sent_again(redis: FakeRedis) -> None:
    link = Link(redis.url, SCRIPTS, DEADLINE_SECONDS)
    await link.open()
    began = time.monotonic()
    calls = [link.call("echo", b"k", ["one"]), link.call("echo", b"k", ["two"])]
    for call in calls:
        with pytest.raises(GateUnavailable, match="did not answer"):
            await call
    assert time.monotonic() - began >= DEADLINE_SECONDS
    await until(lambda: link.run_id)
    assert redis.accepted == 2
    assert redis.reads == [[b"one", b"two"]]
    await link.close()


async def test_who_accepts_and_does_not_greet_is_not_called_until_it_does(
    redis: FakeRedis, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A Redis that is slow fails its handshake too: that is eight answers, one after the other.
    monkeypatch.setattr(link_module, "CONNECT_SECONDS_MAX", 0.05)
    redis.greets.clear()
    redis.hang_up()
    await until(lambda: redis.accepted >= 3)
    with pytest.raises(GateUnavailable, match="not connected"):
        link.call("echo", b"k", ["one"])  # no future to wait for
    monkeypatch.setattr(link_module, "CONNECT_SECONDS_MAX", PATIENCE_SECONDS)
    redis.greets.set()
    await until(lambda: link.run_id)
    call = link.call("echo", b"k", ["two"])
    await until(lambda: redis.reads)
    redis.answer(b"+2\r\n")
    assert await call == b"2"
    assert redis.reads == [[b"two"]]


async def test_a_broken_connection_fails_calls_at_once_and_the_next_has_the_new_run_id(
    redis: FakeRedis, link: Link
) -> None:
    call = link.call("echo", b"k", ["one"])
    await until(lambda: redis.reads)
    redis.run_id = "b" * 40
    redis.hang_up()
    with pytest.raises(GateUnavailable):
        await call
    await until(lambda: link.run_id)
    assert link.run_id == "b" * 40


async def test_after_an_error_that_ends_the_connection_no_reply_finds_the_wrong_caller() -> None:
    taken: list[object] = []

    def take(answer: object) -> None:
        if isinstance(answer, hiredis.ReplyError):
            raise answer
        taken.append(answer)

    replies = link_module._Replies(take)
    replies.data_received(b"+one\r\n-NOSCRIPT No matching script\r\n+two\r\n")
    replies.data_received(b"+three\r\n")
    assert taken == [b"one"]
    assert "NOSCRIPT" in str(await replies.ended)


async def test_what_is_no_reply_ends_the_connection(redis: FakeRedis, link: Link) -> None:
    call = link.call("echo", b"k", ["one"])
    await until(lambda: redis.reads)
    redis.answer(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(GateUnavailable):
        await call
    await until(lambda: redis.accepted == 2 and link.run_id)


async def test_flushed_scripts_are_loaded_again_by_a_new_connection(redis: FakeRedis, link: Link) -> None:
    call = link.call("echo", b"k", ["one"])
    await until(lambda: redis.reads)
    redis.answer(b"-NOSCRIPT No matching script. Please use EVAL.\r\n")
    with pytest.raises(GateUnavailable):
        await call
    await until(lambda: link.run_id)
    assert redis.accepted == 2


@pytest.mark.parametrize("option", ["max_connections=10", "foo=1", "db=x", "parser_class=foo", "retry=foo"])
async def test_a_url_of_no_connection_is_refused_at_once(option: str) -> None:
    with pytest.raises(ValueError, match=r"URL"):
        await Gate.connect(f"redis://:secret@127.0.0.1:1/0?{option}")


async def test_replies_are_read_as_bytes_whatever_the_url_says(redis: FakeRedis) -> None:
    link = Link(f"{redis.url}?decode_responses=1", SCRIPTS, DEADLINE_SECONDS)
    await link.open()
    assert link.run_id == redis.run_id
    await link.close()


async def test_the_keeper_outlives_outages_and_shows_its_own_death(
    redis: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = await Gate.connect(redis.url)
    redis.hang_up()
    await until(lambda: redis.accepted == 2 and gate.connected)
    assert not gate.keeper.done()
    monkeypatch.setattr(Link, "_fail", _out_of_order)
    redis.hang_up()
    done, _ = await asyncio.wait((gate.keeper,), timeout=PATIENCE_SECONDS)
    assert done
    assert isinstance(gate.keeper.exception(), ZeroDivisionError)
    monkeypatch.undo()
    await gate.close()


async def test_a_keeper_that_dies_at_its_first_try_does_not_leave_open_waiting(
    redis: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Link, "_new_connection", lambda _: object())
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(AttributeError):
            await Gate.connect(redis.url)


def _out_of_order(_: Link, __: str) -> None:
    raise ZeroDivisionError


@pytest.mark.slow
async def test_a_quiet_connection_stays(redis: FakeRedis, link: Link) -> None:
    # redis-py's own default ends a connection that has heard nothing for 5 s.
    await asyncio.sleep(5.2)
    call = link.call("echo", b"k", ["one"])
    await until(lambda: redis.reads)
    redis.answer(b"+1\r\n")
    assert await call == b"1"
    assert redis.accepted == 1


async def test_without_redis_a_call_fails_at_once() -> None:
    fake = FakeRedis()
    await fake.open()
    await fake.close()
    link = Link(fake.url, SCRIPTS, DEADLINE_SECONDS)
    await link.open()
    with pytest.raises(GateUnavailable):
        link.call("echo", b"k", ["one"])  # no future to wait for
    await fake.open()
    await until(lambda: link.run_id)
    await link.close()
    await fake.close()


async def test_too_many_calls_in_flight_fail_at_once(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "CALLS_IN_FLIGHT_MAX", 2)
    calls = [link.call("echo", b"k", ["one"]) for _ in range(2)]
    with pytest.raises(GateUnavailable, match="too many"):
        link.call("echo", b"k", ["three"])
    await link.close()
    for call in calls:
        with pytest.raises(GateUnavailable, match="closed"):
            await call


def test_a_call_on_a_connection_that_is_closing_fails_and_nothing_else_does() -> None:
    complaints: list[object] = []

    async def call() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        fake = FakeRedis()
        await fake.open()
        made = Link(fake.url, SCRIPTS, DEADLINE_SECONDS)
        await made.open()
        try:
            assert made._transport is not None
            made._transport.abort()
            with pytest.raises(GateUnavailable):
                await made.call("echo", b"key", ["x"])
        finally:
            await made.close()
            await fake.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # asyncio's own transport would say nothing
        runner.run(call())
    assert not complaints
