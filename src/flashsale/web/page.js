// Puts the page together: what is heard goes into the feed, what is wished becomes an errand, and both are painted.

import { Announcer } from "./announcer.js";
import { Errand } from "./errand.js";
import { Feed } from "./feed.js";
import { Identity, looksLikeToken } from "./identity.js";
import * as store from "./store.js";
import { SharedTicker } from "./tabs.js";
import { View } from "./view.js";
import { get, send } from "./wire.js";
import { adopted, askedAgain, further, isOver, newWish, resumed, signedIn, wantsToCancel, wantsToPay } from "./wish.js";
import { standing, stockNews } from "./words.js";

const WISHES_MAX = 20; // kept; the oldest that are over make room
const WAITS_MAX = 2; // long polls at once: a browser has six connections to one server, and the stream is one of them
const PAINT_MS = 250; // clocks tick; four times a second is enough for eyes
const SALES_RETRY_MS = 2000;
const SALES_MS = 90_000; // between two looks for a new sale while none is running
const HIDDEN_MS = 30_000; // a tab that nobody sees gives its stream back after this

// A wall clock is set now and then, and what was heard before would seem to be of another time.
const localNow = () => performance.timeOrigin + performance.now();
const feed = new Feed();
const identity = new Identity();
const announcer = new Announcer();
const errands = new Map(); // key → Errand
let isReady = false;
let waits = 0;
let isPainting = false;
let hiding = null;
let lookingAgain = null;

const ticker = new SharedTicker({
  hear(name, data) {
    const before = new Map(feed.skus(localNow()).map((sku) => [sku, feed.available(sku)]));
    feed.hear(name, data, localNow());
    for (const { sku, name: item, total } of feed.shown(localNow()).flatMap((sale) => sale.items)) {
      const news = stockNews(item, before.get(sku) ?? null, feed.available(sku), total);
      if (news) announcer.add(`stock ${sku}`, news, true);
    }
    paint();
  },
  linked(link) {
    feed.link = link;
    paint();
  },
  closed: () => readSales(),
  known: () => feed.snapshot(localNow()),
});

const view = new View({
  buy(sale, item) {
    const wish = newWish({
      key: Identity.random(), sku: item.sku, quantity: 1, name: item.name, sale: sale.id, holdMs: sale.hold_seconds * 1000,
      buyer: identity.buyer(), nowMs: Date.now(),
    });
    for (const { wish: old } of over().slice(0, Math.max(0, errands.size + 1 - WISHES_MAX))) forget(old.key);
    store.makeRoom();
    store.save(wish);
    run(wish);
  },
  pay: (key) => errands.get(key).become(wantsToPay(errands.get(key).wish, Identity.random())),
  cancel: (key) => errands.get(key).become(wantsToCancel(errands.get(key).wish)),
  again: (key) => errands.get(key).become(askedAgain(errands.get(key).wish, Date.now())),
  dismiss: (key) => forget(key),
  async copy(key) {
    await navigator.clipboard.writeText(errands.get(key).wish.purchase.id);
    announcer.add("copy", "The purchase number is copied.");
  },
  // Returns what is wrong with the token, or null.
  signIn(token) {
    if (!looksLikeToken(token)) return "That is not an access token: three parts, joined by dots.";
    identity.signIn(token);
    for (const [key, errand] of errands) {
      const wish = signedIn(errand.wish, identity.buyer());
      // Another buyer's leaves the page, as at signing out, and is kept: shown as blocked, it would ask this buyer for
      // somebody else's token for ever.
      if (wish.isBlocked) stop(key);
      else errand.become(wish);
    }
    resume();
    return null;
  },
  signOut() {
    identity.signOut();
    for (const key of [...errands.keys()]) stop(key);
    resume();
  },
});

const edge = {
  shopNow: () => feed.clock.now(localNow()),
  mayWait: () => waits < WAITS_MAX && !document.hidden,
  async send(request, signal) {
    waits += request.waitS > 0;
    try {
      return await send(request, identity.headers(), signal);
    } finally {
      waits -= request.waitS > 0;
    }
  },
  changed(wish) {
    const known = errands.get(wish.key);
    if (!known) return;
    store.save(wish);
    const words = standing(wish, edge.shopNow());
    if (words !== known.words) announcer.add(`wish ${wish.key}`, `${wish.name}: ${words}`);
    known.words = words;
    paint();
  },
};

function run(wish) {
  const errand = new Errand(wish, edge);
  errands.set(wish.key, errand);
  errand.run();
  paint();
}

function stop(key) {
  errands.get(key)?.end();
  errands.delete(key);
  paint();
}

function forget(key) {
  stop(key);
  store.remove(key);
}

function over() {
  return [...errands.values()].filter(({ wish }) => isOver(wish));
}

// Wishes of this buyer that nobody runs here yet.
function resume() {
  for (const wish of store.load()) {
    if (wish.buyer === identity.buyer() && !errands.has(wish.key)) run(resumed(wish, Date.now()));
  }
  paint();
}

async function readSales() {
  clearTimeout(lookingAgain);
  const answer = await get("/sales");
  if (answer) {
    isReady = true;
    feed.readSales(answer.sales);
    follow();
    if (!isRunning()) lookingAgain = setTimeout(readSales, SALES_MS * (0.5 + Math.random()));
  } else {
    lookingAgain = setTimeout(readSales, SALES_RETRY_MS * (0.5 + Math.random()));
  }
  paint();
}

function isRunning() {
  return feed.freshness(localNow()).kind !== "over" && feed.skus(localNow()).length > 0;
}

function follow() {
  if (!isRunning()) ticker.stop();
  else if (!document.hidden) ticker.follow(feed.skus(localNow()));
}

function paint() {
  if (isPainting) return;
  isPainting = true;
  requestAnimationFrame(() => {
    isPainting = false;
    const wishes = [...errands.values()].map(({ wish }) => wish);
    const isFull = wishes.length - over().length >= WISHES_MAX;
    view.paint({ feed, wishes, isSignedIn: identity.hasToken(), isReady, isFull }, localNow());
    const words = announcer.next(performance.now());
    if (words) view.say(words);
  });
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(() => ticker.stop(), HIDDEN_MS);
  else follow();
  paint();
});
store.listen({
  changed(theirs) {
    const errand = errands.get(theirs.key);
    if (theirs.buyer !== identity.buyer()) stop(theirs.key); // it may have been nobody's, and somebody signed in there
    else if (errand) errand.become(further(errand.wish, theirs));
    else run(adopted(theirs, Date.now()));
  },
  removed: stop,
});
setInterval(() => document.hidden || paint(), PAINT_MS);
resume();
readSales();
