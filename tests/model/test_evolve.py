"""What each event does to a ticket, whatever led to it: the whole ticket is compared, so nothing stale is left over."""

import importlib
from datetime import timedelta

import msgspec
import pytest
from msgspec import Raw

from kharon.errors import KharonError
from kharon.model import events as e
from kharon.model.evolve import ended, evolve
from kharon.model.ticket import Gate, Status, Ticket, draft_of, memberships, seal
from kharon.testing import EPOCH

module = importlib.import_module("kharon.model.evolve")
AT = EPOCH + timedelta(seconds=100)
LATER = EPOCH + timedelta(seconds=500)
ADDED = e.TicketAdded("t", "email", Raw(b'{"a":1}'), "mail", 7, EPOCH, "g")

# One event of each kind, all of their fields set.
EVENTS = [
    ADDED,
    e.TicketClaimed("t", 4, LATER, "w2"),
    e.LeaseExtended("t", LATER),
    e.TicketDone("t", True, Raw(b"2"), LATER),
    e.TicketFailed("t", "broke", LATER),
    e.TicketCancelled("t", True, "unwanted", LATER),
    e.TicketRetried("t", LATER, "again", e.Changes(nice=1)),
    e.TicketReleased("t"),
    e.TicketLapsed("t", LATER, "lapsed"),
    e.TicketRestarted("t", LATER),
    e.TicketUpdated("t", e.Changes(tube="slow")),
    e.TicketUnblocked("t", "x", "h"),
    e.TicketDeleted("t"),
    e.TicketExpired("t"),
]
SETTLED = [e.TicketDone, e.TicketFailed, e.TicketCancelled, e.TicketRetried, e.TicketReleased, e.TicketLapsed]


def changed(ticket: Ticket, **changes) -> Ticket:
    draft = draft_of(ticket)
    for name, value in changes.items():
        setattr(draft, name, value)
    return seal(draft)


FRESH = evolve(None, ADDED, 5, EPOCH)
CLAIMED = changed(
    FRESH,
    attempts=3,
    claim=9,
    worker="w1",
    lease_until=EPOCH + timedelta(seconds=60),
    version=9,
    error_reason="before",
)
SUCCEEDED = changed(CLAIMED, successor=changed(FRESH, type="sms", order=11, version=11))
KEPT = changed(
    FRESH, status=Status.DONE, attempts=3, result_json=b"2", error_reason="why", expire_at=AT, version=9, joined=0
)
WAITING = changed(FRESH, gate=Gate(("x", "y"), "h", "cancel", 3), blocked_by=("x", "y"))
NOW = {"mtime": AT, "version": 12}
FREE = {"claim": None, "worker": None, "lease_until": None, **NOW}
ENDED = {"joined": 0, **FREE}


def test_every_event_about_a_ticket_is_among_these():
    kinds = {kind for kind in e.EVENTS.values() if issubclass(kind, e.TicketEvent)}
    assert {type(event) for event in EVENTS} == kinds


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("before", [FRESH, CLAIMED, SUCCEEDED, KEPT], ids=["fresh", "claimed", "succeeded", "kept"])
def test_evolving_changes_no_ticket_that_exists(event, before):
    was = changed(before)
    successor = before.successor and changed(before.successor)
    first, second = evolve(before, event, 12, AT), evolve(before, event, 12, AT)
    assert before == was
    assert before.successor == successor
    assert first == second
    assert first is not before
    assert first is None or type(first) is Ticket


@pytest.mark.parametrize("event", EVENTS[1:], ids=lambda event: type(event).__name__)
def test_an_event_about_no_ticket_is_refused(event):
    with pytest.raises(KharonError, match=f"record 12: {type(event).__name__} of ticket 't', which does not exist"):
        evolve(None, event, 12, AT)


