"""The page's decisions, without a server: its pure modules in Chromium, told the time and what was heard. Where the whole page
decides, it is given a shop that is played to it.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from flashsale.contract.verdict import ANSWERS, PRECEDENCE, Verdict
from flashsale.contract.wire import KEY_PATTERN, TRIES_MAX
from flashsale.stream.wire import SKUS_MAX
from flashsale.web import FILES, STATIC_PATH
from tests.browsers import chromium
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS
from tests.played import PURCHASE, SALE, SECURE_URL, URL, PlayedShop, hold, played, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

expect.set_options(timeout=PATIENCE_MS)

MODULES = ("announcer", "clock", "feed", "identity", "pace", "store", "wire", "wish", "words")
# Words for the scripts below: times in seconds, as local milliseconds and as the wire writes them.
PRELUDE = """
const at = (seconds) => new Date(seconds * 1000).toISOString();
const feedOf = () => { const feed = new Feed(); feed.readSales([structuredClone(SALE)]); feed.link = "stream"; return feed; };
const beat = (feed, now, asOf, local) => feed.hear("beat", {now: at(now), as_of: at(asOf)}, local * 1000);
const stock = (feed, sku, available, seq, asOf, local) =>
    feed.hear("stock", {sku, available, seq, as_of: at(asOf)}, local * 1000);
const wishOf = () => newWish({key: "k", sku: "a", quantity: 1, name: "A", sale: "s", buyer: "me", nowMs: 0});
const answer = (status, body = {}, retryAfterS = null) => ({status, body, retryAfterS});
const tell = (wish, ...answers) => answers.reduce(
    (now, said) => heard(now, nextCall(now, 0), said, 1000, 0).wish, wish);
const held = (changes = {}) => answer(201, {...PURCHASE, ...changes});
const queued = answer(202, {state: "QUEUED", id: "p", receipt: "r"});
const mark = (wish) => nextCall(wish, 0).headers["Retry-Attempt"] ?? null;
"""


class Script:
    """Runs JavaScript with every export of the page's modules in scope; what it returns."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def __call__(self, text: str) -> Any:
        names = ", ".join(f"import('{STATIC_PATH}/{name}.js')" for name in MODULES)
        # the policy forbids making functions of strings, so the script is handed over whole
        exports = "Identity, looksLikeToken, Announcer, ShopClock, Feed, standing, refusal, note, countdown, age, money, badge"
        exports += (
            ", stockNews, newWish, resumed, isOver, isOpen, canPay, wantsToPay, wantsToCancel, askedAgain, signedIn"
        )
        exports += ", adopted, further, nextCall, heard, save, load, remove, send, makeRoom, Pace, pace, step"
        return await self._page.evaluate(
            f"""async () => {{
                const {{ {exports} }} = Object.assign({{}}, ...await Promise.all([{names}]));
                const SALE = {json.dumps(SALE)}, PURCHASE = {json.dumps(PURCHASE)};
                {PRELUDE}
                {text}
            }}"""
        )


@pytest_asyncio.fixture(loop_scope="module")
async def shop(browser: Browser) -> AsyncIterator[PlayedShop]:
    """Over plain HTTP, where each tab is on its own."""
    async with played(browser, URL) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def secure_shop(browser: Browser) -> AsyncIterator[PlayedShop]:
    """Where tabs share."""
    async with played(browser, SECURE_URL) as made:
        yield made


async def kept(page: Page) -> list[dict[str, Any]]:
    """The wishes in the browser's storage, oldest first."""
    texts = await page.evaluate(
        "Object.keys(localStorage).filter((name) => name.startsWith('flash.wish.')).map((name) => localStorage.getItem(name))"
    )
    return sorted((json.loads(text) for text in texts), key=lambda wish: wish["madeMs"])


