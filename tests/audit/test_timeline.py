from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import trio
from msgspec import Raw
from queues import IDS, moment, queue

import kharon
import kharon.testing
from kharon import Outcome, Phase, Who
from kharon.errors import InvalidTicket, KharonError
from kharon.log.record import Record
from kharon.model import events as e
from kharon.model.ticket import Status


def records_of(*items) -> list[Record]:
    """Records of (seconds, event) or (seconds, event, by)."""
    records = []
    for seq, (seconds, event, *by) in enumerate(items, 1):
        records.append(Record(seq, moment(seconds), *(by or ["app"]), event, f"{seq:064x}", (1, 1), 0))
    return records


def added(seconds: float = 0, id: str = "t") -> e.TicketAdded:
    return e.TicketAdded(id, "x", Raw(b"null"), "default", 512, moment(seconds))


def claimed(attempt: int, lease: float = 1000) -> e.TicketClaimed:
    return e.TicketClaimed("t", attempt, moment(lease), "worker-1")


def rows(found: kharon.Timeline) -> list[tuple]:
    """Records and spans in the order in which a person reads them."""
    rows: list[tuple] = []
    for life in found.lives:
        for step in life.steps:
            rows.append((type(step.record.event).__name__, str(step.who)))
            rows += [(str(span.phase), span.length.total_seconds(), span.attempt) for span in step.spans]
    return rows


STORY = records_of(
    (0, added(10)),
    (12, claimed(1), "worker-1"),
    (15, e.TicketRetried("t", moment(20), "busy"), "worker-1"),
    (23, claimed(2), "worker-1"),
    (25, e.LeaseExtended("t", moment(2000)), "worker-1"),
    (30, e.TicketLapsed("t", moment(34), "the lease ended"), "clock"),
    (31, e.TicketUpdated("t", e.Changes(nice=1)), "ann"),
    (40, claimed(3), "worker-1"),
    (41, e.TicketReleased("t"), "worker-1"),
    (43, claimed(3), "worker-1"),
    (44, e.TicketFailed("t", "no route", moment(100)), "worker-1"),
    (54, e.TicketRestarted("t", moment(54)), "ann"),
    (55, e.TicketDone("t", keep=True), "ann"),
    (60, e.TicketExpired("t"), "clock"),
)


def test_a_story():
    found = kharon.timeline(STORY)
    assert rows(found) == [
        ("TicketAdded", "operator"),
        ("delayed", 10, None),
        ("ready", 2, None),
        ("TicketClaimed", "worker"),
        ("running", 3, 1),
        ("TicketRetried", "worker"),
        ("backing off", 5, 1),
        ("ready", 3, None),
        ("TicketClaimed", "worker"),
        ("running", 2, 2),
        ("LeaseExtended", "worker"),
        ("running", 5, 2),
        ("TicketLapsed", "clock"),
        ("backing off", 1, 2),
        ("TicketUpdated", "operator"),
        ("backing off", 3, 2),
        ("ready", 6, None),
        ("TicketClaimed", "worker"),
        ("running", 1, 3),
        ("TicketReleased", "worker"),
        ("ready", 2, None),
        ("TicketClaimed", "worker"),
        ("running", 1, 3),
        ("TicketFailed", "worker"),
        ("kept", 10, None),
        ("TicketRestarted", "operator"),
        ("ready", 1, None),
        ("TicketDone", "operator"),
        ("kept", 5, None),
        ("TicketExpired", "clock"),
    ]
    (life,) = found.lives
    assert [(attempt.number, attempt.outcome, attempt.error_reason, attempt.by) for attempt in life.attempts] == [
        (1, Outcome.RETRIED, "busy", "worker-1"),
        (2, Outcome.LAPSED, "the lease ended", "clock"),
        (3, Outcome.RELEASED, None, "worker-1"),
        (3, Outcome.FAILED, "no route", "worker-1"),
    ]
    assert [attempt.who for attempt in life.attempts] == [Who.WORKER, Who.CLOCK, Who.WORKER, Who.WORKER]
    assert [attempt.claim for attempt in life.attempts] == [2, 4, 8, 10]
    totals = life.totals
    assert (totals.delayed, totals.ready, totals.blocked) == tuple(timedelta(seconds=s) for s in (10, 14, 0))
    assert (totals.delayed + totals.ready + totals.blocked, totals.running) == (
        timedelta(seconds=24),
        timedelta(seconds=12),
    )
    assert (totals.backing_off, totals.kept) == (timedelta(seconds=9), timedelta(seconds=15))
    assert totals.all == life.end - life.begin == timedelta(seconds=60)
    assert life.removed
    assert (found.id, found.now) == ("t", moment(60))
    statuses = {span.phase: span.status for span in life.spans}
    assert statuses[Phase.KEPT] is Status.DONE
    assert [span.by for span in life.spans][:3] == ["app", "app", "worker-1"]


