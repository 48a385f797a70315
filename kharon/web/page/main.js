// The page: its parts, in order.

const main = document.getElementById("main"), lead = document.getElementById("lead");

function ticketParts() {
  const ticket = data.ticket;
  const lives = ticket.lives, life = lives[lives.length - 1];
  add(lead, el("p", { class: "state s-" + ticket.state.replace(/[ ,].*/, "") }, ticket.state), el("p", { class: "sub" }, ticketSentence(ticket)),
    ticket.facts.length ? el("dl", { class: "facts" }, ticket.facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, typeof value === "number" ? [time(value), " UTC"] : el("bdi", {}, value))))) : null);
  const events = eventTable(ticket);
  const picture = timeline(ticket, (place, go) => {
    const found = events.reveal(place);
    if (found && go) { found.scrollIntoView({ block: "center" }); found.tabIndex = -1; found.focus(); }
  });
  const notes = [];
  if (ticket.left_out) notes.push("Only the last " + number(ticket.events.length) + " of its records are on this page; " + number(ticket.left_out) + " older ones are left out.");
  if (ticket.early) notes.push(plural(ticket.early, "older record") + " belong to a life whose beginning is missing from the log.");
  add(main, panel("Timeline", "h2", ...notes.map((note) => el("p", { class: "note" }, note)), life ? shares(ticket) : null, picture),
    ticket.attempts.length ? panel("Attempts", "h2", attemptTable(ticket, picture)) : null,
    panel("Events", "h2", events),
    jsonPanel("Payload", ticket.payload), jsonPanel("Result", ticket.result));
}

function jsonPanel(title, text) {
  return text === null ? null : panel(title, "h2", el("pre", { tabindex: "0", role: "group", "aria-label": title }, text));
}

function ticketSentence(ticket) {
  const lives = ticket.lives;
  if (!lives.length) return plural(ticket.events.length, "record") + ", the beginning of its life is missing from the log";
  const length = lives.reduce((sum, life) => sum + life.end - life.begin, 0), tries = lives.reduce((sum, life) => sum + life.attempts, 0);
  return plural(tries, "attempt") + " and " + plural(ticket.events.length + ticket.left_out, "event") + " in " + span(length) + (lives.length > 1 ? ", in " + lives.length + " lives" : "") + ", added " + utc(lives[0].begin, 3) + " UTC";
}

// Time per phase: one bar to scale, and its numbers.
function shares(ticket) {
  const sums = {};
  for (const life of ticket.lives) for (const [name, us] of Object.entries(life.totals)) sums[name] = (sums[name] || 0) + us;
  const all = Object.values(sums).reduce((sum, us) => sum + us, 0);
  const names = LANES.filter((name) => sums[name]);
  if (!all) return null;
  const bar = el("div", { class: "shares", "aria-hidden": "true" }, names.map((name) => {
    const part = el("span", { class: "c-" + name.replace(" ", "-") });
    part.style.flexGrow = sums[name] / all;
    return part;
  }));
  return el("div", { class: "totals" }, bar, el("ul", { class: "legend" }, names.map((name) =>
    el("li", {}, el("i", { class: "key c-" + name.replace(" ", "-"), "aria-hidden": "true" }), name + " ", el("b", {}, span(sums[name])), " " + percent(sums[name] / all)))));
}

function attemptTable(ticket, picture) {
  const many = ticket.lives.length > 1;
  const heads = [{ name: "#", kind: "n" }, ...(many ? [{ name: "life", kind: "n" }] : []), { name: "claimed (UTC)", kind: "t" }, { name: "ran", kind: "n" }, { name: "worker" }, { name: "ended" }, { name: "error", kind: "long" }];
  return table("Attempts", heads, ticket.attempts.length, (place) => {
    const [count, begin, end, worker, outcome, reason, by, , life] = ticket.attempts[place];
    const button = el("button", { type: "button", class: "link", "aria-label": "Attempt " + count + ": show it in the timeline" }, count);
    button.addEventListener("click", () => picture.attempt(begin, end));
    return [button, ...(many ? [life] : []), time(begin), end === null ? span(ticket.now - begin) + " so far" : span(end - begin), el("bdi", {}, worker),
      add(el("span", { class: "ended" }), el("i", { class: "key c-" + (OUTCOMES[outcome] || outcome), "aria-hidden": "true" }), outcome + (by && by !== worker ? " by " + by : "")),
      reason];
  });
}

