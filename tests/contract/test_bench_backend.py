"""Every part of the backend's benchmark on real services, small: what was said adds up, and nothing is said of how fast."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import pytest_asyncio

from benchmarks.backend import (
    accept,
    checkout,
    drain,
    fsync,
    held,
    load,
    memory,
    million,
    overload,
    refusals,
    sellout,
    steady,
    telling,
)
from benchmarks.backend.attempts import Attempts, Names, body
from benchmarks.backend.field import OFF, Field
from benchmarks.backend.peers import NOTHING, PLAIN
from benchmarks.backend.picture import draw
from benchmarks.backend.report import Cell, Section
from benchmarks.backend.servers import EDGE, OURS, Contestant, running, verdicts
from benchmarks.backend.shop import PLENTY, Shop
from flashsale.settings import REPOSITORY
from tests.databases import Patient, given
from tests.queues import drop_queues
from tests.servers import JWT_SECRET
from tests.sessions import patient_session
from tests.stages import Stage, staged

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

PEER = Contestant(PLAIN, (OURS.command[0], "-m", "benchmarks.peers.aiohttp_plain"))  # needs nothing to be installed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def field(template: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Field]:
    rabbitmq = {"FLASH_RABBITMQ_URL": given("FLASH_TEST_RABBITMQ_URL")}
    async with staged(template, redis_url, servers=0, settings=rabbitmq) as stage:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("benchmarks.backend.shop.Authority", Patient)
            shop = await Shop.open(stage.database.app_url)
        try:
            yield Field(
                environment={
                    **rabbitmq,
                    "FLASH_POSTGRES_URL": stage.database.app_url,
                    "FLASH_REDIS_URL": redis_url,
                    "FLASH_JWT_SECRET": JWT_SECRET,
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}",
                },
                processes=await _processes(stage),
                core=max(os.sched_getaffinity(0)),
                folder=tmp_path_factory.mktemp("files"),
                home=tmp_path_factory.mktemp("home"),
                pictures=tmp_path_factory.mktemp("pictures") / "backend",
                shop=shop,
                names=Names("contract"),
                say=print,
            )
        finally:
            await shop.close()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _nothing_is_queued() -> None:
    # what an earlier test left is nobody's here: who was told to try later may be queued all the same
    await drop_queues()


async def _processes(stage: Stage) -> dict[str, int]:
    assert stage.upkeep.child is not None
    found = {"upkeep": stage.upkeep.child.pid, "redis": int((await stage.redis.info("server"))["process_id"])}
    backend = psutil.Process(await stage.owner.fetchval("SELECT pg_backend_pid()"))
    if backend.name() == "postgres":  # on this machine, that is
        found["postgres"] = backend.ppid()
    return found


def is_told(section: Section) -> bool:
    return bool(section.rows) and {len(row) for row in section.rows} == {len(section.header)}


async def test_refusals_are_what_everybody_says(field: Field) -> None:
    effort = refusals.Effort(1, 1, 1, (OFF,))
    seen = await refusals.against(field, effort, [PEER])
    assert [(cell.what, cell.server) for cell in seen] == [
        (refusals.BY_GATE, OURS.name),
        (refusals.BY_GATE, PLAIN),
        (refusals.AT_ONCE, OURS.name),
    ]
    assert all(one.refusals == one.answers and not one.broken for loads in seen.values() for one in loads)
    said = refusals.section(seen, effort, ["nobody"])
    assert is_told(said)
    assert [bar.wanted.rpartition(" at ")[0] for bar in said.bars] == [
        "sold out, by the gate, auth off: p99 in ms",
        f"sold out, by the gate, auth off: times {PLAIN}",
        "sold out, at once, auth off: p99 in ms",
        "sold out, at once, auth off: per second and core",
    ]


async def test_the_stock_is_sold_and_no_more(field: Field) -> None:
    said = await sellout.measure(field, sellout.Effort(1, 30, 0.5, connections=4))
    (turn,) = said.raw["rounds"]
    assert is_told(said)
    assert turn["books"] == {"available": 0, "held": 30}
    assert turn["verdicts"]["sold_out"]
    assert sum(turn["verdicts"].values()) >= turn["answers"]


async def test_a_crowd_is_counted_in_tenths(field: Field) -> None:
    said = await million.measure(field, million.Effort(500, 20, 0.05))
    assert is_told(said)
    assert len(said.rows) == len(said.raw["tenths"]) == 10
    assert said.raw["curve"][-1]["answers"] > 0
    assert {*said.raw["tenths"][0]["memory_mib"]} == {"server", "redis"}
    assert (await field.shop.books(million.SKU)).held <= 20


async def test_whatever_is_offered_is_answered(field: Field) -> None:
    found = await overload.points(field, overload.Effort(1, 0.5, 300, 0.5))
    (points,) = found.rounds
    assert [one.times for one in points] == list(overload.TIMES)
    for one in points:
        assert {*one.statuses} <= {overload.HELD, overload.REFUSED, overload.LATER}  # each has an answer
    held_units = (await field.shop.books(overload.SKU)).held
    assert held_units >= sum(one.statuses.get(overload.HELD, 0) for one in points)


async def test_the_curve_is_drawn(field: Field, tmp_path: Path) -> None:
    point = overload.Point(1, 100, 100, 5, 90, 0, 0, 1.5, 20, 15, 1, 0.3, {})
    of = {times: [point._replace(times=times, offered=100 * times)] for times in overload.TIMES}
    png, svg = draw(of, [100], 5_000, tmp_path / "backend-overload")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in svg.read_text(encoding="utf-8")
    found = overload.Found([[one for (one,) in of.values()]], [100], 5_000)
    assert is_told(overload.section(found, [png, svg]))
    assert not [*field.pictures.parent.iterdir()]  # only where it is told to


async def test_slow_disks_are_survived_or_left_out_aloud(field: Field) -> None:
    said = await fsync.measure(field, fsync.Effort(1, 1, (2,)))
    assert is_told(said)
    if said.raw:
        assert [row[0] for row in said.rows] == [fsync.UNTOUCHED, fsync.WATCHED, fsync.slow(2)]
    else:  # no strace, or no right to use it
        assert "left out" in said.notes[0]


async def test_holds_are_counted_without_and_with_who_takes_the_money(field: Field) -> None:
    said = await held.measure(field, held.Effort(1, 1, (OFF,), 0.0))
    assert is_told(said)
    assert [row[0] for row in said.rows] == [held.WITHOUT, held.WITH]
    books = await field.shop.books(held.SKU)
    told = sum(one["answers"] - one["refusals"] for cell in said.raw["cells"] for one in cell["rounds"])
    assert PLENTY - books.available >= told


async def test_what_is_accepted_is_decided_afterwards(field: Field) -> None:
    effort = accept.Effort(1, 1, 0, (OFF,))
    seen = await accept.against(field, effort, [])
    assert [(cell.what, cell.server) for cell in seen] == [
        (accept.CONSTANT, EDGE.name),
        (accept.ACCEPTED, EDGE.name),
    ]
    said = accept.section(seen, effort)
    assert is_told(said)
    assert [bar.wanted.rpartition(" at ")[0] for bar in said.bars] == [
        "accepted per core, auth off: times a constant",
        "accepted, auth off: p99 of p50",
    ]
    held_units = sum([(await field.shop.books(sku)).held for sku in accept.SKUS])
    (accepted,) = seen[Cell(accept.ACCEPTED, OFF, EDGE.name)]
    assert held_units >= accepted.answers - accepted.refusals > 0


async def test_what_is_queued_is_drained(field: Field) -> None:
    said = await drain.measure(field, drain.Effort(1, 200))
    assert is_told(said)
    assert [row[0] for row in said.rows] == list(drain.ITEMS)
    assert all(turn["attempts"] > 0 < turn["seconds"] for turns in said.raw["turns"].values() for turn in turns)


async def test_what_comes_in_an_open_loop_is_decided(field: Field) -> None:
    said = await steady.measure(field, steady.Effort(1, 0.5, 1))
    assert is_told(said)
    assert all(point["rate"] > 0 for points in said.raw["rounds"] for point in points)


async def test_a_verdict_is_followed_to_its_buyer(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "aiohttp", SimpleNamespace(ClientSession=patient_session))
    said = await telling.measure(field, telling.Effort(1, 5))
    assert is_told(said)
    (found,) = said.raw["rounds"]
    assert len(found["told_ms"]) == 5
    assert all(0 < told < whole for told, whole in zip(found["told_ms"], found["whole_ms"], strict=True))
    assert (await field.shop.books(telling.SKU)).held == 5


async def test_an_edge_is_weighed_alone_and_with_who_waits(field: Field) -> None:
    said = await memory.measure(field, memory.Effort(1, 50, 10))
    assert is_told(said)
    (found,) = said.raw["rounds"]
    assert found[memory.STARTED] > 0
    assert {*found} == {memory.STARTED, memory.WARM, memory.POLLS, memory.STREAMS}


async def test_an_attempt_that_nobody_decides_ends_the_run(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    await field.shop.open_sale("undecided", {"undecided": PLENTY})
    async with field.queueing(OFF, field.all_cores) as edge, checkout.deciding(field, field.all_cores) as worker:
        queued, most = await drain.fill(field, edge, ["undecided"], 5)
        assert (await verdicts(edge))["queued"] <= queued <= most
        await worker.until_decided(queued, most)
        monkeypatch.setattr(checkout, "SILENT_SECONDS", 0.1)
        with pytest.raises(RuntimeError, match="attempts stay undecided"):
            await worker.until_decided(most + 1)


async def test_without_wrk_the_load_is_ours(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "has_wrk", lambda: False)
    async with running(NOTHING, OFF, field.environment, {field.core}) as server:
        attempts = Attempts([body("a", 1)], None, field.names.prefix())
        one = await load.send(server.url, attempts, 1, {load.SERVER: server.pid})
    assert one.refusals == one.answers > 0
    assert one.p50_ms <= one.p99_ms
