# TLS at the balancer's own port: what clients see, and a certificate that is replaced while they are connected.
import asyncio
import contextlib
import ssl
import sys
from pathlib import Path

import pytest
from cryptography import x509

from benchmarks.lb.tls import certificate
from flashsale.settings import REPOSITORY
from tests.balanced import Client, Message, Upstream, balanced
from tests.patience import PATIENCE_SECONDS

GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"


def certify(directory: Path, number: int) -> dict[str, str]:
    """A certificate of this number, in the same two files each time."""
    cert, key = certificate(directory, number)
    return {"LB_TLS_CERT": str(cert), "LB_TLS_KEY": str(key)}


def trusting() -> ssl.SSLContext:
    """A client that takes any certificate: which one it is, is what is asked."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def serial(client: Client) -> int:
    """The number of the certificate it was shown."""
    shown = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown).serial_number


async def test_clients_speak_tls_and_servers_are_told(tmp_path: Path) -> None:
    server = Upstream("a")
    async with balanced(server, **certify(tmp_path, 1)) as balancer:
        balancer.tls = trusting()
        client = await balancer.client()
        assert [(await client.ask(GET)).status for _ in range(3)] == [200] * 3
        assert server.requests[0].fields["x-forwarded-proto"] == "https"
        assert client.writer.get_extra_info("ssl_object").version() in {"TLSv1.2", "TLSv1.3"}
        # A refusal is heard to its end, where half of a connection cannot be closed.
        refused = await (await balancer.client()).ask(b"GET / HTTP/9.1\r\n\r\n")
        assert (refused.status, refused.fields["connection"]) == (505, "close")


async def test_a_stream_and_a_large_body_pass(tmp_path: Path) -> None:
    server = Upstream("a")

    async def answer(request: Message, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.method == "GET":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            await writer.drain()
            await asyncio.Event().wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.body), request.body))

    server.answer = answer
    async with balanced(server, **certify(tmp_path, 1)) as balancer:
        balancer.tls = trusting()
        body = bytes(range(256)) * 2000
        client = await balancer.client()
        head = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n" % len(body)
        assert (await client.ask(head + body)).body == body
        client.writer.write(GET)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await client.reader.readuntil(b"data: 1\n\n")


async def test_a_new_certificate_is_shown_to_new_clients_and_the_others_stay(tmp_path: Path) -> None:
    async with balanced(Upstream("a"), **certify(tmp_path, 1)) as balancer:
        balancer.tls = trusting()
        old = await balancer.client()
        await old.ask(GET)
        certify(tmp_path, 2)
        assert (await balancer.admin("/reload")).status == 200

        async def is_new() -> bool:
            client = await balancer.client()
            assert (await client.ask(GET)).status == 200
            found = serial(client)
            client.leave()
            return found == 2

        await balancer.until(is_new)  # the old worker accepts for a moment more
        assert ((await old.ask(GET)).status, serial(old)) == (200, 1)
        # What is none is refused, and what there is goes on.
        (tmp_path / "cert.pem").write_text("no certificate", encoding="utf-8")
        refused = await balancer.admin("/reload")
        assert refused.status == 422
        assert f"LB_TLS_CERT is '{tmp_path}/cert.pem'" in refused.body.decode()
        assert await is_new()


async def test_who_does_not_speak_tls_or_an_old_one_is_turned_away(tmp_path: Path) -> None:
    async with balanced(Upstream("a"), LB_HEAD_TIMEOUT="2", **certify(tmp_path, 1)) as balancer:
        plain = await balancer.client()
        plain.writer.write(GET)
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP/1.1 200" not in await plain.rest()
        silent = await balancer.client()
        with contextlib.suppress(ConnectionResetError):
            assert await silent.rest() == b""
        balancer.tls = trusting()
        balancer.tls.maximum_version = ssl.TLSVersion.TLSv1_2
        assert (await balancer.ask(GET)).status == 200
        balancer.tls.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            balancer.tls.minimum_version = balancer.tls.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await balancer.client()


@pytest.mark.parametrize("missing", ["LB_TLS_CERT", "LB_TLS_KEY"])
async def test_half_a_certificate_is_refused_at_the_start(tmp_path: Path, missing: str) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadbalancer",
        env={"PYTHONPATH": str(REPOSITORY), "LB_SERVERS": "h:1", **certify(tmp_path, 1), missing: ""},
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        _, said = await child.communicate()
    assert child.returncode == 2
    assert said.decode().startswith(f"loadbalancer: {missing} is not given; allowed: a readable file")
