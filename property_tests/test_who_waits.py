"""Blocking against a second model: any commands, in commits of one or several, some of them undone.

For each blocked ticket, the book holds the ids of its blockers, including members of groups, and scans all tickets
whenever one ends. Kharon holds two numbers instead. They share no code. Besides, no ticket is blocked by an ended
ticket or by itself, an undone commit leaves nothing, not even another order, and a replay gives the same state.
"""

from __future__ import annotations

import copy
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kharon.errors import KharonError
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.commit import Commit
from kharon.model.projection import Effect, Projection
from kharon.model.ticket import Status, Ticket, waits_of
from kharon.testing import EPOCH

IDS = list("abcde")
GROUPS = ["g", "h"]


class Refused(Exception):
    """The book refuses the command."""


class Entry:
    """A ticket, or a successor: only its fields about blocking."""

    def __init__(self, group, after, after_group, on_failure):
        self.status, self.claimed, self.successor = "pending", False, None
        self.group, self.after, self.after_group, self.on_failure = group, set(after), after_group, on_failure
        self.ids: set[str] = set()
        self.members: set[str] = set()

    @property
    def waits(self) -> Entry:
        return self.successor or self

    @property
    def groups(self) -> set[str]:
        if self.status != "pending":
            return set()
        return {one.group for one in (self, self.successor) if one is not None and one.group is not None}


class Book:
    def __init__(self):
        self.entries: dict[str, Entry] = {}

    def pending(self, id):
        return id in self.entries and self.entries[id].status == "pending"

    def do(self, id, change):
        """Change the entry of an id (None: remove it), and unblock or cancel others accordingly."""
        before = self.entries.get(id)
        pending, groups = self.pending(id), set() if before is None else before.groups
        failed = change(before)
        self.follow(id, pending, groups, failed)

    def follow(self, id, pending, groups, failed):
        after = self.entries.get(id)
        ended = pending and not self.pending(id)
        left = groups - (set() if after is None else after.groups)
        failed = failed and ended
        dropped = []
        for name, entry in self.entries.items():
            waits = entry.waits
            concerned = (ended and id in waits.ids) or (waits.after_group in left and id in waits.members)
            if not concerned:
                continue
            if failed and waits.on_failure == "cancel":
                dropped.append(name)
                continue
            if ended:
                waits.ids.discard(id)
            if waits.after_group in left:
                waits.members.discard(id)
        for name in dropped:
            entry = self.entries[name]
            if entry.successor is not None:
                groups = entry.groups
                entry.successor = None
                self.follow(name, True, groups, failed=False)
            elif entry.status == "pending" and (entry.ids or entry.members):
                groups = entry.groups
                entry.status, entry.ids, entry.members = "cancelled", set(), set()
                self.follow(name, True, groups, failed=True)

    # -- commands

    def add(self, id, group, after, after_group, on_failure, on_conflict):
        old = self.entries.get(id)
        if id in after:
            raise Refused
        if old is not None and on_conflict == "skip":
            return
        new = Entry(group, after, after_group, on_failure)
        waits = None
        if old is not None and old.status == "pending" and not (old.claimed and old.successor is None):
            waits = old.waits
        for other in after:
            kept = waits is not None and other in waits.after
            if other in waits.ids if kept else self.pending(other):
                new.ids.add(other)
        if after_group is not None:
            if waits is not None and waits.after_group == after_group:
                new.members = set(waits.members)
            else:
                new.members = {name for name, entry in self.entries.items() if after_group in entry.groups} - {id}
        if self.waits_for(new, id) or (after_group is not None and after_group == group):
            raise Refused

        def change(old):
            if old is not None and old.status == "pending" and old.claimed:
                old.successor = new
            else:
                self.entries[id] = new

        self.do(id, change)
        # It may be blocked by its own run, which is in a group that its successor leaves.
        if after_group is not None and old is not None and old.claimed and after_group in self.entries[id].groups:
            kept = waits is not None and waits.after_group == after_group
            if not kept and new.members:
                new.members.add(id)

    def waits_for(self, entry, id):
        """Whether a ticket blocks one of the blockers of this entry, directly or not."""
        seen, todo = set(), list((entry.ids | entry.members) - {id})  # a wait for its own run to end is not a cycle
        while todo:
            other = todo.pop()
            if other == id:
                return True
            if other not in seen:
                seen.add(other)
                waits = self.entries[other].waits
                todo += waits.ids | waits.members
        return False

    def find(self, id, *statuses, claimed=None):
        entry = self.entries.get(id)
        if entry is None or entry.status not in statuses or (claimed is not None and entry.claimed != claimed):
            raise Refused
        return entry

    def claim(self, id):
        entry = self.find(id, "pending", claimed=False)
        if entry.ids or entry.members:
            raise Refused
        entry.claimed = True

    def settle(self, id, status):
        """End a ticket. `status`: pending, done, failed, cancelled or removed; a removal may count as a failure."""
        entry = self.find(id, "pending")

        def change(entry):
            if entry.successor is not None:
                entry = self.entries[id] = entry.successor
                if status not in ("cancelled", "removed by cancel"):  # a name is cancelled with all that it stands for
                    return False
            entry.claimed = False
            if status.startswith("removed"):
                del self.entries[id]
            elif status != "pending":
                entry.status, entry.ids, entry.members = status, set(), set()
            return status in ("failed", "cancelled", "removed by cancel")

        assert entry is not None
        self.do(id, change)

    def update(self, id, group):
        entry = self.find(id, "pending", "done", "failed", "cancelled")
        if entry.waits.members and entry.waits.after_group == group:
            raise Refused

        def change(entry):
            for one in (entry, entry.successor):
                if one is not None:
                    one.group = group

        self.do(id, change)

    def restart(self, id):
        self.find(id, "done", "failed", "cancelled").status = "pending"

    def delete(self, id):
        if id in self.entries:
            self.do(id, lambda entry: self.entries.pop(id) and False)


