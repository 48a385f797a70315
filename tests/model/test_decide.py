"""The rules, row by row of the table of commands, and every command in every state."""

import contextlib
from datetime import datetime, timedelta

import msgspec
import pytest
from msgspec import Raw

from kharon.errors import InvalidTicket, InvalidTransition, KharonError, LeaseLost, TicketExists, TicketNotFound
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.checks import MAX_REASON_CHARS
from kharon.model.decide import State, decide, state_of
from kharon.model.delays import BackoffDelay, FixedDelay
from kharon.model.ticket import Gate, Status, Ticket, draft_of, seal
from kharon.testing import EPOCH, given


def at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def outcome(case: given) -> Ticket:
    """The ticket after the case, whatever its events."""
    return case.then(*case.events())


ADDED = e.TicketAdded("t", "email", Raw(b'{"to":"ann"}'), "default", 512, EPOCH)
NEWER = e.TicketAdded("t", "sms", Raw(b'{"to":"bob"}'), "fast", 3, EPOCH, "g")
CLAIMED = e.TicketClaimed("t", 1, at(31), "w1")

# What leads to each state; the claim of a claimed ticket is that of record 2.
HISTORIES = {
    State.ABSENT: (),
    State.UNCLAIMED: (ADDED,),
    State.CLAIMED: (ADDED, CLAIMED),
    State.DONE: (ADDED, CLAIMED, e.TicketDone("t", True, Raw(b"1"), at(3))),
    State.FAILED: (ADDED, CLAIMED, e.TicketFailed("t", "broke", at(3))),
    State.CANCELLED: (ADDED, CLAIMED, e.TicketCancelled("t", True, "unwanted", at(3))),
}
ADDED_AGAIN = (ADDED, CLAIMED, NEWER)

BACKOFF = BackoffDelay(2, 100)
COMMANDS = {
    "add": c.Add("t", Ticket("t", "email")),
    "claim": c.Claim("t", "w2"),
    "extend": c.Extend("t", seconds=60),
    "done": c.Done("t"),
    "fail": c.Fail("t"),
    "cancel": c.Cancel("t"),
    "retry": c.Retry("t"),
    "release": c.Release("t"),
    "lapse": c.Lapse("t", error_reason="the lease ended", backoff=BACKOFF, max_attempts=None),
    "restart": c.Restart("t"),
    "update": c.Update("t", e.Changes(nice=1)),
    "delete": c.Delete("t"),
    "expire": c.Expire("t"),
    "unblock": c.Unblock("t", "other"),
}

# Every command in every state: an event by its name (less "Ticket"), "-" for nothing at all, or the error.
N, T = TicketNotFound, InvalidTransition
TABLE = {
    #           absent   waiting      claimed          done         failed       cancelled
    "add":     ("Added", "Added",     "Added",         "Added",     "Added",     "Added"),
    "claim":   (N,       "Claimed",   T,               T,           T,           T),
    "extend":  (N,       T,           "LeaseExtended", T,           T,           T),
    "done":    (N,       "Done",      "Done",          T,           T,           T),
    "fail":    (N,       "Failed",    "Failed",        T,           T,           T),
    "cancel":  (N,       "Cancelled", "Cancelled",     T,           T,           T),
    "retry":   (N,       "Retried",   "Retried",       T,           T,           T),
    "release": (N,       T,           "Released",      T,           T,           T),
    "lapse":   (N,       T,           "Lapsed",        T,           T,           T),
    "restart": (N,       T,           T,               "Restarted", "Restarted", "Restarted"),
    "update":  (N,       "Updated",   "Updated",       "Updated",   "Updated",   "Updated"),
    "delete":  ("-",     "Deleted",   "Deleted",       "Deleted",   "Deleted",   "Deleted"),
    "expire":  (N,       T,           T,               "Expired",   "Expired",   "Expired"),
    "unblock": (N,       "Unblocked", "Unblocked",     T,           T,           T),
}  # fmt: skip
CELLS = [(verb, state, cell) for verb, row in TABLE.items() for state, cell in zip(State, row, strict=True)]
SETTLES = [verb for verb, command in COMMANDS.items() if isinstance(command, c.Settle)]


def fenced(verb: str, claim: int) -> c.Command:
    return msgspec.structs.replace(COMMANDS[verb], claim=claim)


IN_WORDS = {state: state.value for state in State} | {
    State.ABSENT: "removed",
    State.UNCLAIMED: "pending and not claimed",
    State.CLAIMED: "claimed by 'w",
}


@pytest.mark.parametrize("state", State)
def test_the_histories_lead_to_the_states(state):
    assert state_of(given(*HISTORIES[state]).ticket) is state