def test_a_ticket_added_again_while_it_runs():
    """It goes on running; what settles it makes it what was added, and a first attempt is a first again."""
    found = kharon.timeline(
        records_of(
            (0, added()),
            (1, claimed(1), "worker-1"),
            (2, added(9)),
            (5, e.TicketRetried("t", moment(50), "busy"), "worker-1"),
            (12, claimed(1), "worker-1"),
            (13, e.TicketDone("t"), "worker-1"),
        )
    )
    assert [row for row in rows(found) if len(row) == 3] == [
        ("ready", 1, None),
        ("running", 1, 1),
        ("running", 3, 1),
        ("delayed", 4, None),
        ("ready", 3, None),
        ("running", 1, 1),
    ]
    (life,) = found.lives
    assert [attempt.outcome for attempt in life.attempts] == [Outcome.RETRIED, Outcome.ACKED]


@pytest.mark.parametrize(
    ("changes", "phase"),
    [(e.Changes(runat=moment(60)), "delayed"), (e.Changes(nice=1), "backing off")],
)
def test_a_runat_that_somebody_sets_is_no_backing_off(changes, phase):
    found = kharon.timeline(
        records_of(
            (0, added()),
            (1, claimed(1), "worker-1"),
            (2, e.TicketRetried("t", moment(50), "busy"), "worker-1"),
            (5, e.TicketUpdated("t", changes), "ann"),
        ),
        moment(9),
    )
    assert [row[:2] for row in rows(found) if len(row) == 3] == [
        ("ready", 1),
        ("running", 1),
        ("backing off", 3),
        (phase, 4),
    ]


def test_a_ticket_added_again_after_its_removal_lives_again():
    found = kharon.timeline(records_of((0, added()), (4, e.TicketDeleted("t")), (9, added(9))), moment(11))
    assert [(life.begin, life.end, life.removed) for life in found.lives] == [
        (moment(0), moment(4), True),
        (moment(9), moment(11), False),
    ]
    assert [span.open for life in found.lives for span in life.spans] == [False, True]


def test_what_runs_still():
    found = kharon.timeline(records_of((0, added()), (1, claimed(1), "worker-1")), moment(5))
    (life,) = found.lives
    (attempt,) = life.attempts
    assert (attempt.outcome, attempt.end, attempt.by, attempt.who) == (Outcome.RUNNING, None, None, None)
    assert [(span.open, span.end) for span in life.spans] == [(False, moment(1)), (True, moment(5))]
    assert kharon.timeline(records_of((0, added())), moment(-100)).now == moment(0), "not before its end"


def test_blocked_by_others():
    """As long as it is blocked it is that, due or not; then it is delayed until it is due, and then ready."""
    gates = {"after": ("m",), "blocked_by": ("m",), "after_group": "g", "blocked_by_group": True}
    told = e.TicketAdded("t", "x", Raw(b"null"), "default", 512, moment(20), **gates)
    by_id, by_group = e.TicketUnblocked("t", "m"), e.TicketUnblocked("t", "n", "g")
    for end, phases in (
        (15, [("blocked", 0, 7), ("blocked", 7, 15), ("delayed", 15, 20), ("ready", 20, 30)]),
        (25, [("blocked", 0, 7), ("blocked", 7, 25), ("ready", 25, 30)]),
    ):
        for first, second in ((by_id, by_group), (by_group, by_id)):
            found = kharon.timeline(records_of((0, told), (7, first, "worker-1"), (end, second)), moment(30))
            spans = [
                (span.phase, (span.begin - moment(0)).seconds, (span.end - moment(0)).seconds)
                for span in found.lives[0].spans
            ]
            assert spans == phases
            assert found.lives[0].totals.blocked == timedelta(seconds=end)
            assert [step.who for step in found.lives[0].steps][1] is Who.WORKER


