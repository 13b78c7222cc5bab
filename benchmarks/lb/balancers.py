"""Who is compared: each is one process alone on its core, with kept connections on both sides, no log, and the same fields added."""

import contextlib
import http.client
import os
import pwd
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.backend.servers import process
from benchmarks.lb.field import Field
from flashsale.stack.processes import free_port
from flashsale.stack.services import SYSTEM_PATH

ANSWER_BYTES = 300
ANSWERS_SECONDS = 60.0
KEPT = 1024  # idle connections to the upstream, as ours keeps them
MANY = 1_000_000_000  # requests of one connection: nobody closes one because it was used often
OPEN_FILES = 65_536  # wanted, and as many had as the limit allows


class Upstream(NamedTuple):
    """A server that is never the limit."""

    pid: int
    port: int
    path: Path  # of its Unix-domain socket
    streams: bool = False  # events, which must leave when they come

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Given(NamedTuple):
    """What a balancer is started with."""

    environment: Mapping[str, str]
    folder: Path  # its own
    port: int
    ops_port: int  # if it has one
    upstream: Upstream


class Start(NamedTuple):
    """How it is started."""

    command: Sequence[str]
    environment: Mapping[str, str]


class Contestant(NamedTuple):
    """A balancer under a name."""

    name: str
    prepare: Callable[[Given], Start]
    wants_urls: bool = False  # where others are asked for a path


class Balancer(NamedTuple):
    """One that runs."""

    contestant: Contestant
    pid: int
    port: int
    ops_port: int


def ours(name: str, settings: Mapping[str, str] | None = None, *, by_path: bool = False) -> Contestant:
    """Our balancer with its defaults, but for ``settings``; ``by_path``: over Unix-domain sockets to the upstream."""

    def prepare(given: Given) -> Start:
        where = f"unix:{given.upstream.path}" if by_path else f"127.0.0.1:{given.upstream.port}"
        environment = {name: given.environment[name] for name in ("PATH", "PYTHONPATH") if name in given.environment}
        environment |= {
            "LB_PORT": str(given.port),
            "LB_OPS_PORT": str(given.ops_port),
            "LB_SERVERS": f"upstream={where}",
            **(settings or {}),
        }
        return Start((sys.executable, "-m", "loadbalancer"), environment)

    return Contestant(name, prepare)


def haproxy_tls(certificate: Path) -> Contestant:
    """HAProxy that speaks TLS to its clients; ``certificate``: and its key, in one file."""
    return Contestant("HAProxy, TLS", lambda given: _haproxy(given, tls=f"ssl crt {certificate}"))


def _haproxy(given: Given, server: str = "", tls: str = "") -> Start:
    path = given.folder / "haproxy.cfg"
    path.write_text(
        f"""global
    nbthread 1
    no strict-limits
    maxconn {_connections()}
defaults
    mode http
    option http-keep-alive
    http-reuse always
    {"option http-no-delay" if given.upstream.streams else ""}
    timeout client 75s
    timeout http-keep-alive 75s
    timeout http-request 5s
    timeout connect 1s
    timeout server 40s
frontend clients
    bind 127.0.0.1:{given.port} {tls}
    default_backend servers
backend servers
    option forwardfor
    http-request set-header X-Forwarded-Proto http
    http-request set-header Via "1.1 haproxy"
    option httpchk GET /livez
    server upstream {server or f"127.0.0.1:{given.upstream.port}"} check inter 1s pool-max-conn {KEPT}
"""
    )
    return Start((program("haproxy", given.environment), "-q", "-db", "-f", str(path)), given.environment)


def _nginx(given: Given) -> Start:
    return nginx(
        given,
        f"""
    upstream servers {{
        server 127.0.0.1:{given.upstream.port};
        keepalive {KEPT};
        keepalive_requests {MANY};
        keepalive_timeout 60s;
    }}
    server {{
        listen 127.0.0.1:{given.port} backlog=4096;
        location / {{
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_buffering {"off" if given.upstream.streams else "on"};
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header Via "1.1 nginx";
        }}
    }}""",
    )


OURS = ours("ours")
HAPROXY, NGINX = Contestant("HAProxy", _haproxy), Contestant("nginx", _nginx)
OURS_UNIX = ours("ours, Unix sockets", by_path=True)
HAPROXY_UNIX = Contestant("HAProxy, Unix sockets", lambda given: _haproxy(given, f"unix@{given.upstream.path}"))


