"""Shoppers against a small shop that keeps the contract's model and misbehaves on purpose."""

import asyncio
import gzip
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load import shoppers as shoppers_module
from benchmarks.load.arrivals import Habit, Shopper, crowd
from benchmarks.load.connections import Connections, NoAnswerError, Target, parse_targets
from benchmarks.load.shoppers import Crowd
from benchmarks.load.tally import Tally
from benchmarks.load.told import Told
from flashsale.contract import wire
from flashsale.contract.lifecycle import State
from flashsale.contract.model import Attempt, Sale, Shop
from flashsale.contract.verdict import ANSWERS, Verdict

SKU = "shoe"
REQUEST = re.compile(rb"(GET|POST) (\S+) HTTP/1.1\r\n(.*?)\r\n\r\n", re.DOTALL)

Trouble = Callable[["StubShop", int, bytes], bytes | None]


class StubShop:
    """The model behind a socket. ``trouble(shop, number, head)`` may answer a request instead; b"" hangs up.

    With ``queue_seconds`` every attempt is queued for so long. A payment is settled when it is looked at: declined while
    ``declines`` are left.
    """

    def __init__(
        self,
        units: int,
        *,
        hold_seconds: float = 60.0,
        trouble: Trouble | None = None,
        queue_seconds: float | None = None,
        declines: int = 0,
    ) -> None:
        self.shop = Shop()
        self.shop.add_sale("sale", Sale(hold_seconds=hold_seconds), {SKU: units})
        self.trouble = trouble
        self.queue_seconds = queue_seconds
        self.queued: dict[str, tuple[float, str, bytes]] = {}
        self.declines = declines
        self.requests = 0
        self.heads: list[bytes] = []
        self.port = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["StubShop"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"Content-Length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                self.requests += 1
                self.heads.append(head)
                reply = self.trouble(self, self.requests, head) if self.trouble else None
                if reply is None:
                    reply = self.answer(head, body)
                if not reply:
                    break
                writer.write(reply)
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    def answer(self, head: bytes, body: bytes) -> bytes:
        matched = REQUEST.match(head)
        assert matched is not None
        path, buyer = matched[2].decode(), _field(head, "Buyer-Id")
        self.shop.expire(time.time())
        if path == wire.PURCHASES_PATH:
            return self._buy_or_queue(buyer, _field(head, "Idempotency-Key"), body)
        if receipt := _field(head, "Receipt"):
            due, key, body = self.queued[receipt]
            if time.monotonic() < due:
                return http(200, wire.queued_body(wire.purchase_id(buyer, key), receipt))
            return self._buy(buyer, key, body).replace(b"HTTP/1.1 201", b"HTTP/1.1 200")
        key = next(key for who, key in self.shop.purchases if str(wire.purchase_id(who, key)) in path)
        if path.endswith("/cancel"):
            verdict = self.shop.cancel(buyer, key)
            return _problem(verdict) if verdict else self._purchase(200, buyer, key)
        if path.endswith("/pay"):
            verdict = self.shop.pay(buyer, key, _field(head, "Idempotency-Key"), time.time())
            return _problem(verdict) if verdict else self._purchase(202, buyer, key)
        self._settle(buyer, key)
        return self._purchase(200, buyer, key)

    def _settle(self, buyer: str, key: str) -> None:
        bought = self.shop.purchases[buyer, key]
        if bought.state is State.AUTHORIZING:
            for outcome in ("declined",) if self.declines else ("authorized", "captured"):
                self.shop.settle(buyer, key, len(bought.payments), outcome, time.time())
            self.declines = max(0, self.declines - 1)

    def _buy_or_queue(self, buyer: str, key: str, body: bytes) -> bytes:
        if self.queue_seconds is None:
            return self._buy(buyer, key, body)
        receipt = f"receipt-{self.requests}"
        self.queued[receipt] = (time.monotonic() + self.queue_seconds, key, body)
        return http(202, wire.queued_body(wire.purchase_id(buyer, key), receipt))

    def _buy(self, buyer: str, key: str, body: bytes) -> bytes:
        cart = wire.parse_cart(body)
        attempt = Attempt(str(self.requests), buyer, key, tuple((line.sku, line.quantity) for line in cart.lines))
        verdict = self.shop.reserve([attempt], time.time())[0].verdict
        if verdict in {Verdict.HELD, Verdict.REPLAYED}:
            if cart.pay_now is not None:
                self.shop.pay(buyer, key, key, time.time())
            return self._purchase(ANSWERS[verdict].status, buyer, key)
        return _problem(verdict)

    def _purchase(self, status: int, buyer: str, key: str) -> bytes:
        bought = self.shop.purchases[buyer, key]
        lines = tuple(wire.BoughtLine(sku, n, 100, seq) for (sku, n), seq in zip(bought.wish, bought.seqs, strict=True))
        return http(
            status,
            wire.purchase_body(
                wire.Purchase(
                    wire.purchase_id(buyer, key), bought.sale, bought.state, 1, 1,
                    datetime.fromtimestamp(bought.deadline, UTC), lines, 100, "EUR", [],
                    [{"try": n, "method": "card", "state": pay.state} for n, pay in enumerate(bought.payments, 1)],
                )
            ),
        )  # fmt: skip


def http(status: int, body: bytes, fields: str = "") -> bytes:
    return f"HTTP/1.1 {status} -\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _problem(verdict: Verdict, fields: str = "") -> bytes:
    return http(ANSWERS[verdict].status, wire.problem_body(verdict, ""), fields)


def _field(head: bytes, name: str) -> str:
    found = re.search(rf"\r\n{name}: (\S+)".encode(), head)
    return found[1].decode() if found else ""


async def send(
    stub: StubShop,
    plans: list[Shopper],
    told: Path | None = None,
    connections: int = 16,
    others: tuple[StubShop, ...] = (),
) -> dict[str, Any]:
    tally = Tally(len(plans))
    targets = [Target("127.0.0.1", each.port) for each in (stub, *others)]
    shopping, watching, following = (Connections(targets, limit) for limit in (connections, 4, 16))
    started = time.monotonic()
    with Told(told, sku=SKU, seed=1, shoppers=len(plans)) as file:
        visitors = Crowd(
            sku=SKU, buyer_limit=2, connections=shopping, watching=watching, following=following, tally=tally, told=file
        )
        await visitors.visit(plans, started)
    for pool in (shopping, watching, following):
        pool.close()
    return tally.result(time.monotonic() - started)


def one(habit: Habit, quantity: int = 1, name: str = "ana") -> Shopper:
    return Shopper(0.0, name, f"{name:-<16}key", f"{name:-<16}second", quantity, habit, 0.0)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoppers_module, "PAUSE_SECONDS_MAX", 0.02)


