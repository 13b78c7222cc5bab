// What the page knows of sales and stock, and how old that is. Pure: it is told what was heard, and when. Law: a number
// never goes back to an older one, and counts as live only while there is recent word that it still holds.

import { ShopClock } from "./clock.js";
import { Pace } from "./pace.js";

const LIVE_MS = 3000; // a beat comes each second: older than this, beats are missing
const SKUS_MAX = 16; // one stream names no more

export class Feed {
  clock = new ShopClock();
  link = "connecting"; // "stream", "polling" or "lost" later
  #sales = null; // null until they were read
  #stock = new Map(); // sku → {available, seq, asOf}
  #paces = new Map(); // sku → Pace
  #asOf = null; // everything holds as of then

  // The body of GET /sales. Its numbers carry no time, so they are shown and do not count as fresh.
  readSales(sales) {
    this.#sales = sales.map((sale) => ({ ...sale, opensMs: Date.parse(sale.opens), closesMs: Date.parse(sale.closes) }));
    const items = sales.flatMap((sale) => sale.items);
    for (const { sku, available, seq } of items) this.#learn(sku, available, seq, null);
    const named = new Set(items.map(({ sku }) => sku));
    for (const known of [this.#stock, this.#paces]) for (const sku of known.keys()) if (!named.has(sku)) known.delete(sku);
  }

  // An event of the stream, or the answer of GET /stock/{sku} as a "stock".
  hear(name, data, localMs) {
    if (data.now) this.clock.told(Date.parse(data.now), localMs);
    if (data.as_of && name !== "stock") this.#asOf = Math.max(this.#asOf ?? 0, Date.parse(data.as_of));
    if (name === "beat") for (const [sku, pace] of this.#paces) pace.heard(this.available(sku), Date.parse(data.as_of)); // none went
    const entries = { snapshot: data.stock, stock: [data] }[name] ?? [];
    for (const { sku, available, seq, as_of } of entries) this.#learn(sku, available, seq, Date.parse(as_of ?? data.as_of));
    for (const sale of { snapshot: data.sales, sale: [data] }[name] ?? []) this.#change(sale);
  }

  #learn(sku, available, seq, asOf) {
    const known = this.#stock.get(sku);
    // A lower seq is an older word, unless it is known to have been read later: then the shop's database was restored.
    if (known && seq < known.seq && (known.asOf === null || !(asOf > known.asOf))) return;
    // the same number, confirmed; of another one nothing is known but its own time
    const confirmed = seq === known?.seq ? known.asOf : null;
    this.#stock.set(sku, { available, seq, asOf: Math.max(asOf ?? 0, confirmed ?? 0) || null });
    if (!asOf) return;
    if (!this.#paces.has(sku)) this.#paces.set(sku, new Pace());
    this.#paces.get(sku).heard(available, asOf);
  }

  #change({ sale, state, opens, closes }) {
    const known = this.#sales?.find(({ id }) => id === sale);
    if (known) Object.assign(known, { state, opens, closes, opensMs: Date.parse(opens), closesMs: Date.parse(closes) });
  }

  // Sales worth showing, in the order of their opening: those that are not over, as many as one stream can follow but one
  // at least; else the one that ended last.
  shown(localMs) {
    const sales = this.#sales ?? [];
    const running = sales.filter((sale) => this.state(sale, localMs) !== "ENDED");
    let skus = 0;
    const fitting = running.filter(({ items }, place) => (skus += items.length) <= SKUS_MAX || place === 0);
    if (fitting.length) return fitting;
    return [...sales].sort((one, other) => other.closesMs - one.closesMs).slice(0, 1);
  }

  // SCHEDULED, OPEN, PAUSED or ENDED. Opening and closing are moments and no messages, so the clock may know them first.
  state({ state, opensMs, closesMs }, localMs) {
    const now = this.clock.now(localMs);
    if (state === "ENDED" || now >= closesMs) return "ENDED";
    if (state === "PAUSED") return "PAUSED";
    return now < opensMs ? "SCHEDULED" : "OPEN";
  }

  skus(localMs) {
    return this.shown(localMs).flatMap((sale) => sale.items.map((item) => item.sku)).slice(0, SKUS_MAX);
  }

  available(sku) {
    return this.#stock.get(sku)?.available ?? null;
  }

  // Units that go in a minute, as Pace tells it; null while that is not known.
  pace(sku, localMs) {
    return this.#paces.get(sku)?.told(this.clock.now(localMs)) ?? null;
  }

  // All that was heard, as one more snapshot of the stream, for a tab that was not there; null before there was a word. The
  // tabs that were hear it as well, and no number of it may be of before the last beat: to a pace that were a clock set back.
  snapshot(localMs) {
    const iso = (ms) => new Date(ms).toISOString();
    const heard = this.skus(localMs).map((sku) => ({ sku, ...this.#stock.get(sku) })).filter(({ asOf }) => asOf);
    if (!heard.length) return null;
    const asOf = this.#asOf ?? Math.min(...heard.map((item) => item.asOf));
    return {
      now: iso(this.clock.now(localMs)),
      as_of: iso(asOf),
      stock: heard.map(({ sku, available, seq, asOf }) => ({ sku, available, seq, as_of: iso(Math.max(asOf, this.#asOf ?? 0)) })),
      sales: this.shown(localMs).map(({ id, state, opens, closes }) => ({ sale: id, state, opens, closes })),
    };
  }

  // May this item's number be shown as one that holds? Items past those that one stream can name are not followed.
  isCurrent(sku, localMs) {
    const { kind } = this.freshness(localMs);
    return (kind === "live" || kind === "polled" || kind === "over") && this.skus(localMs).includes(sku);
  }

  // How far the numbers shown can be trusted. `ageMs` is null while there is no word of their time.
  freshness(localMs) {
    const sales = this.shown(localMs);
    if (this.#sales && sales.every((sale) => this.state(sale, localMs) === "ENDED")) return { kind: "over", ageMs: null };
    const known = this.skus(localMs).map((sku) => this.#stock.get(sku)?.asOf ?? null);
    const oldest = known.length && !known.includes(null) ? Math.min(...known) : null;
    const asOf = this.#asOf === null ? oldest : Math.max(this.#asOf, oldest ?? 0);
    const ageMs = asOf === null ? null : Math.max(0, this.clock.now(localMs) - asOf);
    if (this.link === "lost") return { kind: "lost", ageMs };
    if (ageMs === null) return { kind: "connecting", ageMs };
    if (this.link === "polling") return { kind: "polled", ageMs };
    return { kind: this.link === "stream" && ageMs <= LIVE_MS ? "live" : "old", ageMs };
  }
}
