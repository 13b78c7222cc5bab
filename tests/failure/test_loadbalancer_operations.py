# What an operator does with a balancer: look at it, drain a server, end it.
import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from flashsale.settings import REPOSITORY
from flashsale.stack.processes import dies_with_us
from tests.balanced import Message, Upstream, balanced, ok
from tests.patience import PATIENCE_SECONDS

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"


async def test_a_server_can_be_drained_and_brought_back_by_hand() -> None:
    servers = [Upstream(name) for name in "ab"]
    async with balanced(*servers) as balancer:
        assert (await balancer.admin("/servers/a/drain", "GET")).status == 405
        unknown = await balancer.admin("/servers/c/drain")
        assert (unknown.status, unknown.body) == (404, b"no server is named 'c'; there are a, b\n")
        assert await balancer.states() == {"a": "up", "b": "up"}
        assert (await balancer.admin("/servers/a/drain")).status == 200
        assert await balancer.states() == {"a": "draining", "b": "up"}
        assert {(await balancer.ask(GET)).body for _ in range(4)} == {b"b"}
        await balancer.admin("/servers/a/undrain")
        assert {(await balancer.ask(GET)).body for _ in range(4)} == {b"a", b"b"}


async def test_what_changes_something_is_asked_through_the_owners_socket_alone() -> None:
    async with balanced(Upstream("a"), Upstream("b")) as balancer:
        assert balancer.socket.stat().st_mode & 0o777 == 0o600
        for path in ("/servers/a/drain", "/reload", "/restart"):
            assert (await balancer.ops(path, "POST")).status == 404
        for host in ("Host: evil.example", "Host: localhost.evil.example", "Host: 127.0.0.1.evil.example"):
            assert (await balancer.ops("/servers", "GET", host)).status == 403
        assert (await balancer.ops("/servers", "GET", "Origin: http://evil.example")).status == 403
        assert await balancer.states() == {"a": "up", "b": "up"}


async def test_the_operations_pages() -> None:
    async with balanced(Upstream("a")) as balancer:
        assert [
            (await balancer.ops(path)).status for path in ("/livez", "/readyz", "/metrics", "/servers", "/stats")
        ] == [200] * 5
        assert (await balancer.ops("/metrics", "POST")).status == 405
        assert (await balancer.ops("/secrets")).status == 404
        assert (await balancer.ops("/ bad")).status == 400


async def test_whoever_looks_twice_can_tell_what_was_between_and_for_how_long_it_has_been_so() -> None:
    async with balanced(Upstream("a"), Upstream("b"), LB_WORKERS="2") as balancer:
        before = await balancer.stats()
        await balancer.admin("/servers/a/drain")
        for _ in range(3):
            await balancer.ask(GET)
        after = await balancer.stats()
        for timer in ("request_seconds", "queue_seconds"):
            assert len(after[timer]["counts"]) == len(after["bounds"]) + 1
        assert sum(after["request_seconds"]["counts"]) - sum(before["request_seconds"]["counts"]) == 3
        a, b = after["servers"]
        assert sum(b["response_seconds"]["counts"]) - sum(before["servers"][1]["response_seconds"]["counts"]) == 3
        assert (before["drained"], after["drained"]) == ([], ["a"])
        assert (a["state"], b["state"]) == ("draining", "up")
        assert a["since_seconds"] < b["since_seconds"]
        assert after["algorithm"] in after["algorithms"]
        assert after["process"]["pid"] == after["pid"]
        for life in (after["process"], *(worker["report"]["process"] for worker in after["workers"])):
            assert life["cpu_seconds"] > 0
            assert life["rss_bytes"] > 2**20


async def test_the_access_log_has_a_line_per_request_and_no_secret() -> None:
    async with balanced(Upstream("a"), LB_ACCESS_LOG="on") as balancer:
        await balancer.ask(b"GET /x?receipt=secret HTTP/1.1\r\nHost: shop\r\nAuthorization: secret\r\n\r\n")
        async with asyncio.timeout(PATIENCE_SECONDS):
            raw = await balancer.log.readline()
        line = json.loads(raw)
        assert (line["method"], line["path"], line["status"], line["server"]) == ("GET", "/x", 200, "a")
        assert b"secret" not in raw


# What a server is told of where a request comes from.


async def test_a_request_has_an_id_of_its_own_which_the_log_knows() -> None:
    server = Upstream("a")
    async with balanced(server, LB_ACCESS_LOG="on") as balancer:
        client = await balancer.client()
        said = (
            GET[:-2]
            + b"X-Request-Id: mine-1234\r\nTraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n"
        )
        for data in (GET, GET, said):
            await client.ask(data)
        ids = [request.fields["x-request-id"] for request in server.requests]
        assert len({*ids}) == 3
        assert "mine-1234" not in ids  # a stranger's
        # Passed on as it came: a parent of our own, whose span nobody is told, would cut the trace in two.
        assert server.requests[2].fields["traceparent"].endswith("-00f067aa0ba902b7-01")
        async with asyncio.timeout(PATIENCE_SECONDS):
            logged = [json.loads(await balancer.log.readline())["request_id"] for _ in range(3)]
        assert logged == ids


