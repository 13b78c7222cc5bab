// Messages that were set aside for a person.

import { get } from "./api.js";
import { h } from "./dom.js";
import { button, moment, subject, table, units } from "./words.js";

const QUEUES = { payments: "Payments that no try brought to an end", checkout: "Attempts that nobody could read" };

export const aside = {
  title: () => "Set aside",
  load: async () => {
    const found = await Promise.all(Object.keys(QUEUES).map((queue) => get(`/api/dlq/${queue}`)));
    return Object.keys(QUEUES).map((queue, place) => ({ queue, ...found[place] }));
  },
  draw(queues, { isOperator }) {
    return [
      h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Set aside")),
      h("p", { class: "hint" }, "Nothing is lost by what is done here: the books ask about an open payment again, and an attempt is decided once."),
      ...queues.map(({ queue, messages, all }) => h("section", { "aria-labelledby": `queue-${queue}` },
        h("div", { class: "head" }, h("h2", { id: `queue-${queue}` }, QUEUES[queue], " ", h("span", { class: "pill", "data-tone": all ? "warn" : "none" }, units(all))),
          isOperator && all > 0 && button("dlq.requeue", "Replay all", { queue, message: "all" })),
        table(QUEUES[queue], [["When"], ["Message"], ["About"], ["Tries", "number"], ["Why", "wide"], ["", "do"]],
          [...messages].reverse().map((each) => [
            each.at === "-" ? "–" : moment(each.at),
            h("a", { class: "id", href: `#/aside/${queue}?message=${encodeURIComponent(each.id)}` }, each.id.slice(0, 24)),
            subject(each.subject), each.tries, each.reason, isOperator && both(queue, each.id),
          ]), "Nothing waits here."))),
    ];
  },
};

export const message = {
  title: () => "A message",
  load: async (queue, { message }) => ({ queue, ...(await get(`/api/dlq/${queue}/message`, { message })) }),
  draw(found, { isOperator }) {
    return [
      h("p", { class: "crumbs" }, h("a", { href: "#/aside" }, "Set aside"), " / ", found.queue),
      h("div", { class: "head" }, h("h1", { tabindex: "-1", class: "id" }, found.id), isOperator && both(found.queue, found.id)),
      h("section", { "aria-labelledby": "body-title" }, h("h2", { id: "body-title" }, "Body"), h("pre", { tabindex: "0", "aria-labelledby": "body-title" }, pretty(found.body))),
      h("section", { "aria-labelledby": "headers-title" }, h("h2", { id: "headers-title" }, "Headers"), h("pre", { tabindex: "0", "aria-labelledby": "headers-title" }, JSON.stringify(found.headers, null, 2))),
    ];
  },
};

function both(queue, message) {
  const own = { queue, message };
  return h("div", { class: "buttons" },
    button("dlq.requeue", "Replay", own, { "aria-label": `Replay ${message}` }),
    button("dlq.drop", "Discard", own, { "aria-label": `Discard ${message}`, class: "danger" }));
}

function pretty({ text, base64, cut_from_bytes: whole }) {
  const end = whole ? `\n… cut, of ${units(whole)} bytes` : "";
  try {
    return JSON.stringify(JSON.parse(text), null, 2) + end;
  } catch {
    return (text ?? `${base64} (base64)`) + end;
  }
}
