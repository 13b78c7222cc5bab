// Everything the page says: verdicts, states and numbers in words. Pure.

// By verdict: what happened, and what to do about it. Every final refusal of the contract is here.
const REFUSALS = {
  sold_out: "Sold out: no unit was left for your wish. Units come back when a hold ends, and this page shows it at once.",
  over_limit: "You have reached the limit of units per buyer in this sale. Give one back to take another.",
  sale_not_open: "The sale is not open, so nothing was taken for you.",
  too_late: "Your place in the queue came up too late. Nothing was taken for you; you can try again.",
  unknown_sku: "This item is not on sale any more.",
  unknown_purchase: "This purchase is not yours, or no longer known here.",
  key_reused: "This wish was sent before with other items. Start a new one.",
  mixed_sales: "The items belong to two sales. Buy them one after the other.",
  duplicate_sku: "The same item was asked for twice. Start a new wish.",
  malformed: "The shop did not understand the request. Reload the page and try again.",
  too_large: "The shop did not understand the request. Reload the page and try again.",
  wrong_media_type: "The shop did not understand the request. Reload the page and try again.",
  forbidden: "You are signed in as somebody who may not buy here.",
};

const STATES = {
  AUTHORIZING: "Paying. Your bank is being asked; the unit stays yours meanwhile.",
  AUTHORIZED: "Paying. Your bank has agreed and the money is on its way.",
  PAID: "Paid. It is yours. Thank you!",
  DISPUTED: "Paid, and disputed at your bank, which will decide.",
  CHARGED_BACK: "Charged back. Your bank gave you your money.",
  REFUNDED: "Refunded. Your money was given back.",
  RESTOCKED: "Refunded. Your money was given back.",
  EXPIRED: "The time to pay is over and the unit went back on sale. If money should still arrive, you get it back.",
  CANCELLED: "Given back. Nothing was charged.",
  DECLINED: "The payment was declined for the last time and the unit went back on sale. Nothing was charged.",
};

// By state, how far a purchase is on the way that index.html shows: 0 asked, 1 held, 2 paying, 3 paid.
const STEPS = { HELD: 1, AUTHORIZING: 2, AUTHORIZED: 2, PAID: 3 };

const NOTES = {
  too_late: "That came too late: it is being paid, or the hold is over.",
  key_reused: "That payment was asked for in another way before. Try again.",
  unknown_purchase: REFUSALS.unknown_purchase,
};

export const TRIES_MAX = 3; // to pay, while the hold lives

// One sentence about a refusal, also about one that a later shop may invent.
export function refusal(verdict) {
  return REFUSALS[verdict] ?? `The shop said no (${verdict}).`;
}

// Why a wish to pay or to cancel was refused.
export function note(verdict) {
  return NOTES[verdict] ?? refusal(verdict);
}

// How a wish stands, in a sentence. `shopNowMs` decides whether a hold's time is up.
export function standing(wish, shopNowMs) {
  if (wish.isBlocked) return "Waiting for you to sign in. Your wish is kept.";
  switch (wish.phase) {
    case "asking":
      return wish.troubles ? "No answer yet. Asking again with the same key, so you cannot buy twice." : "Asking for a unit.";
    case "stuck":
      return "The shop does not answer. It may have taken your wish or not; ask again, and you get it once at most.";
    case "queued":
      return "You are in the queue. Your turn is coming; you may reload or leave this page open.";
    case "refused":
      return refusal(wish.verdict);
    default:
      return bought(wish, shopNowMs);
  }
}

function bought(wish, shopNowMs) {
  const { state, deadline, payments } = wish.purchase;
  if (state !== "HELD") return STATES[state] ?? `It is ${state.toLowerCase()}.`;
  if (Date.parse(deadline) <= shopNowMs) return "The time to pay is over. Asking what became of it.";
  if (wish.wants === "cancel") return "Giving it back.";
  if (wish.wants === "pay") return wish.troubles ? "No answer yet. Asking again; you pay once at most." : "Asking to pay.";
  const left = TRIES_MAX - payments.length;
  if (!payments.length) return "Held for you. Pay before the time is up.";
  return `The payment was declined. It is still held for you: ${left} ${left === 1 ? "try" : "tries"} left.`;
}

// How far a wish is, as a step; null when its way led elsewhere.
export function step(wish) {
  if (wish.phase === "asking" || wish.phase === "queued" || wish.phase === "stuck") return 0;
  return wish.phase === "bought" ? (STEPS[wish.purchase.state] ?? null) : null;
}

// "1:02:03", or with days in front; never below zero, and never more than there is.
export function countdown(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  const two = (number) => String(number).padStart(2, "0");
  const clock = hours || days ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
  return days ? `${days} d ${clock}` : clock;
}

// A moment in the reader's own time, as in "at 10:00 UTC"; with the day, when that is not today.
export function moment(ms, nowMs) {
  const isToday = new Date(ms).toDateString() === new Date(nowMs).toDateString();
  const day = isToday ? {} : { weekday: "long", day: "numeric", month: "long" };
  return new Intl.DateTimeFormat(undefined, { ...day, hour: "2-digit", minute: "2-digit", timeZoneName: "short" }).format(ms);
}

// How fast an item goes, as pace.js tells it.
export function pace(told) {
  return told ? `${units(told.perMinute)} taken a minute` : "measuring the pace";
}

// The age of something, coarse, as in "12 s old".
export function age(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
}

export function money(minor, currency) {
  const format = new Intl.NumberFormat(undefined, { style: "currency", currency });
  return format.format(minor / 10 ** format.resolvedOptions().maximumFractionDigits);
}

const NUMBER = new Intl.NumberFormat(); // made once: numbers are painted many times a second

export function units(number) {
  return NUMBER.format(number);
}

const BADGES = {
  connecting: () => "connecting",
  live: () => "live",
  old: (ageMs) => `stale, ${age(ageMs)} old`,
  polled: (ageMs) => `checked ${age(ageMs)} ago`,
  lost: (ageMs) => (ageMs === null ? "reconnecting" : `reconnecting, ${age(ageMs)} old`),
  over: () => "no sale running",
};

// The freshness of the numbers, as feed.js judges it.
export function badge({ kind, ageMs }) {
  return BADGES[kind](ageMs);
}

// What a screen reader is told about an item's units, or null when nothing worth saying happened between two numbers.
export function stockNews(name, before, now, total) {
  if (before === now || before === null) return null;
  if (now === 0) return `${name}: sold out.`;
  if (before === 0) return `${name}: units are back, ${units(now)} left.`;
  const step = [0.5, 0.2, 0.05].find((share) => before > total * share && now <= total * share);
  return step ? `${name}: ${units(now)} of ${units(total)} left.` : null;
}
