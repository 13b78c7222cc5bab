"""The part of the backend's benchmark that needs no service: every worker starts, and says to every attempt what it should."""

import os
from pathlib import Path
from typing import cast

import pytest

from benchmarks.backend import edges
from benchmarks.backend.attempts import Names
from benchmarks.backend.field import Field
from benchmarks.backend.shop import Shop
from flashsale.settings import REPOSITORY
from tests.servers import JWT_SECRET


@pytest.mark.slow
async def test_every_edge_says_what_it_should(tmp_path: Path) -> None:
    field = Field(
        environment={
            "FLASH_JWT_SECRET": JWT_SECRET,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}",
        },
        processes={},
        core=max(os.sched_getaffinity(0)),
        folder=tmp_path,
        home=tmp_path,
        pictures=tmp_path / "backend",
        shop=cast("Shop", None),
        names=Names("edges"),
        say=print,
    )
    section = await edges.measure(field, edges.QUICK)
    assert [row[2] for row in section.rows] == [one.name for one in edges.CONTESTANTS]
    assert {len(row) for row in section.rows} == {len(section.header)}
