// Runs one wish: asks, hears, pauses, asks again, until there is nothing left to ask; then waits to be told something.

import { heard, nextCall } from "./wish.js";

const UNWAITED_MS = 5000; // between two looks while the server may not be asked to wait

export class Errand {
  #edge;
  #wake = () => {};
  #polling = null; // aborts the call under way, if nothing is lost by that
  #isEnded = false;

  // `edge`: send(request, signal), shopNow(), mayWait(), changed(wish).
  constructor(wish, edge) {
    this.wish = wish;
    this.#edge = edge;
  }

  // Change the wish from outside: what the buyer wants, who signed in, what another tab knows.
  become(wish) {
    if (wish === this.wish) return;
    this.#set(wish);
    this.#polling?.abort();
    this.#wake();
  }

  end() {
    this.#isEnded = true;
    this.#polling?.abort();
    this.#wake();
  }

  async run() {
    while (!this.#isEnded) {
      const mayWait = this.#edge.mayWait();
      const request = nextCall(this.wish, this.#edge.shopNow(), mayWait);
      if (!request) {
        await this.#sleep(null);
        continue;
      }
      const isPoll = request.method === "GET";
      if (request.kind === "buy") this.#set({ ...this.wish, isSent: true }); // a reload from here on must know it
      const polling = new AbortController();
      this.#polling = isPoll ? polling : null;
      const answer = await this.#edge.send(request, polling.signal);
      this.#polling = null;
      if (polling.signal.aborted || this.#isEnded) continue;
      const { wish, pauseMs } = heard(this.wish, request, answer, Date.now(), Math.random());
      this.#set(wish);
      await this.#sleep(isPoll && !mayWait ? Math.max(pauseMs, UNWAITED_MS) : pauseMs);
    }
  }

  #set(wish) {
    this.wish = wish;
    this.#edge.changed(wish);
  }

  #sleep(ms) {
    return new Promise((resolve) => {
      this.#wake = resolve;
      if (ms !== null) setTimeout(resolve, ms);
    });
  }
}
