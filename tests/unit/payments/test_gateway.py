"""The simulated gateway's rules and its memory, without a network."""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from aiohttp import ServerDisconnectedError, web
from aiohttp.test_utils import TestClient, TestServer

from flashsale.payments.gateway import __main__ as gateway
from flashsale.payments.gateway.__main__ import Bank
from flashsale.payments.gateway.journal import TAIL_BYTES_MAX, Journal, JournalError
from flashsale.payments.gateway.notices import Notices
from flashsale.payments.gateway.rules import (
    AWAY_SECONDS,
    MOVES,
    Asked,
    Chance,
    Entry,
    Method,
    Operation,
    State,
    decide,
    later,
    parse,
)
from tests.patience import PATIENCE_SECONDS

KIND = Chance("1")
ASKED = Asked("p:1", "p", 100, "EUR")


def known(state: State) -> Entry:
    return Entry("p:1", "p", state, 100, "EUR", 0.0)


def test_every_state_has_a_row_and_every_operation_is_idempotent() -> None:
    assert set(MOVES) == {None, *State}
    for state, row in MOVES.items():
        for operation, after in row.items():
            assert MOVES[after].get(operation, after) is after, (state, operation)


@pytest.mark.parametrize("end", [State.DECLINED, State.VOIDED, State.REFUNDED, State.DISPUTE_LOST])
def test_no_money_moves_after_an_end(end: State) -> None:
    for operation in Operation:
        assert did(operation, end) is end
    assert later(known(end), Chance("7", disputes_percent=100)) is None


def did(
    operation: Operation, before: State | None, method: Method = Method.CARD, chance: Chance = KIND
) -> State | None:
    return decide(method, known(before) if before else None, operation, ASKED, chance)


def test_a_void_is_remembered_before_its_authorization() -> None:
    assert did(Operation.VOID, None) is State.VOIDED
    assert did(Operation.AUTHORIZE, State.VOIDED) is State.VOIDED
    assert did(Operation.VOID, State.CAPTURED) is State.CAPTURED
    assert did(Operation.CAPTURE, None) is None
    assert did(Operation.LOOK, None) is None


def test_each_way_to_pay_begins_in_its_own_way() -> None:
    assert {m: did(Operation.AUTHORIZE, None, m) for m in Method} == {
        Method.CARD: State.AUTHORIZED, Method.WALLET: State.CAPTURED, Method.TRANSFER: State.PENDING,
    }  # fmt: skip
    strict = Chance("7", declines_percent=100)
    assert did(Operation.AUTHORIZE, None, Method.WALLET, strict) is State.DECLINED
    assert did(Operation.AUTHORIZE, None, Method.TRANSFER, strict) is State.PENDING, "the bank has not looked yet"
    assert did(Operation.VOID, State.PENDING) is State.VOIDED
    assert did(Operation.CAPTURE, State.PENDING) is State.PENDING


def test_what_a_bank_does_by_itself() -> None:
    assert later(known(State.PENDING), KIND) is State.AUTHORIZED
    assert later(known(State.PENDING), Chance("7", declines_percent=100)) is State.DECLINED
    assert later(known(State.CAPTURED), KIND) is None
    assert later(known(State.CAPTURED), Chance("7", disputes_percent=100)) is State.DISPUTED
    verdicts = [later(known(State.DISPUTED)._replace(key=f"key{n}"), KIND) for n in range(400)]
    assert 120 < verdicts.count(State.DISPUTE_WON) < 280
    assert verdicts.count(State.DISPUTE_WON) + verdicts.count(State.DISPUTE_LOST) == 400


def test_a_key_is_of_one_purchase_and_one_amount() -> None:
    for other in (ASKED._replace(amount_minor=99), ASKED._replace(currency="USD"), ASKED._replace(purchase="q")):
        with pytest.raises(ValueError, match="another"):
            decide(Method.CARD, known(State.AUTHORIZED), Operation.CAPTURE, other, KIND)


def test_whims_are_a_seeded_share() -> None:
    keys = [f"key{number}" for number in range(1000)]
    fifth = Chance("7", *[20] * (len(Chance._fields) - 1))
    whims: dict[str, Callable[[Chance, str], bool]] = {
        "declines": Chance.declines,
        "silent": Chance.is_silent,
        "errors": lambda chance, key: chance.errs(key, State.CAPTURED),
        "away": lambda chance, key: chance.is_away(int(key[3:]) * AWAY_SECONDS),
        "repeats": lambda chance, key: chance.repeats(key, State.CAPTURED),
        "late": lambda chance, key: chance.is_late(key, State.CAPTURED),
        "disputes": Chance.is_disputed,
    }
    assert len(whims) == len(Chance._fields) - 1
    chosen = set()
    for name, has in whims.items():
        whimsical = [key for key in keys if has(fifth, key)]
        assert 150 < len(whimsical) < 250, name
        assert whimsical != [key for key in keys if has(fifth._replace(seed="8"), key)], name
        assert not any(has(KIND, key) for key in keys), name
        chosen.add(tuple(whimsical))
    assert len(chosen) == len(whims), "one whim says nothing of another"


