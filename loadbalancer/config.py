"""Every setting of the balancer, in one table. A wrong or unknown one stops the start, or a reload: one that silently did
nothing would be found out under load. The environment (``LB_ALGORITHM``) wins over the file that ``LB_CONFIG`` names (TOML,
``algorithm``), which wins over the default. Standard library only, so that the table can be printed before anything is
installed.
"""

import difflib
import ipaddress
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

PREFIX = "LB_"
SERVERS_MAX = 64
FILE = "LB_CONFIG"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
FILE_BYTES_MAX = 64 * 1024
ALGORITHMS = ("round_robin", "least_connections", "consistent_hash", "power_of_two")


class ConfigError(ValueError):
    """Everything wrong at once, one per line: the file if it is in one, the name, the value, and what is allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class PartError(ValueError):
    """A part of a long value is wrong, and the text says which."""


class Address(NamedTuple):
    """One server: ``[name=]host:port[/path][*weight]``, without a name known by its address; or ``name=unix:/path[*weight]``, port 0.

    With a path it is there for the requests of that path and of those below it, and for no others.
    """

    name: str
    host: str
    port: int
    weight: int
    path: str = ""

    def __str__(self) -> str:
        where = _where(self.host, self.port)
        return f"{'' if self.name == where else f'{self.name}='}{where}{self.path}*{self.weight}"


class Kind(NamedTuple):
    """How a value is written (`allowed`, for people) and read (`parse`, raises ValueError). `words`: the only ones, if few."""

    allowed: str
    parse: Callable[[str], Any]
    words: tuple[str, ...] = ()


def integer(low: int, high: int) -> Kind:
    """A whole number within bounds."""

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

    return Kind(" | ".join(words), parse, words)


def _matching(pattern: str, allowed: str) -> Kind:
    def parse(text: str) -> str:
        if re.fullmatch(pattern, text, re.ASCII) is None:
            raise ValueError
        return text

    return Kind(allowed, parse)


def _host(text: str) -> str:
    return text if text == "localhost" else str(ipaddress.ip_address(text))


def _where(host: str, port: int) -> str:
    if not port:
        return host  # unix:/path
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _server_host(text: str) -> str:
    if text.startswith("["):
        return str(ipaddress.IPv6Address(text[1:-1]))
    # Looking up a name with an empty label, or one too long, raises UnicodeError and not OSError.
    labels = text.removesuffix(".").split(".")
    if len(text) > 253 or not all(1 <= len(label) <= 63 for label in labels):
        raise ValueError
    return text


def parse_server(text: str) -> Address:
    """One server as LB_SERVERS has it. Raises ValueError."""
    pattern = r"(?:([A-Za-z0-9_.-]{1,64})=)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})((?:/[A-Za-z0-9_.~-]+)*)(?:\*([0-9]{1,3}))?"
    local = r"([A-Za-z0-9_.-]{1,64})=(unix:/[A-Za-z0-9_.~/-]{1,99})(?:\*([0-9]{1,3}))?"
    match = re.fullmatch(local, text, re.ASCII)
    if match is not None:
        if not 1 <= int(match[3] or 1) <= 256:
            raise ValueError
        return Address(match[1], match[2], 0, int(match[3] or 1))
    match = re.fullmatch(pattern, text, re.ASCII)
    if match is None:
        raise ValueError
    host, port = _server_host(match[2]), int(match[3])
    address = Address(match[1] or _where(host, port), host, port, int(match[5] or 1), match[4])
    if not 1 <= address.port <= 65535 or not 1 <= address.weight <= 256:
        raise ValueError
    return address


def _servers(text: str) -> tuple[Address, ...]:
    servers: dict[str, Address] = {}
    for part in map(str.strip, text.split(",")):
        try:
            server = parse_server(part)
        except ValueError:
            raise PartError(f"{part!r} is not a server") from None
        if server.name in servers:
            raise PartError(f"there are two named {server.name!r}")
        servers[server.name] = server
    if all(server.path for server in servers.values()):
        raise PartError("every server has a path, and one without must be there for all others")
    if len(servers) > SERVERS_MAX:
        raise PartError(f"these are {len(servers)}")
    return tuple(servers.values())


def _hash_sources(text: str) -> tuple[str, ...]:
    sources = tuple(part.strip() for part in text.split(","))
    if not all(
        re.fullmatch(r"address|header:[A-Za-z0-9-]{1,64}|cookie:[\w.-]{1,64}", source, re.ASCII) for source in sources
    ):
        raise ValueError
    return tuple(
        source.lower() if source.startswith("header") else source for source in sources
    )  # a cookie's name has case


def _networks(text: str) -> tuple[Network, ...]:
    return () if text == "none" else tuple(ipaddress.ip_network(part.strip()) for part in text.split(","))


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
PORT = integer(0, 65535)

TABLE: tuple[Setting, ...] = (
    Setting("config", "", Kind("a readable file in TOML", str), "a file with settings: the names below without LB_, in small letters; the environment wins"),
    Setting("host", "127.0.0.1", Kind("an IP address, or localhost", _host), "the address clients connect to"),
    Setting("port", "8000", PORT, "the port clients connect to; 0 = any free one"),
    Setting("ops_port", "9000", PORT, "/livez, /readyz, /metrics and /servers, on loopback alone; 0 = any free one"),
    Setting("workers", "1", integer(1, 64), "processes that share the port; one core each is what they can use"),
    Setting("admin_socket", "", _matching(r"/.{1,100}", "an absolute path of at most 101 characters"), "a unix socket, for its owner alone, where servers are drained, added and weighed; empty = none"),
    Setting("tls_cert", "", Kind("a readable file, the certificate and those that vouch for it in PEM", str), "with LB_TLS_KEY: clients speak TLS to the port; read anew at each reload; empty = plain HTTP"),
    Setting("tls_key", "", Kind("a readable file, its key in PEM without a pass phrase", str), "the certificate's key"),
    Setting("servers", "", Kind("[name=]host:port[/path][*weight] or name=unix:/path[*weight], with commas between; names differ; weights 1 to 256; at most 64; one without [/path] at least", _servers),
            "the servers to share the requests among; must be given; one with a path gets the requests below it, which the others get while none of these can take them"),
    Setting("algorithm", "round_robin", _one_of(*ALGORITHMS), "how a server is chosen"),
    Setting("hash", "header:buyer-id,header:authorization,address",
            Kind("header:<name>, cookie:<name> or address, with commas between", _hash_sources), "consistent_hash goes by the first of these that a request has"),
    Setting("check_path", "/livez", _matching(r"/[A-Za-z0-9_.~/?=&-]{0,255}", "a path"), "a server that answers GET here with 2xx or 3xx is alive"),
    Setting("check_interval", "1", _seconds(0.05, 3600), "from one check of a server to its next"),
    Setting("check_fast_interval", "0.25", _seconds(0.05, 3600), "the same while checks begin to say otherwise than before"),
    Setting("check_timeout", "1", _seconds(0.05, 60), "a check without an answer by then has failed"),
    Setting("check_rise", "2", integer(1, 100), "good checks in a row that bring a server back"),
    Setting("check_fall", "3", integer(1, 100), "bad checks in a row that take a server out"),
    Setting("connect_fall", "2", integer(1, 100), "failed connections in a row that take a server out at once"),
    Setting("eject_errors", "5", integer(0, 1000),
            "requests in a row that a server loses, leaves unanswered or answers 500, 502 or 504, and is ejected for; 0 = never"),
    Setting("eject_time", "10", _seconds(0.05, 3600), "it is ejected so long, and until a good check; the second time in a row twice as long, and so on"),
    Setting("eject_time_max", "120", _seconds(0.05, 86_400), "and never longer than this"),
    Setting("eject_max", "50", integer(0, 100), "per cent of the servers that may be ejected at once; one always stays"),
    Setting("slow_start", "10", _seconds(0, 3600), "a server that comes back is given more and more for so long; 0 = everything at once"),
    Setting("connect_timeout", "1", _seconds(0.05, 60), "to make a connection to a server"),
    Setting("response_timeout", "40", _seconds(0.05, 3600), "from a request sent to the first of its answer; then 504"),
    Setting("stream_timeout", "3600", _seconds(0.05, 86_400), "an answer of unknown length may be silent for so long; one of a known length, LB_RESPONSE_TIMEOUT"),
    Setting("head_timeout", "5", _seconds(0.05, 300), "a client has so long for a whole request head, however it trickles"),
    Setting("body_timeout", "10", _seconds(0.05, 300), "a client has so long for a body, and a second more per KiB that came"),
    Setting("idle_timeout", "75", _seconds(0.05, 3600), "a client's connection is kept so long between requests"),
    Setting("stall_timeout", "30", _seconds(0.05, 3600), "who does not read what was sent is given up after this"),
    Setting("pool_size", "1024", integer(0, 10_000), "idle connections kept per server"),
    Setting("pool_timeout", "4", _seconds(0.05, 3600), "an idle one is kept so long; less than the servers keep theirs"),
    Setting("maxconn", "1024", integer(0, 1_000_000),
            "requests a server is given at once, event streams and long polls apart; past it they wait here; shared out among the workers; 0 = any number"),
    Setting("queue", "4096", integer(0, 1_000_000), "requests that may wait for a place at a server, shared out among the workers; past it, 503"),
    Setting("queue_timeout", "1", _seconds(0.05, 300), "a request waits so long for a place; then 503"),
    Setting("clients_max", "20000", integer(1, 200_000), "client connections at once; past it, 503"),
    Setting("client_max", "20000", integer(1, 200_000),
            "connections at once from one address, or one /64 of IPv6; past it, 429; behind another proxy one address is everybody"),
    Setting("body_max", "1048576", integer(0, 2**40), "largest request body in bytes; past it, 413"),
    Setting("retries", "2", integer(0, 10), "how often one request may be tried again"),
    Setting("retry_budget", "20", integer(0, 100), "retries per hundred requests, over time; 0 = never"),
    Setting("replay_safe", "POST /purchases,POST /purchases/*/pay",
            Kind("METHOD /path with * for one segment, with commas between, or none", _routes),
            "routes where a request with an Idempotency-Key may be sent again after it was lost"),
    Setting("link", "none",
            Kind("METHOD /path with * for one segment, with commas between, or none; each of them in LB_REPLAY_SAFE too", _routes),
            "routes whose answers are quick and small: their requests share a few connections to a server that repeats Link-Sequence"),
    Setting("trusted", "none", Kind("networks such as 10.0.0.0/8 or ::1, with commas between, or none", _networks),
            "proxies in front: their X-Forwarded-For, -Proto and -Host are passed on with their own address added, and their X-Request-Id is kept; everybody else's is replaced"),
    Setting("via", "", _matching(r"[A-Za-z0-9._-]{1,64}", "1 to 64 of A-Z a-z 0-9 . _ -"), "its name in Via, by which it refuses (508) what it has had before; empty = one made up at each start"),
    Setting("grace", "15", _seconds(0, 3600), "after SIGTERM, requests being answered have so long"),
    Setting("access_log", "off", ON_OFF, "a JSON line per request on standard output"),
)  # fmt: skip


SETTINGS = {setting.name: setting for setting in TABLE}


@dataclass(frozen=True, slots=True)
class Config:
    """One balancer's settings, parsed and in bounds. Durations are seconds, sizes bytes."""

    config: str
    host: str
    port: int
    ops_port: int
    workers: int
    admin_socket: str
    tls_cert: str
    tls_key: str
    servers: tuple[Address, ...]
    algorithm: str
    hash: tuple[str, ...]
    check_path: str
    check_interval: float
    check_fast_interval: float
    check_timeout: float
    check_rise: int
    check_fall: int
    connect_fall: int
    eject_errors: int
    eject_time: float
    eject_time_max: float
    eject_max: int
    slow_start: float
    connect_timeout: float
    response_timeout: float
    stream_timeout: float
    head_timeout: float
    body_timeout: float
    idle_timeout: float
    stall_timeout: float
    pool_size: int
    pool_timeout: float
    maxconn: int
    queue: int
    queue_timeout: float
    clients_max: int
    client_max: int
    body_max: int
    retries: int
    retry_budget: int
    replay_safe: tuple[tuple[str, str], ...]
    link: tuple[tuple[str, str], ...]
    trusted: tuple[Network, ...]
    via: str
    grace: float
    access_log: str

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> "Config":
        """Read `environ`, and the file it names, over the defaults. Raises ConfigError with every problem."""
        return cls.of(*gather(environ))

    @classmethod
    def of(cls, given: Sequence["Given"], problems: Iterable[str] = ()) -> "Config":
        """What `gather` found. Raises ConfigError with every problem, `problems` among them."""
        found = list(problems)
        values = {setting.name: setting.kind.parse(setting.default) for setting in TABLE if setting.default}
        values |= dict.fromkeys((setting.name for setting in TABLE if not setting.default), "")
        for setting, text, where in given:
            try:
                values[setting.name] = setting.kind.parse(text)
            except ValueError as error:
                part = f", where {error}" if isinstance(error, PartError) else ""
                found.append(f"{where} is {text!r}{part}; allowed: {setting.kind.allowed}{_nearest(setting, text)}")
        if not any(setting.name == "servers" for setting, _, _ in given):
            found.append(f"LB_SERVERS is not given; allowed: {SETTINGS['servers'].kind.allowed}")
        found += [
            f"LB_LINK names {method} {path}, which LB_REPLAY_SAFE does not: what is lost with a link could not be sent again"
            for method, path in values["link"]
            if (method, path) not in values["replay_safe"]
        ]
        found += [
            f"LB_LINK names HEAD {path}; allowed: methods whose answers have the body that their length says"
            for method, path in values["link"]
            if method == "HEAD"
        ]
        if 0 < values["maxconn"] < values["workers"]:
            found.append(
                f"LB_MAXCONN is {values['maxconn']}; allowed: 0, or {values['workers']} and more: one per worker"
            )
        here = (values["host"], values["port"])
        found += [
            f"LB_SERVERS names the balancer itself ({server.host}:{server.port})"
            for server in values.get("servers", ())
            if (server.host, server.port) == here
        ]
        if found:
            raise ConfigError(found)
        return cls(**values)


