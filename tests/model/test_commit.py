"""What the end of a ticket means for those that it blocks, rule by rule; and a commit is all or nothing."""

from datetime import timedelta

import pytest
from msgspec import Raw
from sortedcontainers import SortedList
from waiting import Line, add, move

from kharon.errors import (
    FinalizerInGroup,
    InvalidTicket,
    InvalidTransition,
    KharonError,
    LeaseLost,
    TicketExists,
    TicketNotFound,
)
from kharon.model import commands as c
from kharon.model.delays import FixedDelay
from kharon.model.events import Changes
from kharon.model.ticket import Gate, Status
from kharon.testing import EPOCH

CLAIM = c.Claim("m", "w")


def lapse(max_attempts):
    return c.Lapse("m", error_reason="late", backoff=FixedDelay(1), max_attempts=max_attempts)


# --- whatever ends a ticket unblocks ----------------------------------------------------------------------------------

ENDS = {
    "ack": ([], c.Done("m"), "Done m"),
    "done": ([], c.Done("m", keep=True, result=b"1"), "Done m"),
    "ack of a claim": ([CLAIM], c.Done("m"), "Done m"),
    "done of a claim": ([CLAIM], c.Done("m", keep=True), "Done m"),
    "fail": ([], c.Fail("m"), "Failed m"),
    "fail of a claim": ([CLAIM], c.Fail("m", error_reason="no", expire_in=1.0), "Failed m"),
    "cancel": ([], c.Cancel("m"), "Cancelled m"),
    "cancel, kept": ([], c.Cancel("m", keep=True), "Cancelled m"),
    "delete": ([], c.Delete("m"), "Deleted m"),
    "delete of a claimed one": ([CLAIM], c.Delete("m"), "Deleted m"),
    "retry with no attempts left": ([CLAIM], c.Retry("m", max_attempts=1), "Failed m"),
}


@pytest.mark.parametrize("how", ENDS)
def test_whatever_ends_a_member_unblocks_in_the_same_commit(how):
    before, end, event = ENDS[how]
    line = Line(add("m", group="g"), add("f", after_group="g"), *before)
    assert line.blocked("f") == [True]
    assert line.do(end) == [event, "Unblocked f by m of g"]
    assert line.blocked("f") == [False]
    assert line.count("g") == 0
    assert "f" in line.ready()


@pytest.mark.parametrize("how", ENDS)
def test_whatever_ends_a_ticket_unblocks_those_after_it(how):
    before, end, event = ENDS[how]
    line = Line(add("m"), add("f", "m"), *before)
    assert line.blocked("f") == [True]
    assert line.do(end) == [event, "Unblocked f by m"]
    assert (line["f"].blocked_by, line["f"].after) == ((), ("m",))
    assert "f" in line.ready()


@pytest.mark.parametrize("waits", [{"after_group": "g"}, {}], ids=["for a group", "for an id"])
def test_a_lapse_with_no_attempts_left_ends_and_one_with_some_does_not(waits):
    after = () if waits else ("m",)
    line = Line(add("m", group="g"), add("f", *after, **waits), CLAIM)
    assert line.do(lapse(2)) == ["Lapsed m"]
    assert line.blocked("f") == [True]
    line.now += timedelta(seconds=9)
    line.do(CLAIM)
    *_, last = line.do(lapse(2))
    assert last.startswith("Unblocked f by m")


GOES_ON = {
    "claim": ([], CLAIM),
    "retry": ([CLAIM], c.Retry("m")),
    "release": ([CLAIM], c.Release("m")),
    "extend": ([CLAIM], c.Extend("m", seconds=99)),
    "update": ([], c.Update("m", Changes(nice=1))),
    "adding again": ([], add("m", group="g")),
    "adding again while it runs": ([CLAIM], add("m", group="g")),
}


@pytest.mark.parametrize("how", GOES_ON)
def test_what_does_not_end_a_ticket_unblocks_nothing(how):
    before, command = GOES_ON[how]
    line = Line(add("m", group="g"), add("f", after_group="g"), add("after", "m"), *before)
    assert len(line.do(command)) == 1
    assert line.blocked("f", "after") == [True, True]


