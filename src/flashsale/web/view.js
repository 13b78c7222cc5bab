// The page's elements: makes them once, then changes only what differs, so that focus and a reader's place stay.

import { canCancel, canPay, isOpen, isOver } from "./wish.js";
import { badge, countdown, moment, money, note, pace, standing, step, units } from "./words.js";

const STATES = { SCHEDULED: "Opens soon", OPEN: "On sale now", PAUSED: "Paused", ENDED: "Over" };
const SCARCE = 0.1; // of all units; from here on the bar warns
const BARS_HEIGHT = 24; // of the drawing's own measure

export class View {
  #sales = new Map(); // sale id → element
  #items = new WeakMap(); // sale's element → (sku → element)
  #purchases = new Map(); // key → element
  #act;

  // `act`: what the buyer can do: buy(sale, item), pay(key), cancel(key), again(key), dismiss(key), copy(key), signIn(token), signOut().
  constructor(act) {
    this.#act = act;
    by("sign-in").addEventListener("submit", (event) => {
      event.preventDefault();
      text(by("sign-in-error"), act.signIn(by("token").value.trim()) ?? "");
    });
    by("sign-out").addEventListener("click", () => act.signOut());
  }

  paint({ feed, wishes, isSignedIn, isReady, isFull }, localMs) {
    const shopNowMs = feed.clock.now(localMs);
    const freshness = feed.freshness(localMs);
    attribute(by("badge"), "data-kind", freshness.kind);
    text(by("freshness"), badge(freshness));
    const sales = feed.shown(localMs);
    hide(by("empty"), sales.length > 0);
    text(by("empty"), isReady ? "There is no sale at the moment. This page will show the next one." : "Looking for sales…");
    this.#keep(this.#sales, by("sales"), sales, ({ id }) => id, (sale) => this.#newSale(sale));
    for (const sale of sales) this.#paintSale(sale, { feed, wishes, localMs, shopNowMs, isFull });
    this.#paintPurchases(wishes, shopNowMs);
    const isAsked = wishes.some((wish) => wish.isBlocked);
    this.#showSignIn(isAsked);
    hide(by("signed-in"), !isSignedIn);
  }

  say(words) {
    text(by("said"), words);
  }

