// Composition of the operations page: one stream of figures, painted at the pace of eyes; what is done to the balancer; what is said.

import { Announcer } from "./announcer.js";
import { get, whoAmI } from "./api.js";
import { Board, books, kept, list } from "./board.js";
import { DeedDialog } from "./deed.js";
import { by } from "./dom.js";
import { attribute, hide, text } from "./grid.js";
import { History } from "./history.js";
import { clockTime, span } from "./measures.js";
import { Pulse } from "./pulse.js";
import { SignIn } from "./signin.js";
import { Stream } from "./stream.js";
import { deed as words } from "./words.js";

const PAINT_MS = 250; // four times a second is enough for eyes
const SAID_MS = 6000;
const BYES = { full: "Full: as many look as may; trying again", stopping: "The admin's process was stopped; trying again" };

// A wall clock is set now and then, and what was heard before would seem to be of another time.
const localNow = () => performance.timeOrigin + performance.now();
let pulse = new Pulse();
const history = new History();
const announcer = new Announcer();
const board = new Board(history);
let frame = null; // the latest
let painted = null; // the one that is shown
let drawnS = 0; // the second that the lines end with
let isPaused = false;
let told = {}; // what was last said of each topic
let actions = null; // what can be done, as the process describes it
let dialog = null;
let quiet = 0;

const stream = new Stream("/api/operations/stream", {
  heard(latest) {
    frame = latest;
    pulse.heard(Date.parse(latest.at), localNow());
    history.add(Date.parse(latest.at), kept(latest));
  },
  bye: (word) => pulse.bye(word),
  broke: () => pulse.broke(),
  async refused() {
    const who = await whoAmI().catch(() => "unknown");
    if (!who) door.ask("You were signed out.");
    return who !== null;
  },
});

const door = new SignIn({
  async prepare({ isOperator }) {
    actions ??= await get("/api/actions");
    dialog ??= new DeedDialog(actions, done, (action, why) => say(`Not known to be done: ${words(action).title.toLowerCase()}. ${why}`));
    board.isOperator = isOperator;
  },
  enter() {
    by("main").hidden = false;
    stream.open();
  },
  leave() {
    stream.close();
    by("main").hidden = true;
    frame = painted = null;
    [drawnS, told, isPaused, pulse] = [0, {}, false, new Pulse()];
    attribute(by("pause"), "aria-pressed", false);
    board.clear();
    text(by("said"), "");
    by("reason").value = "";
  },
  say,
});

function done(action) {
  say(`Done, and on record: ${words(action).title.toLowerCase()}.`);
}

// Seen for a moment, and heard.
function say(words) {
  attribute(by("said"), "class", "toast");
  text(by("said"), words);
  quiet = performance.now() + SAID_MS;
}

function beat() {
  if (document.hidden || by("main").hidden) return;
  requestAnimationFrame(() => {
    paintPulse();
    if (frame && frame !== painted && !isPaused) {
      painted = frame;
      board.paint(frame);
      const second = Math.floor(Date.parse(frame.at) / 1000);
      if (second !== drawnS) board.draw(frame);
      drawnS = second;
    }
    announce();
  });
}

function paintPulse() {
  const freshness = pulse.freshness(localNow());
  attribute(by("badge"), "data-kind", isPaused ? "paused" : freshness.kind);
  attribute(by("badge"), "data-age-ms", freshness.ageMs === null ? null : Math.round(freshness.ageMs));
  text(by("freshness"), isPaused && painted ? `Paused at ${clockTime(Date.parse(painted.at))}` : badge(freshness));
  attribute(by("main"), "data-trusted", freshness.kind === "live" && !isPaused);
}

function badge({ kind, ageMs, tries, bye }) {
  const age = ageMs === null ? "" : span(ageMs / 1000);
  if (kind === "live") return "Live";
  if (kind === "stale") return `Stale: nothing new for ${age}`;
  if (kind === "reconnecting") return `${BYES[bye] ?? `Reconnecting, try ${tries}`}${age && `: shown as of ${age} ago`}`;
  return "Connecting…";
}

// What changed since it was last said: of the stream and the books at once, of everything else seldom. The first word of each thing is
// no news.
function announce() {
  const { kind } = pulse.freshness(localNow());
  topic("link", { live: "Figures are live again.", stale: "Figures are stale.", reconnecting: "The stream broke; reconnecting." }[kind] ?? "", false);
  if (frame) {
    topic("books", `${books(frame.audit)[1]}.`, false);
    for (const { name, word, state } of list(frame.balancer?.servers)) topic(`server ${name}`, `${name}: ${word ?? state}.`);
    if (frame.balancer?.algorithm) topic("algorithm", `The balancer chooses by ${frame.balancer.algorithm}.`);
    topic("bench", frame.bench ? `Benchmark ${frame.bench.name} runs.` : "No benchmark runs.");
  }
  if (performance.now() < quiet) return;
  const next = announcer.next(performance.now());
  if (!next && by("said").className !== "toast") return;
  attribute(by("said"), "class", "visually-hidden");
  text(by("said"), next ?? "");
}

function topic(name, words, isNews = true) {
  const before = told[name];
  told[name] = words;
  if (before && before !== words && words) announcer.add(name, words, isNews);
}

by("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  attribute(by("pause"), "aria-pressed", isPaused);
  paintPulse();
});

document.addEventListener("click", (event) => {
  const pressed = event.target.closest?.("[data-deed]");
  if (!pressed) return;
  const field = (action, name) => actions[action].fields.find((each) => each.name === name);
  if (frame.balancer?.algorithms) Object.assign(field("balancer.algorithm", "algorithm"), { choices: frame.balancer.algorithms, default: frame.balancer.algorithm });
  if (pressed.dataset.weight) field("balancer.weight", "weight").default = pressed.dataset.weight;
  dialog.open(pressed.dataset.deed, JSON.parse(pressed.dataset.values));
});

setInterval(beat, PAINT_MS);
document.addEventListener("visibilitychange", beat);
door.start();
