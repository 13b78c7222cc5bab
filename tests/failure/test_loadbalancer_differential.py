# The same bytes to other proxies: what they do with what ours refuses, and every difference has its reason.
import asyncio
import contextlib
import hashlib
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from flashsale.stack.processes import dies_with_us
from tests.attacks import ATTACKS, BODY_MAX, Attack
from tests.databases import told
from tests.patience import PATIENCE_SECONDS
from tests.recorder import END, ENDED, FILLER, Recorder, answers, deliver
from tests.servers import free_port

HANGS_S = 3.0  # without the end, where the table says so; everywhere else the whole patience is waited

# As people run them: requests go on in HTTP/1.1 on kept connections. What comes after the last byte of a client's must not
# end its request, or it could not be told when they have said everything.
NGINX = """daemon off; master_process off; worker_processes 1; pid {home}/pid; error_log {home}/log;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size {body_max};
  client_body_temp_path {home}/1; proxy_temp_path {home}/2; fastcgi_temp_path {home}/3; uwsgi_temp_path {home}/4; scgi_temp_path {home}/5;
  upstream servers {{ server 127.0.0.1:{server}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://servers; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_ignore_client_abort on;
    }}
  }}
}}
"""
HAPROXY = """global
  maxconn 256
  nbthread 1
defaults
  mode http
  timeout connect 60s
  timeout client 600s
  timeout server 600s
  http-reuse always
frontend clients
  bind 127.0.0.1:{port}
  default_backend servers
backend servers
  server a 127.0.0.1:{server}
"""


class Peer(NamedTuple):
    """Another proxy, and the one program that the table of its differences is of: a distribution mends without a new version."""

    name: str
    version: str
    digest: str
    config: str
    arguments: tuple[str, ...]


PEERS = (
    Peer(
        "nginx",
        "Debian's 1.22.1-9+deb12u9",
        "1889a003e9f52ab89d09acf455730fca6b1afb4ce75464db9dda0c1b39fb161d",
        NGINX,
        ("-c", "{home}/config"),
    ),
    Peer(
        "haproxy",
        "Debian's 2.6.12-1+deb12u3",
        "ce4aa2dfe4b1dc1043e3285dd24a124e56e02ffc4204a78c0f28d7cee472390f",
        HAPROXY,
        ("-db", "-f", "{home}/config"),
    ),
)

# What a peer does, where ours does something else with an attack of that name:
#   serves     more requests reach the server than ours lets through, each of them well-formed
#   passes on  bytes reach the server that its strict reader can read in no way, or in two
#   refuses    what ours serves
#   hangs      and waits for more of what ours has refused
#   says no HTTP/1.1, which none of these two does
LF = "takes LF alone for the end of a line, as RFC 9112 allows; then who reads lines by CR LF sees another message"
ANEW = "is lenient and writes anew what it understood: a server behind it is safe, a check before it was not"
TASTE = "has no such rule, or another limit; nothing is smuggled by that"
IGNORES = "drops a field whose name it does not understand and serves the rest; a body that the field framed is then read as a request"

