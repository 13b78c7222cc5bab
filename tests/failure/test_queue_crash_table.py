"""What the queued backend bears, moment by moment. ``TABLE`` is the whole of it, and names the tests.

Every row ends alike: whoever was told that an attempt is accepted hears how it was decided, nothing lies in the dead-letter
queue, strangers buy every unit that is left, and the audit is clean. ``CONTROLS`` takes the repairs away, one at a time, and
the row must fail: a test that passes without its repair proves nothing.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from flashsale.contract import wire
from flashsale.crash import POINTS
from flashsale.proof import auditor
from flashsale.queued import message, topology
from flashsale.queued.receipt import Receipts
from tests.brokers import ALARMS, OwnBroker, own_broker
from tests.crashes import until
from tests.databases import given
from tests.patience import PATIENCE_SECONDS
from tests.proxy import Proxy, proxied
from tests.queued_crashes import AGAIN_SECONDS, FRONT, WORKER, YES, Lacks, Scene, scene_on
from tests.queued_shop import metric
from tests.queues import broker, put
from tests.rows import Row, missing_tests, unused_points
from tests.servers import JWT_SECRET, Process

HERE, WORKERS, CONFIRMS, FRONTS, RECEIPTS, DEPENDENCIES = (
    f"tests/failure/test_{name}.py"
    for name in (
        "queue_crash_table",
        "queue_workers",
        "queue_confirms",
        "queue_fronts",
        "queue_receipts",
        "dependencies",
    )
)

TABLE = MappingProxyType(
    {
        "B1": Row(
            "a front dies before an attempt is published, or after its confirm and before the 202",
            "what is queued is decided whoever is alive; the same key is the same purchase",
            (
                f"{HERE}::test_b1_a_front_dies_beside_its_confirm",
                f"{CONFIRMS}::test_a_lost_confirm_is_503_and_the_same_key_finds_what_it_made",
                f"{WORKERS}::test_a_killed_front_leaves_its_port_and_every_key_finds_its_answer",
            ),
        ),
        "B2": Row(
            "RabbitMQ is killed right after a confirm",
            "persistent messages in quorum queues, which confirm what is on disk",
            (f"{HERE}::test_b2_rabbitmq_dies_right_after_the_confirm",),
        ),
        "B3": Row(
            "a worker dies with attempts in hand, before PostgreSQL is asked, or has answered",
            "what is not acknowledged is delivered again",
            (
                f"{HERE}::test_b3_a_worker_dies_with_what_it_took",
                f"{HERE}::test_b3_25_workers_die_one_after_the_other_with_their_hands_full",
                f"{WORKERS}::test_a_worker_killed_in_the_middle_of_a_batch_loses_no_202",
            ),
        ),
        "B4": Row(
            "a worker dies after the commit, before the acknowledgement",
            "the attempt's record: what comes again is answered and not decided",
            (
                f"{HERE}::test_b4_a_worker_dies_before_its_acknowledgement",
                f"{WORKERS}::test_a_worker_killed_in_the_middle_of_a_batch_loses_no_202",
            ),
        ),
        "B5": Row(
            "a worker stands still until the broker has given it up, and goes on when another has decided",
            "the attempt's record; an acknowledgement on a channel that is closed is nobody's",
            (
                f"{HERE}::test_b5_a_worker_that_was_cut_off_while_it_stood_does_no_harm",
                f"{HERE}::test_b5_a_worker_that_stood_until_the_broker_gave_it_up_does_no_harm",
            ),
        ),
        "B6": Row(
            "memory or disk is short, or the queue is full",
            "503, because a confirm has a deadline and a full queue refuses; what decides publishes nothing",
            (f"{HERE}::test_b6_an_alarm_is_503_and_what_is_queued_is_decided", f"{HERE}::test_b6_a_full_queue_is_503"),
        ),
        "B7": Row(
            "the queue is purged, or the broker's disk is lost",
            "the receipt puts the same attempt in again, at either backend; the auditor tells of who never comes",
            (
                f"{HERE}::test_b7_a_receipt_brings_back_what_the_broker_lost",
                f"{HERE}::test_b7_what_is_lost_and_never_brought_back_is_found_by_the_auditor",
                f"{RECEIPTS}::test_a_receipt_given_to_the_other_backend_is_decided_there_and_not_again",
            ),
        ),
        "B8": Row(
            "attempts are delivered twice, late and out of order",
            "the attempt's record; whoever asks is answered from PostgreSQL",
            (
                f"{HERE}::test_b8_copies_in_any_order_are_decided_once_and_no_status_goes_back",
                f"{FRONTS}::test_a_decided_attempt_is_never_called_queued_again",
            ),
        ),
        "B9": Row(
            "PostgreSQL is away",
            "a worker takes nothing that it cannot decide, and begins again by itself",
            (
                f"{HERE}::test_b9_without_postgresql_nothing_goes_round_in_circles",
                f"{DEPENDENCIES}::test_gevent_rabbit_without_postgresql",
            ),
        ),
    }
)


def test_the_table_is_whole_and_its_tests_exist() -> None:
    assert list(TABLE) == [f"B{number}" for number in range(1, 10)]
    assert missing_tests(TABLE) == []
    assert unused_points(TABLE, [point for point in POINTS if point.startswith((FRONT, WORKER))]) == []
    assert {name.partition(":")[0] for name in (*CONTROLS, *BROKER_CONTROLS, *POSTGRES_CONTROLS)} == set(TABLE)


Make = Callable[..., contextlib.AbstractAsyncContextManager[Scene]]


@pytest.fixture
def made(template: str, redis_url: str, tmp_path: Path) -> Make:
    """Where a row happens: a sale of so many ``units``, on stores of its own if it says so."""
    return lambda **more: scene_on(template, redis_url, tmp_path, **more)


# --- B1: the front


async def a_front_dies(scene: Scene, point: str) -> None:
    await scene.serves(point)
    assert await scene.asks("ana") is None
    is_queued = point == "gevent_rabbit.confirmed"
    await scene.works()
    if is_queued:
        await scene.repaired(lambda: taken(scene, 1), "the decision of what was confirmed, though nobody comes again")
    await scene.serves()
    again = await scene.gets("ana", Retry_Attempt="1")
    assert again.body.get("id") == str(scene.id("ana")), "another purchase"
    assert again.status in ({200} if is_queued else YES)
    assert await scene.holds() == 1
    await scene.is_well()


async def taken(scene: Scene, units: int) -> bool:
    return await scene.holds() == units


@pytest.mark.parametrize("point", ["gevent_rabbit.publishing", "gevent_rabbit.confirmed"])
async def test_b1_a_front_dies_beside_its_confirm(made: Make, point: str) -> None:
    async with made(units=2) as scene:
        await a_front_dies(scene, point)


# --- B2: the broker

CONFIRMED = 20


@pytest.fixture
async def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnBroker]:
    # a death and an alarm are the whole broker's, so it may not be that of the other tests
    home = tmp_path_factory.mktemp("broker")
    home.chmod(0o711)
    async with own_broker(home) as own:
        yield own


async def rabbitmq_dies(scene: Scene, rabbitmq: OwnBroker) -> None:
    await scene.serves(f"gevent_rabbit.confirmed:{CONFIRMED + 1}:stop")
    others = [f"b{number}" for number in range(CONFIRMED)]
    await scene.crowd(*others)
    await rabbitmq.keeps_its_queues()
    (request,) = scene.soon(scene.asks("ana"))
    front = await scene.front_stands()  # it has seen ana's confirm, and she has not
    await rabbitmq.kill()
    front.send_signal(signal.SIGCONT)
    answer = await request
    assert answer is None or answer.status == 202  # None: it stood for so long that gunicorn replaced it
    await scene.works()
    await scene.decided("ana", *others)
    await scene.is_well()


@pytest.mark.slow
async def test_b2_rabbitmq_dies_right_after_the_confirm(made: Make, rabbitmq: OwnBroker) -> None:
    async with made(units=5, rabbitmq_url=rabbitmq.url) as scene:
        await rabbitmq_dies(scene, rabbitmq)


# --- B3, B4, B5: the worker


async def a_worker_dies_with_what_it_took(scene: Scene) -> None:
    await scene.serves()
    shoppers = [f"b{number}" for number in range(10)]
    await scene.queues(*shoppers)
    await (await scene.works_until("checkout.taken")).dies()
    assert not await scene.holds()
    await scene.works()
    await scene.decided(*shoppers)
    assert await scene.looks("b0") == "HELD", "the first that came"
    await scene.is_well()


async def test_b3_a_worker_dies_with_what_it_took(made: Make) -> None:
    async with made(units=1) as scene:
        await a_worker_dies_with_what_it_took(scene)


async def a_worker_dies_before_its_acknowledgement(scene: Scene, verdict: str) -> None:
    await scene.serves()
    if verdict == "sold_out":
        await scene.buys_elsewhere("ana")
    await scene.queues("ben")
    await (await scene.works_until("checkout.decided")).dies()
    assert await scene.verdicts("ben") == [verdict]
    if verdict == "sold_out":
        await scene.cancels("ana")  # who decides anew would now say yes
    await scene.comes_again()
    worker = await scene.works()
    await decides(scene, worker)
    assert await scene.looks("ben") == {"held": "HELD"}.get(verdict, verdict), "decided again"
    assert await scene.holds() == 1
    await scene.is_well()


async def decides(scene: Scene, worker: Process) -> None:
    """Wait until a worker has a batch behind it, whatever was decided."""

    async def has() -> bool:
        return await metric(scene.stage, worker.ops_port, "flashsale_checkout_batch_attempts_count") > 0

    await scene.repaired(has, "a batch")


@pytest.mark.parametrize("verdict", ["held", "sold_out"])
async def test_b4_a_worker_dies_before_its_acknowledgement(made: Make, verdict: str) -> None:
    async with made(units=1) as scene:
        await a_worker_dies_before_its_acknowledgement(scene, verdict)


# A broker gives a worker up after two heartbeats, which are ten seconds each otherwise.
IMPATIENT = """
from flashsale.queued import topology