async def sign_in(page: Page, buyer: str) -> None:
    await page.get_by_label("Access token").fill(token(buyer))
    await page.get_by_role("button", name="Sign in").click()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests of this file."""
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def js(browser: Browser) -> AsyncIterator[Script]:
    """A page that is blank but for the modules it can load."""

    async def serve(route: Route) -> None:
        file = FILES.get(route.request.url.rpartition("/")[2])
        if file is None:
            await route.fulfill(status=200, content_type="text/html", body="<!doctype html><title>blank</title>")
        else:
            await route.fulfill(status=200, body=file.body, headers=dict(file.headers))

    page = await browser.new_page(locale="en-GB")
    await page.route("**/*", serve)
    await page.goto(URL)
    yield Script(page)


async def test_the_least_delayed_word_of_the_time_counts(js: Script) -> None:
    assert await js(
        """const clock = new ShopClock(), seen = [clock.now(5)];
        clock.told(1000, 100); seen.push(clock.now(100));
        clock.told(1900, 1200); seen.push(clock.now(1200));  // 200 late, of which 1% of 1100 is forgiven
        clock.told(100000, 1300); seen.push(clock.now(1300));  // set anew
        return seen;"""
    ) == [5, 1000, 2089, 100000]


async def test_a_shop_whose_clock_was_set_back_is_believed_in_the_end(js: Script) -> None:
    assert await js(
        """const clock = new ShopClock();
        clock.told(10000, 0);
        for (let ms = 1000; ms <= 1000000; ms += 1000) clock.told(ms, ms);
        return clock.now(1000000);"""
    ) == pytest.approx(1000000)


async def test_word_that_comes_minutes_late_is_of_its_age_however_much_of_it_comes(js: Script) -> None:
    assert await js(
        """const feed = feedOf();
        beat(feed, 20, 20, 20);
        const kinds = new Set();
        for (let second = 21; second < 41; second++) {
            stock(feed, "a", 1, second, second, second + 59);
            beat(feed, second, second, second + 59);
            kinds.add(feed.freshness((second + 59) * 1000).kind);
        }
        return [[...kinds], feed.isCurrent("a", 99000), Math.round(feed.freshness(99000).ageMs / 1000)];"""
    ) == [["old"], False, 58]


async def test_a_number_never_goes_back(js: Script) -> None:
    assert (
        await js(
            """const feed = feedOf();
        stock(feed, "a", 4, 7, 20, 20); stock(feed, "a", 6, 5, 19, 21);
        feed.readSales([structuredClone(SALE)]);
        return feed.available("a");"""
        )
        == 4
    )


@pytest.mark.parametrize(
    ("then", "available"),
    [
        ("stock(feed, 'a', 9, 3, 21, 21);", 9),
        ("stock(feed, 'a', 9, 3, 21, 21); stock(feed, 'a', 4, 7, 20, 22);", 4),  # seq decides where the time does not
        ("stock(feed, 'a', 9, 3, 20, 21);", 4),
        ("feed.readSales([structuredClone(SALE)]);", 4),  # carries no time, so it may be older
    ],
)
async def test_a_lower_seq_that_was_read_later_is_of_a_restored_shop(js: Script, then: str, available: int) -> None:
    assert (
        await js(f"const feed = feedOf(); stock(feed, 'a', 4, 7, 20, 20); {then} return feed.available('a');")
        == available
    )


async def test_a_number_without_a_time_borrows_none(js: Script) -> None:
    assert (
        await js(
            """const feed = feedOf(), sales = structuredClone([SALE]);
        stock(feed, "a", 9, 2, 20, 20);
        Object.assign(sales[0].items[0], {seq: 8, available: 3});
        feed.readSales(sales);
        stock(feed, "a", 5, 6, 21, 21);  // read before those sales, for all that is known
        return feed.available("a");"""
        )
        == 3
    )


@pytest.mark.parametrize(
    ("heard", "kind", "age_ms"),
    [
        ("", "connecting", None),
        ("beat(feed, 50, 50, 20);", "live", 0),
        ("beat(feed, 50, 47.5, 20);", "live", 2500),
        ("beat(feed, 50, 46, 20);", "old", 4000),
        ("beat(feed, 50, 50, 10);", "old", 10_000),
        ("beat(feed, 50, 50, 20); feed.link = 'lost';", "lost", 0),
        ("beat(feed, 50, 48, 20); feed.link = 'polling';", "polled", 2000),
        # one item's news says nothing of the other
        ("stock(feed, 'a', 1, 2, 20, 20);", "connecting", None),
        ("stock(feed, 'a', 1, 2, 20, 20); stock(feed, 'b', 1, 2, 15, 20);", "old", 5000),
        ("feed.readSales([]);", "over", None),
        ("feed.hear('sale', {sale: 's', state: 'ENDED', opens: SALE.opens, closes: SALE.closes}, 0);", "over", None),
    ],
)
async def test_a_number_is_live_only_with_recent_word_of_it(
    js: Script, heard: str, kind: str, age_ms: int | None
) -> None:
    assert await js(f"const feed = feedOf(); {heard} return feed.freshness(20000);") == {"kind": kind, "ageMs": age_ms}


async def test_what_one_stream_cannot_name_does_not_count_as_current(js: Script) -> None:
    assert await js(
        """const items = (count, name) => Array.from({length: count},
            (_, number) => ({sku: `${name}-${number}`, total: 1, available: 1, seq: 1}));
        const feed = new Feed();
        feed.readSales([{...SALE, items: items(20, "big")}, {...SALE, id: "t", items: items(1, "more")}]);
        beat(feed, 20, 20, 20);
        feed.link = "stream";
        return [feed.shown(20000).map(({ id }) => id), feed.skus(20000).length,
            feed.isCurrent("big-15", 20000), feed.isCurrent("big-16", 20000), feed.isCurrent("big-15", 25000)];"""
    ) == [["s"], SKUS_MAX, True, False, False]


async def test_opening_and_closing_happen_by_the_clock_and_a_pause_by_word(js: Script) -> None:
    assert await js(
        """const feed = feedOf(), [sale] = feed.shown(0);
        const states = [9999, 10000, 99999, 100000].map((ms) => feed.state(sale, ms));
        feed.hear("sale", {sale: "s", state: "PAUSED", opens: SALE.opens, closes: SALE.closes}, 0);
        return [...states, feed.state(sale, 20000), feed.state(sale, 100000)];"""
    ) == ["SCHEDULED", "OPEN", "OPEN", "ENDED", "PAUSED", "ENDED"]


@pytest.mark.parametrize(
    ("said", "marks"),
    [
        ("null", "1"),  # no answer: it may have been taken
        ("answer(502)", "1"),
        ("answer(504, null)", "1"),
        ("answer(500)", "1"),
        ("answer(200, null)", "1"),  # a captive portal
        ("answer(201, {hello: 1})", "1"),
        ("answer(503, {verdict: 'try_later'}, 2)", None),  # promised nothing
        ("answer(429)", None),
        ("answer(409, {verdict: 'in_flight'})", None),
        ("null, null, answer(503)", "2"),
    ],
)
async def test_what_is_not_final_is_asked_again_with_the_same_key(js: Script, said: str, marks: str | None) -> None:
    assert await js(
        f"""const wish = tell(wishOf(), {said});
        const {{ kind, headers }} = nextCall(wish, 0);
        return [kind, headers["Idempotency-Key"], mark(wish), isOpen(wish)];"""
    ) == ["buy", "k", marks, True]


async def test_retry_after_is_honoured_and_troubles_slow_down_to_a_bound(js: Script) -> None:
    first, *pauses = await js(
        """let wish = wishOf();
        const pauses = [heard(wish, nextCall(wish, 0), answer(503, {}, 7), 0, 0).pauseMs];
        for (let number = 0; number < 12; number++) {
            const next = heard(wish, nextCall(wish, 0), null, 0, 0.5);
            pauses.push(next.pauseMs);
            wish = next.wish;
        }
        return pauses;"""
    )
    assert first == 7000
    assert pauses[0] == 300
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5000


async def test_patience_ends_in_a_question_and_never_in_a_refusal(js: Script) -> None:
    assert await js(
        """const late = heard(wishOf(), nextCall(wishOf(), 0), null, 121000, 0).wish;
        return [late.phase, nextCall(late, 0), isOver(late), mark(askedAgain(late, 121000))];"""
    ) == ["stuck", None, False, "1"]


async def test_a_reload_during_a_send_makes_it_a_retry(js: Script) -> None:
    assert await js(
        """const sent = resumed({...wishOf(), isSent: true}, 5);
        return [mark(sent), nextCall(sent, 0).headers["Idempotency-Key"], mark(resumed(wishOf(), 5))];"""
    ) == ["1", "k", None]


async def test_a_queued_wish_follows_its_receipt_and_falls_back_to_its_key(js: Script) -> None:
    follow, again, decided, expired = await js(
        """const wish = tell(wishOf(), queued);
        const later = Array(4).fill(answer(503, {}, 0));
        return [nextCall(wish, 0), nextCall(tell(wish, ...later), 0),
            tell(wish, answer(200, {...PURCHASE})).phase,
            nextCall(tell(wish, answer(400, {verdict: "malformed"})), 0)];"""
    )
    assert (follow["method"], follow["path"]) == ("GET", "/purchases/p")
    assert follow["headers"] == {"Receipt": "r", "Prefer": "wait=10"}
    assert (again["kind"], again["headers"]) == ("buy", {"Idempotency-Key": "k", "Retry-Attempt": "1"})
    assert decided == "bought"
    assert (expired["kind"], expired["headers"]["Retry-Attempt"]) == ("buy", "1")


async def test_a_purchase_never_goes_back_to_an_older_version(js: Script) -> None:
    assert await js(
        """const paid = tell(wishOf(), held({version: 4, state: "PAID"}));
        return [tell(paid, answer(200, {...PURCHASE})).purchase.state,
            further(paid, tell(wishOf(), held())).purchase.state, further(wishOf(), paid).purchase.state];"""
    ) == ["PAID", "PAID", "PAID"]


async def test_paying_has_a_key_per_try_that_survives_lost_answers(js: Script) -> None:
    assert await js(
        """const asked = wantsToPay(tell(wishOf(), held()), "try-1");
        const again = tell(asked, null);
        const paying = tell(again, answer(202, {...PURCHASE, version: 2, state: "AUTHORIZING", payments: [{}]}));
        const declined = tell(paying, answer(200, {...PURCHASE, version: 3, payments: [{}]}));
        const late = tell(wantsToPay(declined, "try-2"), answer(409, {verdict: "too_late"}));
        return [nextCall(again, 0).headers["Idempotency-Key"], nextCall(paying, 0).kind, canPay(declined, 0),
            canPay(declined, 60000), late.note, nextCall(late, 0).kind];"""
    ) == ["try-1", "look", True, False, "too_late", "look"]


async def test_401_waits_for_a_token_and_only_a_wish_that_nobody_took_changes_hands(js: Script) -> None:
    assert await js(
        """const blocked = tell(wishOf(), answer(401, {verdict: "unauthenticated"}));
        const taken = {...tell(wishOf(), held()), isBlocked: true};
        return [nextCall(blocked, 0), signedIn(blocked, "ana").buyer, nextCall(signedIn(blocked, "ana"), 0).kind,
            signedIn(taken, "ana").isBlocked, signedIn(taken, "me").isBlocked];"""
    ) == [None, "ana", "buy", True, False]


@pytest.mark.parametrize(
    "taken",
    [
        "tell(wishOf(), held())",
        "tell(wishOf(), queued)",
        "tell(wishOf(), null)",  # the shop may have it
        "({...wishOf(), isSent: true})",  # and may be taking it now
    ],
)
async def test_who_signs_in_does_nothing_about_another_buyers_wish(js: Script, taken: str) -> None:
    assert await js(
        f"""const wish = signedIn({taken}, "ben");
        return [wish.buyer, wish.isBlocked, nextCall(wish, 0), isOver(wish)];"""
    ) == ["me", True, None, False]


async def test_a_wish_of_another_tab_is_sent_as_a_retry(js: Script) -> None:
    assert await js(
        "return [mark(adopted(wishOf(), 5)), nextCall(adopted(wishOf(), 5), 0).headers['Idempotency-Key']];"
    ) == [
        "1",
        "k",
    ]


@pytest.mark.parametrize("asked", ["wishOf()", "tell(wishOf(), queued)"])
@pytest.mark.parametrize(
    "late",
    [
        "answer(409, {verdict: 'sold_out'})",
        "answer(409, {verdict: 'too_late'})",
        "answer(400, {verdict: 'malformed'})",
        "answer(503, {verdict: 'try_later'}, 0)",
        "answer(401, {verdict: 'unauthenticated'})",
        "null",
        "queued",
    ],
)
async def test_no_late_answer_undoes_a_purchase_that_another_tab_heard_of(js: Script, asked: str, late: str) -> None:
    assert await js(
        f"""const before = {asked}, request = nextCall(before, 0);
        let wish = {{...further(before, tell(wishOf(), held())), laters: 9}};
        ({{ wish }} = heard(wish, request, {late}, 1000, 0));
        return [wish.phase, wish.purchase.state, nextCall(wish, 0).kind];"""
    ) == ["bought", "HELD", "look"]


async def test_a_browser_that_keeps_nothing_still_buys(js: Script) -> None:
    assert await js(
        """const kinds = ["localStorage", "sessionStorage"];
        const real = kinds.map((kind) => Object.getOwnPropertyDescriptor(window, kind));
        const forbid = (kind) => Object.defineProperty(window, kind,
            {configurable: true, get() { throw new DOMException("no", "SecurityError"); }});
        kinds.forEach(forbid);
        try {
            const identity = new Identity(), guest = identity.buyer();
            const isSame = guest === identity.buyer();
            identity.signIn("a." + btoa('{"sub":"ana"}') + ".c");
            const ana = identity.buyer();
            identity.signOut();
            save(wishOf());
            save({...wishOf(), phase: "queued"});
            const kept = load().map(({ key, phase }) => [key, phase]);
            remove("k");
            return [isSame, ana, identity.hasToken(), kept, load()];
        } finally {
            kinds.forEach((kind, place) => Object.defineProperty(window, kind, real[place]));
        }"""
    ) == [True, "token:ana", False, [["k", "queued"]], []]


async def test_what_no_longer_fits_counts_before_what_was_kept(js: Script) -> None:
    assert await js(
        """save(wishOf());
        const real = Storage.prototype.setItem;
        Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); };
        try { save({...wishOf(), phase: "queued"}); } finally { Storage.prototype.setItem = real; }
        const full = load().map(({ phase }) => phase);
        save({...wishOf(), phase: "bought"});
        const kept = JSON.parse(localStorage.getItem("flash.wish.k")).phase;
        localStorage.setItem("flash.wish.k", JSON.stringify({...wishOf(), phase: "refused"}));  // by another tab
        const other = load().map(({ phase }) => phase);
        remove("k");
        return [full, kept, other, load()];"""
    ) == [["queued"], "bought", ["refused"], []]


async def test_a_request_ends_at_its_limit_or_when_told_in_any_browser(js: Script) -> None:
    assert await js(
        """const real = {fetch, setTimeout, clearTimeout, any: AbortSignal.any, timeout: AbortSignal.timeout}, limits = [], cleared = [];
        window.fetch = (path, { signal }) => new Promise((_, fail) => signal.addEventListener("abort", () => fail(signal.reason)));
        window.setTimeout = (act, ms) => { return limits.push([ms, act]); };
        window.clearTimeout = (limit) => cleared.push(limit);
        delete AbortSignal.any;
        delete AbortSignal.timeout;
        try {
            const request = {method: "GET", path: "/", headers: {}, body: null, waitS: 10}, told = new AbortController();
            const stopped = send(request, {}, told.signal), late = send(request, {}, new AbortController().signal);
            told.abort();
            limits[1][1]();
            return [limits.map(([ms]) => ms), await stopped, await late, cleared];
        } finally {
            Object.assign(window, {fetch: real.fetch, setTimeout: real.setTimeout, clearTimeout: real.clearTimeout});
            Object.assign(AbortSignal, {any: real.any, timeout: real.timeout});
        }"""
    ) == [[15000, 15000], None, None, [1, 2]]


NEVER_A_REFUSAL = {Verdict.HELD, Verdict.REPLAYED, Verdict.UNAUTHENTICATED}
REFUSALS = sorted({verdict for verdict in PRECEDENCE if ANSWERS[verdict].status >= 400} - NEVER_A_REFUSAL)


@pytest.mark.parametrize("verdict", REFUSALS)
async def test_every_refusal_is_final_and_has_a_sentence(js: Script, verdict: Verdict) -> None:
    phase, over, words = await js(
        f"""const wish = tell(wishOf(), answer({ANSWERS[verdict].status}, {{verdict: "{verdict.value}"}}));
        return [wish.phase, isOver(wish), standing(wish, 0)];"""
    )
    assert (phase, over) == ("refused", True)
    assert words.endswith(".")
    assert verdict.value not in words


async def test_the_page_counts_tries_like_the_shop(js: Script) -> None:
    tries = json.dumps([{}] * (TRIES_MAX - 1))
    assert "1 try left" in await js(f"return standing(tell(wishOf(), held({{payments: {tries}}})), 0);")


async def test_numbers_in_words(js: Script) -> None:
    assert await js(
        """return [countdown(-5), countdown(59999), countdown(3723000), countdown(90061000), age(-1), age(119999),
            age(120000), age(7200000), money(12900, "EUR"), money(500, "JPY"),
            badge({kind: "lost", ageMs: 12000}), badge({kind: "lost", ageMs: null}),
            badge({kind: "old", ageMs: 12000}), pace(null), pace({perMinute: 1234})];"""
    ) == ["0:00", "0:59", "1:02:03", "1 d 1:01:01", "0 s", "119 s", "2 min", "2 h", "€129.00", "JP¥500",
          "reconnecting, 12 s old", "reconnecting", "stale, 12 s old", "measuring the pace",
          "1,234 taken a minute"]  # fmt: skip


async def test_a_reader_hears_what_matters_and_seldom(js: Script) -> None:
    assert await js(
        """return [stockNews("A", 10, 9, 10), stockNews("A", 6, 5, 10), stockNews("A", 1, 0, 10), stockNews("A", 0, 2, 10),
            stockNews("A", null, 0, 10)];"""
    ) == [None, "A: 5 of 10 left.", "A: sold out.", "A: units are back, 2 left.", None]
    assert await js(
        """const one = new Announcer(), said = [];
        one.add("a", "9", true); one.add("a", "8", true); said.push(one.next(0));
        one.add("wish", "held"); said.push(one.next(2999), one.next(3000));
        one.add("b", "7", true); one.add("a", "6", true); said.push(one.next(14999), one.next(15000), one.next(99999));
        return said;"""
    ) == ["8", None, "held", None, "7 6", None]


async def test_a_pace_is_what_went_within_a_minute_and_not_told_before_it_is_known(js: Script) -> None:
    told = await js(
        """const one = new Pace(), told = [];
        one.heard(100, 1000_000); told.push(one.told(1009_000));
        one.heard(90, 1012_000); one.heard(95, 1013_000); one.heard(94, 1014_500); told.push(one.told(1030_000));
        one.heard(54, 1051_000); told.push(one.told(1060_000), one.told(1072_999), one.told(1074_000));
        one.heard(44, 1111_000); told.push(one.told(1111_000), one.told(1170_000), one.told(1172_000));
        one.heard(0, 1173_000); told.push(one.told(1173_000), one.told(1184_000));  // when these went, nobody knows
        return told.map((each) => each && each.perMinute);"""
    )
    assert told == [None, 22, 51, 41, 40, 10, 10, None, None, 0]


async def test_the_bars_of_a_pace_move_on_by_whole_steps_and_hold_what_the_number_says(js: Script) -> None:
    first, later, full = await js(
        """const one = new Pace();
        one.heard(1000, 1000_000);
        for (let second = 1; second <= 61; second++) one.heard(1000 - second, 1000_000 + second * 1000);
        const first = one.told(1061_000), later = one.told(1063_000);
        for (let second = 62; second <= 64; second++) one.heard(1000 - second, 1000_000 + second * 1000);
        return [first, later, one.told(1064_000)];"""
    )
    assert first == {"perMinute": 60, "bars": [5] * 11 + [2]}
    assert later == {"perMinute": 58, "bars": [5] * 11 + [2]}
    assert full == {"perMinute": 60, "bars": [5] * 12}


async def test_a_tab_that_comes_later_is_told_what_was_heard_with_its_age(js: Script) -> None:
    assert await js(
        """const one = feedOf(), other = feedOf(), nothing = one.snapshot(0);
        stock(one, "a", 3, 7, 20, 20); beat(one, 21, 21, 21); beat(one, 30, 21, 30);
        other.hear("snapshot", one.snapshot(30000), 30000);
        stock(other, "a", 9, 5, 19, 30);
        return [nothing, other.available("a"), other.freshness(30000), other.pace("a", 31000)];"""
    ) == [None, 3, {"kind": "old", "ageMs": 9000}, {"perMinute": 0, "bars": [0] * 12}]


async def test_a_tab_that_heard_it_all_loses_no_pace_when_another_is_told_the_whole(js: Script) -> None:
    assert (
        await js(
            """const one = feedOf(), other = feedOf();
        const both = (hear) => [one, other].forEach(hear);
        both((feed) => stock(feed, "a", 9, 2, 100, 100));
        both((feed) => stock(feed, "a", 6, 3, 101, 101));
        for (let second = 102; second <= 170; second++) both((feed) => beat(feed, second, second, second));
        both((feed) => stock(feed, "b", 4, 2, 170, 170));
        other.hear("snapshot", one.snapshot(171000), 171000);
        return other.pace("a", 171000) !== null;"""
        )
        is True
    )


async def test_a_quiet_time_is_a_pace_of_none_and_no_silence(js: Script) -> None:
    assert (
        await js(
            """const feed = feedOf();
        stock(feed, "a", 9, 2, 20, 20);
        for (let second = 21; second <= 120; second++) beat(feed, second, second, second);
        stock(feed, "a", 6, 3, 121, 121);
        return feed.pace("a", 121000).perMinute;"""
        )
        == 3
    )


async def test_nothing_is_remembered_of_items_that_are_not_on_sale_any_more(js: Script) -> None:
    assert await js(
        """const feed = feedOf();
        stock(feed, "a", 3, 7, 20, 20);
        feed.readSales([{...SALE, items: [SALE.items[1]]}]);
        return [feed.available("a"), feed.pace("a", 40000), feed.available("b")];"""
    ) == [None, None, 5]


async def test_what_is_kept_of_purchases_has_a_bound_and_loses_none_that_is_open(js: Script) -> None:
    assert await js(
        """for (let number = 0; number < 150; number++) {
            save({...wishOf(), key: `k${number}`, madeMs: number, phase: number < 60 ? "refused" : "asking"});
        }
        makeRoom();
        const kept = load().map(({ key }) => key);
        for (let number = 0; number < 150; number++) remove(`k${number}`);
        return [kept.length, kept[0]];"""
    ) == [99, "k51"]


@pytest.mark.parametrize(
    ("wish", "step"),
    [
        ("wishOf()", 0),
        ("tell(wishOf(), queued)", 0),
        ("tell(wishOf(), held())", 1),
        ("tell(wishOf(), held({state: 'AUTHORIZED'}))", 2),
        ("tell(wishOf(), held({state: 'PAID'}))", 3),
        ("tell(wishOf(), held({state: 'EXPIRED'}))", None),
        ("tell(wishOf(), answer(409, {verdict: 'sold_out'}))", None),
    ],
)
async def test_how_far_a_wish_is(js: Script, wish: str, step: int | None) -> None:
    assert await js(f"return step({wish});") == step


async def test_keys_are_of_the_contract_and_tokens_are_looked_at(js: Script) -> None:
    keys = await js("return Array.from({length: 50}, () => Identity.random());")
    assert all(KEY_PATTERN.fullmatch(key) for key in keys)
    assert len(set(keys)) == 50
    assert await js(
        """return ["", "a.b", "a.b.c", "a." + btoa('{"x":1}') + ".c", "a." + btoa('{"sub":"ana"}').replaceAll("=", "") + ".c"]
            .map(looksLikeToken);"""
    ) == [False, False, False, False, True]


async def test_who_signs_in_next_leaves_the_first_buyers_purchases_for_them(shop: PlayedShop) -> None:
    page = await shop.tab()
    await page.locator(".buy").click()
    await (await shop.next()).answer(401, verdict="unauthenticated")
    await sign_in(page, "ana")
    await (await shop.next()).answer(201, **hold("of-ana"))
    await expect(page.locator(".purchase")).to_contain_text("Held for you")
    looking = await shop.next()  # not answered: this wish does not know yet that the token is too old
    assert (looking.path, looking.buyer) == ("/purchases/of-ana", "ana")
    await page.locator(".buy").click()
    await (await shop.next()).answer(401, verdict="unauthenticated")
    await sign_in(page, "ben")
    bens = await shop.next()
    assert (bens.method, bens.buyer) == ("POST", "ben"), "the wish that nobody took"
    await bens.answer(201, **hold("of-ben"))
    assert (await shop.next()).path == "/purchases/of-ben"
    await expect(page.locator(".purchase")).to_have_count(1)
    await expect(page.get_by_label("Access token")).to_be_hidden()
    assert [(wish["buyer"], wish["phase"]) for wish in await kept(page)] == [
        ("token:ana", "bought"),
        ("token:ben", "bought"),
    ]
    assert [asked.path for asked in shop.all if asked.buyer == "ben"] == ["/purchases", "/purchases/of-ben"]
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.locator(".purchase")).to_have_count(0)
    await page.locator(".buy").click()
    await (await shop.next()).answer(401, verdict="unauthenticated")
    await sign_in(page, "ana")
    await expect(page.locator(".purchase", has_text="of-ana")).to_contain_text("Held for you")


async def test_a_wish_that_somebody_took_over_in_another_tab_is_not_sent_here(shop: PlayedShop) -> None:
    one, other = await shop.tab(), await shop.tab()
    await one.locator(".buy").click()
    for asked in (await shop.next(), await shop.next()):
        await asked.answer(401, verdict="unauthenticated")
    await expect(other.get_by_label("Access token")).to_be_visible()
    await sign_in(one, "ana")
    await (await shop.next()).answer(201, **hold("p"))
    await expect(other.locator(".purchase")).to_have_count(0)
    await expect(other.get_by_label("Access token")).to_be_hidden()
    assert [wish["buyer"] for wish in await kept(other)] == ["token:ana"]


async def test_two_tabs_send_a_wish_once_unmarked_and_a_late_refusal_undoes_nothing(shop: PlayedShop) -> None:
    one, other = await shop.tab(), await shop.tab()
    await one.locator(".buy").click()
    sent = sorted([await shop.next(), await shop.next()], key=lambda asked: asked.mark or "")
    assert [(asked.page, asked.mark) for asked in sent] == [(one, None), (other, "1")]
    await sent[1].answer(201, **hold("p"))
    await expect(one.locator(".purchase")).to_contain_text("Held for you")
    await (await shop.next()).answer(200, **hold("p"))  # what the other tab looks at
    await sent[0].answer(409, verdict="sold_out")
    while (looking := await shop.next()).page != one:
        pass
    assert (looking.method, looking.path) == ("GET", "/purchases/p")
    await looking.answer(200, **hold("p"))
    await expect(one.locator(".purchase")).to_contain_text("Held for you")
    await expect(other.locator(".purchase")).to_contain_text("Held for you")
    assert [wish["phase"] for wish in await kept(one)] == ["bought"]


async def test_a_device_that_slept_asks_anew_and_shows_nothing_of_before_as_live(shop: PlayedShop) -> None:
    page = await shop.tab()
    await expect(page.locator("#badge")).to_have_attribute("data-kind", "live")
    assert await page.evaluate("streams.length") == 1
    # its words go on, as those do that were on the way while it slept
    await page.evaluate(
        """new Promise((seen) => {
            const badge = document.getElementById("badge"), awake = Date.now;
            new MutationObserver(() => badge.dataset.kind === "lost" && seen()).observe(badge, {attributes: true});
            Date.now = () => awake() + 3600_000;
        })"""
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await page.evaluate("streams.length") < 2:
            await asyncio.sleep(0.05)
    assert await page.evaluate("streams[0].readyState") == 2


async def test_a_wall_clock_that_is_set_back_takes_no_age_away(shop: PlayedShop) -> None:
    page = await shop.tab()
    await expect(page.locator("#badge")).to_have_attribute("data-kind", "live")
    await page.evaluate("isSilent = true; const awake = Date.now; Date.now = () => awake() - 3600_000;")
    await expect(page.locator("#freshness")).to_have_text(re.compile(r"\b[1-9]\d* s old"))


# In each tab: how many streams it has now.
OPEN_STREAMS = "streams.filter(({readyState}) => readyState !== EventSource.CLOSED).length"


async def has_one_stream(tabs: list[Page]) -> Page:
    """Wait until one tab has one stream, and the others none; which it is."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while sum(counts := [await tab.evaluate(OPEN_STREAMS) for tab in tabs]) != 1:
            await asyncio.sleep(0.05)
    return tabs[counts.index(1)]