# Few ids, and mostly commands that can be carried out: a number picks among the tickets that allow the step.
ids = st.sampled_from(IDS)
groups = st.none() | st.sampled_from(GROUPS)
numbers = st.integers(0, 4)
on_conflict = st.sampled_from(["replace", "replace", "refresh", "skip"])
members = st.builds(
    dict,
    verb=st.just("add"),
    id=ids,
    group=st.sampled_from(GROUPS),
    after=st.just([]),
    after_group=st.none(),
    on_failure=st.just("run"),
    on_conflict=on_conflict,
)
finalizers = st.builds(
    dict,
    verb=st.just("add"),
    id=ids,
    group=st.none() | st.none() | st.sampled_from(GROUPS),
    after=st.just([]),
    after_group=st.sampled_from(GROUPS),
    on_failure=st.sampled_from(["run", "run", "cancel"]),
    on_conflict=on_conflict,
)
followers = st.builds(
    dict,
    verb=st.just("add"),
    id=ids,
    group=groups,
    after=st.lists(ids, min_size=1, max_size=3, unique=True),
    after_group=groups,
    on_failure=st.sampled_from(["run", "cancel"]),
    on_conflict=on_conflict,
)
ENDS = ["pending", "done", "failed", "cancelled", "removed", "removed by cancel"]
ends = st.builds(dict, verb=st.just("settle"), number=numbers, status=st.sampled_from(ENDS))
claims = st.builds(dict, verb=st.just("claim"), number=numbers)
moves = st.builds(dict, verb=st.just("update"), number=numbers, group=groups)
others = st.one_of(
    st.builds(dict, verb=st.just("restart"), number=numbers), st.builds(dict, verb=st.just("delete"), number=numbers)
)
steps = st.one_of(members, finalizers, followers, ends, ends, claims, moves, others)


def command_of(step) -> c.Command:
    verb, id = step["verb"], step["id"]
    if verb == "add":
        ticket = Ticket(id, "x", group=step["group"])
        return c.Add(
            id,
            ticket,
            None,
            step["on_conflict"],
            tuple(step["after"]),
            step["after_group"],
            step["on_failure"],
        )
    if verb == "settle":
        return {
            "pending": c.Retry(id),
            "done": c.Done(id, keep=True),
            "failed": c.Fail(id),
            "cancelled": c.Cancel(id, keep=True),
            "removed": c.Done(id),
            "removed by cancel": c.Cancel(id),
        }[step["status"]]
    return {
        "claim": lambda: c.Claim(id, "w"),
        "update": lambda: c.Update(id, e.Changes(group=step["group"])),
        "restart": lambda: c.Restart(id),
        "delete": lambda: c.Delete(id),
    }[verb]()