topology.HEARTBEAT_SECONDS = 5
"""
# A worker that wakes up decides what it has in hand, even if it hears first that its connection is gone.
DROWSY = """
from flashsale.queued import worker

worker.Shard._ended = lambda *_: None
"""


async def a_worker_stands(scene: Scene, point: str, way: Proxy | None = None) -> None:
    """Until the broker has given it up: by itself, or because the ``way`` between the two is cut."""
    await scene.serves()
    await scene.buys_elsewhere("ana")
    # All of it is up before it stands: a worker that wakes up in the middle of its start decides nothing.
    first = await scene.works(f"{point}:stop", **({"FLASH_RABBITMQ_URL": way.lead(scene.broker_url)} if way else {}))
    await scene.queues("ben")
    await first.stands()
    if way:
        await way.refuse()
    other = await scene.works()
    await decides(scene, other)
    assert await scene.verdicts("ben") == ["sold_out"]
    await scene.cancels("ana")
    await scene.comes_again()
    if way:
        await way.open()
    waited = knocks(first)
    first.send(signal.SIGCONT)
    if way:
        await decides(scene, first)  # what it had in hand, and another has decided

    async def is_back() -> bool:
        consumes = await metric(scene.stage, first.ops_port, "flashsale_checkout_consuming")
        return consumes == 1 and knocks(first) > waited

    await scene.repaired(is_back, "the first worker back in its place")
    assert await scene.looks("ben") == "sold_out", "decided again"
    assert await scene.available() == 1
    await scene.is_well()


def knocks(worker: Process) -> int:
    """How often it has given up a session, or the hope of one."""
    return worker.log.read_text().count('"event": "checkout.waits"')


async def a_worker_is_cut_off(scene: Scene) -> None:
    async with proxied(scene.broker_url) as way:
        await a_worker_stands(scene, "checkout.taken", way)


async def test_b5_a_worker_that_was_cut_off_while_it_stood_does_no_harm(made: Make) -> None:
    async with made(units=1, lacks=Lacks(worker=DROWSY)) as scene:
        await a_worker_is_cut_off(scene)


@pytest.mark.slow
async def test_b5_a_worker_that_stood_until_the_broker_gave_it_up_does_no_harm(made: Make) -> None:
    async with made(units=1, lacks=Lacks(worker=IMPATIENT)) as scene:
        await a_worker_stands(scene, "checkout.decided")


# --- a worker for each of so many deaths, and then one more

DEATHS = 25
HANDS = 64  # what each may take: an eighth of what it would, for a death costs every attempt one delivery, however many there are
FULL_HANDS = f"""
from flashsale.queued import topology

