# A sale under a storm of kills: two of every worker, one process killed every second or so, and the books afterwards. Law 1: the
# seed alone says who is killed when, so a finding can be looked for again. Law 2: whoever is not up at its moment is spared, and
# that is told; nobody waits for a victim.
from __future__ import annotations

import asyncio
import functools
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import asyncpg
from aio_pika.abc import AbstractConnection

from flashsale.authority.client import UNHURRIED_SECONDS, Authority
from flashsale.payments import queues as payments
from flashsale.payments.consumer import parse
from flashsale.queued import topology as checkout
from flashsale.queued.message import Unreadable, decode
from flashsale.settings import MIXED, Settings
from flashsale.stack.demo import run_sale, summary
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.options import KILLABLE, WORKERS, DemoOptions, SoakOptions
from flashsale.stack.roles import ROLE_BY_NAME
from flashsale.stack.running import Stack, Urls, running_stack
from flashsale.stack.state import Instance

INSTANCE = "soak"
OF_EACH = 2
GAP_S = (
    0.5,
    1.5,
)  # between two kills: a process is back after one or two seconds, so that often several are away at once
FIRST_S = 1.0  # the sale has begun
HOLD_S = 6  # so that many holds lapse, and their units are sold again
UNITS_PER_SHOPPER = (
    0.5  # about as many as are paid in the end: some sell out, and there is something to buy all the time
)
LOOKED_AT_MAX = 1_000  # messages of a dead-letter queue
READ_WITHIN_S = 60.0
WITNESSES_MAX = 10
SETTLED = frozenset({"CAPTURED", "DECLINED", "VOIDED", "REFUNDED", "DISPUTE_WON", "DISPUTE_LOST"})

Explain = Callable[[asyncpg.Connection, bytes], Awaitable[bool]]


class Kill(NamedTuple):
    """One process to SIGKILL, `at_s` seconds after the sale's first shopper."""

    at_s: float
    role: str
    number: int


@dataclass(frozen=True)
class Dead:
    """What lies in a dead-letter queue. Explained: the books say what became of it all the same."""

    messages: int
    unexplained: list[str]


def schedule(seed: int, seconds: float, victims: Sequence[tuple[str, int]]) -> list[Kill]:
    """Who is killed when. Equal arguments, equal kills."""
    dice = random.Random(seed)
    kills = []
    at_s = FIRST_S
    while at_s < seconds:
        kills.append(Kill(round(at_s, 2), *dice.choice(victims)))
        at_s += dice.uniform(*GAP_S)
    return kills


async def run(options: SoakOptions, settings: Settings, say: Callable[[str], None]) -> int:
    """Run the sale under the storm; OK only if its audit is clean, everybody was answered and every dead letter is explained."""
    began = time.monotonic()
    counts = [ROLE_BY_NAME[KILLABLE[name]].count for name in WORKERS]
    processes = {count: max(OF_EACH, getattr(settings, count)) for count in counts}
    # The shoppers name themselves, which is only believed on this machine.
    settings = replace(settings, auth="off", host="127.0.0.1", **processes)
    sale = DemoOptions(
        backends=(MIXED,),
        shoppers=options.shoppers,
        stock=max(1, int(options.shoppers * UNITS_PER_SHOPPER)),
        seed=options.seed,
        buyer_limit=settings.buyer_limit,
        hold_seconds=HOLD_S,
        arrival_seconds=options.seconds,
        kill=(),
        viewers=settings.viewers,
        target=None,
        json=options.json,
    )
    async with running_stack(settings, instance=INSTANCE, services=(), backends=(MIXED,), say=say, fresh=True) as stack:
        victims = sorted((p.role, p.spec.index) for p in stack.processes if p.role in options.kill)
        kills = schedule(options.seed, options.seconds, victims)
        say(f"seed {options.seed} kills " + ", ".join(f"{k.role}-{k.number} at {k.at_s:.1f} s" for k in kills))
        authority = await Authority.connect(stack.urls.postgres_app, 1, UNHURRIED_SECONDS)
        try:
            result = await run_sale(
                authority,
                stack,
                MIXED,
                options=sale,
                settings=settings,
                say=say,
                killing=functools.partial(_storm, stack, kills, say),
                told=Instance(settings.home, INSTANCE).directory / "told.jsonl.gz",
            )
        finally:
            await authority.close()
        dead = await dead_letters(stack.urls)
        restarts = {p.spec.name: p.restarts for p in stack.processes if p.restarts}
    document = {
        "ok": result["ok"] and not any(letters.unexplained for letters in dead.values()),
        "options": asdict(options),
        "seconds": round(time.monotonic() - began, 1),
        "restarts": restarts,
        "dead_letters": {queue: asdict(letters) for queue, letters in dead.items()},
        "sale": result,
    }
    _show(document, say)
    if options.json:
        print(json.dumps(document))
    return Exit.OK if document["ok"] else Exit.FAILED


