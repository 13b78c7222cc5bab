"""The operations page's figures and controls, of a real server, upkeep, balancer, database and broker."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from flashsale.admin.operations.sources import EVERY_SECONDS
from flashsale.operate.context import Change
from tests.admins import Admin, Client, Heard, admin_of
from tests.balanced import Balancer, balanced
from tests.contract.drivers import HttpDriver
from tests.contract.script import Wish
from tests.patience import PATIENCE_SECONDS
from tests.servers import free_port
from tests.stages import Stage, staged

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLE = Path(__file__).parents[1] / "unit" / "admin" / "operations_frame.json"
SALE = ("sale", "state", "units", "available")
Frame = dict[str, Any]


@dataclass
class Known:
    """A server as the balancer is told of it; somebody else starts and ends it."""

    name: str
    port: int

    async def start(self) -> None:
        """It runs."""

    async def kill(self) -> None:
        """Not ours to end."""


class Target:
    """A process that counts how often it is asked for its metrics."""

    def __init__(self) -> None:
        self.asked = 0
        self.text = "process_cpu_seconds_total 1\n"
        self.url = ""

    async def metrics(self, _: web.Request) -> web.Response:
        """``GET /metrics``."""
        self.asked += 1
        return web.Response(text=self.text)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """From here on."""
        app = web.Application()
        app.router.add_get("/metrics", self.metrics)
        runner = web.AppRunner(app)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield
        finally:
            await runner.cleanup()


@dataclass
class Room:
    """Where somebody looks at a shop that works: one server behind a balancer, and a process that counts its visitors."""

    stage: Stage
    balancer: Balancer
    admin: Admin
    target: Target
    progress: Path
    olga: Client
    vera: Client

    @contextlib.asynccontextmanager
    async def looking(self, client: Client) -> AsyncIterator["Look"]:
        """One stream, while the test is in it."""
        async with client.session.get(f"{client.url}/api/operations/stream") as answer:
            yield Look(answer)

    async def viewers(self) -> int:
        """How many there are, as the process says."""
        async with self.vera.session.get(f"http://127.0.0.1:{self.admin.process.ops_port}/metrics") as answer:
            [line] = [each for each in (await answer.text()).splitlines() if each.startswith("flash_admin_viewers ")]
        return int(float(line.split()[1]))

    async def operations(self) -> list[Mapping[str, Any]]:
        """The deeds on record of the balancer, in order."""
        rows = await self.stage.owner.fetch("SELECT * FROM flash.operation WHERE action LIKE 'balancer.%' ORDER BY id")
        return [dict(row) for row in rows]


class Look:
    """What one viewer hears."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.ids: list[int] = []

    async def event(self) -> tuple[str, Any]:
        """The next: its name and what it says; retries are passed over."""
        name = ""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while line := (await self.answer.content.readline()).decode():
                field, _, value = line.rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "id":
                    self.ids.append(int(value))
                elif field == "data":
                    return name, json.loads(value)
        return "", None

    async def frame(self, is_so: Callable[[Frame], Any] = lambda _: True) -> Frame:
        """The next frame that is so."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                name, frame = await self.event()
                assert name == "figures", (name, frame)
                if is_so(frame):
                    return dict(frame)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def room(template: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Room]:
    folder = tmp_path_factory.mktemp("operations")
    progress, target = folder / "running.json", Target()
    async with contextlib.AsyncExitStack() as stack:
        stage = await stack.enter_async_context(staged(template, redis_url))
        [server] = stage.servers
        behind = [Known("asyncio_redis-0", server.port), Known("asyncio_redis-1", free_port())]  # nobody is the second
        balancer = await stack.enter_async_context(balanced(*behind, LB_WORKERS="2"))
        await stack.enter_async_context(target.listening())
        targets = {
            "upkeep-0": f"http://127.0.0.1:{stage.upkeep.ops_port}",
            "asyncio_redis-0": f"http://127.0.0.1:{server.ops_port}",
            "payments-0": target.url,
            "checkout-0": "http://127.0.0.1:1",  # where nobody ever listens
        }
        settings = {
            "FLASH_ADMIN_TARGETS": ",".join(f"{name}={url}" for name, url in targets.items()),
            "FLASH_BALANCER_SOCKET": str(balancer.socket),
            "FLASH_BENCHMARK_PROGRESS": str(progress),
        }
        admin = await stack.enter_async_context(admin_of(stage.database, folder, **settings))
        olga, vera = [await stack.enter_async_context(admin.client(name)) for name in ("olga", "vera")]
        yield Room(stage, balancer, admin, target, progress, olga, vera)


def done(heard: Heard) -> Any:
    assert heard.status == 200, heard
    return heard.body


def shape(value: Any) -> Any:
    """What a page may rely on: which names there are. What may be null says nothing of a number's kind, and rows are alike."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value and isinstance(value[0], dict) else "list"
    return "value"