topology.PREFETCH = {HANDS}
"""
# They are forked, for most of a worker's start is imports; each is one process that connects, takes and kills itself.
MORTALS = f"""
import os
import signal

LACKS
from flashsale.queued import __main__ as checkout
from flashsale.stack.processes import dies_with_us

tie = dies_with_us(signal.SIGKILL)
for _ in range({DEATHS}):
    child = os.fork()
    if not child:
        tie()
        checkout.main()
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


async def workers_die_with_their_hands_full(scene: Scene) -> None:
    await scene.serves()
    shoppers = [f"b{number}" for number in range(HANDS)]
    await scene.crowd(*shoppers)
    mortals = await scene.works_until("checkout.taken", main=MORTALS)

    async def over() -> bool:
        return mortals.is_dead or await scene.waiting(topology.DEAD) > 0

    await until(over, "the last death", 3 * PATIENCE_SECONDS)  # of so many
    assert await scene.waiting(topology.DEAD) == 0, "a dead letter"
    assert mortals.child is not None
    assert mortals.child.returncode == 0, mortals.log.read_text()
    await scene.works()
    await scene.decided(*shoppers)
    await scene.is_well()


@pytest.mark.slow
async def test_b3_25_workers_die_one_after_the_other_with_their_hands_full(made: Make) -> None:
    async with made(units=5, lacks=Lacks(worker=FULL_HANDS)) as scene:
        await workers_die_with_their_hands_full(scene)


