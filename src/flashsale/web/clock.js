// What time it is at the shop. Pure: times are milliseconds; local ones are of a clock that nobody sets, so that what comes
// late can be told from a clock that jumped.

const FORGIVEN = 0.01; // of each second: no clock drifts so much, and a shop whose clock was set back is believed in the end

export class ShopClock {
  #offset = null;
  #toldMs = 0;

  // The shop said that it was `shopMs`; heard at `localMs`. Hearing takes time and never less than none, so the largest
  // offset is nearest to the truth, and word with a smaller one was long on its way, however much of it comes.
  told(shopMs, localMs) {
    const offset = shopMs - localMs;
    this.#offset = Math.max(offset, (this.#offset ?? offset) - FORGIVEN * (localMs - this.#toldMs));
    this.#toldMs = localMs;
  }

  now(localMs) {
    return localMs + (this.#offset ?? 0);
  }
}
