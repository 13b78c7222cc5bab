"""What an operator does to one purchase from the terminal, and what the commands say."""

import argparse
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from flashsale.authority.client import Authority
from flashsale.operate import purchase
from flashsale.operate.context import Context, OperationError
from tests.contract import test_payments as shops
from tests.databases import Database

KEY = "the-key-of-an-operator"


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url)
    yield connection
    await connection.close()


class Desk:
    """An operator's commands about ana's purchase, and what they print."""

    def __init__(self, database: Database, shop: shops.PayingShop, capsys: pytest.CaptureFixture[str]) -> None:
        self.shop = shop
        self.id = str(shop.id("ana", "k"))
        self._urls = database.operator_url, database.auditor_url
        self._capsys = capsys

    async def __call__(self, action: str, *words: str) -> Any:
        parser = argparse.ArgumentParser()
        purchase.options(parser)
        context = Context(*self._urls, redis="", rabbitmq="", gateways={}, json=True)
        await purchase.run(parser.parse_args([action, self.id, *words]), context)
        return json.loads(self._capsys.readouterr().out)

    async def live(self, *steps: str) -> None:
        for step in steps:
            await shops.live(self.shop, step)


@pytest.fixture
async def desk(
    database: Database, authority: Authority, owner: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> Desk:
    return Desk(database, await shops.opened(authority, owner), capsys)


async def test_a_refund_and_a_restock_from_the_terminal(desk: Desk) -> None:
    await desk.live("pay", "authorized", "captured")
    for _ in range(2):  # the first answer was lost
        told = await desk("refund", "--reason", "a scratch", "--operator", "ana", "--key", KEY)
        assert (told["state"], told["key"]) == ("PAID", KEY)
        assert told["payments"][0]["state"] == "REFUNDING"
    with pytest.raises(OperationError, match="being refunded already"):
        await desk("refund", "--reason", "another scratch")
    with pytest.raises(OperationError, match="cannot restock"):
        await desk("restock", "--reason", "too early")
    desk.shop.model.refund(desk.shop._own("ana"), "k")
    await desk.live("refunded")
    assert (await desk("restock", "--reason", "it came back"))["state"] == "RESTOCKED"
    shown = await desk("show")
    assert [step["state"] for step in shown["history"]][-3:] == ["PAID", "REFUNDED", "RESTOCKED"]
    assert [move["kind"] for move in shown["movements"]] == ["hold", "return"]
    assert [(deed["action"], deed["reason"]) for deed in shown["operations"]] == [
        ("purchase.refund", "a scratch"),
        ("purchase.restock", "it came back"),
    ]


async def test_a_hold_is_given_up_for_its_buyer(desk: Desk) -> None:
    assert (await desk("cancel", "--reason", "she called"))["state"] == "CANCELLED"
    with pytest.raises(OperationError, match="cannot cancel"):
        await desk("cancel", "--reason", "she called again")


async def test_a_key_is_of_one_deed(desk: Desk) -> None:
    await desk("cancel", "--reason", "she called", "--key", KEY)
    with pytest.raises(OperationError, match="was used for"):
        await desk("restock", "--reason", "why not", "--key", KEY)


async def test_what_there_is_nothing_of_is_said(desk: Desk) -> None:
    desk.id = str(uuid.uuid4())
    for action, words in (("show", ()), ("refund", ("--reason", "x")), ("cancel", ("--reason", "x"))):
        with pytest.raises(OperationError, match=r"no purchase|unknown"):
            await desk(action, *words)
    desk.id = "no id at all"
    with pytest.raises(SystemExit):
        await desk("show")