# --- B6: the broker takes nothing more

HANDFUL = """
from flashsale.queued import topology

topology.PREFETCH = 8
"""


async def an_alarm_goes_off(scene: Scene, rabbitmq: OwnBroker) -> None:
    await scene.serves()
    for short_of in ALARMS:
        # more than a worker may have in hand: some come only once the broker has heard its acknowledgements
        queued = [f"{short_of}-{number}" for number in range(40)]
        await scene.crowd(*queued)
        await rabbitmq.alarm(short_of, is_on=True)
        requests = scene.soon(*(refused(scene, f"late-{short_of}-{number}") for number in range(50)))

        async def are_answered(requests: list[asyncio.Task[None]] = requests) -> bool:
            return all(request.done() for request in requests)

        # nobody waited for the end of the alarm
        await scene.repaired(are_answered, "an answer while the alarm lasts")
        worker = await scene.works()
        await scene.decided(*queued)
        await rabbitmq.alarm(short_of, is_on=False)
        assert (await scene.gets(f"after-{short_of}")).body["verdict"] == "sold_out"
        await worker.stop()
    await scene.works()
    await scene.is_well()


async def refused(scene: Scene, who: str) -> None:
    """Ask until the answer is 503: the first may still slip through."""
    while (answer := await scene.asks(who, hasty=True)) is None or answer.status != 503:
        await asyncio.sleep(AGAIN_SECONDS)