class Clerk:
    """A gateway in this process, over a journal that outlives it; what it tells by webhook lands in ``told``."""

    def __init__(self, journal: Path, method: Method = Method.CARD, later_s: float = 0.0, **whims: int) -> None:
        self.journal = Journal.open(journal)
        self.told: list[State] = []
        chance = Chance("7", **whims)
        notices = cast("Notices", self)
        self.app = web.Application()
        Bank(method, self.journal, chance, notices, latency_s=0.0, later_s=later_s).add_to(self.app)

    def tell(self, entry: Entry) -> None:
        self.told.append(entry.state)

    async def ask(self, *operations: Operation) -> list[str | int | None]:
        """The states it answers; a status that is not 200; None for silence."""
        heard: list[str | int | None] = []
        client: TestClient[web.Request, web.Application] = TestClient(TestServer(self.app))
        async with client:
            for operation in operations:
                try:
                    async with client.post(f"/payments/{operation}", json=ASKED._asdict()) as answer:
                        heard.append((await answer.json())["state"] if answer.status == 200 else answer.status)
                except ServerDisconnectedError:
                    heard.append(None)
        return heard

    async def comes_to(self, *states: State) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while tuple(self.told) != states:
                await asyncio.sleep(0.005)
        await self.journal.close()


async def test_a_change_that_is_answered_with_an_error_was_made(tmp_path: Path) -> None:
    clerk = Clerk(tmp_path / "journal", errors_percent=100)
    heard = await clerk.ask(Operation.AUTHORIZE, Operation.AUTHORIZE, Operation.CAPTURE, Operation.CAPTURE)
    assert heard == [500, "authorized", 500, "captured"]
    await clerk.comes_to(State.AUTHORIZED, State.CAPTURED)


async def test_a_lost_answer_is_one_way_or_the_other_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "HANG_SECONDS", 0.05)
    for share in (0.0, 2.0):  # all are reset at once; all hang first
        monkeypatch.setattr(gateway, "HANGS_SHARE", share)
        clerk = Clerk(tmp_path / f"journal{share}", silent_percent=100)
        assert await clerk.ask(Operation.AUTHORIZE, Operation.AUTHORIZE) == [None, "authorized"]
        await clerk.comes_to(State.AUTHORIZED)


async def test_a_gateway_that_is_away_does_nothing(tmp_path: Path) -> None:
    clerk = Clerk(tmp_path / "journal", away_percent=100)
    assert await clerk.ask(Operation.AUTHORIZE) == [503]
    assert clerk.journal.entries == {}
    await clerk.comes_to()


async def test_a_transfer_is_confirmed_later_also_by_a_gateway_that_was_killed_meanwhile(tmp_path: Path) -> None:
    clerk = Clerk(tmp_path / "journal", Method.TRANSFER, later_s=1000.0)
    assert await clerk.ask(Operation.AUTHORIZE, Operation.AUTHORIZE, Operation.CAPTURE) == ["pending"] * 3
    await clerk.comes_to()
    back = Clerk(tmp_path / "journal", Method.TRANSFER)
    await back.comes_to(State.AUTHORIZED)
    assert back.journal.entries["p:1"].state is State.AUTHORIZED


async def test_a_transfer_that_is_voided_in_time_is_not_confirmed(tmp_path: Path) -> None:
    clerk = Clerk(tmp_path / "journal", Method.TRANSFER, later_s=3.0)
    assert await clerk.ask(Operation.AUTHORIZE, Operation.VOID) == ["pending", "voided"]
    await asyncio.sleep(3.1)  # past the moment at which it would have been
    await clerk.comes_to(State.VOIDED)


async def test_a_dispute_follows_a_capture_and_ends(tmp_path: Path) -> None:
    clerk = Clerk(tmp_path / "journal", Method.WALLET, disputes_percent=100)
    assert await clerk.ask(Operation.AUTHORIZE) == ["captured"]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(clerk.told) < 3:
            await asyncio.sleep(0.005)
    assert clerk.told[:2] == [State.CAPTURED, State.DISPUTED]
    await clerk.comes_to(State.CAPTURED, State.DISPUTED, clerk.told[2])
    assert clerk.told[2] in {State.DISPUTE_WON, State.DISPUTE_LOST}