async def all_show(tabs: list[Page], units: int) -> None:
    for tab in tabs:
        await expect(tab.locator(".number")).to_have_text(str(units))
        await expect(tab.locator("#badge")).to_have_attribute("data-kind", "live")
        await expect(tab.locator(".item")).to_have_attribute("data-trusted", "true")


async def test_seven_tabs_share_one_stream_and_another_takes_over_when_its_tab_goes(secure_shop: PlayedShop) -> None:
    tabs = [await secure_shop.tab() for _ in range(7)]
    await all_show(tabs, 9)
    listening = await has_one_stream(tabs)
    for tab in tabs:
        await tab.evaluate("word = {available: 8, seq: 3}")  # whichever has the stream
    await all_show(tabs, 8)
    await listening.close()
    left = [tab for tab in tabs if tab is not listening]
    for tab in left:
        await tab.evaluate("word = {available: 5, seq: 6}")
    await has_one_stream(left)
    await all_show(left, 5)


async def test_a_tab_that_hangs_does_not_keep_the_stream_from_the_others(secure_shop: PlayedShop) -> None:
    hung = await secure_shop.context.new_page()
    await hung.goto(f"{SECURE_URL}static/icon.svg")  # of the same origin, and nothing of ours runs in it
    await hung.evaluate("void navigator.locks.request('flash.stock a', () => new Promise(() => {})).catch(() => {})")
    tabs = [await secure_shop.tab() for _ in range(2)]
    await has_one_stream(tabs)
    await all_show(tabs, 9)