@pytest.mark.parametrize("command", [c.Done("m"), c.Fail("m"), c.Cancel("m", claim=4), c.Retry("m"), c.Release("m")])
def test_the_end_of_a_claim_with_a_successor_is_no_end(command):
    line = Line(add("m", group="g"), add("f", after_group="g", on_failure="cancel"), add("after", "m"), CLAIM)
    line.do(add("m", group="g"))
    assert len(line.do(command)) == 1
    assert line.blocked("f", "after") == [True, True]
    assert line.do(c.Done("m")) == ["Done m", "Unblocked after by m", "Unblocked f by m of g"]


def test_a_cancel_by_id_ends_the_successor_too_and_so_unblocks():
    line = Line(add("m", group="g"), add("f", after_group="g", on_failure="cancel"), add("after", "m"), CLAIM)
    line.do(add("m", group="g"))
    assert line.do(c.Cancel("m")) == ["Cancelled m", "Unblocked after by m", "Cancelled f"]


def test_the_end_of_what_was_kept_unblocks_nothing_more():
    """Expiry, deletion, restart and another end: nobody waits for what had ended, and nobody begins to."""
    line = Line(add("m", group="g"), add("f", "m", after_group="g"), c.Done("m", keep=True, expire_in=0.0))
    line.now += timedelta(seconds=1)
    assert line.do(c.Expire("m")) == ["Expired m"]
    line.do(add("m", group="g"), c.Fail("m"))
    assert line.do(c.Delete("m")) == ["Deleted m"]
    assert line.blocked("f") == [False]


# --- leaving a group --------------------------------------------------------------------------------------------------

LEAVES = {
    "replacement": ([], add("m", group="h"), "Added m"),
    "replacement by one in no group": ([], add("m"), "Added m"),
    "update": ([], move("m", "h"), "Updated m"),
    "update to no group": ([], move("m", None), "Updated m"),
    "update while it runs": ([CLAIM], move("m", "h"), "Updated m"),
    "retry": ([CLAIM], c.Retry("m", changes=Changes(group="h")), "Retried m"),
    "the end of a claim with a successor in another": ([CLAIM, add("m", group="h")], c.Fail("m"), "Failed m"),
}


@pytest.mark.parametrize("how", LEAVES)
def test_leaving_a_group_unblocks_and_is_no_failure(how):
    before, command, event = LEAVES[how]
    line = Line(add("m", group="g"), add("f", after_group="g", on_failure="cancel"), add("after", "m"), *before)
    assert line.do(command) == [event, "Unblocked f by m of g"]
    assert line.blocked("f", "after") == [False, True]
    assert line.count("g") == 0


def test_a_running_ticket_that_was_added_again_elsewhere_counts_in_both_groups():
    line = Line(add("m", group="g"), add("f", after_group="g"), CLAIM, add("m", group="h"), add("f2", after_group="h"))
    assert (line.count("g"), line.count("h")) == (1, 1)
    assert line.blocked("f", "f2") == [True, True]
    assert line.do(c.Done("m")) == ["Done m", "Unblocked f by m of g"]
    assert (line.count("g"), line.count("h")) == (0, 1)
    assert line.do(c.Done("m")) == ["Done m", "Unblocked f2 by m of h"]


def test_the_group_of_a_successor_that_is_replaced_is_left():
    line = Line(add("m", group="g"), CLAIM, add("m", group="h"), add("f", after_group="h"))
    assert line.do(add("m", group="i")) == ["Added m", "Unblocked f by m of h"]
    assert (line.count("g"), line.count("h"), line.count("i")) == (1, 0, 1)
    assert line.do(move("m", "g")) == ["Updated m"]
    assert (line.count("g"), line.count("i")) == (1, 0)


def test_the_group_of_a_successor_is_left_though_what_runs_is_in_none():
    line = Line(add("m"), CLAIM, add("m", group="h"), add("f", after_group="h"))
    assert line.do(add("m")) == ["Added m", "Unblocked f by m of h"]


def test_one_that_leaves_and_comes_back_is_late():
    line = Line(add("m", group="g"), add("n", group="g"), add("f", after_group="g"), move("m", None), move("m", "g"))
    assert line.waits_for("f") == ["n"]
    assert line.do(c.Done("n")) == ["Done n", "Unblocked f by n of g"]


