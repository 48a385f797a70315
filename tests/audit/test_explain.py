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


def projection_of(*events) -> Projection:
    """Each event a second after the one before."""
    projection = Projection()
    for seq, event in enumerate(events, 1):
        projection.apply(event, seq, moment(seq))
    return projection


def added(id: str, seconds: float = 0, tube: str = "default", nice: int = 512, group=None, **gate) -> e.TicketAdded:
    """What it is told to wait for was pending, all of it."""
    gate |= {"blocked_by": gate.get("after", ()), "blocked_by_group": "after_group" in gate}
    return e.TicketAdded(id, "x", Raw(b"null"), tube, nice, moment(seconds), group, **gate)


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
        "'t' is probably not running any more: the lease of 'worker-1' (attempt 2) ended at 2026-01-01 "
        "00:00:30 UTC, and the queue takes the ticket back at its next check, or when it is opened next."
    )
    assert found.attempts_left is None
    assert kharon.explain(projection_of(added("t"), CLAIMED), "t", moment(30), max_attempts=1).attempts_left == 0


def test_a_ticket_that_is_due():
    projection = projection_of(added("t"), added("u", 2), added("v", 1), added("w", 0, nice=1), added("z", tube="y"))
    found = kharon.explain(projection, "w", moment(10))
    assert (found.reasons, found.ahead) == ((Reason.NEXT,), 0)
    assert found.sentence == (
        "'w' is not running: it has been due since 2026-01-01 00:00:00 UTC, and a free worker claims it next."
    )
    assert found.attempts_left == kharon.Settings().max_attempts
    found = kharon.explain(projection, "t", moment(10))
    assert (found.reasons, found.ahead) == ((Reason.BEHIND,), 1)
    assert found.sentence == (
        "'t' is not running: it has been due since 2026-01-01 00:00:00 UTC, and 1 other due ticket will be claimed "
        "first."
    )
    found = kharon.explain(projection, "u", moment(10))
    assert found.ahead == 3
    assert "3 other due tickets will be claimed first." in found.sentence
    assert kharon.explain(projection, "u", moment(10), tubes=["default", "y"]).ahead == 4
    assert kharon.explain(projection, "u", moment(10), tubes=iter(["default", "y", "none"])).ahead == 4


def test_gates_that_are_shut():
    projection = projection_of(added("t", 100), CLAIMED, e.TicketRetried("t", moment(90), "busy"))
    found = kharon.explain(projection, "t", moment(10))
    assert found.reasons == (Reason.DELAYED,)
    assert found.sentence == (
        "'t' is not running: it is due at 2026-01-01 00:01:30 UTC, in 1 m 20 s (2 attempts so far; the last one: busy)."
    )
    projection = projection_of(added("a"), added("b"), added("t", 90, after=("a", "b")), e.TubePaused("default"))
    found = kharon.explain(projection, "t", moment(10), tubes=["other"])
    assert found.reasons == (Reason.BLOCKED, Reason.NOT_SUBSCRIBED, Reason.TUBE_PAUSED, Reason.DELAYED)
    assert found.sentence == (
        "'t' is not running: it is blocked by 'a' and 'b', whatever their outcomes; and no worker claims from its tube "
        "'default'; and its tube 'default' has been paused since record 4, 2026-01-01 00:00:04 UTC; and it is due at "
        "2026-01-01 00:01:30 UTC, in 1 m 20 s."
    )
    assert (found.blocked_by, found.on_failure, found.ahead) == (("a", "b"), "run", None)
    assert (found.after_group, found.members_left, found.members) == (None, 0, ())
    projection.apply(e.TubeResumed("default"), 5, moment(5))
    assert kharon.explain(projection, "t", moment(91), tubes=["default"]).reasons == (Reason.BLOCKED,)


