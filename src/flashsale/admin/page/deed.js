// The dialog of a deed: what it is told, why, what it would change, and only then the button that does it.

import { act, plan } from "./api.js";
import { by, h } from "./dom.js";
import { deed as words, label, table, value } from "./words.js";

const KEY_BYTES = 16;

export class DeedDialog {
  #actions;
  #done;
  #failed;
  #action = null;
  #settled = {};
  #planned = null; // the values that the shown plan is of
  #key = ""; // of the deed in the dialog: an answer to another one comes too late
  #asking = new AbortController(); // the plan that is on its way
  #isBusy = false;

  // `actions`: what the process can do, as it describes it. `done(action, operation)` is called when something was done, and
  // `failed(action, why)` when it was not and the dialog has gone on to another deed.
  constructor(actions, done, failed) {
    this.#actions = actions;
    this.#done = done;
    this.#failed = failed;
    by("deed-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.#isBusy) this.#go();
    });
    by("deed-fields").addEventListener("input", () => this.#unplan());
    by("deed-cancel").addEventListener("click", () => by("deed").close());
    by("deed").addEventListener("close", () => by("deed").open || this.#unplan());
  }

  open(action, settled) {
    const known = this.#actions[action];
    if (!known) return;
    this.#action = action;
    this.#settled = settled;
    const asked = known.fields.filter(({ name }) => !(name in settled));
    by("deed-title").textContent = words(action).title;
    by("deed-means").textContent = `${known.means.charAt(0).toUpperCase()}${known.means.slice(1)}.`;
    by("deed-about").replaceChildren(...Object.entries(settled).map(([name, given]) => h("div", {}, h("dt", {}, label(name)), h("dd", { class: "id" }, given))));
    by("deed-fields").replaceChildren(...asked.map(input));
    by("reason").value = "";
    this.#unplan();
    by("deed").showModal();
    (by("deed-fields").querySelector("input, select") ?? by("reason")).focus();
    if (!asked.length) this.#plan();
  }

  get #needsFields() {
    return by("deed-fields").childElementCount > 0;
  }

  // With other values it is another deed, and has another key; what is on its way for the one before is nothing to it.
  #unplan() {
    this.#planned = null;
    this.#key = newKey();
    this.#asking.abort();
    this.#asking = new AbortController();
    this.#free();
    by("deed-error").textContent = "";
    by("deed-changes").replaceChildren(h("p", { class: "hint" }, this.#needsFields ? "Shown once everything is filled in." : "Looking…"));
    this.#label();
  }

  #label() {
    const { button, isFinal } = words(this.#action);
    by("deed-go").textContent = this.#planned ? button : "Show what it will change";
    by("deed-go").className = this.#planned && isFinal ? "primary danger" : "primary";
  }

  async #go() {
    if (!this.#planned) await this.#plan();
    else await this.#do();
  }

  async #plan() {
    const key = this.#key;
    const values = { ...this.#settled, ...given() };
    await this.#busy(async () => {
      const { changes } = await plan(this.#action, values, this.#asking.signal);
      if (key !== this.#key) return;
      this.#planned = values;
      // of something new there is nothing to compare
      const columns = changes.every(({ before }) => before === null) ? [["What"], ["Then"]] : [["What"], ["Now"], ["Then"]];
      by("deed-changes").replaceChildren(table("What it will change", columns,
        changes.map(({ what, before, after }) => [called(what), ...(columns.length > 2 ? [value(what, before)] : []), value(what, after)]),
        "Nothing: it is so already."));
      if (this.#needsFields) by("deed-plan").scrollIntoView({ block: "nearest" });
    });
    this.#label();
  }

  async #do() {
    const reason = by("reason").value.trim();
    if (!reason) {
      by("deed-error").textContent = "Say why: the reason is kept with your name.";
      by("reason").focus();
      return;
    }
    const [action, key] = [this.#action, this.#key];
    await this.#busy(async () => {
      const { operation } = await act(action, { ...this.#planned, reason }, key);
      if (key === this.#key) by("deed").close();
      this.#done(action, operation);
    });
  }

  // One request at a time. What failed is said here, and may be tried again under the same key.
  async #busy(work) {
    const [action, key, isDeed] = [this.#action, this.#key, this.#planned !== null];
    this.#isBusy = true;
    by("deed-error").textContent = "";
    by("deed").setAttribute("aria-busy", "true");
    try {
      await work();
    } catch (problem) {
      const isUnknown = problem.isUnknown && isDeed;
      if (key !== this.#key) {
        // Its key is gone: whoever does it again does it twice.
        if (isDeed) this.#failed(action, problem.message + (isUnknown ? " Nobody knows whether it was done: look at the record before it is done again." : ""));
        return;
      }
      by("deed-error").textContent = problem.message + (isUnknown ? " Nobody knows whether it was done: press again, and it is done once." : "");
      if (!this.#planned) by("deed-changes").replaceChildren();
    } finally {
      if (key === this.#key) this.#free();
    }
  }

  #free() {
    this.#isBusy = false;
    by("deed").removeAttribute("aria-busy");
  }
}

function input({ name, form, allowed, choices, help, required, default: otherwise }) {
  const id = `deed-${name}`;
  const type = { number: "text", time: "datetime-local", text: "text" }[form];
  const hint = [help, form === "time" ? "" : allowed].filter(Boolean).join(": ");
  const own = { id, name, "data-form": form, "aria-describedby": `${id}-hint` };
  return h("p", {},
    h("label", { for: id }, label(name), required ? "" : h("span", { class: "hint" }, " optional")),
    choices ? h("select", own, choices.map((choice) => h("option", { selected: choice === otherwise }, choice)))
      : h("input", { ...own, type, required, value: otherwise, step: form === "time" ? 1 : null, inputmode: form === "number" ? "numeric" : null,
        autocomplete: "off", autocapitalize: "off", spellcheck: "false", maxlength: form === "time" ? null : 255 }),
    h("small", { id: `${id}-hint`, class: "hint" }, hint));
}

// What was typed, as the process reads it: a number as a number, a time with its zone. Empty is not given.
function given() {
  const values = {};
  for (const { name, value: typed, dataset } of by("deed-fields").querySelectorAll("input, select")) {
    const text = typed.trim();
    if (!text) continue;
    if (dataset.form === "time") values[name] = new Date(text).toISOString();
    else values[name] = dataset.form === "number" && /^\d{1,15}$/.test(text) ? Number(text) : text;
  }
  return values;
}

// A plan says `sku: name of the thing` of an item.
function called(what) {
  const [sku, name] = what.split(": ");
  return name ? `${sku}: ${label(name).toLowerCase()}` : label(what);
}

function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(KEY_BYTES))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
