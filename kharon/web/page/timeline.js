// One ticket's life, drawn to scale: a lane for each phase, marks for events above, and an overview below.
//
// It is a canvas, and only the visible part is drawn. Spans and marks closer than a pixel or a mark's width are drawn as
// one, so the width of the window bounds the work of a frame, not the number of events. `data-drawn` has the number of
// elements in the last frame. For the keyboard and for screen readers the timeline is a slider over the events.

const LANES = ["delayed", "blocked", "ready", "running", "backing off", "kept"];
const SHAPES = {
  added: "up", restarted: "up", claimed: "ring", done: "disc", failed: "cross", cancelled: "bar", retried: "diamond",
  lapsed: "cross", released: "ring", extended: "dot", updated: "dot", deleted: "bar", expired: "bar",
};
const TINTS = {
  added: "delayed", restarted: "delayed", claimed: "running", done: "done", failed: "failed", cancelled: "cancelled",
  retried: "backing-off", lapsed: "lapsed", released: "cancelled", extended: "running", updated: "cancelled",
  deleted: "cancelled", expired: "cancelled",
};
const OUTCOMES = {
  acked: "done", done: "done", failed: "failed", lapsed: "lapsed", retried: "backing-off", cancelled: "cancelled",
  released: "cancelled", deleted: "cancelled",
};
const BAD = new Set(["failed", "lapsed"]);
const MARK = 15, COLUMN = 2, LANE = 26, AXIS = 24, MARKS = 30, MOST_ZOOM = 50;

// The first index in sorted `values` whose value is at least `wanted`.
function from(values, wanted) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < wanted) low = middle + 1; else high = middle;
  }
  return low;
}