def test_a_group_that_is_waited_for():
    """Those that were pending when it was added: who joins later, or is in another group, is not waited for."""
    members = [added(f"m{number}", group="g") for number in range(8)]
    late = added("late", group="g")
    projection = projection_of(*members, added("other", group="h"), added("t", after_group="g"), late)
    found = kharon.explain(projection, "t", moment(20))
    assert found.reasons == (Reason.BLOCKED,)
    assert found.sentence == (
        "'t' is not running: it is blocked by 8 remaining members of group 'g' ('m0', 'm1', 'm2', 'm3', 'm4' and 3 "
        "more), whatever their outcomes."
    )
    assert (found.after_group, found.members_left) == ("g", 8)
    assert found.members == ("m0", "m1", "m2", "m3", "m4")
    for seq in range(12, 19):
        projection.apply(e.TicketDone(f"m{seq - 12}"), seq, moment(seq))
    found = kharon.explain(projection, "t", moment(20))
    assert "it is blocked by the last remaining member of group 'g' ('m7'), whatever its outcome." in found.sentence
    assert (found.members_left, found.members) == (1, ("m7",))
    projection.apply(e.TicketDone("m7"), 19, moment(19))
    projection.apply(e.TicketUnblocked("t", "m7", "g"), 20, moment(20))
    found = kharon.explain(projection, "t", moment(20))
    assert found.reason is Reason.BEHIND
    assert (found.after_group, found.members_left, found.members, found.on_failure) == (None, 0, (), None)


def test_a_group_of_which_nothing_is_left_but_the_record_of_it():
    """Between the record that ends the last member and the one that unblocks: as-of may stop there."""
    projection = projection_of(added("m", group="g"), added("t", after_group="g"), e.TicketDone("m"))
    found = kharon.explain(projection, "t", moment(20))
    assert (found.reasons, found.members_left, found.members) == ((Reason.BLOCKED,), 0, ())
    assert "it is blocked by group 'g', which has no members left" in found.sentence
    assert found.on_failure == "run"


def test_what_becomes_of_it_if_one_fails():
    projection = projection_of(
        *(added(id, group="g") for id in "abcdefg"),
        added("one", after=("a",), on_failure="cancel"),
        added("both", after=tuple("abcdef"), after_group="g", on_failure="cancel"),
    )
    found = kharon.explain(projection, "one", moment(20))
    assert found.sentence == (
        "'one' is not running: it is blocked by 'a', and is cancelled if that one fails or is cancelled."
    )
    assert found.on_failure == "cancel"
    assert kharon.explain(projection, "both", moment(20)).sentence == (
        "'both' is not running: it is blocked by 'a', 'b', 'c', 'd', 'e' and 1 more, and by 7 remaining members of "
        "group 'g' ('a', 'b', 'c', 'd', 'e' and 2 more), and is cancelled if one of these fails or is cancelled."
    )


def test_a_successor_waits():
    """The ticket runs; what it was added again as will wait, once it settles."""
    projection = projection_of(added("t"), CLAIMED, added("a"), added("t", after=("a",)))
    found = kharon.explain(projection, "t", moment(10), max_attempts=None)
    assert found.reasons == (Reason.RUNNING,)
    assert found.sentence == (
        "'t' is running: 'worker-1' has it (attempt 2) until its lease ends at 2026-01-01 00:00:30 UTC. It was added "
        "again meanwhile: it is pending again once it settles, and then blocked by 'a', whatever its outcome."
    )
    assert (found.blocked_by, found.on_failure) == (("a",), "run")
    projection = projection_of(added("t"), CLAIMED, added("t"))
    assert kharon.explain(projection, "t", moment(10)).sentence.endswith(
        "UTC. It was added again meanwhile: it is pending again once it settles."
    )


def test_a_tube_with_as_many_claimed_as_may_be():
    projection = projection_of(added("t"), added("u"), e.TubeLimited("default", 1), CLAIMED)
    found = kharon.explain(projection, "u", moment(10))
    assert found.reasons == (Reason.TUBE_AT_LIMIT,)
    assert found.sentence == "'u' is not running: its tube 'default' is at its limit of 1 claimed at once, and 1 are."
    assert (found.limit, found.tube_claimed, found.reopens_at) == (kharon.Limit(1, None, None), 1, None)
    assert (found.paused_since, found.paused_seq, found.ahead) == (None, None, None)
    projection.apply(e.TubePaused("default"), 5, moment(5))
    found = kharon.explain(projection, "u", moment(10))
    assert found.reasons == (Reason.TUBE_PAUSED,), "a limit is nothing to somebody who may claim nothing"
    assert (found.paused_since, found.paused_seq) == (moment(5), 5)
    projection.apply(e.TubeResumed("default"), 6, moment(6))
    projection.apply(e.TubeLimited("default", 2), 7, moment(7))
    assert kharon.explain(projection, "u", moment(10)).reasons == (Reason.NEXT,)