class Listener:
    """What a shop hears of webhooks, in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.app = web.Application()
        self.app.router.add_post("/", self.hear)

    async def hear(self, request: web.Request) -> web.Response:
        self.heard.append((await request.json())["data"]["state"])
        return web.Response()

    async def hears(self, count: int, chance: Chance, *states: State) -> list[str]:
        async with TestServer(self.app) as server:
            notices = Notices(str(server.make_url("/")), "secret", chance, 0.02)
            for state in states:
                notices.tell(known(state))
            sending = asyncio.create_task(notices.run())
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while len(self.heard) < count:
                        await asyncio.sleep(0.005)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        return self.heard


async def test_webhooks_are_repeated() -> None:
    heard = await Listener().hears(2, Chance("7", repeats_percent=100), State.CAPTURED)
    assert heard == ["captured", "captured"]


async def test_webhooks_are_overtaken() -> None:
    whim = next(
        chance for n in range(100)
        if (chance := Chance(str(n), late_percent=50)).is_late("p:1", State.AUTHORIZED)
        and not chance.is_late("p:1", State.CAPTURED)
    )  # fmt: skip
    assert await Listener().hears(2, whim, State.AUTHORIZED, State.CAPTURED) == ["captured", "authorized"]


async def test_what_is_held_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashsale.payments.gateway.notices.WAITING_MAX", 2)
    notices = Notices("", "", Chance("7", late_percent=100), 1000.0)
    for _ in range(5):
        notices.tell(known(State.CAPTURED))
    assert notices.dropped == 3


@pytest.mark.parametrize(
    "broken", [[], {}, {"key": "k", "purchase": "p", "currency": "EUR", "amount_minor": True},
               {"key": "", "purchase": "p", "currency": "EUR", "amount_minor": 1},
               {"key": "k", "purchase": "p", "currency": "EUR", "amount_minor": -1},
               {"key": "k", "purchase": "p", "currency": "EUR", "amount_minor": 2**63},
               {"key": "k" * 129, "purchase": "p", "currency": "EUR", "amount_minor": 1},
               {"key": "\ud800", "purchase": "p", "currency": "EUR", "amount_minor": 1},
               {"key": "k\n", "purchase": "p", "currency": "EUR", "amount_minor": 1}],
)  # fmt: skip
def test_a_call_that_lacks_something_is_refused(broken: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(broken)


async def test_the_journal_is_read_again_and_a_torn_tail_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal"
    journal = Journal.open(path)
    journal.append(known(State.AUTHORIZED))
    journal.append(known(State.CAPTURED))
    await asyncio.gather(*(journal.synced() for _ in range(5)))
    whole = path.read_bytes()
    assert [json.loads(line)["state"] for line in whole.splitlines()] == ["authorized", "captured"]
    with pytest.raises(JournalError, match="another gateway"):
        Journal.open(path)
    await journal.close()
    path.write_bytes(whole + b'{"key": "torn')
    again = Journal.open(path)
    assert again.entries == {"p:1": known(State.CAPTURED)}
    assert path.read_bytes() == whole
    again.append(known(State.REFUNDED))
    await again.synced()
    await again.close()
    assert path.read_bytes().startswith(whole)


@pytest.mark.parametrize(
    "damage", [b"{}\n", b"not json\n", b'{"key":"k","state":"maybe"}\n', b"x" * (TAIL_BYTES_MAX + 1)]
)
async def test_a_damaged_journal_stops_the_start(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(damage)
    with pytest.raises(JournalError):
        Journal.open(path)


async def test_a_caller_who_is_cut_off_cuts_no_write_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(tmp_path / "journal")
    writing, may_end = threading.Event(), threading.Event()
    write = journal._write

    def slow(lines: bytes) -> None:
        writing.set()
        assert may_end.wait(PATIENCE_SECONDS)
        write(lines)

    monkeypatch.setattr(journal, "_write", slow)
    journal.append(known(State.AUTHORIZED))
    cut_off = asyncio.create_task(journal.synced())
    assert await asyncio.to_thread(writing.wait, PATIENCE_SECONDS)
    cut_off.cancel()
    await asyncio.gather(cut_off, return_exceptions=True)
    patient = asyncio.create_task(journal.synced())
    closing = asyncio.create_task(journal.close())
    await asyncio.sleep(0)
    done, _ = await asyncio.wait({patient, closing}, timeout=0.05)
    assert not done, "its line is not on disk yet"
    may_end.set()
    await asyncio.gather(patient, closing)
    assert (tmp_path / "journal").read_bytes().count(b"\n") == 1


async def test_nothing_is_promised_after_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(tmp_path / "journal")

    def fail(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "_write", fail)
    journal.append(known(State.AUTHORIZED))
    results = await asyncio.gather(journal.synced(), journal.synced(), return_exceptions=True)
    assert [type(result) for result in results] == [JournalError, JournalError]
    assert journal.failed.is_set()
    await journal.close()
