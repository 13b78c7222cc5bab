"""``flash dlq``: messages that were set aside for a person: what they are, another try for them, or their end.

Nothing is lost by any of it: the authority asks about an open payment again whatever becomes of its message, and a queued
attempt is decided once however often it comes.
"""

import argparse
import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Protocol

from flashsale.operate.context import Change, Context, Deed, NothingError, add_deed_options, deed, show

QUEUES = {"payments": "payments.dead", "checkout": "checkout.dead"}
SHOWN_BYTES_MAX = 16_384
ALL = "all"
PLANNED_MAX = 20  # named one by one in a plan; of the others their number
DEEDS = {
    "requeue": "give a message, or all, another round of tries",
    "drop": "remove a message, or all; its body stays with the operation",
}
# Told before it is done: the second of two commands with one key is told that it was done before, and does what is left of it.
# But for the end of all: what has come since then is in no record, so the same key ends nothing more.
_RECORD = "SELECT record_elsewhere($1, $2, $3, $4, $5, $6)"
_RECORDED = "SELECT EXISTS (SELECT FROM operation WHERE key = $1 AND action = $2 AND subject = $3)"


class _Message(Protocol):
    message_id: str | None
    body: bytes
    headers: Any
    timestamp: datetime | None


def options(parser: argparse.ArgumentParser) -> None:
    """What may be done."""
    actions = parser.add_subparsers(metavar="action", dest="action", required=True)
    for action, text in (
        ("list", "the messages that were set aside, in order"),
        ("show", "one message in full"),
        *DEEDS.items(),
    ):
        doing = actions.add_parser(action, help=text)
        doing.add_argument("queue", choices=tuple(QUEUES), help="whose: the payment workers' or the checkout workers'")
        if action == "list":
            doing.add_argument("--last", type=int, metavar="N", help="only the last N")
        else:
            also = f", or {ALL}" if action != "show" else ""
            doing.add_argument("message", help=f"its id, as `list` shows it{also}")
        if action in DEEDS:
            add_deed_options(doing)
        doing.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable result on stdout"
        )


async def run(parsed: argparse.Namespace, context: Context) -> None:
    """Do it. Raises ``OperationError``."""
    if parsed.action == "list":
        rows = await listed(parsed.queue, context)
        show(context, rows[-parsed.last :] if parsed.last else rows, ("id", "at", "subject", "tries", "reason"))
    elif parsed.action == "show":
        print(json.dumps(await read(parsed.queue, parsed.message, context), default=str))
    else:
        by = deed(parsed)
        done = await do(parsed.action, parsed.queue, parsed.message, by, context)
        show(context, done | {"key": by.key}, ("done", "left", "key"))


async def listed(queue: str, context: Context) -> list[dict[str, Any]]:
    """A row for each message, in order."""
    from flashsale.operate.broker import aside  # noqa: PLC0415 - needs third-party packages

    async with aside(context.rabbitmq, QUEUES[queue]) as messages:
        return [_row(message) for message in messages]


async def counted(context: Context) -> dict[str, int]:
    """How many messages were set aside, by whose they are."""
    from flashsale.operate.broker import counted as counts  # noqa: PLC0415 - needs third-party packages

    return dict(zip(QUEUES, await counts(context.rabbitmq, list(QUEUES.values())), strict=True))


async def read(queue: str, message: str, context: Context) -> dict[str, Any]:
    """One message in full. Raises ``NothingError``."""
    from flashsale.operate.broker import aside  # noqa: PLC0415 - needs third-party packages

    async with aside(context.rabbitmq, QUEUES[queue]) as messages:
        (found,) = _chosen(messages, message)
        return _row(found) | {"headers": _plain(found.headers), "body": _body(found)}


async def do(action: str, queue: str, message: str, by: Deed, context: Context) -> dict[str, Any]:
    """Requeue or drop a message, or all; how many were, and how many are left."""
    from flashsale.operate.broker import aside  # noqa: PLC0415 - needs third-party packages

    async with aside(context.rabbitmq, QUEUES[queue]) as messages:
        if action == "drop" and message == ALL and await _was_done(action, _named(queue, message), by, context):
            return {"done": 0, "left": messages.in_hand + messages.left}
        try:
            chosen = list(messages) if message == ALL else _chosen(messages, message)
        except NothingError:
            # Its answer was lost, and the same key comes again: it is done.
            if not await _was_done(action, _named(queue, message), by, context):
                raise
            return {"done": 0, "left": messages.left}
        # Of many messages their number: an operation is a row, and a queue may be long.
        detail = {"body": _body(chosen[0])} if action == "drop" and message != ALL else {}
        await _record(action, _named(queue, message), detail, by, context)
        for each in chosen:
            await (messages.requeue(each) if action == "requeue" else messages.drop(each))
        return {"done": len(chosen), "left": messages.left}


async def plan(action: str, queue: str, message: str, context: Context) -> list[Change]:
    """What it would change: looked at, and nothing done. Raises ``NothingError`` as ``do`` would."""
    from flashsale.operate.broker import aside  # noqa: PLC0415 - needs third-party packages

    async with aside(context.rabbitmq, QUEUES[queue]) as messages:
        chosen = list(messages) if message == ALL else _chosen(messages, message)
        goes = "another round of tries" if action == "requeue" else "gone for good"
        shown = [Change(f"{_id(each)} ({_subject(each)})", "set aside", goes) for each in chosen[:PLANNED_MAX]]
        rest = len(chosen) - len(shown)
        return shown + ([Change(f"{rest} more", "set aside", goes)] if rest else [])


async def _record(action: str, subject: str, detail: dict[str, Any], by: Deed, context: Context) -> None:
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres) as connection:
        await connection.execute(_RECORD, by.key, by.operator, f"dlq.{action}", subject, by.reason, json.dumps(detail))


async def _was_done(action: str, subject: str, by: Deed, context: Context) -> bool:
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres) as connection:
        was_done: bool = await connection.fetchval(_RECORDED, by.key, f"dlq.{action}", subject)
    return was_done


def _named(queue: str, message: str) -> str:
    return f"{QUEUES[queue]}:{message}"[:200]


def _chosen(messages: Any, wanted: str) -> list[Any]:
    found = [message for message in messages if _id(message) == wanted]
    if not found:
        raise NothingError(f"there is no message {wanted} (any more); `flash dlq list` shows those that are there")
    return found[:1]


def _id(message: _Message) -> str:
    return message.message_id or hashlib.sha256(message.body).hexdigest()[:16]


def _row(message: _Message) -> dict[str, Any]:
    at = message.timestamp
    return {
        "id": _id(message),
        "at": at.astimezone(UTC).isoformat(timespec="seconds") if isinstance(at, datetime) else "-",
        "subject": _subject(message),
        "tries": message.headers.get("tries", "-"),
        "reason": str(message.headers.get("reason", "-")),
    }


def _subject(message: _Message) -> str:
    # The purchase that it is about, if it says so.
    named = message.headers.get("purchase")
    if named:
        return str(named)
    try:
        document = json.loads(message.body)
        return str(document["subject"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "-"


def _body(message: _Message) -> dict[str, Any]:
    body = message.body[:SHOWN_BYTES_MAX]
    cut = {"cut_from_bytes": len(message.body)} if len(message.body) > len(body) else {}
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    # PostgreSQL keeps no NUL in a document, and a message with one must find its end too.
    return ({"base64": base64.b64encode(body).decode("ascii")} if "\0" in text else {"text": text}) | cut


def _plain(headers: Any) -> Any:
    return json.loads(json.dumps(dict(headers), default=str))
