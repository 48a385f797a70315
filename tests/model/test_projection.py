"""The projection: its queries, and that it moves tickets between its indexes when it must and at no other time."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import Raw

from kharon.errors import KharonError
from kharon.model import events as e
from kharon.model.projection import Effect, Projection
from kharon.model.ticket import Gate, Ticket, draft_of, seal
from kharon.testing import EPOCH


def at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


@dataclass
class Fact:
    seq: int
    at: datetime
    event: e.Event


def added(id, *, nice=512, due=0, tube="default"):
    return e.TicketAdded(id, "x", Raw(b"null"), tube, nice, at(due))


def claimed(id, until=30):
    return e.TicketClaimed(id, 1, at(until), "w")


def projection(*events, promoted=None) -> Projection:
    """Apply these one second apart."""
    made = Projection()
    if promoted is not None:
        made.promote(at(promoted))
    for seq, event in enumerate(events, 1):
        made.apply(event, seq, at(seq))
    made.check()
    return made


def drained(made: Projection, *tubes: str) -> list[str]:
    """The ids in the order of claims."""
    ids = []
    while ticket := made.first_ready(tubes or ("default",)):
        ids.append(ticket.id)
        made.apply(e.TicketDeleted(ticket.id), made.seq + 1, at(999))
        made.check()
    return ids


# --- apply and fold ---------------------------------------------------------------------------------------------------


def test_a_new_projection_is_empty():
    empty = Projection()
    empty.check()
    assert (dict(empty.tickets), empty.seq, empty.at) == ({}, 0, None)
    assert empty.horizon == datetime.min.replace(tzinfo=UTC)
    assert empty.first_ready(("default",)) is None
    assert empty.next_instant(expiration=True) is None
    assert empty.promote(at(0)) == 0
    assert empty.get("a") is None


def test_apply_gives_the_ticket_before_and_after():
    made = Projection()
    effect = made.apply(added("a"), 1, at(1))
    old, new = effect.old, effect.new
    assert old is None
    assert new is made.get("a") is made.tickets["a"]
    effect = made.apply(e.TicketUpdated("a", e.Changes(nice=1)), 2, at(2))
    assert effect.old is new
    newer = effect.new
    assert newer is made.get("a")
    event = e.TicketDeleted("a")
    assert made.apply(event, 3, at(3)) == Effect(3, at(3), event, newer, None, at(2))
    assert (made.seq, made.at, len(made.tickets)) == (3, at(3), 0)


def test_an_event_about_no_ticket_moves_the_seq_alone():
    made = projection(added("a"))
    assert made.apply(e.LogClosed(), 2, at(9)) == Effect(2, at(9), e.LogClosed(), None, None, at(1))
    assert (made.seq, made.at) == (2, at(9))
    assert made.get("a").version == 1
    folded = Projection().fold([Fact(1, at(1), added("a")), Fact(2, at(9), e.LogClosed())])
    assert folded == made


def test_an_event_that_cannot_be_applied_changes_nothing():
    made, same = projection(added("a")), projection(added("a"))
    with pytest.raises(KharonError, match="record 2"):
        made.apply(claimed("b"), 2, at(2))
    made.check()
    assert made == same


def test_a_fold_that_fails_stands_before_the_record_that_failed():
    made = Projection()
    made.promote(at(5))
    facts = [Fact(1, at(1), added("a")), Fact(2, at(2), claimed("b")), Fact(3, at(3), added("c"))]
    with pytest.raises(KharonError, match="record 2"):
        made.fold(facts)
    made.check()
    assert made == projection(added("a"))
    assert made.first_ready(("default",)).id == "a"


def test_fold_goes_on_from_where_the_projection_stands():
    events = [
        added("a", due=3),
        added("b"),
        claimed("b"),
        e.TicketDone("b", True, expire_at=at(50)),
        added("c", due=70),
    ]
    facts = [Fact(seq, at(seq), event) for seq, event in enumerate(events, 1)]
    made = Projection().fold(facts[:2])
    made.check()
    made.promote(at(3))
    assert made.fold(iter(facts[2:])) is made
    made.check()
    assert made == projection(*events)
    assert made.horizon == at(3)
    assert made.first_ready(("default",)).id == "a"
    assert (made.seq, made.at) == (5, at(5))


def test_fold_removes_what_is_removed():
    events = [added("a"), added("b"), e.TicketDeleted("a"), claimed("b"), e.TicketDone("b"), added("a", nice=2)]
    folded = Projection().fold(Fact(seq, at(seq), event) for seq, event in enumerate(events, 1))
    folded.check()
    assert folded == projection(*events)
    assert list(folded.tickets) == ["a"]


def test_a_fold_of_nothing_changes_nothing():
    made = projection(added("a"))
    assert made.fold([]) == projection(added("a"))


def test_the_tickets_can_be_read_and_not_changed():
    made = projection(added("a"))
    with pytest.raises(TypeError):
        made.tickets["b"] = made.tickets["a"]
    assert list(made.tickets) == ["a"]


def test_projections_are_equal_by_tickets_and_place():
    made = projection(added("a"))
    assert made == projection(added("a"))
    promoted = projection(added("a"), promoted=100)
    assert made == promoted, "how far time has been promoted is not part of what happened"
    assert made != projection(added("a", nice=1))
    assert made != projection(added("a"), e.LogClosed())
    other_time = Projection()
    other_time.apply(added("a"), 1, at(1))
    other_time.apply(e.LogClosed(), 2, at(2))
    same_seq = projection(added("a"))
    same_seq.apply(e.LogClosed(), 2, at(3))
    assert other_time != same_seq
    assert made != {"a": made.tickets["a"]}
    with pytest.raises(TypeError, match="unhashable"):
        hash(made)


def test_a_projection_shows_its_size_and_place():
    assert repr(projection(added("a"), added("b"))) == "<Projection of 2 tickets at seq 2>"


# --- ready ------------------------------------------------------------------------------------------------------------


def test_nothing_is_ready_before_it_is_promoted():
    made = projection(added("a", due=0))
    assert made.first_ready(("default",)) is None
    assert made.promote(at(0)) == 1
    assert made.first_ready(("default",)).id == "a"
    assert made.promote(at(0)) == 0


def test_a_ticket_is_promoted_at_its_very_instant():
    made = projection(added("a", due=10))
    assert made.promote(at(10) - timedelta(microseconds=1)) == 0
    assert made.promote(at(10)) == 1
    made.check()


def test_what_is_due_by_the_horizon_is_ready_when_it_is_added():
    made = projection(added("a", due=10), added("b", due=11), promoted=10)
    assert drained(made) == ["a"]


def test_the_order_of_claims_is_nice_then_runat_then_adding():
    made = projection(
        added("last", nice=9, due=1),
        added("late", nice=5, due=8),
        added("early", nice=5, due=2),
        added("also early", nice=5, due=2),
        added("a", nice=5, due=2),
        added("first", nice=-1, due=9),
        added("not due", nice=-5, due=11),
        promoted=10,
    )
    assert drained(made) == ["first", "early", "also early", "a", "late", "last"]


def test_the_order_of_claims_is_the_same_however_it_was_built():
    events = [added("c", nice=2, due=3), added("b", nice=2, due=3), added("a", nice=1, due=4), added("d", due=1)]
    before, after = projection(*events, promoted=9), projection(*events)
    after.promote(at(9))
    folded = Projection().fold([Fact(seq, at(seq), event) for seq, event in enumerate(events, 1)])
    folded.promote(at(9))
    for made in (before, after, folded):
        made.check()
        assert drained(made) == ["a", "c", "b", "d"]


def test_adding_again_and_restarting_go_to_the_end_of_the_line():
    made = projection(added("a"), added("b"), added("a"), promoted=100)
    assert drained(made) == ["b", "a"]
    made = projection(added("a"), e.TicketFailed("a"), added("b"), e.TicketRestarted("a", at(0)), promoted=100)
    assert drained(made) == ["b", "a"]


def test_a_release_and_an_update_keep_the_place_in_the_line():
    changes = e.TicketUpdated("a", e.Changes(payload_json=Raw(b"1")))
    made = projection(added("a"), added("b"), claimed("a"), e.TicketReleased("a"), changes, promoted=100)
    assert drained(made) == ["a", "b"]


def test_tubes_are_claimed_from_as_one_line():
    made = projection(
        added("a", tube="x", nice=3), added("b", tube="y", nice=2), added("c", tube="x", nice=1), promoted=9
    )
    assert made.ready_count(("x",)) == 2
    assert made.ready_count(("x", "y", "z")) == 3
    assert made.ready_count(()) == 0
    assert made.first_ready(()) is None
    assert made.first_ready(("z",)) is None
    assert made.first_ready(iter(["z", "y"])).id == "b"
    assert drained(made, "y", "x") == ["c", "b", "a"]
    assert made.ready_count(("x", "y")) == 0


def test_an_empty_tube_is_forgotten():
    made = projection(*(added(str(n), tube=f"tube-{n}") for n in range(50)), promoted=9)
    assert drained(made, *(f"tube-{n}" for n in range(50))) == [str(n) for n in range(50)]
    assert not made._ready.ready


def test_an_update_moves_a_ticket_between_tubes_and_indexes():
    made = projection(added("a", tube="x"), promoted=100)
    made.apply(e.TicketUpdated("a", e.Changes(tube="y")), 2, at(2))
    made.check()
    assert (made.ready_count(("x",)), made.ready_count(("y",))) == (0, 1)
    made.apply(e.TicketUpdated("a", e.Changes(runat=at(200))), 3, at(3))
    made.check()
    assert made.ready_count(("x", "y")) == 0
    assert made.next_instant(expiration=True) == at(200)
    made.promote(at(200))
    made.check()
    assert made.ready_count(("y",)) == 1


def test_a_blocked_ticket_is_in_no_index():
    blocked = e.TicketAdded("a", "x", Raw(b"null"), "default", 512, at(0), None, ("g",), ("g",))
    made = projection(added("g", due=400, tube="other"), blocked)
    assert made.promote(at(100)) == 0
    made.apply(e.TicketUpdated("a", e.Changes(nice=1)), 3, at(3))
    made.check()
    assert made.first_ready(("default",)) is None
    assert made.next_instant(expiration=True) == at(400)
    made.fold([Fact(4, at(4), e.TicketUpdated("a", e.Changes(nice=2)))])
    made.check()
    assert made.first_ready(("default",)) is None
    made.apply(e.TicketUnblocked("a", "g"), 5, at(5))
    made.check()
    assert made.first_ready(("default",)).id == "a"


# --- the clock, set back ----------------------------------------------------------------------------------------------


def test_a_backward_step_takes_back_what_is_not_due_any_more():
    made = projection(
        added("a", due=5, tube="x"), added("b", due=10, tube="x"), added("c", due=20, tube="y"), promoted=30
    )
    assert made.promote(at(5)) == 2
    made.check()
    assert made.horizon == at(5)
    assert made.ready_count(("x", "y")) == 1
    assert made.first_ready(("x", "y")).id == "a"
    assert made.next_instant(expiration=True) == at(10)
    assert made.promote(at(20)) == 2
    made.check()
    assert drained(made, "x", "y") == ["a", "b", "c"]


def test_a_backward_step_with_nothing_to_take_back():
    made = projection(added("a", due=5), promoted=30)
    assert made.promote(at(6)) == 0
    made.check()
    assert made.horizon == at(6)


def test_after_a_backward_step_what_is_added_is_measured_by_it():
    made = projection(promoted=30)
    made.promote(at(5))
    made.apply(added("a", due=10), 1, at(5))
    made.check()
    assert made.first_ready(("default",)) is None


# --- leases, expiries, the next instant -------------------------------------------------------------------------------


def test_the_leases_that_have_ended_come_earliest_first():
    made = projection(
        *(added(id) for id in "abcd"), claimed("a", 30), claimed("b", 10), claimed("c", 20), claimed("d", 40)
    )
    assert [ticket.id for ticket in made.lapsed(at(30), 99)] == ["b", "c", "a"]
    assert [ticket.id for ticket in made.lapsed(at(30), 2)] == ["b", "c"]
    assert made.lapsed(at(30), 0) == []
    assert made.lapsed(at(10) - timedelta(microseconds=1), 99) == []
    assert [ticket.id for ticket in made.claimed()] == ["b", "c", "a", "d"]


def test_an_extended_lease_moves_and_a_settled_one_goes():
    made = projection(added("a"), added("b"), claimed("a", 10), claimed("b", 20), e.LeaseExtended("a", at(50)))
    assert [ticket.id for ticket in made.claimed()] == ["b", "a"]
    assert made.next_instant(expiration=False) == at(20)
    made.apply(e.TicketDone("b"), 6, at(6))
    made.check()
    assert [ticket.id for ticket in made.claimed()] == ["a"]
    assert made.next_instant(expiration=False) == at(50)


def test_a_claimed_ticket_is_not_ready():
    made = projection(added("a"), claimed("a"), promoted=100)
    assert made.first_ready(("default",)) is None
    assert made.ready_count(("default",)) == 0


def test_a_successor_is_ready_once_the_claim_ends():
    made = projection(added("a"), claimed("a"), added("a", nice=1), promoted=100)
    assert made.first_ready(("default",)) is None
    made.apply(e.TicketDone("a"), 4, at(4))
    made.check()
    assert made.first_ready(("default",)).nice == 1


def test_the_kept_tickets_that_have_expired_come_earliest_first():
    made = projection(
        *(added(id) for id in "abcd"),
        e.TicketDone("a", True, expire_at=at(30)),
        e.TicketFailed("b", "x", at(10)),
        e.TicketCancelled("c", True, None, at(20)),
        e.TicketDone("d", True),
    )
    assert [ticket.id for ticket in made.expired(at(30), 99)] == ["b", "c", "a"]
    assert [ticket.id for ticket in made.expired(at(99), 1)] == ["b"]
    assert made.expired(at(9), 99) == []
    made.apply(e.TicketExpired("b"), 9, at(9))
    made.apply(e.TicketRestarted("c", at(0)), 10, at(10))
    made.check()
    assert [ticket.id for ticket in made.expired(at(99), 99)] == ["a"]


def test_the_next_instant_is_the_earliest_of_due_lapse_and_expiry():
    made = projection(added("a", due=30), added("b"), added("c"), claimed("b", 20), promoted=5)
    made.apply(e.TicketDone("c", True, expire_at=at(10)), 5, at(5))
    assert made.next_instant(expiration=True) == at(10)
    assert made.next_instant(expiration=False) == at(20)
    made.apply(e.TicketDeleted("b"), 6, at(6))
    assert made.next_instant(expiration=False) == at(30)
    made.apply(e.TicketDeleted("a"), 7, at(7))
    assert made.next_instant(expiration=False) is None
    assert made.next_instant(expiration=True) == at(10)


# --- check() itself: it must see what it is there to see --------------------------------------------------------------


def spoil(made: Projection, id: str, **changes) -> None:
    draft = draft_of(made.get(id))
    for name, value in changes.items():
        setattr(draft, name, value)
    made._tickets[id] = seal(draft)
    made._reindex()


def successor(**fields) -> Ticket:
    draft = draft_of(Ticket("claimed", "x", group=fields.pop("group", None)))
    for name, value in fields.items():
        setattr(draft, name, value)
    return seal(draft)


SUCCESSOR = successor(group="g", joined=2)
BLOCKED = successor(gate=Gate(("kept",)), blocked_by=("kept",))


@pytest.mark.parametrize(
    ("id", "changes", "words"),
    [
        ("pending", {"order": 0}, "order 0"),
        ("pending", {"order": 9}, "order 9"),
        ("pending", {"version": 99}, "version 99"),
        ("kept", {"runat": None}, "no runat"),
        ("pending", {"ctime": None}, "no ctime"),
        ("pending", {"mtime": None}, "no ctime or mtime"),
        ("pending", {"attempts": -1}, "-1 attempts"),
        ("claimed", {"worker": None}, "half claimed"),
        ("pending", {"worker": "w"}, "half claimed"),
        ("kept", {"claim": 1, "worker": "w", "lease_until": EPOCH}, "done and claimed"),
        ("pending", {"expire_at": EPOCH}, "pending and expires"),
        ("kept", {"successor": Ticket("kept", "x")}, "successor and no claim"),
        ("pending", {"joined": 1}, "joined 1"),
        ("kept", {"group": "g", "joined": 1}, "joined 1"),
        ("pending", {"group": "g"}, "joined 0"),
        ("pending", {"group": "g", "joined": 99}, "joined 99"),
        ("claimed", {"group": "g", "joined": 1, "successor": SUCCESSOR}, "in 'g' twice"),
        ("pending", {"blocked_by": ("claimed",)}, "has no gate"),
        ("pending", {"gate": Gate((), "g", "run", 99)}, "waits since 99"),
        ("pending", {"gate": Gate((), "g", "run", -1)}, "waits since -1"),
        ("pending", {"gate": Gate((), None, "run", 1)}, "waits for no group"),
        ("pending", {"gate": Gate(("kept",)), "blocked_by": ("claimed",)}, "is blocked by"),
        ("kept", {"gate": Gate((), "g", "run", 1)}, "blocked, and claimed or ended"),
        ("claimed", {"gate": Gate(("pending",)), "blocked_by": ("pending",)}, "blocked, and claimed or ended"),
        ("pending", {"gate": Gate(("gone",)), "blocked_by": ("gone",)}, "'gone', which does not exist"),
        ("pending", {"gate": Gate(("kept",)), "blocked_by": ("kept",)}, "'kept', which has ended"),
        ("pending", {"gate": Gate((), "g", "run", 1)}, "a group without members"),
        ("claimed", {"successor": BLOCKED}, "'kept', which has ended"),
        ("pending", {"id": "other"}, "filed as 'pending'"),
    ],
)
def test_check_sees_a_ticket_that_cannot_be(id, changes, words):
    made = projection(
        added("pending", due=99), added("claimed"), added("kept"), claimed("claimed"), e.TicketDone("kept", True)
    )
    if "id" in changes:
        draft = draft_of(made.get(id))
        draft.id = changes["id"]
        made._tickets[id] = seal(draft)
        made._delayed.clear()
        made._delayed.add((at(99), 1, "other"))
    else:
        spoil(made, id, **changes)
    with pytest.raises(AssertionError, match=words):
        made.check()


def test_check_sees_groups_that_say_something_else():
    made = projection(added("a"), e.TicketAdded("m", "x", Raw(b"null"), "default", 512, EPOCH, "g"))
    made.groups._members.clear()
    with pytest.raises(AssertionError, match="groups"):
        made.check()


def test_check_sees_a_commit_that_was_not_ended():
    made = projection(added("a"))
    made.begin()
    with pytest.raises(AssertionError, match="has not been ended"):
        made.check()
    made.end(kept=True)
    made.check()


def test_an_event_is_taken_back_within_a_commit_and_outside_of_one():
    made, twin = projection(added("a")), projection(added("a"))
    for event in (added("b"), e.LogClosed(), e.TicketDeleted("a"), e.TicketUpdated("a", e.Changes(nice=1))):
        made.undo(made.apply(event, 2, at(9)))
        made.check()
        made.begin()
        made.undo(made.apply(event, 2, at(9)))
        made.end(kept=False)
        made.check()
        assert made == twin


def test_check_sees_a_ticket_that_was_never_sealed():
    made = projection(added("a"))
    made._tickets["a"] = draft_of(made.get("a"))
    with pytest.raises(AssertionError, match="never sealed"):
        made.check()


@pytest.mark.parametrize("index", ["_delayed", "_leases", "_expiring"])
def test_check_sees_an_index_that_says_something_else(index):
    made = projection(
        added("a"),
        added("b", due=50),
        added("c"),
        added("d"),
        claimed("c"),
        e.TicketDone("d", True, expire_at=at(60)),
        promoted=10,
    )
    getattr(made, index).clear()
    with pytest.raises(AssertionError, match=f"^{index}: "):
        made.check()