def nginx(given: Given, servers: str, top: str = "") -> Start:
    """One worker that serves what ``servers`` says; ``top``: what else is to be said before."""
    folder = given.folder
    # a worker of root's gives root up, and could not reach what is ours
    user = f"user {pwd.getpwuid(0).pw_name} {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    temporary = "\n".join(
        f"    {name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = folder / "nginx.conf"
    path.write_text(
        f"""{top}
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {files()};
error_log stderr error;
pid {folder}/nginx.pid;
events {{ worker_connections {_connections()}; }}
http {{
    access_log off;
    keepalive_requests {MANY};
    keepalive_timeout 75s;
    server_tokens off;
{temporary}
{servers}
}}
"""
    )
    return Start(
        (program("nginx", given.environment), "-e", "stderr", "-p", str(folder), "-c", str(path)), given.environment
    )


def find(field: Field) -> tuple[list[Contestant], list[str]]:
    """Ours, and whoever else can run here; and a word about each that cannot."""
    others = {"haproxy": HAPROXY, "nginx": NGINX}
    missing = {name: one for name, one in others.items() if not has(name, field.environment)}
    there = [one for name, one in others.items() if name not in missing]
    return [OURS, *there], [f"{one.name} is left out: there is no {name}." for name, one in missing.items()]


@contextlib.asynccontextmanager
async def serving(field: Field) -> AsyncIterator[Upstream]:
    """An nginx that says the same to whatever comes, on the cores that are not the balancer's. Without one it is ours, and slower."""
    folder = folder_of(field.folder, "upstream")
    upstream = Upstream(0, free_port(), folder / "socket")
    if not has("nginx", field.environment):
        command = (sys.executable, "-m", "benchmarks.lb.origin", str(upstream.port), str(ANSWER_BYTES))
        start = Start(command, field.environment)
    else:
        given = Given(field.environment, folder, upstream.port, 0, upstream)
        start = nginx(
            given,
            f"""
    server {{
        listen 127.0.0.1:{upstream.port} backlog=4096;
        listen unix:{upstream.path} backlog=4096;
        keepalive_timeout 1h;
        default_type application/json;
        location / {{ return 200 '{"x" * ANSWER_BYTES}'; }}
    }}""",
        )
    async with process("upstream", start.command, start.environment, field.others, upstream.port) as pid:
        yield upstream._replace(pid=pid)


@contextlib.asynccontextmanager
async def running(
    contestant: Contestant, field: Field, upstream: Upstream, cores: Collection[int] | None = None
) -> AsyncIterator[Balancer]:
    """It accepts connections when this yields. Raises ``RuntimeError`` when it never does."""
    given = Given(field.environment, folder_of(field.folder, contestant.name), free_port(), free_port(), upstream)
    start = contestant.prepare(given)
    async with process(contestant.name, start.command, start.environment, cores or {field.core}, given.port) as pid:
        yield Balancer(contestant, pid, given.port, given.ops_port)


def until_answering(balancer: Balancer, request: bytes) -> None:
    """It hands on what the upstream says. Raises ``RuntimeError`` when it never does."""
    ends = time.monotonic() + ANSWERS_SECONDS
    while (told := _ask(balancer.port, request)) != (200, ANSWER_BYTES):
        if time.monotonic() > ends:
            raise RuntimeError(f"{balancer.contestant.name} answers {told[0]} with {told[1]} bytes")
        time.sleep(0.1)


def program(name: str, environment: Mapping[str, str]) -> str:
    """Where it is: Debian keeps daemons where not everybody looks. Raises ``RuntimeError``."""
    if (found := _found(name, environment)) is None:
        raise RuntimeError(f"there is no {name}")
    return found


def has(name: str, environment: Mapping[str, str]) -> bool:
    """Is there one?"""
    return _found(name, environment) is not None


def _found(name: str, environment: Mapping[str, str]) -> str | None:
    return shutil.which(name, path=f"{environment.get('PATH', '')}:{SYSTEM_PATH}")


def _ask(port: int, request: bytes) -> tuple[int, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.connect()
        connection.sock.sendall(request)
        answer = http.client.HTTPResponse(connection.sock)
        answer.begin()
        return answer.status, len(answer.read())
    finally:
        connection.close()


def folder_of(folder: Path, name: str) -> Path:
    """A new one in ``folder``, for ``name`` alone."""
    return Path(tempfile.mkdtemp(prefix=f"{name.replace(' ', '-')}-", dir=folder))


def files() -> int:
    """How many files a process of ours may have: what the system allows, and no more than are wanted."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)


def _connections() -> int:
    return files() - 2 * KEPT  # idle clients cost one each, and the few that ask another
