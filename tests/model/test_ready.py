"""The tube to claim from next: only open ones, in one order, at a cost that does not depend on the number of tubes."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import pytest
from msgspec import Raw

from kharon.model import events as e
from kharon.model.projection import Projection
from kharon.model.tubes import Limit, Tube
from kharon.testing import EPOCH


def at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def added(id, tube="x", *, nice=512, due=0.0):
    return e.TicketAdded(id, "x", Raw(b"null"), tube, nice, at(due))


def claimed(id):
    return e.TicketClaimed(id, 1, at(1000), "w")


def projection(*events, watched=("x", "y"), now=0.0) -> Projection:
    made = Projection()
    made.promote(at(now))
    made.first_ready(watched)
    for event in events:
        apply(made, event, now)
    return made


def apply(made: Projection, event: e.Event, now: float) -> None:
    made.promote(at(now))
    made.apply(event, made.seq + 1, at(now))
    made.check()


@pytest.mark.parametrize("watched", [("x",), ("x", "y")])
def test_a_paused_tube_is_passed_over_until_it_is_resumed(watched):
    made = projection(added("a", nice=1), e.TubePaused("x"), added("b", "y"), watched=watched)
    others = len(watched) - 1
    assert made.ready_count(watched) == others
    assert [ticket.id for ticket in [made.first_ready(watched)] if ticket] == ["b"][:others]
    apply(made, e.TubeResumed("x"), 0)
    assert made.first_ready(watched).id == "a"
    assert made.ready_count(watched) == 1 + others


@pytest.mark.parametrize("watched", [("x",), ("x", "y")])
def test_as_many_are_counted_as_could_be_claimed(watched):
    made = projection(*(added(id) for id in "abcd"), watched=watched)
    apply(made, e.TubeLimited("x", 3, 2, 10.0), 0)
    assert made.ready_count(watched) == 2
    assert made.next_instant(expiration=True) is None, "time makes no more room as long as none is claimed"
    apply(made, claimed("a"), 1)
    assert made.ready_count(watched) == 1
    assert made.next_instant(expiration=True) == at(11)
    apply(made, claimed("b"), 2)
    assert made.ready_count(watched) == 0
    assert made.first_ready(watched) is None
    assert made.next_instant(expiration=True) == at(11)
    made.promote(at(11) - timedelta(microseconds=1))
    assert made.first_ready(watched) is None
    made.promote(at(11))
    made.check()
    assert made.ready_count(watched) == 1
    assert made.first_ready(watched).id == "c"
    apply(made, claimed("c"), 12)
    assert made.ready_count(watched) == 0
    assert made.next_instant(expiration=True) == at(1000), "three are claimed, so no time makes room"
    apply(made, e.TicketDone("a"), 13)
    assert made.ready_count(watched) == 1


@pytest.mark.parametrize("watched", [("x",), ("x", "y")])
def test_the_next_instant_is_known_as_soon_as_a_claim_is_made(watched):
    made = projection(e.TubeLimited("x", None, 1, 10.0), added("a"), added("b"), watched=watched)
    made.apply(claimed("a"), 4, at(0))
    assert made.next_instant(expiration=True) == at(10)
    made.apply(e.TubePaused("x"), 5, at(0))
    assert made.next_instant(expiration=True) == at(1000)


@pytest.mark.parametrize("watched", [("x",), ("x", "y")])
def test_a_ticket_that_runs_and_is_moved_into_a_tube_counts_there(watched):
    limited = e.TubeLimited("x", 1, None, None)
    made = projection(limited, added("a", "y"), claimed("a"), added("b"), watched=watched)
    assert made.first_ready(watched).id == "b"
    made.apply(e.TicketUpdated("a", e.Changes(tube="x")), 5, at(0))
    assert made.first_ready(watched) is None
    assert made.ready_count(watched) == 0
    made.apply(e.TicketUpdated("a", e.Changes(tube="y")), 6, at(0))
    assert made.first_ready(watched).id == "b"
    made.check()


@pytest.mark.parametrize("watched", [("x",), ("x", "y")])
def test_time_makes_no_more_room_than_there_are_tickets_for(watched):
    made = projection(e.TubeLimited("x", None, 2, 10.0), added("a"), added("b"), claimed("a"), watched=watched)
    assert made.ready_count(watched) == 1
    assert made.next_instant(expiration=True) == at(1000), "the end of the lease"


def test_a_tube_that_nobody_claims_from_makes_nobody_wait_for_it():
    made = projection(e.TubeLimited("x", None, 1, 10.0), added("a"), added("b"), claimed("a"), e.TicketDone("a"))
    assert made.next_instant(expiration=True) == at(10)
    made.first_ready(("y", "z"))
    assert made.next_instant(expiration=True) is None
    made.first_ready(("y",))
    assert made.next_instant(expiration=True) is None
    made.first_ready(())
    assert made.next_instant(expiration=True) is None
    assert made.tube("x") == Tube("x", None, Limit(None, 1, 10.0), 1, 0, False, at(10))
    made.first_ready(("z", "x"))
    assert made.next_instant(expiration=True) == at(10)
    made.check()


@pytest.mark.parametrize("watched", [("x",), ("x", "y")])
def test_a_backward_step_closes_what_a_later_time_had_opened(watched):
    made = projection(
        e.TubeLimited("x", None, 1, 10.0), added("a", due=-99), added("b", due=-99), claimed("a"), watched=watched
    )
    made.promote(at(20))
    assert made.first_ready(watched).id == "b"
    made.promote(at(5))
    made.check()
    assert made.first_ready(watched) is None, "a record would have the time 5 now"
    assert made.next_instant(expiration=True) == at(10)
    apply(made, e.TicketDeleted("a"), 30)
    made.promote(at(5))
    made.check()
    assert made.first_ready(watched).id == "b", "it would have the time 30, which is that of the last one"


def test_what_is_watched_may_change_at_any_time():
    made = projection(added("a", "x", nice=2), added("b", "y", nice=1), added("c", "z", nice=0))
    for watched, expected in (
        (("x", "y"), "b"),
        (("x", "y", "z"), "c"),
        (("x",), "a"),
        ((), None),
        (["x", "z"], "c"),
        (("x", "x"), "a"),
    ):
        first = made.first_ready(watched)
        made.check()
        assert (first and first.id) == expected
        assert made.ready_count(watched) == len(set(watched))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda made: made._line.clear(),
        lambda made: made._changes.clear(),
        lambda made: made.claimed.clear(),
        lambda made: made.ready["x"].clear(),
        lambda made: made._shares.clear(),
        lambda made: setattr(made, "_count", 7),
    ],
)
def test_check_sees_an_index_that_says_something_else(spoil):
    made = projection(e.TubeLimited("x", None, 1, 10.0), added("a"), added("b"), claimed("a"), added("c", "y"))
    spoil(made._ready)
    with pytest.raises(AssertionError):
        made.check()


# --- the cost ---------------------------------------------------------------------------------------------------------


class CountingNice(int):
    """A nice value that counts how often it is compared: once for each two keys of an index."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        CountingNice.compared += 1
        return int.__eq__(self, other)

    __hash__ = int.__hash__


