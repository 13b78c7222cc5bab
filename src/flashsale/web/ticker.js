// Live stock: one event stream while it works, polling while it does not. Says what it heard and over which link.

import { get } from "./wire.js";

const EVENTS = ["snapshot", "stock", "sale", "beat"];
const SILENCE_MS = 4000; // beats come each second; a connection this silent is dead, whatever the browser thinks of it
const CONNECTING_MS = 15_000; // something between us and the shop holds the stream back
const CHECK_MS = 500;
const SLEPT_MS = 2000; // by the wall clock and not by the monotonic one, which stands still on many devices while they sleep
const POLL_AFTER_MS = 3000; // without a stream
const POLL_MS = 3000;
const REOPEN_MS = 1000; // doubled each time
const REOPEN_MAX_MS = 15_000;

// Of the device, noticed afterwards.
export class Sleep {
  #apart = Date.now() - performance.now();

  // Since this was asked last, or made.
  wasThere() {
    const before = this.#apart;
    this.#apart = Date.now() - performance.now();
    return this.#apart - before > SLEPT_MS;
  }
}

export class Ticker {
  #told;
  #skus = [];
  #source = null;
  #tries = 0;
  #since = 0; // performance.now() of the last event, or of the last opening; monotonic, unlike the wall clock
  #isLost = true;
  #lostSince = 0;
  #isPolling = false;
  #timers = [];
  #sleep = null;

  // `hear(name, data)` for each event, `linked("stream" | "polling" | "lost")`, `closed()` when the shop ended the stream
  // for good: that is how it says that a sale is over, and how anything else in between says no.
  constructor(told) {
    this.#told = told;
  }

  follow(skus) {
    if (skus.join() === this.#skus.join()) return;
    if (this.#skus.length) this.stop();
    this.#skus = skus;
    this.#lostSince = performance.now();
    this.#sleep = new Sleep();
    this.#open();
    this.#timers = [setInterval(() => this.#check(), CHECK_MS), setInterval(() => this.#poll(), POLL_MS)];
  }

  stop() {
    this.#lose();
    this.#timers.forEach(clearTimeout); // intervals share their numbers with time-outs
    this.#timers = [];
    this.#source?.close();
    this.#source = null;
    this.#skus = [];
    this.#tries = 0;
  }

  #open() {
    const source = new EventSource(`/stock/stream?sku=${this.#skus.map(encodeURIComponent).join()}`);
    this.#source = source;
    this.#since = performance.now();
    for (const name of EVENTS) source.addEventListener(name, (event) => this.#heard(name, JSON.parse(event.data)));
    source.addEventListener("error", () => {
      this.#lose();
      if (source.readyState !== EventSource.CLOSED || source !== this.#source) return; // else the browser tries again
      this.#reopen();
      this.#told.closed();
    });
  }

  #heard(name, data) {
    this.#since = performance.now();
    this.#tries = 0;
    this.#isLost = false;
    this.#told.hear(name, data);
    this.#told.linked("stream");
  }

  #lose() {
    if (!this.#isLost) this.#lostSince = performance.now();
    this.#isLost = true;
    this.#told.linked("lost");
  }

  #check() {
    const hasSlept = this.#sleep.wasThere();
    if (!this.#source) return;
    if (hasSlept) {
      // what this connection still holds is of the time before, and nothing here could tell its age
      this.#lose();
      this.#reopen();
      return;
    }
    const silent = performance.now() - this.#since;
    if (silent > SILENCE_MS && !this.#isLost) this.#lose();
    const patience = this.#source.readyState === EventSource.OPEN ? SILENCE_MS : CONNECTING_MS;
    if (silent > patience) this.#reopen();
  }

  #reopen() {
    this.#source.close();
    this.#source = null;
    const delay = Math.min(REOPEN_MS * 2 ** this.#tries, REOPEN_MAX_MS) * (0.5 + Math.random());
    this.#tries = Math.min(this.#tries + 1, 10);
    this.#timers.push(setTimeout(() => this.#open(), delay));
    this.#timers = this.#timers.slice(0, 2).concat(this.#timers.slice(-1)); // the intervals, and this one
  }

  async #poll() {
    if (!this.#isLost || this.#isPolling || performance.now() - this.#lostSince < POLL_AFTER_MS) return;
    this.#isPolling = true;
    const skus = this.#skus;
    const answers = await Promise.all(skus.map((sku) => get(`/stock/${encodeURIComponent(sku)}`)));
    this.#isPolling = false;
    if (!this.#isLost || skus !== this.#skus) return; // the stream was faster
    for (const stock of answers) if (stock) this.#told.hear("stock", { ...stock, now: stock.as_of });
    this.#told.linked(answers.every(Boolean) ? "polling" : "lost");
  }
}
