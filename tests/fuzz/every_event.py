"""An event of every kind, with every field that it can have."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from msgspec import Raw

from kharon.model import events as e

__all__ = ["EVENTS", "LATER", "NOW"]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1.25)
EVENTS: list[e.Event] = [
    e.TicketAdded("a", "type", Raw(b'{"to":["J\\u00f6rg",1.5,null,true]}'), "default", 512, NOW, "g"),
    e.TicketClaimed("a", 1, LATER, "w"),
    e.LeaseExtended("a", LATER),
    e.TicketRetried("a", LATER, "why", e.Changes(1, Raw(b"[]"), "t", None, LATER)),
    e.TicketLapsed("a", LATER, "late"),
    e.TicketReleased("a"),
    e.TicketReleased("a", e.Changes(tube="t")),
    e.TicketUpdated("a", e.Changes(nice=-5)),
    e.TicketDone("a", True, Raw(b"[1]"), LATER),
    e.TicketFailed("a", "no", LATER),
    e.TicketCancelled("a", True, "no", LATER),
    e.TicketRestarted("a", LATER),
    e.TicketExpired("a"),
    e.TicketDeleted("a"),
    e.TicketAdded("b", "end", Raw(b"null"), "t", 1, LATER, "h", ("a", "c"), ("a",), "g", True, "cancel"),
    e.TicketUnblocked("b", "a"),
    e.TicketUnblocked("b", "a", "g", True),
    e.TubePaused("t"),
    e.TubeLimited("t", 2, 3, 1.5),
    e.TubeResumed("t"),
    e.ScheduleSet("s", "type", Raw(b'{"a":1}'), "default", 512, NOW, "g", None, 1.5, "UTC", "all"),
    e.ScheduleFired("s", NOW, LATER),
    e.ScheduleSet("c", "type", Raw(b"null"), "default", 512, LATER, None, "0 7 * * 1", None, "Europe/Berlin"),
    e.ScheduleSkipped("s", LATER + (LATER - NOW)),
    e.ScheduleRemoved("c"),
    e.TailCut("log/x", 1, 2, "quarantine/x"),
    e.LogRepaired("log/x", 1, 2, "quarantine/x", 3),
    e.LogClosed(),
]
