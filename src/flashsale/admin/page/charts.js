// Lines over the last minutes, each with a table of the same numbers. Who has no eye for a colour has the shape at a line's end and its
// dashes; who has no eye for lines has the table.

import uPlot from "./uPlot.esm.js";
import { Grid, attribute, text } from "./grid.js";
import { h, morph } from "./dom.js";
import { clockTime } from "./measures.js";

const HEIGHT = 184;
const WIDTH_MIN = 240;
const MINUTE = 60;
const LABEL_GAP = 6; // between two labels of events; where there is no room the line stands alone
const DASH = [5, 4];
// By series: around the middle of a square of ten.
const SHAPES = [
  "M5 1a4 4 0 1 0 .01 0Z", "M1.5 1.5h7v7h-7Z", "M5 .8 9.4 8.6H.6Z", "M5 .3 9.7 5 5 9.7.3 5Z", "M5 9.2.6 1.4h8.8Z", "M3.6 .6h2.8v3h3v2.8h-3v3H3.6v-3h-3V3.6h3Z",
];
const sync = uPlot.sync("operations");

export class Chart {
  #form;
  #isLog;
  #figure;
  #place;
  #keys;
  #twin;
  #grid = null;
  #plot = null;
  #drawn = ""; // the names that the plot was made for
  #times = [];
  #series = [];
  #events = [];