async def test_a_tab_that_comes_later_is_told_the_whole_when_nothing_moves_any_more(secure_shop: PlayedShop) -> None:
    one = await secure_shop.tab()
    await all_show([one], 9)
    await one.evaluate(
        """isSilent = true;
        const now = () => new Date(performance.timeOrigin + performance.now()).toISOString();
        setInterval(() => streams[0].say("beat", {now: now(), as_of: now()}), 100);"""
    )
    other = await secure_shop.tab()  # the list of sales told it 10
    await all_show([one, other], 9)


async def played_tab(shop: PlayedShop) -> Page:
    """A tab of the same origin in which nothing of ours runs: the test says what it does, in JavaScript with ``channel``, ``asked``,
    ``lead()``, ``now()`` and ``whole(available, seq)``. However slow it is, no tab opened later takes the stream away from it.
    """
    tab = await shop.context.new_page()
    await tab.goto(f"{SECURE_URL}static/icon.svg")
    await tab.evaluate(
        """() => {
            window.channel = new BroadcastChannel("flash.stock a");
            window.asked = 0;
            channel.addEventListener("message", ({data}) => asked += data.isAsking ? 1 : 0);
            window.lead = () => new Promise((has) => {
                navigator.locks.request("flash.stock a", {steal: true}, () => new Promise(has));
            });
            window.now = () => new Date(performance.timeOrigin + performance.now()).toISOString();
            window.whole = (available, seq) =>
                ({now: now(), as_of: now(), stock: [{sku: "a", available, seq, as_of: now()}], sales: []});
        }"""
    )
    await shop.context.add_init_script(
        """const ask = globalThis.LockManager?.prototype.request;
        if (ask) LockManager.prototype.request = function (...words) {
            return words[1].steal ? new Promise(() => {}) : ask.apply(this, words);
        };"""
    )
    return tab


