// How fast units go. Pure: told what is left and as of when, it counts what went within the last minute. What comes back is
// not subtracted, and what goes and comes back between two words of the shop's is not seen, so this may be too low.

const WINDOW_S = 60;
const LEARNING_S = 10; // watched for less, a pace per minute would be a guess
const BAR_S = 5;

export class Pace {
  #gone = new Array(WINDOW_S + BAR_S).fill(0); // by second of the shop's, round and round
  #available = null;
  #sinceS = 0; // watched without a gap
  #heardS = 0; // the last word
  #atS = 0; // the newest second of the ring

  heard(available, asOfMs) {
    const second = Math.floor(asOfMs / 1000);
    // nothing is known of what went in so long a silence, or under a clock that was set
    const isAnew = this.#available === null || Math.abs(second - this.#heardS) > WINDOW_S;
    this.#heardS = second;
    if (isAnew) {
      this.#gone.fill(0);
      this.#sinceS = this.#atS = second;
      this.#available = available;
      return;
    }
    this.#goOn(second);
    this.#gone[this.#atS % this.#gone.length] += Math.max(0, this.#available - available);
    this.#available = available;
  }

  // Units a minute, and those of each five seconds of it, oldest first; null while too little was seen.
  told(nowMs) {
    const second = Math.floor(nowMs / 1000);
    const watchedS = Math.min(WINDOW_S, second - this.#sinceS);
    if (this.#available === null || watchedS < LEARNING_S || second - this.#heardS > WINDOW_S) return null;
    this.#goOn(second);
    const at = (older) => this.#gone[(this.#atS - older + this.#gone.length) % this.#gone.length];
    const sum = (from, until) => {
      let units = 0;
      for (let older = from; older < until; older++) units += at(older);
      return units;
    };
    // whole steps of the shop's clock, so that a bar moves on and does not flicker; the last one is still filling
    const filling = (this.#atS % BAR_S) + 1;
    const bars = [sum(0, filling)];
    for (let older = filling; older + BAR_S <= WINDOW_S; older += BAR_S) bars.unshift(sum(older, older + BAR_S));
    return { perMinute: Math.round((sum(0, WINDOW_S) * 60) / watchedS), bars };
  }

  // Seconds without a word are seconds in which nothing went.
  #goOn(second) {
    while (this.#atS < second) this.#gone[++this.#atS % this.#gone.length] = 0;
  }
}
