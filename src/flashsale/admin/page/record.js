// What was done by hand, by whom, and why.

import { get } from "./api.js";
import { h } from "./dom.js";
import { deeds } from "./words.js";

export const record = {
  title: () => "Record",
  load: async (_, query) => ({ query, ...(await get("/api/operations", query)) }),
  draw({ query, operations, before }) {
    const more = new URLSearchParams({ ...(query.subject ? { subject: query.subject } : {}), ...(before ? { before } : {}) });
    return [
      h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Record")),
      h("form", { class: "panel search", role: "search", "data-search": "record", "aria-label": "Record" },
        h("label", { class: "broad" }, h("span", {}, "Sale, SKU, purchase or queue"), h("input", { name: "subject", value: query.subject, autocomplete: "off", spellcheck: "false", autocapitalize: "off", maxlength: 200 })),
        h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Search"), h("a", { href: "#/record" }, "Clear"))),
      deeds(operations),
      h("p", { class: "buttons" }, query.before && h("a", { href: "#/record" }, "Latest"), before && h("a", { href: `#/record?${more}` }, "Older")),
    ];
  },
};