@pytest.mark.slow
async def test_b6_an_alarm_is_503_and_what_is_queued_is_decided(made: Make, rabbitmq: OwnBroker) -> None:
    async with made(units=5, rabbitmq_url=rabbitmq.url, lacks=Lacks(worker=HANDFUL)) as scene:
        await an_alarm_goes_off(scene, rabbitmq)


def shards(**arguments: object) -> str:
    """For front and worker: queues with other arguments; _ for -, and None for one less."""
    changed = {"x-" + name.replace("_", "-"): value for name, value in arguments.items()}
    return f"""
from flashsale.queued import topology

topology.SHARD_QUEUES = tuple(
    queue._replace(arguments={{k: v for k, v in {{**queue.arguments, **{changed!r}}}.items() if v is not None}})
    for queue in topology.SHARD_QUEUES
)
topology.QUEUES = (topology.QUEUES[0], *topology.SHARD_QUEUES)
"""


ROOM = 10
SMALL = shards(max_length=ROOM)


async def the_queue_is_full(scene: Scene) -> None:
    await scene.serves()
    shoppers = [f"b{number}" for number in range(3 * ROOM)]  # the broker's bound may be overshot by a few
    heard = {who: await scene.asks(who, hasty=True) for who in shoppers}
    accepted = [who for who, answer in heard.items() if answer and answer.status == 202]
    await scene.works()
    await scene.decided(*accepted)
    assert {answer and answer.status for answer in heard.values()} == {202, 503}
    await scene.is_well()


async def test_b6_a_full_queue_is_503(made: Make) -> None:
    async with made(units=5, lacks=Lacks(SMALL, SMALL)) as scene:
        await the_queue_is_full(scene)


# --- B7: the queue is lost


async def the_queue_is_lost(scene: Scene, backend: str) -> None:
    await scene.serves()
    server = scene.front if backend == FRONT else await scene.process(backend).start()
    await scene.queues("ana", "ben")
    await purge(scene)
    for who in ("ana", "ben"):
        await scene.asks(who, server=server.url, Receipt=scene.receipts[who])
    await scene.works()
    await scene.repaired(lambda: shows(scene, ana="HELD", ben="sold_out"), "what the receipts promised")
    await scene.cancels("ana")
    assert (await scene.asks("ben", server=server.url, Receipt=scene.receipts["ben"])) is not None
    assert await scene.looks("ben") == "sold_out", "decided again"
    assert (await scene.verdicts("ana"), await scene.verdicts("ben")) == (["held"], ["sold_out"])
    # it was the attempt that is refused for good, and not the key
    assert (await scene.gets("ben")).status in YES
    assert await scene.looks("ben") == "HELD"
    await scene.is_well()


async def shows(scene: Scene, **expected: str) -> bool:
    return {who: await scene.looks(who) for who in expected} == expected


async def purge(scene: Scene) -> None:
    async with broker() as channel:
        await (await channel.get_queue(scene.queue)).purge()


@pytest.mark.parametrize("backend", [FRONT, "asyncio_redis"])
async def test_b7_a_receipt_brings_back_what_the_broker_lost(made: Make, backend: str) -> None:
    async with made(units=1) as scene:
        await the_queue_is_lost(scene, backend)


async def test_b7_what_is_lost_and_never_brought_back_is_found_by_the_auditor(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor, "SETTLE_S_MAX", 1.0)  # of what a queue that is still being read would put right
    async with made(units=1) as scene:
        await scene.serves()
        await scene.queues("ana")
        await purge(scene)
        await scene.works()
        report = await auditor.audit(scene.stage.database.auditor_url, scene.redis_url, told=scene.told)
        (told,) = (row for row in report.document()["invariants"] if row["id"] == "I5")
        assert told["broken"] == {"accepted-undecided": 1}
        await scene.is_well()  # she comes back, and there is nothing to tell


