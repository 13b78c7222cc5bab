// How far what is shown can be trusted. Pure: it is told what was heard, and when. Law: figures count as live only while there is
// recent word of them, by the time that they themselves bear: what was held up on the way is old however late it comes.

import { ShopClock } from "./clock.js";

const LIVE_MS = 3000; // figures come several times a second

export class Pulse {
  clock = new ShopClock();
  #atMs = null; // of the latest figures
  #bye = null; // the last word of the stream that broke; null when it had none
  #word = null; // of one that is about to
  #tries = 0; // to reach the stream since it broke; 0 while it stands

  heard(atMs, localMs) {
    this.clock.told(atMs, localMs);
    this.#atMs = atMs;
    this.#tries = 0;
  }

  bye(word) {
    this.#word = word;
  }

  broke() {
    [this.#bye, this.#word] = [this.#word, null];
    this.#tries += 1;
  }

  // "connecting", "live", "stale" or "reconnecting"; `ageMs` is null before there was any word.
  freshness(localMs) {
    const ageMs = this.#atMs === null ? null : Math.max(0, this.clock.now(localMs) - this.#atMs);
    if (this.#tries) return { kind: "reconnecting", ageMs, tries: this.#tries, bye: this.#bye };
    if (ageMs === null) return { kind: "connecting", ageMs };
    return { kind: ageMs <= LIVE_MS ? "live" : "stale", ageMs };
  }
}