async def test_a_crowd_gets_exactly_the_stock_and_everybody_is_answered(tmp_path: Path) -> None:
    plans = crowd(sku=SKU, count=400, seed=3, arrival_seconds=1, buyer_limit=2)
    async with StubShop(50).listening() as stub:
        result = await send(stub, plans, tmp_path / "told.gz")
    assert result["unanswered"] == result["error"] == 0
    assert result["attempts"] == sum(result[fate] for fate in ("held", "sold_out", "over_limit"))
    assert stub.shop.available(SKU) >= 0
    lines = [json.loads(line) for line in gzip.decompress((tmp_path / "told.gz").read_bytes()).splitlines()]
    assert lines[0]["shoppers"] == lines[-1]["end"] == len(lines) - 2 == 400


async def test_a_buyer_who_wants_more_hears_over_limit() -> None:
    async with StubShop(10).listening() as stub:
        result = await send(stub, [one(Habit.WANTS_MORE)])
    assert (result["attempts"], result["held"], result["over_limit"]) == (2, 1, 1)


async def test_a_try_later_is_obeyed_and_sent_again_without_a_mark() -> None:
    def busy_once(_: StubShop, number: int, __: bytes) -> bytes | None:
        return _problem(Verdict.TRY_LATER, "Retry-After: 1\r\n") if number == 1 else None

    async with StubShop(1, trouble=busy_once).listening() as stub:
        result = await send(stub, [one(Habit.WALKS_AWAY)])
    assert (result["held"], result["try_later_answers"]) == (1, 1)
    assert result["decided_ms"]["p50"] >= 1000
    assert [_field(head, "Retry-Attempt") for head in stub.heads] == ["", ""]


@pytest.mark.usefixtures("hurried")
async def test_no_answer_is_unknown_and_the_same_key_is_sent_again_marked() -> None:
    def hangs_up_twice(_: StubShop, number: int, __: bytes) -> bytes | None:
        return b"" if number <= 2 else None

    async with StubShop(1, trouble=hangs_up_twice).listening() as stub:
        result = await send(stub, [one(Habit.WALKS_AWAY)])
    assert (result["held"], result["unknown_tries"]) == (1, {"connection reset": 2})
    assert [_field(head, "Retry-Attempt") for head in stub.heads] == ["", "1", "2"]
    assert len({_field(head, "Idempotency-Key") for head in stub.heads}) == 1