# --- who is waited for ------------------------------------------------------------------------------------------------


def test_a_finalizer_waits_for_all_members_of_its_moment():
    line = Line(add("a", group="g"), add("b", group="g"), add("c", group="g"), add("f", after_group="g"))
    assert line.waits_for("f") == ["a", "b", "c"]
    assert line.do(c.Done("b")) == ["Done b"]
    assert line.do(c.Fail("a")) == ["Failed a"]
    assert line.do(c.Delete("c")) == ["Deleted c", "Unblocked f by c of g"]


def test_late_members_are_not_waited_for():
    line = Line(
        add("m", group="g"), add("f", after_group="g"), add("late", group="g"), add("other"), move("other", "g")
    )
    assert line.do(c.Done("m")) == ["Done m", "Unblocked f by m of g"]
    assert line.count("g") == 2


def test_late_members_whose_end_comes_first_unblock_nothing():
    line = Line(add("m", group="g"), add("f", after_group="g"), add("late", group="g"))
    assert line.do(c.Fail("late")) == ["Failed late"]
    assert line.waits_for("f") == ["m"]


def test_a_failed_late_member_does_not_cancel():
    line = Line(add("m", group="g"), add("f", after_group="g", on_failure="cancel"), add("late", group="g"))
    assert line.do(c.Fail("late")) == ["Failed late"]
    assert line.do(c.Done("m")) == ["Done m", "Unblocked f by m of g"]


def test_members_that_had_ended_are_not_waited_for():
    line = Line(add("m", group="g"), add("n", group="g"), c.Done("n", keep=True), add("f", after_group="g"))
    assert line.waits_for("f") == ["m"]


def test_a_member_that_is_added_again_is_waited_for_still():
    line = Line(add("m", group="g"), add("f", after_group="g"), add("m", group="g"))
    assert line.waits_for("f") == ["m"]


def test_an_ended_member_that_is_added_again_is_late():
    line = Line(add("m", group="g"), add("n", group="g"), add("f", after_group="g"), c.Done("n", keep=True))
    line.do(add("n", group="g"))
    assert line.waits_for("f") == ["m"]


def test_a_restarted_member_is_late():
    line = Line(add("m", group="g"), add("n", group="g"), add("f", "n", after_group="g"), c.Fail("n"))
    assert line.do(c.Restart("n")) == ["Restarted n"]
    assert line.count("g") == 2
    assert line.do(c.Done("m")) == ["Done m", "Unblocked f by m of g"]


@pytest.mark.parametrize("finalizer", [add("f", after_group="g"), add("f", "nobody"), add("f", "ended", "nobody")])
def test_what_is_empty_ended_or_does_not_exist_blocks_nothing(finalizer):
    line = Line(add("ended", group="g"), c.Fail("ended"), finalizer)
    assert line.blocked("f") == [False]
    assert "f" in line.ready()
    assert (line["f"].after, line["f"].after_group) == (finalizer.after, finalizer.after_group)


def test_a_blocked_member_is_a_member():
    line = Line(add("m"), add("blocked", "m", group="g"), add("f", after_group="g"))
    assert line.do(c.Done("m")) == ["Done m", "Unblocked blocked by m"]
    assert line.do(c.Done("blocked")) == ["Done blocked", "Unblocked f by blocked of g"]


def test_several_finalizers_are_unblocked_in_the_order_in_which_they_came():
    line = Line(add("m", group="g"), add("z", after_group="g"), add("n", group="g"), add("a", after_group="g"))
    line.do(add("y", "m"), add("b", "m"))
    assert line.do(c.Done("m")) == ["Done m", "Unblocked y by m", "Unblocked b by m", "Unblocked z by m of g"]
    assert line.do(c.Done("n")) == ["Done n", "Unblocked a by n of g"]


def test_ids_and_a_group_are_waited_for_together():
    line = Line(add("m", group="g"), add("a"), add("b"), add("f", "a", "b", after_group="g"))
    assert line.waits_for("f") == ["a", "b", "m"]
    line.do(c.Done("a"))
    line.do(c.Done("m"))
    assert line.blocked("f") == [True]
    line.do(c.Done("b"))
    assert line.blocked("f") == [False]
    both = Line(add("m", group="g"), add("f", "m", after_group="g"))
    assert both.do(c.Done("m")) == ["Done m", "Unblocked f by m", "Unblocked f by m of g"]