# --- figures


async def test_a_frame_has_the_shape_of_the_example_and_says_what_is_so(room: Room) -> None:
    shop = HttpDriver(room.stage.authority, room.stage.owner, room.stage.session, room.stage.urls)
    await shop.open("s", {"a": 3}, 3)
    await room.stage.gate_opens(shop.own("s"))
    example = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    async with room.looking(room.vera) as look:
        frame = await look.frame(is_whole)
        [backend] = frame["backends"]
        while not backend["accepted"]["n"]:  # of the last ten seconds, which are short on a machine under load
            assert await shop.reserve(Wish("ana", secrets.token_hex(8), (("a", 1),)), is_retry=False) in {
                "held",
                "sold_out",
            }
            [backend] = (await look.frame())["backends"]
        left = await room.stage.owner.fetchval("SELECT available FROM flash.stock WHERE sku = $1", shop.own("a"))
        seen = (shop.own("s"), "OPEN", 3, left)
        await look.frame(lambda made: seen in [tuple(row[name] for name in SALE) for row in _rows(made["sales"])])
    assert frame["audit"] == {"away": "no auditor is known here; run `./flash audit`"}
    expected = shape(example) | {"audit": {"away": "value"}, "bench": "value", "events": shape(frame["events"])}
    assert shape(frame) == expected
    assert (backend["name"], backend["servers"], backend["up"]) == ("asyncio_redis", 1, 1)
    assert backend["rate_per_s"] > 0
    assert backend["accepted"] == backend["decided"]
    assert [queue["name"] for queue in frame["queues"]] == [queue["name"] for queue in example["queues"]]
    assert (frame["gate"]["up"], frame["gate"]["servers"]) == (1, 1)
    rows = {(row["role"], row["index"]): row for row in frame["processes"]}
    assert room.stage.servers[0].child is not None
    assert rows["asyncio_redis", 0]["pid"] == room.stage.servers[0].child.pid
    assert rows["loadbalancer", 0]["pid"] == room.balancer.child.pid
    assert rows["checkout", 0]["away"].startswith("it does not answer: ")
    for process in (rows["asyncio_redis", 0], rows["upkeep", 0], rows["loadbalancer_worker", 1]):
        assert process["rss_mib"] > 1
        assert process["cpu_cores"] >= 0
        assert process["up_s"] > 0
    servers = {server["name"]: server for server in frame["balancer"]["servers"]}
    assert servers["asyncio_redis-0"]["backend"] == "asyncio_redis"


async def test_nobody_looks_and_nothing_is_read_and_many_look_and_it_is_read_once(room: Room) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await room.viewers():  # who looked before
            await asyncio.sleep(0.05)
    await room.viewers()  # what was on its way when the last one left has come by now
    asked = room.target.asked
    await asyncio.sleep(2 * EVERY_SECONDS)
    assert room.target.asked == asked
    began = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        looks = [await stack.enter_async_context(room.looking(who)) for who in (room.vera, room.olga) * 4]
        for _ in range(3):
            frames = await asyncio.gather(*(look.frame() for look in looks))
    took = time.monotonic() - began
    assert all(look.ids == sorted(set(look.ids)) for look in looks)
    assert all(frame["sales"] is not None for frame in frames)
    # eight look, and whoever is asked is asked once a second
    assert 0 < room.target.asked - asked <= took / EVERY_SECONDS + 1


async def test_a_part_that_is_away_says_why_and_comes_back(room: Room) -> None:
    before = room.target.text
    async with room.looking(room.vera) as look:
        await look.frame(lambda made: _process(made, "payments")["away"] is None)
        room.target.text = "process_cpu_seconds_total none\n"

        def is_alone(made: Frame) -> bool:
            """Whoever is late on a slow machine is away for another reason."""
            says = _process(made, "payments")["away"] or ""
            return says.startswith("its metrics cannot be read: ") and _process(made, "upkeep")["away"] is None

        await look.frame(is_alone)
        room.target.text = before
        made = await look.frame(lambda made: _process(made, "payments")["away"] is None)
        kinds = [event["kind"] for event in made["events"] if event["subject"] == "payments-0"]
        assert kinds[-2:] == ["process.away", "process.back"]