class CountingName(str):
    """The name of a tube that counts how often it is looked up."""

    __slots__ = ()
    looked_up = 0

    def __hash__(self) -> int:
        CountingName.looked_up += 1
        return str.__hash__(self)

    __eq__ = str.__eq__


def cost_of_a_claim(tubes: int, tickets: int) -> tuple[float, float]:
    """The mean of 500 claims, each with the questions that a store asks around it, and an add and an end.

    Returns:
        How often keys were compared, and how often tubes were looked up.
    """
    names = tuple(CountingName(f"tube-{number}") for number in range(tubes))
    made = Projection()
    made.promote(at(0))
    nices = [CountingNice(number * 7919 % 1000) for number in range(tickets + 500)]
    for number in range(tickets):
        made.apply(added(str(number), names[number * 31 % tubes], nice=nices[number]), made.seq + 1, at(0))
    made.first_ready(names)
    CountingName.looked_up = CountingNice.compared = 0
    for number in range(tickets, tickets + 500):
        made.apply(added(str(number), names[number * 31 % tubes], nice=nices[number]), made.seq + 1, at(0))
        made.next_instant(expiration=True)
        made.ready_count(names)
        first = made.first_ready(names)
        assert first is not None
        made.apply(claimed(first.id), made.seq + 1, at(0))
        made.ready_count(names)
        made.apply(e.TicketDone(first.id), made.seq + 1, at(0))
    return CountingNice.compared / 500, CountingName.looked_up / 500


def test_a_claim_from_a_thousand_tubes_costs_log_n():
    """Not a thousand: that is what a look at each of them would cost."""
    compared, looked_up = cost_of_a_claim(1000, 20_000)
    assert compared <= 3 * 2 * math.log2(20_000)
    assert looked_up <= 60
    assert cost_of_a_claim(1, 20_000)[0] <= 3 * 2 * math.log2(20_000)
    twice, _ = cost_of_a_claim(1000, 40_000)
    assert twice - compared < 10