def test_a_blocked_ticket_can_be_ended_by_hand_and_is_waited_for_no_more():
    line = Line(add("m", group="g"), add("f", "m", after_group="g"), add("after", "f"))
    assert line.do(c.Done("f", keep=True)) == ["Done f", "Unblocked after by f"]
    assert (line["f"].blocked_by, line["f"].blocked, line["f"].after_group) == ((), False, "g")
    assert line.do(c.Done("m")) == ["Done m"]


def test_a_restarted_finalizer_waits_for_nothing():
    line = Line(add("m", group="g"), add("f", "m", after_group="g"), c.Cancel("f", keep=True))
    assert line.do(c.Restart("f")) == ["Restarted f"]
    assert line.blocked("f") == [False]
    assert line.do(c.Done("m")) == ["Done m"]


# --- delay and blocking are independent gates -------------------------------------------------------------------------


def test_a_delay_runs_while_the_ticket_is_blocked():
    line = Line(add("m", group="g"), add("f", after_group="g", delay=10))
    runat = line["f"].runat
    line.now += timedelta(seconds=20)
    assert line.ready() == ["m"]
    line.do(c.Done("m"))
    assert line.ready() == ["f"]
    assert line["f"].runat == runat


def test_an_unblocked_ticket_still_waits_for_its_delay():
    line = Line(add("m", group="g"), add("f", after_group="g", delay=10), c.Done("m"))
    assert line.blocked("f") == [False]
    assert line.ready() == []
    line.now += timedelta(seconds=10)
    assert line.ready() == ["f"]


def test_a_blocked_ticket_is_not_claimed():
    line = Line(add("m", group="g"), add("a"), add("f", "a", after_group="g"))
    assert "it is blocked by a, group g" in line.refused(c.Claim("f", "w"), by=InvalidTransition)
    line.do(c.Done("a"))
    assert "it is blocked by group g" in line.refused(c.Claim("f", "w"), by=InvalidTransition)


# --- adding again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [{"after_group": "g"}, {}], ids=["for a group", "for ids"])
def test_adding_the_same_finalizer_again_changes_nothing(waits):
    """Neither what came since nor what ended since is waited for because of it."""
    again = add("f", *(() if waits else ("m", "n", "later")), **waits)
    line = Line(add("m", group="g"), add("n", group="g"), again, add("later", group="g"), c.Done("m"))
    gate = line["f"].gate
    line.do(add("m", group="g"))
    line.do(again)
    assert line["f"].gate == gate
    assert line.waits_for("f") == ["n"]
    line.do(c.Done("n"))
    line.do(again)
    assert line.blocked("f") == [False]


def test_adding_a_finalizer_again_for_something_else_waits_for_that():
    line = Line(add("m", group="g"), add("n", group="h"), add("a"), add("f", after_group="g"))
    line.do(add("f", "a", after_group="h"))
    assert line.waits_for("f") == ["a", "n"]
    line.do(add("f"))
    assert (line["f"].gate, line.blocked("f")) == (None, [False])


def test_one_id_more_is_waited_for_and_the_old_ones_as_before():
    line = Line(add("a"), add("b"), add("f", "a", "gone"), add("gone"))
    line.do(add("f", "a", "gone", "b"))
    assert line.waits_for("f") == ["a", "b"]


def test_a_finalizer_that_ended_and_is_added_again_begins_anew():
    line = Line(
        add("m", group="g"), add("f", after_group="g"), c.Done("m"), c.Done("f", keep=True), add("n", group="g")
    )
    line.do(add("f", after_group="g"))
    assert line.waits_for("f") == ["n"]


def test_a_running_finalizer_that_is_added_again_begins_anew_when_it_settles():
    line = Line(add("a", group="g"), add("f", "a", after_group="g"), c.Done("a"), c.Claim("f", "w"))
    line.do(add("a", group="g"))
    line.do(add("f", "a", after_group="g"))
    assert line.waits_for("f") == ["a", "a"]
    assert (line["f"].claim is not None, line["f"].blocked) == (True, False)
    line.do(add("f", "a", after_group="g"))
    assert line.do(c.Done("f")) == ["Done f"]
    assert line.blocked("f") == [True]
    assert line.do(c.Done("a")) == ["Done a", "Unblocked f by a", "Unblocked f by a of g"]


