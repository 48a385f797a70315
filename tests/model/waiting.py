"""A projection that is changed by commits, for tests of what blocks what: each is checked, and replayed, at once."""

from datetime import timedelta

from kharon.errors import KharonError
from kharon.model import commands as c
from kharon.model.commit import Commit
from kharon.model.events import Changes
from kharon.model.projection import Projection
from kharon.model.ticket import Ticket, waits_of
from kharon.testing import EPOCH

__all__ = ["Line", "add", "move"]


def add(id, *after, group=None, after_group=None, on_failure="run", on_conflict="replace", delay=None):
    ticket = Ticket(id, "x", group=group)
    return c.Add(id, ticket, delay, on_conflict, after, after_group, on_failure)


def move(id, group):
    return c.Update(id, Changes(group=group))


class Line:
    """What happened so far; each commit takes place a second after the last."""

    def __init__(self, *commands):
        self.projection = Projection()
        self.facts = []
        self.now = EPOCH
        for command in commands:
            self.do(command)

    def begin(self):
        self.now += timedelta(seconds=1)
        self.projection.promote(self.now)
        return Commit(self.projection, c.Context(self.now, 0.5, 30.0))

    def do(self, *commands):
        """Carry these out as one commit; return each event's name and id, and which end it tells of."""
        commit = self.begin()
        commit.run(commands)
        commit.keep()
        self.facts += commit.effects
        self.prove()
        return [said(effect.event) for effect in commit.effects]

    def refused(self, *commands, by=KharonError):
        """See these refused, and nothing changed; return the message."""
        before = self.picture()
        commit = self.begin()
        try:
            commit.run(commands)
        except by as error:
            commit.undo()
            assert self.picture() == before
            self.prove()
            return str(error)
        raise AssertionError(f"{commands} were carried out")

    def picture(self):
        projection = self.projection
        return list(projection.tickets.items()), projection.seq, projection.at

    def prove(self):
        """The indexes are right, and a replay gives the same: tickets, their order, and who waits."""
        self.projection.check()
        replayed = Projection().fold(self.facts)
        assert replayed == self.projection
        assert list(replayed.tickets) == list(self.projection.tickets)
        assert replayed.groups == self.projection.groups

    # --- looking ------------------------------------------------------------------------------------------------------

    def __getitem__(self, id):
        return self.projection.tickets[id]

    def blocked(self, *ids):
        return [self[id].blocked for id in ids]

    def waits_for(self, id):
        """The ids that this one, or its successor, waits for: those given, then members of its group."""
        waits = waits_of(self[id])
        return [*waits.blocked_by, *self.projection.groups.members(waits)]

    def count(self, group):
        return self.projection.groups.pending_count(group)

    def ready(self):
        """The ids in the order in which they would be claimed now."""
        self.projection.promote(self.now)
        return [key[-1] for ready in self.projection._ready.ready.values() for key in ready]


def said(event):
    name = type(event).__name__.removeprefix("Ticket")
    if name != "Unblocked":
        return f"{name} {event.id}"
    for_group = f" of {event.group}" if event.group is not None else ""
    return f"Unblocked {event.id} by {event.ended}{for_group}{' and dropped' if event.dropped else ''}"