def test_the_table_has_every_command():
    def concrete(kind):
        return set().union(*(concrete(child) or {child} for child in kind.__subclasses__()))

    assert {type(command) for command in COMMANDS.values()} == concrete(c.Command)
    assert TABLE.keys() == COMMANDS.keys()


@pytest.mark.parametrize(("verb", "state", "cell"), CELLS)
def test_every_command_in_every_state(verb, state, cell):
    case = given(*HISTORIES[state]).when(COMMANDS[verb])
    if cell is TicketNotFound:
        case.raises(TicketNotFound, "'t'", f"none to {verb}")
    elif cell is InvalidTransition:
        case.raises(InvalidTransition, "'t'", f"is {IN_WORDS[state]}", f"{verb} is")
    else:
        assert [type(event).__name__.removeprefix("Ticket") for event in case.events()] == (
            [] if cell == "-" else [cell]
        )


def test_a_refusal_says_which_states_the_command_is_for():
    given(*HISTORIES[State.DONE]).when(c.Done("t")).raises(InvalidTransition, "is for one that is pending")
    given(ADDED).when(c.Restart("t")).raises(InvalidTransition, "is for one that is done, failed, cancelled")
    given(ADDED, CLAIMED).when(c.Claim("t", "w2")).raises(
        InvalidTransition, "claimed by 'w1'", "one that is pending and not claimed"
    )


@pytest.mark.parametrize("state", State)
def test_deciding_changes_nothing(state):
    case = given(*HISTORIES[state], now=at(40))
    before = case.ticket and seal(draft_of(case.ticket))
    for command in COMMANDS.values():
        with contextlib.suppress(KharonError):
            first = decide(case.ticket, command, case._context)
            assert decide(case.ticket, command, case._context) == first
        assert case.ticket == before


# --- fencing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("verb", SETTLES)
def test_a_settle_by_a_claim_that_is_over_is_refused_in_every_state(verb, state):
    words = ("'t'", "record 77", f"its {verb} is refused", IN_WORDS[state])
    given(*HISTORIES[state]).when(fenced(verb, 77)).raises(LeaseLost, *words)


@pytest.mark.parametrize("verb", SETTLES)
def test_a_settle_by_the_present_claim_is_as_one_by_id(verb):
    by_id = given(*HISTORIES[State.CLAIMED]).when(COMMANDS[verb]).events()
    assert given(*HISTORIES[State.CLAIMED]).when(fenced(verb, 2)).events() == by_id != ()


@pytest.mark.parametrize(
    "between",
    [
        e.TicketLapsed("t", EPOCH, "the lease ended"),
        e.TicketReleased("t"),
        e.TicketRetried("t", EPOCH, "by an operator"),
    ],
)
@pytest.mark.parametrize("verb", SETTLES)
def test_the_loser_of_a_lease_cannot_settle_for_the_next_holder(verb, between):
    again = (ADDED, CLAIMED, between, e.TicketClaimed("t", 2, at(60), "w2"))
    given(*again).when(fenced(verb, 2)).raises(LeaseLost, "record 2", "claimed by 'w2'", "another attempt")
    assert given(*again).when(fenced(verb, 4)).events()


def test_the_claim_survives_what_is_no_settle():
    events = (ADDED, CLAIMED, e.LeaseExtended("t", at(99)), e.TicketUpdated("t", e.Changes(nice=1)), NEWER)
    given(*events).when(c.Done("t", 2)).then(e.TicketDone("t"))


def test_a_ticket_removed_and_added_anew_is_not_the_old_claims():
    removed = (ADDED, CLAIMED, e.TicketDeleted("t"), ADDED, e.TicketClaimed("t", 1, at(60), "w1"))
    given(*removed).when(c.Done("t", 2)).raises(LeaseLost, "record 2")


def test_fencing_comes_before_the_state():
    given(*HISTORIES[State.DONE]).when(c.Release("t", 2)).raises(LeaseLost, "it is done now")


# --- add --------------------------------------------------------------------------------------------------------------


def test_add_says_all_that_the_ticket_says():
    ticket = Ticket("t", "sms", payload={"to": "bob"}, tube="fast", nice=3, runat=at(500), group="g")
    added = e.TicketAdded("t", "sms", Raw(b'{"to":"bob"}'), "fast", 3, at(500), "g")
    after = given(now=at(9)).when(c.Add("t", ticket)).then(added)
    assert (after.payload, after.status, after.attempts) == ({"to": "bob"}, Status.PENDING, 0)
    assert (after.ctime, after.mtime, after.version, after.order) == (at(9), at(9), 1, 1)


