// Numbers with their units, short and of a steady width. Pure. null is what nobody knows.

const LOCALE = "en-GB";
const WHOLE = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
const TENTHS = new Intl.NumberFormat(LOCALE, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const HUNDREDTHS = new Intl.NumberFormat(LOCALE, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const TIME = new Intl.DateTimeFormat(LOCALE, { timeStyle: "medium" });

export const NONE = "–";

const known = (form) => (value) => (value === null || value === undefined || !Number.isFinite(value) ? NONE : form(value));

export const count = known((value) => WHOLE.format(value));
export const rate = known((value) => `${value > 0 && value < 10 ? TENTHS.format(value) : WHOLE.format(value)}/s`);
export const ms = known((value) => {
  if (value >= 1000) return `${value < 10_000 ? HUNDREDTHS.format(value / 1000) : TENTHS.format(value / 1000)} s`;
  return `${value < 10 ? TENTHS.format(value) : WHOLE.format(value)} ms`;
});
export const cores = known((value) => HUNDREDTHS.format(value));
export const mib = known((value) => `${WHOLE.format(value)} MiB`);
export const ratio = known((value) => HUNDREDTHS.format(value));

// How long, in the largest unit that says it: "12 s", "3 min", "2 h".
export const span = known((seconds) => {
  if (seconds < 90) return `${WHOLE.format(seconds)} s`;
  return seconds < 5400 ? `${WHOLE.format(seconds / 60)} min` : `${WHOLE.format(seconds / 3600)} h`;
});

export function clockTime(ms) {
  return TIME.format(new Date(ms));
}
