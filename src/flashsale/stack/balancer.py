# `flash lb`: the balancer of what `up` started, or any other, through its unix socket. It speaks HTTP, one request each.
from __future__ import annotations

import argparse
import json
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flashsale.settings import Settings
from flashsale.stack.console import table
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.lifecycle import UP
from flashsale.stack.state import Instance, admin_socket

ANSWER_WITHIN_S = 180.0  # a reload waits for the workers of the last one, whose grace may be long
VERBS = {
    "show": ((), "state, load, rates, latencies of every server"),
    "drain": (("NAME",), "no new request to a server; it finishes what it has"),
    "undrain": (("NAME",), "requests to it again"),
    "weight": (("NAME", "N"), "its part beside the others', 1 to 256"),
    "maxconn": (("NAME", "N"), "requests at once that it is sent at most; 0 = any number"),
    "add": (("NAME=HOST:PORT[/PATH][*WEIGHT]",), "a server more, used from its first good check on"),
    "remove": (("NAME",), "a server less; it finishes what it has"),
    "algorithm": (("NAME",), "how a server is chosen, from the next request on"),
    "reload": ((), "read LB_CONFIG and certificates anew; what was changed here is undone, but drained stays drained"),
    "restart": ((), "replace every worker by a new one with the settings of now"),
}
# What an answer of this status means to a script. The body says the rest.
_EXITS = {200: Exit.OK, 404: Exit.USAGE, 409: Exit.FAILED, 422: Exit.USAGE}


class _ThroughSocket(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("lb", timeout=ANSWER_WITHIN_S)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def options(parser: argparse.ArgumentParser) -> None:
    """What may be done."""
    verbs = parser.add_subparsers(metavar="verb", dest="verb", required=True)
    for verb, (words, text) in VERBS.items():
        doing = verbs.add_parser(verb, help=text, description=text, allow_abbrev=False)
        for word, name in zip(words, ("server", "value"), strict=False):
            doing.add_argument(name, metavar=word)
        for option, told in (
            ("--socket", "LB_ADMIN_SOCKET of the balancer meant (default: the one of what `up` started)"),
            ("--json", "machine-readable result on stdout"),
        ):
            # As in `dlq`: the option may stand before the verb or behind it.
            kind: dict[str, Any] = (
                {"type": Path, "metavar": "PATH"} if option == "--socket" else {"action": "store_true"}
            )
            doing.add_argument(option, default=argparse.SUPPRESS, help=told, **kind)
    parser.add_argument("--socket", type=Path, metavar="PATH", help="LB_ADMIN_SOCKET of the balancer meant")


def run(parsed: argparse.Namespace, settings: Settings) -> Exit:
    """Do it. Raises StackError, with the fix, if there is nobody to ask or it is refused."""
    path = parsed.socket or admin_socket(Instance(settings.home, UP), 0)
    status, body = _ask(path, parsed.verb, getattr(parsed, "server", ""), getattr(parsed, "value", ""))
    if status != 200:
        raise StackError(body.strip(), _EXITS.get(status, Exit.FAILED))
    found = json.loads(body)
    print(json.dumps(found, indent=2) if parsed.json else shown(found))
    return Exit.OK


def shown(stats: dict[str, Any]) -> str:
    """What `/stats` says, for people."""
    workers = [worker["state"] for worker in stats["workers"]]
    first = (
        f"{stats['algorithm']} · up {stats['uptime_seconds']:.0f} s · {workers.count('serving')} workers"
        f"{f' and {len(others)} {others[0]}' if (others := [w for w in workers if w != 'serving']) else ''}"
        f" · {stats['clients']} clients · {stats['per_second']:g} answers/s"
    )
    header = ("SERVER", "ADDRESS", "STATE", "WEIGHT", "ACTIVE", "PEAK", "STREAMS", "IDLE", "/S", "P50", "P99", "2XX", "4XX", "5XX",
              "RETRIES", "LOST", "OUT", "WHY")  # fmt: skip
    rows = [
        [
            server["name"],
            server["address"],
            server["state"],
            *(str(server[key]) for key in ("weight", "active", "peak", "streams", "idle_connections")),
            f"{server['per_second']:g}",
            *(_ms(server["response_seconds"][key]) for key in ("p50", "p99")),
            *(str(server["answers"][key]) for key in ("2xx", "4xx", "5xx")),
            *(str(server[key]) for key in ("retries", "lost", "ejections")),
            server["reason"] or "-",
        ]
        for server in stats["servers"]
    ]
    return f"{first}\n\n{table(header, rows)}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}ms"


def _ask(path: Path, verb: str, server: str, value: str) -> tuple[int, str]:
    connection = _ThroughSocket(path)
    words = {"show": "/stats", "algorithm": f"/algorithm/{_word(server)}"}
    of_all = f"/{verb}" if verb in {"reload", "restart"} else ""
    of_server = "/".join(["/servers", _word(server), verb, *([_word(value)] if value else [])])
    try:
        connection.request("GET" if verb == "show" else "POST", words.get(verb) or of_all or of_server)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (FileNotFoundError, ConnectionRefusedError):
        raise StackError(f"no balancer listens at {path}; start it with `./flash up`", Exit.MISSING) from None
    except PermissionError:
        raise StackError(f"{path} is another user's; only who started the balancer may ask it", Exit.MISSING) from None
    except (OSError, HTTPException) as error:
        raise StackError(f"the balancer at {path} gave no answer: {error}", Exit.FAILED) from None
    finally:
        connection.close()


def _word(text: str) -> str:
    # Whatever cannot be part of a path cannot be part of a name either, and the balancer says so.
    return quote(text, safe="=:*[]@")