def test_a_history_whose_beginning_is_gone():
    """Of what was trimmed, or dropped from memory, nothing is made up."""
    whole = records_of(
        (0, added()),
        (1, claimed(1), "worker-1"),
        (2, e.TicketDone("t")),
        (5, added()),
        (7, claimed(1), "worker-2"),
    )
    found = kharon.timeline(whole[1:])
    assert found.before == tuple(whole[1:3])
    (life,) = found.lives
    assert (life.begin, life.end) == (moment(5), moment(7))
    nothing = kharon.timeline(whole[1:3])
    assert (nothing.lives, nothing.before, nothing.now) == ((), tuple(whole[1:3]), moment(2))


def test_who_is_known_by_name_and_by_claims():
    story = records_of(
        (0, added(), "worker-3"),  # a handler added it
        (1, e.TicketClaimed("t", 1, moment(99), "mine"), "mine"),
        (2, e.LeaseExtended("t", moment(200)), "mine"),
        (3, e.TicketUpdated("t", e.Changes(nice=1)), "worker-3b"),
    )
    (life,) = kharon.timeline(story).lives
    assert [step.who for step in life.steps] == [Who.WORKER, Who.WORKER, Who.WORKER, Who.OPERATOR]


def test_wrong_records():
    with pytest.raises(InvalidTicket, match="there are none"):
        kharon.timeline([])
    with pytest.raises(InvalidTicket, match="record 1, LogClosed, is about no ticket"):
        kharon.timeline(records_of((0, e.LogClosed())))
    with pytest.raises(InvalidTicket, match="record 2 of ticket 'u' follows record 1 of 't'"):
        kharon.timeline(records_of((0, added()), (1, added(id="u"))))
    with pytest.raises(InvalidTicket, match="in the order of the log"):
        kharon.timeline(STORY[::-1])
    with pytest.raises(InvalidTicket, match="now"):
        kharon.timeline(STORY, datetime(2026, 1, 1))  # noqa: DTZ001 - naive, and refused
    with pytest.raises(KharonError, match="does not exist there"):
        kharon.timeline(records_of((0, added()), (1, e.TicketDeleted("t")), (2, claimed(1))))


def test_every_ticket_of_a_queue(tmp_path):
    """The real records of a queue: each history is told, and nothing of it is lost."""
    queue(tmp_path / "queue", 500)
    outcomes = set()
    for id in IDS:
        records = kharon.history(tmp_path / "queue", id)
        found = kharon.timeline(records)
        assert [step.record for life in found.lives for step in life.steps] == records
        assert all(life.totals.all == life.end - life.begin for life in found.lives)
        outcomes |= {attempt.outcome for life in found.lives for attempt in life.attempts}
    assert outcomes >= set(Outcome) - {Outcome.RUNNING}


async def test_the_timeline_of_a_ticket_that_a_worker_ran(autojump_clock):
    router = kharon.Router()

    @router.handler("x")
    async def fail_once(kh, ticket):
        await trio.sleep(3)
        await kh.add(kharon.Ticket("child", "y", tube="other"))
        if ticket.attempts == 1:
            raise ValueError("no route")

    settings = kharon.Settings(backoff=kharon.FixedDelay(7))
    async with (
        kharon.open(":memory:", settings, clock=kharon.testing.TrioClock()) as kh,
        trio.open_nursery() as nursery,
    ):
        await kh.add(kharon.Ticket("t", "x"), delay=5)
        await nursery.start(kh.run, router)
        await kh.wait("t")
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            (life,) = kharon.timeline(await kh.history("t")).lives
            (child,) = kharon.timeline(await kh.history("child")).lives
    assert [attempt.outcome for attempt in life.attempts] == [Outcome.RETRIED, Outcome.ACKED]
    assert "no route" in life.attempts[0].error_reason
    totals = [life.totals.delayed, life.totals.running, life.totals.backing_off]
    assert [round(total.total_seconds()) for total in totals] == [5, 6, 7]
    assert child.steps[0].who is Who.WORKER
    assert life.steps[0].who is Who.OPERATOR