@pytest.mark.usefixtures("hurried")
async def test_a_bad_gateway_is_unknown_too() -> None:
    def bad_gateway_once(_: StubShop, number: int, __: bytes) -> bytes | None:
        return http(502, b"{}") if number == 1 else None

    async with StubShop(1, trouble=bad_gateway_once).listening() as stub:
        result = await send(stub, [one(Habit.WALKS_AWAY)])
    assert (result["held"], result["unknown_tries"], result["error"]) == (1, {"502": 1}, 0)


@pytest.mark.usefixtures("hurried")
async def test_a_server_that_never_answers_leaves_the_shopper_unanswered_after_bounded_tries() -> None:
    async with StubShop(1, trouble=lambda *_: b"").listening() as stub:
        result = await send(stub, [one(Habit.WALKS_AWAY)])
    assert result["unanswered"] == 1
    assert stub.requests == shoppers_module.TRIES_MAX


async def test_an_answer_outside_the_contract_is_an_error() -> None:
    async with StubShop(1, trouble=lambda *_: http(500, b"oops")).listening() as stub:
        result = await send(stub, [one(Habit.WALKS_AWAY)])
    assert (result["error"], result["unanswered"]) == (1, 0)


@pytest.mark.parametrize(("habit", "mark"), [(Habit.DROPS_MARKED, "1"), (Habit.DROPS_UNMARKED, "")])
async def test_a_dropped_answer_is_asked_for_again(habit: Habit, mark: str) -> None:
    async with StubShop(1).listening() as stub:
        result = await send(stub, [one(habit)])
    assert (result["held"], result["answers"]) == (1, {"replayed": 1})
    assert [_field(head, "Retry-Attempt") for head in stub.heads] == ["", mark]


async def test_an_unmarked_retry_that_hears_sold_out_looks_where_the_problem_says() -> None:
    def old_copy(_: StubShop, number: int, head: bytes) -> bytes | None:
        purchase = wire.purchase_id(_field(head, "Buyer-Id"), _field(head, "Idempotency-Key"))
        return (
            http(409, wire.problem_body(Verdict.SOLD_OUT, "", f"{wire.PURCHASES_PATH}/{purchase}"))
            if number == 2
            else None
        )

    async with StubShop(1, trouble=old_copy).listening() as stub:
        result = await send(stub, [one(Habit.DROPS_UNMARKED)])
    assert (result["held"], result["sold_out"]) == (1, 0)


@pytest.mark.usefixtures("hurried")  # or the pause that the lapse falls into may be longer than what is left to see it
async def test_cancelled_units_are_given_back_and_a_watcher_sees_the_hold_lapse() -> None:
    async with StubShop(2, hold_seconds=2).listening() as stub:
        result = await send(stub, [one(Habit.CANCELS), one(Habit.WATCHES, name="ben")])
        states = {buyer: purchase.state for (buyer, _), purchase in stub.shop.purchases.items()}
    assert (result["cancelled"], result["lapsed_while_watched"]) == (1, 1)
    assert states == {"ana": State.CANCELLED, "ben": State.EXPIRED}


def calls_in(told: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in gzip.decompress(told.read_bytes()).splitlines()]
    return [call for line in lines[1:-1] for call in line["calls"]]


async def test_what_is_queued_is_followed_with_its_receipt_until_decided(tmp_path: Path) -> None:
    async with StubShop(1, queue_seconds=0.3).listening() as stub:
        result = await send(stub, [one(Habit.WALKS_AWAY)], tmp_path / "told.gz")
    assert (result["held"], result["queued"]) == (1, 1)
    assert result["accepted_ms"]["max"] < result["decided_ms"]["max"]
    assert result["decided_ms"]["max"] >= 300
    assert {_field(head, "Receipt") for head in stub.heads[1:]} == {"receipt-1"}
    assert {_field(head, "Prefer") for head in stub.heads[1:]} == {"wait=5"}
    first, *between, last = calls_in(tmp_path / "told.gz")
    # Whoever is still queued was promised no purchase.
    assert {(call["state"], call["purchase"]) for call in [first, *between]} == {("QUEUED", None)}
    assert (last["call"], last["state"], last["lines"]) == ("follow", "HELD", [[SKU, 1]])


async def test_a_queued_wish_may_end_sold_out() -> None:
    async with StubShop(1, queue_seconds=0.05).listening() as stub:
        result = await send(stub, [one(Habit.WALKS_AWAY), one(Habit.WALKS_AWAY, name="ben")])
    assert (result["held"], result["sold_out"], result["queued"], result["everybody_was_answered"]) == (1, 1, 2, True)