@pytest.mark.parametrize(
    ("delay", "due"),
    [
        (None, 9),
        (0, 9),
        (1.5, 10.5),
        (timedelta(hours=1), 3609),
        (FixedDelay(4), 13),
        # No attempt has been made: 4 * 2**0, less half of the jitter.
        (BackoffDelay(2, 100, jitter=0.5, initial=4), 12),
    ],
)
def test_add_is_due_after_its_delay(delay, due):
    (added,) = given(now=at(9), jitter=0.5).when(c.Add("t", Ticket("t", "x"), delay)).events()
    assert added.runat == at(due)


def test_add_takes_a_runat_or_a_delay_but_not_both():
    ticket = Ticket("t", "x", runat=at(5))
    given().when(c.Add("t", ticket, 0)).raises(InvalidTicket, "'t'", "runat", "delay")


def test_add_takes_a_runat_that_has_passed():
    (added,) = given(now=at(9)).when(c.Add("t", Ticket("t", "x", runat=at(-5)))).events()
    assert added.runat == at(-5)


@pytest.mark.parametrize("bad", [-1, "soon", float("nan")])
def test_add_refuses_a_bad_delay(bad):
    given().when(c.Add("t", Ticket("t", "x"), bad)).raises(InvalidTicket, "delay")


def test_a_delay_beyond_the_last_year_is_refused():
    last = datetime.max.replace(tzinfo=EPOCH.tzinfo)
    given(now=last).when(c.Add("t", Ticket("t", "x"), 1)).raises(InvalidTicket, "delay", "out of range")
    given(ADDED, now=last).when(c.Done("t", None, True, None, 1.0)).raises(InvalidTicket, "out of range")


@pytest.mark.parametrize("state", [state for state in State if state is not State.ABSENT])
def test_add_skips_or_raises_if_told_to(state):
    new = Ticket("t", "sms", runat=at(5))
    given(*HISTORIES[state]).when(c.Add("t", new, 5, "skip")).then()
    described = IN_WORDS[state]
    given(*HISTORIES[state]).when(c.Add("t", new, None, "raise")).raises(TicketExists, "'t' exists", described)


@pytest.mark.parametrize("on_conflict", ["replace", "refresh", "skip", "raise"])
def test_add_of_a_new_id_does_not_ask_about_conflicts(on_conflict):
    given().when(c.Add("t", Ticket("t", "email", payload={"to": "ann"}), None, on_conflict)).then(ADDED)


IN_PLACE = msgspec.structs.replace(NEWER, keeps_place=True)


def test_adding_again_an_unclaimed_ticket_keeps_its_place():
    new = Ticket("t", "sms", payload={"to": "bob"}, tube="fast", nice=3, group="g")
    after = given(ADDED, now=at(99)).when(c.Add("t", new)).then(IN_PLACE)
    assert (after.runat, after.order, after.ctime, after.version, after.nice) == (EPOCH, 1, EPOCH, 2, 3)


def test_adding_again_a_delayed_ticket_makes_it_due_now():
    later = msgspec.structs.replace(ADDED, runat=at(500))
    (added,) = given(later, now=at(99)).when(c.Add("t", Ticket("t", "sms"))).events()
    assert (added.runat, added.keeps_place) == (at(99), True)


@pytest.mark.parametrize(("runat", "delay", "due"), [(at(70), None, 70), (None, 5, 104), (None, 0, 99)])
def test_adding_again_with_a_delay_or_a_runat_goes_by_it(runat, delay, due):
    (added,) = given(ADDED, now=at(99)).when(c.Add("t", Ticket("t", "sms", runat=runat), delay)).events()
    assert (added.runat, added.keeps_place) == (at(due), True)


def test_a_successor_that_is_added_again_keeps_its_place():
    new = Ticket("t", "fax")
    after = (
        given(*ADDED_AGAIN, now=at(99))
        .when(c.Add("t", new))
        .then(e.TicketAdded("t", "fax", Raw(b"null"), "default", 512, EPOCH, keeps_place=True))
    )
    assert (after.successor.order, after.successor.ctime, after.successor.runat) == (3, at(2), EPOCH)
    assert after.order == 1


RETRIED = (ADDED, CLAIMED, e.TicketRetried("t", at(500), "broke"))