@pytest.mark.parametrize(
    ("before", "event", "after"),
    [
        (
            FRESH,
            e.TicketClaimed("t", 4, LATER, "w2"),
            dict(attempts=4, lease_until=LATER, worker="w2", claim=12, **NOW),
        ),
        (CLAIMED, e.LeaseExtended("t", LATER), dict(lease_until=LATER, **NOW)),
        (
            CLAIMED,
            e.TicketDone("t", True, Raw(b"2"), LATER),
            dict(status=Status.DONE, result_json=b"2", error_reason=None, expire_at=LATER, **ENDED),
        ),
        (CLAIMED, e.TicketDone("t", True), dict(status=Status.DONE, error_reason=None, **ENDED)),
        (
            CLAIMED,
            e.TicketFailed("t", "broke", LATER),
            dict(status=Status.FAILED, error_reason="broke", expire_at=LATER, **ENDED),
        ),
        (CLAIMED, e.TicketFailed("t"), dict(status=Status.FAILED, error_reason=None, **ENDED)),
        (
            CLAIMED,
            e.TicketCancelled("t", True, "unwanted", LATER),
            dict(status=Status.CANCELLED, error_reason="unwanted", expire_at=LATER, **ENDED),
        ),
        (CLAIMED, e.TicketRetried("t", LATER), dict(runat=LATER, error_reason=None, **FREE)),
        (
            CLAIMED,
            e.TicketRetried("t", LATER, "again", e.Changes(1, Raw(b"[]"), "slow", None, AT)),
            dict(runat=LATER, error_reason="again", nice=1, payload_json=b"[]", tube="slow", group=None, **ENDED),
        ),
        (CLAIMED, e.TicketReleased("t"), dict(attempts=2, **FREE)),
        (
            CLAIMED,
            e.TicketReleased("t", e.Changes(1, Raw(b"[]"), "u", "h", LATER)),
            dict(attempts=2, nice=1, payload_json=b"[]", tube="u", group="h", runat=LATER, **FREE) | {"joined": 12},
        ),
        (CLAIMED, e.TicketLapsed("t", LATER, "lapsed"), dict(runat=LATER, error_reason="lapsed", **FREE)),
        (
            KEPT,
            e.TicketRestarted("t", LATER),
            dict(
                status=Status.PENDING,
                attempts=0,
                runat=LATER,
                order=12,
                error_reason=None,
                result_json=None,
                expire_at=None,
                joined=12,
                **NOW,
            ),
        ),
        (CLAIMED, e.TicketUpdated("t", e.Changes()), NOW),
        (CLAIMED, e.TicketUpdated("t", e.Changes(nice=0)), dict(nice=0, **NOW)),
        (CLAIMED, e.TicketUpdated("t", e.Changes(payload_json=Raw(b"0"))), dict(payload_json=b"0", **NOW)),
        (CLAIMED, e.TicketUpdated("t", e.Changes(tube="slow")), dict(tube="slow", **NOW)),
        (CLAIMED, e.TicketUpdated("t", e.Changes(group=None)), dict(group=None, joined=0, **NOW)),
        (CLAIMED, e.TicketUpdated("t", e.Changes(runat=LATER)), dict(runat=LATER, **NOW)),
        (CLAIMED, e.TicketUpdated("t", e.Changes(group="h")), dict(group="h", joined=12, **NOW)),
        (CLAIMED, e.TicketUpdated("t", e.Changes(group="g")), NOW),
        (KEPT, e.TicketUpdated("t", e.Changes(group="h")), dict(group="h", **NOW)),
        (WAITING, e.TicketUnblocked("t", "x"), dict(blocked_by=("y",), **NOW)),
        (WAITING, e.TicketUnblocked("t", "z"), NOW),
        (WAITING, e.TicketUnblocked("t", "x", "h"), dict(gate=Gate(("x", "y"), "h", "cancel"), **NOW)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, e.Event) else "",
)
def test_an_event_changes_this_and_nothing_else(before, event, after):
    assert evolve(before, event, 12, AT) == changed(before, **after)


def test_an_added_ticket_is_all_new():
    new = Ticket("t", "email", payload={"a": 1}, tube="mail", nice=7, runat=EPOCH, group="g")
    fresh = changed(new, ctime=AT, mtime=AT, version=12, order=12, joined=12)
    for before in (None, KEPT):
        assert evolve(before, ADDED, 12, AT) == fresh
    member = changed(fresh, joined=5)  # it was in the group before, and has not left it
    assert evolve(FRESH, ADDED, 12, AT) == evolve(WAITING, ADDED, 12, AT) == member
    for before in (CLAIMED, SUCCEEDED):
        assert evolve(before, ADDED, 12, AT) == changed(before, successor=member, **NOW)


@pytest.mark.parametrize(
    "event", [e.TicketDeleted("t"), e.TicketExpired("t"), e.TicketDone("t"), e.TicketCancelled("t")]
)
def test_an_event_that_removes(event):
    assert evolve(CLAIMED, event, 12, AT) is None


@pytest.mark.parametrize("event", [event for event in EVENTS if type(event) in SETTLED], ids=lambda e: type(e).__name__)
def test_a_successor_takes_the_place_of_whatever_settles(event):
    assert evolve(SUCCEEDED, event, 12, AT) == changed(SUCCEEDED.successor, **NOW)


def test_a_failure_after_a_lapse_has_no_claim_left_to_end():
    lapsed = evolve(CLAIMED, e.TicketLapsed("t", AT, "lapsed"), 11, AT)
    failed = evolve(lapsed, e.TicketFailed("t", "no attempts left"), 12, AT)
    assert (failed.status, failed.attempts, failed.claim) == (Status.FAILED, 3, None)


def test_a_terminal_ticket_waits_for_nothing():
    for event in (e.TicketDone("t", True), e.TicketFailed("t"), e.TicketCancelled("t", True)):
        after = evolve(WAITING, event, 12, AT)
        assert (after.blocked_by, after.gate, after.blocked) == ((), Gate(("x", "y"), "h", "cancel"), False)
    after = evolve(WAITING, e.TicketUpdated("t", e.Changes(nice=1)), 12, AT)
    assert (after.blocked_by, after.gate, after.blocked) == (WAITING.blocked_by, WAITING.gate, True)


# --- what a ticket waits for ------------------------------------------------------------------------------------------

GATED = e.TicketAdded("t", "email", Raw(b"1"), "mail", 7, EPOCH, None, ("x", "y"), ("y",), "h", True, "cancel")


def test_an_added_ticket_waits_for_what_its_event_says():
    after = evolve(None, GATED, 12, AT)
    assert (after.gate, after.blocked_by, after.blocked) == (Gate(("x", "y"), "h", "cancel", 12), ("y",), True)
    assert (after.after, after.after_group, after.on_failure) == (("x", "y"), "h", "cancel")
    free = evolve(None, msgspec.structs.replace(GATED, blocked_by=(), blocked_by_group=False), 12, AT)
    assert (free.gate, free.blocked_by, free.blocked) == (Gate(("x", "y"), "h", "cancel", 0), (), False)


def test_a_ticket_that_waits_for_a_group_and_is_added_again_waits_since_then():
    assert evolve(WAITING, GATED, 12, AT).gate.since == 3
    for before in (changed(WAITING, gate=Gate((), "other", "run", 3)), FRESH, KEPT, CLAIMED):
        after = evolve(before, GATED, 12, AT)
        assert (after.successor or after).gate.since == 12
    assert evolve(WAITING, msgspec.structs.replace(GATED, blocked_by_group=False), 12, AT).gate.since == 0


def test_a_successor_waits_in_place_of_the_ticket_that_runs():
    running = changed(CLAIMED, successor=changed(WAITING, group="h2", joined=8))
    assert not running.blocked
    freed = evolve(running, e.TicketUnblocked("t", "x"), 12, AT)
    assert (freed.claim, freed.successor.blocked_by, freed.successor.blocked) == (9, ("y",), True)
    freed = evolve(freed, e.TicketUnblocked("t", "m", "h"), 13, AT)
    freed = evolve(freed, e.TicketUnblocked("t", "y"), 14, AT)
    assert (freed.successor.blocked, freed.successor.gate.since) == (False, 0)
    dropped = evolve(running, e.TicketUnblocked("t", "x", dropped=True), 12, AT)
    assert (dropped.successor, dropped.claim) == (None, 9)


def test_a_ticket_and_its_successor_are_in_two_groups_and_never_twice_in_one():
    running = changed(CLAIMED, successor=changed(FRESH, group="h", joined=11))
    assert memberships(running) == (("g", 5), ("h", 11))
    assert memberships(changed(running, group=None, joined=0)) == (("h", 11),)
    moved = evolve(running, e.TicketUpdated("t", e.Changes(group="h")), 12, AT)
    assert (moved.joined, moved.successor.joined, memberships(moved)) == (11, 11, (("h", 11),))
    again = evolve(running, ADDED, 12, AT)
    assert (again.successor.group, again.successor.joined, memberships(again)) == ("g", 5, (("g", 5),))
    assert memberships(evolve(running, e.TicketDone("t"), 12, AT)) == (("h", 11),)


# --- as it ended ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "status", "result", "reason"),
    [
        (e.TicketDone("t", False, Raw(b"[2]"), None), Status.DONE, [2], None),
        (e.TicketDone("t", True, Raw(b"[2]"), LATER), Status.DONE, [2], None),
        (e.TicketCancelled("t", False, "unwanted"), Status.CANCELLED, None, "unwanted"),
        (e.TicketCancelled("t", True, "unwanted"), Status.CANCELLED, None, "unwanted"),
        (e.TicketFailed("t", "broke"), Status.FAILED, None, "broke"),
    ],
)
def test_a_ticket_as_it_ended_has_its_result_even_if_it_is_gone(event, status, result, reason):
    end = ended(CLAIMED, event, 12, AT)
    assert (end.status, end.result, end.error_reason) == (status, result, reason)
    assert (end.version, end.mtime, end.claim, end.lease_until) == (12, AT, None, None)
    assert end == (evolve(CLAIMED, event, 12, AT) or end)


