// The sales of the shop, and one of them.

import { get } from "./api.js";
import { h } from "./dom.js";
import { bar, briefly, button, deeds, moment, money, state, table, tile, units } from "./words.js";

const ORDER = ["OPEN", "PAUSED", "SCHEDULED", "ENDED"];

export const sales = {
  title: () => "Sales",
  everyMs: 5000,
  load: () => get("/api/overview"),
  draw({ sales: { is, away } }, { isOperator }) {
    // what goes on first, and of each kind the latest
    const sorted = [...(is ?? [])].reverse().sort((one, other) => ORDER.indexOf(one.state) - ORDER.indexOf(other.state));
    return [
      h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Sales"),
        isOperator && button("sale.create", "New sale", {}, { class: "primary" })),
      away && h("p", { class: "error" }, away),
      is && !is.length && h("p", { class: "empty" }, "There is no sale yet."),
      h("ul", { class: "cards" }, sorted.map(card)),
    ].filter(Boolean);
  },
};

export const sale = {
  title: ({ sale: { name } }) => name,
  everyMs: 5000,
  load: (name) => get(`/api/sales/${encodeURIComponent(name)}`),
  draw({ sale, skus, funnel: [funnel], revenue: [revenue], operations }, { isOperator }) {
    const own = { sale: sale.sale };
    const sold = sum(skus, "units_sold"), held = sum(skus, "units_held");
    return [
      h("p", { class: "crumbs" }, h("a", { href: "#/sales" }, "Sales"), " / ", h("span", { class: "id" }, sale.sale)),
      h("div", { class: "head" }, h("h1", { tabindex: "-1" }, sale.name, " ", state(sale.state)), isOperator && actions(sale)),
      bar({ ...sale, held }),
      legend(),
      h("dl", { class: "tiles" },
        tile("Sold", units(sold), `of ${units(sale.units)} units`),
        tile("Held", units(held), "to be paid or to return"),
        tile("Available", units(sale.available), sale.units > 0 && `${Math.round((100 * sale.available) / sale.units)} % of the units`),
        tile("Revenue", money(revenue.net_minor, sale.currency), revenue.refunds_minor > 0 && `${money(revenue.refunds_minor, sale.currency)} refunded`),
        tile("Abandoned", funnel.abandonment_percent === null ? "–" : `${funnel.abandonment_percent} %`, "of the holds that are over")),
      h("section", { "aria-labelledby": "items-title" },
        h("div", { class: "head" }, h("h2", { id: "items-title" }, "Items"), isOperator && sale.state !== "ENDED" && button("sale.add-item", "Add an item", own)),
        table("Items", [["SKU"], ["Name", "wide"], ["Price", "number"], ["Units", "number"], ["Available", "number"], ["Held", "number"], ["Sold", "number"], ["Refunded", "number"], ["", "do"]],
          skus.map((item) => [
            h("a", { class: "id", href: `#/purchases?sku=${encodeURIComponent(item.sku)}` }, item.sku), item.name, money(item.price_minor, item.currency),
            units(item.units_total), units(item.units_available), units(item.units_held), units(item.units_sold), units(item.units_refunded),
            isOperator && button("sale.restock", "Restock", { sku: item.sku }, { "aria-label": `Restock ${item.sku}` }),
          ]), "No item yet: a sale sells what is added to it.")),
      h("section", { "aria-labelledby": "terms-title" }, h("h2", { id: "terms-title" }, "Terms"),
        h("dl", { class: "facts" },
          tile("Merchant", sale.merchant), tile("Opens", moment(sale.opens)), tile("Closes", moment(sale.closes)),
          tile("Units per buyer", units(sale.buyer_limit)), tile("A hold lasts", `${units(sale.hold_seconds)} s`), tile("Currency", sale.currency))),
      h("section", { "aria-labelledby": "done-title" }, h("h2", { id: "done-title" }, "Done by hand"), deeds(operations, true)),
    ].filter(Boolean);
  },
};

function card(sale) {
  const taken = Math.max(0, sale.units - sale.held - sale.available);
  return h("li", { class: "panel card", "data-key": sale.sale },
    h("div", { class: "card-head" }, h("h2", {}, h("a", { href: `#/sales/${encodeURIComponent(sale.sale)}` }, sale.name)), state(sale.state)),
    h("p", { class: "hint" }, sale.sale, " · ", sale.merchant, " · ", units(sale.items), sale.items === 1 ? " item" : " items"),
    bar(sale),
    h("dl", { class: "figures" }, tile("Taken", units(taken), null, "taken"), tile("Held", units(sale.held), null, "held"), tile("Available", units(sale.available), null, "available")),
    h("p", { class: "hint when" }, briefly(sale.opens), " – ", briefly(sale.closes)));
}

function legend() {
  return h("p", { class: "legend hint", "aria-hidden": "true" },
    h("span", { class: "taken" }, "sold, or off the shelf"), h("span", { class: "held" }, "held"), h("span", { class: "available" }, "available"));
}

function actions({ sale, state }) {
  const own = { sale };
  const is = { OPEN: ["pause", "end"], PAUSED: ["open", "end"], SCHEDULED: ["open", "pause", "end"], ENDED: [] }[state] ?? [];
  const words = { open: "Open", pause: "Pause", end: "End" };
  return h("div", { class: "buttons" },
    is.map((verb, place) => button(`sale.${verb}`, words[verb], own, { class: place === 0 ? "primary" : null, "data-key": verb })),
    state !== "ENDED" && [button("sale.schedule", "Schedule", own, { "data-key": "schedule" }), button("sale.limit", "Terms", own, { "data-key": "limit" })],
    button("sale.clone", "Clone", own, { "data-key": "clone" }));
}

function sum(rows, name) {
  return rows.reduce((all, row) => all + row[name], 0);
}