def test_a_refresh_keeps_the_attempts_and_is_due_at_once():
    after = (
        given(*RETRIED, now=at(99))
        .when(c.Add("t", Ticket("t", "sms", nice=7), None, "refresh"))
        .then(e.TicketAdded("t", "sms", Raw(b"null"), "default", 7, at(99), keeps_place=True, keeps_attempts=True))
    )
    assert (after.attempts, after.nice, after.type) == (1, 7, "sms")
    assert outcome(given(*RETRIED).when(c.Add("t", Ticket("t", "sms")))).attempts == 0


REFRESHED = (ADDED, CLAIMED, msgspec.structs.replace(NEWER, keeps_attempts=True))


@pytest.mark.parametrize(
    ("ending", "attempts"),
    [(c.Retry("t", 2), 1), (c.Fail("t", 2), 1), (c.Done("t", 2), 0), (c.Done("t", 2, True), 0), (c.Release("t", 2), 0)],
)
def test_a_refreshed_run_counts_unless_it_was_done_or_released(ending, attempts):
    assert outcome(given(ADDED, CLAIMED).when(c.Add("t", Ticket("t", "sms"), None, "refresh"))).successor.attempts == 1
    after = outcome(given(*REFRESHED).when(ending))
    assert (after.type, after.attempts) == ("sms", attempts)


@pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.CANCELLED])
def test_a_refresh_of_a_terminal_ticket_starts_anew(state):
    after = outcome(given(*HISTORIES[state]).when(c.Add("t", Ticket("t", "sms"), None, "refresh")))
    assert (after.status, after.attempts, after.order) == (Status.PENDING, 0, len(HISTORIES[state]) + 1)


@pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.CANCELLED])
def test_add_again_starts_anew(state):
    history = HISTORIES[state]
    seq = len(history) + 1
    ticket = Ticket("t", "sms", payload={"to": "bob"}, tube="fast", nice=3, runat=EPOCH, group="g")
    after = given(*history).when(c.Add("t", ticket)).then(NEWER)
    anew = draft_of(ticket)
    anew.ctime = anew.mtime = at(seq - 1)
    anew.version = anew.order = anew.joined = seq
    assert after == seal(anew)


# --- added again while claimed ----------------------------------------------------------------------------------------


def test_add_again_lets_a_claimed_ticket_run_on():
    new = Ticket("t", "sms", payload={"to": "bob"}, tube="fast", nice=3, runat=EPOCH, group="g")
    after = given(ADDED, CLAIMED).when(c.Add("t", new)).then(NEWER)
    assert (after.claim, after.worker, after.lease_until, after.attempts) == (2, "w1", at(31), 1)
    assert (after.type, after.payload, after.tube, after.nice, after.group) == (
        "email",
        {"to": "ann"},
        "default",
        512,
        None,
    )
    assert state_of(after) is State.CLAIMED


@pytest.mark.parametrize(
    ("verb", "claim"),
    # A cancel without a claim means the name.
    [(verb, 2) for verb in SETTLES if verb != "extend"]
    + [(verb, None) for verb in SETTLES if verb not in ("extend", "cancel")],
)
def test_whatever_ends_the_claim_leaves_the_successor(verb, claim):
    commands = {
        "done": c.Done("t", claim, True, b"1", 60.0),
        "fail": c.Fail("t", claim, "broke", 60.0),
        "cancel": c.Cancel("t", claim, True, "unwanted", 60.0),
        "retry": c.Retry("t", claim, 500, "again", e.Changes(nice=99, tube="slow"), 1),
        "release": c.Release("t", claim),
        "lapse": c.Lapse("t", claim, error_reason="lapsed", backoff=FixedDelay(500), max_attempts=1),
    }
    case = given(*ADDED_AGAIN).when(commands[verb])
    after = case.then(*case.events())
    expected = draft_of(Ticket("t", "sms", payload={"to": "bob"}, tube="fast", nice=3, runat=EPOCH, group="g"))
    expected.ctime, expected.order = at(2), 3
    expected.mtime, expected.version, expected.joined = at(3), 4, 3
    assert after == seal(expected)


def test_cancel_by_id_ends_the_run_and_its_successor():
    assert given(*ADDED_AGAIN).when(c.Cancel("t")).then(e.TicketCancelled("t", dropped=True)) is None
    kept = (
        given(*ADDED_AGAIN)
        .when(c.Cancel("t", None, True, "unwanted", tube="graves"))
        .then(e.TicketCancelled("t", True, "unwanted", dropped=True), e.TicketUpdated("t", e.Changes(tube="graves")))
    )
    assert (kept.status, kept.claim, kept.successor, kept.joined) == (Status.CANCELLED, None, None, 0)
    assert (kept.type, kept.payload, kept.tube, kept.error_reason) == ("sms", {"to": "bob"}, "graves", "unwanted")


