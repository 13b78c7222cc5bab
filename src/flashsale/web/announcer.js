// What is said aloud to those who do not see the page: seldom, and the newest of each topic. Pure.

const GAP_MS = 3000; // between two announcements
const NEWS_GAP_MS = 15_000; // between two that nobody waits for

export class Announcer {
  #waiting = new Map(); // topic → {text, isNews}
  #lastMs = -Infinity;
  #lastNewsMs = -Infinity;

  // What the buyer waits for, as soon as may be; as news, what only goes on, of all topics together, seldom.
  add(topic, text, isNews = false) {
    this.#waiting.set(topic, { text, isNews });
  }

  // What to say now, or null.
  next(nowMs) {
    if (nowMs < this.#lastMs + GAP_MS) return null;
    const mayTell = nowMs >= this.#lastNewsMs + NEWS_GAP_MS;
    const due = [...this.#waiting].filter(([, { isNews }]) => mayTell || !isNews);
    if (!due.length) return null;
    this.#lastMs = nowMs;
    for (const [topic, { isNews }] of due) {
      this.#waiting.delete(topic);
      if (isNews) this.#lastNewsMs = nowMs;
    }
    return due.map(([, { text }]) => text).join(" ");
  }
}