# --- B8: more than one delivery

SHOPPERS = ("ana", "ben", "cyd")


async def copies_come_in_any_order(scene: Scene) -> None:
    await scene.serves()
    await scene.queues(*SHOPPERS)
    for who in SHOPPERS:  # two of each are queued now
        again = await scene.asks(who, Receipt=scene.receipts[who])
        assert again is not None
        assert again.status == 202
    copies = [copy(scene, who) for who in SHOPPERS]
    await put(scene.queue, *reversed(copies), *copies)
    seen: dict[str, list[str]] = {who: [] for who in SHOPPERS}
    (watching,) = scene.soon(watch(scene, seen))
    await scene.works()
    await scene.decided(*SHOPPERS)
    assert await scene.holds() == 1
    (winner,) = [who for who in SHOPPERS if await scene.verdicts(who) == ["held"]]
    await scene.cancels(winner)
    await scene.comes_again()
    await put(scene.queue, *copies, *reversed(copies))
    # who comes behind all copies finds the unit that is free
    assert (await scene.gets("dan")).status in YES, "decided again"
    watching.cancel()
    for who, states in seen.items():
        end = ["HELD", "CANCELLED"] if who == winner else ["sold_out"]
        states.append(await scene.looks(who))
        assert is_a_path(states, ["QUEUED", *end]), (who, states)
    assert await scene.holds() == 2
    await scene.is_well()


def copy(scene: Scene, who: str) -> bytes:
    """The attempt that was promised to be decided, as a front would publish it."""
    buyer, key = scene.shop.own(who), scene.shop.key(who)
    rid = Receipts(JWT_SECRET).read(scene.receipts[who], buyer, scene.id(who), time.time()).rid
    cart = wire.Cart((wire.Line(scene.shop.own("a"), 1),))
    until = datetime.now(UTC) + timedelta(seconds=message.QUEUED_SECONDS_MAX)
    return message.encode(message.Message(rid, scene.id(who), buyer, key, cart, until))


async def watch(scene: Scene, seen: dict[str, list[str]]) -> None:
    while True:
        for who in SHOPPERS:
            seen[who].append(await scene.looks(who))
        await asyncio.sleep(0.01)


def is_a_path(states: list[str], path: list[str]) -> bool:
    """Do the states follow each other as in ``path``, to its end? Some may have been passed over unseen."""
    places = [path.index(state) if state in path else -1 for state in states]
    return places == sorted(places) and places[0] >= 0 and states[-1] == path[-1]


async def test_b8_copies_in_any_order_are_decided_once_and_no_status_goes_back(made: Make) -> None:
    async with made(units=1) as scene:
        await copies_come_in_any_order(scene)


# --- B9: PostgreSQL is away

KNOCKS = 5


@pytest.fixture
async def postgres() -> AsyncIterator[Proxy]:
    async with proxied(given("FLASH_TEST_POSTGRES_URL")) as way:
        yield way


async def postgresql_is_away(scene: Scene, postgres: Proxy) -> None:
    await scene.serves()
    worker = await scene.works()
    await scene.gets("ana")
    await postgres.refuse()
    shoppers = [f"b{number}" for number in range(10)]
    await scene.queues(*shoppers)
    await scene.repaired(lambda: has_knocked(worker), "a worker that sees PostgreSQL gone")
    again = await metric(scene.stage, worker.ops_port, "flashsale_checkout_redelivered_total")
    assert again == 0, "delivered again and again"
    await postgres.open()
    await scene.decided(*shoppers)
    assert [await scene.looks(who) for who in shoppers[:3]] == ["HELD", "HELD", "sold_out"], "in the order they came"
    await scene.is_well()