def test_a_handler_that_cancels_its_own_run_leaves_the_successor():
    after = given(*ADDED_AGAIN).when(c.Cancel("t", 2, True)).then(e.TicketCancelled("t", True))
    assert (after.type, after.status) == ("sms", Status.PENDING)


def test_the_last_of_several_addings_succeeds():
    third = e.TicketAdded("t", "fax", Raw(b"3"), "slow", 9, at(77))
    after = given(*ADDED_AGAIN, third).when(c.Done("t", 2)).then(e.TicketDone("t"))
    assert (after.type, after.payload, after.runat, after.order, after.ctime) == ("fax", 3, at(77), 4, at(3))


def test_an_update_while_a_successor_waits_holds_for_both():
    changes = e.Changes(nice=-7, payload_json=Raw(b"[0]"))
    updated = given(*ADDED_AGAIN).when(c.Update("t", changes)).then(e.TicketUpdated("t", changes))
    assert (updated.type, updated.nice, updated.payload, updated.claim) == ("email", -7, [0], 2)
    after = given(*ADDED_AGAIN, e.TicketUpdated("t", changes)).when(c.Done("t", 2)).then(e.TicketDone("t"))
    assert (after.type, after.nice, after.payload, after.tube) == ("sms", -7, [0], "fast")


def test_an_adding_is_newer_than_the_update_before_it():
    updated = e.TicketUpdated("t", e.Changes(nice=-7))
    after = given(ADDED, CLAIMED, updated, NEWER).when(c.Done("t")).then(e.TicketDone("t"))
    assert after.nice == 3


def test_a_delete_removes_the_successor_too():
    assert given(*ADDED_AGAIN).when(c.Delete("t")).then(e.TicketDeleted("t")) is None


def test_a_successor_has_all_of_its_attempts():
    lapse = c.Lapse("t", 2, error_reason="lapsed", backoff=FixedDelay(5), max_attempts=1)
    given(*ADDED_AGAIN).when(lapse).then(e.TicketLapsed("t", at(8), "lapsed"))
    given(*ADDED_AGAIN).when(c.Retry("t", 2, max_attempts=1)).then(e.TicketRetried("t", at(3)))


# --- claim, extend ----------------------------------------------------------------------------------------------------


def test_claim_grants_a_lease():
    after = given(ADDED, lease=12.5).when(c.Claim("t", "w1")).then(e.TicketClaimed("t", 1, at(13.5), "w1"))
    assert (after.attempts, after.lease_until, after.worker, after.claim) == (1, at(13.5), "w1", 2)
    assert after.status is Status.PENDING


def test_each_claim_is_one_more_attempt():
    events = (ADDED, CLAIMED, e.TicketRetried("t", EPOCH))
    given(*events).when(c.Claim("t", "w2")).then(e.TicketClaimed("t", 2, at(33), "w2"))


def test_a_ticket_is_claimed_from_the_very_instant_on_that_it_is_due():
    later = e.TicketAdded("t", "x", Raw(b"1"), "default", 512, at(50))
    assert given(later, now=at(50)).when(c.Claim("t", "w")).events()
    early = at(50) - timedelta(microseconds=1)
    given(later, now=early).when(c.Claim("t", "w")).raises(
        InvalidTransition, "'t'", "cannot be claimed before", "00:50"
    )


def test_a_blocked_ticket_is_not_claimed():
    draft = draft_of(given(ADDED).ticket)
    draft.blocked_by, draft.gate = ("a", "b"), Gate(("a", "b"), "g", "run", 1)
    given(seal(draft), now=at(1)).when(c.Claim("t", "w")).raises(InvalidTransition, "'t'", "blocked by a, b, group g")


def test_extend_lets_the_lease_end_later():
    after = given(ADDED, CLAIMED).when(c.Extend("t", 2, seconds=60)).then(e.LeaseExtended("t", at(62)))
    assert (after.lease_until, after.claim, after.attempts, after.worker) == (at(62), 2, 1, "w1")


@pytest.mark.parametrize("seconds", [0, 28.9, 29])
def test_extend_never_shortens(seconds):
    given(ADDED, CLAIMED).when(c.Extend("t", 2, seconds=seconds)).then()


# --- done, fail, cancel -----------------------------------------------------------------------------------------------

PENDING = [State.UNCLAIMED, State.CLAIMED]


@pytest.mark.parametrize("state", PENDING)
def test_done_removes_unless_told_to_keep(state):
    assert given(*HISTORIES[state]).when(c.Done("t")).then(e.TicketDone("t")) is None