async def test_a_comparison_that_runs_is_shown(room: Room) -> None:
    async with room.looking(room.vera) as look:
        assert (await look.frame())["bench"] is None
        at = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        running = {"name": "n", "phase": "p", "done": 1, "of": 4, "eta_s": 9.0, "ratios": []}
        room.progress.write_text(json.dumps(running | {"at": at}), encoding="utf-8")
        assert (await look.frame(lambda made: made["bench"]))["bench"] == running
        room.progress.unlink()
        await look.frame(lambda made: made["bench"] is None)


async def test_who_is_signed_out_hears_no_more(room: Room) -> None:
    async with room.admin.client("vera") as leaving:
        async with room.looking(leaving) as look:
            assert look.answer.headers["Cache-Control"] == "no-store"
            assert "default-src 'none'" in look.answer.headers["Content-Security-Policy"]
            await look.frame()
            async with room.admin.client() as other:  # whose cookie jar has the same session
                other.session.cookie_jar.update_cookies(
                    {cookie.key: cookie.value for cookie in leaving.session.cookie_jar}, URL(other.url)
                )
                other.csrf = leaving.csrf
                assert (await other.post("/api/session/end", {})).status == 204
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (heard := await look.event())[0] == "figures":
                    pass
            assert heard == ("bye", {"word": "signed_out"})
            assert await look.event() == ("", None)
        assert (await leaving.get("/api/operations/stream")).status == 401


async def test_a_stranger_sees_no_figures_and_a_page_of_anothers_none(room: Room) -> None:
    async with room.admin.client() as stranger:
        assert (await stranger.get("/api/operations/stream")).status == 401
    assert (await room.vera.get("/api/operations/stream", Host="rebound.example")).status == 421
    assert (await room.vera.get("/api/operations/stream", Origin="http://127.0.0.1:1")).status == 403
    async with room.vera.session.head(f"{room.vera.url}/api/operations/stream") as answer:
        assert answer.status == 405


# --- controls


async def test_a_server_is_drained_once_per_key_and_it_is_on_record_and_in_the_frame(room: Room) -> None:
    plan = done(await room.olga.plan("balancer.drain", server="asyncio_redis-0"))
    assert plan["changes"] == [Change("asyncio_redis-0: new requests", True, False)._asdict()]
    assert "draining" not in (await room.balancer.states())["asyncio_redis-0"]
    before = len(await room.operations())
    async with room.looking(room.vera) as look:
        await look.frame()
        key = secrets.token_hex(16)
        for _ in range(2):
            answer = done(await room.olga.do("balancer.drain", key, "a new disk", server="asyncio_redis-0"))
        assert answer["operation"]["action"] == "balancer.drain"
        # for a moment one of the two workers is ahead, and the word says so
        drained = ("drained", "finishes what it has, drained by hand")
        await look.frame(lambda made: (_server(made).get("state"), _server(made).get("word")) == drained)

        def told(made: Frame) -> list[Any]:
            return [each for each in made["events"] if each["kind"] == "deed" and each["text"].endswith("(a new disk)")]

        [deed] = told(await look.frame(told))
        assert set(deed) == set(json.loads(EXAMPLE.read_text(encoding="utf-8"))["events"][0])
        assert deed["subject"] == "asyncio_redis-0"
        # the same word again, after somebody wanted it otherwise, undoes nothing
        done(await room.olga.do("balancer.undrain", server="asyncio_redis-0"))
        done(await room.olga.do("balancer.drain", key, "a new disk", server="asyncio_redis-0"))
        await look.frame(lambda made: _server(made).get("state") == "up")
    rows = (await room.operations())[before:]
    assert [(row["action"], row["subject"], row["operator"], row["reason"]) for row in rows] == [
        ("balancer.drain", "asyncio_redis-0", "olga", "a new disk"),
        ("balancer.undrain", "asyncio_redis-0", "olga", "because"),
    ]
    assert (await room.balancer.states())["asyncio_redis-0"] == "up"


