// One stream for all tabs of a browser, which has six connections to one server. The tab that holds a lock has the ticker and
// hands on what it hears; when it goes, the next in the queue for the lock has it, and when it hangs, another takes the lock
// away. Tabs share what they all watch: those that show other items have a lock and a stream of their own.

import { Sleep, Ticker } from "./ticker.js";

const PULSE_MS = 1000; // the tab with the stream says that it is there, whatever the shop says
const SILENCE_MS = 5000; // without a pulse, it hangs or is frozen; doubled at most, or all would take the lock at once

// As a Ticker is told, and `known()`: what a tab that comes later must be told first, as a snapshot; null before there is any.
export class SharedTicker {
  #told;
  #skus = [];
  #tab = null;

  constructor(told) {
    this.#told = told;
  }

  // Also for the same again: then it may have slept, and asks.
  follow(skus) {
    if (skus.join() === this.#skus.join()) {
      this.#tab.ask();
      return;
    }
    if (this.#tab) this.stop();
    this.#skus = skus;
    this.#tab = new Tab(skus, this.#told);
  }

  stop() {
    this.#tab?.leave();
    this.#tab = null;
    this.#skus = [];
    this.#told.linked("lost");
  }
}

class Tab {
  #told;
  #skus;
  #name;
  #channel;
  #ticker = null; // while this tab has the stream
  #letGo = () => {}; // of the lock
  #link = null; // as the others were told
  #waiting = null; // aborts waiting for the lock
  #patienceMs = 0;
  #heardMs = 0; // the last word of the tab with the stream
  #isIn = false; // has heard how things stand; until then news are parts of an unknown whole
  #isOver = false;
  #sleep = new Sleep();
  #pulse;

  constructor(skus, told) {
    this.#skus = skus;
    this.#told = told;
    this.#name = `flash.stock ${skus.join()}`;
    this.#channel = channel(this.#name);
    if (this.#channel) this.#channel.onmessage = ({ data }) => this.#heard(data);
    this.#pulse = setInterval(() => this.#beat(), PULSE_MS);
    this.ask();
    this.#takePart();
  }

  ask() {
    this.#isIn = false;
    this.#heardMs = performance.now();
    this.#channel?.postMessage({ isAsking: true });
  }

  leave() {
    this.#isOver = true;
    clearInterval(this.#pulse);
    this.#waiting?.abort();
    this.#channel?.close();
    this.#endLeading();
  }

  async #takePart() {
    let isSilent = false;
    while (!this.#isOver) {
      this.#waiting = new AbortController();
      this.#patienceMs = SILENCE_MS * (1 + Math.random());
      try {
        if (!this.#channel || !navigator.locks) await this.#lead(); // alone: an old browser, or neither HTTPS nor loopback
        else await navigator.locks.request(this.#name, isSilent ? { steal: true } : { signal: this.#waiting.signal }, () => this.#lead());
      } catch (error) {
        if (error.name !== "AbortError") await this.#lead(); // a browser that keeps nothing lets nobody lock
      }
      isSilent = this.#ticker === null; // else the lock was taken from us, because we hung
      this.#endLeading();
      if (!this.#isOver) this.ask(); // what was said while this one thought that it led, it has not heard
    }
  }

  // Until this tab leaves, or the lock is taken away.
  #lead() {
    if (this.#isOver) return null;
    const ticker = new Ticker({
      hear: (name, data) => this.#tell(ticker, { name, data }),
      linked: (link) => this.#tell(ticker, { link }),
      closed: () => this.#tell(ticker, { isClosed: true }),
    });
    this.#ticker = ticker;
    this.#link = null;
    ticker.follow(this.#skus);
    return new Promise((resolve) => (this.#letGo = resolve));
  }

  #endLeading() {
    const ticker = this.#ticker;
    this.#ticker = null; // from here on its words are nobody's
    this.#heardMs = performance.now();
    ticker?.stop();
    this.#letGo();
  }

  #tell(ticker, word) {
    if (ticker !== this.#ticker) return;
    if (word.link === undefined || word.link !== this.#link) this.#channel?.postMessage(word);
    this.#link = word.link ?? this.#link;
    this.#take(word);
  }

  #heard(word) {
    if (this.#ticker) {
      if (word.isAsking) this.#answer();
      return;
    }
    if (word.isAsking) return;
    this.#heardMs = performance.now();
    if (word.name === "snapshot") this.#isIn = true;
    if (!word.name || this.#isIn) this.#take(word);
    else this.ask(); // who leads may have known nothing when it was asked first, and polled news never are a whole
  }

  #answer() {
    const data = this.#told.known();
    if (data) this.#channel.postMessage({ name: "snapshot", data });
    this.#channel.postMessage({ link: this.#link ?? undefined });
  }

  #take({ name, data, link, isClosed }) {
    if (name) this.#told.hear(name, data);
    if (link) this.#told.linked(link);
    if (isClosed) this.#told.closed();
  }

  #beat() {
    const hasSlept = this.#sleep.wasThere(); // a ticker looks itself
    if (hasSlept && !this.#ticker) this.#told.linked("lost"); // until the tab with the stream is heard again, if it is still there
    if (this.#ticker) this.#channel?.postMessage({ link: this.#link ?? undefined });
    else if (performance.now() - this.#heardMs > this.#patienceMs) this.#waiting.abort(); // and then takes the lock
  }
}

function channel(name) {
  try {
    return new BroadcastChannel(name);
  } catch {
    return null;
  }
}
