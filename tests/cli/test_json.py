"""`--json` says what the functions in Python say, field by field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import scenario

import kharon as k
from kharon.audit.fields import record_fields, ticket_fields
from kharon.audit.measure import COUNTS, measure
from kharon.model import commands as c
from kharon.model.events import ScheduleEvent, TicketClaimed, TicketEvent, TubeEvent
from kharon.model.projection import Projection


def as_read(value):
    """What comes of a value on the way through JSON."""
    return msgspec.json.decode(msgspec.json.encode(value))


def folded(queue, seq):
    """The tickets after a record, folded by hand."""
    projection = Projection()
    at = None
    for record in k.read(queue):
        if record.seq > seq:
            break
        projection.apply(record.event, record.seq, record.at)
        at = record.at
    return projection, at


def test_ls(kharon, queue_of_a_night):
    tickets = k.replay(queue_of_a_night).tickets.values()
    assert kharon("ls", "queue", "--json").objects == [as_read(ticket_fields(t, scenario.NOW)) for t in tickets]


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        (["--status", "failed"], lambda t: t.status == "failed"),
        (["--status", "pending"], lambda t: t.status == "pending"),
        (["--status", "ready"], lambda t: t.id.startswith(("newsletter", "page-", "sweep-cache"))),
        (["--status", "blocked"], lambda t: t.id in ("book", "close-books")),
        (["--type", "invoice"], lambda t: t.type == "invoice"),
        (["--tube", "images"], lambda t: t.tube == "images"),
        (["--group", "order-1042"], lambda t: t.group == "order-1042"),
        (["--type", "invoice", "--group", "order-1042"], lambda t: t.id == "invoice-1042"),
        (["--due"], lambda t: t.id == "newsletter"),
    ],
)
def test_ls_options(kharon, queue_of_a_night, options, fits):
    tickets = k.replay(queue_of_a_night).tickets.values()
    ids = [found["id"] for found in kharon("ls", "queue", "--json", *options).objects]
    assert ids == [ticket.id for ticket in tickets if fits(ticket)]
    assert ids


def test_due_is_in_the_order_of_claims(run, tmp_path):
    night = scenario.Night(tmp_path / "queue")
    for id, nice, delay in (("late", 5, 2), ("nice", 9, 0), ("urgent", 1, 1), ("never", 0, 99_999)):
        night.add("shop", k.Ticket(id, "t", nice=nice), delay=delay)
    night.seconds = 10
    night.add("shop", k.Ticket("first of equals", "t", nice=9, runat=scenario.EVENING))
    night.log.abandon()
    ran = run("as-of", tmp_path / "queue", "2026-03-10T18:00:10Z", "--due", "--json")
    assert [found["id"] for found in ran.objects] == ["urgent", "late", "nice", "first of equals"]
    projection = k.replay(tmp_path / "queue")
    projection.promote(night.now)
    assert projection.first_ready(["default"]).id == "urgent"


def test_the_limit(kharon):
    everything = kharon("ls", "queue", "--json").objects
    for limit in (0, 1, 3, 99):
        ran = kharon("ls", "queue", "--json", "--limit", limit)
        assert ran.objects == everything[:limit]
        assert ran.err == (f"{16 - limit} more; --limit sets how many are shown\n" if limit < 16 else "")


def test_show(kharon, queue_of_a_night):
    for ticket in k.replay(queue_of_a_night).tickets.values():
        assert kharon("show", "queue", ticket.id, "--json").objects == [as_read(ticket_fields(ticket, scenario.NOW))]


def test_history(kharon, queue_of_a_night):
    for id in ("invoice-1042", "sweep", "report-2026-03-11", "invoice-1003"):
        told = k.timeline(k.history(queue_of_a_night, id), scenario.NOW)
        steps = [(life, number, step) for number, life in enumerate(told.lives, 1) for step in life.steps]
        objects = kharon("history", "queue", id, "--json").objects
        assert len(objects) == len(steps) == len(k.history(queue_of_a_night, id))
        for found, (_, number, step) in zip(objects, steps, strict=True):
            spans = found.pop("spans")
            assert found == as_read({"life": number, "who": step.who.value, **record_fields(step.record)})
            assert [(s["phase"], s["seconds"], s["attempt"], s["open"]) for s in spans] == [
                (span.phase.value, span.length.total_seconds(), span.attempt, span.open) for span in step.spans
            ]


def test_why(kharon, queue_of_a_night):
    projection = k.replay(queue_of_a_night)
    for ticket in projection.tickets.values():
        (found,) = kharon("why", "queue", ticket.id, "--json").objects
        told = k.explain(projection, ticket.id, scenario.NOW)
        assert (found["sentence"], found["reasons"]) == (told.sentence, [reason.value for reason in told.reasons])
        for name in ("attempts", "attempts_left", "ahead", "worker", "id"):
            assert found[name] == getattr(told, name)
    (found,) = kharon("why", "queue", "newsletter", "--json", "--max-attempts", 3, "--tubes", "mail").objects
    told = k.explain(projection, "newsletter", scenario.NOW, max_attempts=3, tubes=["mail"])
    assert (found["reasons"], found["attempts_left"]) == (["not subscribed"], told.attempts_left)


def test_tubes(kharon, queue_of_a_night):
    """The counts are those of `ls`, and the rest is what a projection says of a tube then."""
    projection = k.replay(queue_of_a_night)
    told = {found.pop("tube"): found for found in kharon("tubes", "queue", "--json").objects}
    assert list(told) == sorted(told) == ["books", "bulk", "default", "images"]
    for name, found in told.items():
        tube = projection.tube(name, scenario.NOW)
        for state in ("ready", "claimed", "delayed", "blocked"):
            listed = kharon("ls", "queue", "--tube", name, "--status", state, "--json").objects
            assert found.pop(state) == len(listed), (name, state)
        limit = None if tube.limit is None else msgspec.structs.asdict(tube.limit)
        fields = {"paused_since": tube.paused_since, "paused_seq": tube.paused_seq, "limit": limit}
        assert found == as_read(fields | {"open": tube.open, "reopens_at": tube.reopens_at})
    assert [name for name in told if not told[name]["open"]] == ["books", "default"]


def test_schedules(kharon, queue_of_a_night):
    told = kharon("schedules", "queue", "--json").objects
    schedules = k.replay(queue_of_a_night).schedules.values()
    assert [found["name"] for found in told] == [schedule.name for schedule in schedules] == ["closing", "digest"]
    for found, schedule in zip(told, schedules, strict=True):
        names = ("cron", "every", "tz", "catch_up", "next", "last", "type", "tube", "nice", "group", "payload")
        assert list(found) == ["name", *names]
        assert {name: found[name] for name in names} == as_read({name: getattr(schedule, name) for name in names})


def test_what_is_not_there_is_said(run, tmp_path):
    night = scenario.Night(tmp_path / "queue")
    night.log.abandon()
    for command, says in (
        ("tubes", "no pending tickets, and no tube with a pause or a limit\n"),
        ("schedules", "no schedules\n"),
    ):
        ran = run(command, tmp_path / "queue")
        assert (ran.code, ran.out, ran.err) == (0, "", says)
        assert run(command, tmp_path / "queue", "--json").out == ""


def test_due_is_what_tubes_give(run, tmp_path):
    """None of a paused tube, and of a limited one what a claim after the other takes."""
    night = scenario.Night(tmp_path / "queue")
    night.add("shop", *(k.Ticket(f"{tube}{number}", "t", tube=tube) for number in range(3) for tube in "abcd"))
    night.give("ann", c.Pause("a"), c.Limit("b", 2), c.Limit("c", None, 1, 60.0))
    night.give("w", c.Claim("b1", "w"))
    night.log.abandon()
    told = [found["id"] for found in run("as-of", tmp_path / "queue", 16, "--due", "--json").objects]
    projection = k.replay(tmp_path / "queue")
    projection.promote(night.now)
    taken = []
    while ticket := projection.first_ready(("a", "b", "c", "d")):
        taken.append(ticket.id)
        event = TicketClaimed(ticket.id, 1, scenario.NOW, "w")
        projection.apply(event, projection.seq + 1, night.now)
    assert told == taken == ["b0", "c0", "d0", "d1", "d2"]


def test_as_of_every_seq_is_what_folding_by_hand_gives(kharon, queue_of_a_night, record_property):
    records = list(k.read(queue_of_a_night))
    projection = Projection()
    for record in records:
        projection.apply(record.event, record.seq, record.at)
        ran = kharon("as-of", "queue", record.seq, "--json")
        assert ran.objects == [as_read(ticket_fields(t, record.at)) for t in projection.tickets.values()], record.seq
    assert len(records) > 400
    record_property("seqs that as-of was asked for", len(records))
    before = kharon("as-of", "queue", 0)
    assert (before.code, before.out) == (0, "")


def test_as_of_an_instant(kharon, queue_of_a_night):
    record = next(record for record in k.read(queue_of_a_night) if record.seq == 318)
    for at, seq in ((record.at, 318), (record.at - timedelta(microseconds=1), 317)):
        projection, _ = folded(queue_of_a_night, seq)
        found = kharon("as-of", "queue", at.isoformat(), "--json").objects
        assert found == [as_read(ticket_fields(t, at)) for t in projection.tickets.values()]


def test_diff(kharon, queue_of_a_night):
    told = k.diff(queue_of_a_night, 200, 482)
    objects = kharon("diff", "queue", 200, 482, "--json").objects
    ids = {
        name: [found["id"] for found in objects if found["change"] == name] for name in ("added", "removed", "changed")
    }
    assert ids["added"] == [ticket.id for ticket in told.added]
    assert ids["removed"] == [ticket.id for ticket in told.removed]
    assert ids["changed"] == [change.id for change in told.changed]
    assert all(ids[name] for name in ("added", "removed", "changed"))
    first = next(found for found in objects if found["change"] == "changed")
    change = told.changed[0]
    assert set(first["fields"]) == set(change.fields)
    assert first["fields"]["status"] == [change.before.status.value, change.after.status.value]
    added = next(found for found in objects if found["change"] == "added")
    assert added["ticket"] == as_read(ticket_fields(told.added[0], told.b_at))


def test_tail(kharon, queue_of_a_night):
    records = [as_read(record_fields(record)) for record in k.read(queue_of_a_night)]
    assert kharon("tail", "queue", "--json").objects == records[-10:]
    assert kharon("tail", "queue", "--json", "-n", 3).objects == records[-3:]
    assert kharon("tail", "queue", "--json", "-n", 0).objects == []
    assert kharon("tail", "queue", "--json", "--after", 400).objects == records[400:]
    assert kharon("tail", "queue", "--json", "--after", 400, "-n", 5).objects == records[-5:]
    assert kharon("tail", "queue", "--json", "--after", 9999).objects == []
    mine = [record for record in records if record["by"] == "ann"]
    assert len(mine) > 4
    assert kharon("tail", "queue", "--json", "--after", 0, "--by", "ann").objects == mine
    failed = [record for record in records if record["event"] == "TicketFailed"]
    for event in ("failed", "TicketFailed"):
        assert kharon("tail", "queue", "--json", "--after", 0, "--event", event).objects == failed
    since = [record for record in records if record["at"] >= "2026-03-11T07:00:00Z"]
    assert kharon("tail", "queue", "--json", "--since", "1h").objects == since
    id = [record for record in records if record.get("id") == "sweep"]
    assert kharon("tail", "queue", "--json", "--id", "sweep").objects == id[-10:]


def about(projections, record):
    """What a record is about: its ticket, what follows that one's run, its schedule, before and after it; its tube."""
    event, before, after = record.event, projections[record.seq - 1], projections[record.seq]
    if isinstance(event, TubeEvent):
        return [(None, event.tube, None)]
    found = []
    if isinstance(event, ScheduleEvent):
        found = [projection.schedules.get(event.name) for projection in (before, after)]
    elif isinstance(event, TicketEvent):
        found = [projection.get(event.id) for projection in (before, after)]
        follows = [ticket.successor for ticket in found if ticket is not None]
        found += follows if follows[0] != follows[-1] else []
    return [(one.type, one.tube, one.group) for one in found if one is not None]