def test_a_successor_is_unblocked_before_it_is_there():
    line = Line(add("m"), CLAIM, add("a", group="g"), add("m", "a", after_group="g"))
    assert line.do(c.Done("a")) == ["Done a", "Unblocked m by a", "Unblocked m by a of g"]
    assert line["m"].claim is not None
    assert line["m"].successor.blocked is False
    line.do(c.Done("m"))
    assert line.ready() == ["m"]


@pytest.mark.parametrize("on_conflict", ["skip", "raise"])
def test_what_does_not_replace_asks_nothing_of_what_there_is_to_wait_for(on_conflict):
    line = Line(add("m", group="g"), add("f", "m", after_group="g"))
    again = add("m", "f", on_conflict=on_conflict)  # replacing, it would be a cycle
    if on_conflict == "skip":
        assert line.do(again) == []
    else:
        line.refused(again, by=TicketExists)
    assert line["m"].gate is None
    assert line.do(add("new", "m", on_conflict=on_conflict)) == ["Added new"]
    assert line.blocked("new") == [True]


# --- its own group ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [[], [add("m", group="g")]], ids=["empty", "with a member"])
def test_a_finalizer_in_its_own_group_is_refused(members):
    line = Line(*members)
    message = line.refused(add("f", group="g", after_group="g"), by=FinalizerInGroup)
    assert "'f'" in message
    assert "'g'" in message


@pytest.mark.parametrize(
    "command",
    [move("f", "g"), c.Retry("f", changes=Changes(group="g"))],
    ids=["update", "retry"],
)
def test_a_finalizer_is_not_moved_into_its_own_group(command):
    line = Line(add("m", group="g"), add("f", after_group="g"))
    assert "'f'" in line.refused(command, by=FinalizerInGroup)
    assert line.do(move("f", "h")) == ["Updated f"]
    assert line.do(c.Update("f", Changes(nice=1))) == ["Updated f"]
    line.do(c.Done("m"))
    assert len(line.do(command)) == 1  # it waits no more
    assert line["f"].group == "g"


def test_a_running_ticket_whose_successor_waits_for_a_group_is_not_moved_into_it():
    line = Line(add("n", group="g"), add("m"), CLAIM, add("m", after_group="g"))
    line.refused(move("m", "g"), by=FinalizerInGroup)
    line.refused(c.Retry("m", changes=Changes(group="g")), by=FinalizerInGroup)


def test_that_a_running_ticket_stands_in_its_own_way_is_no_cycle():
    """It waits for its group, in which it is itself, and now for the group that it was to join after that."""
    line = Line(add("n", group="g"), add("m", group="g"), CLAIM, add("m", group="h", after_group="g"))
    line.do(add("m", after_group="h"))
    assert line["m"].successor is not None
    assert not line["m"].successor.blocked


def test_a_member_that_is_added_again_as_the_finalizer_of_its_group_does_not_wait_for_itself():
    line = Line(add("m", group="g"), add("m", after_group="g"))
    assert line.blocked("m") == [False]
    line = Line(add("m", group="g"), add("n", group="g"), add("m", after_group="g"))
    assert line.waits_for("m") == ["n"]


def test_a_running_member_whose_successor_is_the_finalizer_waits_for_the_others():
    line = Line(add("m", group="g"), CLAIM, add("m", after_group="g"))
    assert line["m"].successor.blocked is False
    line = Line(add("m", group="g"), add("n", group="g"), CLAIM, add("m", after_group="g"))
    assert line.do(c.Done("n")) == ["Done n"]  # its own run is of the group still
    assert line.do(c.Done("m")) == ["Done m", "Unblocked m by m of g"]
    assert line.ready() == ["m"]


# --- cycles -----------------------------------------------------------------------------------------------------------


def test_a_ticket_is_not_added_after_itself():
    line = Line()
    assert "'a' cannot be added after itself" in line.refused(add("a", "b", "a"), by=InvalidTicket)
    line.do(add("a"))
    line.refused(add("a", "a", on_conflict="skip"), by=InvalidTicket)


