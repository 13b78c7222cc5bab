# restore and drill as a person meets them: a launcher, private stores, nothing of the test run's but Redis and RabbitMQ.
from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from flashsale.authority.client import Authority
from flashsale.settings import Settings
from flashsale.stack import backup, drill
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.lifecycle import UP
from flashsale.stack.state import Instance
from tests.contract.test_events import Scene
from tests.databases import Database, given
from tests.queues import empty_all


@pytest.fixture
def home() -> Iterator[Path]:
    # Not pytest's own directory, which is closed to the user PostgreSQL runs as.
    directory = Path(tempfile.mkdtemp(prefix="flash-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings.load({"FLASH_HOME": str(home)})


@pytest.fixture
async def file(authority: Authority, database: Database, tmp_path: Path) -> Path:
    owner = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    scene = Scene(authority, owner)
    await scene.open()
    await scene.buy("k")
    await owner.close()
    backup.dump_to(database.auditor_url, tmp_path / "dump")
    return tmp_path / "dump"


def quiet(_: str) -> None:
    pass


async def test_a_backup_becomes_a_shop_and_replaces_one_only_when_told_to(
    settings: Settings, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await empty_all()
    beside = replace(settings, redis_url=given("FLASH_TEST_REDIS_URL"), rabbitmq_url=given("FLASH_TEST_RABBITMQ_URL"))
    assert await backup.restore(beside, file, quiet, replaces=False, as_json=True) is Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["sales"], told["audit"]["purchases"], told["audit"]["gates"]) == (1, 1, 1)
    with pytest.raises(StackError, match="1 sales are here already"):
        await backup.restore(beside, file, quiet, replaces=False, as_json=True)
    assert await backup.restore(beside, file, quiet, replaces=True, as_json=True) is Exit.OK


async def test_a_restore_is_refused_while_the_shop_runs(settings: Settings, file: Path) -> None:
    with Instance(settings.home, UP).locked(), pytest.raises(StackError, match="flash down"):
        await backup.restore(settings, file, quiet, replaces=True, as_json=True)


def test_a_backup_needs_a_shop_that_runs(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(StackError, match="flash up"):
        backup.backup(settings, tmp_path / "dump", as_json=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_redis_and_rabbitmq_can_be_lost(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    code = await drill.run(settings, quiet, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert code is Exit.OK, told
    assert told["ok"]
    assert len(told["checks"]) == 5