  // `form(value)`: a value with its unit. On a logarithmic scale a line of milliseconds and one of seconds are both seen.
  constructor(figure, { title, form, isLog = false }) {
    this.#form = form;
    this.#isLog = isLog;
    this.#figure = figure;
    this.#place = h("div", { class: "plot", role: "img" });
    this.#keys = h("ul", { class: "keys" });
    this.#twin = h("details", { class: "twin" }, h("summary", {}, "Table", h("span", { class: "visually-hidden" }, `: ${title}`)),
      h("div", { class: "twin-scroll", tabindex: "0", role: "region", "aria-label": `${title}, second by second` }, h("table")));
    figure.replaceChildren(h("figcaption", {}, h("h3", {}, title), this.#keys), this.#place, this.#twin);
    this.#twin.addEventListener("toggle", () => this.#paintTwin());
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(this.#place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plot?.redraw(false));
  }

  // `all`: {name, hue, isDashed, values} each; `values` beside `times`. `events`: {at (seconds), label} each.
  paint(times, all, events) {
    const series = times.length ? all : [];
    [this.#times, this.#series, this.#events] = [times, series, events];
    const data = [times, ...series.map(({ values }) => values)];
    const names = series.map(({ name, hue, isDashed }) => `${name} ${hue} ${isDashed}`).join();
    if (names !== this.#drawn) this.#make(names, data);
    else this.#plot?.setData(data);
    this.#paintKeys(this.#plot?.cursor.idx ?? times.length - 1);
    this.#paintTwin();
  }

  #make(names, data) {
    this.#plot?.destroy();
    this.#plot = null;
    this.#drawn = names;
    this.#grid = null;
    if (!this.#series.length) return;
    const line = { stroke: () => this.#colour("--line"), width: 1 };
    const axis = { stroke: () => this.#colour("--quiet"), font: "11px system-ui, sans-serif", ticks: { show: false }, grid: line };
    const y = this.#isLog
      ? { distr: 3, range: (_, __, most) => [1, 10 ** Math.max(2, Math.ceil(Math.log10(most || 1)))] }
      : { range: (_, __, most) => uPlot.rangeNum(0, Math.max(most ?? 0, 1), { min: { pad: 0, hard: 0, mode: 1 }, max: { pad: 0.12 } }) };
    this.#plot = new uPlot({
      ...this.#size(),
      legend: { show: false }, // ours is the list above, and the table
      padding: [20, 12, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: sync.key }, points: { size: 7 } },
      scales: { x: { time: true, range: () => [this.#times[0], this.#times.at(-1)] }, y },
      axes: [
        { ...axis, size: 28, gap: 6, incrs: [MINUTE, 2 * MINUTE], space: 44, values: (_, splits) => splits.map((second) => clockTime(second * 1000).slice(0, 5)), grid: { show: false } },
        { ...axis, size: 62, gap: 8, space: 34, values: (_, splits) => splits.map((value) => (value === null ? null : briefly(this.#form(value)))), ...(this.#isLog ? { filter: tens, grid: { ...line, filter: tens } } : {}) },
      ],
      series: [{}, ...this.#series.map(({ hue, isDashed }) => ({
        stroke: () => this.#colour(`--hue-${hue % SHAPES.length}`), width: 1.75, dash: isDashed ? DASH : undefined, points: { show: false }, spanGaps: false,
      }))],
      hooks: { draw: [(plot) => this.#mark(plot)], setCursor: [(plot) => this.#paintKeys(plot.cursor.idx ?? this.#times.length - 1)] },
    }, data, this.#place);
  }

  // The events, and a shape where each line ends.
  #mark(plot) {
    const { ctx, bbox } = plot;
    const scale = devicePixelRatio;
    ctx.save();
    ctx.font = `${10.5 * scale}px system-ui, sans-serif`;
    ctx.textBaseline = "bottom";
    let free = -Infinity;
    for (const { at, label } of this.#events) {
      const x = Math.round(plot.valToPos(at, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = ctx.fillStyle = this.#colour("--quiet");
      ctx.lineWidth = scale;
      ctx.setLineDash([2 * scale, 3 * scale]);
      ctx.beginPath();
      ctx.moveTo(x + 0.5, bbox.top - 4 * scale);
      ctx.lineTo(x + 0.5, bbox.top + bbox.height);
      ctx.stroke();
      const width = ctx.measureText(label).width;
      const left = Math.min(x - 3 * scale, bbox.left + bbox.width - width);
      if (left < free) continue;
      ctx.fillText(label, left, bbox.top - 5 * scale);
      free = left + width + LABEL_GAP * scale;
    }
    ctx.setLineDash([]);
    this.#series.forEach(({ hue, values }, number) => {
      const last = values.findLastIndex((value) => value !== null);
      if (last < 0) return;
      ctx.save();
      ctx.translate(plot.valToPos(this.#times[last], "x", true), plot.valToPos(values[last], "y", true));
      ctx.scale(scale, scale);
      ctx.translate(-5, -5);
      ctx.fillStyle = this.#colour(`--hue-${hue % SHAPES.length}`);
      ctx.strokeStyle = this.#colour("--panel");
      ctx.lineWidth = 1.5;
      const shape = new Path2D(SHAPES[hue % SHAPES.length]);
      ctx.fill(shape);
      ctx.stroke(shape);
      ctx.restore();
    });
    ctx.restore();
  }

  // What the lines are, and their values where the pointer is; without one, the latest.
  #paintKeys(place) {
    morph(this.#keys, this.#series.map(({ name, hue, isDashed, values }) =>
      h("li", { "data-key": name }, sample(hue, isDashed), h("span", {}, name), h("b", {}, this.#form(latest(values, place))))));
    const told = this.#series.map(({ name, values }) => `${name} ${this.#form(latest(values, values.length - 1))}`).join(", ");
    attribute(this.#place, "aria-label", told ? `Lines: ${told}. The table has every value.` : "Nothing was heard yet.");
  }

  #paintTwin() {
    const table = this.#twin.querySelector("table");
    if (!this.#twin.open) {
      this.#grid = null;
      table.replaceChildren();
      return;
    }
    this.#grid ??= new Grid(table, this.#figure.querySelector("h3").textContent, [
      { title: "Time", paint: (cell, { at }) => text(cell, clockTime(at * 1000)) },
      ...this.#series.map(({ name }, number) => ({ title: name, kind: "number", paint: (cell, { values }) => text(cell, this.#form(values[number])) })),
    ]);
    const rows = this.#times.map((at, place) => ({ key: at, at, values: this.#series.map(({ values }) => values[place]) }));
    this.#grid.paint(rows.filter(({ values }) => values.some((value) => value !== null)).reverse());
  }

  #size() {
    return { width: Math.max(WIDTH_MIN, Math.floor(this.#place.clientWidth)), height: HEIGHT };
  }

  #colour(name) {
    return getComputedStyle(this.#figure).getPropertyValue(name);
  }
}

// A second without word says nothing; the one before it stands for as long.
function latest(values, place) {
  return values[place] ?? values[place - 1] ?? null;
}

// Beside an axis, where the title says what is counted.
function briefly(words) {
  return words.replace(/\.0+(?=\D|$)/, "").replace("/s", "");
}

// Of a logarithmic scale's lines those that are a power of ten.
function tens(_, splits) {
  return splits.map((value) => (Number.isInteger(Math.round(Math.log10(value) * 1e6) / 1e6) ? value : null));
}

export function sample(hue, isDashed = false) {
  return h("svg", { class: "sample", viewBox: "0 0 26 10", width: 26, height: 10, "data-hue": hue % SHAPES.length, "aria-hidden": "true" },
    h("path", { d: "M0 5h26", class: "sample-line", "stroke-dasharray": isDashed ? DASH.join(" ") : null }),
    h("path", { d: SHAPES[hue % SHAPES.length], transform: "translate(8 0)" }));
}

// Lines without axes, for cells: `most` is the top of a line's scale. All are measured before one is drawn, or each would have the
// whole page laid out again.
export function sparks(lines) {
  const sizes = lines.map(({ canvas }) => [canvas.clientWidth * devicePixelRatio, canvas.clientHeight * devicePixelRatio]);
  lines.forEach((line, place) => sizes[place][0] && spark(line, sizes[place]));
}

function spark({ canvas, values, most }, [width, height]) {
  const scale = devicePixelRatio;
  if (canvas.width !== Math.round(width) || canvas.height !== Math.round(height)) [canvas.width, canvas.height] = [width, height];
  const ctx = canvas.getContext("2d");
  ctx.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  const at = (value, place) => [(place / (values.length - 1)) * width, height - scale - (value / most) * (height - 3 * scale)];
  const line = new Path2D();
  const area = new Path2D();
  let begun = null;
  let end = 0;
  values.forEach((value, place) => {
    if (value === null) return;
    const [x, y] = at(value, place);
    if (begun === null) {
      begun = x;
      line.moveTo(x, y);
      area.moveTo(x, height);
    } else line.lineTo(x, y);
    area.lineTo(x, y);
    end = x;
  });
  if (begun === null) return;
  area.lineTo(end, height);
  ctx.fillStyle = style.getPropertyValue("--spark");
  ctx.fill(area);
  ctx.strokeStyle = style.getPropertyValue("--quiet");
  ctx.lineWidth = 1.25 * scale;
  ctx.lineJoin = "round";
  ctx.stroke(line);
}