@pytest.mark.parametrize("event", [e.TicketDone("t", True), e.TicketCancelled("t")])
def test_a_run_that_ended_is_not_its_successor(event):
    end = ended(SUCCEEDED, event, 12, AT)
    assert (end.type, end.claim, end.successor) == ("email", None, None)
    assert end.status is not Status.PENDING


@pytest.mark.parametrize("event", [e.TicketDeleted("t"), e.TicketExpired("t")])
def test_a_ticket_that_was_removed_ended_as_it_was(event):
    assert ended(KEPT, event, 12, AT) == KEPT


# --- the events themselves --------------------------------------------------------------------------------------------


def test_events_give_their_json_as_new_values():
    ADDED.payload["a"] = 2
    assert ADDED.payload == {"a": 1}
    done = e.TicketDone("t", True, Raw(b"[1]"))
    done.result.append(2)
    assert done.result == [1]
    assert e.TicketDone("t").result is None


@pytest.mark.parametrize(
    "event",
    [
        *EVENTS,
        e.TicketDone("t"),
        e.TicketDone("t", True, Raw(b"null")),
        e.TicketRetried("t", AT, None, e.Changes(1, Raw(b"null"), "slow", None, LATER)),
        e.TicketUpdated("t", e.Changes()),
        e.LogClosed(),
        e.TailCut("0.jsonl", 1, 2, "0.cut"),
        e.LogRepaired("0.jsonl", 1, 2, "0.cut", 3),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_comes_back_from_json_as_it_was(event):
    again = msgspec.json.decode(msgspec.json.encode(event), type=type(event))
    assert again == event
    if isinstance(event, e.TicketEvent):
        assert evolve(CLAIMED, again, 12, AT) == evolve(CLAIMED, event, 12, AT)


def test_a_result_of_null_is_not_the_same_as_no_result():
    assert e.TicketDone("t", True, Raw(b"null")) != e.TicketDone("t", True)
    assert evolve(CLAIMED, e.TicketDone("t", True, Raw(b"null")), 12, AT).result_json == b"null"


def test_events_are_frozen():
    with pytest.raises(AttributeError):
        ADDED.nice = 1


def test_names_are_shared_and_no_more_of_them_kept_than_may_be(monkeypatch):
    def added(number: int) -> Ticket:
        return evolve(None, e.TicketAdded("t", f"type-{number}", Raw(b"1"), "tube", 1, EPOCH), 1, EPOCH)

    names: dict[str, str] = {}
    monkeypatch.setattr(module, "_NAMES", names)
    monkeypatch.setattr(module, "_MAX_NAMES", 3)
    assert added(1).type is added(1).type
    assert added(1).tube is added(2).tube
    assert [added(number).type for number in range(9)] == [f"type-{number}" for number in range(9)]
    assert added(1).type is added(1).type
    assert len(names) == 3
