# A sale under a storm of kills: two of every worker, one process killed every second or so, and the books afterwards. Law 1: the
# seed alone says who is killed when, so a finding can be looked for again. Law 2: whoever is not up at its moment is spared, and
# that is told. Law 3: a counted kill happens: its victim is waited for until it has served, and all later kills with it.
from __future__ import annotations

import asyncio
import functools
import itertools
import json
import math
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
from flashsale.settings import Settings
from flashsale.stack.demo import run_sale, summary
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.options import KILLABLE, WORKERS, DemoOptions, SoakOptions
from flashsale.stack.roles import ROLE_BY_NAME, uses
from flashsale.stack.running import Stack, Urls, running_stack
from flashsale.stack.state import Instance

INSTANCE = "soak"
OF_EACH = 2
GAP_S = (
    0.5,
    1.5,
)  # between two kills: a process is back after one or two seconds, so that often several are away at once
COUNTED_GAP_S = (1.0, 3.0)  # of two of a kind one serves most of the time, and a kill is rarely waited for
SERVES_S = 2.5  # at least, and asked: the balancer wants two good checks, a second apart
UP_WITHIN_S = 240.0  # RabbitMQ may take two minutes (stack/services.py), and who waits for it one more
STORM_S_MAX = 3000.0  # the sale closes after an hour
SPAN_S = 2.5  # of shoppers arriving for each counted kill: the pause, and some waiting
FIRST_S = 1.0  # the sale has begun
HOLD_S = 6  # so that many holds lapse, and their units are sold again
UNITS_PER_SHOPPER = (
    0.5  # about as many as are paid in the end: some sell out, and there is something to buy all the time
)
POLL_S = 0.1
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
    is_counted: bool = False


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


def counted(seed: int, times: Mapping[str, int], victims: Sequence[tuple[str, int]]) -> list[Kill]:
    """So many kills of each role, its processes in turn, in an order and at moments drawn. Equal arguments, equal kills."""
    dice = random.Random(seed)
    order = [role for role in sorted(times) for _ in range(times[role])]
    dice.shuffle(order)
    # In turn: drawn, the same one would be due again while it starts, every other time, and the storm would be waiting.
    turns = {role: itertools.cycle([number for name, number in victims if name == role]) for role in times}
    kills = []
    at_s = FIRST_S
    for role in order:
        kills.append(Kill(round(at_s, 2), role, next(turns[role]), is_counted=True))
        at_s += dice.uniform(*COUNTED_GAP_S)
    return kills


def arrival_seconds(options: SoakOptions) -> int:
    """How long shoppers arrive, so that they are there while processes are killed."""
    return max(options.seconds, math.ceil(FIRST_S + SPAN_S * sum(options.counted.values())))


async def run(options: SoakOptions, settings: Settings, say: Callable[[str], None]) -> int:
    """Run the sale under the storm; OK only if its audit is clean, everybody was answered and every dead letter is explained."""
    began = time.monotonic()
    counts = [ROLE_BY_NAME[KILLABLE[name]].count for name in WORKERS]
    processes = {count: max(OF_EACH, getattr(settings, count)) for count in counts}
    # The shoppers name themselves, which is only believed on this machine.
    settings = replace(settings, auth="off", host="127.0.0.1", **processes)
    sale = DemoOptions(
        backends=(options.backend,),
        shoppers=options.shoppers,
        stock=max(1, int(options.shoppers * UNITS_PER_SHOPPER)),
        seed=options.seed,
        buyer_limit=settings.buyer_limit,
        hold_seconds=HOLD_S,
        arrival_seconds=arrival_seconds(options),
        kill=(),
        viewers=settings.viewers,
        target=None,
        json=options.json,
    )
    async with running_stack(
        settings, instance=INSTANCE, services=(), backends=sale.backends, say=say, fresh=True
    ) as stack:
        victims = sorted((p.role, p.spec.index) for p in stack.processes if p.role in options.kill)
        at_random = [victim for victim in victims if victim[0] not in options.counted]
        kills = sorted(
            [
                *schedule(options.seed, options.seconds if at_random else 0, at_random),
                *counted(options.seed, options.counted, victims),
            ]
        )
        say(f"seed {options.seed} kills " + ", ".join(f"{k.role}-{k.number} at {k.at_s:.1f} s" for k in kills))
        authority = await Authority.connect(stack.urls.postgres_app, 1, UNHURRIED_SECONDS)
        try:
            result = await run_sale(
                authority,
                stack,
                options.backend,
                options=sale,
                settings=settings,
                say=say,
                killing=functools.partial(_storm, stack, kills, say),
                told=Instance(settings.home, INSTANCE).directory / "told.jsonl.gz",
            )
        finally:
            await authority.close()
        dead = await dead_letters(stack.urls, options.backend)
        restarts = {p.spec.name: p.restarts for p in stack.processes if p.restarts}
    killed = [kill for kill in result["killed"] if kill["pid"] is not None]
    spared = missing(options.counted, killed)
    document = {
        "ok": result["ok"] and not spared and not any(letters.unexplained for letters in dead.values()),
        "options": asdict(options),
        "arrival_seconds": sale.arrival_seconds,
        "killed_after_the_last_arrival": sum(kill["after_s"] > sale.arrival_seconds for kill in killed),
        "counted": {
            role: {"wanted": times, "killed": times - spared.get(role, 0)} for role, times in options.counted.items()
        },
        "seconds": round(time.monotonic() - began, 1),
        "restarts": restarts,
        "dead_letters": {queue: asdict(letters) for queue, letters in dead.items()},
        "sale": result,
    }
    _show(document, say)
    if options.json:
        print(json.dumps(document))
    return Exit.OK if document["ok"] else Exit.FAILED


