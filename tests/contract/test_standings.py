"""What became of several attempts, of PostgreSQL itself, in one statement: to each what is its own."""

import asyncio
import uuid

import asyncpg
import pytest

from flashsale.authority import green as green_authority
from flashsale.authority.client import Attempt, Authority
from flashsale.authority.green import GreenAuthority
from flashsale.authority.standing import Standing
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import Cart, Line, purchase_id
from tests.contract.test_events import BUYER, Scene
from tests.databases import Database
from tests.patience import PATIENCE_SECONDS

CART = Cart((Line("a", 1),))


def green(url: str, asked: list[tuple[uuid.UUID, uuid.UUID, str]]) -> list[Standing]:
    # gevent's loop is a thread's own; the wait for PostgreSQL stops this one's, which nobody shares
    import gevent  # noqa: PLC0415 - nothing of it in the thread of the tests

    authority = GreenAuthority(url, 1)
    try:
        asking = [gevent.spawn(authority.read_standing, *one) for one in asked]
        return [one.get() for one in asking]
    finally:
        authority.close()


async def test_each_hears_of_its_own_attempt_and_of_nobody_else_s(
    authority: Authority, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(green_authority, "CALL_SECONDS", PATIENCE_SECONDS)
    owner = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    await Scene(authority, owner).open()
    held, refused, unknown = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    mine, none = purchase_id(BUYER, "k"), purchase_id(BUYER, "l")
    await authority.reserve_batch([Attempt(held, mine, BUYER, "k", CART)])
    await authority.reserve_batch([Attempt(refused, none, BUYER, "l", Cart((Line("no-such", 1),)))])
    asked = [
        (held, mine, BUYER),
        (unknown, none, BUYER),  # not decided
        (refused, none, BUYER),
        (held, none, BUYER),  # another purchase's attempt
        (unknown, mine, BUYER),  # held by another attempt of its key
        (held, mine, "somebody"),
    ]
    together = await asyncio.to_thread(green, database.app_url, asked)
    assert [(standing.verdict, standing.purchase and standing.purchase.id) for standing in together] == [
        ("held", mine),
        (None, None),
        ("unknown_sku", None),
        (None, None),
        (None, mine),
        ("held", None),
    ]
    assert together[0].answer(CART.fingerprint) is Verdict.HELD
    assert together == [await authority.read_standing(*one) for one in asked]
    await owner.close()