  // Once, when it appears: the buyer has just pressed a button and must find what is asked of them.
  #showSignIn(isAsked) {
    const form = by("sign-in");
    if (form.hidden === !isAsked) return;
    hide(form, !isAsked);
    if (isAsked) by("token").focus();
    else {
      by("token").value = "";
      by("mine-title").focus();
    }
  }

  #newSale(sale) {
    const element = stamp("sale");
    const title = element.querySelector("h2");
    title.id = `sale-${sale.id}`;
    element.setAttribute("aria-labelledby", title.id);
    this.#items.set(element, new Map());
    return element;
  }

  #paintSale(sale, now) {
    const element = this.#sales.get(sale.id);
    const state = now.feed.state(sale, now.localMs);
    const isBefore = state === "SCHEDULED";
    text(element.querySelector("h2"), sale.name);
    const isSoldOut = state === "OPEN" && sale.items.every(({ sku }) => now.feed.available(sku) === 0 && now.feed.isCurrent(sku, now.localMs));
    text(element.querySelector(".state"), isSoldOut ? "Sold out" : STATES[state]);
    attribute(element, "data-state", state);
    attribute(element, "data-sold-out", String(isSoldOut));
    hide(element.querySelector(".clock"), state === "ENDED");
    text(element.querySelector(".clock-label"), isBefore ? "Opens in" : "Closes in");
    const nextMs = isBefore ? sale.opensMs : sale.closesMs;
    text(element.querySelector(".clock-time"), countdown(nextMs - now.shopNowMs));
    text(element.querySelector(".clock-moment"), `at ${moment(nextMs, now.localMs)}`);
    const list = element.querySelector(".items");
    const items = this.#items.get(element);
    this.#keep(items, list, sale.items, ({ sku }) => sku, (item) => this.#newItem(sale, item));
    for (const item of sale.items) this.#paintItem(items.get(item.sku), sale, item, state, now);
  }

  #newItem(sale, item) {
    const element = stamp("item");
    element.dataset.sku = item.sku;
    const button = element.querySelector(".buy");
    button.addEventListener("click", () => {
      if (button.getAttribute("aria-disabled") !== "true") this.#act.buy(sale, item);
    });
    return element;
  }

  #paintItem(element, sale, item, state, { feed, wishes, localMs, shopNowMs, isFull }) {
    const available = feed.available(item.sku);
    const isTrusted = feed.isCurrent(item.sku, localMs);
    const mine = wishes.findLast((wish) => wish.sku === item.sku);
    const isPending = wishes.some((wish) => wish.sku === item.sku && isOpen(wish));
    text(element.querySelector("h3"), item.name);
    text(element.querySelector(".price"), money(item.unit_price_minor, sale.currency));
    text(element.querySelector(".number"), units(available));
    text(element.querySelector(".unit"), `of ${units(item.total)} left${isTrusted ? "" : ", when last heard"}`);
    attribute(element, "data-trusted", String(isTrusted));
    attribute(element, "data-sold-out", String(available === 0));
    attribute(element, "data-scarce", String(available !== null && available <= item.total * SCARCE));
    const bar = element.querySelector("progress");
    attribute(bar, "max", String(Math.max(1, item.total)));
    attribute(bar, "value", String(available));
    attribute(bar, "aria-label", `${item.name}: units left`);
    hide(element.querySelector(".pace"), state !== "OPEN" || !isTrusted || available === 0);
    this.#paintPace(element, feed.pace(item.sku, localMs));
    const [label, hint, may] = offer(sale, state, available, isTrusted, isPending, isFull, feed.link);
    const button = element.querySelector(".buy");
    text(button, label);
    attribute(button, "aria-label", may ? `${label} ${item.name}` : `${item.name}: ${label}`);
    attribute(button, "aria-disabled", String(!may)); // and not disabled: that would take the focus away
    text(element.querySelector(".hint"), hint);
    // what became of the press of this button, where it was pressed; the rest of it may be off the screen
    hide(element.querySelector(".my-wish"), !mine);
    if (mine) text(element.querySelector(".my-standing"), standing(mine, shopNowMs));
    const leftMs = mine ? leftToPay(mine, shopNowMs) : null;
    text(element.querySelector(".my-clock"), leftMs === null ? "" : countdown(leftMs));
    text(element.querySelector(".my-wish a"), leftMs === null ? "See my purchases" : "Pay now");
    attribute(element.querySelector(".my-wish"), "data-urgent", String(leftMs !== null));
  }

  // The bars are for the eye; the words say what they say.
  #paintPace(element, told) {
    text(element.querySelector(".pace-words"), pace(told));
    const highest = Math.max(1, ...(told?.bars ?? []));
    element.querySelectorAll("rect").forEach((bar, place) => {
      const height = Math.max(1, Math.round((BARS_HEIGHT * (told?.bars[place] ?? 0)) / highest));
      attribute(bar, "height", String(height));
      attribute(bar, "y", String(BARS_HEIGHT - height));
    });
  }

  #paintPurchases(wishes, shopNowMs) {
    hide(by("mine"), wishes.length === 0);
    const newestFirst = [...wishes].reverse();
    this.#keep(this.#purchases, by("purchases"), newestFirst, ({ key }) => key, (wish) => this.#newPurchase(wish));
    for (const wish of newestFirst) this.#paintPurchase(wish, shopNowMs);
  }

  #newPurchase({ key, name }) {
    const element = stamp("purchase");
    for (const action of ["pay", "again", "cancel", "dismiss", "copy"]) {
      element.querySelector(`.${action}`).addEventListener("click", () => this.#act[action](key));
    }
    text(element.querySelector("h3"), name);
    return element;
  }

  #paintPurchase(wish, shopNowMs) {
    const element = this.#purchases.get(wish.key);
    const { purchase } = wish;
    attribute(element, "data-phase", wish.phase);
    attribute(element, "data-state", purchase?.state ?? "");
    attribute(element, "data-key", wish.key);
    text(element.querySelector(".standing"), standing(wish, shopNowMs));
    text(element.querySelector(".note"), wish.note ? note(wish.note) : "");
    this.#paintSteps(element.querySelector(".steps"), step(wish));
    const leftMs = leftToPay(wish, shopNowMs);
    hide(element.querySelector(".deadline"), leftMs === null);
    if (leftMs !== null) {
      text(element.querySelector(".clock-time"), countdown(leftMs));
      const bar = element.querySelector("progress");
      hide(bar, !wish.holdMs);
      attribute(bar, "max", String(wish.holdMs || 1));
      attribute(bar, "value", String(Math.round(leftMs / 1000) * 1000));
    }
    const price = purchase ? money(purchase.total_minor, purchase.currency) : "";
    action(element, "pay", canPay(wish, shopNowMs), `Pay ${price}`, wish.name);
    action(element, "again", wish.phase === "stuck", "Ask again", wish.name);
    action(element, "cancel", canCancel(wish, shopNowMs), "Give it back", wish.name);
    action(element, "dismiss", isOver(wish), "Remove from this list", wish.name);
    hide(element.querySelector(".reference"), !purchase);
    text(element.querySelector(".id"), purchase?.id ?? "");
    action(element, "copy", Boolean(purchase && navigator.clipboard), "Copy", `number of ${wish.name}`);
  }

  #paintSteps(list, at) {
    hide(list, at === null);
    [...list.children].forEach((entry, place) => {
      attribute(entry, "data-is", place < at || at === list.children.length - 1 ? "done" : place === at ? "now" : "next");
      if (place === at) attribute(entry, "aria-current", "step");
      else entry.removeAttribute("aria-current");
    });
  }

  // Makes what is new, removes what is gone, and puts all into the list's order.
  #keep(known, parent, list, name, make) {
    const names = new Set(list.map(name));
    for (const [key, element] of known) {
      if (names.has(key)) continue;
      if (element.contains(document.activeElement)) by("mine-title").focus();
      element.remove();
      known.delete(key);
    }
    list.forEach((entry, place) => {
      const key = name(entry);
      if (!known.has(key)) known.set(key, make(entry));
      if (parent.children[place] !== known.get(key)) parent.insertBefore(known.get(key), parent.children[place] ?? null);
    });
  }
}