async def test_a_queued_wish_that_is_never_decided_is_accepted_and_unanswered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoppers_module, "ANSWER_SECONDS_MAX", 0.3)
    async with StubShop(1, queue_seconds=60).listening() as stub:
        result = await send(stub, [one(Habit.WALKS_AWAY)])
    assert (result["unanswered"], result["everybody_was_answered"]) == (1, False)
    assert result["accepted_ms"]
    assert not result["decided_ms"]


@pytest.mark.usefixtures("hurried")
async def test_what_was_set_aside_is_sent_again_with_its_key_and_a_mark() -> None:
    def set_aside(_: StubShop, __: int, head: bytes) -> bytes | None:
        return _problem(Verdict.TRY_LATER) if b"receipt-1\r" in head else None

    async with StubShop(1, queue_seconds=0, trouble=set_aside).listening() as stub:
        result = await send(stub, [one(Habit.WALKS_AWAY)])
    bought = [head for head in stub.heads if head.startswith(b"POST")]
    assert [_field(head, "Retry-Attempt") for head in bought] == ["", "1"]
    assert len({_field(head, "Idempotency-Key") for head in bought}) == 1
    assert (result["held"], result["queued"], len(stub.heads)) == (1, 1, 2 + shoppers_module.FOLLOW_LATER_MAX + 1)


@pytest.mark.usefixtures("hurried")
async def test_whoever_follows_survives_a_server_that_hangs_up() -> None:
    def hangs_up(_: StubShop, number: int, __: bytes) -> bytes | None:
        return b"" if number in {2, 3} else None

    async with StubShop(1, queue_seconds=0, trouble=hangs_up).listening() as stub:
        result = await send(stub, [one(Habit.WALKS_AWAY)])
    assert (result["held"], stub.requests) == (1, 4)


@pytest.mark.parametrize("queue_seconds", [None, 0.05])
@pytest.mark.parametrize("habit", [Habit.PAYS, Habit.PAYS_NOW])
async def test_a_payment_is_followed_until_paid(habit: Habit, queue_seconds: float | None, tmp_path: Path) -> None:
    async with StubShop(1, queue_seconds=queue_seconds).listening() as stub:
        result = await send(stub, [one(habit)], tmp_path / "told.gz")
    assert result["payments"] == {"paid": 1, "declined": 0, "expired": 0, "error": 0, "unanswered": 0}
    # Who pays with the purchase has meant to pay since the arrival.
    assert result["paid_ms"]["max"] >= (result["decided_ms"]["max"] if habit is Habit.PAYS_NOW else 0)
    asked = [head for head in stub.heads if b"/pay " in head]
    assert len(asked) == (habit is Habit.PAYS)
    last = calls_in(tmp_path / "told.gz")[-1]
    assert (last["call"], last["state"], last["payments"]) == ("look", "PAID", ["CAPTURED"])


@pytest.mark.parametrize(("declines", "outcome", "again"), [(1, "paid", 1), (2, "paid", 2), (3, "declined", 2)])
async def test_a_declined_payment_is_tried_again_with_another_key(declines: int, outcome: str, again: int) -> None:
    async with StubShop(1, declines=declines).listening() as stub:
        result = await send(stub, [one(Habit.PAYS)])
    assert (result["payments"][outcome], result["payments_tried_again"]) == (1, again)
    assert len({_field(head, "Idempotency-Key") for head in stub.heads if b"/pay " in head}) == again + 1


async def test_a_declined_pay_now_is_tried_again() -> None:
    async with StubShop(1, declines=1).listening() as stub:
        result = await send(stub, [one(Habit.PAYS_NOW)])
    assert result["payments"]["paid"] == 1


@pytest.mark.usefixtures("hurried")
async def test_a_payment_without_an_answer_is_asked_again_with_its_key() -> None:
    def hangs_up_once(stub: StubShop, _: int, head: bytes) -> bytes | None:
        return b"" if b"/pay " in head and sum(b"/pay " in each for each in stub.heads) == 1 else None

    async with StubShop(1, trouble=hangs_up_once).listening() as stub:
        result = await send(stub, [one(Habit.PAYS)])
    keys = [_field(head, "Idempotency-Key") for head in stub.heads if b"/pay " in head]
    assert (result["payments"]["paid"], len(keys), len(set(keys))) == (1, 2, 1)


async def test_whoever_pays_too_late_sees_the_hold_lapsed() -> None:
    async with StubShop(1, hold_seconds=0.2).listening() as stub:
        result = await send(stub, [one(Habit.PAYS)._replace(thinks=0.3)])
    assert (result["payments"]["expired"], result["everybody_was_answered"]) == (1, True)


