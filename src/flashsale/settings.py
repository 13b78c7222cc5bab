# Every setting of the engine, in one table. Law 1: nothing else reads the environment. Law 2: a wrong or unknown name
# stops the start, because a setting that silently does nothing is found out during the sale. Standard library only:
# the launcher reads this before anything is installed.
from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from flashsale import crash
from loadbalancer import config as balancer
from loadbalancer.config import Setting as BalancerSetting

REPOSITORY = Path(__file__).resolve().parents[2]
PREFIXES = ("FLASH_", balancer.PREFIX)
FOREIGN_PREFIX = "FLASH_TEST_"  # the test run hands service addresses to pytest under it
JWT_SECRET_CHARS_MIN = 32  # HS256 wants a key no shorter than its 256-bit digest
SECRET = rf"\S{{{JWT_SECRET_CHARS_MIN},1024}}"
RECEIPT_KEYS_MAX = 8  # a day's receipts need one or two
TARGETS_MAX = 200
ADMIN = "admin"
ASYNCIO_REDIS, GEVENT_RABBIT, MIXED = "asyncio_redis", "gevent_rabbit", "mixed"
# The servers that shoppers may be sent to, by what the choice is called.
BACKENDS = {
    ASYNCIO_REDIS: (ASYNCIO_REDIS,),
    GEVENT_RABBIT: (GEVENT_RABBIT,),
    MIXED: (ASYNCIO_REDIS, GEVENT_RABBIT),
}
DOTENV_BYTES_MAX = 64 * 1024  # a larger file is not a .env