// The buy button's label, a hint below the number, and whether it may be pressed.
function offer(sale, state, available, isTrusted, isPending, isFull, link) {
  if (state === "ENDED") return ["Sale over", "", false];
  if (state === "PAUSED") return ["Paused", "The sale is paused. Nothing is sold until it goes on.", false];
  const limit = `Up to ${units(sale.buyer_limit)} per buyer in this sale.`;
  if (state === "SCHEDULED") return ["Not open yet", limit, false];
  if (isPending) return ["Asking…", limit, false];
  // an old zero may have units again: then the shop is asked
  if (available === 0 && isTrusted) return ["Sold out", "All units are held or bought. When a hold ends, its units show up here.", false];
  if (isFull) return ["Buy", "You have as many purchases open as this page keeps. Pay or give back one first.", false];
  if (isTrusted || link === "connecting") return ["Buy", limit, true];
  return ["Buy", "This number may have changed since. You can ask for a unit all the same: the shop decides.", true];
}

// Of a hold; null when there is none, or its time is up.
function leftToPay({ phase, purchase }, shopNowMs) {
  if (phase !== "bought" || purchase.state !== "HELD") return null;
  const leftMs = Date.parse(purchase.deadline) - shopNowMs;
  return leftMs > 0 ? leftMs : null;
}

function action(element, name, isShown, label, item) {
  const button = element.querySelector(`.${name}`);
  if (!isShown && button === document.activeElement) focusable(element).focus();
  hide(button, !isShown);
  text(button, label);
  attribute(button, "aria-label", `${label}: ${item}`);
}

// Where the focus goes when its button disappears: the card says how it stands.
function focusable(element) {
  const title = element.querySelector("h3");
  title.tabIndex = -1;
  return title;
}

function by(id) {
  return document.getElementById(id);
}

function stamp(id) {
  return by(id).content.firstElementChild.cloneNode(true);
}

function text(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

function attribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

function hide(element, isHidden) {
  if (element.hidden !== isHidden) element.hidden = isHidden;
}