class Waiting(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.book = Book()
        self.projection = Projection()
        self.facts: list[Effect] = []
        self.now = EPOCH

    def picked(self, step) -> dict:
        """The step with an id for its number: that of a ticket that allows the step, if there is one."""
        if "id" in step:
            return step
        step = dict(step)
        number, verb = step.pop("number"), step["verb"]
        wanted = {
            "claim": lambda entry: entry.status == "pending" and not entry.claimed and not entry.ids | entry.members,
            "settle": lambda entry: entry.status == "pending",
            "restart": lambda entry: entry.status != "pending",
        }.get(verb, lambda _entry: True)
        fit = [id for id, entry in self.book.entries.items() if wanted(entry)] or IDS
        return step | {"id": fit[number % len(fit)]}

    def on_paper(self, book, steps) -> bool:
        """Do the steps in a book; return whether all are accepted."""
        try:
            for step in steps:
                arguments = {name: value for name, value in step.items() if name != "verb"}
                getattr(book, step["verb"])(**arguments)
        except Refused:
            return False
        return True

    def commit(self, steps, *, keep) -> None:
        steps = [self.picked(step) for step in steps]
        self.now += timedelta(seconds=1)
        self.projection.promote(self.now)
        before = Projection().fold(self.facts)
        book = copy.deepcopy(self.book)
        carried_out = self.on_paper(book, steps)
        commit = Commit(self.projection, c.Context(self.now))
        refused = None
        try:
            commit.run([command_of(step) for step in steps])
        except KharonError as error:
            refused = error
        assert (refused is None) is carried_out, (steps, refused)
        if refused is not None or not keep:
            commit.undo()
            assert list(self.projection.tickets.items()) == list(before.tickets.items())
            assert self.projection == before
            return
        commit.keep()
        self.book = book
        self.facts += commit.effects

    @initialize(steps=st.lists(members | members | finalizers | followers, min_size=3, max_size=8))
    def begin(self, steps):
        for step in steps:
            self.commit([step], keep=True)

    @rule(step=steps)
    def one(self, step):
        self.commit([step], keep=True)

    @rule(steps=st.lists(steps, min_size=2, max_size=4), keep=st.sampled_from([True, True, False]))
    def several(self, steps, keep):
        self.commit(steps, keep=keep)

    def teardown(self):
        """No ticket is blocked for ever: end every unblocked ticket until none is left."""
        projection = Projection().fold(self.facts)
        while free := [t.id for t in projection.tickets.values() if t.status is Status.PENDING and not t.blocked]:
            commit = Commit(projection, c.Context(self.now))
            commit.run([c.Done(free[0], keep=True)])
            commit.keep()
        assert not [t for t in projection.tickets.values() if t.status is Status.PENDING]

    @invariant()
    def nobody_waits_for_ever(self):
        self.projection.check()

    @invariant()
    def the_book_says_the_same(self):
        tickets = self.projection.tickets
        assert tickets.keys() == self.book.entries.keys()
        for id, entry in self.book.entries.items():
            ticket = tickets[id]
            assert (ticket.status, ticket.group, ticket.claim is not None) == (entry.status, entry.group, entry.claimed)
            assert (ticket.successor is None) == (entry.successor is None)
            waits, by_book = waits_of(ticket), entry.waits
            assert set(waits.blocked_by) == by_book.ids
            assert set(self.projection.groups.members(waits)) == by_book.members
            assert waits.blocked == bool(by_book.ids or by_book.members)
        for group in GROUPS:
            inside = [entry for entry in self.book.entries.values() if group in entry.groups]
            assert self.projection.groups.pending_count(group) == len(inside)

    @invariant()
    def a_replay_gives_the_same(self):
        replayed = Projection().fold(self.facts)
        replayed.promote(self.projection.horizon)
        assert replayed == self.projection
        assert list(replayed.tickets) == list(self.projection.tickets)
        assert replayed.groups == self.projection.groups


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=4 * settings().max_examples, stateful_step_count=30)
