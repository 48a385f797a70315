// Shared by the charts and the timeline: elements, times, numbers, tables. Text is only set as text, never as HTML.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);

function add(parent, ...children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) parent.append(child);
  }
  return parent;
}

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  return add(made, ...children);
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return add(made, ...children);
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const once = (draw) => {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  };
};

// --- times: whole microseconds since 1970, which a number holds exactly

const SECOND = 1e6, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (number) => String(number).padStart(2, "0");
const dateOf = (us) => new Date(Math.floor(us / 1000));

function day(us) {
  const at = dateOf(us);
  return at.getUTCDate() + " " + MONTHS[at.getUTCMonth()];
}

function clock(us, parts = 3) {
  const at = dateOf(us);
  let text = two(at.getUTCHours()) + ":" + two(at.getUTCMinutes());
  if (parts > 2) text += ":" + two(at.getUTCSeconds());
  if (parts > 3) text += "." + String(Math.floor(us / 1000) % 1000).padStart(3, "0");
  return text;
}

function utc(us, parts = 4) {
  return dateOf(us).toISOString().slice(0, 10) + " " + clock(us, parts);
}

function local(us) {
  const at = dateOf(us), east = -at.getTimezoneOffset(), size = Math.abs(east);
  const shifted = us + east * MINUTE;
  const zone = "UTC" + (east < 0 ? "-" : "+") + Math.floor(size / 60) + (size % 60 ? ":" + two(size % 60) : "");
  return utc(shifted) + " " + zone;
}

function time(us, parts = 4) {
  return el("time", { datetime: dateOf(us).toISOString(), title: "here: " + local(us) }, utc(us, parts));
}

function span(us) {
  if (us < 0) return "-" + span(-us);
  if (us < 500) return us >= 1 ? Math.round(us) + " \u00b5s" : "0 s";
  if (us < 999500) return Math.round(us / 1000) + " ms";
  if (us < 9.95 * SECOND) return (us / SECOND).toFixed(1) + " s";
  const whole = Math.round(us / SECOND);
  for (const [unit, size, smaller, part] of [["d", 86400, "h", 3600], ["h", 3600, "m", 60], ["m", 60, "s", 1]]) {
    if (whole >= size) {
      const rest = Math.floor((whole % size) / part);
      return Math.floor(whole / size) + " " + unit + (rest ? " " + rest + " " + smaller : "");
    }
  }
  return whole + " s";
}

const told = (seconds) => (seconds === null ? "-" : span(seconds * SECOND));
const number = (value) => value.toLocaleString("en");
const percent = (share) => (share === null ? "-" : (share * 100).toFixed(share && share < 0.1 ? 1 : 0) + " %");
const plural = (count, word) => number(count) + " " + word + (count === 1 ? "" : "s");

const STEPS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5,
  ...[1, 2, 5, 10, 15, 30].map((n) => n * SECOND), ...[1, 2, 5, 10, 15, 30].map((n) => n * MINUTE),
  ...[1, 2, 3, 6, 12].map((n) => n * HOUR), ...[1, 2, 7, 14, 30, 90, 180, 365, 730, 1825, 3650].map((n) => n * DAY),
];

// Ticks of a time axis: [place, label, whether a day begins there].
function ticks(from, to, most) {
  const step = STEPS.find((size) => (to - from) / size <= most) || STEPS[STEPS.length - 1] * 10;
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to && found.length < 50; at += step) {
    const midnight = at % DAY === 0;
    let label = midnight ? day(at) : clock(at, step >= MINUTE ? 2 : 3);
    if (step < SECOND) label = ":" + two(dateOf(at).getUTCSeconds()) + "." + String(at % SECOND).padStart(6, "0").slice(0, step < 1000 ? 6 : 3);
    if (step >= 30 * DAY) label += " " + dateOf(at).getUTCFullYear();
    found.push([at, label, midnight && step < DAY]);
  }
  return found;
}

// --- tables

function cellOf(value) {
  return value instanceof Node ? value : value === null || value === undefined || value === "" ? "" : String(value);
}

function rowOf(cells, heads) {
  return el("tr", { role: "row" }, cells.map((cell, place) => {
    const head = heads[place], first = place === 0;
    return el(first ? "th" : "td", { role: first ? "rowheader" : "cell", scope: first ? "row" : null, class: head.kind || null, "data-head": head.name }, cellOf(cell));
  }));
}

// A table of any length, of which 100 rows are in the page at a time. `row(i)` returns the cells of one. On a narrow
// page a table with prose becomes a stack of blocks; the roles keep it a table for screen readers.
function table(caption, heads, count, row, { page = 100, more = null } = {}) {
  const body = el("tbody", { role: "rowgroup" });
  const stack = heads.some((head) => head.kind === "long");
  const made = el("table", { role: "table", class: stack ? "stack" : null }, el("caption", { class: "unseen" }, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, heads.map((head) => el("th", { role: "columnheader", scope: "col", class: head.kind || null }, head.name)))), body);
  const box = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption }, made);
  const whole = el("div", { class: Math.min(page, count) <= 20 ? "table whole" : "table" }, box);
  let first = 0;
  const say = el("span", { role: "status" });
  const buttons = [];
  function show(from) {
    first = clamp(Math.floor(from / page) * page, 0, Math.max(0, Math.ceil(count / page) - 1) * page);
    const last = Math.min(first + page, count);
    body.replaceChildren(...Array.from({ length: last - first }, (_, place) => {
      const made = rowOf(row(first + place), heads);
      made.dataset.row = first + place;
      return made;
    }));
    say.textContent = "rows " + number(first + 1) + " to " + number(last) + " of " + number(count);
    buttons.forEach(([button, off]) => button.setAttribute("aria-disabled", String(off())));
  }
  function turn(name, to, off) {
    const button = el("button", { type: "button" }, name);
    button.addEventListener("click", () => { if (!off()) { show(to()); box.scrollTop = 0; } });
    buttons.push([button, off]);
    return button;
  }
  if (count > page) {
    const atStart = () => first === 0, atEnd = () => first + page >= count;
    whole.append(el("nav", { class: "pages", "aria-label": "Pages of: " + caption },
      turn("First", () => 0, atStart), turn("Previous", () => first - page, atStart),
      say, turn("Next", () => first + page, atEnd), turn("Last", () => count - 1, atEnd)));
  }
  if (more) whole.append(el("p", { class: "note" }, more));
  show(0);
  whole.reveal = (place) => {
    if (place < first || place >= first + page) show(place);
    body.querySelectorAll(".chosen").forEach((old) => old.classList.remove("chosen"));
    const found = body.querySelector('[data-row="' + place + '"]');
    if (found) found.classList.add("chosen");
    return found;
  };
  return whole;
}

function panel(title, level, ...children) {
  const id = "h-" + title.toLowerCase().replace(/[^a-z]+/g, "-");
  return el("section", { class: "panel", "aria-labelledby": id }, el(level, { id }, title), ...children);
}

function tile(name, value, more, kind) {
  return el("div", { class: "tile" + (kind ? " " + kind : "") }, el("dt", {}, name), el("dd", {}, value, more ? el("small", {}, more) : null));
}
