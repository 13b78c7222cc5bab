// A wish to buy, from the click to the end of the purchase. Pure: a wish is plain data that can be stored, `nextCall` says
// what to ask for it, `heard` what an answer makes of it. Laws: a wish has one key for ever, so that it buys once however
// often it is sent; a refusal is final only when the shop decided, never because an answer was lost; a purchase never goes
// back to an older version of itself.

const FINAL = new Set(["PAID", "DISPUTED", "CHARGED_BACK", "REFUNDED", "RESTOCKED", "EXPIRED", "CANCELLED", "DECLINED"]);
const BEING_PAID = new Set(["AUTHORIZING", "AUTHORIZED"]);
const UNKNOWN_STATUSES = new Set([500, 502, 504]); // like no answer: it may have been done
const LATER_STATUSES = new Set([429, 503]); // nothing was done
const FOLLOW_LATER_MAX = 4; // while following a queued wish; after these the attempt may have been set aside
const PATIENCE_MS = 120_000; // without an answer; then the buyer is asked whether to go on
const WAIT_S = 10; // `Prefer: wait` of a long poll
const WAIT_PAYING_S = 1; // what changed before the wait began is seen after this
const PAUSE_MS = 300; // before the second try; doubled each time
const PAUSE_MAX_MS = 5000;
const STEP_MS = 300; // between two polls, which mostly wait at the server
const RETRY_MARK_MAX = 9999;

export function newWish({ key, sku, quantity, name, sale, holdMs, buyer, nowMs }) {
  return {
    key, sku, quantity, name, sale, holdMs, buyer, madeMs: nowMs, sinceMs: nowMs,
    phase: "asking", // stuck | queued | bought | refused
    unknown: 0, // sends whose fate is not known: the next one says that it is a retry
    isSent: false, // a send is under way; found so after a reload, its fate is unknown
    troubles: 0, // answers in a row that were none
    laters: 0,
    isBlocked: false, // its buyer is not signed in
    isSeen: false, // the purchase was asked for since the page was loaded
    id: null, receipt: null, purchase: null, verdict: null,
    wants: null, // "pay" or "cancel"
    payKey: null, // of the try under way
    note: null, // the verdict on the last wish to pay or cancel
  };
}

// A wish as it comes out of storage: whatever was under way is unknown now.
export function resumed(wish, nowMs) {
  const unknown = wish.unknown + (wish.phase === "asking" && wish.isSent ? 1 : 0);
  return { ...wish, unknown, isSent: false, troubles: 0, laters: 0, isBlocked: false, isSeen: false, sinceMs: nowMs };
}

// A wish that another tab runs: a send of it may be under way there.
export function adopted(wish, nowMs) {
  return resumed({ ...wish, isSent: true }, nowMs);
}

export function isOver(wish) {
  return wish.phase === "refused" || (wish.phase === "bought" && FINAL.has(wish.purchase.state));
}

// Must the buyer wait for this one before wishing for the same item again?
export function isOpen(wish) {
  return wish.phase === "asking" || wish.phase === "queued" || wish.phase === "stuck";
}

export function canPay(wish, shopNowMs) {
  return isHeld(wish) && wish.wants === null && Date.parse(wish.purchase.deadline) > shopNowMs;
}

export function canCancel(wish, shopNowMs) {
  return canPay(wish, shopNowMs);
}

export function wantsToPay(wish, payKey) {
  return { ...wish, wants: "pay", payKey, note: null, troubles: 0 };
}

export function wantsToCancel(wish) {
  return { ...wish, wants: "cancel", note: null, troubles: 0 };
}

export function askedAgain(wish, nowMs) {
  return { ...wish, phase: "asking", sinceMs: nowMs, troubles: 0 };
}

// Somebody signed in. A wish that no shop can have taken is theirs; any other waits for the buyer who made it, for it is
// unknown to the shop under another name, and sent under one it would buy a second time.
export function signedIn(wish, buyer) {
  const isNobodys = wish.phase === "asking" && !wish.unknown && !wish.isSent;
  if (wish.buyer !== buyer && !isNobodys) return { ...wish, isBlocked: true };
  return { ...wish, buyer, isBlocked: false, troubles: 0 };
}

// Of one wish, as two tabs know it, the one that is further.
export function further(ours, theirs) {
  const step = ({ phase, purchase }) => (phase === "bought" ? 2 + purchase.version : Number(phase !== "asking" && phase !== "stuck"));
  return step(theirs) > step(ours) ? { ...theirs, isSeen: ours.isSeen, isBlocked: ours.isBlocked } : ours;
}

// What to ask now: a request as wire.js sends it, or null while there is nothing to ask. With `mayWait` the server may be
// asked to wait for news.
export function nextCall(wish, shopNowMs, mayWait = true) {
  if (wish.isBlocked) return null;
  if (wish.phase === "asking") return buy(wish);
  if (wish.phase === "queued") {
    return call("follow", "GET", `/purchases/${wish.id}`, { Receipt: wish.receipt }, mayWait ? WAIT_S : 0);
  }
  if (wish.phase !== "bought") return null;
  const path = `/purchases/${wish.purchase.id}`;
  if (isHeld(wish) && wish.wants === "pay") {
    return call("pay", "POST", `${path}/pay`, { "Idempotency-Key": wish.payKey }, 0, { method: "card" });
  }
  if (isHeld(wish) && wish.wants === "cancel") return call("cancel", "POST", `${path}/cancel`, {}, 0);
  if (FINAL.has(wish.purchase.state) && wish.isSeen) return null;
  return call("look", "GET", path, {}, mayWait ? waitFor(wish, shopNowMs) : 0);
}