@pytest.mark.parametrize("state", PENDING)
def test_done_keeps_the_result_until_it_expires(state):
    now = at(len(HISTORIES[state]))
    done = e.TicketDone("t", True, Raw(b'{"ok":true}'), now + timedelta(seconds=60))
    after = given(*HISTORIES[state]).when(c.Done("t", None, True, b'{"ok":true}', 60.0)).then(done)
    assert (after.status, after.result, after.error_reason) == (Status.DONE, {"ok": True}, None)
    assert after.expire_at == now + timedelta(seconds=60)
    assert (after.claim, after.worker, after.lease_until) == (None, None, None)


def test_done_without_expiry_is_kept_for_good():
    after = given(ADDED, CLAIMED).when(c.Done("t", 2, True)).then(e.TicketDone("t", True))
    assert (after.status, after.result, after.expire_at) == (Status.DONE, None, None)


def test_a_result_of_null_is_a_result():
    after = given(ADDED).when(c.Done("t", None, True, b"null")).then(e.TicketDone("t", True, Raw(b"null")))
    assert (after.result_json, after.result) == (b"null", None)


def test_done_forgets_the_reason_of_the_attempts_before():
    events = (ADDED, CLAIMED, e.TicketRetried("t", EPOCH, "no route"), e.TicketClaimed("t", 2, at(60), "w"))
    assert given(*events).ticket.error_reason == "no route"
    assert given(*events).when(c.Done("t", None, True)).then(e.TicketDone("t", True)).error_reason is None


@pytest.mark.parametrize("state", PENDING)
def test_fail_keeps_the_ticket_and_says_why(state):
    now = at(len(HISTORIES[state]))
    failed = e.TicketFailed("t", "broke", now + timedelta(seconds=60))
    after = given(*HISTORIES[state]).when(c.Fail("t", None, "broke", 60.0)).then(failed)
    assert (after.status, after.error_reason, after.expire_at) == (
        Status.FAILED,
        "broke",
        now + timedelta(seconds=60),
    )
    assert (after.claim, after.worker, after.lease_until) == (None, None, None)


@pytest.mark.parametrize("state", PENDING)
def test_cancel_removes_unless_told_to_keep(state):
    given(*HISTORIES[state]).when(c.Cancel("t")).then(e.TicketCancelled("t"))
    now = at(len(HISTORIES[state]))
    kept = e.TicketCancelled("t", True, "unwanted", now + timedelta(seconds=60))
    after = given(*HISTORIES[state]).when(c.Cancel("t", None, True, "unwanted", 60.0)).then(kept)
    assert (after.status, after.error_reason, after.expire_at) == (
        Status.CANCELLED,
        "unwanted",
        now + timedelta(seconds=60),
    )


ENDS_AND_MOVES = {
    "done": (c.Done("t", keep=True, tube="there"), e.TicketDone("t", True), State.DONE),
    "fail": (c.Fail("t", tube="there"), e.TicketFailed("t"), State.FAILED),
    "cancel": (c.Cancel("t", keep=True, tube="there"), e.TicketCancelled("t", True), State.CANCELLED),
}


@pytest.mark.parametrize("verb", ENDS_AND_MOVES)
@pytest.mark.parametrize("state", PENDING)
def test_what_is_kept_can_move_as_it_ends(verb, state):
    command, ended, ended_as = ENDS_AND_MOVES[verb]
    moved = e.TicketUpdated("t", e.Changes(tube="there"))
    after = given(*HISTORIES[state]).when(command).then(ended, moved)
    assert (after.tube, after.claim, state_of(after)) == ("there", None, ended_as)
    stays = msgspec.structs.replace(command, tube="default")
    given(*HISTORIES[state]).when(stays).then(ended)


@pytest.mark.parametrize("verb", ENDS_AND_MOVES)
def test_what_was_added_meanwhile_is_not_moved(verb):
    command, ended, _ = ENDS_AND_MOVES[verb]
    after = given(*ADDED_AGAIN).when(msgspec.structs.replace(command, claim=2)).then(ended)
    assert (after.type, after.tube, state_of(after)) == ("sms", "fast", State.UNCLAIMED)


def test_cancel_without_keep_leaves_nothing():
    assert given(ADDED, CLAIMED).when(c.Cancel("t", 2)).then(e.TicketCancelled("t")) is None


# --- retry, release, lapse --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", PENDING)
def test_retry_is_pending_again(state):
    now = at(len(HISTORIES[state]))
    after = (
        given(*HISTORIES[state])
        .when(c.Retry("t", None, 5, "no route"))
        .then(e.TicketRetried("t", now + timedelta(seconds=5), "no route"))
    )
    assert state_of(after) is State.UNCLAIMED
    assert (after.runat, after.error_reason) == (now + timedelta(seconds=5), "no route")
    assert after.attempts == (1 if state is State.CLAIMED else 0)