def test_tail_by_what_records_are_about(kharon, queue_of_a_night):
    """From whatever record on: against the state before each record and after it, folded up to there."""
    records = list(k.read(queue_of_a_night))
    projections = [Projection().fold(records[:count]) for count in range(len(records) + 1)]
    objects = {record.seq: (as_read(record_fields(record)), about(projections, record)) for record in records}
    asked = [
        *({"type": name} for name in ("invoice", "sweep", "digest", "nobody's")),
        *({"tube": name} for name in ("mail", "books", "default")),
        *({"group": name} for name in ("order-1042", "statements")),
        {"type": "mail", "tube": "mail"},
        {"type": "digest", "tube": "images"},
        {"type": "thumbnail", "tube": "images", "group": "order-1042"},
    ]
    for wanted in asked:
        options = [word for name, value in wanted.items() for word in (f"--{name}", value)]
        values = [wanted.get(name) for name in ("type", "tube", "group")]
        expected = [
            fields
            for fields, subjects in objects.values()
            if any(all(v in (None, s) for v, s in zip(values, subject, strict=True)) for subject in subjects)
        ]
        assert bool(expected) == ("nobody's" not in values and wanted != {"type": "digest", "tube": "images"})
        for after in (0, 100, 318, 440, len(records), 9999):
            ran = kharon("tail", "queue", "--json", "--after", after, *options)
            assert ran.objects == [fields for fields in expected if fields["seq"] > after]
            assert ran.err == ""
        assert kharon("tail", "queue", "--json", *options).objects == expected[-10:]
        ran = kharon("tail", "queue", "--json", "--event", "claimed", "--by", "worker-1", "--after", 0, *options)
        assert ran.objects == [f for f in expected if (f["event"], f["by"]) == ("TicketClaimed", "worker-1")]


