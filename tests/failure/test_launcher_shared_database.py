# One PostgreSQL given to two instances: they do not lock each other out, and they do not fight over the gates.
from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import asyncpg
import pytest

from flashsale.authority import claim
from flashsale.authority.claim import CLASS, Claim, ClaimRefused
from flashsale.authority.client import AuthorityUnavailable
from flashsale.settings import Settings
from flashsale.stack.exits import StackError
from flashsale.stack.running import Stack, running_stack
from flashsale.upkeep.claim import REFUSED, ClaimKeeper
from tests.databases import Database
from tests.patience import PATIENCE_SECONDS
from tests.servers import Process

ROUNDS = 20
CLAIMS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'flashsale claim' AND datname = current_database()"


@pytest.fixture(autouse=True)
def patient_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are taken here, and not by a process: whoever stands at the door waits until it opens, and is then told why not."""
    for bound in ("CONNECT_SECONDS", "CALL_SECONDS"):
        monkeypatch.setattr(claim, bound, PATIENCE_SECONDS)
    monkeypatch.setitem(claim._SETTINGS, "lock_timeout", f"{PATIENCE_SECONDS:.0f}s")


@pytest.fixture
def home() -> Iterator[Path]:
    # Not pytest's own directory, which is closed to the user PostgreSQL runs as.
    directory = Path(tempfile.mkdtemp(prefix="flash-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


def shop(home: Path, name: str, **given: str) -> AbstractAsyncContextManager[Stack]:
    settings = Settings.load({"FLASH_HOME": str(home / name), **given})
    return running_stack(settings, instance="up", services=(), roles=("upkeep",), say=lambda _: None)


async def test_a_second_instance_is_refused_unless_it_shares_the_redis_and_never_locks_the_first_out(
    home: Path,
) -> None:
    settings = Settings.load({"FLASH_HOME": str(home / "stores")})
    stores = running_stack(settings, instance="up", services=("postgres", "redis"), roles=(), say=lambda _: None)
    async with stores as store:
        given = {"FLASH_POSTGRES_URL": store.urls.postgres_owner}
        async with shop(home, "first", **given) as first:
            with pytest.raises(StackError, match="another instance keeps this database's gates") as caught:
                async with shop(home, "second", **given):
                    pass
            assert "FLASH_REDIS_URL" in str(caught.value)
            (upkeep,) = [process for process in first.processes if process.role == "upkeep"]
            assert (upkeep.state, upkeep.restarts) == ("ready", 0)
            # The second one has migrated, and with that set the passwords.
            for url in (first.urls.postgres_app, first.urls.postgres_auditor):
                await (await asyncpg.connect(url)).close()
        given["FLASH_REDIS_URL"] = store.urls.redis
        async with shop(home, "first", **given) as first, shop(home, "second", **given) as second:
            assert {process.restarts for stack in (first, second) for process in stack.processes} == {0}


async def test_of_two_that_start_together_one_is_let_in(database: Database) -> None:
    for _ in range(ROUNDS):
        taken = await asyncio.gather(
            *(Claim.take(database.app_url, f"redis://{name}:6379/0") for name in "ab"), return_exceptions=True
        )
        claims = [each for each in taken if isinstance(each, Claim)]
        assert len(claims) == 1
        assert any(isinstance(refusal, ClaimRefused) for refusal in taken)
        claims[0].close()
        await _until_nobody_claims(database)


async def test_a_lost_claim_is_taken_again_or_refused(database: Database) -> None:
    keeper = ClaimKeeper(database.app_url, "redis://a:6379/0")
    await keeper.round()
    await _end_claims(database)
    with pytest.raises(AuthorityUnavailable):
        await keeper.round()
    await keeper.round()
    await keeper.round()
    await _end_claims(database)
    other = await Claim.take(database.app_url, "redis://b:6379/0")
    with pytest.raises(AuthorityUnavailable):
        await keeper.round()
    with pytest.raises(ClaimRefused):
        await keeper.round()
    other.close()


async def test_upkeep_lives_through_a_lost_claim_and_ends_with_one_line_when_it_is_anothers(
    database: Database, redis_url: str
) -> None:
    upkeep = Process("upkeep", {"FLASH_POSTGRES_URL": database.app_url, "FLASH_REDIS_URL": redis_url})
    await upkeep.start()
    assert upkeep.child is not None
    owner = await asyncpg.connect(database.owner_url)
    try:
        (before,) = await owner.fetch(CLAIMS)
        await _end_claims(database)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await owner.fetch(CLAIMS) in ([], [before]):
                await asyncio.sleep(0.02)
        assert upkeep.child.returncode is None
        # Behind the closed door the claim cannot be taken again before it is another's.
        await owner.execute(f"SELECT pg_advisory_lock({CLASS})")
        await _end_claims(database)
        await owner.execute(f"SELECT pg_advisory_lock_shared({CLASS}, 1)")
        await owner.execute(f"SELECT pg_advisory_unlock({CLASS})")
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await upkeep.child.wait() == 1
    finally:
        await owner.close()
        if upkeep.child.returncode is None:
            upkeep.child.kill()
    logged = upkeep.log.read_text()
    upkeep.log.unlink()
    assert logged.count(REFUSED) == 1
    assert "Traceback" not in logged


async def _end_claims(database: Database) -> None:
    owner = await asyncpg.connect(database.owner_url)
    await owner.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM ({CLAIMS}) c")
    await owner.close()


async def _until_nobody_claims(database: Database) -> None:
    owner = await asyncpg.connect(database.owner_url)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await owner.fetch(CLAIMS):
            await asyncio.sleep(0.005)
    await owner.close()
