"""Every part of the stream's benchmark on real services, small: nobody is left behind, and nothing is said of how fast."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from benchmarks.backend.attempts import Names
from benchmarks.backend.field import Field
from benchmarks.backend.report import Section
from benchmarks.backend.shop import Shop
from benchmarks.sse import beside, contestants, fan, hop, long, turn
from benchmarks.sse.contestants import ASYNCIO, GEVENT, NCHAN
from flashsale.settings import REPOSITORY
from tests.databases import Patient, given
from tests.queues import drop_queues
from tests.servers import JWT_SECRET
from tests.stages import staged

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

VIEWERS = 60
KEPT_BY_AIOHTTP_KIB = 13.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def field(template: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Field]:
    rabbitmq = {"FLASH_RABBITMQ_URL": given("FLASH_TEST_RABBITMQ_URL")}
    await drop_queues()  # what an earlier test left is nobody's here
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
                processes={},
                core=max(os.sched_getaffinity(0)),
                folder=tmp_path_factory.mktemp("files"),
                home=tmp_path_factory.mktemp("home"),
                pictures=tmp_path_factory.mktemp("pictures") / "sse",
                shop=shop,
                names=Names("contract"),
                say=print,
            )
        finally:
            await shop.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STARTS_SECONDS", "REST_SECONDS", "WARM_SECONDS"):
        monkeypatch.setattr(turn, name, 0.1)
    monkeypatch.setattr(beside, "RELAYED_SECONDS", 0.1)
    monkeypatch.setattr(contestants, "Authority", Patient)


def is_told(section: Section) -> bool:
    return bool(section.rows) and {len(row) for row in section.rows} == {len(section.header)}


async def test_everybody_tells_all_viewers(field: Field) -> None:
    said = await fan.measure(field, fan.Effort(1, 0.5, (20, 300), (10,)))
    everybody, left_out = contestants.find(field)
    assert is_told(said)
    assert [row[2] for row in said.rows] == [one.name for one in everybody] * 2
    assert {ASYNCIO.name, GEVENT.name} <= {*said.raw["rounds"]}
    assert (NCHAN in said.raw["rounds"]) is not bool(left_out)
    for name, (one,) in said.raw["rounds"].items():
        assert [load["viewers"] for load in one["turns"]] == [20, 300]
        assert all(0 < load["told"] <= 1 for load in one["turns"])
        assert all(load["told"] == 1 for load in one["turns"] if name == NCHAN)
    assert said.raw["rounds"][ASYNCIO.name][0]["kib"][0] < KEPT_BY_AIOHTTP_KIB
    png, svg = map(Path, said.raw["pictures"])
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in svg.read_text(encoding="utf-8")


async def test_memory_is_looked_at_while_they_stay(field: Field) -> None:
    said = await long.measure(field, long.Effort(2.0, VIEWERS, 0.1))
    assert is_told(said)
    assert said.raw["viewers"] == VIEWERS
    assert len(said.raw["mib"]) > long.FIFTHS
    assert all(mib > 0 for mib in said.raw["mib"])


async def test_a_hop_loses_nothing(field: Field) -> None:
    said = await hop.measure(field, hop.Effort(1, 0.5, VIEWERS, 5))
    assert is_told(said)
    assert [row[0] for row in said.rows][:2] == [hop.DIRECT, "ours"]


async def test_purchases_are_held_beside_viewers(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        beside, "GIVES_WAY", 0
    )  # beside other tests it would give way for good, and hear nothing in time
    said = await beside.measure(field, beside.Effort(1, 3.0, VIEWERS, 30))
    assert is_told(said)
    assert [row[0] for row in said.rows] == [place.removeprefix("ours: ") for place in beside.PLACES]
    for place, (one,) in said.raw["turns"].items():
        assert {*one["bought"]["statuses"]} <= {201, 503}
        assert (one["deliveries"] > 0) is (place != beside.NOBODY)