def test_retry_waits_by_the_attempts_made():
    events = (ADDED, CLAIMED, e.TicketRetried("t", EPOCH), e.TicketClaimed("t", 2, at(60), "w"))
    retry = c.Retry("t", 4, BackoffDelay(3, 100, jitter=0.5, initial=4))
    given(*events, jitter=0.5).when(retry).then(e.TicketRetried("t", at(4 + 4 * 3**2 * 0.75)))


def test_retry_is_due_at_once_by_default():
    given(ADDED, CLAIMED).when(c.Retry("t", 2)).then(e.TicketRetried("t", at(2)))


def test_retry_takes_changes():
    changes = e.Changes(9, Raw(b"[1]"), "slow", "g")
    after = (
        given(ADDED, CLAIMED).when(c.Retry("t", 2, 5, None, changes)).then(e.TicketRetried("t", at(7), None, changes))
    )
    assert (after.nice, after.payload, after.tube, after.group, after.runat) == (9, [1], "slow", "g", at(7))


def test_a_runat_among_the_changes_is_when_it_is_due():
    changes = e.Changes(runat=at(1000))
    after = (
        given(ADDED, CLAIMED)
        .when(c.Retry("t", 2, 5, None, changes))
        .then(e.TicketRetried("t", at(1000), None, changes))
    )
    assert after.runat == at(1000)


@pytest.mark.parametrize(("max_attempts", "left"), [(None, True), (3, True), (2, False), (1, False)])
@pytest.mark.parametrize("reason", [None, "no route"])
def test_the_last_attempt_that_is_retried_fails(max_attempts, left, reason):
    events = (ADDED, CLAIMED, e.TicketRetried("t", EPOCH), e.TicketClaimed("t", 2, at(60), "w"))
    case = given(*events).when(c.Retry("t", 4, 5, reason, e.Changes(nice=1), max_attempts))
    if left:
        case.then(e.TicketRetried("t", at(9), reason, e.Changes(nice=1)))
    else:
        after = case.then(e.TicketFailed("t", f"{reason or 'retried'} (no attempts left after 2)"))
        assert (after.status, after.attempts, after.nice, after.expire_at) == (Status.FAILED, 2, 512, None)


def test_release_is_pending_at_once_and_its_attempt_not_counted():
    after = given(ADDED, CLAIMED).when(c.Release("t", 2)).then(e.TicketReleased("t"))
    assert (state_of(after), after.runat, after.attempts) == (State.UNCLAIMED, EPOCH, 0)
    assert (after.claim, after.worker, after.lease_until) == (None, None, None)
    given(ADDED, CLAIMED, e.TicketReleased("t")).when(c.Claim("t", "w")).then(e.TicketClaimed("t", 1, at(33), "w"))


def test_release_may_change_the_ticket():
    changes = e.Changes(tube="u")
    after = given(ADDED, CLAIMED).when(c.Release("t", 2, changes=changes)).then(e.TicketReleased("t", changes))
    assert (after.tube, after.attempts, after.claim) == ("u", 0, None)


def test_release_keeps_the_reason_of_the_attempt_before():
    events = (ADDED, CLAIMED, e.TicketRetried("t", EPOCH, "no route"), e.TicketClaimed("t", 2, at(60), "w"))
    after = given(*events).when(c.Release("t", 4)).then(e.TicketReleased("t"))
    assert (after.error_reason, after.attempts) == ("no route", 1)


def test_lapse_is_pending_with_backoff_and_its_attempt_counted():
    lapse = c.Lapse("t", 2, error_reason="the lease ended", backoff=BackoffDelay(3, 50, jitter=0.5), max_attempts=2)
    after = (
        given(ADDED, CLAIMED, now=at(40), jitter=0.25)
        .when(lapse)
        .then(e.TicketLapsed("t", at(40 + 3 * 0.875), "the lease ended"))
    )
    assert (state_of(after), after.attempts, after.runat) == (State.UNCLAIMED, 1, at(42.625))
    assert (after.error_reason, after.claim, after.worker, after.lease_until) == ("the lease ended", None, None, None)


