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

from flashsale.operate.context import Context, Deed, OperationError, add_deed_options, deed, show

QUEUES = {"payments": "payments.dead", "checkout": "checkout.dead"}
SHOWN_BYTES_MAX = 16_384
ALL = "all"
# Told before it is done: the second of two commands with one key is told that it was done before, and does what is left of it.
_RECORD = "SELECT record_message($1, $2, $3, $4, $5, $6)"


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
        ("requeue", "give a message, or all, another round of tries"),
        ("drop", "remove a message, or all; its body stays with the operation"),
    ):
        doing = actions.add_parser(action, help=text)
        doing.add_argument("queue", choices=tuple(QUEUES), help="whose: the payment workers' or the checkout workers'")
        if action == "list":
            doing.add_argument("--last", type=int, metavar="N", help="only the last N")
        else:
            also = f", or {ALL}" if action != "show" else ""
            doing.add_argument("message", help=f"its id, as `list` shows it{also}")
        if action in {"requeue", "drop"}:
            add_deed_options(doing)
        doing.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable result on stdout"
        )


async def run(parsed: argparse.Namespace, context: Context) -> None:
    """Do it. Raises ``OperationError``."""
    from flashsale.operate.broker import aside  # noqa: PLC0415 - needs third-party packages

    async with aside(context.rabbitmq, QUEUES[parsed.queue]) as messages:
        if parsed.action == "list":
            rows = [_row(message) for message in messages]
            show(context, rows[-parsed.last :] if parsed.last else rows, ("id", "at", "subject", "tries", "reason"))
        elif parsed.action == "show":
            (message,) = _chosen(messages, parsed.message)
            print(json.dumps(_row(message) | {"headers": _plain(message.headers), "body": _body(message)}, default=str))
        else:
            chosen = list(messages) if parsed.message == ALL else _chosen(messages, parsed.message)
            by = deed(parsed)
            await _record(parsed, chosen, by, context)
            for message in chosen:
                await (messages.requeue(message) if parsed.action == "requeue" else messages.drop(message))
            done = {"done": len(chosen), "left": messages.left, "key": by.key}
            show(context, done, ("done", "left", "key"))


async def _record(parsed: argparse.Namespace, chosen: list[Any], by: Deed, context: Context) -> None:
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    subject = f"{QUEUES[parsed.queue]}:{parsed.message}"[:200]
    # Of many messages their number: an operation is a row, and a queue may be long.
    detail = {"body": _body(chosen[0])} if parsed.action == "drop" and parsed.message != ALL else {}
    async with connected(context.postgres) as connection:
        await connection.execute(
            _RECORD, by.key, by.operator, f"dlq.{parsed.action}", subject, by.reason, json.dumps(detail)
        )


def _chosen(messages: Any, wanted: str) -> list[Any]:
    found = [message for message in messages if _id(message) == wanted]
    if not found:
        raise OperationError(f"there is no message {wanted} (any more); `flash dlq list` shows those that are there")
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


def _body(message: _Message) -> dict[str, str]:
    body = message.body[:SHOWN_BYTES_MAX]
    try:
        return {"text": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode("ascii")}


def _plain(headers: Any) -> Any:
    return json.loads(json.dumps(dict(headers), default=str))