function timeline(ticket, onChoose) {
  const events = ticket.events, times = Float64Array.from(events, (event) => event[1]);
  const lanes = LANES.map((name) => {
    const spans = ticket.spans.filter((one) => one[0] === name);
    return { name, key: name.replace(" ", "-"), spans, ends: Float64Array.from(spans, (one) => one[2]), begins: Float64Array.from(spans, (one) => one[1]) };
  }).filter((lane) => lane.spans.length);
  const outcomes = new Map(ticket.attempts.map((one) => [one[2], one[4]]));
  const begin = times[0], end = Math.max(times[times.length - 1], ...ticket.spans.slice(-3).map((one) => one[2]), begin + 1000);
  const whole = [begin - (end - begin) * 0.02, end + (end - begin) * 0.02];
  let view = firstView(), chosen = events.length - 1, hovered = null, theme = {}, wide = 0;

  const canvas = el("canvas", { tabindex: "0", role: "slider", "aria-label": "Timeline: events", "aria-orientation": "horizontal",
    "aria-valuemin": 1, "aria-valuemax": events.length, "aria-valuenow": 1, "aria-describedby": "timeline-keys" });
  const overview = el("canvas", { class: "overview", "aria-hidden": "true" });
  const tip = el("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  const range = el("p", { class: "range" });
  const detail = el("div", { class: "detail" });
  const stage = el("div", { class: "stage" }, canvas, tip);
  const box = el("figure", { class: "timeline" }, tools(), stage, overview, detail,
    el("p", { id: "timeline-keys", class: "keys" },
      ...["\u2190", "\u2192"].map((key) => el("kbd", {}, key)), " events ", el("kbd", {}, "+"), el("kbd", {}, "-"), " zoom ", el("kbd", {}, "Shift"),
      el("kbd", {}, "\u2190"), el("kbd", {}, "\u2192"), " pan ", el("kbd", {}, "0"), " all of it ", el("kbd", {}, "Enter"), " to the table. Drag to pan, Ctrl and wheel to zoom."));
  const redraw = once(draw);

  // The initial view: without long stretches of being kept, or of the time before the first attempt.
  function firstView() {
    const last = times[times.length - 1], life = end - begin;
    let low = begin, high = end;
    if (end - last > life / 3 && last > begin) high = last + (last - begin) * 0.06;
    const first = ticket.attempts.length ? ticket.attempts[0][1] : begin;
    if (first - low > (high - low) * 0.9 && high > first) low = first - (high - first) * 0.15;
    return high === end && low === begin ? [...whole] : [low - (high - low) * 0.02, high + (high - low) * 0.02];
  }

  function tools() {
    const button = (name, label, act) => {
      const made = el("button", { type: "button", "aria-label": label, title: label }, name);
      made.addEventListener("click", act);
      return made;
    };
    return el("div", { class: "tools", role: "group", "aria-label": "View" }, range,
      button("\u2039", "Earlier", () => pan(-0.5)), button("\u203a", "Later", () => pan(0.5)),
      button("\u2212", "Zoom out", () => zoom(2)), button("+", "Zoom in", () => zoom(0.5)),
      button("All", "All of its life", () => look(...whole)));
  }

  // --- the view

  function look(low, high) {
    const size = clamp(high - low, MOST_ZOOM, whole[1] - whole[0]);
    const middle = (low + high) / 2;
    const start = clamp(middle - size / 2, whole[0], whole[1] - size);
    view = [start, start + size];
    redraw();
  }
  function zoom(factor, at = inView(times[chosen]) ? times[chosen] : (view[0] + view[1]) / 2) {
    look(at - (at - view[0]) * factor, at + (view[1] - at) * factor);
  }
  const pan = (share) => { const by = (view[1] - view[0]) * share; look(view[0] + by, view[1] + by); };
  const inView = (us) => us >= view[0] && us <= view[1];
  // `wide` is the stage's width, read once a frame, since reading it makes the browser lay out the page.
  const narrow = () => wide < 560;
  const gutter = () => (narrow() ? 8 : 104);
  const room = () => wide - gutter() - 8;
  const x = (us) => gutter() + ((us - view[0]) / (view[1] - view[0])) * room();
  const at = (place) => view[0] + ((place - gutter()) / room()) * (view[1] - view[0]);
  const laneHeight = () => (narrow() ? LANE + 14 : LANE + 8);
  const laneTop = (number) => AXIS + MARKS + 8 + number * laneHeight() + (narrow() ? 14 : 0);

  function choose(place, { scroll = true } = {}) {
    chosen = clamp(place, 0, events.length - 1);
    const moment = times[chosen];
    if (scroll && (moment < view[0] + (view[1] - view[0]) * 0.04 || moment > view[1] - (view[1] - view[0]) * 0.04)) {
      const half = (view[1] - view[0]) / 2;
      look(moment - half, moment + half);
    }
    tellChosen();
    onChoose(chosen);
    redraw();
  }

  function tellChosen() {
    const [seq, us, word, by, who, said, reason, then] = events[chosen];
    canvas.setAttribute("aria-valuenow", chosen + 1);
    canvas.setAttribute("aria-valuetext", [word + " at " + utc(us) + " UTC", "by " + by, said, then && "then " + then, reason].filter(Boolean).join(", "));
    detail.replaceChildren(
      el("p", { class: "what" }, el("i", { class: "key c-" + (TINTS[word] || "cancelled"), "aria-hidden": "true" }), el("b", {}, word), said ? " " + said : "", el("span", { class: "of" }, number(chosen + 1) + " of " + number(events.length))),
      el("p", { class: "where" }, time(us), " UTC \u00b7 here ", local(us), " \u00b7 record " + seq + " \u00b7 by ", el("bdi", {}, by), who && who !== by ? " (" + who + ")" : ""),
      reason ? el("p", { class: "reason" }, reason) : "", then ? el("p", { class: "then" }, "then " + then) : "");
  }

  // --- drawing

  function readTheme() {
    const style = getComputedStyle(box);
    theme = {};
    for (const name of ["text", "muted", "line", "panel", "soft", "accent", "delayed", "blocked", "ready", "running", "backing-off", "kept", "done", "failed", "lapsed", "cancelled", "on"]) {
      theme[name] = style.getPropertyValue("--" + name).trim();
    }
    theme.font = "12px " + style.fontFamily;
    theme.bold = "600 11px " + style.fontFamily;
  }

  function fit(target, width, height) {
    const ratio = window.devicePixelRatio || 1;
    const pen = target.getContext("2d"), across = Math.round(width * ratio), down = Math.round(height * ratio);
    if (target.width !== across || target.height !== down) {  // setting them makes a new canvas: not for every frame
      target.width = across;
      target.height = down;
      target.style.width = width + "px";
      target.style.height = height + "px";
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    return pen;
  }

  function draw() {
    wide = stage.clientWidth;
    if (!wide) return;
    readTheme();
    const width = wide, height = AXIS + MARKS + 8 + lanes.length * laneHeight() + 6;
    const pen = fit(canvas, width, height);
    let drawn = drawAxis(pen, width, height);
    pen.save();
    pen.beginPath();
    pen.rect(gutter() - 4, 0, width - gutter() - 4, height);
    pen.clip();
    lanes.forEach((lane, number) => { drawn += drawLane(pen, lane, laneTop(number)); });
    if (hovered !== null) drawRule(pen, hovered, height, theme.muted, 1);
    drawRule(pen, x(times[chosen]), height, theme.accent, 2);
    drawn += drawMarks(pen);
    pen.restore();
    drawn += drawOverview();
    canvas.dataset.drawn = drawn;
    canvas.dataset.view = view.map(Math.round).join(" ");
    range.textContent = utc(view[0], 3) + " \u2013 " + (day(view[0]) === day(view[1]) ? clock(view[1]) : utc(view[1], 3)) + " UTC, " + span(view[1] - view[0]).replaceAll(" ", "\u00a0");
  }

  function drawRule(pen, place, height, colour, thick) {
    pen.fillStyle = colour;
    pen.fillRect(Math.round(place) - thick / 2, AXIS, thick, height - AXIS);
  }

  function drawAxis(pen, width, height) {
    let drawn = 0;
    pen.font = theme.font;
    pen.textBaseline = "middle";
    lanes.forEach((lane, number) => {
      const top = laneTop(number);
      pen.fillStyle = theme.soft;
      pen.fillRect(gutter(), top, width - gutter() - 8, LANE);
      pen.fillStyle = theme.muted;
      pen.textAlign = "left";
      pen.fillText(lane.name, narrow() ? 8 : 0, narrow() ? top - 7 : top + LANE / 2);
      drawn += 2;
    });
    if (!narrow()) pen.fillText("events", 0, AXIS + MARKS / 2);
    for (const [us, label, strong] of ticks(view[0], view[1], Math.max(2, Math.floor(room() / 95)))) {
      const place = Math.round(x(us)) + 0.5;
      pen.fillStyle = theme.line;
      pen.fillRect(place, AXIS - 4, 1, height - AXIS);
      pen.fillStyle = strong ? theme.text : theme.muted;
      pen.textAlign = place < gutter() + 25 ? "left" : place > width - 35 ? "right" : "center";
      pen.fillText(label, place, AXIS / 2 - 2);
      drawn += 2;
    }
    return drawn;
  }

  function drawLane(pen, lane, top) {
    const { begins, ends, spans } = lane;
    let drawn = 0, place = from(ends, view[0]);
    while (place < spans.length && begins[place] <= view[1]) {
      const first = place, left = Math.max(gutter() - 2, x(begins[place]));
      let right = Math.max(left + 1.5, x(ends[place])), covered = x(ends[place]) - left;
      place += 1;
      // A span narrower than a column is drawn as one column, paler the less of the column it fills.
      while (right - left < COLUMN && place < spans.length && x(begins[place]) <= left + COLUMN && x(ends[place]) <= left + COLUMN) {
        right = left + COLUMN;
        covered += x(ends[place]) - x(begins[place]);
        while (++place < spans.length && x(ends[place]) <= left + COLUMN) covered += x(ends[place]) - x(begins[place]);
      }
      right = Math.min(right, wide);
      pen.fillStyle = theme[lane.key];
      pen.globalAlpha = place - first === 1 ? 1 : 0.3 + 0.7 * Math.min(1, covered / COLUMN);
      pen.beginPath();
      pen.roundRect(left, top + 3, right - left, LANE - 6, right - left < 3 ? 0 : 3);
      pen.fill();
      pen.globalAlpha = 1;
      drawn += 1;
      if (place - first === 1) drawn += drawInside(pen, spans[first], lane, left, right, top);
    }
    return drawn;
  }

  function drawInside(pen, one, lane, left, right, top) {
    let drawn = 0;
    const room = right - left, outcome = lane.name === "running" && !one[5] ? OUTCOMES[outcomes.get(one[2])] : null;
    if (outcome && room > 8) {
      pen.fillStyle = theme[outcome];
      pen.fillRect(right - 4, top + 3, 4, LANE - 6);
      drawn += 1;
    }
    if (room > 34) {
      let label = lane.name === "running" || lane.name === "backing off" ? "#" + one[4] + "  " + span(one[2] - one[1]) : span(one[2] - one[1]);
      pen.font = theme.bold;
      if (pen.measureText(label).width > room - 12) label = lane.name === "running" ? "#" + one[4] : "";
      if (pen.measureText(label).width > room - 8) label = "";
      pen.fillStyle = lane.name === "kept" ? theme.text : theme.on;
      pen.textAlign = "left";
      pen.fillText(label, Math.max(left, gutter()) + 6, top + LANE / 2 + 0.5);
      drawn += 1;
    }
    return drawn;
  }

  // Clusters of the marks in view: [first, last, place].
  function clusters() {
    const found = [];
    let place = from(times, view[0]);
    const last = from(times, view[1] + 1);
    while (place < last) {
      const first = place, left = x(times[place]);
      while (place + 1 < last && x(times[place + 1]) - left < MARK) place += 1;
      found.push([first, place, (left + x(times[place])) / 2]);
      place += 1;
    }
    return found;
  }

  function drawMarks(pen) {
    const middle = AXIS + MARKS / 2, found = clusters();
    const most = Math.max(100, ...found.map(([first, last]) => last - first + 1));
    for (const [first, last, place] of found) {
      const count = last - first + 1;
      if (count === 1) {
        drawShape(pen, place, middle, SHAPES[events[first][2]] || "dot", theme[TINTS[events[first][2]] || "cancelled"]);
        continue;
      }
      let bad = 0;
      for (let number = first; number <= last; number++) bad += BAD.has(events[number][2]);
      if (count <= 99) {
        pen.font = theme.bold;
        pen.textAlign = "center";
        pen.fillStyle = bad ? theme.failed : theme.muted;
        pen.beginPath();
        pen.arc(place, middle, MARK / 2 + 0.5, 0, 7);
        pen.fill();
        pen.fillStyle = theme.panel;
        pen.fillText(String(count), place, middle + 0.5);
      } else {
        // Too many for numbers: a bar whose height is their count, red for failures.
        const height = 4 + 20 * (count / most), red = bad ? Math.max(2, height * (bad / count)) : 0, ground = AXIS + MARKS - 2;
        pen.fillStyle = theme.muted;
        pen.fillRect(place - MARK / 2 + 1.5, ground - height, MARK - 3, height - red);
        pen.fillStyle = theme.failed;
        pen.fillRect(place - MARK / 2 + 1.5, ground - red, MARK - 3, red);
      }
    }
    return found.length * 2;
  }

  function drawShape(pen, place, middle, shape, colour) {
    pen.fillStyle = pen.strokeStyle = colour;
    pen.lineWidth = 2.2;
    pen.beginPath();
    const size = 5.2;
    if (shape === "ring") pen.arc(place, middle, size - 0.7, 0, 7);
    else if (shape === "disc") pen.arc(place, middle, size + 0.6, 0, 7);
    else if (shape === "dot") pen.arc(place, middle, 3, 0, 7);
    else if (shape === "bar") pen.rect(place - 5, middle - 1.6, 10, 3.2);
    else if (shape === "up") { pen.moveTo(place, middle - 6); pen.lineTo(place + 6, middle + 4.6); pen.lineTo(place - 6, middle + 4.6); pen.closePath(); }
    else if (shape === "diamond") { pen.moveTo(place, middle - 6.4); pen.lineTo(place + 6.4, middle); pen.lineTo(place, middle + 6.4); pen.lineTo(place - 6.4, middle); pen.closePath(); }
    else { pen.moveTo(place - 4.4, middle - 4.4); pen.lineTo(place + 4.4, middle + 4.4); pen.moveTo(place + 4.4, middle - 4.4); pen.lineTo(place - 4.4, middle + 4.4); }
    if (shape === "ring" || shape === "cross") pen.stroke(); else pen.fill();
  }

  // The whole life in a strip: each column of pixels has the colour of its longest phase.
  function drawOverview() {
    const width = wide, high = 26, pen = fit(overview, width, high);
    const left = gutter(), size = width - left - 8, scale = size / (whole[1] - whole[0]);
    pen.fillStyle = theme.soft;
    pen.fillRect(left, 4, size, high - 8);
    let drawn = 0;
    const strip = overviewStrip(Math.max(1, Math.floor(size)));
    for (const [begin, length, key] of strip) {
      pen.fillStyle = theme[key];
      pen.fillRect(left + begin, 8, length, high - 16);
      drawn += 1;
    }
    pen.strokeStyle = theme.accent;
    pen.lineWidth = 2;
    pen.beginPath();
    const low = left + (view[0] - whole[0]) * scale, shown = Math.max(4, (view[1] - view[0]) * scale);
    pen.roundRect(Math.min(low, left + size - shown) + 1, 2, Math.max(2, shown - 2), high - 4, 4);
    pen.stroke();
    return drawn + 1;
  }

  let kept = null;
  function overviewStrip(columns) {
    if (kept && kept.columns === columns) return kept.strip;
    const shares = lanes.map(() => new Float64Array(columns)), scale = columns / (whole[1] - whole[0]);
    lanes.forEach((lane, number) => lane.spans.forEach((one) => {
      const low = (one[1] - whole[0]) * scale, high = (one[2] - whole[0]) * scale;
      for (let column = Math.floor(low); column < Math.min(columns, high); column++) {
        shares[number][column] += Math.min(high, column + 1) - Math.max(low, column);
      }
    }));
    const strip = [];
    for (let column = 0; column < columns; column++) {
      let most = -1;
      shares.forEach((share, number) => { if (share[column] > 0 && (most < 0 || share[column] > shares[most][column])) most = number; });
      const last = strip[strip.length - 1];
      if (most < 0) continue;
      if (last && last[2] === lanes[most].key && last[0] + last[1] === column) last[1] += 1; else strip.push([column, 1, lanes[most].key]);
    }
    kept = { columns, strip };
    return strip;
  }

  // --- the pointer

  function hover(place, level) {
    const lines = [];
    const lane = lanes.findIndex((_, number) => level >= laneTop(number) && level < laneTop(number) + LANE);
    const near = clusters().filter((one) => Math.abs(one[2] - place) < MARK / 2 + 2)[0];
    if (level < laneTop(0) - 6 && near) {
      const [first, last] = near;
      if (first === last) lines.push(events[first][2] + (events[first][5] ? " " + events[first][5] : ""), ...(events[first][6] ? [events[first][6]] : []));
      else lines.push(plural(last - first + 1, "event") + ": " + tally(first, last));
    } else if (lane >= 0) {
      const { spans, ends, name } = lanes[lane];
      const number = from(ends, at(place - 1));
      const one = spans[number];
      if (one && one[1] <= at(place + 1)) lines.push(name + (one[4] ? " #" + one[4] : "") + ", " + span(one[2] - one[1]) + (one[5] ? " so far" : ""));
    }
    hovered = place >= gutter() ? place : null;
    tip.hidden = hovered === null;
    if (hovered !== null) {
      const us = Math.round(at(place));
      tip.replaceChildren(...lines.map((line) => el("b", {}, line)), el("span", {}, utc(us) + " UTC"), el("span", {}, "here " + local(us)));
      tip.style.left = clamp(place + 14, 0, Math.max(0, stage.clientWidth - tip.offsetWidth - 2)) + "px";
      if (place + 14 + tip.offsetWidth > stage.clientWidth) tip.style.left = Math.max(0, place - 14 - tip.offsetWidth) + "px";
      tip.style.top = level + 18 + "px";
    }
    redraw();
  }

  function tally(first, last) {
    const counts = {};
    for (let number = first; number <= last; number++) counts[events[number][2]] = (counts[events[number][2]] || 0) + 1;
    return Object.entries(counts).map(([word, count]) => number(count) + " " + word).join(", ");
  }

  function spot(event) {
    const edge = canvas.getBoundingClientRect();
    return [event.clientX - edge.left, event.clientY - edge.top];
  }

  let dragged = null;
  canvas.addEventListener("pointerdown", (event) => {
    const [place, level] = spot(event);
    dragged = { place, level, view: [...view], moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [place, level] = spot(event);
    if (dragged && (dragged.moved || Math.abs(place - dragged.place) > 3)) {
      dragged.moved = true;
      canvas.classList.add("dragging");
      const by = ((dragged.place - place) / room()) * (dragged.view[1] - dragged.view[0]);
      look(dragged.view[0] + by, dragged.view[1] + by);
    }
    hover(place, level);
  });
  canvas.addEventListener("pointerup", () => {
    canvas.classList.remove("dragging");
    if (dragged && !dragged.moved) pick(dragged.place, dragged.level);
    dragged = null;
  });
  canvas.addEventListener("pointercancel", () => { dragged = null; canvas.classList.remove("dragging"); });
  canvas.addEventListener("pointerleave", () => { hovered = null; tip.hidden = true; redraw(); });
  canvas.addEventListener("dblclick", (event) => zoom(0.4, at(spot(event)[0])));
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      zoom(Math.exp(clamp(event.deltaY, -60, 60) / 120), at(spot(event)[0]));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      pan((event.shiftKey && !event.deltaX ? event.deltaY : event.deltaX) / room());
    }
  }, { passive: false });

  // A click on a mark selects it; on several marks it zooms in; on a bar it selects the event that began it.
  function pick(place, level) {
    const near = clusters().filter((one) => Math.abs(one[2] - place) < MARK / 2 + 3)[0];
    if (level < laneTop(0) - 6 && near) {
      const [first, last] = near;
      if (first !== last && times[last] - times[first] > MOST_ZOOM / 4 && view[1] - view[0] > MOST_ZOOM) {
        const size = times[last] - times[first];
        look(times[first] - size * 0.2, times[last] + size * 0.2);
      }
      choose(first, { scroll: false });
      return;
    }
    choose(Math.max(0, from(times, at(place)) - 1), { scroll: false });
  }

  let sliding = false;
  const slide = (event) => {
    const middle = whole[0] + ((event.clientX - overview.getBoundingClientRect().left - gutter()) / room()) * (whole[1] - whole[0]);
    const half = (view[1] - view[0]) / 2;
    look(middle - half, middle + half);
  };
  overview.addEventListener("pointerdown", (event) => { sliding = true; overview.setPointerCapture(event.pointerId); slide(event); });
  overview.addEventListener("pointermove", (event) => { if (sliding) slide(event); });
  overview.addEventListener("pointerup", () => { sliding = false; });
  overview.addEventListener("pointercancel", () => { sliding = false; });

  // --- the keyboard

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = {
      ArrowLeft: () => (event.shiftKey ? pan(-0.2) : choose(chosen - 1)),
      ArrowRight: () => (event.shiftKey ? pan(0.2) : choose(chosen + 1)),
      ArrowDown: () => choose(chosen - 1), ArrowUp: () => choose(chosen + 1),
      PageDown: () => choose(chosen - 100), PageUp: () => choose(chosen + 100),
      Home: () => choose(0), End: () => choose(events.length - 1),
      "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), _: () => zoom(2), 0: () => look(...whole),
      Enter: () => onChoose(chosen, true),
    };
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", redraw);
  matchMedia("(forced-colors: active)").addEventListener("change", redraw);
  new ResizeObserver(redraw).observe(stage);
  box.choose = choose;
  box.attempt = (begin, end) => {
    const size = Math.max((end === null ? ticket.now : end) - begin, 1000);
    look(begin - size * 0.4, begin + size * 1.4);
    const place = from(times, begin);
    choose(place, { scroll: false });
    box.scrollIntoView({ block: "nearest" });
  };
  tellChosen();
  return box;
}
