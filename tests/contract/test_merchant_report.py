"""A merchant's report against a scene whose figures are known."""

import argparse
import asyncio
import csv
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from flashsale.authority.client import Authority
from flashsale.contract.wire import purchase_id
from flashsale.operate import merchant
from flashsale.operate.context import Context, OperationError
from tests.contract.test_events import BUYER, PRICE, Scene
from tests.contract.test_reserve_batch import until_somebody_waits
from tests.databases import Database
from tests.patience import PATIENCE_MS

MINUTE = "date_trunc('minute', now()) - interval '10 minutes'"


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    yield connection
    await connection.close()


@pytest.fixture
def context(database: Database) -> Context:
    return Context("", database.auditor_url, redis="", rabbitmq="", gateways={}, json=True)


@pytest.fixture
async def scene(authority: Authority, owner: asyncpg.Connection) -> Scene:
    scene = Scene(authority, owner)
    await scene.open(units=20)
    for key in ("paid", "paid too", "given back", "in dispute", "dispute won", "dispute lost"):
        await scene.pay(await scene.buy(key), "authorized", "captured")
    await scene.tell(purchase_id(BUYER, "given back"), "refunded")
    await scene.tell(purchase_id(BUYER, "in dispute"), "disputed")
    await scene.tell(purchase_id(BUYER, "dispute won"), "disputed", "dispute_won")
    await scene.tell(purchase_id(BUYER, "dispute lost"), "disputed", "dispute_lost")
    declined = await scene.buy("declined")
    for number in (1, 2, 3):
        await scene.pay(declined, "declined", number=number)
    await authority.cancel(await scene.buy("cancelled"), BUYER)
    await scene.lapse(await scene.buy("expired"))
    await authority.expire_due(9)
    late = await scene.buy("late")
    await scene.pay(late)
    await owner.execute("SELECT return_units(move_purchases(ARRAY[$1::uuid], 'expire', now()), 'expired', now())", late)
    await authority.change_sale("s", state="ENDED")
    await scene.tell(late, "captured", "refunded")
    assert (await decide_again(scene, "paid")).count("replayed") == 1
    return scene


async def decide_again(scene: Scene, key: str) -> list[str]:
    assert await scene.buy(key) == purchase_id(BUYER, key)
    rows = await scene.owner.fetch("SELECT verdict FROM attempt WHERE purchase_id = $1", purchase_id(BUYER, key))
    return [row["verdict"] for row in rows]


@pytest.mark.usefixtures("scene")
async def test_the_figures_are_those_of_the_scene(context: Context) -> None:
    found = await merchant.report("s", context)
    assert found["funnel"] == [
        {
            "held": 10, "paying": 8, "paid": 6, "refunded": 1, "in_dispute": 1, "charged_back": 1, "still_open": 0,
            "expired": 2, "cancelled": 1, "declined": 1,
            "abandoned_before_paying": 2, "abandoned_while_paying": 2, "abandonment_percent": 40.0,
        }
    ]  # fmt: skip
    money = {"gross_minor": 6 * PRICE, "refunds_minor": PRICE, "chargebacks_minor": PRICE, "net_minor": 4 * PRICE}
    assert found["revenue"] == [{"currency": "EUR", **money, "late_money_returned_minor": PRICE}]
    a, b = found["skus"]
    assert a == {
        "sku": "a", "name": "Ärmel", "price_minor": PRICE, "currency": "EUR", "units_total": 20, "units_available": 14,
        "units_held": 0, "units_sold": 4, "units_refunded": 1, "units_charged_back": 1, **money,
    }  # fmt: skip
    assert (b["sku"], b["units_sold"], b["gross_minor"]) == ("b", 0, 0)
    assert {row["verdict"]: row["of_this_sale"] for row in found["attempts"]} == {"held": 10, "replayed": 1}


async def test_refused_attempts_of_the_sales_time_are_told_apart(scene: Scene, context: Context) -> None:
    await scene.owner.execute(
        "INSERT INTO attempt (rid, purchase_id, verdict) SELECT gen_random_uuid(), gen_random_uuid(), 'sold_out' FROM generate_series(1, 4)"
    )
    await scene.owner.execute(
        "INSERT INTO attempt (rid, purchase_id, verdict, at) VALUES (gen_random_uuid(), gen_random_uuid(), 'sold_out', now() - interval '1 day')"
    )
    rows = {row["verdict"]: row for row in (await merchant.report("s", context))["attempts"]}
    assert (rows["sold_out"]["of_this_sale"], rows["sold_out"]["without_purchase"]) == (0, 4)


