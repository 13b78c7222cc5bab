"""A backup holds all that PostgreSQL knows and no password, and comes back whole or not at all."""

import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from flashsale.authority.client import Authority
from flashsale.proof.invariants import RULES
from flashsale.proof.stores import read_books, reading
from flashsale.stack import backup
from flashsale.stack.exits import StackError
from tests.contract.test_events import Scene
from tests.databases import PASSWORDS, Database, drop_database, execute, make_database, patient

CONTINUOUS = [rule for rule in RULES if not rule.at_rest]  # events may still wait to be told

LEASE = timedelta(seconds=10)
NAMES = "SELECT tablename FROM pg_tables WHERE schemaname = 'flash' ORDER BY 1"


@pytest.fixture
async def other(template: str) -> AsyncIterator[Database]:
    made = await make_database(template)
    yield made
    await drop_database(made)


async def contents(url: str) -> dict[str, list[str]]:
    connection = await asyncpg.connect(url)
    names = [row["tablename"] for row in await connection.fetch(NAMES)]
    found = {
        name: [row["text"] for row in await connection.fetch(f"SELECT t::text AS text FROM flash.{name} t ORDER BY 1")]
        for name in names
    }
    await connection.close()
    return found


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.fixture
async def played(authority: Authority, database: Database) -> Database:
    owner = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    await Scene(authority, owner).play_everything()
    await owner.close()
    return database


async def test_what_comes_back_is_what_was_written(played: Database, other: Database, tmp_path: Path) -> None:
    file = tmp_path / "shop.dump"
    backup.dump_to(played.auditor_url, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "it names buyers"
    assert names(tmp_path) == ["shop.dump"]
    script = tmp_path / "restore.sql"
    backup.extract(file, script)
    assert not [word for word in PASSWORDS.values() if word in script.read_text("utf-8")]
    backup.load(other.owner_url, script)
    await execute(
        other.owner_url, *(f"UPDATE flash.{name} SET epoch = 1" for name in ("sale", "stock"))
    )  # another test's
    assert await contents(other.owner_url) == await contents(played.owner_url)
    async with reading(other.auditor_url) as connection:  # the roles may do what they could
        assert not [tally for tally in (await read_books(connection, None, CONTINUOUS)).tallies if tally.number]
    again = await patient(other, 1)
    assert await again.lease_outbox(1, LEASE) == []
    await again.restock("a", 1)
    (event,) = await again.lease_outbox(9, LEASE)
    assert event.topic == "stock.changed"
    await again.close()
    with pytest.raises(StackError, match="overwrites nothing"):
        backup.dump_to(played.auditor_url, file)


async def test_a_gate_made_after_the_backup_is_not_believed(
    authority: Authority, database: Database, other: Database, tmp_path: Path
) -> None:
    owner = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    await Scene(authority, owner).open()
    # another that is over and may be prolonged, and one that has ended
    for sale, state, hours in (("t", "OPEN", 2), ("u", "ENDED", 0)):
        await owner.execute(
            "SELECT create_sale($1, 'm', 'x', now() - interval '1 day', now() - $3::interval, 1, 60, 'EUR', $2)",
            sale,
            state,
            timedelta(hours=hours),
        )
        await authority.add_item(sale, f"of-{sale}", "x", 1, 1)
    await owner.close()
    backup.dump_to(database.auditor_url, tmp_path / "dump")
    backup.extract(tmp_path / "dump", tmp_path / "sql")
    later = {sale: [(await authority.raise_epoch(sale, 0)).epoch for _ in range(3)] for sale in "stu"}
    backup.load(other.owner_url, tmp_path / "sql")
    restored = await patient(other, 1)
    sales = {sale.sale: sale.epoch for sale in await restored.live_sales()}
    await restored.close()
    assert sales.keys() == later.keys()
    assert all(epoch > max(later[sale]) for sale, epoch in sales.items())


async def test_a_restore_that_fails_leaves_everything_as_it_was(played: Database, tmp_path: Path) -> None:
    backup.dump_to(played.auditor_url, tmp_path / "dump")
    script = tmp_path / "sql"
    backup.extract(tmp_path / "dump", script)
    with script.open("ab") as text:
        text.write(b"SELECT 1 / 0;")
    later = await asyncpg.connect(played.owner_url)
    await later.execute("UPDATE flash.item SET name = 'Newer than the backup'")
    await later.close()
    before = await contents(played.owner_url)
    with pytest.raises(StackError, match="division by zero"):
        backup.load(played.owner_url, script)
    assert await contents(played.owner_url) == before


async def test_half_a_backup_is_none(played: Database, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    backup.dump_to(played.auditor_url, whole)
    for length in (0, 100, whole.stat().st_size // 2, whole.stat().st_size - 100):
        half.write_bytes(whole.read_bytes()[:length])
        with pytest.raises(StackError, match="is no backup"):
            backup.extract(half, tmp_path / "sql")
    with pytest.raises(StackError, match="is no backup"):
        backup.extract(tmp_path / "nowhere", tmp_path / "sql")


async def test_a_backup_that_cannot_be_made_leaves_no_file(database: Database, tmp_path: Path) -> None:
    wrong = database.auditor_url.replace("flash_auditor", "nobody")
    with pytest.raises(StackError, match="pg_dump failed") as caught:
        backup.dump_to(wrong, tmp_path / "dump")
    assert PASSWORDS["flash_auditor"] not in str(caught.value)
    with pytest.raises(StackError, match="cannot be written"):
        backup.dump_to(wrong, tmp_path / "nowhere" / "dump")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("postgresql://ana:s%40cret@127.0.0.1:1/shop", "postgresql://ana@127.0.0.1:1/shop"),
        ("postgresql://127.0.0.1:1/shop?user=ana&password=s%40cret&sslmode=disable", "postgresql://127.0.0.1:1/shop?user=ana&sslmode=disable"),
    ],
)  # fmt: skip
def test_no_password_is_on_a_command_line(url: str, public: str, tmp_path: Path) -> None:
    with (tmp_path / "told").open("wb") as output:
        backup._run(["/bin/sh", "-c", 'echo "$0"; echo "$PGPASSWORD"'], url, stdout=output.fileno())
    assert (tmp_path / "told").read_text("ascii").split() == [f"--dbname={public}", "s@cret"]
