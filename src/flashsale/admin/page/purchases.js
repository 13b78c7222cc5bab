// Purchases found by what is known of them, and one of them in full.

import { get } from "./api.js";
import { h } from "./dom.js";
import { button, deeds, label, moment, money, sentence, state, table, tile, units } from "./words.js";

const STATES = ["HELD", "AUTHORIZING", "AUTHORIZED", "PAID", "DISPUTED", "CHARGED_BACK", "REFUNDED", "RESTOCKED", "EXPIRED", "CANCELLED", "DECLINED"];
// What may be done to a purchase in a state; the books have the last word.
const MAY = { HELD: ["cancel"], PAID: ["refund"], REFUNDED: ["restock"], CHARGED_BACK: ["restock"] };
const WORDS = { cancel: "Cancel the hold", refund: "Refund", restock: "Restock" };

export const purchases = {
  title: () => "Purchases",
  load: async (_, query) => ({ query, ...(await get("/api/purchases", { ...query, since: instant(query.since), until: instant(query.until) })) }),
  draw({ query, purchases, behind }) {
    return [
      h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Purchases")),
      h("form", { class: "panel search", role: "search", "data-search": "purchases", "aria-label": "Purchases" },
        ["id", "buyer", "sale", "sku"].map((name) => field(name, h("input", { name, value: query[name], autocomplete: "off", spellcheck: "false", autocapitalize: "off", maxlength: 128 }))),
        field("state", h("select", { name: "state" }, h("option", { value: "" }, "any"),
          STATES.map((each) => h("option", { value: each, selected: each === query.state }, sentence(each))))),
        ["since", "until"].map((name) => field(name, h("input", { name, type: "datetime-local", step: 1, value: query[name] }))),
        h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Search"), h("a", { href: "#/purchases" }, "Clear"))),
      table("Purchases, the latest first", [["Held"], ["Purchase"], ["Buyer"], ["Item"], ["Units", "number"], ["Total", "number"], ["State"]],
        purchases.map((each) => [
          moment(each.at), h("a", { class: "id", href: `#/purchases/${each.id}` }, each.id.slice(0, 8), h("span", { class: "visually-hidden" }, each.id.slice(8))),
          each.buyer, h("span", { class: "id" }, each.sku), units(each.units), money(each.total_minor, each.currency), state(each.state),
        ]), "No purchase is like that."),
      h("p", { class: "buttons" },
        query.behind && h("a", { href: address({ ...query, behind: "" }) }, "Latest"),
        behind && h("a", { href: address({ ...query, behind }) }, "Older")),
    ];
  },
};

export const purchase = {
  title: ({ id }) => `Purchase ${id.slice(0, 8)}`,
  load: (id) => get(`/api/purchases/${encodeURIComponent(id)}`),
  draw(found, { isOperator }) {
    const isOnItsWay = found.payments.some((pay) => pay.state === "REFUNDING");
    const may = isOperator && !isOnItsWay ? MAY[found.state] ?? [] : [];
    return [
      h("p", { class: "crumbs" }, h("a", { href: "#/purchases" }, "Purchases"), " / ", h("a", { href: `#/sales/${encodeURIComponent(found.sale)}` }, found.sale)),
      h("div", { class: "head" }, h("h1", { tabindex: "-1" }, money(found.total_minor, found.currency), " ", state(found.state)),
        h("div", { class: "buttons" }, may.map((verb) => button(`purchase.${verb}`, WORDS[verb], { purchase: found.id }, { "data-key": verb, class: verb === "restock" ? "primary" : "danger" })))),
      isOnItsWay && h("p", { class: "notice" }, "The money is on its way back: the gateway is being asked until it says so."),
      h("dl", { class: "facts" }, tile("Purchase", h("span", { class: "id" }, found.id)),
        tile("Buyer", h("a", { href: `#/purchases?buyer=${encodeURIComponent(found.buyer)}` }, found.buyer)),
        tile("To be paid by", moment(found.deadline)), tile("Hold", `number ${units(found.generation)}`)),
      part("Items", table("Items", [["SKU"], ["Units", "number"], ["Price", "number"]],
        found.items.map((line) => [h("span", { class: "id" }, line.sku), units(line.quantity), money(line.unit_price_minor, found.currency)]), "None.")),
      part("History", h("ol", { class: "history" }, found.history.map((step) => h("li", {}, state(step.state), " ", moment(step.at))))),
      part("Payments", table("Payments", [["Try", "number"], ["Way"], ["Amount", "number"], ["State"], ["Asked"]],
        found.payments.map((pay) => [units(pay.try), sentence(pay.method), money(pay.amount_minor, pay.currency), state(pay.state), moment(pay.asked_at)]), "Nobody asked to pay.")),
      part("Movements of stock", table("Movements of stock", [["When"], ["SKU"], ["Kind"], ["Why"], ["Units", "number"], ["Seq", "number"]],
        found.movements.map((move) => [moment(move.at), h("span", { class: "id" }, move.sku), sentence(move.kind), sentence(move.reason), move.units > 0 ? `+${units(move.units)}` : units(move.units), units(move.seq)]), "None.")),
      part("Done by hand", deeds(found.operations, true)),
    ].filter(Boolean);
  },
};

// The address of a search; empty values are left out.
export function address(query) {
  const given = Object.entries(query).filter(([, value]) => value);
  return given.length ? `#/purchases?${new URLSearchParams(given)}` : "#/purchases";
}

// What a person types is in the time of their clock, and what is asked for names its zone.
function instant(local) {
  const at = new Date(local ?? "");
  return Number.isNaN(at.getTime()) ? "" : at.toISOString();
}

function field(name, input) {
  return h("label", {}, h("span", {}, label(name)), input);
}

function part(title, ...children) {
  const id = `part-${title.toLowerCase().replaceAll(" ", "-")}`;
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), children);
}
