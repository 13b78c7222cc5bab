// What the browser keeps, by name. What it will not keep, because storage is forbidden or full, lives as long as the page.

export class Shelf {
  #memory = new Map(); // what was not kept; newer than what was
  #storage;

  // `storage`: a function, because where it is forbidden even to name localStorage throws.
  constructor(storage) {
    this.#storage = storage;
  }

  get(name) {
    return this.#memory.get(name) ?? this.#tried((storage) => storage.getItem(name)) ?? null;
  }

  set(name, text) {
    this.#memory.set(name, text);
    this.#tried((storage) => {
      storage.setItem(name, text);
      this.#memory.delete(name);
    });
  }

  remove(name) {
    this.#memory.delete(name);
    this.#tried((storage) => storage.removeItem(name));
  }

  names() {
    return [...new Set([...(this.#tried(Object.keys) ?? []), ...this.#memory.keys()])];
  }

  #tried(use) {
    try {
      return use(this.#storage());
    } catch {
      return undefined;
    }
  }
}
