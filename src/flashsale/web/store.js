// The wishes of this browser, an entry of localStorage each, so that two tabs do not overwrite each other's.

import { Shelf } from "./shelf.js";
import { isOver } from "./wish.js";

const PREFIX = "flash.wish.";
const KEPT_MAX = 100; // of all buyers of this browser
const shelf = new Shelf(() => localStorage);

export function save(wish) {
  shelf.set(PREFIX + wish.key, JSON.stringify(wish));
}

export function remove(key) {
  shelf.remove(PREFIX + key);
}

// All of them, oldest first. What cannot be read is not ours.
export function load() {
  const keys = shelf.names().filter((name) => name.startsWith(PREFIX));
  return keys.map((name) => read(shelf.get(name))).filter(Boolean).sort((one, other) => one.madeMs - other.madeMs);
}

// For one more: the oldest that are over go, whoever's they are. What is not over is never lost.
export function makeRoom() {
  const all = load();
  for (const wish of all.filter(isOver).slice(0, Math.max(0, all.length + 1 - KEPT_MAX))) remove(wish.key);
}

// Calls `changed(wish)` or `removed(key)` when another tab did something.
export function listen({ changed, removed }) {
  addEventListener("storage", ({ key, newValue }) => {
    if (!key?.startsWith(PREFIX)) return;
    const wish = read(newValue);
    if (wish) changed(wish);
    else removed(key.slice(PREFIX.length));
  });
}

function read(text) {
  try {
    const wish = JSON.parse(text);
    return typeof wish?.key === "string" ? wish : null;
  } catch {
    return null;
  }
}
