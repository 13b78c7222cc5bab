"""A crowd's visit to the shop: every shopper arrives at its own time and asks until it has a definite answer.

Law 1: a latency counts from the moment the shopper meant to ask, so waiting for a free connection is the shopper's wait and is
not forgotten. Law 2: 503 and 429 promised nothing, the same key is sent again after Retry-After; no answer, 502 and 504 are
*unknown*: the same key is sent again and says so (Retry-Attempt). Law 3: every try, pause and watch is bounded. Law 4: a 202 is
accepted and not decided: the shopper follows its receipt until there is a verdict. Law 5: after a try without an answer the next
server is asked, whatever kind it is.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from benchmarks.load.arrivals import Habit, Shopper
from benchmarks.load.connections import NEVER_SENT, Connections, NoAnswerError, Reply
from benchmarks.load.tally import FATES, PAYMENTS, Fate, Payment, Tally
from benchmarks.load.told import Call, Story, Told
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import (
    BUYER_HEADER,
    JSON_TYPE,
    KEY_HEADER,
    PURCHASES_PATH,
    RECEIPT_HEADER,
    RETRY_HEADER,
    purchase_id,
)
from flashsale.contract.wire import TRIES_MAX as PAY_TRIES_MAX

TRIES_MAX = (
    200  # more than fit into a shopper's patience, so that a killed balancer may take its time on a slow machine
)
ANSWER_SECONDS_MAX = 300.0  # a wish older than this is given up, whatever tries are left
# Past this a try is unknown. A healthy server answers within milliseconds; one that has no processor is still working on it, and
# asking anew would only make it more.
TRY_SECONDS = 15.0
PAUSE_SECONDS = 0.05  # before the second try after an unknown one; doubled each time
# A server that is killed and started again is found soon, and one that drowns comes up: with a second at most, 750 shoppers kept
# two fronts busy with tries for as long as they were patient.
PAUSE_SECONDS_MAX = 8.0
IN_FLIGHT_PAUSE_SECONDS = 0.2  # the buyer's other attempt is decided by then
HANG_UP_SECONDS = 0.01  # how long a shopper who drops the answer listens
WATCH_STEP_SECONDS = 10  # `Prefer: wait` of one long poll
WATCH_SECONDS_MAX = 30.0  # a longer hold is left unwatched after this, so that a crowd ends
FOLLOW_STEP_SECONDS = 5  # `Prefer: wait` while queued
FOLLOW_LATER_MAX = (
    4  # 503 heard while following: after these the key is sent again, for the attempt may have been set aside
)
PAY_STEP_SECONDS = 1  # the same while being paid: what changed before the wait began is seen after this
PAY_SECONDS_MAX = (
    240.0  # then it is given up; a payment that ran out of tries is asked about after a minute, and after two
)
METHOD = "card"
WATCH_GRACE_SECONDS = 3.0  # after the deadline the hold must be seen lapsed
YIELD_EVERY = 64  # arrivals between two turns of the loop when the crowd is behind its plan

_UNKNOWN_STATUSES = frozenset({502, 504})
_LATER_STATUSES = frozenset({429, 503})
_QUEUED = "QUEUED"
_HELD = "HELD"
_BEING_PAID = frozenset({"AUTHORIZING", "AUTHORIZED"})


class Hold(NamedTuple):
    """A purchase as its shopper heard of it; ``lapses`` on the monotonic clock."""

    purchase: str
    lapses: float
    state: str


def by_word(buyer: str) -> str:
    """The header line of a shopper who is believed (FLASH_AUTH=off)."""
    return f"{BUYER_HEADER}: {buyer}"


class Crowd:
    """All shoppers of one run."""

    def __init__(
        self,
        *,
        sku: str,
        buyer_limit: int,
        connections: Connections,
        watching: Connections,
        following: Connections,
        tally: Tally,
        told: Told,
        identify: Callable[[str], str] = by_word,
    ) -> None:
        self._sku = sku
        self._buyer_limit = buyer_limit
        self._connections = connections
        self._watching = watching
        self._following = following
        self._tally = tally
        self._told = told
        self._identify = identify
        self._dice = random.Random(sku)
        self._wall_minus_monotonic = time.time() - time.monotonic()

    async def visit(self, plans: Sequence[Shopper], started: float) -> None:
        """Let everybody come at ``started`` (monotonic) plus their arrival, and wait until the last one left."""
        async with asyncio.TaskGroup() as visits:
            for number, plan in enumerate(plans):
                intended = started + plan.arrives
                early = intended - time.monotonic()
                if early > 0 or number % YIELD_EVERY == 0:
                    await asyncio.sleep(max(0.0, early))
                self._tally.arrived += 1
                self._tally.last_arrival_s = time.monotonic() - started
                visits.create_task(self._shop(plan, intended, number))

    async def _shop(self, plan: Shopper, intended: float, turn: int) -> None:
        story = Story(plan.buyer, plan.habit.value, intended, turn=turn, who=self._identify(plan.buyer))
        hold = await self._buy(story, plan, plan.key, plan.quantity, intended)
        if hold is not None:
            match plan.habit:
                case Habit.WANTS_MORE:
                    await self._buy(story, plan, plan.second_key, self._buyer_limit, time.monotonic())
                case Habit.CANCELS:
                    await asyncio.sleep(plan.thinks)
                    await self._cancel(story, plan, hold)
                case Habit.PAYS:
                    await asyncio.sleep(plan.thinks)
                    await self._pay(story, plan, hold, time.monotonic())
                case Habit.PAYS_NOW:
                    await self._pay(story, plan, hold, intended)
                case Habit.WATCHES:
                    await self._watch(story, plan, hold)
                case _:
                    pass
        self._told.add(story)
        self._tally.left += 1

    async def _buy(self, story: Story, plan: Shopper, key: str, quantity: int, intended: float) -> Hold | None:
        self._tally.wish_begins()
        fate, hold = Fate.UNANSWERED, None
        unknown = 0
        was_queued = False
        if plan.habit in {Habit.DROPS_MARKED, Habit.DROPS_UNMARKED}:
            await self._hang_up(story, plan, key, quantity)
            unknown = 1
        says_so = plan.habit is not Habit.DROPS_UNMARKED
        for number in range(TRIES_MAX):
            if time.monotonic() > intended + ANSWER_SECONDS_MAX:
                break
            call = Call("buy", key, [(self._sku, quantity)], unknown if says_so else 0, time.monotonic())
            reply = await self._ask(story, call, _buy_request(plan, story.who, call))
            if reply is None:
                unknown += call.why not in NEVER_SENT
                await self._pause(number)
            elif reply.status in _LATER_STATUSES or call.verdict == Verdict.IN_FLIGHT:
                self._tally.try_later += 1
                await asyncio.sleep(reply.retry_after or IN_FLIGHT_PAUSE_SECONDS)
                await self._pause(number)
            else:
                if call.receipt is not None:
                    if not was_queued:
                        was_queued = True
                        self._tally.wish_is_queued(time.monotonic() - intended)
                    decided = await self._follow(story, plan, call, intended + ANSWER_SECONDS_MAX)
                    if decided is None:
                        unknown += 1
                        continue
                    call = decided
                fate, hold = self._fate(call)
                if fate is Fate.SOLD_OUT and unknown and not says_so:
                    # An unmarked retry may have met a copy older than its own win: the contract says to look.
                    hold = await self._look(story, key)
                    fate = Fate.SOLD_OUT if hold is None else Fate.HELD
                break
        self._tally.wish_ends(fate, time.monotonic() - intended, was_queued=was_queued)
        return hold

    async def _follow(self, story: Story, plan: Shopper, queued: Call, until: float) -> Call | None:
        # The call that heard the verdict of what is queued; None if there was none in time, or will be none.
        assert queued.receipt is not None
        path = f"{PURCHASES_PATH}/{purchase_id(plan.buyer, queued.key)}"
        fields = f"{RECEIPT_HEADER}: {queued.receipt}\r\nPrefer: wait={FOLLOW_STEP_SECONDS}\r\n"
        number = later = 0
        while time.monotonic() < until and later < FOLLOW_LATER_MAX:
            call = Call("follow", queued.key, queued.lines, 0, time.monotonic())
            request = _request("GET", path, story.who, fields)
            reply = await self._ask(story, call, request, self._following, FOLLOW_STEP_SECONDS + TRY_SECONDS)
            if reply is not None and reply.status not in _LATER_STATUSES and call.state != _QUEUED:
                return call
            if reply is not None and reply.status in _LATER_STATUSES:
                self._tally.try_later += 1
                later += 1
                await asyncio.sleep(reply.retry_after or 0)
            # an answer before its time was up: nothing is to be gained by asking at once
            if time.monotonic() - call.sent < FOLLOW_STEP_SECONDS:
                await self._pause(number)
            number += 1
        return None

    async def _pay(self, story: Story, plan: Shopper, hold: Hold, intended: float) -> None:
        until = time.monotonic() + PAY_SECONDS_MAX
        state, tries, troubles = hold.state, 0, 0
        outcome = Payment.UNANSWERED
        may_pay = True  # False: it was too late, so look first what became of it
        while time.monotonic() < until:
            if state not in _BEING_PAID and state != _HELD:
                outcome = PAYMENTS.get(state, Payment.ERROR)
                break
            asks = state == _HELD and may_pay
            if asks and tries == PAY_TRIES_MAX:
                outcome = Payment.ERROR  # the last decline ends the hold
                break
            call, reply = await (
                self._ask_to_pay(story, plan, hold, tries)
                if asks
                else self._see_payment(story, plan, hold, PAY_STEP_SECONDS if state in _BEING_PAID else 0)
            )
            if reply is None or reply.status in _LATER_STATUSES or (asks and call.verdict == Verdict.TOO_LATE):
                may_pay = reply is None or reply.status in _LATER_STATUSES
                await asyncio.sleep((reply.retry_after or 0) if reply is not None else 0)
                await self._pause(troubles)
                troubles += 1
            elif call.state is None:
                outcome = Payment.ERROR
                break
            else:
                tries += asks
                self._tally.payments_tried_again += asks and tries > 1
                state, may_pay = call.state, True
        self._tally.payment_ends(outcome, time.monotonic() - intended)

    async def _ask_to_pay(self, story: Story, plan: Shopper, hold: Hold, tries: int) -> tuple[Call, Reply | None]:
        call = Call("pay", plan.key, [], 0, time.monotonic(), purchase=hold.purchase)
        fields = f"{KEY_HEADER}: {plan.key}-pay{tries + 1}\r\n"
        body = json.dumps({"method": METHOD})
        request = _request("POST", f"{PURCHASES_PATH}/{hold.purchase}/pay", story.who, fields, body)
        return call, await self._ask(story, call, request)

    async def _see_payment(self, story: Story, plan: Shopper, hold: Hold, wait_s: int) -> tuple[Call, Reply | None]:
        call = Call("look", plan.key, [], 0, time.monotonic(), purchase=hold.purchase)
        fields = f"Prefer: wait={wait_s}\r\n" if wait_s else ""
        request = _request("GET", f"{PURCHASES_PATH}/{hold.purchase}", story.who, fields)
        return call, await self._ask(story, call, request, self._following, wait_s + TRY_SECONDS)

    async def _hang_up(self, story: Story, plan: Shopper, key: str, quantity: int) -> None:
        call = Call("buy", key, [(self._sku, quantity)], 0, time.monotonic(), why="hung up")
        story.calls.append(call)
        try:
            await self._connections.ask(_buy_request(plan, story.who, call), HANG_UP_SECONDS, story.turn)
        except NoAnswerError:
            story.turn += 1  # nothing was heard, as intended

    async def _cancel(self, story: Story, plan: Shopper, hold: Hold) -> None:
        for number in range(TRIES_MAX):
            call = Call("cancel", plan.key, [], 0, time.monotonic(), purchase=hold.purchase)
            request = _request("POST", f"{PURCHASES_PATH}/{hold.purchase}/cancel", story.who)
            reply = await self._ask(story, call, request)
            if reply is not None and reply.status not in _LATER_STATUSES:
                self._tally.cancelled += reply.status == 200
                return
            await self._pause(number)

    async def _watch(self, story: Story, plan: Shopper, hold: Hold) -> None:
        until = min(hold.lapses + WATCH_GRACE_SECONDS, time.monotonic() + WATCH_SECONDS_MAX)
        for number in range(TRIES_MAX):
            if time.monotonic() > until:
                break
            if self._watching.busy:
                await asyncio.sleep(max(0.0, min(hold.lapses, until) - time.monotonic()))
            call = Call("look", plan.key, [], 0, time.monotonic(), purchase=hold.purchase)
            request = _request(
                "GET", f"{PURCHASES_PATH}/{hold.purchase}", story.who, f"Prefer: wait={WATCH_STEP_SECONDS}\r\n"
            )
            reply = await self._ask(story, call, request, self._watching, WATCH_STEP_SECONDS + TRY_SECONDS)
            if reply is not None and reply.status == 200 and call.state != "HELD":
                self._tally.lapsed += call.state == "EXPIRED"
                return
            await self._pause(number)
        self._tally.watches_cut_short += 1

    async def _look(self, story: Story, key: str) -> Hold | None:
        purchase = story.calls[-1].purchase
        for number in range(TRIES_MAX if purchase else 0):
            call = Call("look", key, [], 0, time.monotonic(), purchase=purchase)
            reply = await self._ask(story, call, _request("GET", f"{PURCHASES_PATH}/{purchase}", story.who))
            if reply is not None and reply.status not in _LATER_STATUSES:
                return self._hold(call) if reply.status == 200 else None
            await self._pause(number)
        return None

    async def _ask(
        self,
        story: Story,
        call: Call,
        request: bytes,
        connections: Connections | None = None,
        within_s: float = TRY_SECONDS,
    ) -> Reply | None:
        # None: no definite answer. What was heard stands in ``call``, which joins the story either way.
        story.calls.append(call)
        try:
            reply = await (connections or self._connections).ask(request, within_s, story.turn)
        except NoAnswerError as error:
            story.turn += 1
            call.why = error.why
            self._tally.unknown[error.why] += 1
            return None
        call.answered = time.monotonic()
        call.status = reply.status
        _hear(call, reply)
        self._tally.answers[call.verdict or str(reply.status)] += 1
        if reply.status in _UNKNOWN_STATUSES:
            self._tally.unknown[str(reply.status)] += 1
            story.turn += 1
            return None
        return reply

    def _fate(self, call: Call) -> tuple[Fate, Hold | None]:
        fate = FATES.get(Verdict(call.verdict), Fate.ERROR) if call.verdict in _KNOWN_VERDICTS else Fate.ERROR
        return fate, self._hold(call) if fate is Fate.HELD else None

    def _hold(self, call: Call) -> Hold:
        assert call.purchase is not None
        assert call.deadline is not None
        assert call.state is not None
        lapses = datetime.fromisoformat(call.deadline).timestamp() - self._wall_minus_monotonic
        return Hold(call.purchase, lapses, call.state)

    async def _pause(self, number: int) -> None:
        longest = min(PAUSE_SECONDS * 2.0 ** min(number, TRIES_MAX), PAUSE_SECONDS_MAX)
        await asyncio.sleep(longest * self._dice.uniform(0.5, 1.5))


_KNOWN_VERDICTS = frozenset(verdict.value for verdict in Verdict)


def _hear(call: Call, reply: Reply) -> None:
    # An answer that is not of the contract leaves no verdict, which counts as an error.
    try:
        document: dict[str, Any] = json.loads(reply.body)
        if document.get("state") == _QUEUED:
            call.state = _QUEUED
            call.verdict = Verdict.QUEUED.value
            if reply.status == 202:
                call.receipt = document["receipt"]
        elif reply.status in {200, 201, 202}:
            call.told_lines = [(line["sku"], line["quantity"], line["seq"]) for line in document["lines"]]
            call.deadline, call.state, call.purchase = document["deadline"], document["state"], document["id"]
            call.payments = [payment["state"] for payment in document["payments"]]
            if call.call in {"buy", "follow"}:
                call.verdict = (Verdict.HELD if reply.status == 201 else Verdict.REPLAYED).value
        else:
            call.verdict = document["verdict"]
            if call.call in {"buy", "follow"} and "purchase" in document:
                call.purchase = document["purchase"].rpartition("/")[2]
    except (ValueError, KeyError, TypeError, AttributeError):
        call.why = "not of the contract"


def _buy_request(plan: Shopper, who: str, call: Call) -> bytes:
    document: dict[str, Any] = {"items": [{"sku": sku, "quantity": quantity} for sku, quantity in call.lines]}
    if plan.habit is Habit.PAYS_NOW:
        document["pay_now"] = METHOD
    body = json.dumps(document)
    mark = f"{RETRY_HEADER}: {call.mark}\r\n" if call.mark else ""
    return _request("POST", PURCHASES_PATH, who, f"{KEY_HEADER}: {call.key}\r\n{mark}", body)


def _request(method: str, path: str, who: str, fields: str = "", body: str = "") -> bytes:
    length = f"Content-Type: {JSON_TYPE}\r\nContent-Length: {len(body)}\r\n" if method == "POST" else ""
    return f"{method} {path} HTTP/1.1\r\nHost: sale\r\n{who}\r\n{fields}{length}\r\n{body}".encode()