function eventTable(ticket) {
  const heads = [{ name: "record", kind: "n" }, { name: "at (UTC)", kind: "t" }, { name: "event" }, { name: "by" }, { name: "then", kind: "brief" }, { name: "says", kind: "long" }];
  return table("Events", heads, ticket.events.length, (place) => {
    const [seq, us, word, by, who, said, reason, then] = ticket.events[place];
    return [seq, time(us), add(el("span", { class: "ended" }), el("i", { class: "key c-" + (TINTS[word] || "cancelled"), "aria-hidden": "true" }), word), el("bdi", { title: who || "" }, by), then, [said, reason].filter(Boolean).join(": ")];
  });
}

function queueParts() {
  const time_ = data.time;
  const alone = data.ticket === null;
  if (time_ === null) {
    add(main, el("section", { class: "panel void" }, el("h2", {}, "No records yet"), el("p", {}, "The log of this queue is empty: nothing was ever added. Make this page again once it has records.")));
    if (alone) add(lead, el("p", { class: "sub" }, data.queue));
    return;
  }
  const { total } = time_;
  const hours = Math.max((time_.last_at - time_.first_at) / HOUR, 1e-9);
  const rate = (count) => (hours < 1 / 60 ? null : (count / hours >= 100 ? number(Math.round(count / hours)) : (count / hours).toFixed(1)) + " an hour");
  const pending = Object.values(time_.depth).reduce((sum, values) => sum + values[values.length - 1], 0);
  const sentence = "Records " + number(time_.first) + " to " + number(time_.last) + ", " + utc(time_.first_at, 3) + " to " + utc(time_.last_at, 3) + " UTC (" + span(time_.last_at - time_.first_at) + ")";
  if (alone) add(lead, el("p", { class: "sub" }, sentence));
  else add(main, el("header", { class: "between" }, el("h2", {}, "The queue meanwhile"), el("p", { class: "sub" }, sentence + ". The shaded stretch is this ticket\u2019s life.")));
  add(main, el("dl", { class: "tiles" },
    tile("pending", number(pending), "at the last record"), tile("added", number(total.added), rate(total.added)), tile("done", number(total.done), rate(total.done)),
    tile("failed", number(total.failed), total.failure_rate === null ? null : percent(total.failure_rate) + " failure rate", total.failed ? "bad" : ""),
    tile("waited", told(total.waited.p90), "90 % at most"), tile("ran", told(total.ran.p90), "90 % at most")),
    queueCharts(), typeTable(time_), failureTable(time_), incidentTable(time_));
}

function typeTable(found) {
  const heads = [{ name: "type" }, ...["added", "done", "failed", "lapsed", "wait 50 %", "90 %", "run 50 %", "90 %"].map((name) => ({ name, kind: "n" }))];
  return panel("By type", "h2", table("By type", heads, found.types.length, (place) => {
    const one = found.types[place];
    return [el("bdi", {}, one.type), number(one.added), number(one.done), number(one.failed) + (one.failed && one.failure_rate !== null ? " (" + percent(one.failure_rate) + ")" : ""), number(one.lapsed),
      told(one.waited.p50), told(one.waited.p90), told(one.ran.p50), told(one.ran.p90)];
  }, { more: found.more_types ? "and " + plural(found.more_types, "more type") : null }));
}

function failureTable(found) {
  if (!found.failures.length) return null;
  const heads = [{ name: "record", kind: "n" }, { name: "at (UTC)", kind: "t" }, { name: "ticket" }, { name: "event" }, { name: "reason", kind: "long" }];
  return panel("Last failures", "h2", table("Last failures", heads, found.failures.length, (place) => {
    const [seq, us, id, word, reason] = found.failures[place];
    return [seq, time(us), el("bdi", { class: "id" }, id), add(el("span", { class: "ended" }), el("i", { class: "key c-" + TINTS[word], "aria-hidden": "true" }), word), reason];
  }, { page: 10 }));
}

function incidentTable(found) {
  if (!found.incidents.length) return null;
  const heads = [{ name: "record", kind: "n" }, { name: "at (UTC)", kind: "t" }, { name: "what" }, { name: "by" }, { name: "says", kind: "long" }];
  return panel("About the log, tubes and schedules", "h2", el("p", { class: "note" }, "The dotted lines in the charts."), table("About the log, tubes and schedules", heads, found.incidents.length, (place) => {
    const [seq, us, what, by, said] = found.incidents[place];
    return [seq, time(us), what, el("bdi", {}, by), said];
  }, { page: 10 }));
}

if (data.ticket) ticketParts();
queueParts();
add(document.getElementById("foot"), el("p", {}, "Made from ", el("bdi", {}, data.queue), " at ", time(data.made, 3), " UTC. Times are UTC; point at one for the time here. Nothing on this page is fetched."));