def test_a_cycle_of_ids_is_refused_and_the_whole_of_it_told():
    line = Line(add("a"), add("b", "a"), add("c", "b"), add("d", "c"))
    message = line.refused(add("a", "d"), by=InvalidTicket)
    assert message == (
        "ticket 'a' cannot be added after 'd': "
        "that one is blocked by 'c', which is blocked by 'b', which is blocked by 'a'"
    )
    assert "which" not in line.refused(add("a", "b"), by=InvalidTicket)


def test_a_cycle_through_a_group_is_refused():
    line = Line(add("m", group="g"), add("f", after_group="g"))
    assert "'m' cannot be added after 'f'" in line.refused(add("m", "f", group="g"), by=InvalidTicket)
    line.do(add("h1", group="h"), add("f", after_group="g", group="h"))
    assert line.waits_for("f") == ["m"]
    assert "after 'f'" in line.refused(add("m", group="g", after_group="h"), by=InvalidTicket)


def test_what_would_be_a_cycle_is_none_for_one_that_has_left_or_ended():
    line = Line(add("m", group="g"), add("f", after_group="g"), move("m", None))
    assert line.do(add("m", "f")) == ["Added m"]
    line = Line(add("m"), add("f", "m"), c.Done("m", keep=True))
    assert line.do(add("m", "f")) == ["Added m"]
    assert line.waits_for("m") == ["f"]


def test_a_late_member_may_wait_for_the_finalizer():
    line = Line(add("m", group="g"), add("f", after_group="g"), add("late", "f", group="g"))
    line.do(c.Done("m"))
    assert line.do(c.Done("f")) == ["Done f", "Unblocked late by f"]


def test_a_cycle_through_successors_is_refused():
    line = Line(add("a"), c.Claim("a", "w"), add("b"), add("a", "b"))
    assert "that one is blocked by 'b'" in line.refused(add("b", "a"), by=InvalidTicket)
    line.do(c.Claim("b", "w"))
    line.refused(add("b", "a"), by=InvalidTicket)
    line.do(c.Done("b"))
    assert line.do(add("b", "a")) == ["Added b"]


def test_of_many_that_wait_each_is_looked_at_once():
    line = Line(add("a"), add("b", "a"), add("c", "a", "b"), add("d", "b", "c"), add("free"))
    assert line.do(add("a", "free")) == ["Added a"]
    assert "cannot be added after 'd'" in line.refused(add("a", "free", "d"), by=InvalidTicket)


# --- on_failure -------------------------------------------------------------------------------------------------------

FAILS = {
    "fail": c.Fail("m"),
    "cancel": c.Cancel("m"),
    "cancel, kept": c.Cancel("m", keep=True),
    "no attempts left": c.Retry("m", max_attempts=0),
}


@pytest.mark.parametrize("waits", [{"after_group": "g"}, {}], ids=["for a group", "for an id"])
@pytest.mark.parametrize("how", FAILS)
def test_cancel_cancels_at_once_and_keeps(how, waits):
    after = () if waits else ("m",)
    line = Line(add("m", group="g"), add("n", group="g"), add("f", *after, "n", on_failure="cancel", **waits))
    assert line.do(FAILS[how])[1:] == ["Cancelled f"]
    ticket = line["f"]
    assert (ticket.status, ticket.blocked, ticket.blocked_by) == (Status.CANCELLED, False, ())
    assert ticket.error_reason == "ticket 'm', which it waited for, failed or was cancelled"
    assert line.do(c.Done("n")) == ["Done n"]


@pytest.mark.parametrize("end", [c.Done("m"), c.Done("m", keep=True), c.Delete("m"), move("m", None)])
def test_what_is_no_failure_cancels_nothing(end):
    line = Line(add("m", group="g"), add("f", after_group="g", on_failure="cancel"))
    assert line.do(end)[1:] == ["Unblocked f by m of g"]


def test_run_runs_whatever_failed():
    line = Line(add("m", group="g"), add("f", "m", after_group="g"))
    assert line.do(c.Fail("m")) == ["Failed m", "Unblocked f by m", "Unblocked f by m of g"]
    assert line.ready() == ["f"]


