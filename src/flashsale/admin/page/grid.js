// A table whose rows keep their elements: what differs is changed, nothing is put in another order, and the focus stays where it is.

import { h } from "./dom.js";

export class Grid {
  #columns;
  #table;
  #rows = new Map(); // key → row's element

  // A column: {title, kind, paint(cell, row)}; the first is what each row is called. Laid out as cards on a narrow screen, a table is
  // none any more to a screen reader, so the roles are said.
  constructor(table, caption, columns) {
    this.#table = table;
    this.#columns = columns;
    table.setAttribute("role", "table");
    table.replaceChildren(
      h("caption", { class: "visually-hidden" }, caption),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map(({ title, kind }) =>
        h("th", { role: "columnheader", scope: "col", class: kind }, title || h("span", { class: "visually-hidden" }, "Actions"))))),
      h("tbody", { role: "rowgroup" }));
  }

  // `rows`: each with a `key` of its own, in an order that does not follow their values.
  paint(rows) {
    const body = this.#table.tBodies[0];
    const keys = new Set(rows.map(({ key }) => key));
    for (const [key, element] of this.#rows) {
      if (keys.has(key)) continue;
      if (element.contains(document.activeElement)) this.#table.closest("section").querySelector("h2").focus();
      element.remove();
      this.#rows.delete(key);
    }
    rows.forEach((row, place) => {
      if (!this.#rows.has(row.key)) this.#rows.set(row.key, this.#made());
      const element = this.#rows.get(row.key);
      if (body.children[place] !== element) body.insertBefore(element, body.children[place] ?? null);
      this.#columns.forEach((column, number) => column.paint(element.children[number], row));
    });
  }

  #made() {
    return h("tr", { role: "row" }, this.#columns.map(({ title, kind }, place) =>
      h(place ? "td" : "th", { role: place ? "cell" : "rowheader", scope: place ? null : "row", class: kind, "data-label": title })));
  }
}

export function text(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

export function attribute(element, name, value) {
  if (value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function hide(element, isHidden) {
  if (element.hidden !== isHidden) element.hidden = isHidden;
}