class SettingsError(ValueError):
    """Every wrong variable at once, one per line: its name, its value, and what is allowed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


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


def _one_of(*words: str) -> Kind:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return Kind(" | ".join(words), parse)


def _matching(pattern: str, allowed: str) -> Kind:
    def parse(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError
        return text

    return Kind(allowed, parse)


def _crash_at(text: str) -> str:
    crash.parse(text)
    return text


def _url(*schemes: str) -> Kind:
    def parse(text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in schemes or not parts.hostname or parts.port == 0:
            raise ValueError
        return text

    return Kind(" or ".join(f"{scheme}://user:password@host:port/name" for scheme in schemes), parse)


def _host(text: str) -> str:
    return text if text == "localhost" else str(ipaddress.ip_address(text))


class Setting(NamedTuple):
    """One row of the table. A `secret` value is never printed."""

    name: str
    default: Any
    kind: Kind
    help: str
    secret: bool = False

    @property
    def variable(self) -> str:
        return "FLASH_" + self.name.upper()


ON_OFF = _one_of("on", "off")
PORT = _integer(0, 65535)
ORIGIN = r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?|http://(127\.0\.0\.1|localhost|\[::1\]):[0-9]{1,5}"
_TARGET = r"[a-z][a-z_]{0,31}-[0-9]{1,3}=http://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}"
TARGETS = rf"{_TARGET}(,{_TARGET}){{0,{TARGETS_MAX - 1}}}"
PASSWORD = _matching(r"[A-Za-z0-9_.~-]{16,128}", "16 to 128 characters of A-Z a-z 0-9 _ . ~ -")

TABLE: tuple[Setting, ...] = (
    Setting("home", REPOSITORY / ".flash", Kind("a directory", lambda text: Path(text).expanduser().absolute()),
            "where the launcher keeps data, logs and secrets"),
    Setting("host", "127.0.0.1", Kind("an IP address, or localhost", _host), "the address every listener binds to"),
    Setting("port", 8080, PORT, "the port of `up`: the balancer's, and its servers follow; 0 = any free one"),
    Setting("ops_port", 9080, PORT, "first operations port (/readyz, /metrics) of `up`; 0 = any free one"),
    Setting("ops_host", "127.0.0.1", Kind("an IP address, or localhost", _host),
            "the address operations ports bind to, where anybody may read and nothing is changed; containers have a network of their own for it"),
    Setting("role", "", _matching(r"[a-z][a-z_]{0,31}", "a role name"), "which role this process plays; set by the launcher"),
    Setting("instance", 0, _integer(0, 999), "which of its role's processes this is; set by the launcher"),
    Setting("auth", "jwt", _one_of("jwt", "off"),
            "jwt = bearer tokens; off = the Buyer-Id header is believed, loopback only"),
    Setting("jwt_secret", "", _matching(SECRET, f"at least {JWT_SECRET_CHARS_MIN} characters without spaces"),
            "signs and checks bearer tokens (HS256) and receipts; the launcher makes one if none is given", secret=True),
    Setting("receipt_keys", "", _matching(f"{SECRET}( {SECRET}){{0,{RECEIPT_KEYS_MAX - 1}}}", f"1 to {RECEIPT_KEYS_MAX} such secrets, a space between them"),
            "secrets whose receipts are honoured beside FLASH_JWT_SECRET's: the next one until every server knows it, the last one for a day", secret=True),
    Setting("postgres_url", "", _url("postgresql", "postgres"), "a PostgreSQL to use instead of a private one", secret=True),
    Setting("redis_url", "", _url("redis", "rediss"), "a Redis to use instead of a private one", secret=True),
    Setting("rabbitmq_url", "", _url("amqp", "amqps"), "a RabbitMQ to use instead of a private one", secret=True),
    Setting("postgres_app_password", "", PASSWORD, "password that `migrate` gives the role flash_app; derived from the owner's if the PostgreSQL is given and this is not", secret=True),
    Setting("postgres_auditor_password", "", PASSWORD,
            "password that `migrate` gives the role flash_auditor; derived from the owner's if the PostgreSQL is given and this is not", secret=True),
    Setting("postgres_operator_password", "", PASSWORD,
            "password that `migrate` gives the role flash_operator; derived from the owner's if the PostgreSQL is given and this is not", secret=True),
    Setting("postgres_admin_password", "", PASSWORD,
            "password that `migrate` gives the role flash_admin; derived from the owner's if the PostgreSQL is given and this is not", secret=True),
    Setting("apt", "on", ON_OFF, "may the launcher, when root, install missing Debian packages"),
    Setting("backend", MIXED, _one_of(*BACKENDS), "whose servers `up` starts behind the balancer; mixed = both at once"),
    Setting("asyncio_redis_processes", 2, _integer(1, 64), "how many asyncio_redis servers `up` starts"),
    Setting("gevent_rabbit_processes", 2, _integer(1, 64), "how many gevent_rabbit servers `up` starts"),
    Setting("stream_processes", 0, _integer(0, 16), "how many processes of viewers alone `up` starts; 0 = the servers carry them"),
    Setting("checkout_processes", 1, _integer(1, 16), "how many checkout workers `up` starts; one at a time decides per shard"),
    Setting("upkeep_processes", 1, _integer(1, 8), "how many upkeep processes `up` starts"),
    Setting("auditor_processes", 1, _integer(0, 1), "how many auditors `up` and `demo` keep running"),
    Setting("auditor_url", "", _url("http"), "the operations port of the auditor on watch, for the admin page; set by the launcher"),
    Setting("admin_targets", "", _matching(TARGETS, "role-0=http://host:port,…"),
            "whose metrics the operations page shows, each with its operations port; set by the launcher"),
    Setting("balancer_socket", "", _matching(r"/\S{1,255}", "a path"), "the balancer's LB_ADMIN_SOCKET, for the operations page; set by the launcher"),
    Setting("benchmark_progress", REPOSITORY / ".flash" / "benchmarks" / "running.json", Kind("a file", lambda text: Path(text).expanduser().absolute()),
            "where a comparison that runs writes how far it is, for the operations page; set by the launcher"),
    Setting("admin_processes", 1, _integer(0, 1), "may `up` start the admin page; one, because its process keeps who is signed in"),
    Setting("admin_port", 7080, PORT, "the port of the admin page that `up` starts, on loopback whatever FLASH_HOST says; 0 = any free one"),
    Setting("admin_origin", "", _matching(ORIGIN, "https://host[:port], or http:// with a loopback address"),
            "where people reach the admin page, if not at its own address: a TLS proxy in front, or a port published from a container"),
    Setting("admin_users", REPOSITORY / ".flash" / "admin_users.json", Kind("a file", lambda text: Path(text).expanduser().absolute()),
            "who may sign in to the admin page; set by the launcher"),
    Setting("payments_processes", 1, _integer(1, 8), "how many payment workers `up` starts"),
    Setting("gateway_processes", 1, _integer(0, 1), "simulated gateways per way to pay; one, because its journal has one writer, or 0 with FLASH_GATEWAY_*_URL"),
    Setting("gateway_card_url", "", _url("http", "https"), "the gateway for cards; set by the launcher for the simulated one"),
    Setting("gateway_wallet_url", "", _url("http", "https"), "the gateway for e-wallets; as above"),
    Setting("gateway_transfer_url", "", _url("http", "https"), "the gateway for bank transfers; as above"),
    Setting("gateway_method", "card", _one_of("card", "wallet", "transfer"), "which gateway this process simulates; set by the launcher"),
    Setting("gateway_journal", REPOSITORY / ".flash" / "gateway.jsonl", Kind("a file", lambda text: Path(text).expanduser().absolute()),
            "the simulated gateway's durable memory; set by the launcher"),
    Setting("gateway_latency_ms", 20, _integer(0, 10_000), "how long the simulated gateway thinks, on average"),
    Setting("gateway_later_ms", 1000, _integer(0, 600_000),
            "how long what it does by itself takes, on average: confirming a transfer, a dispute, a late webhook"),
    Setting("gateway_declines_percent", 5, _integer(0, 100), "share of payments that the simulated gateway declines, by seed"),
    Setting("gateway_silent_percent", 0, _integer(0, 100), "share of payments whose first answer the simulated gateway loses, by seed"),
    Setting("gateway_errors_percent", 0, _integer(0, 100), "share of its changes that are made and answered with 500, by seed"),
    Setting("gateway_away_percent", 0, _integer(0, 100), "share of five-second spans in which it does nothing and answers 503, by seed"),
    Setting("gateway_repeats_percent", 0, _integer(0, 100), "share of its webhooks that are sent twice, by seed"),
    Setting("gateway_late_percent", 0, _integer(0, 100), "share of its webhooks that later ones overtake, by seed"),
    Setting("gateway_disputes_percent", 0, _integer(0, 100), "share of taken payments that buyers dispute at their bank, by seed; half are lost"),
    Setting("webhook_url", "", _url("http", "https"), "where the simulated gateway sends its webhooks; set by the launcher"),
    Setting("webhook_secret", "", PASSWORD, "signs and checks webhooks; set by the launcher", secret=True),
    Setting("stock", 100, _integer(1, 100_000), "units of the sample sale, per item"),
    Setting("shoppers", 2000, _integer(1, 100_000), "shoppers of `demo`"),
    Setting("viewers", 20, _integer(0, 1000), "people who only watch the live stock during `demo`"),
    Setting("arrival_seconds", 10, _integer(1, 3600), "seconds over which the shoppers of `demo` arrive"),
    Setting("hold_seconds", 120, _integer(1, 86_400), "seconds a hold lives before its units return (`demo` takes 6 unless this is set)"),
    Setting("buyer_limit", 2, _integer(1, 1000), "units one buyer may hold of a sale"),
    Setting("seed", 1, _integer(0, 2**32 - 1), "seed of everything that is random in `demo`"),
    Setting("batch_max", 256, _integer(1, 1024), "purchase attempts decided in one database statement, at most"),
    Setting("in_flight_max", 4096, _integer(1, 100_000), "purchase attempts one server works on at once, at most; asyncio_redis stops earlier, at what it answers in half a second"),
    Setting("gate_away", "refuse", _one_of("refuse", "ask"),
            "while Redis does not answer, asyncio_redis says try_later (refuse), or lets PostgreSQL decide a few at a time (ask)"),
    Setting("sse_hz", 5, _integer(1, 20), "changes of stock per second that one viewer of /stock/stream is told, at most"),
    Setting("sse_viewers_max", 5000, _integer(1, 100_000), "viewers of /stock/stream per server; more are asked to come back later"),
    Setting("sse_address_viewers_max", 5000, _integer(1, 100_000),
            "the same per client address as the server sees it: behind a balancer that is one address for all"),
    Setting("crash_at", "", Kind(crash.ALLOWED, _crash_at), "where a process kills or stops itself, for tests; only with FLASH_AUTH=off"),
    Setting("log_level", "info", _one_of("debug", "info", "warning", "error"), "the least severe line that is logged"),
)  # fmt: skip


# The balancer has a table of its own; what its launcher must decide nobody else may.
_LAUNCHERS = frozenset({"host", "port", "ops_port", "admin_socket", "servers"})
BALANCER_TABLE = tuple(setting for setting in balancer.TABLE if setting.name not in _LAUNCHERS)


@dataclass(frozen=True, slots=True)
class Settings:
    """One process's settings, parsed and in bounds. Durations are whole seconds; an empty string is 'not given'."""

    home: Path
    host: str
    port: int
    ops_port: int
    ops_host: str
    role: str
    instance: int
    auth: str
    jwt_secret: str = field(repr=False)
    receipt_keys: str = field(repr=False)
    postgres_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    rabbitmq_url: str = field(repr=False)
    postgres_app_password: str = field(repr=False)
    postgres_auditor_password: str = field(repr=False)
    postgres_operator_password: str = field(repr=False)
    postgres_admin_password: str = field(repr=False)
    apt: str
    backend: str
    asyncio_redis_processes: int
    gevent_rabbit_processes: int
    stream_processes: int
    checkout_processes: int
    upkeep_processes: int
    auditor_processes: int
    auditor_url: str
    admin_targets: str
    balancer_socket: str
    benchmark_progress: Path
    admin_processes: int
    admin_port: int
    admin_origin: str
    admin_users: Path
    payments_processes: int
    gateway_processes: int
    gateway_card_url: str
    gateway_wallet_url: str
    gateway_transfer_url: str
    gateway_method: str
    gateway_journal: Path
    gateway_latency_ms: int
    gateway_later_ms: int
    gateway_declines_percent: int
    gateway_silent_percent: int
    gateway_errors_percent: int
    gateway_away_percent: int
    gateway_repeats_percent: int
    gateway_late_percent: int
    gateway_disputes_percent: int
    webhook_url: str
    webhook_secret: str = field(repr=False)
    stock: int
    shoppers: int
    viewers: int
    arrival_seconds: int
    hold_seconds: int
    buyer_limit: int
    seed: int
    batch_max: int
    in_flight_max: int
    gate_away: str
    sse_hz: int
    sse_viewers_max: int
    sse_address_viewers_max: int
    crash_at: str
    log_level: str
    balancer: Mapping[str, str]  # LB_* variables that were given, as they were written
    balancer_file: Mapping[
        str, str
    ]  # those that the file LB_CONFIG names gives; the balancer reads it anew at each reload
    origins: Mapping[str, str] = field(repr=False, compare=False)

    @classmethod
    def load(cls, environ: Mapping[str, str], dotenv_path: Path | None = None) -> Settings:
        """
        Read `environ` over the file `dotenv_path` (which may be absent) over the defaults. An empty value counts as
        not given. Raises SettingsError with every problem found; `origins` says where each value came from.
        """
        problems: list[str] = []
        values: dict[str, Any] = {setting.name: setting.default for setting in TABLE}
        origins = dict.fromkeys(values, "default")
        sources: list[tuple[str, Mapping[str, str]]] = [("environment", environ)]
        if dotenv_path is not None and dotenv_path.exists():
            sources.insert(0, (".env", _read_dotenv(dotenv_path, problems)))
        given: dict[str, str] = {}
        for origin, source in sources:
            for name, value in _parse(origin, source, problems):
                values[name] = value
                origins[name] = origin
            for variable, text in _parse_balancer(origin, source, problems):
                given[variable] = text
                origins[variable] = origin
        in_file = _parse_balancer_file(given[balancer.FILE], problems) if balancer.FILE in given else {}
        origins |= dict.fromkeys(in_file.keys() - given.keys(), given.get(balancer.FILE, ""))
        if values["auth"] == "off" and not is_loopback(values["host"]):
            problems.append(
                f"FLASH_AUTH is 'off' while FLASH_HOST is {values['host']!r}; "
                "allowed: off only with a loopback host (127.0.0.1, ::1, localhost)"
            )
        if values["role"] == ADMIN and not is_loopback(values["host"]) and not values["admin_origin"]:
            problems.append(
                f"the admin page would listen on FLASH_HOST {values['host']!r}; allowed: beyond loopback only with "
                "FLASH_ADMIN_ORIGIN, which says what stands in front of it"
            )
        if values["crash_at"] and values["auth"] != "off":
            problems.append(
                f"FLASH_CRASH_AT is {values['crash_at']!r} while FLASH_AUTH is {values['auth']!r}; "
                "allowed: only with FLASH_AUTH=off, where nobody is served but this machine"
            )
        if problems:
            raise SettingsError(problems)
        return cls(
            **values,
            balancer=MappingProxyType(given),
            balancer_file=MappingProxyType(in_file),
            origins=MappingProxyType(origins),
        )

    def balancer_text(self, setting: BalancerSetting) -> str:
        """The value of one of the balancer's settings, as it is written wherever it comes from."""
        return self.balancer.get(setting.variable) or self.balancer_file.get(setting.variable) or setting.default

    def shown(self, setting: Setting) -> str:
        """The value as `config` prints it: secrets masked, a URL's password alone."""
        value = str(getattr(self, setting.name))
        if not setting.secret or not value:
            return value
        return mask_url(value) if setting.name.endswith("_url") else "***"

    @property
    def receipt_secrets(self) -> list[str]:
        """The secrets in ``receipt_keys``."""
        return self.receipt_keys.split()

    @property
    def targets(self) -> dict[tuple[str, int], str]:
        """The base URLs in ``admin_targets``, by role and number."""
        found = {}
        for target in filter(None, self.admin_targets.split(",")):
            name, _, url = target.partition("=")
            role, _, number = name.rpartition("-")
            found[role, int(number)] = url
        return found

    @property
    def gateway_urls(self) -> dict[str, str]:
        """The gateways that were given, by way to pay."""
        urls = {"card": self.gateway_card_url, "wallet": self.gateway_wallet_url, "transfer": self.gateway_transfer_url}
        return {method: url for method, url in urls.items() if url}

    def given(self, name: str) -> bool:
        """Did somebody set it, or is it the default?"""
        return self.origins[name] != "default"


