// The stream of figures: one EventSource, made anew when it was closed for good or is silent.

const SILENCE_MS = 10_000; // a connection this silent is dead, whatever the browser thinks of it
const TOLD_MS = 45_000; // after a farewell: it says when to come back, at most half a minute later
const CHECK_MS = 1000;
const REOPEN_MS = 1000; // doubled each time
const REOPEN_MAX_MS = 15_000;

export class Stream {
  #path;
  #told;
  #source = null;
  #since = 0; // performance.now() of the last frame, or of the last opening
  #silenceMs = SILENCE_MS;
  #tries = 0;
  #timers = [];

  // `heard(frame)` for each, `bye(word)` when the process ends it, `broke()` each time that it could not be reached, `refused()` when it was answered with a no: says
  // whether to go on.
  constructor(path, told) {
    this.#path = path;
    this.#told = told;
  }

  open() {
    this.close();
    this.#timers = [setInterval(() => this.#check(), CHECK_MS)];
    this.#connect();
  }

  close() {
    this.#timers.forEach(clearTimeout); // intervals share their numbers with time-outs
    this.#timers = [];
    this.#source?.close();
    this.#source = null;
  }

  #connect() {
    const source = (this.#source = new EventSource(this.#path));
    this.#since = performance.now();
    this.#silenceMs = SILENCE_MS;
    source.addEventListener("figures", (event) => {
      this.#since = performance.now();
      this.#silenceMs = SILENCE_MS;
      this.#tries = 0;
      this.#told.heard(JSON.parse(event.data));
    });
    source.addEventListener("bye", (event) => {
      this.#silenceMs = TOLD_MS;
      this.#told.bye(JSON.parse(event.data).word);
    });
    source.addEventListener("error", async () => {
      if (source !== this.#source) return;
      this.#told.broke();
      this.#since = performance.now();
      if (source.readyState !== EventSource.CLOSED) return; // else the browser tries again
      this.#source = null;
      if (await this.#told.refused()) this.#reconnect();
    });
  }

  #check() {
    if (!this.#source || performance.now() - this.#since < this.#silenceMs) return;
    this.#source.close();
    this.#source = null;
    this.#reconnect();
  }

  #reconnect() {
    if (!this.#timers.length) return; // closed meanwhile
    const delay = Math.min(REOPEN_MS * 2 ** this.#tries, REOPEN_MAX_MS) * (0.5 + Math.random());
    this.#tries = Math.min(this.#tries + 1, 10);
    this.#timers = [this.#timers[0], setTimeout(() => this.#connect(), delay)];
  }
}
