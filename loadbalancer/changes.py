"""What an operator changes while the balancer is at work, and what that makes of its settings.

A change is applied to the settings as they are written, so it is judged by the same table, and a worker that starts later
is simply told the settings of now. A reload makes the configuration true again; a server drained by hand stays so.
"""

from collections.abc import Mapping
from typing import NamedTuple

from loadbalancer import tls
from loadbalancer.config import SETTINGS, Config, ConfigError, Given, Kind, integer, parse_server
from loadbalancer.servers import Farm

WEIGHT, MAXCONN = integer(1, 256), integer(0, 1_000_000)


class Told(NamedTuple):
    """What workers are told: settings as they are written, what they mean, and what no setting says."""

    texts: Mapping[str, str]
    config: Config
    drained: frozenset[str] = frozenset()
    maxconn: Mapping[str, int] = {}  # servers whose limit was set by hand

    @classmethod
    def of(cls, given: list[Given], problems: list[str]) -> "Told":
        """What `gather` found. Raises ConfigError."""
        config = Config.of(given, problems)
        tls.context(config)  # or the workers would find out
        return cls({one.setting.variable: one.text for one in given if one.setting.name != "config"}, config)

    def again(self, told: "Told") -> "Told":
        """After a reload: what was configured anew, and the servers of it that somebody has drained."""
        return told._replace(drained=self.drained & {server.name for server in told.config.servers})


class Change(NamedTuple):
    """One of them: `verb` is a key of VERBS, `server` its name (or for `add` how it is written), and perhaps a value."""

    verb: str
    server: str
    value: str = ""

    def on(self, told: Told) -> Told:
        """The settings after it. Raises ConfigError for a wrong value, KeyError for a server that is none."""
        names = [server.name for server in told.config.servers]
        if self.verb == "algorithm":
            return _with(told, "algorithm", self.value)
        if self.verb == "add":
            try:
                server = parse_server(self.server)
            except ValueError:
                raise ConfigError([f"{self.server!r} is not a server; allowed: {SERVER}"]) from None
            if server.name in names:
                raise ConfigError([f"a server is named {server.name!r} already; allowed: another name"])
            return _with(told, "servers", ",".join(map(str, (*told.config.servers, server))))
        if self.server not in names:
            raise KeyError(self.server)
        return self._on_server(told, names)

    def to(self, farm: Farm) -> None:
        """Have a worker's servers follow."""
        if self.verb == "algorithm":
            farm.set_algorithm(self.value)
            return
        if self.verb == "add":
            farm.add(parse_server(self.server))
            return
        [server] = [server for server in farm.servers if server.name == self.server]
        match self.verb:
            case "remove":
                farm.remove(server)
            case "weight":
                farm.set_weight(server, int(self.value))
            case "maxconn":
                farm.set_maxconn(server, int(self.value))
            case _:
                farm.set_draining(server, is_draining=self.verb == "drain")

    def _on_server(self, told: Told, names: list[str]) -> Told:
        match self.verb:
            case "remove":
                if len(names) == 1:
                    raise ConfigError([f"{self.server!r} is the last server; allowed: one of several"])
                kept = (server for server in told.config.servers if server.name != self.server)
                told = _with(told, "servers", ",".join(map(str, kept)))
                limits = {name: limit for name, limit in told.maxconn.items() if name != self.server}
                return told._replace(drained=told.drained - {self.server}, maxconn=limits)
            case "weight":
                weight = _value(WEIGHT, "weight", self.value)
                servers = (s._replace(weight=weight) if s.name == self.server else s for s in told.config.servers)
                return _with(told, "servers", ",".join(map(str, servers)))
            case "maxconn":
                limit = _value(MAXCONN, "maxconn", self.value)
                if 0 < limit < told.config.workers:
                    raise ConfigError(
                        [f"maxconn is {limit}; allowed: 0, or {told.config.workers} and more: one per worker"]
                    )
                return told._replace(maxconn={**told.maxconn, self.server: limit})
            case "drain":
                return told._replace(drained=told.drained | {self.server})
            case _:
                return told._replace(drained=told.drained - {self.server})


SERVER = "[name=]host:port[/path][*weight] or name=unix:/path[*weight]"
# Each with whether it takes a value, and what it does.
VERBS = {
    "drain": (False, "no new request to a server; it finishes what it has"),
    "undrain": (False, "requests to it again"),
    "weight": (True, "its part beside the others', 1 to 256"),
    "maxconn": (True, "requests at once that it is sent at most; 0 = any number"),
    "add": (False, f"a server more, {SERVER}, used from its first good check on"),
    "remove": (False, "a server less; it finishes what it has"),
}


def _with(told: Told, name: str, text: str) -> Told:
    texts = {**told.texts, SETTINGS[name].variable: text}
    return told._replace(texts=texts, config=Config.load(texts))


def _value(kind: Kind, name: str, text: str) -> int:
    try:
        value: int = kind.parse(text)
    except ValueError:
        raise ConfigError([f"{name} is {text!r}; allowed: {kind.allowed}"]) from None
    return value