def is_loopback(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def mask_url(url: str) -> str:
    """The URL without its password and without its query, which may carry one too."""
    parts = urlsplit(url)
    user = f"{parts.username or ''}:***@" if parts.password else (f"{parts.username}@" if parts.username else "")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit((parts.scheme, f"{user}{host}{port}", parts.path, "", ""))


def _parse(origin: str, source: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, Any]]:
    by_variable = {setting.variable: setting for setting in TABLE}
    for variable, text in sorted(source.items()):
        if not variable.startswith("FLASH_") or variable.startswith(FOREIGN_PREFIX):
            continue
        setting = by_variable.get(variable)
        if setting is None:
            problems.append(_unknown(variable, origin, by_variable))
        elif text:
            try:
                yield setting.name, setting.kind.parse(text)
            except ValueError:
                shown = "(secret)" if setting.secret else repr(text)
                problems.append(f"{variable} ({origin}) is {shown}; allowed: {setting.kind.allowed}")


def _parse_balancer(origin: str, source: Mapping[str, str], problems: list[str]) -> Iterator[tuple[str, str]]:
    by_variable = {setting.variable: setting for setting in BALANCER_TABLE}
    for variable, text in sorted(source.items()):
        if not variable.startswith(balancer.PREFIX):
            continue
        setting = by_variable.get(variable)
        if setting is None and variable.removeprefix(balancer.PREFIX).lower() in _LAUNCHERS:
            problems.append(
                f"{variable} ({origin}) is decided by the launcher; FLASH_HOST, FLASH_PORT and FLASH_OPS_PORT are yours"
            )
        elif setting is None:
            problems.append(_unknown(variable, origin, by_variable))
        elif text:
            try:
                setting.kind.parse(text)
                yield variable, text
            except ValueError:
                problems.append(f"{variable} ({origin}) is {text!r}; allowed: {setting.kind.allowed}")