async def _storm(stack: Stack, kills: Sequence[Kill], say: Callable[[str], None]) -> list[dict[str, Any]]:
    begin = time.monotonic()
    done = []
    for kill in kills:
        await asyncio.sleep(max(0.0, begin + kill.at_s - time.monotonic()))
        try:
            pid: int | None = await stack.kill(kill.role, kill.number)
        except StackError:
            pid = None
        say(
            f"{kill.at_s:6.1f} s  "
            + (f"{kill.role}-{kill.number} is not up" if pid is None else f"kill -9 {pid} ({kill.role}-{kill.number})")
        )
        done.append({"role": kill.role, "number": kill.number, "pid": pid, "after_s": kill.at_s})
    return done


async def dead_letters(urls: Urls) -> dict[str, Dead]:
    """What lies in each dead-letter queue. Raises StackError when it cannot be read."""
    # What is looked at is not acknowledged, so that it is still there for whoever wants to see it.
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            books = await asyncpg.connect(urls.postgres_auditor)
            broker = await payments.connect(urls.rabbitmq)
            try:
                return {name: await _dead(broker, name, explain, books) for name, explain in EXPLAIN.items()}
            finally:
                books.terminate()
                await payments.close(broker)
    except (payments.BrokerUnavailable, *payments.BROKEN, asyncpg.PostgresError) as error:
        raise StackError(f"the dead-letter queues could not be read: {error!r}") from error


async def _dead(broker: AbstractConnection, name: str, explain: Explain, books: asyncpg.Connection) -> Dead:
    channel = await broker.channel()
    queue = await channel.declare_queue(name, passive=True)
    messages = queue.declaration_result.message_count or 0
    unexplained = []
    for _ in range(min(messages, LOOKED_AT_MAX)):
        message = await queue.get(fail=False)
        if message is not None and not await explain(books, message.body):
            unexplained.append(f"{message.body!r:.300}")
    if messages > LOOKED_AT_MAX:
        unexplained.append(f"and {messages - LOOKED_AT_MAX} that were not looked at")
    return Dead(messages, unexplained)


async def _is_settled(books: asyncpg.Connection, body: bytes) -> bool:
    # A message about a try may be given up, because another one came or comes: the try itself must have come to its end.
    try:
        wish = parse(body)
    except ValueError:
        return False
    state = await books.fetchval("SELECT state FROM flash.payment WHERE purchase_id = $1 AND try = $2", *wish)
    return state in SETTLED


async def _is_decided(books: asyncpg.Connection, body: bytes) -> bool:
    try:
        attempt = decode(body)
    except Unreadable:
        return False
    return bool(await books.fetchval("SELECT verdict IS NOT NULL FROM flash.attempt WHERE rid = $1", attempt.rid))


EXPLAIN: Mapping[str, Explain] = {payments.DEAD: _is_settled, checkout.DEAD: _is_decided}


def _show(document: dict[str, Any], say: Callable[[str], None]) -> None:
    killed = document["sale"]["killed"]
    dead = [kill for kill in killed if kill["pid"] is not None]
    roles = ", ".join(f"{role} {count}" for role, count in sorted(Counter(kill["role"] for kill in dead).items()))
    say(f"{len(dead)} processes were killed ({roles}); {len(killed) - len(dead)} were not up at their moment")
    say(summary(document["sale"]))
    for name, finding in document["sale"]["audit"]["findings"].items():
        for witness in finding["witnesses"]:
            say(f"{name}: {witness}")
    for queue, letters in document["dead_letters"].items():
        say(f"{queue}: {letters['messages']} messages, {len(letters['unexplained'])} of them unexplained")
        for body in letters["unexplained"][:WITNESSES_MAX]:
            say(f"  {body}")
    say(
        "nothing is wrong"
        if document["ok"]
        else f"something is wrong; the same kills again: --seed {document['options']['seed']}"
    )
