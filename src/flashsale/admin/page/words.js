// Everything the page says of a value. Pure.

import { h } from "./dom.js";

const LOCALE = "en-GB";
const MOMENT = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "medium" });
const SHORT = new Intl.DateTimeFormat(LOCALE, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const NUMBER = new Intl.NumberFormat(LOCALE);

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const DETAIL_CHARS_MAX = 120;

const TONES = {
  OPEN: "good", PAID: "good", SCHEDULED: "accent", PAUSED: "warn", HELD: "accent", AUTHORIZING: "accent", AUTHORIZED: "accent",
  DISPUTED: "bad", CHARGED_BACK: "bad", REFUNDING: "warn", REFUNDED: "warn", CAPTURED: "good", ASKED: "accent",
};

// Of each deed: the dialog's title, its button, and whether it cannot be taken back.
const DEEDS = {
  "sale.create": ["New sale", "Create the sale"],
  "sale.open": ["Open the sale", "Open it now"],
  "sale.pause": ["Pause the sale", "Pause it"],
  "sale.end": ["End the sale", "End it for good", true],
  "sale.schedule": ["Schedule the sale", "Change its times"],
  "sale.limit": ["Change the terms", "Change the terms"],
  "sale.add-item": ["Add an item", "Add the item"],
  "sale.restock": ["Restock", "Add the units"],
  "sale.clone": ["Clone the sale", "Create the clone"],
  "purchase.refund": ["Refund the purchase", "Give the money back", true],
  "purchase.restock": ["Put the units back on sale", "Restock them"],
  "purchase.cancel": ["Cancel the hold", "Give the hold up", true],
  "dlq.requeue": ["Replay", "Replay"],
  "dlq.drop": ["Discard", "Discard for good", true],
  "balancer.drain": ["Drain the server", "Drain it"],
  "balancer.undrain": ["Undrain the server", "Give it its share again"],
  "balancer.weight": ["Change the weight", "Change the weight"],
  "balancer.algorithm": ["Switch the algorithm", "Switch it"],
};

const LABELS = {
  sale: "Sale", sku: "SKU", merchant: "Merchant", name: "Name", opens: "Opens", closes: "Closes", limit: "Units per buyer",
  hold_seconds: "Seconds a hold lasts", currency: "Currency", price_minor: "Price in minor units", units: "Units", clone: "Name of the clone",
  suffix: "Suffix of its SKUs", purchase: "Purchase", queue: "Queue", message: "Message", buyer_limit: "Units per buyer",
  state: "State", buyer: "Buyer", since: "Held since", until: "Held before", id: "Purchase id",
  server: "Server", weight: "Weight", algorithm: "Algorithm",
};

export function units(number) {
  return number === null || number === undefined ? "–" : NUMBER.format(number);
}

export function money(minor, currency) {
  const form = new Intl.NumberFormat(LOCALE, { style: "currency", currency });
  return form.format(minor / 10 ** form.resolvedOptions().maximumFractionDigits);
}

export function moment(text) {
  return text ? h("time", { datetime: text }, MOMENT.format(new Date(text))) : "–";
}

export function briefly(text) {
  return h("time", { datetime: text }, SHORT.format(new Date(text)));
}

// What a record or a message is about: a purchase can be followed.
export function subject(name) {
  if (!UUID.test(name)) return h("span", { class: "id" }, name);
  return h("a", { class: "id", href: `#/purchases/${name}` }, name.slice(0, 8), h("span", { class: "visually-hidden" }, name.slice(8)));
}

export function state(name) {
  return h("span", { class: "pill", "data-tone": TONES[name] ?? "none" }, sentence(name));
}

export function sentence(name) {
  const words = String(name).replaceAll("_", " ").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export function deed(action) {
  const [title, button, isFinal = false] = DEEDS[action] ?? [action, action];
  return { title, button, isFinal };
}

export function label(name) {
  return LABELS[name] ?? sentence(name);
}

// A value of a plan: times as times, nothing as nothing.
export function value(what, given) {
  if (given === null || given === undefined) return h("span", { class: "hint" }, "nothing");
  if (what === "state" || what.startsWith("payment ")) return state(given);
  if (/^\d{4}-\d\d-\d\dT/.test(String(given))) return moment(given);
  if (typeof given === "boolean") return given ? "yes" : "no";
  return typeof given === "number" ? units(given) : String(given);
}

// What the last audit says: a tone and a sentence.
export function verdict(audit) {
  if (!audit.is) return ["warn", `Books not audited: ${audit.away}`];
  const { clean, ready, age_s, passes, violations } = audit.is;
  if (!clean) return ["bad", `The books are wrong: ${violations.map(({ rule, count }) => `${rule} (${count})`).join(", ")}`];
  if (!ready) return ["warn", "The auditor has not looked lately"];
  return ["good", `The books are right: nothing oversold, lost or stuck in ${units(passes)} audits, the last ${Math.round(age_s)} s ago`];
}

// Units of a sale as one bar; whoever cannot see it hears the numbers.
export function bar({ units: all, held, available }) {
  const taken = Math.max(0, all - held - available);
  const part = (number) => (all ? (100 * number) / all : 0);
  return h("svg", { class: "stock", viewBox: "0 0 100 1", preserveAspectRatio: "none", role: "img",
    "aria-label": `${units(taken)} taken, ${units(held)} held, ${units(available)} available, of ${units(all)} units` },
    h("rect", { class: "taken", x: 0, width: part(taken), height: 1 }),
    h("rect", { class: "held", x: part(taken), width: part(held), height: 1 }));
}

export function tile(term, figure, more, kind) {
  return h("div", {}, h("dt", { class: kind }, term), h("dd", {}, figure, more && h("small", {}, more)));
}

// A table whose rows become cards on a narrow screen, by the labels that each cell carries. Laid out as a grid, an element is no
// table any more to a screen reader, so the roles are said.
export function table(caption, columns, rows, none) {
  if (!rows.length) return h("p", { class: "empty" }, none);
  return h("div", { class: "scroll" }, h("table", { role: "table" },
    h("caption", { class: "visually-hidden" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map(([name, kind]) => h("th", { role: "columnheader", scope: "col", class: kind }, name || h("span", { class: "visually-hidden" }, "Actions"))))),
    h("tbody", { role: "rowgroup" }, rows.map((cells) => h("tr", { role: "row" }, cells.map((cell, place) =>
      h("td", { role: "cell", "data-label": columns[place][0], class: columns[place][1] }, cell)))))));
}

// Beside what they were done to, the subject is left out.
export function deeds(rows, isOfOne = false) {
  const columns = [["When"], ["Who"], ["What"], ["Subject"], ["Why", "wide"]];
  const cells = (row) => [moment(row.at), row.operator, done(row), subject(row.subject ?? ""), row.reason];
  const shown = (list) => (isOfOne ? list.filter((_, place) => place !== 3) : list);
  return table("What was done by hand", shown(columns), rows.map((row) => shown(cells(row))), "Nothing was done by hand.");
}

function done({ action, detail }) {
  const told = Object.entries(detail ?? {}).filter(([, given]) => given !== null).map(([name, given]) => `${label(name).toLowerCase()} ${plain(given)}`);
  const text = told.join(", ");
  return h("span", {}, h("code", {}, action), text && h("small", { class: "hint told" }, text.length > DETAIL_CHARS_MAX ? `${text.slice(0, DETAIL_CHARS_MAX)}…` : text));
}

function plain(given) {
  if (/^\d{4}-\d\d-\d\dT/.test(String(given))) return MOMENT.format(new Date(given));
  return typeof given === "object" ? JSON.stringify(given) : String(given);
}

// A button that opens the dialog of a deed; `values` are settled, the rest is asked for.
export function button(action, text, values, more = {}) {
  return h("button", { type: "button", "data-deed": action, "data-values": JSON.stringify(values), ...more }, text);
}