async def was_asked(played: Page) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await played.evaluate("asked"):
            await asyncio.sleep(0.05)


async def test_news_of_an_unknown_whole_make_no_number_live(secure_shop: PlayedShop) -> None:
    leader = await played_tab(secure_shop)
    await leader.evaluate("lead()")
    await leader.evaluate(
        """() => void setInterval(() => {
            channel.postMessage({name: "beat", data: {now: now(), as_of: now()}});
            channel.postMessage({link: "stream"});
        }, 50)"""
    )
    page = await secure_shop.tab()
    await page.evaluate(
        """new Promise((heard) => {
            let words = 0;
            new BroadcastChannel("flash.stock a").onmessage = () => ++words === 10 && requestAnimationFrame(() => requestAnimationFrame(heard));
        })"""
    )
    await expect(page.locator("#badge")).to_have_attribute("data-kind", "connecting")
    await expect(page.locator(".number")).to_have_text("10")
    await leader.evaluate("channel.postMessage({name: 'snapshot', data: whole(7, 5)})")
    await all_show([page], 7)


async def test_a_tab_from_which_the_stream_was_taken_asks_how_things_stand(secure_shop: PlayedShop) -> None:
    thief = await played_tab(secure_shop)
    robbed = await secure_shop.tab()
    await all_show([robbed], 9)
    await thief.evaluate(
        "new Promise((heard) => channel.addEventListener('message', heard, {once: true}))"
    )  # they are linked
    await thief.evaluate(
        """() => {
            channel.onmessage = ({data}) => data.isAsking && channel.postMessage({name: "snapshot", data: whole(7, 5)});
            return lead();
        }"""
    )
    await expect(robbed.locator(".number")).to_have_text("7")