async def test_minutes_say_when_it_happened(scene: Scene, context: Context) -> None:
    # the first version of everything ten minutes earlier than all the rest
    await scene.owner.execute(f"UPDATE purchase SET history = jsonb_set(history, '{{0,at}}', to_jsonb(iso({MINUTE})))")
    first, *rest = (await merchant.report("s", context))["minutes"]
    assert (first["held"], first["paid"], first["gross_minor"]) == (10, 0, 0)
    later = {name: sum(row[name] for row in rest) for name in first if name != "minute"}
    assert later == {
        "held": 0, "paying": 10, "paid": 6, "expired": 2, "cancelled": 1, "declined": 1, "refunded": 1, "charged_back": 1,
        "gross_minor": 6 * PRICE, "refunds_minor": PRICE, "chargebacks_minor": PRICE,
    }  # fmt: skip
    assert first["minute"].endswith(":00.000Z")


async def test_another_sale_changes_nothing(scene: Scene, context: Context) -> None:
    before = await merchant.report("s", context)
    sale = (await scene.authority.read_sales("s"))[0]
    await scene.authority.create_sale(
        "t",
        merchant="n",
        name="Other",
        opens=sale.opens,
        closes=sale.closes,
        buyer_limit=99,
        hold_seconds=600,
        currency="USD",
    )
    await scene.authority.add_item("t", "c", "C", PRICE, 9)
    await scene.buy("other", "c")
    after = await merchant.report("s", context)
    assert {name: rows for name, rows in after.items() if name != "sale"} == {
        name: rows for name, rows in before.items() if name != "sale"
    }
    assert (await merchant.report("t", context))["funnel"][0]["held"] == 1


async def test_the_report_of_an_empty_sale_and_of_none(scene: Scene, context: Context) -> None:
    sale = (await scene.authority.read_sales("s"))[0]
    await scene.authority.create_sale(
        "t",
        merchant="n",
        name="Other",
        opens=sale.opens,
        closes=sale.closes,
        buyer_limit=99,
        hold_seconds=600,
        currency="USD",
    )
    found = await merchant.report("t", context)
    assert found["skus"] == found["minutes"] == []
    assert found["revenue"] == [
        {
            "currency": "USD",
            "gross_minor": 0,
            "refunds_minor": 0,
            "chargebacks_minor": 0,
            "net_minor": 0,
            "late_money_returned_minor": 0,
        }
    ]
    assert found["funnel"][0]["abandonment_percent"] is None
    with pytest.raises(OperationError, match="there is no sale nowhere"):
        await merchant.report("nowhere", context)


async def test_the_same_as_json_as_tables_and_as_files(
    scene: Scene, context: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await scene.owner.execute("UPDATE item SET name = '=HYPERLINK(1)' WHERE sku = 'a'")
    asked = argparse.Namespace(sale="s", csv=None)
    await merchant.run(asked, context)
    document: dict[str, list[dict[str, Any]]] = json.loads(capsys.readouterr().out)
    await merchant.run(asked, context._replace(json=False))
    assert "ABANDONED BEFORE PAYING" in capsys.readouterr().out
    await merchant.run(argparse.Namespace(sale="s", csv=tmp_path / "deep" / "er"), context)
    files = {row["file"]: row["rows"] for row in json.loads(capsys.readouterr().out)}
    assert files == {str(tmp_path / "deep" / "er" / f"{name}.csv"): len(rows) for name, rows in document.items()}
    rows = list(csv.DictReader((tmp_path / "deep" / "er" / "skus.csv").read_text("utf-8").splitlines()))
    assert rows[0]["name"] == "'=HYPERLINK(1)", "a spreadsheet must not run what somebody typed as a name"
    assert [row["gross_minor"] for row in rows] == [str(row["gross_minor"]) for row in document["skus"]]
    (tmp_path / "file").touch()
    with pytest.raises(OperationError, match="cannot be written"):
        await merchant.run(argparse.Namespace(sale="s", csv=tmp_path / "file"), context)


async def test_every_table_is_of_the_same_moment(
    scene: Scene, context: Context, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # between two tables somebody buys
    wait = "SELECT pg_advisory_xact_lock(7)::text, $1::text"
    funnel = merchant._TABLES["funnel"]
    monkeypatch.setattr(merchant, "_TABLES", {"funnel": funnel, "wait": wait, "again": funnel})
    monkeypatch.setattr("flashsale.operate.database.LOCK_MS", PATIENCE_MS)  # who buys may take long
    await scene.owner.execute("UPDATE sale SET state = 'OPEN'; UPDATE stock SET state = 'OPEN'")
    await scene.owner.execute("SELECT pg_advisory_lock(7)")
    other = await asyncpg.connect(database.owner_url)
    reporting = asyncio.ensure_future(merchant.report("s", context))
    await until_somebody_waits(other, "pg_advisory_xact_lock")
    await scene.buy("meanwhile")
    await scene.owner.execute("SELECT pg_advisory_unlock(7)")
    found = await reporting
    await other.close()
    assert found["funnel"] == found["again"]
    assert (await merchant.report("s", context))["funnel"] != found["funnel"]
