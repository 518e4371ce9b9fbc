// Numbers as people read them. A value that is not known is a dash, never a zero.

export const NONE = "–";
/** @type {(value: unknown) => value is number} */
const known = (value) => typeof value === "number" && Number.isFinite(value);

/** @param {number} value @param {string[]} steps @param {string} unit */
function scaled(value, steps, unit) {
  let index = 0;
  // 999.5 would round to 1000: it belongs to the next step.
  while (Math.abs(value) >= 999.5 && index < steps.length - 1) {
    value /= 1000;
    index += 1;
  }
  const digits = index === 0 ? 0 : Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  const sign = steps[index] + unit;
  return value.toFixed(digits) + (sign ? " " + sign : "");
}

/** @param {number | null} value */
export const count = (value) => (known(value) ? scaled(value, ["", "k", "M", "G", "T"], "") : NONE);
/** @param {number | null} value */
export const bytes = (value) => (known(value) ? scaled(value, ["", "k", "M", "G", "T"], "B") : NONE);
/** Bits per second; 0 is not known. @param {number} value */
export const speed = (value) => (value > 0 ? scaled(value, ["", "k", "M", "G", "T"], "bit/s") : NONE);
/** @param {number | null} value */
export const loss = (value) => (known(value) ? value.toFixed(3) : NONE);
/** @param {number} part @param {number} whole */
export const percent = (part, whole) => (whole > 0 ? ((100 * part) / whole).toFixed(1) + " %" : NONE);
/** @param {number | null} value */
export const millis = (value) => (known(value) ? value.toFixed(value < 10 ? 1 : 0) + " ms" : NONE);

/** Seconds as one or two units: 0.84 s, 12 s, 3 m 20 s, 5 h 2 m, 3 d 4 h. @param {number | null} value */
export function duration(value) {
  if (!known(value)) return NONE;
  if (value < 9.95) return value.toFixed(value < 1 ? 2 : 1) + " s";
  const s = Math.round(value);
  if (s < 60) return s + " s";
  if (s < 3600) return `${Math.floor(s / 60)} m ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} m`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** @param {number | null} value */
export function ago(value) {
  if (!known(value)) return NONE;
  return value < 1 ? "now" : duration(Math.max(1, Math.round(value))).replace(".0", "") + " ago";
}

/** @param {number} unixS */
export const clock = (unixS) =>
  new Date(unixS * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

/** The first characters of a digest or an id; the whole of it goes into a title. @param {string} text */
export const short = (text) => (text ? text.slice(0, 8) : NONE);
/** @param {string} id */
export const shortId = (id) => (id.length > 10 ? "…" + id.slice(-8) : id);

/** A node's words for the page: commands without backticks, and the button in place of its command. @param {string} text */
export function onPage(text) {
  return text.replace(/`atoll resume[^`]*` goes on/, "The button Resume goes on").replaceAll("`", "");
}
