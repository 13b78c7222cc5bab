"""The part of the balancer's benchmark that has a real backend: everybody is told what there is to tell, and links are links."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from benchmarks.lb import link
from benchmarks.lb.field import Field
from flashsale.settings import REPOSITORY
from tests.databases import Patient, given
from tests.queues import drop_queues
from tests.servers import JWT_SECRET
from tests.stages import staged

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture
async def field(template: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Field]:
    rabbitmq = {"FLASH_RABBITMQ_URL": given("FLASH_TEST_RABBITMQ_URL")}
    await drop_queues()  # what an earlier test left is nobody's here
    async with staged(template, redis_url, servers=0, settings=rabbitmq) as stage:
        backend = psutil.Process(await stage.owner.fetchval("SELECT pg_backend_pid()"))
        yield Field(
            environment={
                **rabbitmq,
                "FLASH_POSTGRES_URL": stage.database.app_url,
                "FLASH_REDIS_URL": redis_url,
                "FLASH_JWT_SECRET": JWT_SECRET,
                "PATH": os.environ["PATH"],
                "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}",
            },
            # on this machine, that is
            processes={"postgres": backend.ppid()} if backend.name() == "postgres" else {},
            core=max(os.sched_getaffinity(0)),
            folder=tmp_path,
            home=tmp_path,
            pictures=tmp_path / "lb",
            say=print,
        )


async def test_attempts_go_over_links_where_they_should(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.backend.shop.Authority", Patient)
    said = await link.measure(field, link.Effort(1, 1, 0, (8,), (2,)))
    assert {len(row) for row in said.rows} == {len(said.header)}
    assert {cell["what"] for cell in said.raw["cells"]} >= {
        f"{link.SOLD}, 8 connections",
        f"{link.MIXED}, 8 connections",
    }
    assert all(one["answers"] > 0 == one["broken"] for cell in said.raw["cells"] for one in cell["rounds"])
    assert {cell["balancer"] for cell in said.raw["on_links"] if any(cell["shares"])} == {link.LINKS.name}
