from __future__ import annotations

from datetime import datetime

import pytest
from msgspec import Raw
from queues import moment, queue

import kharon
from kharon import Reason
from kharon.errors import InvalidTicket
from kharon.model import events as e
from kharon.model.projection import Projection
from kharon.model.ticket import draft_of, seal


def projection_of(*events) -> Projection:
    """Each event a second after the one before."""
    projection = Projection()
    for seq, event in enumerate(events, 1):
        projection.apply(event, seq, moment(seq))
    return projection


def added(id: str, seconds: float = 0, tube: str = "default", nice: int = 512) -> e.TicketAdded:
    return e.TicketAdded(id, "x", Raw(b"null"), tube, nice, moment(seconds))


CLAIMED = e.TicketClaimed("t", 2, moment(30), "worker-1")


def test_a_ticket_that_runs():
    found = kharon.explain(projection_of(added("t"), CLAIMED), "t", moment(10), max_attempts=5)
    assert found.reasons == (Reason.RUNNING,)
    assert found.reason is Reason.RUNNING
    assert found.sentence == (
        "'t' is running: 'worker-1' has it (attempt 2, 3 left) until its lease ends at 2026-01-01 00:00:30 UTC."
    )
    assert (found.worker, found.lease_until, found.attempts, found.attempts_left) == ("worker-1", moment(30), 2, 3)
    assert (found.due_at, found.ahead, found.terminal_since, found.expires_at) == (moment(0), None, None, None)


def test_a_lease_that_has_ended():
    found = kharon.explain(projection_of(added("t"), CLAIMED), "t", moment(30), max_attempts=None)
    assert found.reasons == (Reason.LEASE_ENDED,)
    assert found.sentence == (
        "'t' is not running any more, as far as anybody knows: the lease of 'worker-1' (attempt 2) ended at 2026-01-01 "
        "00:00:30 UTC, and the queue takes it back when it looks next, or is opened next."
    )
    assert found.attempts_left is None
    assert kharon.explain(projection_of(added("t"), CLAIMED), "t", moment(30), max_attempts=1).attempts_left == 0


def test_a_ticket_that_is_due():
    projection = projection_of(added("t"), added("u", 2), added("v", 1), added("w", 0, nice=1), added("z", tube="y"))
    found = kharon.explain(projection, "w", moment(10))
    assert (found.reasons, found.ahead) == ((Reason.NEXT,), 0)
    assert found.sentence == (
        "'w' is not running: it has been due since 2026-01-01 00:00:00 UTC, and is what a worker that is free claims "
        "next."
    )
    assert found.attempts_left == kharon.Settings().max_attempts
    found = kharon.explain(projection, "t", moment(10))
    assert (found.reasons, found.ahead) == ((Reason.BEHIND,), 1)
    assert found.sentence == (
        "'t' is not running: it has been due since 2026-01-01 00:00:00 UTC, and 1 ticket that is due, too, will be "
        "claimed first."
    )
    found = kharon.explain(projection, "u", moment(10))
    assert found.ahead == 3
    assert "3 tickets that are due, too, will be claimed first." in found.sentence
    assert kharon.explain(projection, "u", moment(10), tubes=["default", "y"]).ahead == 4
    assert kharon.explain(projection, "u", moment(10), tubes=iter(["default", "y", "none"])).ahead == 4


def test_gates_that_are_shut():
    projection = projection_of(added("t", 100), CLAIMED, e.TicketRetried("t", moment(90), "busy"))
    found = kharon.explain(projection, "t", moment(10))
    assert found.reasons == (Reason.DELAYED,)
    assert found.sentence == (
        "'t' is not running: it is due at 2026-01-01 00:01:30 UTC, in 80 s (2 attempts so far; the last one: busy)."
    )
    draft = draft_of(projection.tickets["t"])
    draft.blocked_by, draft.error_reason = ("a", "b"), None
    projection.load([seal(draft)], 3, moment(3))
    found = kharon.explain(projection, "t", moment(10), tubes=["other"])
    assert found.reasons == (Reason.BLOCKED, Reason.NOT_SUBSCRIBED, Reason.DELAYED)
    assert found.sentence == (
        "'t' is not running: it waits for 'a', 'b'; and no worker claims from its tube 'default'; and it is due at "
        "2026-01-01 00:01:30 UTC, in 80 s."
    )
    assert found.blocked_by == ("a", "b")
    assert kharon.explain(projection, "t", moment(91), tubes=["default"]).reasons == (Reason.BLOCKED,)


@pytest.mark.parametrize(
    ("event", "reason", "words"),
    [
        (
            e.TicketDone("t", keep=True, expire_at=moment(20)),
            Reason.DONE,
            "done since {}, kept until 2026-01-01 00:00:20 UTC.",
        ),
        (
            e.TicketDone("t", keep=True, expire_at=moment(5)),
            Reason.DONE,
            "done since {}, to be removed since 2026-01-01 00:00:05 UTC, when",
        ),
        (e.TicketFailed("t", "no route"), Reason.FAILED, "failed since {}, kept for good: no route."),
        (e.TicketCancelled("t", keep=True), Reason.CANCELLED, "cancelled since {}, kept for good."),
    ],
)
def test_a_ticket_that_has_ended(event, reason, words):
    found = kharon.explain(projection_of(added("t"), event), "t", moment(10))
    assert found.reasons == (reason,)
    assert f"'t' is not running: it is {words.format('2026-01-01 00:00:02 UTC')}" in found.sentence
    assert found.terminal_since == moment(2)
    assert found.expires_at == event.expire_at
    assert (found.due_at, found.attempts_left, found.ahead) == (None, None, None)


def test_a_ticket_that_is_not_there():
    found = kharon.explain(projection_of(added("t")), "it's", moment(10))
    assert found.reasons == (Reason.ABSENT,)
    assert found.sentence == (
        'There is no ticket "it\'s": it was never added, or has been removed; its history tells which.'
    )
    assert found.ticket is None
    assert (found.attempts, found.worker, found.blocked_by) == (0, None, ())


def test_it_changes_nothing_and_does_not_need_to_be_promoted():
    projection = projection_of(*[added(f"t{number}", number) for number in range(20)])
    for horizon in (None, 5, 15, 30):
        if horizon is not None:
            projection.promote(moment(horizon))
        for now in (0, 4.5, 10, 40):
            before = projection.horizon
            for number in range(20):
                found = kharon.explain(projection, f"t{number}", moment(now))
                assert found.ahead == (number if number <= now else None), (horizon, now, number)
            assert projection.horizon == before
            projection.check()


def test_what_was_promoted_further_than_now_is_not_due_yet():
    """The clock was set back: a ticket that goes first when it is due is not ahead of one that is due already."""
    projection = projection_of(added("t"), added("first", 20, nice=1))
    projection.promote(moment(30))
    assert kharon.explain(projection, "t", moment(10)).reasons == (Reason.NEXT,)
    assert kharon.explain(projection, "t", moment(20)).ahead == 1


def test_now_must_have_a_timezone():
    with pytest.raises(InvalidTicket, match="now"):
        kharon.explain(Projection(), "t", datetime(2026, 1, 1))  # noqa: DTZ001 - naive, and refused


def test_every_ticket_of_a_queue(tmp_path):
    queue(tmp_path / "queue")
    for seq in range(0, 200, 7):
        projection = kharon.replay(tmp_path / "queue", until=seq)
        for id in projection.tickets:
            found = kharon.explain(projection, id, projection.at)
            assert found.sentence.endswith(".")
            assert found.sentence.isprintable()
