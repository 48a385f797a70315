// The queue over time: charts that share one cursor. For the keyboard and for screen readers each is a slider with a
// text value. A table below the chart has the same numbers.

const CHARTS = [];
let cursor = null;

function pointAt(place) {
  cursor = place;
  for (const chart of CHARTS) chart.point();
}

function slotText(place) {
  const from = data.time.begin + place * data.time.width, to = from + data.time.width;
  const parts = data.time.width < MINUTE ? 3 : 2;
  const sameDay = Math.floor(from / DAY) === Math.floor((to - 1) / DAY);
  if (data.time.width >= DAY) return utc(from, 2).slice(0, 10) + (data.time.width > DAY ? " to " + utc(to - 1, 2).slice(0, 10) : "");
  return utc(from, parts) + " to " + (sameDay && to % DAY !== 0 ? clock(to, parts) : utc(to, parts)) + " UTC";
}

// --- scales: from a value to a share of the height

function linear(most) {
  const rough = Math.max(1, most) / 3;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].map((n) => n * size).find((n) => n >= rough));
  const top = Math.max(step, Math.ceil(most / step) * step);
  const marks = [];
  for (let at = 0; at <= top; at += step) marks.push([at / top, number(at)]);
  return { place: (value) => value / top, marks };
}

const DURATIONS = [0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36000, 86400, 864000, 8640000, 86400000];

// Durations on a logarithmic scale from one millisecond; shorter ones are at the bottom.
function logarithmic(most) {
  const top = DURATIONS.find((size) => size >= most) || most;
  const reach = Math.log10(Math.max(top, 0.01) / 0.0005);
  const place = (value) => (value <= 0.0005 ? 0 : Math.min(1, Math.log10(value / 0.0005) / reach));
  let marks = DURATIONS.filter((size) => size <= Math.max(top, 0.01));
  if (marks.length > 5) marks = marks.filter((_, number) => (marks.length - 1 - number) % 2 === 0);
  return { place, marks: [[0, "0"], ...marks.map((size) => [place(size), span(size * SECOND)]).filter(([share]) => share > 0.1)] };
}

// --- one chart
//   bars: [{key, name, values}], stacked; lines: the same, drawn as steps; ranges: seconds on a logarithmic axis, from
//   the median to the longest of each slot; extra: in the text, but not drawn