DIFFERENCES: dict[str, dict[str, tuple[str, str]]] = {
    "nginx": {
        "0 space around values": ("refuses", "a bracketed host behind a TAB is no host to it; RFC 9110 allows TAB there"),
        "0 chunked, in capitals": ("refuses", "does not take TAB for white space before a value; RFC 9110 does"),
        "8 a byte before its value": ("refuses", "the same TAB"),
        "8 a byte after its value": ("refuses, serves", "a TAB behind a value is part of it; a CR before CR LF is dropped"),
        "8 a byte before its name": ("serves", IGNORES),
        "8 a byte after its name": ("serves", IGNORES),
        "9 a field behind a lone LF": ("serves", LF),
        "9 a byte in its name": ("serves", IGNORES),
        "10 folded within the name": ("serves", IGNORES),
        "13 a length with zeros before it": ("serves", ANEW),
        "15 framing with '_' for '-'": ("serves", IGNORES),
        "15 a length with a byte in its name": ("serves", IGNORES),
        "16 no colon": ("serves", IGNORES),
        "16 a name of no token": ("serves", IGNORES),
        "17 a control character in a value": ("passes on", "looks for NUL and line ends alone; a server that is stricter or less strict than that is on its own"),
        "17 a lone CR in a value": ("serves", "drops a CR before CR LF, which RFC 9112 forbids and some servers take for a line's end"),
        "18 every line ends with LF": ("serves", LF),
        "18 one line ends with LF": ("serves", LF),
        "18 an LF first": ("serves", LF),
        "18 the empty line is LF": ("serves", LF),
        "20 a size that is none": ("serves", "takes white space behind a size, and a size of nothing before an extension; written anew as it understood it"),
        "20 a size of 17 digits": ("serves", ANEW),
        "20 a size that ends with LF": ("serves", LF),
        "21 an extension that is none": ("serves", "skips what follows a size up to the line's end, LF alone included, without looking at it"),
        "21 a long extension": ("serves", TASTE),
        "21 many extensions": ("serves", TASTE),
        "23 a chunk that ends with LF": ("serves", LF),
        "24 what is no trailer": ("serves", "skips trailers without reading them as fields"),
        "24 a hundred thousand trailers": ("serves", TASTE),
        "24 a long trailer": ("serves", TASTE),
        "27 a Host that is none": ("serves", "checks Host for a few characters alone; who is asked for is for the server to judge"),
        "28 OPTIONS of a URL": ("serves", "asks for '/' where RFC 9112 wants '*'"),
        "28 a URL that is none": ("serves", "takes any scheme, and drops it"),
        "29 a target with a character it may not have": ("passes on, serves", "passes on bytes above 127, and a fragment; servers read both in their own ways"),
        "29 a target byte for byte": ("refuses", "reads the path to find a location, so one with NUL or above the root is refused; ours reads no path"),
        "30 two spaces": ("serves", ANEW),
        "30 space around the line": ("serves", ANEW),
        "31 a version that is none": ("serves", "takes any digits for the minor version"),
        "31 a version too new": ("serves", "takes any minor version, as RFC 9110 allows; nobody speaks one"),
        "31 no version": ("serves", "speaks HTTP/0.9, whose answers have no head: who asks so is no client of a shop"),
        "32 OPTIONS *": ("refuses", "knows no '*'"),
        "32 a method that is none": ("serves", TASTE),
        "33 a head one byte larger": ("serves", TASTE),
        "33 a hundred and one fields": ("serves", TASTE),
        "33 ten thousand empty lines first": ("serves", TASTE),
        "33 two empty lines first": ("serves", TASTE),
        "35 keep-alive in HTTP/1.0": ("serves", "keeps such a connection, which RFC 9112 forbids a proxy whose client may be another one"),
        "36 a field that is not of the connection": ("serves", "does not look at what Connection names, and so drops none of it"),
        "36 what is no list of names": ("serves", "does not look at what Connection names"),
        "38 another expectation": ("serves", "drops Expect and answers 100-continue itself"),
    },
    "haproxy": {
        "0 trailers": ("passes on", "passes trailers on, which ours drops and the server that records refuses"),
        "1 CL.TE": ("serves", "goes by the chunks, drops the length and closes, as RFC 9112 allows; ours refuses, as it also allows"),
        "3 chunked is not the last coding": ("passes on", "takes an empty coding behind chunked for none and passes the comma on"),
        "6 chunked in HTTP/1.0": ("serves", "goes by the chunks and closes; RFC 9112 calls such framing faulty"),
        "6 chunked in HTTP/1.0, and a length": ("serves", "goes by the chunks and closes; RFC 9112 calls such framing faulty"),
        "7 space before a later field": ("serves", "joins folded lines, so that framing becomes part of the value before it"),
        "8 a byte before its name": ("serves", "joins folded lines, and takes LF alone for a line's end"),
        "9 a field behind a lone LF": ("serves", LF),
        "10 folded": ("serves", "joins folded lines, as RFC 9112 allows"),
        "11 one length twice": ("serves", "makes one of equal lengths, as RFC 9110 allows"),
        "12 a length too large": ("hangs, serves", "has no limit of a body"),
        "13 a length with zeros before it": ("serves", ANEW),
        "15 framing with '_' for '-'": ("serves", "'_' is a character like others to it; a gateway behind that reads it as '-' sees another body"),
        "17 NUL in a value": ("passes on", "looks for line ends alone; RFC 9110 wants NUL refused or replaced"),
        "17 a control character in a value": ("passes on", "looks for line ends alone; a server that is stricter or less strict than that is on its own"),
        "18 every line ends with LF": ("serves", LF),
        "18 one line ends with LF": ("serves", LF),
        "18 an LF first": ("serves", LF),
        "18 the empty line is LF": ("serves", LF),
        "20 a size that is none": ("serves", "takes white space behind a size, and writes it anew"),
        "20 a size of 17 digits": ("serves", ANEW),
        "20 a size too large": ("hangs", "has no limit of a body"),
        "20 sizes too large together": ("serves", "has no limit of a body"),
        "20 a size that ends with LF": ("serves", LF),
        "21 an extension that is none": ("serves", "skips what follows a size up to the line's end, LF alone included, without looking at it"),
        "21 a long extension": ("hangs, serves", "skips one that fits its buffer, and waits for ever for the end of one that does not"),
        "21 many extensions": ("serves", TASTE),
        "23 a chunk that ends with LF": ("serves", LF),
        "24 framing, Host and who asks as trailers": ("refuses", "passes trailers on, so it must refuse those of framing; ours drops all of them"),
        "24 what is no trailer": ("passes on", "reads trailers as fields, less strictly than fields, and passes them on"),
        "24 a long trailer": ("passes on", "passes trailers on, which ours drops and the server that records refuses"),
        "26 bytes behind a length of nothing": ("serves", "takes a method in small letters, and here that is what a body of five bytes makes of the next one"),
        "27 no Host": ("serves", "does not ask for a Host; RFC 9112 wants 400"),
        "27 two Hosts": ("serves", "makes one of equal Hosts; RFC 9112 wants 400"),
        "27 a Host that is none": ("serves", "does not read Host; who is asked for is for the server to judge"),
        "27 an empty Host": ("serves", "does not read Host; who is asked for is for the server to judge"),
        "28 a URL": ("refuses", "refuses a Host that is not the URL's; RFC 9112 wants the URL believed"),
        "28 a URL without a path": ("refuses", "refuses a Host that is not the URL's; RFC 9112 wants the URL believed"),
        "28 OPTIONS of a URL": ("refuses", "refuses a Host that is not the URL's; RFC 9112 wants the URL believed"),
        "28 a URL that is none": ("serves", "passes a target on as it came"),
        "30 two spaces": ("serves", ANEW),
        "30 TAB for a space": ("serves", ANEW),
        "31 a version too new": ("serves", "takes any version of one digit and a point and one digit"),
        "31 the preface of HTTP/2": ("serves", "speaks HTTP/2 to who begins so, and finds that the rest is none"),
        "32 GET *": ("serves", "passes a target on as it came"),
        "32 CONNECT": ("passes on", "is a tunnel once the server has said 200; whatever follows is for the server to read"),
        "32 TRACE": ("serves", "passes every method on"),
        "32 a method in small letters": ("serves", "passes every method on"),
        "32 a method that is none": ("serves", "passes every method on, however long"),
        "32 a method of ten thousand letters": ("serves", "passes every method on, however long"),
        "33 the largest head": ("refuses", "leaves a kilobyte of its 16 KiB for what it may add"),
        "33 a line one byte too long": ("serves", TASTE),
        "33 a target too long": ("serves", TASTE),
        "33 two empty lines first": ("serves", TASTE),
        "35 keep-alive in HTTP/1.0": ("serves", "keeps such a connection, which RFC 9112 forbids a proxy whose client may be another one"),
        "36 a field that is not of the connection": ("serves", "keeps what Connection names and drops the word alone"),
        "36 what is no list of names": ("serves", "does not mind"),
        "37 websocket": ("refuses", "is a tunnel for those who ask with a key for a web socket, and refuses this one without; ours is none"),
        "37 an upgrade in HTTP/1.0": ("refuses", "the same; RFC 9110 wants it ignored in HTTP/1.0"),
        "38 another expectation": ("serves", "passes Expect on for the server to judge"),
    },
}  # fmt: skip


