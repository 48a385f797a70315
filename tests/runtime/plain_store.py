"""A store that has nothing of `LocalStore`: no log and no groups, a list of records and one projection."""

from __future__ import annotations

import math

import trio

from kharon.errors import Closed
from kharon.log.record import CLOCK, Record
from kharon.model import commands as c
from kharon.model.commit import Commit
from kharon.model.projection import Projection
from kharon.model.standing import standing_of
from kharon.store.calendar import Firing, first_firing

__all__ = ["PlainReader", "PlainStore"]


class PlainStore:
    """The state of a queue, until it is closed."""

    def __init__(self, settings, clock, *, deliver, closed):
        self.records = []
        self.settings, self.clock = settings, clock
        self.deliver, self.closed = deliver, closed
        self.projection = Projection()
        self.firing = Firing(self.projection.schedules)
        self.is_open = False
        self.changed = trio.Event()

    async def enter(self):
        await trio.lowlevel.checkpoint()
        if not self.is_open:
            raise Closed("closed")

    async def open(self):
        await trio.lowlevel.checkpoint()
        self.is_open = True

    async def close(self):
        await trio.lowlevel.cancel_shielded_checkpoint()
        self.is_open = False
        self.wake_all()
        self.closed()

    def run(self, commands, by):
        now = self.clock.now()
        self.projection.promote(now)
        policy = self.settings.policy()
        context = c.Context(now, 0.0, policy.process_time, policy.backoff, policy.keep_failed)
        commit = Commit(self.projection, context, first_firing=first_firing)
        try:
            commit.run(commands)
        except BaseException:
            commit.undo()
            raise
        commit.keep()
        if commit.effects:
            of = len(commit.effects)
            self.records += [
                Record(effect.seq, effect.at, by, effect.event, "", (number, of), effect.seq)
                for number, effect in enumerate(commit.effects, 1)
            ]
            self.deliver(commit.effects)
            self.wake_all()
        return [self.projection.get(command.id) if isinstance(command, c.Command) else None for command in commands]

    async def submit(self, commands, by):
        await self.enter()
        return self.run(commands, by)

    async def turn(self, worker, tubes, settle, *, settle_by, claim):
        await trio.lowlevel.cancel_shielded_checkpoint()
        ticket = None if settle is None else self.projection.get(settle.id)
        if ticket is not None and ticket.claim == settle.claim:
            self.run([settle], settle_by)
        self.projection.promote(self.clock.now())
        first = self.projection.first_ready(tubes) if claim else None
        return None if first is None else self.run([c.Claim(first.id, worker)], worker)[0]

    async def wait_ready(self, tubes):
        await self.enter()
        if not self.projection.ready_count(tubes):
            await self.changed.wait()

    def wake_all(self):
        self.changed.set()
        self.changed = trio.Event()

    async def tick(self):
        await self.enter()
        now = self.clock.now()
        if self.projection.promote(now):
            self.wake_all()
        for ticket in self.projection.lapsed(now, 100):
            self.run([self.settings.policy(ticket.type).lapse(ticket, "the lease ended")], CLOCK)
        for ticket in self.projection.expired(now, 100):
            self.run([c.Expire(ticket.id)], CLOCK)
        for commands in self.firing.due(now, 100):
            self.run(commands, CLOCK)
        coming = [self.projection.next_instant(expiration=True), self.firing.coming(now)]
        return min(((instant - now).total_seconds() for instant in coming if instant is not None), default=math.inf)

    async def wait_earlier(self):
        await self.changed.wait()

    async def get(self, id):
        await self.enter()
        return self.projection.get(id)

    async def schedules(self):
        await self.enter()
        return self.projection.schedules.values()

    async def tube(self, name):
        await self.enter()
        self.projection.promote(self.clock.now())
        return self.projection.tube(name)

    async def restricted(self):
        await self.enter()
        return [self.projection.tube(name) for name in self.projection.tubes.names()]

    async def list(self, *, limit, after, **filters):
        await self.enter()
        wanted = {name: value for name, value in filters.items() if value is not None}
        found = [
            ticket
            for ticket in sorted(self.projection.tickets.values(), key=lambda ticket: ticket.order)
            if ticket.order > after and all(getattr(ticket, name) == value for name, value in wanted.items())
        ]
        return found[:limit]

    async def why(self, id, tubes):
        await self.enter()
        return standing_of(self.projection, id, self.clock.now(), tubes)

    async def pending_count(self, group):
        await self.enter()
        return self.projection.groups.pending_count(group), self.projection.seq

    def reader(self, after, id=None):
        return PlainReader(self, after, id)

    async def first(self):
        await self.enter()
        return 1


class PlainReader:
    """Its records."""

    at_end = False

    def __init__(self, store, after, id):
        self.store, self.seq, self.id = store, after, id

    async def read(self):
        await self.store.enter()
        found = self.store.records[self.seq :]
        self.seq, self.at_end = len(self.store.records), True
        return [record for record in found if self.id is None or getattr(record.event, "id", None) == self.id]

    async def wait(self):
        while self.seq >= len(self.store.records):
            await self.store.changed.wait()
            await self.store.enter()

    def close(self):
        pass