function chart({ title, note, bars = [], lines = [], ranges = [], gap = 1, wide = false, extra = [], empty }) {
  const count = data.time.depth.running.length;
  const durations = ranges.length > 0;
  const series = [...bars, ...lines, ...ranges];
  const tell = durations ? told : number;
  const known = series.some((one) => one.values.some((value) => (durations ? value !== null : value)));
  const picture = svg("svg", {
    tabindex: "0", role: "slider", "aria-label": title + " over time", "aria-valuemin": 0, "aria-valuemax": count - 1,
    "aria-valuenow": 0, "aria-orientation": "horizontal",
  });
  const when = el("span", { class: "when" });
  const shown = [...series, ...extra].map((one) => [one, el("b")]);
  const legend = el("ul", { class: "legend" }, shown.map(([one, value]) =>
    el("li", {}, el("i", { class: "key c-" + one.key + (lines.includes(one) ? " line" : ""), "aria-hidden": "true" }), one.name + " ", value)));
  const heads = [{ name: "from (UTC)" }, ...shown.map(([one]) => ({ name: one.name, kind: "n" }))];
  const rows = () => table(title + ", slot by slot", heads, count, (place) => [
    time(data.time.begin + place * data.time.width, data.time.width < MINUTE ? 3 : 2), ...shown.map(([one]) => tell(one.values[place])),
  ], { page: 48 });
  const details = el("details", {}, el("summary", {}, "Show ", el("span", { class: "unseen" }, title + " "), "as a table"));
  details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(rows()); });
  const id = "c-" + title.toLowerCase().replace(/[^a-z]+/g, "-");
  const box = el("figure", { class: "panel chart" + (wide ? " wide" : ""), "aria-labelledby": id },
    el("figcaption", {}, el("h3", { id }, title), el("p", {}, note), when, legend),
    el("div", { class: "plot" }, picture, known ? null : el("p", { class: "nothing" }, empty)), details);

  const left = durations ? 52 : 44, right = 8, above = 8, below = 22, height = wide ? 220 : 180;
  const rule = svg("line", { class: "rule", y1: above, y2: height - below });
  let width = 0, slot = 1;

  function draw() {
    width = Math.max(240, picture.parentNode.clientWidth);
    slot = (width - left - right) / count;
    const deep = height - above - below, ground = height - below;
    const top = durations ? Math.max(...ranges[ranges.length - 1].values) : stackedMost(bars, lines, count);
    const scale = durations ? logarithmic(top) : linear(top);
    const from = data.time.begin, to = from + count * data.time.width;
    const x = (us) => left + ((us - from) / (to - from)) * (width - left - right);
    const y = (value) => ground - scale.place(value) * deep;
    const parts = [];
    for (const [share, label] of scale.marks) {
      const level = Math.round(ground - share * deep) + 0.5;
      parts.push(svg("line", { class: share ? "grid" : "ground", x1: left, x2: width - right, y1: level, y2: level }),
        svg("text", { class: "tick", x: left - 8, y: level + 4, "text-anchor": "end" }, label));
    }
    for (const [at, label, strong] of ticks(from, to, Math.max(2, Math.floor(width / 90)))) {
      const end = x(at) > width - 30 ? "end" : x(at) < left + 20 ? "start" : "middle";
      parts.push(svg("line", { class: "ground", x1: x(at), x2: x(at), y1: ground, y2: ground + 4 }),
        svg("text", { class: strong ? "tick strong" : "tick", x: x(at), y: height - 5, "text-anchor": end }, label));
    }
    for (const mark of data.time.incidents) {
      if (data.time.begin <= mark[1]) parts.push(svg("line", { class: "incident", x1: x(mark[1]), x2: x(mark[1]), y1: above, y2: ground }, svg("title", {}, mark[2])));
    }
    const life = lifeOfTicket();
    if (life) parts.push(svg("rect", { class: "life", x: x(Math.max(from, life[0])), y: above, width: Math.max(1, x(Math.min(to, life[1])) - x(Math.max(from, life[0]))), height: deep }));
    parts.push(...stacks(bars, count, slot, left, gap, y), ...lines.map((one) => steps(one, slot, left, y)), ...spreads(ranges, slot, left, y), rule);
    picture.replaceChildren(...parts);
    picture.setAttribute("width", width);
    picture.setAttribute("height", height);
    point();
  }

  function point() {
    const on = cursor !== null;
    rule.setAttribute("visibility", on ? "visible" : "hidden");
    if (on) {
      const at = left + (cursor + 0.5) * slot;
      rule.setAttribute("x1", at);
      rule.setAttribute("x2", at);
    }
    when.textContent = on ? slotText(cursor) : "";
    when.title = on ? "here: " + local(data.time.begin + cursor * data.time.width) : "";
    for (const [one, value] of shown) value.textContent = on ? tell(one.values[cursor]) : one.total === undefined ? "" : tell(one.total);
    const words = shown.map(([one]) => one.name + " " + tell(one.values[cursor || 0])).join(", ");
    picture.setAttribute("aria-valuenow", cursor || 0);
    picture.setAttribute("aria-valuetext", slotText(cursor || 0) + ": " + words);
  }

  const placeOf = (event) => clamp(Math.floor((event.clientX - picture.getBoundingClientRect().left - left) / slot), 0, count - 1);
  picture.addEventListener("pointermove", (event) => pointAt(placeOf(event)));
  picture.addEventListener("pointerdown", (event) => pointAt(placeOf(event)));
  picture.addEventListener("pointerleave", () => { if (document.activeElement !== picture) pointAt(null); });
  picture.addEventListener("focus", () => { if (cursor === null) pointAt(count - 1); });
  picture.addEventListener("blur", () => pointAt(null));
  picture.addEventListener("keydown", (event) => {
    const now = cursor === null ? count - 1 : cursor, far = Math.max(1, Math.round(count / 10));
    const to = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, PageDown: now - far, PageUp: now + far, Home: 0, End: count - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    pointAt(clamp(to, 0, count - 1));
  });
  CHARTS.push({ point });
  new ResizeObserver(once(() => { if (picture.parentNode.clientWidth !== width) draw(); })).observe(box);
  return box;
}

function lifeOfTicket() {
  const ticket = data.ticket;
  if (!ticket || !ticket.events.length) return null;
  const from = ticket.lives.length ? ticket.lives[0].begin : ticket.events[0][1];
  return [from, ticket.lives.length ? ticket.lives[ticket.lives.length - 1].end : ticket.now];
}

