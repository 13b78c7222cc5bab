// The page's parts, each painted from its part of a frame. A part that is away says why, where its figures would stand.

import { Chart, sample, sparks } from "./charts.js";
import { by, h, morph } from "./dom.js";
import { Grid, attribute, hide, text } from "./grid.js";
import { NONE, clockTime, cores, count, mib, ms, rate, ratio, span } from "./measures.js";
import { briefly, sentence, state } from "./words.js";

const HUES = 6;
const SALES_MAX = 4; // shown, the latest

// Of each figure of the audit: what it is called, and what any but zero means.
const BOOKS = {
  oversold: ["Oversold", "more units than there were"],
  lost: ["Lost", "promised, and not on record"],
  duplicated: ["Duplicated", "one wish, counted twice"],
  leaked: ["Leaked", "held, and nobody's"],
  drift: ["Drift", "gate and books differ"],
};
// Of each state of a server: a tone. What it is called, the balancer says.
const TONES = { up: "good", draining: "warn", drained: "warn", leaving: "warn", ejected: "bad", down: "bad" };
const WELL = "serving"; // the balancer's word for it
const PROVEN = "clean"; // the auditor's, once it has looked lately
const KINDS = {
  "sale.opened": "accent", "sale.sold_out": "accent", "sale.paused": "warn", "server.up": "good", "server.undrained": "good", "server.drained": "warn",
  "server.down": "bad", "server.ejected": "bad", "server.removed": "warn", "balancer.restarted": "bad", "process.back": "good", "process.restarted": "warn",
  "process.away": "bad", "audit.found": "bad",
};
const BY_HAND = "deed"; // what it did is an event of its own
// Rows of the comparison: a heading alone, or what a backend is asked for and how its answer is said.
const COMPARED = [
  ["Answers", ({ rate_per_s }) => rate_per_s, rate],
  ["Held", ({ held_per_s }) => held_per_s, rate],
  ["Refused", ({ refused_per_s }) => refused_per_s, rate],
  ["Errors", ({ errors_per_s }) => errors_per_s, rate],
  ...["accepted", "decided"].flatMap((clock) => [
    [sentence(clock), null, null],
    ...["p50", "p95", "p99"].map((part) => [part, (backend) => backend[clock]?.[`${part}_ms`], ms, clock]),
  ]),
];

const QUEUES_DRAWN = HUES; // the first of them by name, beginning with hues that are no backend's; the table has all

export class Board {
  #history;
  #backends = []; // as last heard: a part that is away takes no line from the charts
  #queues = [];
  #charts = {};
  #servers;
  #depths;
  #processes;
  #sparks = []; // the lines in its cells

