// What is said aloud to those who do not see the page: seldom, and the newest of each topic. Pure.

const GAP_MS = 3000; // between two announcements

export class Announcer {
  #waiting = new Map(); // topic → {text, notBefore}
  #saidMs = new Map(); // topic → when it was last said
  #lastMs = -Infinity;

  // `gapMs`: how long this topic keeps quiet after it was heard.
  add(topic, text, gapMs = 0) {
    this.#waiting.set(topic, { text, notBefore: (this.#saidMs.get(topic) ?? -Infinity) + gapMs });
  }

  // What to say now, or null.
  next(nowMs) {
    if (nowMs < this.#lastMs + GAP_MS) return null;
    const due = [...this.#waiting].filter(([, { notBefore }]) => notBefore <= nowMs);
    if (!due.length) return null;
    this.#lastMs = nowMs;
    for (const [topic] of due) {
      this.#waiting.delete(topic);
      this.#saidMs.set(topic, nowMs);
    }
    return due.map(([, { text }]) => text).join(" ");
  }
}