def missing(wanted: Mapping[str, int], killed: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """By role, how many of the counted kills did not happen."""
    return dict(Counter(wanted) - Counter(kill["role"] for kill in killed if kill["counted"]))


async def _storm(stack: Stack, kills: Sequence[Kill], say: Callable[[str], None]) -> list[dict[str, Any]]:
    begin = time.monotonic()
    late_s = 0.0  # whoever is waited for puts off all others, so that no two kills come closer than they were drawn
    died: dict[tuple[str, int], float] = {}
    done = []
    for kill in kills:
        await asyncio.sleep(max(0.0, begin + kill.at_s + late_s - time.monotonic()))
        if time.monotonic() - begin > STORM_S_MAX:
            say("the storm took too long and ends here")
            break
        if kill.is_counted:
            await _has_served(stack, kill, died.get((kill.role, kill.number), 0.0))
            late_s = max(late_s, time.monotonic() - begin - kill.at_s)
        after_s = round(time.monotonic() - begin, 2)
        try:
            pid: int | None = await stack.kill(kill.role, kill.number)
            died[kill.role, kill.number] = time.time()
        except StackError:
            pid = None
        say(
            f"{after_s:6.1f} s  "
            + (f"{kill.role}-{kill.number} is not up" if pid is None else f"kill -9 {pid} ({kill.role}-{kill.number})")
        )
        done.append(
            {"role": kill.role, "number": kill.number, "pid": pid, "after_s": after_s, "counted": kill.is_counted}
        )
    return done


async def _has_served(stack: Stack, kill: Kill, died: float) -> None:
    # For as long as it was away: on a machine where a server starts for ten seconds, one that dies three seconds later serves
    # nobody, and neither does the other. Who is not up within the bound is spared after all, and missing from the count.
    [victim] = (p for p in stack.processes if p.role == kill.role and p.spec.index == kill.number)
    deadline = time.monotonic() + UP_WITHIN_S
    while time.monotonic() < deadline:
        if victim.state == "ready" and victim.ready_at is not None:
            away_s = victim.ready_at - died if died else 0.0
            if time.time() - victim.ready_at >= max(SERVES_S, away_s):
                return
        await asyncio.sleep(POLL_S)


async def dead_letters(urls: Urls, backend: str) -> dict[str, Dead]:
    """What lies in each dead-letter queue that a sale on `backend` has. Raises StackError when it cannot be read."""
    # What is looked at is not acknowledged, so that it is still there for whoever wants to see it.
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            books = await asyncpg.connect(urls.postgres_auditor)
            broker = await payments.connect(urls.rabbitmq)
            try:
                return {
                    name: await _dead(broker, name, explain, books)
                    for name, (role, explain) in EXPLAIN.items()
                    if uses(backend, role)
                }
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


# by queue: who fills it, and when a message in it is explained
EXPLAIN: Mapping[str, tuple[str, Explain]] = {
    payments.DEAD: ("payments", _is_settled),
    checkout.DEAD: ("checkout", _is_decided),
}


def _show(document: dict[str, Any], say: Callable[[str], None]) -> None:
    killed = document["sale"]["killed"]
    dead = [kill for kill in killed if kill["pid"] is not None]
    roles = ", ".join(f"{role} {count}" for role, count in sorted(Counter(kill["role"] for kill in dead).items()))
    say(f"{len(dead)} processes were killed ({roles}); {len(killed) - len(dead)} were not up at their moment")
    for role, count in document["counted"].items():
        if count["killed"] < count["wanted"]:
            say(f"{role}: {count['killed']} kills of {count['wanted']}")
    if late := document["killed_after_the_last_arrival"]:
        say(f"{late} of them after the last shopper had arrived; a longer --seconds keeps them coming")
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