  constructor(history) {
    this.#history = history;
    this.#charts.rates = new Chart(by("rates"), { title: "Answers a second", form: rate });
    this.#charts.latencies = new Chart(by("latencies"), { title: "p99, accepted and decided", form: ms, isLog: true });
    this.#charts.depths = new Chart(by("depths"), { title: "Queue depth", form: count });
    this.#charts.lags = new Chart(by("lags"), { title: "Commit lag", form: ms, isLog: true });
    const number = (title, form, name) => ({ title, kind: "number", paint: (cell, row) => text(cell, form(row[name])) });
    this.#servers = new Grid(by("servers-table"), "Servers", [
      { title: "Server", paint: (cell, { name }) => text(cell, name) },
      { title: "Backend", paint: (cell, { backend }) => text(cell, backend ?? NONE) },
      { title: "State", paint: paintState },
      number("Weight", count, "weight"), number("In flight", count, "in_flight"), number("Requests", rate, "requests_per_s"),
      number("Errors", rate, "errors_per_s"), number("Retries", rate, "retries_per_s"), number("p99", ms, "p99_ms"),
      { title: "", kind: "do", paint: (cell, row) => this.isOperator && paintDeeds(cell, row) },
    ]);
    this.#depths = new Grid(by("queues-table"), "Queues", [
      { title: "Queue", paint: (cell, { name }) => text(cell, name) },
      number("Waiting", count, "depth"), number("Consumers", count, "consumers"),
    ]);
    this.#processes = new Grid(by("processes-table"), "CPU and memory per process", [
      { title: "Process", paint: paintProcess },
      { title: "CPU, 5 min", kind: "line", paint: (cell, { cpu, cpuMost }) => this.#sparks.push({ canvas: canvasOf(cell), values: cpu, most: cpuMost }) },
      { title: "Cores", kind: "number", paint: (cell, { cpu_cores }) => text(cell, cores(cpu_cores)) },
      { title: "highest", kind: "number quiet", paint: (cell, { cpu }) => text(cell, cores(highest(cpu))) },
      { title: "Memory, 5 min", kind: "line", paint: (cell, { rss, rssMost }) => this.#sparks.push({ canvas: canvasOf(cell), values: rss, most: rssMost }) },
      { title: "RSS", kind: "number", paint: (cell, { rss_mib }) => text(cell, mib(rss_mib)) },
      { title: "highest", kind: "number quiet", paint: (cell, { rss }) => text(cell, mib(highest(rss))) },
    ]);
  }

  isOperator = false;

  // The numbers, several times a second.
  paint(frame) {
    this.#paintBooks(frame.audit);
    paintSales(list(frame.sales));
    this.#paintBackends(frame.backends);
    this.#paintServers(frame.balancer);
    this.#paintQueues(frame);
    paintBench(frame.bench);
    paintEvents(list(frame.events));
  }

  // Of what was shown nothing is left in the page: whoever comes next may be another.
  clear() {
    this.#history.clear();
    this.paint({});
    this.draw({});
  }

  // The lines, once a second.
  draw(frame) {
    const times = this.#history.times();
    const events = list(frame.events).filter(({ kind }) => kind !== BY_HAND).map(({ at, kind }) => ({ at: Date.parse(at) / 1000, label: sentence(kind.split(".").at(-1)) }));
    const line = (key, name, hue, isDashed = false) => ({ name, hue, isDashed, values: this.#history.values(key) });
    const each = (make) => this.#backends.flatMap(({ name }, hue) => make(name, hue));
    this.#charts.rates.paint(times, each((name, hue) => [line(`rate ${name}`, name, hue), line(`refused ${name}`, `${name} refused`, hue, true)]), events);
    this.#charts.latencies.paint(times, each((name, hue) => [line(`accepted ${name}`, `${name} accepted`, hue), line(`decided ${name}`, `${name} decided`, hue, true)]), events);
    this.#charts.depths.paint(times, this.#queues.slice(0, QUEUES_DRAWN).map(({ name }, place) => line(`depth ${name}`, name, (place + this.#backends.length) % HUES)), events);
    this.#charts.lags.paint(times, [line("lag p50", "p50", 3), line("lag p99", "p99", 3, true)], events);
    this.#paintProcesses(frame.processes);
  }

  #paintBooks(audit) {
    const [tone, words] = books(audit);
    attribute(by("books"), "data-tone", tone);
    text(by("books-word"), words);
    text(by("books-age"), isKnown(audit?.age_s) ? `audited ${span(audit.age_s)} ago` : "");
    morph(by("books-figures"), Object.entries(BOOKS).map(([name, [title, meaning]]) => {
      const value = audit?.[name];
      const [mark, says] = !isKnown(value) ? ["none", "not known"] : value ? ["bad", meaning] : audit.word === PROVEN || !audit.clean ? ["good", "none"] : ["none", "none, as of then"];
      return h("div", { "data-tone": mark }, h("dt", {}, title), h("dd", {}, h("span", { class: "figure" }, count(value)), h("small", {}, says)));
    }));
  }

  #paintBackends(part) {
    hide(by("backends-away"), !part?.away);
    text(by("backends-away"), part?.away ?? "");
    this.#backends = part?.away ? nothingOf(this.#backends) : list(part);
    morph(by("backends-head"), [h("th", { scope: "col" }, h("span", { class: "visually-hidden" }, "Figure")),
      ...this.#backends.map(({ name, servers, up }, hue) => h("th", { scope: "col" }, sample(hue), h("span", {}, name), h("small", {}, `${count(up)} of ${count(servers)} servers up`)))]);
    morph(by("backends-body"), COMPARED.map(([title, of, form, clock]) => {
      if (!of) return h("tr", { class: "group" }, h("th", { scope: "rowgroup", colspan: this.#backends.length + 1 }, title, h("small", {}, title === "Accepted" ? "to the first answer" : "to the verdict")));
      const values = this.#backends.map((backend) => of(backend));
      const most = Math.max(...values.filter(isKnown), 0);
      return h("tr", {}, h("th", { scope: "row" }, clock && h("span", { class: "visually-hidden" }, `${sentence(clock)} `), title), values.map((value, hue) =>
        h("td", {}, h("span", {}, form(value)), bar(hue, isKnown(value) && most ? value / most : 0))));
    }));
  }

  #paintServers(part) {
    hide(by("servers-away"), !part?.away);
    text(by("servers-away"), part?.away ?? "");
    const balancer = part?.away ? {} : (part ?? {});
    text(by("algorithm"), balancer.algorithm ?? NONE);
    hide(by("switch"), !this.isOperator || !balancer.algorithm);
    this.#servers.paint(list(balancer.servers).map((server) => ({ key: server.name, ...server })));
  }

  #paintQueues({ queues, dead_letters, gate, commit_lag, balancer }) {
    this.#queues = queues?.away ? nothingOf(this.#queues) : [...list(queues)].sort((one, other) => one.name.localeCompare(other.name));
    const lag = commit_lag ?? {};
    const depths = this.#queues.map(({ depth }) => depth).filter(isKnown);
    const waiting = depths.length ? depths.reduce((all, depth) => all + depth) : null;
    morph(by("tiles"), [
      tile("Waiting in queues", count(waiting), queues?.away ?? `in ${count(depths.length)} queues`),
      tile("Waiting at the balancer", count(balancer?.queue), balancer?.away ?? `${rate(balancer?.queue_refused_per_s)} refused, ${rate(balancer?.queue_late_per_s)} too late`),
      tile("Set aside", count(dead_letters?.n), dead_letters?.away ?? (dead_letters?.n ? "messages wait for a person" : "nothing waits for a person"), dead_letters?.n ? "warn" : null),
      tile("Gate drift", count(gate?.drift_units), gate?.away ?? copied(gate ?? {}), gate?.away || gate?.drift_units === 0 ? null : "warn"),
      tile("Commit lag, p99", ms(lag.p99_ms), lag.away ?? `p50 ${ms(lag.p50_ms)}, oldest in hand ${ms(lag.oldest_ms)}`),
    ]);
    this.#depths.paint(this.#queues.map((queue) => ({ key: queue.name, ...queue })));
  }

  #paintProcesses(part) {
    hide(by("processes-away"), !part?.away);
    text(by("processes-away"), part?.away ?? "");
    const rows = list(part).map((process) => ({
      key: `${process.role} ${process.index}`, ...process,
      cpu: this.#history.values(`cpu ${process.role} ${process.index}`), rss: this.#history.values(`rss ${process.role} ${process.index}`),
    })).sort((one, other) => one.role.localeCompare(other.role) || one.index - other.index);
    // one scale for all, so that who works most is seen to
    const cpuMost = Math.max(0.1, ...rows.map(({ cpu }) => highest(cpu) ?? 0));
    const rssMost = Math.max(1, ...rows.map(({ rss }) => highest(rss) ?? 0));
    this.#sparks = [];
    this.#processes.paint(rows.map((row) => ({ ...row, cpuMost, rssMost })));
    sparks(this.#sparks);
  }
}

// What is kept of a frame for the lines.
export function kept({ backends, queues, commit_lag, processes }) {
  const values = {};
  for (const { name, rate_per_s, refused_per_s, accepted, decided } of list(backends)) {
    Object.assign(values, { [`rate ${name}`]: rate_per_s, [`refused ${name}`]: refused_per_s, [`accepted ${name}`]: accepted?.p99_ms, [`decided ${name}`]: decided?.p99_ms });
  }
  for (const { name, depth } of list(queues)) values[`depth ${name}`] = depth;
  Object.assign(values, { "lag p50": commit_lag?.p50_ms, "lag p99": commit_lag?.p99_ms });
  for (const { role, index, cpu_cores, rss_mib } of list(processes)) Object.assign(values, { [`cpu ${role} ${index}`]: cpu_cores, [`rss ${role} ${index}`]: rss_mib });
  return values;
}

// A tone and a sentence of the last audit.
export function books(audit) {
  if (!audit) return ["none", "Nothing was heard of the books yet"];
  if (audit.away) return ["warn", `The books are not audited: ${audit.away}`];
  if (!audit.clean) return ["bad", `The books are wrong: ${audit.word.replace(/^not clean: /, "")}`];
  return audit.word === PROVEN ? ["good", "The books are right"] : ["warn", `The books are ${audit.word}`];
}

export function list(part) {
  return Array.isArray(part) ? part : [];
}

// Names, and no number of theirs: what is away shows none of before.
function nothingOf(rows) {
  return rows.map(({ name }) => ({ name }));
}

function isKnown(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function highest(values) {
  const all = values.filter((value) => value !== null);
  return all.length ? Math.max(...all) : null;
}

function tile(term, figure, more, tone) {
  return h("div", { "data-tone": tone }, h("dt", {}, term), h("dd", {}, figure, h("small", {}, more)));
}

// Of the gate: without a round that ended well lately nobody knows how far it is from the books.
function copied({ drift_units, pending, lag_rows, round_age_s, up, servers }) {
  const known = isKnown(drift_units) ? `${count(pending)} pending, ${count(lag_rows)} rows behind` : isKnown(round_age_s) ? `no round for ${span(round_age_s)}` : "no round is known";
  return `${known}, ${count(up)} of ${count(servers)} servers have it`;
}

function bar(hue, part) {
  return h("svg", { class: "bar-of", viewBox: "0 0 100 1", preserveAspectRatio: "none", "data-hue": hue % HUES, "aria-hidden": "true" }, h("rect", { width: (100 * part).toFixed(1), height: 1 }));
}

// Those that are not over; whoever wants to do something goes to the admin page.
function paintSales(sales) {
  const shown = sales.filter(({ state }) => state !== "ENDED").slice(0, SALES_MAX);
  hide(by("sales"), !shown.length);
  morph(by("sales"), shown.map(({ sale, name, state: now, units, available }) => h("li", { "data-key": sale, class: "panel" },
    h("span", { class: "name" }, h("a", { href: `/#/sales/${encodeURIComponent(sale)}` }, name), state(now)),
    h("span", { class: "left" }, h("b", {}, count(available)), ` of ${count(units)} left`),
    h("svg", { class: "stock", viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" }, h("rect", { class: "taken", width: units ? ((100 * (units - available)) / units).toFixed(1) : 0, height: 1 })))));
}

function paintState(cell, { state: now, word, since_s }) {
  if (!cell.firstChild) cell.append(h("span", { class: "state" }, h("span", { class: "pill" }), h("small", { class: "hint" })));
  const [pill, more] = cell.firstChild.children;
  attribute(pill, "data-tone", TONES[now] ?? "none");
  text(pill, sentence(now ?? NONE));
  text(more, [word === WELL ? null : word, isKnown(since_s) ? span(since_s) : null].filter(Boolean).join(", "));
}

function paintDeeds(cell, { name, weight, drained }) {
  if (!cell.firstChild) {
    cell.append(h("div", { class: "buttons" }, h("button", { type: "button" }), h("button", { type: "button", "data-deed": "balancer.weight", "aria-label": `Weight of ${name}` }, "Weight")));
  }
  const [drain, weigh] = cell.firstChild.children;
  const verb = drained ? "undrain" : "drain";
  attribute(drain, "data-deed", `balancer.${verb}`);
  attribute(drain, "aria-label", `${sentence(verb)} ${name}`);
  text(drain, sentence(verb));
  for (const button of [drain, weigh]) attribute(button, "data-values", JSON.stringify({ server: name }));
  attribute(weigh, "data-weight", weight);
}

function paintProcess(cell, { role, index, pid, away }) {
  if (!cell.firstChild) cell.append(h("span", {}, `${role}-${index}`), " ", h("small"));
  attribute(cell.lastChild, "class", away ? "error" : "hint");
  text(cell.lastChild, away ?? (isKnown(pid) ? `pid ${pid}` : ""));
}

function canvasOf(cell) {
  if (!cell.firstChild) cell.append(h("canvas", { class: "spark", "aria-hidden": "true" }));
  return cell.firstChild;
}

function paintBench(bench) {
  hide(by("bench"), !bench);
  const { name, phase, done, of, eta_s, ratios: told } = bench ?? {};
  text(by("bench-title"), name ? `Benchmark: ${name}` : "");
  const part = isKnown(of) && of > 0 ? done / of : null;
  attribute(by("bench-progress"), "value", part);
  text(by("bench-word"), [phase, part === null ? null : `${count(done)} of ${count(of)}`, isKnown(eta_s) ? `about ${span(eta_s)} left` : null].filter(Boolean).join(" · "));
  const ratios = list(told);
  hide(by("bench-ratios"), !ratios.length);
  morph(by("bench-body"), ratios.map(({ metric, ratio: value, low, high }) => {
    const differs = isKnown(low) && isKnown(high) && (low > 1 || high < 1);
    return h("tr", {}, h("th", { scope: "row" }, metric), h("td", { class: "number" }, ratio(value)), h("td", { class: "number" }, `${ratio(low)}–${ratio(high)}`),
      h("td", { class: "line" }, interval(value, low, high)), h("td", {}, differs ? (value > 1 ? "higher" : "lower") : "no difference shown"));
  }));
}

// An interval around a ratio, on a scale of doublings from a quarter to four.
function interval(value, low, high) {
  if (![value, low, high].every((each) => isKnown(each) && each > 0)) return null;
  const at = (number) => 50 + 12.5 * Math.min(4, Math.max(-4, 2 * Math.log2(number)));
  return h("svg", { class: "interval", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    h("path", { class: "even", d: "M50 0v10" }), h("path", { class: "reach", d: `M${at(low).toFixed(1)} 5H${at(high).toFixed(1)}` }), h("rect", { x: (at(value) - 1).toFixed(1), y: 1, width: 2, height: 8 }));
}

// With its date, unless it was today.
function when(at) {
  const moment = new Date(at);
  return moment.toDateString() === new Date().toDateString() ? h("time", { datetime: at }, clockTime(moment.getTime())) : briefly(at);
}

function paintEvents(events) {
  hide(by("events-none"), events.length > 0);
  const newest = [...events].reverse();
  morph(by("events"), newest.map(({ id, at, kind, text: words }) =>
    h("li", { "data-key": id }, when(at), h("span", { class: "pill", "data-tone": KINDS[kind] ?? "none" }, sentence(kind.replace(".", " "))), h("span", {}, words))));
}