def _parse_balancer_file(path: str, problems: list[str]) -> dict[str, str]:
    found, wrong = balancer.read_file(path)
    problems += wrong
    texts = {}
    for setting, text, where in found:
        try:
            setting.kind.parse(text)
        except ValueError:
            problems.append(f"{where} is {text!r}; allowed: {setting.kind.allowed}")
        if setting in BALANCER_TABLE:  # in what the launcher decides it is not asked
            texts[setting.variable] = text
    return texts


def _unknown(variable: str, origin: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(variable, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "`./flash config` lists the known ones"
    return f"{variable} ({origin}) is not a setting; {hint}"


def _read_dotenv(path: Path, problems: list[str]) -> dict[str, str]:
    # NAME=value lines, '#' comments, one pair of quotes around a value. No interpolation, no export, no escapes: the
    # shells and Compose disagree about those, and a secret must read the same everywhere.
    found: dict[str, str] = {}
    with path.open("rb") as file:
        raw = file.read(DOTENV_BYTES_MAX + 1)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        problems.append(f"{path.name} is not UTF-8 text")
        return found
    if len(raw) > DOTENV_BYTES_MAX:
        problems.append(f"{path.name} is larger than {DOTENV_BYTES_MAX} bytes")
        return found
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = re.fullmatch(r"""([A-Za-z_][A-Za-z0-9_]*)=('[^']*'|"[^"\\$`]*"|[^\s'"#$`\\]*)""", stripped)
        if match is None:
            problems.append(
                f"{path.name} line {number} is not NAME=value (quote a value with spaces, # or $ in single quotes)"
            )
        elif match[1] in found:
            problems.append(f"{path.name} line {number} sets {match[1]} a second time")
        else:
            value = match[2]
            found[match[1]] = value[1:-1] if value[:1] in {"'", '"'} else value
    return found