function buy(wish) {
  const headers = { "Idempotency-Key": wish.key };
  if (wish.unknown) headers["Retry-Attempt"] = String(Math.min(wish.unknown, RETRY_MARK_MAX));
  return call("buy", "POST", "/purchases", headers, 0, { items: [{ sku: wish.sku, quantity: wish.quantity }] });
}

function call(kind, method, path, headers, waitS, body = null) {
  return { kind, method, path, headers: waitS ? { ...headers, Prefer: `wait=${waitS}` } : headers, body, waitS };
}

function waitFor(wish, shopNowMs) {
  const { state, deadline } = wish.purchase;
  if (!wish.isSeen || FINAL.has(state)) return 0;
  if (BEING_PAID.has(state)) return WAIT_PAYING_S;
  const leftS = Math.ceil((Date.parse(deadline) - shopNowMs) / 1000);
  return Math.min(WAIT_S, Math.max(1, leftS + 1)); // the end of the hold is news that comes by itself
}

function isHeld(wish) {
  return wish.phase === "bought" && wish.purchase.state === "HELD";
}

// An answer {status, body, retryAfterS} to `asked`, or null when there was none. Returns the wish as it is now and how long
// to pause before the next call. `dice` in [0, 1) spreads the crowd.
export function heard(wish, asked, answer, nowMs, dice) {
  const now = { ...wish, isSent: false };
  if (isOvertaken(wish, asked, answer)) return after(now, STEP_MS * (1 + dice));
  if (answer === null || UNKNOWN_STATUSES.has(answer.status) || !isOfContract(asked, answer)) {
    return tired({ ...now, unknown: now.unknown + (asked.kind === "buy" ? 1 : 0) }, nowMs, backoff(now.troubles, dice));
  }
  if (LATER_STATUSES.has(answer.status)) {
    const pauseMs = (answer.retryAfterS ?? 1) * 1000 + dice * 500;
    if (asked.kind === "follow" && now.laters + 1 >= FOLLOW_LATER_MAX) return after(sendAgain(now), pauseMs);
    return tired({ ...now, laters: now.laters + 1 }, nowMs, pauseMs);
  }
  if (answer.status === 401) return after({ ...now, isBlocked: true }, 0);
  if (answer.body.verdict === "in_flight") return tired(now, nowMs, backoff(now.troubles, dice));
  const rested = { ...now, troubles: 0, laters: 0, sinceMs: nowMs };
  if (answer.status >= 400) return refused(rested, asked, answer.body.verdict);
  if (answer.body.state === "QUEUED") {
    const { id, receipt } = answer.body;
    return after({ ...rested, phase: "queued", id, receipt }, STEP_MS * (1 + dice));
  }
  return bought(rested, asked, answer.body, dice);
}

// While this was asked, another tab heard of the purchase. Whatever else is said now is older than that, so the next look
// decides.
function isOvertaken(wish, asked, answer) {
  if (wish.phase !== "bought" || (asked.kind !== "buy" && asked.kind !== "follow")) return false;
  return answer === null || answer.status >= 400 || !isOfContract(asked, answer) || answer.body.state === "QUEUED";
}

function bought(wish, asked, purchase, dice) {
  const isNewer = !wish.purchase || purchase.version >= wish.purchase.version;
  const now = { ...wish, phase: "bought", id: purchase.id, purchase: isNewer ? purchase : wish.purchase, verdict: "held" };
  now.isSeen = wish.isSeen || asked.kind === "look";
  if (asked.kind === "pay" || asked.kind === "cancel" || !isHeld(now)) now.wants = null;
  return after(now, asked.kind === "look" ? STEP_MS * (1 + dice) : 0);
}

function refused(wish, asked, verdict) {
  if (asked.kind === "pay" || asked.kind === "cancel") return after({ ...wish, wants: null, note: verdict }, 0);
  // A receipt grows old sooner than a purchase: the key still knows.
  if (asked.kind === "follow" && verdict === "malformed") return after(sendAgain(wish), STEP_MS);
  return after({ ...wish, phase: "refused", verdict }, 0);
}

function sendAgain(wish) {
  return { ...wish, phase: "asking", receipt: null, laters: 0, unknown: wish.unknown + 1 };
}

function tired(wish, nowMs, pauseMs) {
  const isOutOfPatience = wish.phase === "asking" && nowMs - wish.sinceMs > PATIENCE_MS;
  return after({ ...wish, troubles: wish.troubles + 1, phase: isOutOfPatience ? "stuck" : wish.phase }, pauseMs);
}

function after(wish, pauseMs) {
  return { wish, pauseMs };
}

function backoff(troubles, dice) {
  return Math.min(PAUSE_MS * 2 ** Math.min(troubles, 10), PAUSE_MAX_MS) * (0.5 + dice);
}

// A cache or a captive portal may answer anything with 200.
function isOfContract(asked, { status, body }) {
  if (body === null || typeof body !== "object") return LATER_STATUSES.has(status) || status === 401;
  if (status >= 400) return typeof body.verdict === "string" || LATER_STATUSES.has(status) || status === 401;
  if (body.state === "QUEUED") return typeof body.id === "string" && typeof body.receipt === "string";
  return typeof body.id === "string" && typeof body.version === "number" && Array.isArray(body.payments);
}