def test_records_are_what_stands_in_the_log(kharon, queue_of_a_night):
    """Every field of every line, the crc and the version apart."""
    lines = {}
    for path in (queue_of_a_night / "log").glob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            fields = msgspec.json.decode(line)
            if "seq" in fields:
                lines[fields["seq"]] = {name: value for name, value in fields.items() if name not in ("crc", "v")}
    assert len(lines) > 200
    found = {fields["seq"]: fields for fields in kharon("tail", "queue", "--after", 0, "--json").objects}
    assert {seq: found.get(seq) for seq in lines} == lines


def test_stats(kharon, queue_of_a_night):
    for by in (None, "type", "tube", "hour"):
        told = measure(k.read(queue_of_a_night), by)
        total, *groups, over_time = kharon("stats", "queue", "--json", *(["--by", by] if by else [])).objects
        assert {name: total[name] for name in COUNTS} == told.total.counts
        assert total["waited"]["p90"] == told.total.waited.percentile(90)
        assert [group["key"] for group in groups] == as_read(list(told.groups))
        for group, measured in zip(groups, told.groups.values(), strict=True):
            assert {name: group[name] for name in COUNTS} == measured.counts
            assert (group["ran"]["count"], group["failure_rate"]) == (measured.ran.count, measured.failure_rate)
        assert (over_time["added"], over_time["slot_seconds"]) == (told.added.counts, told.added.width)


def test_verify_and_anchor(kharon, queue_of_a_night):
    report = k.verify(queue_of_a_night)
    (found,) = kharon("verify", "queue", "--json").objects
    assert found.pop("whole") is True
    assert found.pop("anchor") is None
    assert found.pop("path") == "queue"
    assert found == {name: as_read(getattr(report, name)) for name in found}
    (found,) = kharon("anchor", "queue", "--json").objects
    kept = k.anchor(queue_of_a_night)
    assert found == {"log": kept.log, "seq": kept.seq, "hash": kept.hash}
    assert kharon("anchor", "queue").out == f"{kept}\n"


def test_now_is_the_machines_if_nobody_says_otherwise(kharon, at_home):
    at_home.delenv("KHARON_NOW")
    (found,) = kharon("why", "queue", "newsletter", "--json").objects
    assert abs(datetime.fromisoformat(found["now"]) - datetime.now(UTC)) < timedelta(minutes=5)