@pytest.mark.parametrize(("claims", "words"), [(1, "1 claim in 60 s"), (2, "2 claims in 60 s")])
def test_a_tube_that_has_been_claimed_from_often_enough(claims, words):
    """Whether time has been promoted or not: the claims of a limit grow old by what is asked for."""
    limited = e.TubeLimited("default", 5, claims, 60.0)
    claimed = [e.TicketClaimed(id, 1, moment(900), "w") for id in "ab"[:claims]]
    projection = projection_of(added("t"), added("a"), added("b"), limited, *claimed)
    found = kharon.explain(projection, "t", moment(10))
    assert found.reasons == (Reason.TUBE_AT_LIMIT,)
    assert found.sentence == (
        f"'t' is not running: its tube 'default' is at its limit of {words}; the next is possible at 2026-01-01 "
        "00:01:05 UTC, in 55 s."
    )
    assert (found.reopens_at, found.tube_claimed) == (moment(65), claims)
    assert kharon.explain(projection, "t", moment(64.9)).reasons == (Reason.TUBE_AT_LIMIT,)
    found = kharon.explain(projection, "t", moment(65))
    assert (found.reasons, found.reopens_at) == ((Reason.NEXT,), None)
    assert projection.horizon < moment(0)


def test_what_a_tube_does_not_give_is_not_ahead():
    projection = projection_of(*(added(f"{tube}{number}", tube=tube) for tube in "xy" for number in range(3)))
    projection.apply(added("t", 1, tube="t"), 7, moment(7))

    def ahead(now=10, id="t"):
        found = kharon.explain(projection, id, moment(now), tubes=["x", "y", "t"])
        assert found.reason is (Reason.BEHIND if found.ahead else Reason.NEXT)
        return found.ahead

    assert ahead() == 6
    projection.apply(e.TubePaused("x"), 8, moment(8))
    assert ahead() == 3
    projection.apply(e.TubeLimited("y", 2, 2, 60.0), 9, moment(9))
    assert ahead() == 2
    projection.apply(e.TicketClaimed("y0", 1, moment(900), "w"), 10, moment(10))
    assert ahead() == 1
    assert ahead(id="y2") == 1, "of its own tube, all that are before it"
    projection.apply(e.TicketClaimed("y1", 1, moment(900), "w"), 11, moment(11))
    assert ahead() == 0
    projection.apply(e.TubeLimited("y", None, 2, 60.0), 12, moment(12))
    assert (ahead(70), ahead(71)) == (1, 1), "one of the two claims has grown old, and there is one"
    assert ahead(69) == 0


@pytest.mark.parametrize(
    ("event", "reason", "words"),
    [
        (
            e.TicketDone("t", keep=True, expire_at=moment(20)),
            Reason.DONE,
            "done since {}, and is kept until 2026-01-01 00:00:20 UTC.",
        ),
        (
            e.TicketDone("t", keep=True, expire_at=moment(5)),
            Reason.DONE,
            "done since {}, and is removed at the queue's next check, or when it is opened next: it expired at",
        ),
        (e.TicketFailed("t", "no route"), Reason.FAILED, "failed since {}, and is kept for good: no route."),
        (e.TicketCancelled("t", keep=True), Reason.CANCELLED, "cancelled since {}, and is kept for good."),
    ],
)
def test_a_ticket_that_has_ended(event, reason, words):
    found = kharon.explain(projection_of(added("t"), event), "t", moment(10))
    assert found.reasons == (reason,)
    assert f"'t' is not running: it has been {words.format('2026-01-01 00:00:02 UTC')}" in found.sentence
    assert found.terminal_since == moment(2)
    assert found.expires_at == event.expire_at
    assert (found.due_at, found.attempts_left, found.ahead) == (None, None, None)


def test_a_ticket_that_is_not_there():
    found = kharon.explain(projection_of(added("t")), "it's", moment(10))
    assert found.reasons == (Reason.ABSENT,)
    assert found.sentence == (
        'There is no ticket "it\'s": it was never added, or has been removed; its history shows which.'
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


def test_of_its_own_tube_all_are_ahead_whatever_the_limit():
    projection = projection_of(added("a"), added("b"), added("c"), added("t", 1), e.TubeLimited("default", 1))
    found = kharon.explain(projection, "t", moment(10))
    assert (found.reasons, found.ahead) == ((Reason.BEHIND,), 3)


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