def test_a_group_is_not_waited_for_to_its_end_by_one_that_is_cancelled():
    line = Line(add("m", group="g"), add("n", group="g"))
    line.do(add("stops", after_group="g", on_failure="cancel"), add("runs", after_group="g"))
    assert line.do(c.Fail("m")) == ["Failed m", "Cancelled stops"]
    assert line.do(c.Done("n")) == ["Done n", "Unblocked runs by n of g"]


def test_a_cancelled_one_is_an_end_again_and_so_on():
    line = Line(
        add("m"),
        add("b", "m", group="g", on_failure="cancel"),
        add("stops", after_group="g", on_failure="cancel"),
        add("runs", after_group="g"),
        add("last", "stops", "runs", on_failure="cancel"),
    )
    assert line.do(c.Fail("m")) == [
        *("Failed m", "Cancelled b", "Cancelled stops", "Unblocked runs by b of g", "Cancelled last"),
    ]


def test_one_that_was_cancelled_by_one_way_is_not_touched_by_another():
    """It waited for the ticket by its id, as a member of a group, and for another that was cancelled too."""
    line = Line(add("m", group="g"), add("n", "m", on_failure="cancel"))
    line.do(add("f", "m", "n", after_group="g", on_failure="cancel"))
    assert line.do(c.Fail("m")) == ["Failed m", "Cancelled n", "Cancelled f"]


def test_a_successor_that_is_not_to_run_is_dropped_and_its_run_goes_on():
    line = Line(add("m", group="g"), c.Claim("m", "w"), add("a"), add("m", "a", group="h", on_failure="cancel"))
    line.do(add("f", after_group="h"))
    claim = line["m"].claim
    assert line.do(c.Fail("a")) == ["Failed a", "Unblocked m by a and dropped", "Unblocked f by m of h"]
    ticket = line["m"]
    assert (ticket.successor, ticket.claim, ticket.group, line.count("h")) == (None, claim, "g", 0)
    assert line.do(c.Done("m")) == ["Done m"]
    assert "m" not in line.projection.tickets


def test_a_successor_that_waits_for_a_group_is_dropped_too():
    line = Line(add("a", group="g"), add("m"), CLAIM, add("m", after_group="g", on_failure="cancel"))
    assert line.do(c.Cancel("a")) == ["Cancelled a", "Unblocked m by a of g and dropped"]
    assert line["m"].successor is None


def test_a_successor_may_run_whatever_the_ticket_before_it_was_told():
    """What counts is what the waiting one, the successor, was told."""
    line = Line(add("a"), add("m", "a", on_failure="cancel"), c.Done("a"), CLAIM, add("b"), add("m", "b"))
    assert line.do(c.Fail("b")) == ["Failed b", "Unblocked m by b"]


# --- one commit -------------------------------------------------------------------------------------------------------


def test_commands_of_a_commit_see_each_other():
    line = Line()
    said = line.do(add("m", group="g"), add("f", after_group="g"), add("after", "f"), c.Done("m"), c.Claim("f", "w"))
    assert said == ["Added m", "Added f", "Added after", "Done m", "Unblocked f by m of g", "Claimed f"]
    assert line.blocked("after") == [True]
    assert line.do(c.Done("f"), c.Claim("after", "w")) == ["Done f", "Unblocked after by f", "Claimed after"]


def test_settling_and_adding_again_in_one_commit():
    line = Line(add("m", group="g"), add("f", after_group="g"), CLAIM)
    assert line.do(c.Done("m", line["m"].claim), add("m", group="g")) == ["Done m", "Unblocked f by m of g", "Added m"]
    assert line.count("g") == 1


def test_a_refusal_undoes_what_came_before_it_and_says_which_command_it_was():
    line = Line(add("m", group="g"), add("f", after_group="g"), add("z"))
    message = line.refused(c.Done("m"), add("new"), c.Delete("z"), c.Fail("nobody"), by=TicketNotFound)
    assert message.startswith("command 4 of 4, fail of ticket 'nobody', is refused, so none is: ")
    assert "there is none to fail" in message
    assert line.refused(c.Fail("nobody")).startswith("ticket 'nobody'")


