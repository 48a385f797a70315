"""Pauses and limits of tubes: the rules, the room that a limit leaves, the state that is kept, and undoing it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec import Raw

from kharon.errors import KharonError, TicketNotFound
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.commit import Commit
from kharon.model.projection import Projection
from kharon.model.tubes import MAX_CLAIMS, Tubes, TubeState, decide_tube, room
from kharon.testing import EPOCH

UNTOLD = TubeState("t")
PAUSED = TubeState("t", EPOCH, paused_seq=1)
LIMITED = TubeState("t", None, 2, 3, 10.0)
TUBES = ("t", "u")


def at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def added(id, tube="t"):
    return e.TicketAdded(id, "x", Raw(b"null"), tube, 512, at(0))


def claimed(id):
    return e.TicketClaimed(id, 1, at(1000), "w")


def projection(*events, seconds=1.0) -> Projection:
    """Apply these so many seconds apart, promoted as a store does it."""
    made = Projection()
    for seq, event in enumerate(events, 1):
        made.promote(at(seq * seconds))
        made.apply(event, seq, at(seq * seconds))
        made.check()
    return made


# --- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "command", "events"),
    [
        (None, c.Pause("t"), (e.TubePaused("t"),)),
        (LIMITED, c.Pause("t"), (e.TubePaused("t"),)),
        (PAUSED, c.Pause("t"), ()),
        (None, c.Resume("t"), ()),
        (LIMITED, c.Resume("t"), ()),
        (PAUSED, c.Resume("t"), (e.TubeResumed("t"),)),
        (None, c.Limit("t"), ()),
        (PAUSED, c.Limit("t"), ()),
        (None, c.Limit("t", 1), (e.TubeLimited("t", 1),)),
        (LIMITED, c.Limit("t", 2, 3, 10.0), ()),
        (LIMITED, c.Limit("t", 2, 3, 11.0), (e.TubeLimited("t", 2, 3, 11.0),)),
        (LIMITED, c.Limit("t", 2, 4, 10.0), (e.TubeLimited("t", 2, 4, 10.0),)),
        (LIMITED, c.Limit("t", None, 3, 10.0), (e.TubeLimited("t", None, 3, 10.0),)),
        (LIMITED, c.Limit("t"), (e.TubeLimited("t"),)),
    ],
)
def test_only_what_is_not_so_already_is_an_event(state, command, events):
    assert decide_tube(state, command) == events


@pytest.mark.parametrize(
    ("state", "claimed", "times", "now", "expected"),
    [
        (PAUSED, 0, (), 0, (0, None)),
        (TubeState("t", EPOCH, 2, 3, 10.0), 0, (0,), 5, (0, None)),
        (TubeState("t", None, 2), 0, (), 0, (2, None)),
        (TubeState("t", None, 2), 2, (), 0, (0, None)),
        (TubeState("t", None, 2), 5, (), 0, (0, None)),  # claimed before there was the limit
        (TubeState("t", None, None, 3, 10.0), 9, (), 0, (3, None)),
        (TubeState("t", None, None, 3, 10.0), 9, (0, 1), 5, (1, 10)),
        (TubeState("t", None, None, 3, 10.0), 0, (0, 1, 2), 5, (0, 10)),
        (TubeState("t", None, None, 3, 10.0), 0, (0, 1, 2), 9.999999, (0, 10)),
        (TubeState("t", None, None, 3, 10.0), 0, (0, 1, 2), 10, (1, 11)),
        (TubeState("t", None, None, 3, 10.0), 0, (0, 0, 2), 10, (2, 12)),
        (TubeState("t", None, None, 3, 10.0), 0, (0, 1, 2), 12, (3, None)),
        (TubeState("t", None, None, 3, 10.0), 0, (0, 1, 2), -100, (0, 10)),  # the clock was set back
        (LIMITED, 1, (0, 1), 5, (1, None)),  # neither would be enough without the other
        (LIMITED, 0, (0, 1), 5, (1, 10)),
        (LIMITED, 2, (0, 1, 2), 5, (0, None)),
    ],
)
def test_the_room_that_is_left(state, claimed, times, now, expected):
    free, instant = room(state, claimed, [at(time) for time in times], at(now))
    assert (free, None if instant is None else (instant - EPOCH).total_seconds()) == expected


def test_there_is_room_at_either_end_of_time():
    first = datetime(1, 1, 1, tzinfo=UTC)
    last = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    century = TubeState("t", None, None, 1, 3e9)
    assert room(century, 0, [at(0)], first) == (0, at(3e9))
    assert room(century, 0, [last], last) == (1, None), "a time that never comes is no reason to wait for ever"


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_tube_that_is_as_any_other_is_forgotten():
    made = projection(e.TubePaused("t"), e.TubeLimited("t", 1), e.TubeResumed("t"), e.TubeLimited("t"))
    assert made.others() == []
    assert made.tubes == Tubes()
    assert made.tubes.get("t") is None


def test_what_was_told_last_holds():
    made = projection(e.TubePaused("t"), e.TubeLimited("t", 1, 2, 3.5), e.TubeLimited("t", 4), e.TubePaused("u"))
    assert made.others() == [TubeState("t", at(1), 4, paused_seq=1), TubeState("u", at(4), paused_seq=4)]
    assert (made.tube("u").paused_since, made.tube("u").paused_seq) == (at(4), 4)
    assert made.tubes.names() == ["t", "u"]
    made.apply(e.TubeResumed("t"), 5, at(5))
    assert made.others()[0] == TubeState("t", None, 4)
    assert made.tube("t").paused_seq is None


def test_of_a_limit_the_newest_claims_are_kept_and_no_more():
    events = [e.TubeLimited("t", None, 2, 60.0)]
    events += [event for id in "abcd" for event in (added(id), claimed(id))]
    made = projection(*events)
    assert made.others() == [TubeState("t", None, None, 2, 60.0, (at(7), at(9)))]
    made.apply(e.TubeLimited("t", None, 5, 60.0), 10, at(10))
    assert made.others()[0].times == (at(7), at(9)), "a longer one begins with what there is"
    made.apply(e.TubeLimited("t", None, 1, 60.0), 11, at(11))
    assert made.others()[0].times == (at(9),)
    made.apply(e.TubeLimited("t", 7), 12, at(12))
    made.apply(e.TubeLimited("t", None, 2, 60.0), 13, at(13))
    assert made.others()[0].times == (), "and one after none with nothing"


def test_a_claim_counts_in_the_tube_that_it_is_made_from():
    made = projection(
        e.TubeLimited("t", None, 9, 60.0),
        e.TubeLimited("u", None, 9, 60.0),
        added("a", "u"),
        e.TicketUpdated("a", e.Changes(tube="t")),
        claimed("a"),
        e.TicketUpdated("a", e.Changes(tube="u")),
        e.TicketReleased("a"),
        claimed("a"),
    )
    assert [value.times for value in made.others()] == [(at(5),), (at(8),)]


@pytest.mark.parametrize(
    "event",
    [
        e.TubeLimited("t", 0),
        e.TubeLimited("t", None, 0, 1.0),
        e.TubeLimited("t", None, MAX_CLAIMS + 1, 1.0),
        e.TubeLimited("t", None, 1),
        e.TubeLimited("t", 1, None, 1.0),
        e.TubeLimited("t", None, 1, 0.0),
        e.TubeLimited("t", None, 1, 1e300),
    ],
)
def test_a_record_of_a_limit_that_cannot_be_is_refused(event):
    made = projection(e.TubePaused("t"))
    before = made.others()
    with pytest.raises(KharonError, match="record 2: tube 't'"):
        made.apply(event, 2, at(2))
    assert (made.others(), made.seq) == (before, 1)


def test_a_record_of_half_a_limit_is_none():
    made = projection(e.TubeLimited("t", None, None, 1.0))
    assert made.others() == []


def test_two_are_equal_if_they_were_told_the_same():
    one, other = Tubes(), Tubes()
    assert one == other
    assert one != "tubes"
    one.apply(e.TubeLimited("t", None, 1, 1.0), 1, at(1))
    assert one != other
    other.apply(e.TubeLimited("t", None, 1, 1.0), 2, at(9))
    assert one == other
    one.claim("t", at(3))
    assert one != other
    assert projection(e.TubePaused("t")) != projection(e.TubePaused("u"))


def test_check_sees_what_cannot_be():
    made = projection(e.TubeLimited("t", None, 1, 1.0))
    made.tubes.times["t"].append(at(99))
    with pytest.raises(AssertionError, match="later than the last record"):
        made.check()
    made.tubes.times["t"].clear()
    made.tubes.times["u"] = []
    with pytest.raises(AssertionError, match="have times"):
        made.check()
    with pytest.raises(AssertionError, match="before the first record"):
        made.tubes.check(0, None)


# --- taking back ------------------------------------------------------------------------------------------------------


def test_whatever_was_told_or_claimed_can_be_taken_back():
    made = projection(
        e.TubeLimited("t", None, 2, 60.0),
        *(event for id in "abc" for event in (added(id), claimed(id))),
        e.TubePaused("u"),
    )
    history = []
    for event in (
        added("d"),
        claimed("d"),
        e.TubePaused("t"),
        e.TicketReleased("d"),
        e.TubeResumed("t"),
        claimed("d"),
        e.TubeLimited("t", 5, 1, 5.0),
        e.TubeLimited("t"),
        e.TubeLimited("t", None, 3, 3.0),
        e.TicketDone("d"),
        e.TubeResumed("u"),
    ):
        before = (made.others(), dict(made.tickets), made.tube("t"), made.tube("u"))
        history.append((before, made.apply(event, made.seq + 1, at(made.seq + 1))))
        made.check()
    for before, effect in reversed(history):
        made.undo(effect)
        made.check()
        assert (made.others(), dict(made.tickets), made.tube("t"), made.tube("u")) == before
    assert made.at == at(8)


def test_the_first_claims_of_a_limit_can_be_taken_back():
    made = projection(e.TubeLimited("t", None, 2, 60.0), added("a"))
    effects = [made.apply(claimed("a"), 3, at(3)), made.apply(e.TicketReleased("a"), 4, at(4))]
    assert made.others()[0].times == (at(3),)
    for effect in reversed(effects):
        made.undo(effect)
    assert made.others()[0].times == ()


def test_a_commit_tells_tubes_too_and_all_of_it_or_nothing():
    made = projection(added("a"))
    commit = Commit(made, c.Context(at(5)))
    with pytest.raises(TicketNotFound, match="command 3 of 3, done of ticket 'none', is refused, so none is"):
        commit.run([c.Pause("t"), c.Limit("u", 1), c.Done("none")])
    assert [type(effect.event) for effect in commit.effects] == [e.TubePaused, e.TubeLimited]
    commit.undo()
    made.check()
    assert made.others() == []
    commit = Commit(made, c.Context(at(5)))
    commit.run([c.Pause("t"), c.Pause("t"), c.Done("a")])
    commit.keep()
    made.check()
    assert [type(effect.event) for effect in commit.effects] == [e.TubePaused, e.TicketDone]
    assert made.others() == [TubeState("t", at(5), paused_seq=2)]