function stackedMost(bars, lines, count) {
  let most = 0;
  for (let place = 0; place < count; place++) {
    most = Math.max(most, bars.reduce((sum, one) => sum + one.values[place], 0), ...lines.map((one) => one.values[place]));
  }
  return most;
}

// One path for each series, however many slots there are.
function stacks(bars, count, slot, left, gap, y) {
  const under = new Array(count).fill(0);
  const room = slot > 4 ? gap : 0;
  return bars.map((one) => {
    let path = "";
    for (let place = 0; place < count; place++) {
      const value = one.values[place];
      if (!value) continue;
      const low = y(under[place]), high = y(under[place] + value);
      path += "M" + (left + place * slot + room / 2).toFixed(2) + " " + low.toFixed(2) + "V" + high.toFixed(2) + "h" + Math.max(0.5, slot - room).toFixed(2) + "V" + low.toFixed(2) + "Z";
      under[place] += value;
    }
    return svg("path", { class: "fill c-" + one.key, d: path });
  });
}

function steps(one, slot, left, y) {
  let path = "";
  one.values.forEach((value, place) => {
    const from = left + place * slot, level = y(value).toFixed(2);
    path += (path ? "V" + level : "M" + from.toFixed(2) + " " + level) + "H" + (from + slot).toFixed(2);
  });
  return svg("path", { class: "stroke c-" + one.key, d: path });
}

// For each slot a bar from the median to the longest, darker up to the 90th percentile.
function spreads(ranges, slot, left, y) {
  if (!ranges.length) return [];
  const [half, most, , longest] = ranges.map((one) => one.values);
  const room = slot > 4 ? 1.5 : 0;
  const paths = { far: "", near: "", half: "" };
  half.forEach((value, place) => {
    if (value === null) return;
    const across = "h" + Math.max(1, slot - room).toFixed(2);
    const bar = (low, high) => "M" + (left + place * slot + room / 2).toFixed(2) + " " + low.toFixed(2) + "V" + high.toFixed(2) + across + "V" + low.toFixed(2) + "Z";
    if (longest[place] > value) paths.far += bar(y(value), y(longest[place]));
    if (most[place] > value) paths.near += bar(y(value), y(most[place]));
    paths.half += bar(y(value) + 1, y(value) - 2);
  });
  return [svg("path", { class: "fill c-longest", d: paths.far }), svg("path", { class: "fill c-p90", d: paths.near }), svg("path", { class: "fill c-p50", d: paths.half })];
}

// --- the charts

function queueCharts() {
  const time = data.time, sum = (values) => values.reduce((all, one) => all + one, 0);
  const counted = (key, name) => ({ key, name: name || key, values: time.counts[key], total: time.total[key] });
  const last = (values) => values[values.length - 1];
  const measured = (all, total) => [["p50", "half of them"], ["p90", "90 %"], ["p99", "99 %"], ["longest", "longest"]]
    .map(([key, name]) => ({ key, name, values: all[key], total: total[key] }));
  const each = span(time.width);
  return el("div", { class: "charts" },
    chart({
      title: "Depth", note: "Pending tickets at the end of each " + each + ", by phase", gap: 0, wide: true,
      bars: [["running"], ["ready"], ["backing off", "backing-off"], ["delayed"], ["blocked"]]
        .map(([name, key]) => ({ key: key || name, name, values: time.depth[name], total: last(time.depth[name]) }))
        .filter((one) => one.key !== "blocked" || sum(one.values)),
      extra: [{ key: "peak", name: "most ready at once", values: time.most_ready, total: Math.max(...time.most_ready) }],
      empty: "Nothing was pending at the end of any slot.",
    }),
    chart({
      title: "Throughput", note: "Tickets added, and ended, in each " + each,
      bars: [counted("done"), counted("failed"), counted("cancelled")], lines: [counted("added")], empty: "Nothing was added.",
    }),
    chart({
      title: "Failures", note: "Attempts that did not end well in each " + each,
      bars: [counted("failed", "failed for good"), counted("lapsed"), counted("retried")], extra: [counted("released")],
      empty: "Nothing failed, lapsed or was retried.",
    }),
    chart({ title: "Waits", note: "From being ready to being claimed; by the time of the claim", ranges: measured(time.waited, time.total.waited), empty: "Nothing was claimed, or nothing waited." }),
    chart({ title: "Run times", note: "From a claim to its end; by the time of the end", ranges: measured(time.ran, time.total.ran), empty: "No attempt has ended." }));
}
