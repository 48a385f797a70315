"""Members of groups and blocked tickets: the queries, no name that stays behind, and the cost of an end among many."""

import math
from datetime import datetime

import pytest
from msgspec import Raw
from waiting import Line, add, move

from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.commit import Commit
from kharon.model.groups import Groups
from kharon.model.projection import Projection
from kharon.model.ticket import Ticket
from kharon.testing import EPOCH


def members_of(groups, name):
    return [id for _, id in groups._members.get(name, ())]


def test_new_groups_are_empty():
    groups = Groups()
    assert groups.pending_count("g") == 0
    assert members_of(groups, "g") == groups.behind("a") == groups.finalizers("g", 1) == groups.unblocked("g") == []
    assert not groups.is_member("g", None)
    assert not groups.is_member("g", Ticket("a", "x"))
    assert groups == Groups()
    assert groups != 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(groups)


def test_what_is_asked_of_groups():
    line = Line(add("m", group="g"), add("n", group="g"), add("f", "m", after_group="g"), add("late", group="g"))
    groups = line.projection.groups
    assert groups.pending_count("g") == 3
    assert members_of(groups, "g") == ["m", "n", "late"]
    assert groups.is_member("g", line["m"])
    assert not groups.is_member("h", line["m"])
    assert groups.behind("m") == ["f"]
    assert groups.behind("n") == []
    assert groups.finalizers("g", 2) == ["f"]
    assert groups.finalizers("g", 4) == []
    assert groups.waiters(line["m"]) == ["f", "f"]
    assert groups.waiters(line["f"]) == []
    assert groups.unblocked("g") == []
    assert list(groups.members(line["f"])) == ["m", "n"]
    assert list(groups.members(line["m"])) == []
    line.do(c.Done("m"))
    line.do(c.Done("n"))
    assert list(groups.members(line["f"])) == []
    assert members_of(groups, "g") == ["late"]


def test_who_waits_for_whom_is_part_of_equality():
    one, other = Line(add("m", group="g")).projection.groups, Line(add("m", group="h")).projection.groups
    assert one == Line(add("m", group="g")).projection.groups
    assert one != other


def test_names_of_groups_and_tickets_do_not_stay():
    line = Line(add("m", group="g"), add("n", group="h"), add("f", "m", "n", after_group="g"), c.Claim("n", "w"))
    line.do(add("n", group="i"), add("e", "f"))
    for id in ("m", "n", "n", "f", "e"):
        line.do(c.Done(id))
    groups = line.projection.groups
    assert (groups._members, groups._finalizers, groups._behind) == ({}, {}, {})


def test_the_same_finalizer_for_members_that_end_in_any_order():
    line = Line(*(add(str(number), group="g") for number in range(10)), add("f", after_group="g"))
    for number in (5, 0, 9, 3, 1, 2, 8, 7, 6):
        assert line.do(c.Done(str(number))) == [f"Done {number}"]
    assert line.do(move("4", "other")) == ["Updated 4", "Unblocked f by 4 of g"]


def test_finalizers_of_several_moments():
    line = Line(add("a", group="g"), add("f1", after_group="g"), add("b", group="g"), add("f2", after_group="g"))
    line.do(add("c", group="g"), add("f3", after_group="g"))
    assert line.do(c.Done("c")) == ["Done c"]
    assert line.do(c.Done("a")) == ["Done a", "Unblocked f1 by a of g"]
    assert line.do(c.Done("b")) == ["Done b", "Unblocked f2 by b of g", "Unblocked f3 by b of g"]


# --- what it costs ----------------------------------------------------------------------------------------------------


class Counted(int):
    """A seq that counts how often it is compared with another."""

    compared = 0

    def __eq__(self, other):
        Counted.compared += 1
        return int.__eq__(self, other)

    def __lt__(self, other):
        Counted.compared += 1
        return int.__lt__(self, other)

    __hash__ = int.__hash__


def fan_out(count: int) -> Projection:
    """Members of a group, and one finalizer, with seqs that count."""
    projection = Projection()
    projection.promote(EPOCH)
    for number in range(1, count + 1):
        event = e.TicketAdded(f"m{number}", "x", Raw(b"null"), "default", 512, EPOCH, "g")
        projection.apply(event, Counted(number), EPOCH)
    do(projection, add("f", after_group="g"))
    assert projection.tickets["f"].gate.since == count + 1
    return projection


def do(projection: Projection, *commands: c.Command) -> list[str]:
    commit = Commit(projection, c.Context(EPOCH))
    commit.run(commands)
    commit.keep()
    return [type(effect.event).__name__ for effect in commit.effects]


def ends(projection: Projection, numbers) -> float:
    """End these members; return the comparisons that each took."""
    Counted.compared = 0
    for number in numbers:
        assert do(projection, c.Done(f"m{number}")) == ["TicketDone"]
    return Counted.compared / len(numbers)


def test_an_end_in_a_fan_out_of_a_hundred_thousand_is_logarithmic():
    """Counted, not timed. A thousand members and a hundred thousand differ by less than 7 doublings' worth each way."""
    small, large = fan_out(1000), fan_out(100_000)
    of_few = ends(small, range(2, 1000, 10))
    of_many = ends(large, range(2, 100_000, 1000))
    assert of_many < 20 * math.log2(100_000)
    assert of_many - of_few < 10 * math.log2(100)
    for number in range(1, 1001):
        if f"m{number}" in small.tickets:
            last = do(small, c.Done(f"m{number}"))
    assert last == ["TicketDone", "TicketUnblocked"]


def test_asking_for_the_count_compares_nothing():
    projection = fan_out(5000)
    Counted.compared = 0
    assert projection.groups.pending_count("g") == 5000
    assert Counted.compared == 0


def test_a_finalizer_of_many_holds_no_names_and_adding_it_compares_with_few():
    projection = fan_out(20_000)
    Counted.compared = 0
    do(projection, add("f2", after_group="g"))
    assert Counted.compared < 100
    assert projection.tickets["f2"].blocked_by == ()
    assert isinstance(projection.at, datetime)