class Given(NamedTuple):
    """A setting that somebody gave: as it was written, and `where`, which is what a complaint begins with."""

    setting: Setting
    text: str
    where: str


def gather(environ: Mapping[str, str]) -> tuple[list[Given], list[str]]:
    """What the environment and the file it names give, in the order of the table, and what is wrong with either.

    An empty variable counts as not given.
    """
    problems: list[str] = []
    texts = {variable: text for variable, text in sorted(environ.items()) if variable.startswith(PREFIX) and text}
    given: dict[str, Given] = {}
    if FILE in texts:
        found, problems = read_file(texts[FILE])
        given = {one.setting.name: one for one in found}
    by_variable = {setting.variable: setting for setting in TABLE}
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        if variable not in by_variable:
            problems.append(_unknown(variable, by_variable, "`python -m loadbalancer --help` lists the known ones"))
        elif variable in texts:
            given[by_variable[variable].name] = Given(by_variable[variable], texts[variable], variable)
    return [given[setting.name] for setting in TABLE if setting.name in given], problems


def usage() -> str:
    """What `--help` prints: every variable with its default and its meaning, from the table."""
    lines = [
        "usage: LB_SERVERS=host:port,host:port python -m loadbalancer [--check] [--config FILE]",
        "",
        "Shares HTTP/1.1 requests among servers. Configured by the environment, which wins, and by a file in TOML,",
        "LB_CONFIG or --config, in which LB_ALGORITHM is called algorithm:",
        "",
        '  algorithm = "least_connections"',
        '  servers = ["a=127.0.0.1:8081", "b=127.0.0.1:8082*2"]',
        "  retries = 1",
        "",
        "--check prints what would be used and where it comes from, and starts nothing.",
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


def shown(config: Config, given: Iterable[Given]) -> str:
    """What `--check` prints: every setting as it would be used, and who says so."""
    by_name = {one.setting.name: one for one in given}
    rows = []
    for setting in TABLE:
        one = by_name.get(setting.name)
        rows.append((f"{setting.variable}={one.text if one else setting.default}", one.where if one else "default"))
    width = max(len(row[0]) for row in rows if len(row[0]) < 60)
    servers = [f"  {server}" for server in config.servers]
    return "\n".join([*(f"{text:<{width}}  {where}" for text, where in rows), "", "servers:", *servers, ""])


def read_file(path: str) -> tuple[list[Given], list[str]]:
    """What the file at `path` gives, and what is wrong with it apart from values that are not allowed."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
        table = tomllib.loads(raw.decode()) if len(raw) <= FILE_BYTES_MAX else None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return [], [f"{FILE} is {path!r}: {why}; allowed: {SETTINGS['config'].kind.allowed}"]
    if table is None:
        return [], [
            f"{FILE} is {path!r}: larger than {FILE_BYTES_MAX} bytes; allowed: {SETTINGS['config'].kind.allowed}"
        ]
    found, problems = [], []
    settings = {name: setting for name, setting in SETTINGS.items() if name != "config"}
    for key, value in table.items():
        where = f"{path}: {key}"
        text = _written(value)
        if key not in settings:
            problems.append(
                f"{path}: {_unknown(key, settings, '`python -m loadbalancer --help` lists the known ones')}"
            )
        elif text is None:
            problems.append(f"{where} is {value!r}; allowed: {settings[key].kind.allowed}")
        elif text:
            found.append(Given(settings[key], text, where))
    return found, problems


def _written(value: object) -> str | None:
    # As the environment would have it; a float that is no plain number of digits is refused by who reads it.
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float, str)):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(one, str) and "," not in one for one in value):
        return ",".join(value)
    return None


def _nearest(setting: Setting, text: str) -> str:
    near = difflib.get_close_matches(text, setting.kind.words, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _unknown(name: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"{name} is not a setting; {f'did you mean {near[0]}?' if near else otherwise}"
