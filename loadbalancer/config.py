"""Every setting of the balancer, in one table. A wrong or unknown ``LB_*`` stops the start: one that silently did nothing
would be found out under load. Standard library only, so that the table can be printed before anything is installed.
"""

import difflib
import ipaddress
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

PREFIX = "LB_"
SERVERS_MAX = 64
ALGORITHMS = ("round_robin", "least_connections", "consistent_hash", "power_of_two")


class ConfigError(ValueError):
    """Every wrong variable at once, one per line: its name, its value, and what is allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Address(NamedTuple):
    """One server: ``[name=]host:port[*weight]``; without a name it is known by its address."""

    name: str
    host: str
    port: int
    weight: int

    def __str__(self) -> str:
        return f"{self.name}={self.host}:{self.port}*{self.weight}"


class Kind(NamedTuple):
    """How a value is written (`allowed`, for people) and read (`parse`, raises ValueError)."""

    allowed: str
    parse: Callable[[str], Any]


def _integer(low: int, high: int) -> Kind:
    def parse(text: str) -> int:
        # isdecimal alone lets other scripts' digits through.
        if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
            raise ValueError
        return int(text)

    return Kind(f"a whole number, {low} to {high}", parse)


def _seconds(low: float, high: float) -> Kind:
    def parse(text: str) -> float:
        if re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text, re.ASCII) is None or not low <= float(text) <= high:
            raise ValueError
        return float(text)

    return Kind(f"seconds, {low:g} to {high:g}", parse)


def _one_of(*words: str) -> Kind:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return Kind(" | ".join(words), parse)


def _matching(pattern: str, allowed: str) -> Kind:
    def parse(text: str) -> str:
        if re.fullmatch(pattern, text, re.ASCII) is None:
            raise ValueError
        return text

    return Kind(allowed, parse)


def _host(text: str) -> str:
    return text if text == "localhost" else str(ipaddress.ip_address(text))


def _server_host(text: str) -> str:
    if text.startswith("["):
        return str(ipaddress.IPv6Address(text[1:-1]))
    # Looking up a name with an empty label, or one too long, raises UnicodeError and not OSError.
    labels = text.removesuffix(".").split(".")
    if len(text) > 253 or not all(1 <= len(label) <= 63 for label in labels):
        raise ValueError
    return text


def _servers(text: str) -> tuple[Address, ...]:
    pattern = r"(?:([A-Za-z0-9_.-]{1,64})=)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})(?:\*([0-9]{1,3}))?"
    servers = []
    for part in text.split(","):
        match = re.fullmatch(pattern, part.strip(), re.ASCII)
        if match is None:
            raise ValueError
        name, host, port, weight = (
            match[1] or f"{match[2]}:{match[3]}",
            _server_host(match[2]),
            int(match[3]),
            int(match[4] or 1),
        )
        if not 1 <= port <= 65535 or not 1 <= weight <= 256:
            raise ValueError
        servers.append(Address(name, host, port, weight))
    if len({server.name for server in servers}) != len(servers) or len(servers) > SERVERS_MAX:
        raise ValueError
    return tuple(servers)


def _hash_sources(text: str) -> tuple[str, ...]:
    sources = tuple(part.strip().lower() for part in text.split(","))
    if not all(re.fullmatch(r"address|header:[a-z0-9-]{1,64}", source, re.ASCII) for source in sources):
        raise ValueError
    return sources


def _routes(text: str) -> tuple[tuple[str, str], ...]:
    if text == "none":
        return ()
    routes = []
    for part in text.split(","):
        match = re.fullmatch(r"([A-Z]{1,16}) (/[A-Za-z0-9_.~/*-]*)", part.strip(), re.ASCII)
        if match is None or any("*" in segment and segment != "*" for segment in match[2].split("/")):
            raise ValueError
        routes.append((match[1], match[2]))
    return tuple(routes)


class Setting(NamedTuple):
    """One row of the table; `default` is written as in the environment."""

    name: str
    default: str
    kind: Kind
    help: str

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


ON_OFF = _one_of("on", "off")
PORT = _integer(0, 65535)

TABLE: tuple[Setting, ...] = (
    Setting("host", "127.0.0.1", Kind("an IP address, or localhost", _host), "the address clients connect to"),
    Setting("port", "8000", PORT, "the port clients connect to; 0 = any free one"),
    Setting("ops_port", "9000", PORT, "/livez, /readyz, /metrics and /servers, on loopback alone; 0 = any free one"),
    Setting("servers", "", Kind("[name=]host:port[*weight], with commas between; names differ; weights 1 to 256; at most 64", _servers),
            "the servers to share the requests among; must be given"),
    Setting("algorithm", "round_robin", _one_of(*ALGORITHMS), "how a server is chosen"),
    Setting("hash", "header:buyer-id,header:authorization,address",
            Kind("header:<name> or address, with commas between", _hash_sources), "consistent_hash goes by the first of these that a request has"),
    Setting("check_path", "/livez", _matching(r"/[A-Za-z0-9_.~/?=&-]{0,255}", "a path"), "a server that answers GET here with 2xx or 3xx is alive"),
    Setting("check_interval", "1", _seconds(0.05, 3600), "from one check of a server to its next"),
    Setting("check_timeout", "1", _seconds(0.05, 60), "a check without an answer by then has failed"),
    Setting("check_rise", "2", _integer(1, 100), "good checks in a row that bring a server back"),
    Setting("check_fall", "3", _integer(1, 100), "bad checks in a row that take a server out"),
    Setting("eject_after", "2", _integer(1, 100), "failed connections in a row that take a server out at once"),
    Setting("connect_timeout", "1", _seconds(0.05, 60), "to make a connection to a server"),
    Setting("response_timeout", "40", _seconds(0.05, 3600), "from a request sent to the first of its answer; then 504"),
    Setting("stream_timeout", "3600", _seconds(0.05, 86_400), "an answer of unknown length may be silent for so long; one of a known length, LB_RESPONSE_TIMEOUT"),
    Setting("head_timeout", "5", _seconds(0.05, 300), "a client has so long for a whole request head, however it trickles"),
    Setting("body_timeout", "10", _seconds(0.05, 300), "a client has so long for a body, and a second more per KiB that came"),
    Setting("idle_timeout", "75", _seconds(0.05, 3600), "a client's connection is kept so long between requests"),
    Setting("stall_timeout", "30", _seconds(0.05, 3600), "who does not read what was sent is given up after this"),
    Setting("pool_size", "256", _integer(0, 10_000), "idle connections kept per server"),
    Setting("pool_timeout", "4", _seconds(0.05, 3600), "an idle one is kept so long; less than the servers keep theirs"),
    Setting("clients_max", "20000", _integer(1, 200_000), "client connections at once; past it, 503"),
    Setting("body_max", "1048576", _integer(0, 2**40), "largest request body in bytes; past it, 413"),
    Setting("retries", "2", _integer(0, 10), "how often one request may be tried again"),
    Setting("retry_budget", "20", _integer(0, 100), "retries per hundred requests, over time; 0 = never"),
    Setting("replay_safe", "POST /purchases,POST /purchases/*/pay",
            Kind("METHOD /path with * for one segment, with commas between, or none", _routes),
            "routes where a request with an Idempotency-Key may be sent again after it was lost"),
    Setting("link", "none",
            Kind("METHOD /path with * for one segment, with commas between, or none; each of them in LB_REPLAY_SAFE too", _routes),
            "routes whose answers are quick and small: their requests share a few connections to a server that repeats Link-Sequence"),
    Setting("grace", "15", _seconds(0, 3600), "after SIGTERM, requests being answered have so long"),
    Setting("access_log", "off", ON_OFF, "a JSON line per request on standard output"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """One balancer's settings, parsed and in bounds. Durations are seconds, sizes bytes."""

    host: str
    port: int
    ops_port: int
    servers: tuple[Address, ...]
    algorithm: str
    hash: tuple[str, ...]
    check_path: str
    check_interval: float
    check_timeout: float
    check_rise: int
    check_fall: int
    eject_after: int
    connect_timeout: float
    response_timeout: float
    stream_timeout: float
    head_timeout: float
    body_timeout: float
    idle_timeout: float
    stall_timeout: float
    pool_size: int
    pool_timeout: float
    clients_max: int
    body_max: int
    retries: int
    retry_budget: int
    replay_safe: tuple[tuple[str, str], ...]
    link: tuple[tuple[str, str], ...]
    grace: float
    access_log: str

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> "Config":
        """Read `environ` over the defaults; an empty value counts as not given. Raises ConfigError with every problem."""
        problems: list[str] = []
        by_variable = {setting.variable: setting for setting in TABLE}
        values = {setting.name: setting.kind.parse(setting.default) for setting in TABLE if setting.default}
        for variable, text in sorted(environ.items()):
            if not variable.startswith(PREFIX):
                continue
            setting = by_variable.get(variable)
            if setting is None:
                problems.append(_unknown(variable, by_variable))
            elif text:
                try:
                    values[setting.name] = setting.kind.parse(text)
                except ValueError:
                    problems.append(f"{variable} is {text!r}; allowed: {setting.kind.allowed}")
        if not environ.get("LB_SERVERS"):
            problems.append(f"LB_SERVERS is not given; allowed: {by_variable['LB_SERVERS'].kind.allowed}")
        problems += [
            f"LB_LINK names {method} {path}, which LB_REPLAY_SAFE does not: what is lost with a link could not be sent again"
            for method, path in values["link"]
            if (method, path) not in values["replay_safe"]
        ]
        here = (values["host"], values["port"])
        problems += [
            f"LB_SERVERS names the balancer itself ({server.host}:{server.port})"
            for server in values.get("servers", ())
            if (server.host, server.port) == here
        ]
        if problems:
            raise ConfigError(problems)
        return cls(**values)


def usage() -> str:
    """What `--help` prints: every variable with its default and its meaning, from the table."""
    lines = [
        "usage: LB_SERVERS=host:port,host:port python -m loadbalancer",
        "",
        "Shares HTTP/1.1 requests among servers. Configured by the environment alone:",
        "",
    ]
    for setting in TABLE:
        lines.append(f"  {setting.variable}={setting.default}")
        lines += textwrap.wrap(setting.help, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
        lines += textwrap.wrap(f"[{setting.kind.allowed}]", 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += [
        "",
        "SIGTERM or SIGINT: no new connection, requests being answered are finished within LB_GRACE, exit status 0.",
        "Exit status 1: a port cannot be had, or the checks of a server ended by themselves; the log says which.",
        "Exit status 2: a setting is wrong, and standard error says which and what is allowed.",
        "",
    ]
    return "\n".join(lines)


def _unknown(variable: str, known: Mapping[str, Setting]) -> str:
    near = difflib.get_close_matches(variable, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "`python -m loadbalancer --help` lists the known ones"
    return f"{variable} is not a setting; {hint}"