async def has_knocked(worker: Process) -> bool:
    return knocks(worker) >= KNOCKS


async def test_b9_without_postgresql_nothing_goes_round_in_circles(made: Make, postgres: Proxy) -> None:
    async with made(units=3, way=postgres.lead) as scene:
        await postgresql_is_away(scene, postgres)


# --- the same without the repair


async def forgets(scene: Scene) -> None:
    """Nobody remembers which attempts were decided."""
    await scene.stage.owner.execute("DELETE FROM flash.attempt")


ANSWERS_FIRST = """
import gevent

from flashsale.backends.gevent_rabbit import dispatch

submit = dispatch.Dispatcher.submit
dispatch.Dispatcher.submit = lambda self, attempt: gevent.spawn_later(3600, submit, self, attempt)
"""
MAKES_THE_KEY = """
import uuid

from flashsale.backends.gevent_rabbit import checkout
from flashsale.contract.wire import purchase_id

purchase = checkout.Checkout.purchase


def keyed(self, _, buyer, __, *more, **named):
    key = uuid.uuid4().hex
    return purchase(self, purchase_id(buyer, key), buyer, key, *more, **named)


checkout.Checkout.purchase = keyed
"""
IGNORES_RECEIPTS = """
from flashsale.backends.gevent_rabbit import checkout

purchase = checkout.Checkout.purchase
checkout.Checkout.purchase = lambda self, *more, receipt=None, **named: purchase(self, *more, **named)
"""
WAITS_FOR_EVER = """
from flashsale.backends.gevent_rabbit import dispatch

dispatch.CONFIRM_SECONDS = 3600
dispatch.Dispatcher._block = lambda self, *, is_so: None
"""
ACKNOWLEDGES_FIRST = """
import aio_pika

from flashsale.queued import worker

consume = aio_pika.Queue.consume
aio_pika.Queue.consume = lambda self, hear, **named: consume(self, hear, no_ack=True, **named)


async def acknowledge(self, *_):
    pass


worker.Shard._acknowledge = acknowledge
"""
TELLS_BESIDE = """
import contextlib

from flashsale.queued import worker

connected = worker.Worker._connected


@contextlib.asynccontextmanager
async def shared(self, *tapping):
    if getattr(self, "shared", None) is not None:
        yield self.shared
        return
    async with connected(self, *tapping) as self.shared:
        try:
            yield self.shared
        finally:
            self.shared = None


worker.Worker._connected = shared
"""
TAKES_ANYWAY = """
from flashsale.authority.client import Authority
from flashsale.queued import worker

worker.DECIDE_SECONDS = 0.2


async def ping(self, *_):
    pass


Authority.ping = ping
"""
REJECTS = """
from flashsale.authority.client import AuthorityUnavailable
from flashsale.queued import worker

decide = worker.Shard._decide


async def rejects(self, batch):
    try:
        await decide(self, batch)
    except AuthorityUnavailable:
        for arrived in batch:
            await self._reject(arrived.tag)
        raise


worker.DECIDE_SECONDS = 0.2
worker.Shard._decide = rejects
"""
FORGETFUL = (
    shards(queue_type="classic", single_active_consumer=None, delivery_limit=None, dead_letter_strategy=None)
    + "topology.PERSISTENT = 1\n"
)
DEFAULT_LIMIT = shards(delivery_limit=20)  # what RabbitMQ 4 has for who says nothing
DROPS = shards(max_length=ROOM, overflow="drop-head", dead_letter_strategy="at-most-once")


class Control(NamedTuple):
    """A row, what it lacks, and how it fails then. Beside its scene a row takes the store that may die."""

    row: Callable[..., Awaitable[None]]
    shows: str
    lacks: Lacks


