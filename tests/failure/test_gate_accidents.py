"""What befalls the gate, on a Redis of the test's own that may be killed, emptied, frozen and put back in time."""

import asyncio
import contextlib
import random
import re
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from flashsale.authority.client import Attempt, Authority, AuthorityUnavailable
from flashsale.contract import wire
from flashsale.contract.verdict import Verdict
from flashsale.gate.client import (
    DEADLINE_SECONDS,
    Applied,
    Gate,
    GateDamaged,
    GateUnavailable,
    Image,
    Outcome,
    Settlement,
    Step,
)
from flashsale.stack.processes import dies_with_us
from flashsale.upkeep import gate_keeper, plan
from flashsale.upkeep.expiry import Expiry
from flashsale.upkeep.gate_keeper import GateKeeper
from flashsale.upkeep.metrics import Metrics
from flashsale.upkeep.rounds import run_rounds
from tests.databases import Database, execute
from tests.patience import PATIENCE_SECONDS
from tests.proxy import proxied
from tests.servers import free_port, running

STORM_SECONDS = 2.5
FROZEN_SECONDS = 3.0  # some deadlines, and some handshakes in vain
NEVER_MS = 10**9  # until a test says that the janitor's time has come
WON_MIN = 30
UNITS = 50


class OwnRedis:
    """A redis-server that only this test knows, so that it may die."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = Redis.from_url(self.url)
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start and wait until it answers."""
        self._child = await asyncio.create_subprocess_exec(
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--save", "", "--appendonly", "yes", "--appendfsync", "always",
            stdout=asyncio.subprocess.DEVNULL, preexec_fn=dies_with_us(signal.SIGKILL),
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with contextlib.suppress(RedisError):
                    await self.client.ping()
                    return
                await asyncio.sleep(0.005)

    async def kill(self) -> None:
        """Kill -9."""
        assert self._child is not None
        self._child.kill()
        await self._child.wait()

    def signal(self, number: signal.Signals) -> None:
        """Stop or continue it."""
        assert self._child is not None
        self._child.send_signal(number)

    async def stamp_ms(self, sale: str, sku: str) -> int:
        """When the copy of one SKU was last known to be the latest."""
        return int(await self.client.hget(f"{{{sale}}}:stock:{sku}", "stamp_ms") or 0)

    async def close(self) -> None:
        await self.client.aclose()
        if self._child is not None and self._child.returncode is None:
            self._child.send_signal(signal.SIGCONT)
            await self.kill()


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[OwnRedis]:
    own = OwnRedis(tmp_path)
    await own.start()
    yield own
    await own.close()


class Shop:
    """One sale of one item; buys as a server does."""

    def __init__(self, gate: Gate, authority: Authority) -> None:
        self.gate, self.authority = gate, authority
        self.sale = f"sale-{secrets.token_hex(6)}"
        self.sku = f"{self.sale}-hat"

    async def open(self, *, hold_seconds: int = 600, units: int = UNITS) -> None:
        now = datetime.now(UTC)
        await self.authority.create_sale(
            self.sale, merchant="m", name="n", opens=now - timedelta(hours=1), closes=now + timedelta(hours=1),
            buyer_limit=2, hold_seconds=hold_seconds, currency="EUR",
        )  # fmt: skip
        await self.authority.add_item(self.sale, self.sku, "hat", 100, units)

    def attempt(self, epoch: int | None = None) -> Attempt:
        buyer, key = f"buyer-{secrets.token_hex(4)}", secrets.token_hex(16)
        cart = wire.Cart((wire.Line(self.sku, 1),))
        return Attempt(uuid4(), wire.purchase_id(buyer, key), buyer, key, cart, epoch)

    async def debit(self) -> tuple[Outcome, Attempt]:
        wish = self.attempt()
        answer = await self.gate.reserve(self.sale, wish.rid, wish.purchase, wish.buyer, wish.cart.lines)
        return answer.outcome, wish._replace(epoch=answer.epoch if answer.outcome is Outcome.DEBITED else None)

    async def buy(self) -> Verdict | Outcome | None:
        outcome, wish = await self.debit()
        if outcome not in {Outcome.DEBITED, Outcome.KNOWN, Outcome.ASK, Outcome.STALE}:
            return outcome
        (decision,) = await self.authority.reserve_batch([wish])
        if wish.epoch is not None:
            await self.gate.settle(self.sale, [Settlement(wish.rid, decision.verdict is Verdict.HELD)])
        return decision.verdict

    async def equal(self) -> bool:
        """Is the gate in order, up to date and equal to PostgreSQL, with nothing pending?"""
        with contextlib.suppress(GateUnavailable):
            view = await self.gate.look(self.sale, [self.sku], 99)
            stock = await self.authority.read_stock(self.sku)
            assert stock is not None
            (sale,) = [live for live in await self.authority.live_sales() if live.sale == self.sale]
            right = not view.damage and view.same_run and view.epoch == sale.epoch and not view.pending_count
            return right and view.items[self.sku] == (stock.seq, stock.available)
        return False


@contextlib.asynccontextmanager
async def kept(authority: Authority, url: str, deadline_s: float = PATIENCE_SECONDS) -> AsyncIterator[Metrics]:
    """An upkeep in this process. A rebuild whose answer comes after its deadline is done, and not counted, or is done again for another
    cause: who counts gives it as long as a test waits.
    """
    metrics = Metrics()
    gate = await Gate.connect(url, deadline_s)
    keeper, expiry = GateKeeper(gate, authority, metrics), Expiry(authority, metrics)
    works = {"apply": keeper.apply, "settle": keeper.settle_abandoned, "probe": keeper.probe, "expiry": expiry.round}
    tasks = [asyncio.create_task(run_rounds(name, work)) for name, work in works.items()]
    try:
        yield metrics
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await gate.close()
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


@pytest.fixture
async def shop(redis: OwnRedis, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    """What it has debited it decides as late as it likes: the janitor fences nobody, unless a test says so."""
    monkeypatch.setattr(gate_keeper, "ABANDONED_MS", NEVER_MS)
    gate = await Gate.connect(
        redis.url, PATIENCE_SECONDS
    )  # a buyer's own half a second is no matter of these accidents
    made = Shop(gate, authority)
    await made.open()
    yield made
    await gate.close()


async def until(condition: Callable[[], Awaitable[bool]], why: str) -> None:
    """Poll until it is so."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"never came: {why}")


def count(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def counted(metrics: Metrics, name: str, *times: int, **labels: str) -> None:
    """Wait until it is counted so often: what is done to a gate can be seen a moment before the keeper counts it."""

    async def is_counted() -> bool:
        return count(metrics, name, **labels) in times

    await until(is_counted, f"{name} {labels} is {times}")


async def replaced(metrics: Metrics, cause: str, *times: int) -> None:
    """Wait until so many rebuilds are counted; one, if nothing is said."""
    await counted(metrics, "flash_gate_rebuilds_total", *(times or (1,)), cause=cause)


async def test_a_new_sale_gets_its_gate_and_sells_through_it(shop: Shop, redis: OwnRedis) -> None:
    assert (await shop.debit())[0] is Outcome.STALE
    async with kept(shop.authority, redis.url):
        await until(shop.equal, "the gate of a new sale")
        verdicts = [await shop.buy() for _ in range(UNITS + 3)]
        assert verdicts[:UNITS] == [Verdict.HELD] * UNITS
        assert set(verdicts[UNITS:]) <= {Outcome.SOLD_OUT, Verdict.SOLD_OUT}
        await until(shop.equal, "all sold")


async def test_a_wake_up_that_cannot_be_sent_ends_no_round(
    shop: Shop, redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise GateUnavailable("NOPERM")

    gate = await Gate.connect(redis.url, PATIENCE_SECONDS)
    keeper = GateKeeper(gate, shop.authority, Metrics())

    async def is_equal() -> bool:
        await keeper.apply()
        return await shop.equal()

    await until(is_equal, "the first gate")
    monkeypatch.setattr(Gate, "publish", refuse)
    monkeypatch.setattr(gate_keeper, "READY_SECONDS_MAX", PATIENCE_SECONDS)
    await shop.authority.restock(shop.sku, 1)
    await keeper.apply()
    assert keeper.ready
    assert await shop.equal()
    await gate.close()


@pytest.mark.parametrize("keepers", [1, 3])
@pytest.mark.parametrize("accident", ["killed", "killed and put back in time", "killed and empty", "emptied"])
async def test_after_any_loss_the_gate_is_back_and_equal(
    shop: Shop, redis: OwnRedis, tmp_path_factory: pytest.TempPathFactory, accident: str, keepers: int
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(keepers):
            await stack.enter_async_context(kept(shop.authority, redis.url))
        await until(shop.equal, "the first gate")
        for _ in range(5):
            await shop.buy()
        past = tmp_path_factory.mktemp("past") / "files"
        shutil.copytree(redis.directory, past)
        for _ in range(5):
            await shop.buy()
        _, zombie = await shop.debit()
        if accident == "emptied":
            await redis.client.flushall()
        else:
            await redis.kill()
            if accident != "killed":
                shutil.rmtree(redis.directory)
            if accident == "killed and put back in time":
                shutil.copytree(past, redis.directory)
            redis.directory.mkdir(exist_ok=True)
            await redis.start()
        # Decided only now, under an epoch that is over: its row must reach the new gate like any other backend's.
        assert [decision.verdict for decision in await shop.authority.reserve_batch([zombie])] == [Verdict.HELD]
        await until(shop.equal, accident)
        assert [await shop.buy() for _ in range(UNITS - 11)] == [Verdict.HELD] * (UNITS - 11)
        await until(shop.equal, "the rest sold")


async def test_buyers_all_through_restarts_take_every_unit_once(
    shop: Shop, redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts: list[object] = []

    async def keep_buying() -> None:
        while Verdict.SOLD_OUT not in verdicts and Outcome.SOLD_OUT not in verdicts:
            try:
                verdicts.append(await shop.buy())
            except GateUnavailable as error:
                verdicts.append(error)  # unknown; the real server answers try_later and the client comes again
            await asyncio.sleep(0.02)

    async with kept(shop.authority, redis.url), kept(shop.authority, redis.url):
        await until(shop.equal, "the first gate")
        buyers = [asyncio.create_task(keep_buying()) for _ in range(4)]
        for _ in range(3):
            await asyncio.sleep(0.1)
            await redis.kill()
            await redis.start()
        await asyncio.sleep(0.1)
        await redis.client.flushall()
        async with asyncio.timeout(2 * PATIENCE_SECONDS):
            await asyncio.gather(*buyers)
        # Settling failed for some: what they left pending is the janitor's.
        monkeypatch.setattr(gate_keeper, "ABANDONED_MS", 0)
        await until(shop.equal, "in order after the storm")
        stock = await shop.authority.read_stock(shop.sku)
        assert stock is not None
        told = len([verdict for verdict in verdicts if verdict is Verdict.HELD])
        lost = len([verdict for verdict in verdicts if isinstance(verdict, GateUnavailable)])
        assert stock.available == 0
        assert UNITS - lost <= told <= UNITS


async def test_a_storm_of_both_backends_cancels_and_pauses_leaves_the_gate_equal(shop: Shop, redis: OwnRedis) -> None:
    won: list[Attempt] = []
    unheard: list[Outcome] = []
    chance = random.Random(7)

    async def storm(until_time: float) -> None:
        # On a slow machine it lasts until it was one.
        while time.monotonic() < until_time or (
            len(won) <= WON_MIN and time.monotonic() < until_time + PATIENCE_SECONDS
        ):
            outcome, wish = (Outcome.ASK, shop.attempt()) if chance.random() < 0.3 else await shop.debit()
            if outcome in {Outcome.DEBITED, Outcome.ASK}:
                (decision,) = await shop.authority.reserve_batch([wish])
                held = decision.verdict is Verdict.HELD
                if wish.epoch is not None:
                    await shop.gate.settle(shop.sale, [Settlement(wish.rid, held)])
                if held and wish.epoch is not None:
                    won.append(wish)
                if held and chance.random() < 0.7:
                    assert await shop.authority.cancel(wish.purchase, wish.buyer) is None
            if won:
                again = chance.choice(won)
                answer = await shop.gate.reserve(shop.sale, uuid4(), again.purchase, again.buyer, again.cart.lines)
                unheard.extend({answer.outcome} - {Outcome.KNOWN})
            if chance.random() < 0.01:
                await shop.authority.change_sale(shop.sale, state=chance.choice(("PAUSED", "OPEN", "OPEN")))

    async with contextlib.AsyncExitStack() as keepers:
        metrics = await keepers.enter_async_context(kept(shop.authority, redis.url))
        await until(shop.equal, "the first gate")
        # The second keeper comes to a gate that is well: at its birth it might replace it, and winners would hear "stale".
        await keepers.enter_async_context(kept(shop.authority, redis.url))
        await asyncio.gather(*(storm(time.monotonic() + STORM_SECONDS) for _ in range(6)))
        await until(shop.equal, "the storm is over")
        await asyncio.sleep(1.2)
        assert count(metrics, "flash_gate_drift_units", sku=shop.sku) == 0
        assert count(metrics, "flash_gate_rebuilds_total", cause="drift") == 0
    assert len(won) > WON_MIN
    assert not unheard


async def test_a_swallowed_reply_leaves_no_unit_behind(
    shop: Shop, redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_keeper, "SLOW_PAUSE_SECONDS", 0.05)
    async with kept(shop.authority, redis.url) as metrics, proxied(redis.url) as proxy:
        await until(shop.equal, "the first gate")
        behind = Shop(await Gate.connect(proxy.lead(redis.url)), shop.authority)
        behind.sale, behind.sku = shop.sale, shop.sku
        proxy.swallows_replies = True
        wish = shop.attempt()
        began = time.monotonic()
        with pytest.raises(GateUnavailable):
            await behind.gate.reserve(shop.sale, wish.rid, wish.purchase, wish.buyer, wish.cart.lines)
        assert time.monotonic() - began > 0.4, "it waited for its deadline"
        assert not await shop.equal()  # the janitor's time has not come
        monkeypatch.setattr(gate_keeper, "ABANDONED_MS", 0)
        await until(shop.equal, "the debit nobody heard of is given back")
        await counted(metrics, "flash_gate_voided_total", 1)
        await counted(metrics, "flash_gate_settled_total", 1)
        # The fence: were that attempt still on its way to PostgreSQL, it would be decided no more.
        (decision,) = await shop.authority.reserve_batch([wish._replace(epoch=1)])
        assert decision.verdict is None
        await behind.gate.close()


async def test_a_winner_whose_settle_was_lost_keeps_the_unit(
    shop: Shop, redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_keeper, "SLOW_PAUSE_SECONDS", 0.05)
    async with kept(shop.authority, redis.url):
        await until(shop.equal, "the first gate")
        _, wish = await shop.debit()
        await shop.authority.reserve_batch([wish])
        monkeypatch.setattr(gate_keeper, "ABANDONED_MS", 0)
        await until(shop.equal, "settled by what PostgreSQL says")
        view = await shop.gate.look(shop.sale, [shop.sku])
        assert view.items[shop.sku].available == UNITS - 1


async def test_a_drift_is_noticed_and_replaced(shop: Shop, redis: OwnRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_keeper, "SLOW_PAUSE_SECONDS", 0.05)
    async with kept(shop.authority, redis.url) as metrics:
        await until(shop.equal, "the first gate")
        await redis.client.hincrby(f"{{{shop.sale}}}:stock:{shop.sku}", "available", 3)
        await until(shop.equal, "the gate with three units too many is replaced")
        await replaced(metrics, "drift")


async def test_a_drift_is_replaced_while_units_move_all_the_time(
    shop: Shop, redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_keeper, "SLOW_PAUSE_SECONDS", 0.05)

    async def move() -> None:
        while True:
            await shop.authority.restock(shop.sku, 1)
            await asyncio.sleep(0.06)  # no three probes see the same cursor

    async with kept(shop.authority, redis.url) as metrics:
        await until(shop.equal, "the first gate")
        moving = asyncio.create_task(move())
        await redis.client.hincrby(f"{{{shop.sale}}}:stock:{shop.sku}", "available", 3)

        await replaced(metrics, "drift")
        await asyncio.sleep(0.5)
        moving.cancel()
        await until(shop.equal, "in order")
        assert count(metrics, "flash_gate_rebuilds_total", cause="drift") == 1, "replaced once"


# What somebody with redis-cli can do to a gate: the key after the sale's tag, and the commands; {sku} and {key} are filled in.
SPOILED = {
    "gate of another type": ("gate", "SET {key} x"),
    "stock of another type": ("stock:{sku}", "SET {key} x"),
    "pending of another type": ("pending", "SADD {key} x"),
    "pending_at of another type": ("pending_at", "SET {key} x"),
    "pending_purchase of another type": ("pending_purchase", "SET {key} x"),
    "pending_buyer of another type": ("pending_buyer", "SET {key} x"),
    "won of another type": ("won", "HSET {key} x x"),
    "an epoch that is a word": ("gate", "HSET {key} epoch x"),
    "an epoch beyond any": ("gate", "HSET {key} epoch 99999999999999999999"),
    "a cursor that is a word": ("stock:{sku}", "HSET {key} cursor x"),
    "units that are a word": ("stock:{sku}", "HSET {key} available x"),
    "an attempt without a record": ("pending_at", "ZADD {key} 1 x"),
}


async def spoil(redis: OwnRedis, shop: Shop, what: str) -> None:
    name, command = SPOILED[what]
    key = f"{{{shop.sale}}}:{name.format(sku=shop.sku)}"
    # In one step: a keeper that looks between the two commands finds the key missing, which is another accident.
    async with redis.client.pipeline(transaction=True) as steps:
        if "another type" in what:
            steps.delete(key)
        steps.execute_command(*(word.format(key=key) for word in command.split()))
        await steps.execute()


@pytest.mark.parametrize("what", SPOILED)
async def test_a_damaged_gate_is_replaced(
    shop: Shop, redis: OwnRedis, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(gate_keeper, "SLOW_PAUSE_SECONDS", 0.05)
    async with kept(shop.authority, redis.url) as metrics:
        await until(shop.equal, "the first gate")
        assert await shop.buy() is Verdict.HELD
        _, wish = await shop.debit()
        await spoil(redis, shop, what)
        await shop.authority.reserve_batch([wish])  # decided under the epoch of the damaged gate
        await until(shop.equal, "the damaged gate")
        assert (await shop.debit())[0] is Outcome.DEBITED
        await replaced(metrics, "damaged", 1, 2)


async def test_a_damaged_gate_is_its_own_sales_alone(
    shop: Shop, redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_keeper, "SLOW_PAUSE_SECONDS", 0.05)
    other = Shop(shop.gate, shop.authority)
    await other.open()
    async with kept(shop.authority, redis.url) as metrics:
        await until(shop.equal, "the first gate")
        await until(other.equal, "the other gate")
        monkeypatch.setattr(plan, "PATIENCE_SECONDS", 3600)  # it stays as it is
        await spoil(redis, shop, "won of another type")
        with pytest.raises(GateDamaged):
            await shop.debit()
        await _moves_on(redis, other)
        assert [await other.buy() for _ in range(3)] == [Verdict.HELD] * 3
        _, lost = await other.debit()
        await other.authority.reserve_batch([lost])
        assert lost.epoch is not None
        monkeypatch.setattr(gate_keeper, "ABANDONED_MS", 0)
        await until(other.equal, "applied, and its lost settle made good")
        assert count(metrics, "flash_gate_rebuilds_total", cause="damaged") == 0
        monkeypatch.setattr(plan, "PATIENCE_SECONDS", 0.1)
        await until(shop.equal, "the damaged gate")


async def test_a_gate_that_cannot_be_replaced_does_not_keep_others_from_it(
    shop: Shop, redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Shop(shop.gate, shop.authority)
    await other.open()
    init = Gate.init

    async def fail_one(gate: Gate, sale: str, image: Image) -> bool:
        if sale == min(shop.sale, other.sale):
            raise GateDamaged("ERR")
        return await init(gate, sale, image)

    monkeypatch.setattr(Gate, "init", fail_one)
    first, second = sorted((shop, other), key=lambda each: each.sale)
    async with kept(shop.authority, redis.url):
        await until(second.equal, "the gate of the sale that is well")
        await _moves_on(redis, second)
        monkeypatch.undo()
        await until(first.equal, "the other one as soon as it can be")


async def test_a_gate_that_no_row_can_be_applied_to_is_replaced_and_others_move_on(
    shop: Shop, redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Shop(shop.gate, shop.authority)
    await other.open()
    apply = Gate.apply

    async def fail_one(gate: Gate, sale: str, epoch: int, stamp_ms: int, step: Step) -> Applied:
        if (sale, epoch) == (shop.sale, 2):
            raise GateDamaged("ERR")
        return await apply(gate, sale, epoch, stamp_ms, step)

    monkeypatch.setattr(Gate, "apply", fail_one)
    async with kept(shop.authority, redis.url) as metrics:
        await until(other.equal, "the gate of the sale that is well")
        await shop.authority.restock(shop.sku, 1)

        await replaced(metrics, "damaged")
        await until(shop.equal, "its successor")
        await _moves_on(redis, other)
        await replaced(metrics, "missing", 2)


async def test_damage_that_only_settling_meets_is_replaced(
    shop: Shop, redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_keeper, "SLOW_PAUSE_SECONDS", 0.05)
    async with kept(shop.authority, redis.url) as metrics:
        await until(shop.equal, "the first gate")
        _, wish = await shop.debit()
        await redis.client.hset(f"{{{shop.sale}}}:pending_buyer", wish.buyer, "x")
        monkeypatch.setattr(gate_keeper, "ABANDONED_MS", 0)

        await replaced(metrics, "damaged")
        await until(shop.equal, "in order")


async def test_a_keeper_that_died_between_raise_and_init_is_replaced(shop: Shop, redis: OwnRedis) -> None:
    async with kept(shop.authority, redis.url) as metrics:
        await until(shop.equal, "the first gate")
        await shop.authority.raise_epoch(shop.sale, 0)
        await until(shop.equal, "somebody else finishes")
        await replaced(metrics, "epoch")


async def test_an_item_added_during_the_sale_enters_the_gate(shop: Shop, redis: OwnRedis) -> None:
    async with kept(shop.authority, redis.url) as metrics:
        await until(shop.equal, "the first gate")
        _, wish = await shop.debit()
        await shop.authority.add_item(shop.sale, f"{shop.sale}-scarf", "scarf", 100, 5)

        async def is_known() -> bool:
            return (await shop.gate.look(shop.sale, [f"{shop.sale}-scarf"])).items[f"{shop.sale}-scarf"] == (1, 5)

        await until(is_known, "the new item")
        await replaced(metrics, "unknown_sku")
        # Debited before, decided after: taken from the gate once.
        assert [decision.verdict for decision in await shop.authority.reserve_batch([wish])] == [Verdict.HELD]
        await shop.gate.settle(shop.sale, [Settlement(wish.rid, keep=True)])
        await until(shop.equal, "in order")


async def test_a_frozen_redis_costs_one_deadline_and_then_nothing(shop: Shop, redis: OwnRedis) -> None:
    async with kept(shop.authority, redis.url):
        await until(shop.equal, "the first gate")
        hasty = Shop(await Gate.connect(redis.url), shop.authority)
        hasty.sale, hasty.sku = shop.sale, shop.sku
        redis.signal(signal.SIGSTOP)
        with pytest.raises(GateUnavailable):
            await hasty.debit()
        with pytest.raises(GateUnavailable):
            hasty.debit().send(None)  # without waiting for anything
        redis.signal(signal.SIGCONT)
        # The first debit may have happened: it is pending until the janitor's time, and the gate sells meanwhile.
        await until(lambda: _buys(hasty), "the gate sells again")
        await hasty.gate.close()


async def test_while_redis_is_frozen_only_those_wait_who_came_before_it_was_noticed(
    shop: Shop, redis: OwnRedis
) -> None:
    async with kept(shop.authority, redis.url, DEADLINE_SECONDS):
        await until(shop.equal, "the first gate")
        buyers = Shop(await Gate.connect(redis.url), shop.authority)  # with a buyer's own half a second
        buyers.sale, buyers.sku = shop.sale, shop.sku
        redis.signal(signal.SIGSTOP)
        attempts: list[asyncio.Task[tuple[Outcome, Attempt]]] = []
        waits: list[bool] = []
        ends = time.monotonic() + FROZEN_SECONDS
        while time.monotonic() < ends or (all(waits) and time.monotonic() < ends + PATIENCE_SECONDS):
            attempts.append(asyncio.create_task(buyers.debit()))
            await asyncio.sleep(0)  # one step of it: whoever is refused at once has heard it
            waits.append(not attempts[-1].done())
            await asyncio.sleep(0.01)
        heard = await asyncio.gather(*attempts, return_exceptions=True)
        assert {type(error) for error in heard} == {GateUnavailable}
        opened = waits.index(False)
        assert opened > 0, "nobody was there to notice"
        assert not any(waits[opened:]), "its probes are handshakes, and no buyer's"
        redis.signal(signal.SIGCONT)
        await until(lambda: _buys(buyers), "the gate sells again")
        await buyers.gate.close()


async def test_postgresql_away_stops_the_stamp_and_nothing_else(
    shop: Shop, redis: OwnRedis, database: Database
) -> None:
    async with proxied(database.app_url) as proxy:
        authority = await Authority.connect(proxy.lead(database.app_url), size=4)
        async with kept(authority, redis.url):
            await until(shop.equal, "the first gate")
            await proxy.refuse()
            with pytest.raises(AuthorityUnavailable):
                await authority.ping()
            await asyncio.sleep(0.7)
            stamp = await redis.stamp_ms(shop.sale, shop.sku)
            assert stamp < (time.time() - 0.5) * 1000, "the copy must grow old while nobody reads PostgreSQL"
            await proxy.open()
            await _moves_on(redis, shop)
        await authority.close()


async def test_a_hold_ends_by_itself_and_its_unit_is_on_sale(
    redis: OwnRedis, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A keeper's slow rounds would find the unit as well, and are not to be needed: expiry and the applier bring it.
    monkeypatch.setattr(gate_keeper, "SLOW_PAUSE_SECONDS", 3600)
    gate = await Gate.connect(redis.url, PATIENCE_SECONDS)
    shop = Shop(gate, authority)
    await shop.open(hold_seconds=1, units=1)
    async with kept(authority, redis.url), kept(authority, redis.url):
        await until(shop.equal, "the first gate")
        for _ in range(4):
            assert await shop.buy() is Verdict.HELD
            # The second keeper may just have replaced the gate by an image from before this hold.
            await until(shop.equal, "the hold is in the gate")

            async def is_back() -> bool:
                return (await gate.look(shop.sale, [shop.sku])).items[shop.sku].available == 1

            await until(is_back, "the lapsed unit is on sale")
        await until(shop.equal, "in order")
    await gate.close()


async def test_a_sale_that_is_long_over_leaves_redis_and_returns_when_something_happens(
    shop: Shop, redis: OwnRedis, database: Database
) -> None:
    async with kept(shop.authority, redis.url) as metrics:
        await until(shop.equal, "the first gate")
        await execute(
            database.owner_url,
            "UPDATE flash.sale SET opens = now() - interval '9 hours', closes = now() - interval '8 hours'",
            "UPDATE flash.ledger SET at = now() - interval '8 hours'",
        )

        async def is_gone() -> bool:
            lag = metrics.registry.get_sample_value("flash_gate_lag_rows", {"sku": shop.sku})
            return lag is None and not await redis.client.keys(f"{{{shop.sale}}}*")

        await until(is_gone, "nothing of it in Redis, and no figure")
        await shop.authority.restock(shop.sku, 1)
        await until(shop.equal, "back")


async def test_a_damaged_gate_of_a_sale_that_is_long_over_leaves_redis_whole(
    shop: Shop, redis: OwnRedis, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kept(shop.authority, redis.url):
        await until(shop.equal, "the first gate")
        monkeypatch.setattr(plan, "PATIENCE_SECONDS", 3600)  # the end of the sale comes before the repair
        await spoil(redis, shop, "gate of another type")
        await execute(
            database.owner_url,
            "UPDATE flash.sale SET opens = now() - interval '9 hours', closes = now() - interval '8 hours'",
            "UPDATE flash.ledger SET at = now() - interval '8 hours'",
        )

        async def is_gone() -> bool:
            return not await redis.client.keys(f"{{{shop.sale}}}*")

        await until(is_gone, "nothing of it in Redis")


async def test_the_process_is_ready_says_so_and_stops(redis: OwnRedis, shop: Shop, database: Database) -> None:
    environment = {"FLASH_POSTGRES_URL": database.app_url, "FLASH_REDIS_URL": redis.url}
    async with running(["upkeep"], environment) as (process,), aiohttp.ClientSession() as session:
        base = f"http://127.0.0.1:{process.ops_port}"
        assert await shop.equal()

        async def status(path: str) -> int:
            async with session.get(base + path) as answer:
                return answer.status

        async def is_ready() -> bool:
            return await status("/readyz") == 200

        await redis.kill()
        await until(lambda: _not(is_ready), "not ready without Redis")
        assert await status("/livez") == 200
        await redis.start()
        await until(is_ready, "ready again")
        await until(shop.equal, "in order")
        # One of two at least: a rebuild whose answer Redis gives too late is not counted.
        async with session.get(f"{base}/metrics") as answer:
            assert re.search(r'flash_gate_rebuilds_total{cause="(missing|other_run)"} 1\.0', await answer.text())
        assert await process.stop() == 0


async def _buys(shop: Shop) -> bool:
    try:
        return await shop.buy() is Verdict.HELD
    except GateUnavailable:
        return False


async def _moves_on(redis: OwnRedis, shop: Shop) -> None:
    """Wait until its copy is known to be of later than now."""
    now_ms = time.time() * 1000

    async def is_younger() -> bool:
        return await redis.stamp_ms(shop.sale, shop.sku) > now_ms

    await until(is_younger, "a newer stamp")


async def _not(condition: Callable[[], Awaitable[bool]]) -> bool:
    return not await condition()
