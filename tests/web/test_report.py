"""What is in a page: its data against the audit and by hand, and text that would be more than text."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re

import pytest
import scenario
import written
from nasty import NASTY
from written import added, at

import kharon as k
from kharon.audit.safe import safe
from kharon.log.directory import DirectoryLog
from kharon.model import events as e
from kharon.web import report as module
from kharon.web.report import report

US = 1_000_000


def us(seconds):
    return round((written.BEGIN.timestamp() + seconds) * US)


@pytest.fixture
def story(tmp_path):
    """One ticket, with two attempts of which the first lapsed; removed, and added again."""
    return written.write(
        tmp_path / "story",
        [
            (0, "shop", [added("a", 5, "mail", "bulk", b'{"to":"ann"}', "g")]),
            (7, "worker-1", [e.TicketClaimed("a", 1, at(17), "worker-1")]),
            (17, "clock", [e.TicketLapsed("a", at(20), "the lease ended")]),
            (20, "worker-2", [e.TicketClaimed("a", 2, at(30), "worker-2")]),
            (22.5, "worker-2", [e.TicketDone("a")]),
            (30, "ann", [added("a", 31)]),
        ],
    )


def test_a_ticket_by_hand(story, data_of):
    ticket = data_of(report(story, "a", now=at(33)))["ticket"]
    assert ticket["spans"] == [
        ["delayed", us(0), us(5), 1, None, 0],
        ["ready", us(5), us(7), 1, None, 0],
        ["running", us(7), us(17), 2, 1, 0],
        ["backing off", us(17), us(20), 3, 1, 0],
        ["running", us(20), us(22.5), 4, 2, 0],
        ["delayed", us(30), us(31), 6, None, 0],
        ["ready", us(31), us(33), 6, None, 1],
    ]
    assert ticket["attempts"] == [
        [1, us(7), us(17), "worker-1", "lapsed", "the lease ended", "clock", 2, 1],
        [2, us(20), us(22.5), "worker-2", "acked", None, "worker-2", 4, 1],
    ]
    assert ticket["events"] == [
        [1, us(0), "added", "shop", "operator", "mail in bulk, due in 5.0 s", None, "delayed 5.0 s, ready 2.0 s", 1],
        [2, us(7), "claimed", "worker-1", "worker", "attempt 1, for 10 s", None, "attempt 1 ran 10 s", 1],
        [3, us(17), "lapsed", "clock", "clock", "again in 3.0 s", "the lease ended", "backed off 3.0 s", 1],
        [4, us(20), "claimed", "worker-2", "worker", "attempt 2, for 10 s", None, "attempt 2 ran 2.5 s", 1],
        [5, us(22.5), "done", "worker-2", "worker", "removed", None, "removed", 1],
        [
            6,
            us(30),
            "added",
            "ann",
            "operator",
            "t in default, due in 1.0 s",
            None,
            "delayed 1.0 s, ready 2.0 s so far",
            2,
        ],
    ]
    assert [(life["begin"], life["end"], life["removed"], life["attempts"]) for life in ticket["lives"]] == [
        (us(0), us(22.5), True, 2),
        (us(30), us(33), False, 0),
    ]
    assert ticket["lives"][0]["totals"] == {
        "delayed": 5 * US,
        "ready": 2 * US,
        "running": 12_500_000,
        "backing off": 3 * US,
    }
    assert (ticket["state"], ticket["payload"], ticket["result"]) == ("ready", "null", None)


def test_what_a_removed_ticket_was(story, data_of):
    (story / "log" / f"{1:020}.jsonl").write_bytes(
        b"".join((story / "log" / f"{1:020}.jsonl").read_bytes().splitlines(keepends=True)[:-1])
    )
    ticket = data_of(report(story, "a", now=at(33)))["ticket"]
    assert ticket["state"] == "done, removed"
    assert dict(ticket["facts"]) == {"type": "mail", "tube": "bulk", "nice": "512", "group": "g", "attempts": "2"}
    assert json.loads(ticket["payload"]) == {"to": "ann"}


def test_every_ticket_of_the_night_is_as_its_timeline_has_it(night, data_of, monkeypatch, record_property):
    monkeypatch.setattr(module, "_time_fields", lambda _queue: None)  # 100 pages need one pass over the log, not 100
    ids = {record.event.id for record in k.read(night) if hasattr(record.event, "id")}
    for id in ids:
        told = k.timeline(k.history(night, id), scenario.NOW)
        ticket = data_of(report(night, id, now=scenario.NOW))["ticket"]
        spans = [span for life in told.lives for span in life.spans]
        assert [(span[0], span[1], span[2]) for span in ticket["spans"]] == [
            (span.phase, module._us(span.begin), module._us(span.end)) for span in spans
        ]
        assert [event[0] for event in ticket["events"]] == [record.seq for record in k.history(night, id)]
        assert len(ticket["attempts"]) == sum(len(life.attempts) for life in told.lives)
    record_property("tickets compared with their timelines", len(ids))


def test_every_change_is_told(tmp_path, data_of):
    everything = e.Changes(1, module.msgspec.Raw(b"2"), "fast", None, at(9))
    where = written.write(
        tmp_path / "queue",
        [
            (0, "shop", [added("a", 0)]),
            (1, "ann", [e.TicketUpdated("a", everything)]),
            (2, "worker-1", [e.TicketClaimed("a", 1, at(60), "worker-1")]),
            (3, "worker-1", [e.LeaseExtended("a", at(93))]),
            (4, "worker-1", [e.TicketRetried("a", at(4), "no", e.Changes(nice=3))]),
            (5, "ann", [e.TicketFailed("a", "enough", at(65))]),
            (6, "ann", [e.TicketRestarted("a", at(6))]),
        ],
    )
    events = data_of(report(where, "a", now=at(7)))["ticket"]["events"]
    assert [event[5] for event in events] == [
        "t in default",
        "nice 1, payload 2, tube fast, group none, runat 2026-03-10 18:00:09 UTC",
        "attempt 1, for 58 s",
        "for 1 m 30 s",
        "again at once with nice 3",
        "kept for 1 m",
        "again at once",
    ]


def test_what_the_ticket_waits_for_is_told(tmp_path, data_of):
    where = written.write(
        tmp_path / "queue",
        [
            (0, "shop", [added("delayed", 60), added("running", 0), added("kept", 0)]),
            (1, "worker-1", [e.TicketClaimed("running", 1, at(61), "worker-1")]),
            (2, "ann", [e.TicketFailed("kept", "enough", at(62))]),
        ],
    )
    facts = {
        id: dict(data_of(report(where, id, now=at(3)))["ticket"]["facts"]) for id in ("delayed", "running", "kept")
    }
    assert [facts[id].keys() & {"due", "lease until", "expires", "reason"} for id in facts] == [
        {"due"},
        {"lease until"},
        {"expires", "reason"},
    ]
    assert (facts["delayed"]["due"], facts["running"]["lease until"]) == (us(60), us(61))


def test_a_queue_agrees_with_its_measures(night, data_of):
    time = data_of(report(night, now=scenario.NOW))["time"]
    assert (time["records"], time["first"], time["last"]) == (482, 1, 482)
    assert {name: sum(counts) for name, counts in time["counts"].items()} == {
        name: time["total"][name] for name in time["counts"]
    }
    slots = {len(time["depth"]["ready"]), len(time["most_ready"]), len(time["counts"]["done"]), len(time["ran"]["p50"])}
    assert len(slots) == 1
    assert [row[0] for row in time["failures"]] == sorted((row[0] for row in time["failures"]), reverse=True)
    assert [row[2] for row in time["incidents"]] == [
        "Schedule removed",
        *["Schedule set"] * 3,
        "Tube resumed",
        *["Tube limited"] * 2,
        *["Tube paused"] * 2,
        "Segment compressed",
        "Segment archived",
        "Log repaired",
        "Tail cut",
        "Log closed",
    ]


def test_types_are_listed_up_to_a_limit(tmp_path, data_of):
    events = [added(f"t{number}", type=f"type {number}") for number in range(module.MOST_TYPES + 3)]
    time = data_of(report(written.write(tmp_path / "queue", [(0, "shop", events)])))["time"]
    assert (len(time["types"]), time["more_types"]) == (module.MOST_TYPES, 3)


def test_a_page_holds_the_last_events_and_says_how_many_it_lacks(tmp_path, data_of, monkeypatch):
    monkeypatch.setattr(module, "MOST_EVENTS", 40)
    where = written.write(tmp_path / "queue", written.many(101))
    ticket = data_of(report(where, "busy", now=at(9999)))["ticket"]
    assert (len(ticket["events"]), ticket["left_out"]) == (40, 61)
    assert [event[0] for event in ticket["events"]] == list(range(62, 102))
    told = k.timeline(k.history(where, "busy"), at(9999))
    (life,) = told.lives
    assert [span[3] for span in ticket["spans"]] == [span.seq for span in life.spans if span.seq >= 62]
    assert [attempt[7] for attempt in ticket["attempts"]] == [one.claim for one in life.attempts if one.claim >= 62]


def test_a_ticket_whose_beginning_was_trimmed(tmp_path, data_of):
    where = tmp_path / "queue"
    scenario.build(where, trimmed=True)
    first = k.verify(where).first
    early = next(
        record.event.id
        for record in k.read(where)
        if isinstance(record.event, e.TicketClaimed) and k.timeline(k.history(where, record.event.id)).before
    )
    ticket = data_of(report(where, early, now=scenario.NOW))["ticket"]
    assert (ticket["state"], ticket["lives"], ticket["spans"]) == ("unknown", [], [])
    assert ticket["early"] == len(ticket["events"]) > 0
    assert ticket["events"][0][0] >= first


def test_of_early_records_too_the_last_are_held(tmp_path, data_of, monkeypatch):
    where = written.write(
        tmp_path / "queue",
        [
            (0, "worker-1", [e.TicketRetried("a", at(second), "no") for second in range(5)]),
            (1, "shop", [added("a", 0), e.TicketDeleted("a")]),
        ],
    )
    monkeypatch.setattr(module, "_time_fields", lambda _queue: None)  # such a log cannot be folded as a whole
    for most, seqs in ((7, [1, 2, 3, 4, 5, 6, 7]), (4, [4, 5, 6, 7]), (1, [7])):
        monkeypatch.setattr(module, "MOST_EVENTS", most)
        ticket = data_of(report(where, "a"))["ticket"]
        assert [event[0] for event in ticket["events"]] == seqs
        assert ticket["left_out"] == 7 - len(seqs)


def test_an_empty_queue(tmp_path, data_of):
    log = DirectoryLog(tmp_path / "queue")
    list(log.open(written.BEGIN))
    log.abandon()
    data = data_of(report(tmp_path / "queue"))
    assert (data["ticket"], data["time"]) == (None, None)


@pytest.mark.parametrize("id", ["nobody", "\udcff", "", "<b>"])
def test_a_ticket_that_never_was(night, id):
    with pytest.raises(k.TicketNotFound, match="no record of it"):
        report(night, id)


def test_no_queue(tmp_path):
    with pytest.raises(k.KharonError, match="does not exist"):
        report(tmp_path / "nowhere")


def test_now_has_a_timezone(night):
    with pytest.raises(k.InvalidTicket, match="now"):
        report(night, now=scenario.NOW.replace(tzinfo=None))


# --- what is only text, stays only text -------------------------------------------------------------------------------


def nasty_queue(where, text):
    payload = json.dumps({text: [text], "deep": {"</script>": text}}).encode()
    return written.write(
        where,
        [
            (0, text, [added(text, 0, text, text, payload, text)]),
            (1, text, [e.TicketClaimed(text, 1, at(30), text)]),
            (2, text, [e.TicketRetried(text, at(5), text, e.Changes(1, module.msgspec.Raw(payload), text, text))]),
            (3, text, [e.TicketClaimed(text, 2, at(30), text)]),
            (
                4,
                text,
                [e.TicketDone(text, keep=True, result_json=module.msgspec.Raw(payload)), e.TailCut(text, 1, 2, text)],
            ),
            (5, text, [added(text + "2"), e.TicketFailed(text + "2", text)]),
        ],
    )


@pytest.mark.parametrize("name", NASTY)
def test_text_can_neither_end_the_data_nor_hide_in_it(tmp_path, data_of, name):
    text = NASTY[name]
    page = report(nasty_queue(tmp_path / "queue", text), text, now=at(9))
    assert page.isascii()
    assert all(char.isprintable() or char == "\n" for char in page)
    assert page.count("<script") == page.count("</script>") == 2
    data = re.search(r'id="data">(.*?)</script>', page)[1]
    assert not set("<>&") & set(data)
    held = data_of(page)
    assert html.unescape(re.search("<bdi>(.*?)</bdi>", page)[1]) == held["ticket"]["id"] == safe(text)
    assert dict(held["ticket"]["facts"])["tube"] == safe(text)

    def check(value):
        if isinstance(value, str):
            for line in value.split("\n"):
                assert line == safe(line)
        elif isinstance(value, (dict, list)):
            for inner in [*value, *(value.values() if isinstance(value, dict) else ())]:
                check(inner)

    check(held)


def test_what_looks_like_a_place_of_the_template_is_text(tmp_path, data_of):
    where = written.write(tmp_path / "queue", [(0, "shop", [added("{{script}}", type="{{data}}")])])
    page = report(where, "{{script}}")
    assert data_of(page)["ticket"]["id"] == "{{script}}"
    assert page.count("{{") == page.count("{{script}}") + page.count("{{data}}")


def test_long_text_is_cut(tmp_path, data_of):
    payload = json.dumps(["x" * 30_000]).encode()
    where = written.write(
        tmp_path / "queue", [(0, "shop", [added("a", payload=payload), e.TicketFailed("a", "y" * 5000)])]
    )
    ticket = data_of(report(where, "a"))["ticket"]
    assert ticket["payload"].endswith("x\n\u2026 and 10,008 characters more")
    assert dict(ticket["facts"])["reason"] == "y" * 2000 + " \u2026 and 3,000 characters more"


def test_the_policy_allows_this_script_and_style_and_nothing_else(night):
    page = report(night)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page)[1])
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))

    def hashed(text):
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    assert rules == {
        "default-src": "'none'",
        "script-src": hashed(re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]),
        "style-src": hashed(re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert page.index("Content-Security-Policy") < page.index("<title>")
    assert not re.findall(r"\son\w+=|javascript:|innerHTML|insertAdjacentHTML|document\.write|\beval\(", page)
    addresses = set(re.findall(r"https?://[^'\" ]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a namespace's name, not a place