@pytest.mark.parametrize(("max_attempts", "left"), [(None, True), (3, True), (2, False), (1, False)])
def test_the_last_attempt_that_lapses_fails(max_attempts, left):
    events = (ADDED, CLAIMED, e.TicketRetried("t", EPOCH), e.TicketClaimed("t", 2, at(60), "w"))
    lapse = c.Lapse("t", 4, error_reason="lapsed", backoff=FixedDelay(5), max_attempts=max_attempts)
    case = given(*events, now=at(60)).when(lapse)
    if left:
        case.then(e.TicketLapsed("t", at(65), "lapsed"))
    else:
        after = case.then(
            e.TicketLapsed("t", at(60), "lapsed"), e.TicketFailed("t", "lapsed (no attempts left after 2)")
        )
        assert (after.status, after.attempts) == (Status.FAILED, 2)


@pytest.mark.parametrize("keep_failed", [None, 50.0])
@pytest.mark.parametrize(
    "command",
    [
        c.Retry("t", 2, max_attempts=1),
        c.Lapse("t", 2, error_reason="lapsed", backoff=FixedDelay(5), max_attempts=1),
        c.Fail("t", 2),
        c.Fail("t", 2, "why", 7.0),
    ],
)
def test_a_failed_ticket_is_kept_as_long_as_the_context_says(command, keep_failed):
    failed = given(ADDED, CLAIMED, now=at(100), keep_failed=keep_failed).when(command).events()[-1]
    seconds = getattr(command, "expire_in", None) or keep_failed
    assert failed.expire_at == (None if seconds is None else at(100 + seconds))


@pytest.mark.parametrize("verb", ["retry", "lapse"])
def test_a_reason_never_grows_beyond_its_limit(verb):
    reason = "x" * MAX_REASON_CHARS
    lapse = c.Lapse("t", error_reason=reason, backoff=FixedDelay(1), max_attempts=1)
    command = c.Retry("t", None, 0, reason, None, 1) if verb == "retry" else lapse
    failed = given(ADDED, CLAIMED).when(command).events()[-1]
    assert len(failed.error_reason) <= MAX_REASON_CHARS
    assert failed.error_reason.endswith("(no attempts left after 1)")


# --- restart, update, delete, expire ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.CANCELLED])
def test_restart_is_pending_as_if_new(state):
    after = given(*HISTORIES[state], now=at(50)).when(c.Restart("t")).then(e.TicketRestarted("t", at(50)))
    assert (state_of(after), after.attempts, after.runat) == (State.UNCLAIMED, 0, at(50))
    assert (after.error_reason, after.result, after.expire_at) == (None, None, None)
    # It goes to the end of the line, but it was added when it was added.
    assert (after.order, after.ctime, after.payload) == (4, EPOCH, {"to": "ann"})


@pytest.mark.parametrize("state", [state for state in State if state is not State.ABSENT])
def test_update_changes_fields_and_no_status(state):
    case = given(*HISTORIES[state])
    changes = e.Changes(9, Raw(b"[1]"), "slow", "g", at(77))
    after = case.when(c.Update("t", changes)).then(e.TicketUpdated("t", changes))
    expected = draft_of(case.ticket)
    expected.nice, expected.payload_json, expected.tube, expected.group, expected.runat = 9, b"[1]", "slow", "g", at(77)
    expected.mtime, expected.version = at(case.seq), case.seq + 1
    expected.joined = case.seq + 1 if state in PENDING else 0
    assert after == seal(expected)


def test_update_can_take_a_ticket_out_of_its_group():
    grouped = e.TicketAdded("t", "x", Raw(b"1"), "default", 512, EPOCH, "g")
    changes = e.Changes(group=None)
    assert given(grouped).when(c.Update("t", changes)).then(e.TicketUpdated("t", changes)).group is None
    other = e.Changes(nice=1)
    assert given(grouped).when(c.Update("t", other)).then(e.TicketUpdated("t", other)).group == "g"


@pytest.mark.parametrize("state", State)
def test_delete_removes_from_any_state_and_twice_is_no_error(state):
    events = () if state is State.ABSENT else (e.TicketDeleted("t"),)
    assert given(*HISTORIES[state]).when(c.Delete("t")).then(*events) is None


@pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.CANCELLED])
def test_expire_removes_from_its_instant_on(state):
    assert given(*HISTORIES[state], now=at(3)).when(c.Expire("t")).then(e.TicketExpired("t")) is None
    early = at(3) - timedelta(microseconds=1)
    given(*HISTORIES[state], now=early).when(c.Expire("t")).raises(InvalidTransition, "'t'", "does not expire before")


def test_a_ticket_kept_for_good_does_not_expire():
    kept = (ADDED, e.TicketDone("t", True))
    given(*kept, now=at(10**9)).when(c.Expire("t")).raises(InvalidTransition, "'t'", "does not expire")
