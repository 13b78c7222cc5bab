"""A process dies, or stands still, at each moment where it hurts. ``TABLE`` is the whole of it, and names the tests.

Every row ends alike: whoever asked comes again and hears the truth, the gate becomes PostgreSQL's equal with nothing pending,
strangers buy every unit that is left, and the audit is clean. ``CONTROLS`` takes the repairs away, one at a time, and the row
must fail: a test that passes without its repair proves nothing. Those of A10 to A12 stand with their rows.
"""

import asyncio
import contextlib
import json
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from flashsale.authority.client import Attempt, Authority, Expired
from flashsale.contract import wire
from flashsale.contract.verdict import DECIDED, Verdict
from flashsale.crash import POINTS
from flashsale.gate.client import SCRIPTS, Settlement
from flashsale.settings import REPOSITORY
from flashsale.upkeep import plan
from tests import crashes
from tests.crashes import LATER, LIMIT, UNITS, YES, Heard, Scene, until
from tests.databases import Database, given
from tests.failure.test_gate_accidents import OwnRedis
from tests.postgres import OwnPostgres
from tests.proxy import Proxy, proxied
from tests.rows import Row, missing_tests, unused_points

HERE, PAYMENTS, GATE = (
    "tests/failure/test_" + name for name in ("crash_table.py", "payments_crashes.py", "gate_accidents.py")
)

KEYS = 1_000
QUEUED = ("gevent_rabbit.", "checkout.")


TABLE = MappingProxyType(
    {
        "A1": Row(
            "a server dies after the gate's debit",
            "the janitor fences the attempt, then gives its units back",
            (
                f"{HERE}::test_a_server_dies_between_gate_and_answer",
                f"{GATE}::test_a_swallowed_reply_leaves_no_unit_behind",
            ),
        ),
        "A2": Row(
            "it dies, or the net is cut, while the statement runs",
            "the attempt's record decides: the janitor settles by it, a retry is answered by it",
            (
                f"{HERE}::test_a_server_dies_between_gate_and_answer",
                f"{HERE}::test_the_reply_is_lost_and_then_the_server",
                f"{HERE}::test_a_server_dies_while_its_statement_waits_for_a_lock",
            ),
        ),
        "A3": Row(
            "it dies after the commit, before the answer",
            "a retry finds the purchase",
            (
                f"{HERE}::test_a_server_dies_between_gate_and_answer",
                f"{HERE}::test_a_server_dies_after_whatever_postgresql_decided",
            ),
        ),
        "A4": Row(
            "it dies after the answer, before the gate hears",
            "the janitor finds the hold and lets it keep its units",
            (
                f"{HERE}::test_a_server_dies_between_gate_and_answer",
                f"{GATE}::test_a_winner_whose_settle_was_lost_keeps_the_unit",
            ),
        ),
        "A5": Row(
            "it stands still between debit and decision, and goes on",
            "the fence: what the janitor gave up is never decided",
            (f"{HERE}::test_a_server_that_stood_still_finds_the_fence",),
        ),
        "A6": Row(
            "Redis is killed, comes back older, or is emptied",
            "the epoch is raised and the gate replaced by an image of PostgreSQL",
            (
                f"{HERE}::test_redis_loses_the_gate_under_a_debit",
                f"{GATE}::test_after_any_loss_the_gate_is_back_and_equal",
                f"{GATE}::test_buyers_all_through_restarts_take_every_unit_once",
            ),
        ),
        "A7": Row(
            "PostgreSQL is killed",
            "its log: what was told is there; the same keys are sent again",
            (f"{HERE}::test_postgresql_dies_under_a_batch_and_keeps_what_was_told",),
        ),
        "A8": Row(
            "upkeep dies when the gate has taken ledger rows",
            "one script moves units and cursor; what is taken cannot be taken again",
            (f"{HERE}::test_upkeep_dies_when_rows_are_applied",),
        ),
        "A9": Row(
            "upkeep dies in the middle of a sweep",
            "its statement is undone; the next sweep ends the hold, once",
            (f"{HERE}::test_upkeep_dies_in_the_middle_of_a_sweep",),
        ),
        "A10": Row(
            "the relay dies between the broker's confirm and its mark",
            "the event is published again; a try is paid once however often it is asked for",
            (
                f"{PAYMENTS}::test_a_relay_killed_between_the_confirm_and_the_mark_publishes_twice_and_nobody_pays_twice",
            ),
        ),
        "A11": Row(
            "the payment worker dies after the gateway charged",
            "the message comes again; the gateway knows the key",
            (f"{PAYMENTS}::test_a_worker_killed_between_the_gateway_and_the_books",),
        ),
        "A12": Row(
            "the hold lapses while its money is being set aside",
            "the units are taken again if they can be, else the money goes back, once",
            (
                f"{PAYMENTS}::test_a_hold_that_lapses_while_its_money_is_set_aside",
                f"{PAYMENTS}::test_late_money_buys_the_unit_again_while_there_is_one",
                f"{PAYMENTS}::test_late_money_without_a_unit_goes_back_once",
            ),
        ),
    }
)


