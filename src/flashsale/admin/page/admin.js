// Composition: who is signed in, which part of the page is shown, and the beat that keeps it fresh.

import { get } from "./api.js";
import { aside, message } from "./aside.js";
import { DeedDialog } from "./deed.js";
import { by, h, morph } from "./dom.js";
import { address, purchase, purchases } from "./purchases.js";
import { record } from "./record.js";
import { sale, sales } from "./sales.js";
import { SignIn } from "./signin.js";
import { deed as words, units, verdict } from "./words.js";

const VERDICT_MS = 5000;
const SAID_MS = 6000;
const RETRY_MS = 3000; // of a part that could not be read
const VIEWS = { sales: [sales, sale], purchases: [purchases, purchase], aside: [aside, message], record: [record, record] };

let me = null;
let dialog = null;
let shown = null; // {hash, view, name, query}
let next = 0; // the timer of the next reading
let saying = 0;

const door = new SignIn({
  async prepare(who) {
    dialog ??= new DeedDialog(await get("/api/actions"), done, failed);
    me = who;
  },
  enter: () => Promise.all([go(), judge()]),
  leave() {
    me = null;
    shown = null;
    clearTimeout(next);
    by("verdict").hidden = true;
    by("main").replaceChildren();
  },
  say,
});

// Shows the part of the page that the address names; its heading gets the focus, as a new page's would.
async function go() {
  if (!me) return;
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [part, name = ""] = path.split("/");
  const [list, one] = VIEWS[part] ?? VIEWS.sales;
  const isFirst = shown === null;
  shown = { view: name ? one : list, name: decoded(name), query: Object.fromEntries(new URLSearchParams(search)) };
  for (const link of document.querySelectorAll(".top nav a")) {
    if (link.hash === `#/${VIEWS[part] ? part : "sales"}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  by("main").replaceChildren(h("p", { class: "empty" }, "Loading…"));
  await show();
  if (!isFirst) by("main").querySelector("h1")?.focus();
}

async function show() {
  clearTimeout(next);
  const mine = shown;
  if (!mine) return;
  const { view, name, query } = mine;
  try {
    const data = await view.load(name, query);
    if (shown !== mine) return;
    document.title = `${view.title(data)} · Flash sale admin`;
    morph(by("main"), view.draw(data, me));
  } catch (problem) {
    if (shown !== mine) return;
    if (problem.status === 401) return door.ask("You were signed out.");
    if (!("isUnknown" in problem)) throw problem; // a mistake of ours
    if (problem.isUnknown) next = setTimeout(show, RETRY_MS);
    morph(by("main"), [h("div", { class: "head" }, h("h1", { tabindex: "-1" }, problem.status === 404 ? "Not here" : "Not now")), h("p", { class: "error" }, problem.message)]);
    return;
  }
  if (view.everyMs && shown === mine) next = setTimeout(() => (document.hidden ? again(view.everyMs) : show()), view.everyMs);
}

function again(ms) {
  next = setTimeout(() => (document.hidden ? again(ms) : show()), ms);
}

// The last audit, and how much was set aside, whatever part is shown.
async function judge() {
  if (!me) return;
  try {
    const { audit, aside: waiting } = await get("/api/overview");
    const [tone, sentence] = verdict(audit);
    by("verdict").hidden = false;
    by("verdict").dataset.tone = tone;
    if (by("verdict").textContent !== sentence) by("verdict").textContent = sentence;
    const count = waiting.is ? Object.values(waiting.is).reduce((all, each) => all + each, 0) : 0;
    by("aside-count").textContent = count ? ` ${units(count)}` : "";
  } catch (problem) {
    if (problem.status === 401) return door.ask("You were signed out.");
    by("verdict").hidden = false;
    by("verdict").dataset.tone = "warn";
    by("verdict").textContent = problem.message;
  }
}

async function done(action, operation) {
  say(`Done, and on record: ${words(action).title.toLowerCase()}${operation ? `, by ${operation.operator}` : ""}.`);
  // A message that was dealt with is not there any more.
  if (shown?.view === message) location.hash = "#/aside";
  else await Promise.all([show(), judge()]);
  // The button that was pressed may be gone with what it could do.
  if (document.activeElement === document.body) by("main").querySelector("h1")?.focus();
}

function failed(action, why) {
  say(`Not known to be done: ${words(action).title.toLowerCase()}. ${why}`);
}

function say(text) {
  by("said").textContent = text;
  clearTimeout(saying);
  saying = setTimeout(() => (by("said").textContent = ""), SAID_MS);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

document.addEventListener("click", (event) => {
  const pressed = event.target.closest?.("[data-deed]");
  if (pressed) dialog.open(pressed.dataset.deed, JSON.parse(pressed.dataset.values));
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.dataset.search) return;
  event.preventDefault();
  const query = Object.fromEntries([...new FormData(form)].map(([name, text]) => [name, text.trim()]).filter(([, text]) => text));
  const wanted = form.dataset.search === "purchases" ? address(query) : `#/record?${new URLSearchParams(query)}`;
  if (location.hash === wanted) show();
  else location.hash = wanted;
});

addEventListener("hashchange", go);
setInterval(() => document.hidden || judge(), VERDICT_MS);
door.start();