CONTROLS = {
    "B1: a 202 comes after the confirm": Control(
        lambda scene: a_front_dies(scene, "gevent_rabbit.confirmed"),
        "the decision of what was confirmed, though nobody comes again",
        Lacks(ANSWERS_FIRST),
    ),
    "B1: the same key is the same purchase": Control(
        lambda scene: a_front_dies(scene, "gevent_rabbit.confirmed"), "another purchase", Lacks(MAKES_THE_KEY)
    ),
    "B3: an acknowledgement comes after the decision": Control(
        a_worker_dies_with_what_it_took, "the decision of what was accepted", Lacks(worker=ACKNOWLEDGES_FIRST)
    ),
    "B3: a limit that so many deaths do not reach": Control(
        workers_die_with_their_hands_full, "a dead letter", Lacks(DEFAULT_LIMIT, DEFAULT_LIMIT + FULL_HANDS)
    ),
    "B4: the record of the attempt": Control(
        lambda scene: a_worker_dies_before_its_acknowledgement(scene, "sold_out"), "decided again", Lacks(again=forgets)
    ),
    "B5: the record of the attempt": Control(a_worker_is_cut_off, "decided again", Lacks(worker=DROWSY, again=forgets)),
    "B6: a full queue refuses": Control(the_queue_is_full, "the decision of what was accepted", Lacks(DROPS, DROPS)),
    "B7: a receipt is of one attempt": Control(
        lambda scene: the_queue_is_lost(scene, FRONT), "what the receipts promised", Lacks(IGNORES_RECEIPTS)
    ),
    "B8: the record of the attempt": Control(copies_come_in_any_order, "decided again", Lacks(again=forgets)),
}
BROKER_CONTROLS = {
    "B2: what is confirmed is on disk": Control(
        rabbitmq_dies, "the decision of what was accepted", Lacks(FORGETFUL, FORGETFUL)
    ),
    "B6: a confirm has a deadline": Control(
        an_alarm_goes_off, "an answer while the alarm lasts", Lacks(WAITS_FOR_EVER, HANDFUL)
    ),
    "B6: the feed has a connection of its own": Control(
        an_alarm_goes_off, "the decision of what was accepted", Lacks(worker=HANDFUL + TELLS_BESIDE)
    ),
}
POSTGRES_CONTROLS = {
    "B9: nothing is taken that cannot be decided": Control(
        postgresql_is_away, "delivered again and again", Lacks(worker=TAKES_ANYWAY)
    ),
    "B9: what is not decided is not rejected": Control(
        postgresql_is_away, "the decision of what was accepted", Lacks(worker=REJECTS)
    ),
}


async def fails(scene: Scene, control: Control, *store: object) -> None:
    scene.never = control.shows
    with pytest.raises((AssertionError, pytest.fail.Exception), match=control.shows):
        await control.row(scene, *store)
    await scene.abandon()


@pytest.mark.slow
@pytest.mark.parametrize("repair", CONTROLS)
async def test_without_its_repair_a_row_fails(made: Make, repair: str) -> None:
    async with made(units=1, lacks=CONTROLS[repair].lacks) as scene:
        await fails(scene, CONTROLS[repair])


@pytest.mark.slow
@pytest.mark.parametrize("repair", BROKER_CONTROLS)
async def test_without_its_repair_a_row_with_a_broker_of_its_own_fails(
    made: Make, rabbitmq: OwnBroker, repair: str
) -> None:
    async with made(units=5, rabbitmq_url=rabbitmq.url, lacks=BROKER_CONTROLS[repair].lacks) as scene:
        await fails(scene, BROKER_CONTROLS[repair], rabbitmq)


@pytest.mark.slow
@pytest.mark.parametrize("repair", POSTGRES_CONTROLS)
async def test_without_its_repair_a_row_without_postgresql_fails(made: Make, postgres: Proxy, repair: str) -> None:
    async with made(units=3, way=postgres.lead, lacks=POSTGRES_CONTROLS[repair].lacks) as scene:
        await fails(scene, POSTGRES_CONTROLS[repair], postgres)