def test_the_table_is_whole_and_its_tests_exist() -> None:
    assert list(TABLE) == [f"A{number}" for number in range(1, 13)]
    assert missing_tests(TABLE) == []
    # those of the queue are the other table's
    assert unused_points(TABLE, [point for point in POINTS if not point.startswith(QUEUED)]) == []


@pytest.fixture
async def scene(database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with Scene(database, redis_url, monkeypatch) as made:
        yield made


# --- A1 to A5: the server


class Death(NamedTuple):
    """Where a server dies with an attempt of ana's, and what it leaves."""

    point: str
    heard: int | None  # the status of what she hears; None: the connection broke
    recorded: list[str]  # the attempt's verdict in PostgreSQL; a purchase is there or not


DEATHS = {
    "A1": Death("asyncio_redis.debited", None, []),
    "A2 before": Death("asyncio_redis.deciding", None, []),
    "A3": Death("asyncio_redis.decided", None, ["held"]),
    "A4": Death("asyncio_redis.answered", 201, ["held"]),
}


async def dies_and_comes_back(scene: Scene, death: Death, *, at_once: bool) -> None:
    await scene.serve(death.point)
    who, request = await scene.asked_until(scene.dead)
    await scene.server.dies()
    heard = await request
    assert (heard.status if heard else None) == death.heard
    assert len(await scene.pending(who)) == 1
    assert await scene.verdicts(who) == death.recorded
    await scene.serve()
    if not at_once:
        await scene.rests()
    # at once and unmarked she meets her own debit in the gate; later and marked she goes past it
    again = await scene.gets(who, marked=not at_once)
    assert again.said == scene.id(who)
    assert again.status in ({200} if death.recorded else YES)
    await scene.rests()
    assert await scene.gets(who, marked=at_once) == (200, scene.id(who))
    await scene.is_well()


@pytest.mark.parametrize("at_once", [True, False], ids=["retried at once", "retried after the janitor"])
@pytest.mark.parametrize("row", DEATHS)
async def test_a_server_dies_between_gate_and_answer(scene: Scene, row: str, *, at_once: bool) -> None:
    await dies_and_comes_back(scene, DEATHS[row], at_once=at_once)


@contextlib.asynccontextmanager
async def behind_a_proxy(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Scene, Proxy]]:
    """A scene whose server reaches PostgreSQL through a proxy."""
    async with (
        proxied(given("FLASH_TEST_POSTGRES_URL")) as way,
        Scene(database, redis_url, monkeypatch, FLASH_POSTGRES_URL=way.lead(database.app_url)) as scene,
    ):
        yield scene, way