async def test_a_tab_is_told_what_another_polls_though_that_one_knew_nothing_when_it_was_asked(
    secure_shop: PlayedShop,
) -> None:
    leader = await played_tab(secure_shop)
    await leader.evaluate("lead()")
    page = await secure_shop.tab()
    await was_asked(leader)
    await leader.evaluate(
        """() => {
            channel.onmessage = ({data}) => data.isAsking && channel.postMessage({name: "snapshot", data: whole(7, 5)});
            channel.postMessage({name: "stock", data: {...whole(7, 5).stock[0], now: now()}});
            channel.postMessage({link: "polling"});
        }"""
    )
    await expect(page.locator(".number")).to_have_text("7")
    await expect(page.locator("#badge")).to_have_attribute("data-kind", "polled")


async def test_a_tab_that_slept_believes_no_link_of_before(secure_shop: PlayedShop) -> None:
    leader = await played_tab(secure_shop)  # and is never heard of again: the browser discards tabs that nobody sees
    await leader.evaluate("lead()")
    page = await secure_shop.tab()
    await was_asked(leader)
    await leader.evaluate(
        "channel.postMessage({link: 'stream'}); channel.postMessage({name: 'snapshot', data: whole(7, 5)});"
    )
    await expect(page.locator(".number")).to_have_text("7")
    await page.evaluate("const awake = Date.now; Date.now = () => awake() + 3600_000;")
    await expect(page.locator("#badge")).to_have_attribute("data-kind", "lost")


async def test_what_one_tab_knows_of_the_link_all_tabs_show(secure_shop: PlayedShop) -> None:
    one, other = await secure_shop.tab(), await secure_shop.tab()
    await all_show([one, other], 9)
    for tab in (one, other):
        await tab.evaluate("isSilent = true")  # whichever has the stream
    for tab in (one, other):
        await expect(tab.locator("#badge")).to_have_attribute("data-kind", "lost")
        await expect(tab.locator(".item")).to_have_attribute("data-trusted", "false")
    for tab in (one, other):
        await tab.evaluate("isSilent = false")
    await all_show([one, other], 9)


async def test_where_tabs_cannot_share_each_has_its_own_stream(shop: PlayedShop) -> None:
    tabs = [await shop.tab(), await shop.tab()]  # over plain HTTP
    await all_show(tabs, 9)
    assert [await tab.evaluate(OPEN_STREAMS) for tab in tabs] == [1, 1]