async def test_a_payment_that_never_ends_is_unanswered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoppers_module, "PAY_SECONDS_MAX", 0.3)
    stub = StubShop(1)
    monkeypatch.setattr(stub, "_settle", lambda *_: time.sleep(0.01))
    async with stub.listening():
        result = await send(stub, [one(Habit.PAYS)])
    assert (result["payments"]["unanswered"], result["unanswered"], result["everybody_was_answered"]) == (1, 0, False)


@pytest.mark.usefixtures("hurried")
async def test_shoppers_take_servers_in_turn_and_go_to_the_next_when_one_does_not_answer() -> None:
    plans = [one(Habit.WALKS_AWAY, name=f"ana{number}") for number in range(6)]
    async with StubShop(10).listening() as good, StubShop(10, trouble=lambda *_: b"").listening() as bad:
        result = await send(good, plans, others=(bad,))
    assert result["held"] == 6
    assert (good.requests, bad.requests) == (6, 3)
    assert result["unknown_tries"] == {"connection reset": 3}


async def test_an_idle_connection_makes_room_for_another_target() -> None:
    get = f"GET {wire.PURCHASES_PATH}/x HTTP/1.1\r\n\r\n".encode()
    shops = [StubShop(1, trouble=lambda *_: http(200, b"{}")) for _ in range(2)]
    async with shops[0].listening(), shops[1].listening():
        connections = Connections([Target("127.0.0.1", shop.port) for shop in shops], 1)
        for turn in range(4):
            assert (await connections.ask(get, 1.0, turn)).status == 200
            assert sum(len(idle) for idle in connections._idle) == 1
        connections.close()
    assert [shop.requests for shop in shops] == [2, 2]


async def test_a_killed_and_restarted_server_is_survived() -> None:
    stub = StubShop(1)
    async with stub.listening():
        pass
    visit = asyncio.create_task(send(stub, [one(Habit.WALKS_AWAY)]))
    await asyncio.sleep(0.5)
    async with stub.listening():
        result = await visit
    assert result["held"] == 1
    assert "connection refused" in result["unknown_tries"]
    assert _field(stub.heads[0], "Retry-Attempt") == ""


async def test_connections_are_bounded_and_waiting_counts() -> None:
    def slow(*_: object) -> None:
        time.sleep(0.02)  # one slow core serves everybody, one after the other

    plans = [one(Habit.WALKS_AWAY, name=f"ana{number}") for number in range(20)]
    async with StubShop(100, trouble=slow).listening() as stub:
        result = await send(stub, plans, connections=1)
    assert result["peak_in_flight"] == 20
    assert result["decided_ms"]["max"] >= 20 * 20


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
async def test_a_garbled_answer_is_no_answer(answer: bytes) -> None:
    async with StubShop(1, trouble=lambda *_: answer).listening() as stub:
        connections = Connections([Target("127.0.0.1", stub.port)], 1)
        with pytest.raises(NoAnswerError, match="garbled"):
            await connections.ask(b"GET / HTTP/1.1\r\nHost: sale\r\n\r\n", 1.0)


async def load(*arguments: str) -> tuple[int, str, str]:
    """``python -m benchmarks.load`` as a process of its own: exit code, stdout, stderr."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.load", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={"PYTHONPATH": "src"},
    )  # fmt: skip
    output, errors = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode(), errors.decode()


async def test_the_command_tells_the_result_on_stdout_and_progress_on_stderr(tmp_path: Path) -> None:
    async with StubShop(20, hold_seconds=5).listening() as stub:  # or who watches a hold lapse would be waited for
        code, output, errors = await load(
            "--targets", f"http://127.0.0.1:{stub.port}", "--sku", SKU, "--shoppers", "200", "--arrival-seconds", "1",
            "--told", str(tmp_path / "told.gz"), "--json",
        )  # fmt: skip
    result = json.loads(output)
    assert (code, result["shoppers"], result["unanswered"], result["error"]) == (0, 200, 0, 0)
    assert {"arrived", "held", "in_flight"} <= json.loads(errors.splitlines()[0]).keys()
    assert (tmp_path / "told.gz").exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["--targets", "ftp://x:1", "--sku", "s"], ["--targets", "http://x:1", "--sku", "s", "--shoppers", "0"]],
)
async def test_the_command_refuses_bad_usage_with_2(arguments: list[str]) -> None:
    code, _, errors = await load(*arguments)
    assert code == 2
    assert "usage:" in errors


def test_targets_are_read_or_refused_by_name() -> None:
    assert parse_targets("http://127.0.0.1:1,http://[::1]:2") == [Target("127.0.0.1", 1), Target("::1", 2)]
    with pytest.raises(ValueError, match="https://x:1"):
        parse_targets("https://x:1")