@contextlib.asynccontextmanager
async def running(peer: Peer, program: Path, server: Recorder) -> AsyncIterator[int]:
    """Its port, in front of ``server``."""
    with tempfile.TemporaryDirectory() as home:
        port = free_port()
        config = peer.config.format(home=home, port=port, server=server.port, body_max=BODY_MAX)
        (Path(home) / "config").write_text(config)
        child = await asyncio.create_subprocess_exec(
            str(program), *(word.format(home=home) for word in peer.arguments), preexec_fn=dies_with_us(signal.SIGKILL)
        )
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await _listens(port):
                    assert child.returncode is None, (Path(home) / "log").read_text()
                    await asyncio.sleep(0.02)
            yield port
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def does(attack: Attack, port: int, server: Recorder, *, may_hang: bool) -> str:
    """One word for what it does with it; none if that is what ours does."""
    server.forget()
    pieces = [attack.data if attack.waits else attack.data + END + FILLER]
    try:
        said = await deliver(port, pieces, leaves=attack.waits, patience=HANGS_S if may_hang else PATIENCE_SECONDS)
    except TimeoutError:
        if not may_hang:
            raise
        return "hangs"
    goes_on = attack.refused is None and not attack.waits and not attack.closes
    expected = [*attack.passes, *[ENDED] * goes_on]
    try:
        heard, _ = answers(said, [method for method, _, _ in server.requests])
    except (ValueError, IndexError):
        return "says no HTTP/1.1"
    refused = any(answer.status >= 400 for answer in heard)
    if any(stream.malformed is not None for stream in server.streams):
        return "passes on"
    # Which status a refusal has, is taste. Nobody hears one who has ended a request in its middle.
    if server.requests == expected and (attack.waits or goes_on or refused is (attack.refused is not None)):
        return ""
    return "serves" if len(server.requests) >= len(expected) else "refuses"


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
async def test_every_difference_from_another_proxy_is_known(peer: Peer) -> None:
    program = Path(told(f"FLASH_TEST_{peer.name.upper()}"))
    is_that = hashlib.sha256(program.read_bytes()).hexdigest() == peer.digest
    known = DIFFERENCES[peer.name]
    server = await Recorder("a").start()
    found: dict[str, set[str]] = {}
    try:
        async with running(peer, program, server) as port:
            for attack in ATTACKS:
                name = f"{attack.row} {attack.name}"
                may_hang = not is_that or "hangs" in known.get(name, ("", ""))[0]
                if what := await does(attack, port, server, may_hang=may_hang):
                    found.setdefault(name, set()).add(what)
    finally:
        await server.kill()
    said = {name: ", ".join(sorted(words)) for name, words in found.items()}
    if is_that:
        assert said == {name: words for name, (words, _) in known.items()}
    else:
        print(f"{program} is not {peer.version}, whose differences are known; it has {said}")  # noqa: T201