def test_a_refusal_names_a_schedule_too():
    line = Line(add("z"))
    never = c.SetSchedule("s", "t", Raw(b"null"), "default", 512, EPOCH)  # neither cron nor every
    message = line.refused(add("new"), never, by=KharonError)
    assert message.startswith("command 2 of 2, setschedule of schedule 's', is refused, so none is: ")


def test_a_refusal_keeps_its_kind():
    line = Line(add("m"), CLAIM)
    for command, kind in [
        (c.Done("m", 99), LeaseLost),
        (add("m", on_conflict="raise"), TicketExists),
        (add("f", group="g", after_group="g"), FinalizerInGroup),
        (c.Restart("m"), InvalidTransition),
        (add("f", "f"), InvalidTicket),
    ]:
        assert line.refused(add("n"), command, by=kind).startswith("command 2 of 2, ")


def test_undo_leaves_the_order_of_tickets_and_a_replay_gives_it():
    line = Line(*(add(id) for id in "abcd"))
    line.refused(c.Delete("b"), add("e"), add("b"), c.Delete("a"), c.Delete("e"), add("e"), c.Fail("?"))
    assert list(line.projection.tickets) == list("abcd")
    line.do(c.Delete("b"), add("e"), add("b"), c.Delete("a"), add("f"), c.Delete("f"))
    assert list(line.projection.tickets) == list("cdeb")
    line.do(add("g"), c.Delete("g"), add("h"), add("g"), c.Delete("c"), add("c"), c.Delete("c"))
    assert list(line.projection.tickets) == list("debhg")


def test_undo_takes_back_unblocking_cancelling_and_dropping():
    line = Line(add("m", group="g"), add("a"), add("r"), c.Claim("r", "w"), add("r", "m", on_failure="cancel"))
    line.do(add("f", after_group="g"), add("s", "m", on_failure="cancel"), add("t", "s"))
    groups = line.projection.groups.unblocked("g")
    assert groups == []
    line.refused(c.Fail("m"), move("a", "g"), c.Fail("nobody"), by=TicketNotFound)
    assert line.blocked("f", "s", "t") == [True, True, True]
    assert line["r"].successor.blocked_by == ("m",)
    assert line.do(c.Fail("m"))[1:] == [
        *("Unblocked r by m and dropped", "Cancelled s", "Unblocked f by m of g", "Unblocked t by s")
    ]


def test_an_undone_commit_is_as_if_it_had_never_been_for_the_next():
    line = Line(add("m", group="g"))
    before = line.projection.groups
    line.refused(add("f", after_group="g"), add("n", group="g"), c.Fail("nobody"))
    assert line.count("g") == 1
    assert before.finalizers("g", 1) == []
    line.do(add("f", after_group="g"))
    assert line["f"].gate == Gate((), "g", "run", 2)


def test_time_does_not_go_back_within_a_log():
    line = Line(add("m"))
    at = line.projection.at
    line.now -= timedelta(seconds=100)
    line.do(add("n"))
    assert line.projection.at == at == line["n"].mtime
    assert line["n"].runat < at  # what a command means by now is the clock's


def test_who_waits_is_looked_at_for_cycles_and_not_the_members_of_a_group():
    class NotWalked(SortedList):
        def __iter__(self):
            raise AssertionError("a group may have 100,000 members")

    line = Line(add("x"), add("f", "x"), *(add(id, group="g") for id in "lmn"))
    members = line.projection.groups._members
    members["g"] = NotWalked(members["g"])
    commit = line.begin()
    commit.run([add("x", after_group="g")])
    commit.keep()
    assert line.projection.get("x").blocked


def test_nothing_to_do_is_nothing_done():
    line = Line(add("m"))
    assert line.do(c.Delete("nobody")) == []
    assert line.projection.seq == 1


def test_effects_tell_what_was_before_and_after():
    line = Line(add("m", group="g"), add("n", group="g"))
    commit = line.begin()
    commit.run([c.Done("m"), c.Done("n"), add("m", group="g"), CLAIM])
    commit.keep()
    line.facts += commit.effects
    assert [effect.seq for effect in commit.effects] == [3, 4, 5, 6]
    assert commit.effects[0].old.id == "m"
    assert commit.effects[0].new is None
    assert commit.effects[2].old is None
    assert commit.effects[3].old is commit.effects[2].new