async def test_of_two_deeds_on_one_server_the_second_waits_for_the_first(room: Room) -> None:
    before, owner = await room.operations(), room.stage.owner
    of_it = "hashtextextended('balancer asyncio_redis-0', 0)"
    waiting = """SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                 WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()"""
    await owner.execute(f"SELECT pg_advisory_lock({of_it})")
    try:
        second = asyncio.create_task(room.olga.do("balancer.weight", server="asyncio_redis-0", weight=2))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not second.done() and not await owner.fetchval(waiting):
                await asyncio.sleep(0.05)
        assert not second.done()
        assert await room.operations() == before
    finally:
        await owner.execute(f"SELECT pg_advisory_unlock({of_it})")
    done(await second)
    assert len(await room.operations()) == len(before) + 1
    done(await room.olga.do("balancer.weight", server="asyncio_redis-0", weight=1))


async def test_weight_and_algorithm_are_changed_and_planned(room: Room) -> None:
    plan = done(await room.olga.plan("balancer.weight", server="asyncio_redis-0", weight=3))
    assert plan["changes"] == [{"what": "asyncio_redis-0: weight", "before": 1, "after": 3}]
    done(await room.olga.do("balancer.weight", server="asyncio_redis-0", weight=3))
    assert done(await room.olga.plan("balancer.weight", server="asyncio_redis-0", weight=3))["changes"] == []
    was = (await room.balancer.stats())["algorithm"]
    assert was != "power_of_two"
    plan = done(await room.olga.plan("balancer.algorithm", algorithm="power_of_two"))
    assert plan["changes"] == [{"what": "algorithm", "before": was, "after": "power_of_two"}]
    done(await room.olga.do("balancer.algorithm", algorithm="power_of_two"))
    stats = await room.balancer.stats()
    assert (stats["algorithm"], stats["servers"][0]["weight"]) == ("power_of_two", 3)
    details = [json.loads(row["detail"]) for row in (await room.operations())[-2:]]
    assert details == [{"weight": 3}, {"algorithm": "power_of_two"}]


@pytest.mark.parametrize(
    ("verb", "told", "status", "words"),
    [
        ("weight", {"server": "asyncio_redis-0", "weight": 0}, 400, "weight is not"),
        ("weight", {"server": "asyncio_redis-0"}, 400, "weight is missing"),
        ("drain", {"server": "nobody"}, 404, "no server is named nobody; there are asyncio_redis-0, asyncio_redis-1"),
        ("drain", {"server": "a/b"}, 400, "server is not"),
        ("algorithm", {"algorithm": "by_name"}, 409, "by_name is no algorithm; there are "),
        ("algorithm", {"algorithm": "round_robin", "server": "a"}, 400, "'server' is not asked for"),
        ("remove", {"server": "asyncio_redis-0"}, 404, "there is no action balancer.remove"),
    ],
)
async def test_what_is_not_so_is_refused_and_not_recorded(
    room: Room, verb: str, told: dict[str, Any], status: int, words: str
) -> None:
    before = await room.operations()
    for heard in (await room.olga.plan(f"balancer.{verb}", **told), await room.olga.do(f"balancer.{verb}", **told)):
        assert (heard.status, words in heard.body["detail"]) == (status, True), heard
    assert await room.operations() == before


async def test_a_viewer_changes_nothing_at_the_balancer(room: Room) -> None:
    assert (await room.vera.plan("balancer.drain", server="asyncio_redis-0")).status == 403
    assert (await room.vera.do("balancer.drain", server="asyncio_redis-0")).status == 403
    assert (await room.balancer.states())["asyncio_redis-0"] == "up"


def is_whole(frame: Frame) -> bool:
    """Has everything been seen twice that is there, and is nothing away that may be busy?"""
    parts = [frame[name] for name in ("sales", "balancer", "queues", "dead_letters")]
    rows = [row for row in frame["processes"] if row["role"] != "checkout"]
    is_seen = all(isinstance(part, list) or "away" not in part for part in parts)
    is_down = is_seen and frame["balancer"]["servers"][1]["state"] == "down"
    return is_down and frame["gate"]["up"] == 1 and all(row["cpu_cores"] is not None for row in rows)


def _rows(part: Any) -> list[Any]:
    return part if isinstance(part, list) else []


def _server(frame: Frame) -> Any:
    return frame["balancer"].get("servers", [{}])[0]


def _process(frame: Frame, role: str) -> Any:
    return next(row for row in frame["processes"] if row["role"] == role)
