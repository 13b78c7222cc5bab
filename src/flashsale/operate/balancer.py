"""What a person does to the balancer: who gets requests, and how that is chosen. Asked through its unix socket, in HTTP.

The balancer keeps what it is told until it is reloaded, and for whatever worker comes later; ``LB_SERVERS`` and ``LB_ALGORITHM`` stay
what a start begins with, and nobody's drain survives that.
"""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from flashsale.operate.context import AwayError, Change, Context, Deed, NothingError, OperationError
from flashsale.operate.fields import NAME, Field, whole

ANSWER_SECONDS = 5.0
ANSWER_BYTES_MAX = 4 * 1024 * 1024  # 64 servers as each of as many workers sees them
WEIGHT_MAX = 256  # as the balancer has it
SUBJECT = "loadbalancer"
SERVER = Field("server", NAME)
WEIGHT = Field("weight", whole(1, WEIGHT_MAX), "its part beside the others'")
ALGORITHM = Field("algorithm", NAME, "how a server is chosen")


class Verb(NamedTuple):
    """One thing that can be done: what it means, what it is told, and which deeds on the same subject take its place."""

    means: str
    fields: tuple[Field, ...]
    rivals: tuple[str, ...]


VERBS: Mapping[str, Verb] = {
    "drain": Verb("no new request to a server; it finishes what it has", (SERVER,), ("drain", "undrain")),
    "undrain": Verb("requests to a server again", (SERVER,), ("drain", "undrain")),
    "weight": Verb("a server's part beside the others', from the next request on", (SERVER, WEIGHT), ("weight",)),
    "algorithm": Verb("how a server is chosen, from the next request on", (ALGORITHM,), ("algorithm",)),
}
# Told before it is done, as what is done to messages is. Who sends a key again is told nothing of what became of it and does it
# once more, which changes nothing; unless somebody has wanted it otherwise since, whose word then stands.
_RECORD = "SELECT record_elsewhere($1, $2, $3, $4, $5, $6)"
# From the record to the balancer's answer a deed is alone with its subject: two at once could be told in one order and done in the other,
# and what is so would not be what is written last. Ends with the connection; whoever waits gives up as for any lock.
_ALONE = "SELECT pg_advisory_lock(hashtextextended('balancer ' || $1, 0))"
_IS_OVERRULED = """
    SELECT EXISTS (SELECT FROM operation mine JOIN operation later ON later.subject = mine.subject AND later.id > mine.id
                   WHERE mine.key = $1 AND later.action = ANY($2))"""


async def stats(context: Context) -> dict[str, Any]:
    """Everything it knows of itself. Raises ``AwayError``."""
    status, body = await ask(_socket(context), "GET", "/stats")
    if status != 200:
        raise AwayError(f"the balancer answers {status}")
    found: dict[str, Any] = json.loads(body)
    return found


async def plan(verb: str, asked: Mapping[str, Any], context: Context) -> list[Change]:
    """What it would change: looked at, and nothing done. Raises ``NothingError`` and ``OperationError`` as ``do`` would."""
    now = await stats(context)
    if verb == "algorithm":
        _check_algorithm(asked["algorithm"], now)
        return _change("algorithm", now["algorithm"], asked["algorithm"])
    server = _found(asked["server"], now)
    name = server["name"]
    if verb == "weight":
        return _change(f"{name}: weight", server["weight"], asked["weight"])
    return _change(f"{name}: new requests", name not in now["drained"], verb == "undrain")


async def do(verb: str, asked: Mapping[str, Any], by: Deed, context: Context) -> None:
    """Do it, once it is on record. Raises ``OperationError``."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    now = await stats(context)  # what cannot be done is not recorded
    if verb == "algorithm":
        _check_algorithm(asked["algorithm"], now)
    else:
        _found(asked["server"], now)
    subject = asked.get("server", SUBJECT)
    detail = json.dumps({name: value for name, value in asked.items() if name != "server"})
    rivals = [f"balancer.{rival}" for rival in VERBS[verb].rivals]
    async with connected(context.postgres) as connection:
        await connection.execute(_ALONE, subject)
        await connection.execute(_RECORD, by.key, by.operator, f"balancer.{verb}", subject, by.reason, detail)
        if await connection.fetchval(_IS_OVERRULED, by.key, rivals):
            return
        status, body = await ask(_socket(context), "POST", _path(verb, asked))
    if status != 200:
        kind = {404: NothingError, 422: OperationError}.get(status, AwayError)
        raise kind(f"the balancer: {body.decode(errors='replace').strip()}")


async def ask(socket: Path, method: str, path: str, within_s: float = ANSWER_SECONDS) -> tuple[int, bytes]:
    """One request; its status and body. Raises ``AwayError``."""
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_unix_connection(str(socket), limit=ANSWER_BYTES_MAX)
            try:
                writer.write(f"{method} {path} HTTP/1.1\r\nHost: lb\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
                if length > ANSWER_BYTES_MAX:
                    raise ValueError("its answer is too long")
                return int(head.split(b" ", 2)[1]), await reader.readexactly(length)
            finally:
                writer.close()
    except FileNotFoundError:
        raise AwayError(f"no balancer listens at {socket}") from None
    except (OSError, TimeoutError, EOFError, ValueError, StopIteration, asyncio.LimitOverrunError) as error:
        raise AwayError(f"the balancer at {socket} does not answer: {str(error) or type(error).__name__}") from error


def _socket(context: Context) -> Path:
    if not context.balancer:
        raise AwayError("no balancer is known here")
    return Path(context.balancer)


def _path(verb: str, asked: Mapping[str, Any]) -> str:
    if verb == "algorithm":
        return f"/algorithm/{quote(asked['algorithm'], safe='')}"
    words = ["servers", asked["server"], verb, *([str(asked["weight"])] if verb == "weight" else [])]
    return "".join(f"/{quote(word, safe='')}" for word in words)


def _found(name: str, now: Mapping[str, Any]) -> Mapping[str, Any]:
    for server in now["servers"]:
        if server["name"] == name:
            known: Mapping[str, Any] = server
            return known
    raise NothingError(f"no server is named {name}; there are {', '.join(each['name'] for each in now['servers'])}")


def _check_algorithm(algorithm: str, now: Mapping[str, Any]) -> None:
    if algorithm not in now["algorithms"]:
        raise OperationError(f"{algorithm} is no algorithm; there are {', '.join(now['algorithms'])}")


def _change(what: str, before: Any, after: Any) -> list[Change]:
    return [] if before == after else [Change(what, before, after)]
