// What was heard in the last minutes, a value a second and series, in buffers of fixed length. Pure.

export const SLOTS = 300;
const SLOT_MS = 1000;
const HELD = 3; // seconds that a value stands for when the next is late; a longer silence is a gap
const SERIES_MAX = 160; // two of each process, and some; whoever floods us with names is not drawn

export class History {
  #series = new Map(); // name → ring of values; NaN where none was heard
  #last = null; // the slot of the latest value, counted from 1970

  // The last word of a slot stands. `values`: name → number, or null.
  add(atMs, values) {
    const slot = Math.floor(atMs / SLOT_MS);
    if (this.#last !== null && Math.abs(slot - this.#last) >= SLOTS) this.clear(); // a clock was set, or a long sleep
    const isLate = slot - this.#last <= HELD;
    for (let next = (this.#last ?? slot) + 1; next <= slot; next++) {
      for (const ring of this.#series.values()) ring[next % SLOTS] = isLate && next < slot ? ring[(next - 1) % SLOTS] : NaN;
    }
    this.#last = Math.max(slot, this.#last ?? slot);
    for (const [name, value] of Object.entries(values)) {
      const ring = this.#ring(name);
      if (ring) ring[slot % SLOTS] = value ?? NaN;
    }
  }

  // Seconds since 1970, the oldest first; the latest slot is still being filled.
  times() {
    if (this.#last === null) return [];
    return Array.from({ length: SLOTS }, (_, place) => ((this.#last - SLOTS + 1 + place) * SLOT_MS) / 1000);
  }

  // Beside `times()`: null where nothing is known.
  values(name) {
    const ring = this.#series.get(name);
    return this.times().map((second) => {
      const value = ring?.[((second * 1000) / SLOT_MS) % SLOTS];
      return value === undefined || Number.isNaN(value) ? null : value;
    });
  }

  clear() {
    this.#series.clear();
    this.#last = null;
  }

  #ring(name) {
    if (!this.#series.has(name)) {
      if (this.#series.size >= SERIES_MAX) for (const [old, ring] of this.#series) if (ring.every(Number.isNaN)) this.#series.delete(old);
      if (this.#series.size >= SERIES_MAX) return null;
      this.#series.set(name, new Float64Array(SLOTS).fill(NaN));
    }
    return this.#series.get(name);
  }

}