async def test_the_reply_is_lost_and_then_the_server(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with behind_a_proxy(database, redis_url, monkeypatch) as (scene, way):
        await the_reply_is_lost_and_then_the_server(scene, way)


async def the_reply_is_lost_and_then_the_server(scene: Scene, way: Proxy) -> None:
    await scene.serve()
    await scene.gets("ben")
    await scene.rests()

    async def its_reply_is_lost(_: str) -> None:
        # A server that gave up before it was recorded asks nobody until PostgreSQL has answered again.
        way.swallows_replies = False
        await scene.gets("ben", marked=True)  # the connection that decides stands
        way.swallows_replies = True

    who, request = await scene.asked_until(lambda who: is_recorded(scene, who), first=its_reply_is_lost)
    scene.server.send(signal.SIGKILL)
    await scene.server.dies()
    assert await request in {None, LATER}
    assert len(await scene.pending(who)) == 1
    way.swallows_replies = False
    await scene.serve()
    assert await scene.gets(who) == (200, scene.id(who))
    await scene.is_well()


async def is_recorded(scene: Scene, who: str) -> bool:
    return await scene.verdicts(who) == ["held"]


async def test_a_server_dies_while_its_statement_waits_for_a_lock(scene: Scene) -> None:
    # It would give up and run again before a busy machine has killed it.
    await scene.owner.execute("ALTER FUNCTION flash.reserve_batch SET lock_timeout = 0")
    await scene.serve()
    async with locked(scene):
        who, request = await scene.asked_until(lambda _: is_waiting(scene, "reserve_batch"))
        scene.server.send(signal.SIGKILL)
        await scene.server.dies()
    assert await request in {None, LATER}
    await until(lambda: is_over(scene, "reserve_batch"), "the end of the statement")
    # It goes on without its caller, unless it has waited for as long as a statement may.
    made = await scene.state(who) == "HELD"
    await scene.serve()
    again = await scene.gets(who, marked=True)
    assert again.said == scene.id(who)
    assert again.status in ({200} if made else YES)
    await scene.is_well()


@contextlib.asynccontextmanager
async def locked(scene: Scene) -> AsyncIterator[None]:
    """Nobody can move the units: somebody else is at it."""
    other = await asyncpg.connect(scene.database.owner_url)
    try:
        async with other.transaction():
            await other.execute("SELECT FROM flash.stock WHERE sku = $1 FOR NO KEY UPDATE", scene.sku)
            yield
    finally:
        await other.close()


STATEMENTS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE $1"


async def is_waiting(scene: Scene, function: str) -> bool:
    return bool(
        await scene.owner.fetchval(f"SELECT count(*) {STATEMENTS} AND wait_event_type = 'Lock'", f"%{function}%")
    )


async def is_over(scene: Scene, function: str) -> bool:
    return not await scene.owner.fetchval(f"SELECT count(*) {STATEMENTS} AND state = 'active'", f"%{function}%")


async def stands_and_goes_on(scene: Scene, point: str, *, marked: bool) -> None:
    await scene.serve(f"{point}:stop")
    who, request = await scene.asked_until(scene.standing)
    await scene.rests()
    assert await scene.verdicts(who) == ["void"], "the fence"
    scene.server.send(signal.SIGCONT)
    assert await request == LATER
    assert await scene.state(who) is None
    again = await scene.gets(who, marked=marked)
    assert again.said == scene.id(who)
    await scene.is_well()


@pytest.mark.parametrize(
    ("point", "marked"),
    [("asyncio_redis.debited", True), ("asyncio_redis.deciding", False)],
    ids=["debited", "deciding"],
)
async def test_a_server_that_stood_still_finds_the_fence(scene: Scene, point: str, *, marked: bool) -> None:
    await stands_and_goes_on(scene, point, marked=marked)


# --- killed between commit and settle, whatever was decided


class Way(NamedTuple):
    """How PostgreSQL comes to say this of an attempt for two units that the gate has debited."""

    happens: Callable[[Scene, str], Awaitable[None]]
    recorded: list[str]
    retried: set[int]  # the status when she comes again, once it is over
    is_over: Callable[[Scene, str], Awaitable[None]]


async def nothing(_: Scene, __: str) -> None:
    """And needs nothing to be over."""


async def elsewhere(scene: Scene, who: str, key: str, quantity: int) -> None:
    """Somebody buys through the other backend, which the gate does not see."""
    buyer, own, began = scene.shop.own(who), scene.shop.key(key), time.time()
    purchase, cart = wire.purchase_id(buyer, own), wire.Cart((wire.Line(scene.sku, quantity),))
    if await scene.authority.read_purchase(purchase, buyer) is not None:
        return  # before a try that the server was too busy for
    attempt = Attempt(uuid4(), purchase, buyer, own, cart)
    (decision,) = await scene.authority.reserve_batch([attempt])
    assert decision.purchase is not None
    scene.note(who, own, quantity, began, (201, json.loads(wire.purchase_body(decision.purchase))))


def she_bought(quantity: int, key: str = "") -> Callable[[Scene, str], Awaitable[None]]:
    return lambda scene, who: elsewhere(scene, who, key or who, quantity)


async def one_is_left(scene: Scene, who: str) -> None:
    left = await scene.owner.fetchval("SELECT available FROM flash.stock WHERE sku = $1", scene.sku)
    for number in range(left - 1):
        await elsewhere(scene, f"other-{who}-{number}", f"other-{who}-{number}", 1)


async def a_constraint_breaks(scene: Scene, who: str) -> None:
    await it_breaks_no_more(scene, who)
    await scene.owner.execute(
        f"ALTER TABLE flash.purchase ADD CONSTRAINT not_her CHECK (buyer <> '{scene.shop.own(who)}')"
    )


async def it_breaks_no_more(scene: Scene, _: str) -> None:
    await scene.owner.execute("ALTER TABLE flash.purchase DROP CONSTRAINT IF EXISTS not_her")


CLAIM = "PERFORM pg_advisory_xact_lock(c.claim)"
FENCE = "INSERT INTO attempt (rid, purchase_id, verdict) SELECT r, p, 'void' FROM unnest(p_rid, p_purchase) u (r, p) ON CONFLICT DO NOTHING; "


async def replace_in_claim(scene: Scene, old: str, new: str) -> None:
    body = await scene.owner.fetchval("SELECT pg_get_functiondef('flash.claim_attempts'::regproc)")
    assert old in body
    await scene.owner.execute(body.replace(FENCE, "").replace(old, new))


async def the_janitor_is_first(scene: Scene, _: str) -> None:
    # It fences whatever is about to be decided, in the moment before.
    await replace_in_claim(scene, CLAIM, FENCE + CLAIM)


async def the_janitor_rests(scene: Scene, _: str) -> None:
    await replace_in_claim(scene, FENCE + CLAIM, CLAIM)


def becomes(state: str) -> Callable[[Scene, str], Awaitable[None]]:
    return lambda scene, _: scene.shop.change("s", state)


WAYS: dict[Verdict | None, Way] = {
    Verdict.HELD: Way(nothing, ["held"], {200}, nothing),
    Verdict.REPLAYED: Way(she_bought(2), ["held", "replayed"], {200}, nothing),
    Verdict.KEY_REUSED: Way(she_bought(1), ["held", "key_reused"], {422}, nothing),
    Verdict.OVER_LIMIT: Way(she_bought(1, "another"), ["over_limit"], {409}, nothing),
    Verdict.SOLD_OUT: Way(one_is_left, ["sold_out"], {409}, nothing),
    Verdict.SALE_NOT_OPEN: Way(becomes("PAUSED"), ["sale_not_open"], YES, becomes("OPEN")),
    Verdict.MALFORMED: Way(a_constraint_breaks, [], YES, it_breaks_no_more),
    None: Way(the_janitor_is_first, ["void"], YES, the_janitor_rests),  # fenced
}
NEVER = {
    Verdict.UNKNOWN_SKU: "the gate knows only what PostgreSQL has, and no item is ever removed",
    Verdict.MIXED_SALES: "a cart that is not of one sale is not brought to the gate",
    Verdict.TOO_LATE: "only what waits in a queue has a deadline, and it debits no gate",
}


def test_every_verdict_that_a_debited_attempt_can_get_has_its_way() -> None:
    assert {*WAYS, *NEVER} == {*DECIDED, None}
    assert not WAYS.keys() & NEVER.keys()


@pytest.mark.parametrize("verdict", WAYS, ids=str)
async def test_a_server_dies_after_whatever_postgresql_decided(scene: Scene, verdict: Verdict | None) -> None:
    way = WAYS[verdict]
    await scene.leave_alone()
    await scene.serve("asyncio_redis.decided")
    who, request = await scene.asked_until(scene.dead, first=lambda who: way.happens(scene, who), quantity=2)
    await scene.server.dies()
    assert await request is None
    assert len(await scene.pending(who)) == 1
    assert await scene.verdicts(who) == way.recorded
    await way.is_over(scene, who)
    await scene.serve()
    assert (await scene.gets(who, quantity=2, marked=True)).status in way.retried
    await scene.keep()
    await scene.is_well()


# --- A6, A7: the stores


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[OwnRedis]:
    own = OwnRedis(tmp_path)
    await own.start()
    yield own
    await own.close()


async def redis_loses_the_gate(scene: Scene, redis: OwnRedis, accident: str, past: Path) -> None:
    await scene.serve()
    await scene.gets("ben")
    shutil.copytree(redis.directory, past)
    await scene.gets("cyd")
    await scene.serve("asyncio_redis.debited:stop")
    who, request = await scene.asked_until(scene.standing)
    if accident == "emptied":
        await redis.client.flushall()
    else:
        await redis.kill()
        if accident == "killed and put back in time":
            shutil.rmtree(redis.directory)
            shutil.copytree(past, redis.directory)
        await redis.start()
    await scene.repaired(scene.is_equal, "the gate is replaced")
    assert await scene.read_epoch() > scene.epoch
    # Only now it is decided, under an epoch that is over: like any other backend's to the gate that is there.
    scene.server.send(signal.SIGCONT)
    assert await request in {Heard(201, scene.id(who)), LATER}
    await until(scene.is_equal, "the gate has heard of it")
    scene.epoch = await scene.read_epoch()
    for winner in (who, "ben", "cyd"):
        assert (await scene.gets(winner)).said == scene.id(winner)
    await scene.is_well()


@pytest.mark.parametrize("accident", ["killed", "killed and put back in time", "emptied"])
async def test_redis_loses_the_gate_under_a_debit(
    database: Database, own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory,
    accident: str,
) -> None:  # fmt: skip
    async with Scene(database, own_redis.url, monkeypatch) as scene:
        await redis_loses_the_gate(scene, own_redis, accident, tmp_path_factory.mktemp("past") / "files")


@pytest.fixture
async def postgres(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OwnPostgres]:
    """``request.param``: options of its."""
    own = OwnPostgres(tmp_path, *getattr(request, "param", ()))
    yield own
    await own.close()


async def postgresql_dies(scene: Scene, postgres: OwnPostgres) -> None:
    await scene.serve()
    for who in ("ben", "cyd"):
        assert (await scene.gets(who)).status in YES
    await scene.rests()
    await scene.serve("asyncio_redis.deciding:stop")
    asking, request = await scene.asked_until(scene.standing)
    await postgres.kill()
    scene.server.send(signal.SIGCONT)
    assert await request == LATER
    assert await scene.buy("dan", marked=True) == LATER
    await postgres.start()
    await scene.reconnect()
    for who in ("ben", "cyd"):
        assert await scene.gets(who, marked=True) == (200, scene.id(who)), f"{who} was told of a purchase"
    for who in (asking, "dan"):
        assert (await scene.gets(who)).said == scene.id(who)
    await scene.is_well()


async def test_postgresql_dies_under_a_batch_and_keeps_what_was_told(
    postgres: OwnPostgres, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await postgres.start()
    async with Scene(await postgres.database(), redis_url, monkeypatch) as scene:
        await postgresql_dies(scene, postgres)


# --- A8, A9: upkeep


async def upkeep_dies_when_rows_are_applied(scene: Scene, **more: str) -> None:
    await scene.leave_alone()
    upkeep = await scene.process("upkeep", FLASH_CRASH_AT="upkeep.applied", **more).start()
    await scene.authority.restock(scene.sku, 1)
    await upkeep.dies()
    assert (await scene.view()).items[scene.sku] == (2, UNITS + 1), "the row, and that it was applied"
    await scene.keep()
    await scene.authority.restock(scene.sku, 1)
    await scene.rests()
    await scene.serve()
    await scene.is_well()


async def test_upkeep_dies_when_rows_are_applied(scene: Scene) -> None:
    await upkeep_dies_when_rows_are_applied(scene)


async def upkeep_dies_in_the_middle_of_a_sweep(scene: Scene) -> None:
    await scene.serve()
    assert (await scene.gets("ana")).status in YES
    await scene.rests()
    await scene.leave_alone()
    upkeep = await scene.process("upkeep").start()
    async with locked(scene):
        await scene.owner.execute("UPDATE flash.purchase SET deadline = now() - interval '1 second'")
        scene.told = [call._replace(deadline=call.sent) for call in scene.told]  # nobody may count on what is moved
        await until(lambda: is_waiting(scene, "expire_due"), "the sweep that waits")
        upkeep.send(signal.SIGKILL)
        await upkeep.dies()
        await scene.owner.execute(f"SELECT pg_terminate_backend(pid) {STATEMENTS}", "%expire_due%")
        await until(lambda: is_over(scene, "expire_due"), "the end of the statement")
        assert await scene.state("ana") == "HELD", "undone"
    await scene.keep()
    await scene.repaired(lambda: ended(scene, "ana"), "the next sweep")
    returns = "SELECT count(*) FROM flash.ledger WHERE kind = 'return'"
    assert await scene.owner.fetchval(returns) == 1
    await scene.is_well()


async def ended(scene: Scene, who: str) -> bool:
    return await scene.state(who) == "EXPIRED"


async def test_upkeep_dies_in_the_middle_of_a_sweep(scene: Scene) -> None:
    await upkeep_dies_in_the_middle_of_a_sweep(scene)


# --- one buyer, a thousand keys


async def one_buyer_with_a_thousand_keys(scene: Scene, **more: str) -> None:
    await scene.serve("asyncio_redis.debited:stop")
    other = await scene.process("asyncio_redis", **more).start()
    # with all that she may have, undecided for as long as we like
    who, request = await scene.asked_until(scene.standing, quantity=LIMIT)
    view = await scene.view()
    left = view.items[scene.sku].available
    assert left == UNITS - LIMIT * view.pending_count
    keys = [f"{who}-{number}" for number in range(KEYS)]
    crowd = [scene.getting(who, key=key, server=other) for key in keys]
    assert (await scene.gets("ben", server=other)).status in YES, "ben gets one"
    seen = []
    while not all(request.done() for request in crowd):
        seen.append((await scene.view()).items[scene.sku].available)
        await asyncio.sleep(crashes.POLL_SECONDS)
    assert {request.result() for request in crowd} == {Heard(409, "in_flight")}
    assert min([*seen, (await scene.view()).items[scene.sku].available]) == left - 1, "ben's alone"
    scene.server.send(signal.SIGCONT)
    assert (await scene.gets(who, quantity=LIMIT)).said == scene.id(who)
    await request
    await scene.is_well()


async def test_one_buyer_with_a_thousand_keys_leaves_the_units_to_others(scene: Scene) -> None:
    await one_buyer_with_a_thousand_keys(scene)


# --- the same without the repair


class Control(NamedTuple):
    """A row, what is taken from it in this process (where upkeep is) and in the product's own, and how it fails then."""

    row: Callable[..., Awaitable[None]]
    shows: str
    here: Callable[[pytest.MonkeyPatch], None] = lambda _: None
    there: str = ""


def never_settles(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(plan, "settlements", lambda _: [])


def settles_all(*, keep: bool) -> Callable[[pytest.MonkeyPatch], None]:
    def settle(verdicts: Iterable[UUID]) -> list[Settlement]:
        return [Settlement(rid, keep) for rid in verdicts]

    return lambda patch: patch.setattr(plan, "settlements", settle)


def fences_nobody(patch: pytest.MonkeyPatch) -> None:
    async def void(_: Authority, attempts: Iterable[tuple[UUID, UUID]]) -> dict[UUID, str]:
        return {rid: "void" for rid, _ in attempts}

    patch.setattr(Authority, "void_attempts", void)


def never_sweeps(patch: pytest.MonkeyPatch) -> None:
    async def expire(_: Authority, __: int) -> Expired:
        return Expired(0, None)

    patch.setattr(Authority, "expire_due", expire)


def without(script: str, line: str) -> str:
    """For a process of the product: one of its scripts, less a line."""
    assert SCRIPTS[script].count(line) == 1, "the control is out of date"
    return f"""
from flashsale.gate import client
client.SCRIPTS = client.SCRIPTS | {{{script!r}: client.SCRIPTS[{script!r}].replace({line!r}, "")}}
"""


def dies(row: str) -> Callable[[Scene], Awaitable[None]]:
    return lambda scene: dies_and_comes_back(scene, DEATHS[row], at_once=False)


NOT_PUT_RIGHT = "never came: the gate equals PostgreSQL|the gate was replaced"
CONTROLS = {
    "A1: the janitor": Control(dies("A1"), NOT_PUT_RIGHT, never_settles),
    "A1: units that nobody holds are given back": Control(dies("A1"), NOT_PUT_RIGHT, settles_all(keep=True)),
    "A3: a hold keeps its units": Control(dies("A3"), NOT_PUT_RIGHT, settles_all(keep=False)),
    "A4: the janitor": Control(dies("A4"), NOT_PUT_RIGHT, never_settles),
    "A5: the fence": Control(
        lambda scene: stands_and_goes_on(scene, "asyncio_redis.debited", marked=True), "void", fences_nobody
    ),
    "A8: units and cursor move together": Control(
        upkeep_dies_when_rows_are_applied,
        "the row, and that it was applied",
        there=without("apply", "  redis.call('HSET', key, 'cursor', cursor)\n"),
    ),
    "A9: the next sweep": Control(upkeep_dies_in_the_middle_of_a_sweep, "never came: the next sweep", never_sweeps),
    "a buyer's undecided units count": Control(
        one_buyer_with_a_thousand_keys,
        "in_flight|ben gets one",
        there=without("reserve", "  return {'in_flight', epoch}\n"),
    ),
}


@pytest.mark.parametrize("repair", CONTROLS)
async def test_without_its_repair_a_row_fails(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repair: str
) -> None:
    control = CONTROLS[repair]
    control.here(monkeypatch)
    scene.never = control.shows
    more = {}
    if control.there:
        (tmp_path / "sitecustomize.py").write_text(control.there)
        more["PYTHONPATH"] = f"{tmp_path}:{REPOSITORY / 'src'}"
    with pytest.raises((AssertionError, pytest.fail.Exception), match=control.shows):
        await control.row(scene, **more)


async def test_a_hold_that_nobody_heard_of_loses_its_units_if_nobody_reads_its_record(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with behind_a_proxy(database, redis_url, monkeypatch) as (scene, way):
        settles_all(keep=False)(monkeypatch)
        scene.never = NOT_PUT_RIGHT
        with pytest.raises((AssertionError, pytest.fail.Exception), match=NOT_PUT_RIGHT):
            await the_reply_is_lost_and_then_the_server(scene, way)


async def test_a_lost_gate_stays_lost_if_nobody_looks(
    database: Database, own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with Scene(database, own_redis.url, monkeypatch) as scene:
        monkeypatch.setattr(plan, "diagnose", lambda *_: None)
        scene.never = "never came: the gate is replaced"
        with pytest.raises(pytest.fail.Exception, match=scene.never):
            await redis_loses_the_gate(
                scene, own_redis, "killed and put back in time", tmp_path_factory.mktemp("past") / "files"
            )


@pytest.mark.parametrize("postgres", [("synchronous_commit=off",)], indirect=True)
async def test_what_is_told_before_it_is_written_is_lost(
    postgres: OwnPostgres, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await postgres.start()
    async with Scene(await postgres.database(), redis_url, monkeypatch) as scene:
        await scene.owner.execute("CHECKPOINT")
        postgres.suspend("walwriter")  # which would write it sooner or later
        with pytest.raises(AssertionError, match="ben was told of a purchase"):
            await postgresql_dies(scene, postgres)