async def test_a_trusted_proxy_is_believed() -> None:
    server = Upstream("a")
    async with balanced(server, LB_TRUSTED="10.0.0.0/8,127.0.0.0/8") as balancer:
        said = b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine-1234\r\n\r\n"
        await balancer.ask(GET[:-2] + said)
        fields = server.requests[0].fields
        assert (fields["x-forwarded-for"], fields["x-forwarded-proto"]) == ("192.0.2.1, 127.0.0.1", "https")
        assert fields["x-request-id"] == "mine-1234"


async def test_a_balancer_refuses_what_it_has_had_before_and_not_what_another_had() -> None:
    server = Upstream("a")
    async with balanced(server, LB_WORKERS="2") as balancer:
        await balancer.ask(GET)
        own = server.requests[0].fields["via"].removeprefix("1.1 ")
        other = "1.1 loadbalancer-00000000"
        assert (await balancer.ask(GET[:-2] + f"Via: {other}\r\n\r\n".encode())).status == 200
        assert server.requests[1].fields["via"] == f"{other}, 1.1 {own}"
        for _ in range(4):  # whichever worker it comes to
            assert (await balancer.ask(GET[:-2] + f"Via: {other}, 1.1 {own}\r\n\r\n".encode())).status == 508
        assert len(server.requests) == 2


async def test_a_log_that_nobody_reads_any_more_stops_nothing() -> None:
    async with balanced(Upstream("a"), LB_ACCESS_LOG="on") as balancer:
        balancer.log_pipe.close()
        client = await balancer.client()

        async def is_told() -> bool:
            assert (await client.ask(GET)).status == 200
            return any(line["event"] == "access_log.lost" for line in balancer.said)

        await balancer.until(is_told)
        assert (await client.ask(GET)).status == 200


# The end.


async def test_sigterm_answers_what_was_asked_and_ends_streams_and_idlers() -> None:
    server = Upstream("a")
    go = asyncio.Event()

    async def answer(request: Message, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.target == "/stream":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            await writer.drain()
            await asyncio.Event().wait()
        await go.wait()
        writer.write(ok(b"late"))

    async with balanced(server) as balancer:
        idle, busy, stream = [await balancer.client() for _ in range(3)]
        await idle.ask(GET)
        server.answer = answer
        stream.writer.write(b"GET /stream HTTP/1.1\r\nHost: shop\r\n\r\n")
        await stream.reader.readuntil(b"data: 1\n\n")
        busy.writer.write(GET)

        async def has_come() -> bool:
            return len(server.requests) == 3

        await balancer.until(has_come)
        balancer.terminate()
        assert await idle.rest() == b""
        with pytest.raises(ConnectionResetError):  # not an end that could be taken for the stream's own
            await stream.rest()
        with pytest.raises(OSError):  # noqa: PT011 - refused, or reset
            await (await balancer.client()).ask(GET)
        assert (await balancer.ops("/readyz")).status == 503
        go.set()
        late = await busy.answer()
        assert (late.body, late.fields["connection"]) == (b"late", "close")
        assert await balancer.stop() == 0


async def test_who_outlasts_the_grace_is_cut() -> None:
    server = Upstream("a")

    async def never(_: Message, __: asyncio.StreamReader, ___: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    server.answer = never
    async with balanced(server, LB_GRACE="0.2") as balancer:
        client = await balancer.client()
        client.writer.write(GET)

        async def has_come() -> bool:
            return len(server.requests) == 1

        await balancer.until(has_come)
        assert await balancer.stop() == 0
    assert balancer.said[-1]["cut"] == 1


async def test_a_worker_whose_checks_end_by_themselves_ends_aloud_and_with_the_fifth_the_balancer(
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib\n"
        "from loadbalancer import probe\n"
        "ask = probe.check\n"
        "async def check(host, port, authority, config):\n"
        f"    if port == 2 and pathlib.Path({str(tmp_path / 'now')!r}).exists():\n"
        "        raise ZeroDivisionError\n"
        "    return await ask(host, port, authority, config)\n"
        "probe.check = check\n",
        encoding="utf-8",
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadbalancer",
        env={
            "PYTHONPATH": f"{tmp_path}:{REPOSITORY}",
            "LB_PORT": "0",
            "LB_OPS_PORT": "0",
            "LB_CHECK_INTERVAL": "0.05",
            "LB_SERVERS": "a=127.0.0.1:1,b=127.0.0.1:2",
        },
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=dies_with_us(signal.SIGKILL),
    )
    assert child.stderr
    lines = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for line in child.stderr:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "loadbalancer.started":
                (tmp_path / "now").touch()
        assert await child.wait() == 1
    said = {line["event"]: line for line in lines}
    assert said["server.unchecked"]["server"] == "b"
    assert "ZeroDivisionError" in "".join(said["server.unchecked"]["exception"])
    assert said["loadbalancer.failed"]["reason"].startswith("workers ended by themselves 5 times")
    # A quick one ends before it was put to work, which is told otherwise.
    assert sum(line["event"] in {"worker.ended", "worker.failed"} for line in lines) == 5
