"""A directory that is closed, killed, torn and reopened at random points keeps its state.

A state machine drives a real store over a real directory: commands alone, in one commit, and by many callers in one
group; workers that claim and settle; tickets blocked by others and by groups; tubes that are paused and limited;
schedules that fire; a clock that goes on and is set back. At random points the queue is closed, or abandoned as by a
kill, perhaps with the beginning of another commit after its last record. Then it is opened again.
"""

import os
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import kharon
from kharon import Settings, Status, Ticket
from kharon.log.directory import DirectoryLog, segments
from kharon.log.record import Chain
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.commit import Commit
from kharon.model.events import Changes
from kharon.model.evolve import evolve
from kharon.model.ticket import waits_of
from kharon.runtime import requests
from kharon.store.local import LocalStore
from kharon.testing import EPOCH

SCALE = int(os.environ.get("KHARON_PROPERTY_SCALE", "1"))
IDS = st.sampled_from("abcdef")
TUBES = ("default", "deep")
GROUPS = ("g", "h")
REFUSALS = (kharon.TicketNotFound, kharon.TicketExists, kharon.InvalidTransition, kharon.InvalidTicket)


class Clock:
    def __init__(self):
        self.time = EPOCH

    def now(self):
        return self.time


def tickets():
    return st.builds(
        Ticket,
        IDS,
        st.sampled_from(["mail", "print"]),
        payload=st.sampled_from([None, "ü", [1, {"x": 2.5}], "x" * 3000]),
        tube=st.sampled_from(TUBES),
        nice=st.integers(0, 3),
        group=st.sampled_from([*GROUPS, None]),
    )


def adds():
    return st.builds(
        lambda ticket, delay, on_conflict: c.Add(ticket.id, ticket, delay, on_conflict),
        tickets(),
        st.sampled_from([None, 0, 1, 30]),
        st.sampled_from(["replace", "refresh", "skip", "raise"]),
    )


def finalizers():
    return st.builds(
        lambda ticket, after, group, on_failure: c.Add(
            ticket.id, ticket, None, "replace", tuple(after), group, on_failure
        ),
        tickets(),
        st.lists(IDS, max_size=2, unique=True),
        st.sampled_from([*GROUPS, *GROUPS, None]),
        st.sampled_from(["run", "cancel"]),
    )


def told():
    """The limits of a tube: tickets claimed at once, and claims in any ten seconds; None: any number."""
    tubes, few = st.sampled_from(TUBES), st.sampled_from([None, 1, 2])
    return st.one_of(
        st.builds(c.Pause, tubes),
        st.builds(c.Resume, tubes),
        st.builds(lambda tube, at_once, n: c.Limit(tube, at_once, n, None if n is None else 10.0), tubes, few, few),
    )


def any_of_all():
    return st.one_of(adds(), finalizers(), by_hand(), told())


def settles(id, claim):
    expire_in = st.sampled_from([None, 5.0])
    return st.one_of(
        st.builds(lambda keep, expire_in: c.Done(id, claim, keep, b"[1]", expire_in), st.booleans(), expire_in),
        st.builds(lambda expire_in: c.Fail(id, claim, "no", expire_in), expire_in),
        st.builds(lambda keep, expire_in: c.Cancel(id, claim, keep, None, expire_in), st.booleans(), expire_in),
        st.builds(lambda most: c.Retry(id, claim, 2.0, "again", Changes(nice=1), most), st.sampled_from([None, 2])),
        st.builds(lambda group: c.Retry(id, claim, 2.0, "moved", Changes(group=group)), st.sampled_from(GROUPS)),
    )


def by_hand():
    return st.one_of(
        IDS.flatmap(lambda name: settles(name, None)),
        st.builds(c.Restart, IDS),
        st.builds(c.Delete, IDS),
        st.builds(c.Release, IDS),
        st.builds(lambda name, tube: c.Update(name, Changes(nice=2, tube=tube)), IDS, st.sampled_from(TUBES)),
        st.builds(lambda name, group: c.Update(name, Changes(group=group)), IDS, st.sampled_from([*GROUPS, None])),
    )


class Reopening(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.where = Path(tempfile.mkdtemp(prefix="kharon-")) / "queue"
        self.clock = Clock()
        self.delivered = []
        self.held = []
        self.lines = []
        self.store = None

    @initialize(fsync=st.sampled_from(["always", "never"]), max_attempts=st.sampled_from([1, 3]))
    def begin(self, fsync, max_attempts):
        self.settings = Settings(fsync=fsync, max_attempts=max_attempts)
        self.open()
        assert self.tickets == {}

    def open(self):
        self.log = DirectoryLog(self.where)
        self.store = LocalStore(
            self.log, self.settings, self.clock, self.delivered.extend, lambda: None, in_thread=False
        )
        trio.run(self.store.open)
        self.opened_at = self.log.seq

    @property
    def tickets(self):
        return self.store.projection.tickets

    async def submit(self, *commands):
        before = self.store.projection.seq
        try:
            await self.store.submit(commands, "app")
        except (*REFUSALS, kharon.FinalizerInGroup):
            return before == self.store.projection.seq
        return True

    # --- commands -----------------------------------------------------------------------------------------------------

    @rule(command=any_of_all())
    def command(self, command):
        assert trio.run(self.submit, command)  # carried out; or refused, without any change

    @rule(commands=st.lists(any_of_all(), min_size=2, max_size=5))
    def one_commit_of_many(self, commands):
        """All commands, or none if one is refused."""
        seq, before = self.log.seq, list(self.tickets.items())
        assert trio.run(self.submit, *commands)
        assert self.log.seq > seq or list(self.tickets.items()) == before

    @rule(ids=st.lists(IDS, min_size=2, max_size=4, unique=True), group=st.sampled_from(GROUPS))
    def fan_out(self, ids, group):
        """Add members of a group and tickets that they block, in one commit."""
        *members, finalizer = ids
        adds = [c.Add(id, Ticket(id, "mail", group=group)) for id in members]
        assert trio.run(self.submit, *adds, c.Add(finalizer, Ticket(finalizer, "print"), after_group=group))

    @rule(commands=st.lists(any_of_all(), min_size=2, max_size=5))
    def many_callers_at_once(self, commands):
        async def all_at_once():
            async with trio.open_nursery() as nursery:
                for command in commands:
                    nursery.start_soon(self.submit, command)

        trio.run(all_at_once)

    @rule(name=st.sampled_from("st"), every=st.sampled_from([None, 20, 60]), catch_up=st.sampled_from(["one", "all"]))
    def schedule(self, name, every, catch_up):
        """Set a schedule, or remove it."""
        command = c.RemoveSchedule(name)
        if every is not None:
            ticket = Ticket(name, "mail")
            command = requests.schedule(name, every=every, ticket=ticket, catch_up=catch_up)
        assert trio.run(self.submit, command)

    @rule(data=st.data(), number=st.integers(0, 5))
    def end_what_is_waited_for(self, data, number):
        """End a ticket by its id, alone or with another in one commit."""
        groups = self.store.projection.groups
        waited = [id for id, ticket in self.tickets.items() if groups.waiters(ticket)]
        if waited:
            first, second = waited[number % len(waited)], waited[-1]
            commands = [data.draw(settles(first, None) | st.just(c.Delete(first)))]
            if first != second:
                commands += data.draw(st.just([]) | st.just([c.Fail(second)]))
            assert trio.run(self.submit, *commands)

    # --- workers ------------------------------------------------------------------------------------------------------

    async def turn(self, settle, *, claim):
        return await self.store.turn("worker-1", TUBES, settle, settle_by="worker-1", claim=claim)

    def claimed(self, ticket):
        if ticket is not None:
            assert self.tickets[ticket.id] == ticket
            self.held.append(ticket)

    @rule()
    def claim(self):
        async def claim():
            return await self.turn(None, claim=True)

        self.claimed(trio.run(claim))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), claim=st.booleans())
    def settle(self, data, claim):
        """A worker settles its ticket, even if its claim is over, and perhaps claims the next."""
        ticket = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        fenced = self.tickets.get(ticket.id) is None or self.tickets[ticket.id].claim != ticket.claim
        command = data.draw(settles(ticket.id, ticket.claim))
        before = len(self.delivered)

        async def settle():
            return await self.turn(command, claim=claim)

        if not fenced and self.would_wait_for_itself(ticket.id, command):
            with pytest.raises(kharon.FinalizerInGroup):
                trio.run(settle)
            assert self.tickets[ticket.id].claim == ticket.claim
            self.held.append(ticket)
            return
        self.claimed(trio.run(settle))
        settled = [
            effect
            for effect in self.delivered[before:]
            if effect.event.id == ticket.id and not isinstance(effect.event, (e.TicketClaimed, e.TicketUnblocked))
        ]
        assert len(settled) == (0 if fenced else 1)

    def would_wait_for_itself(self, id, command):
        """Whether a retry moves a ticket into the group that blocks it or its successor."""
        waits = waits_of(self.tickets[id])
        changes = command.changes if isinstance(command, c.Retry) else None
        return (
            changes is not None
            and waits.gate is not None
            and waits.gate.since > 0
            and changes.group == waits.after_group
        )

    @precondition(lambda self: self.held)
    @rule(seconds=st.sampled_from([10.0, 100.0]))
    def extend(self, seconds):
        ticket = self.held[-1]

        async def extend():
            try:
                await self.store.submit([c.Extend(ticket.id, ticket.claim, seconds=seconds)], "worker-1")
            except kharon.LeaseLost:
                return False
            return True

        kept = getattr(self.tickets.get(ticket.id), "claim", None) == ticket.claim
        assert trio.run(extend) == kept

    # --- time ---------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 2, 15, 40]))
    def time_passes(self, seconds):
        self.clock.time += timedelta(seconds=seconds)
        trio.run(self.store.tick)
        for ticket in self.tickets.values():
            assert ticket.lease_until is None or ticket.lease_until > self.clock.time
            assert ticket.expire_at is None or ticket.expire_at > self.clock.time

    @rule()
    def clock_is_set_back(self):
        self.clock.time -= timedelta(seconds=20)

    # --- reopening ----------------------------------------------------------------------------------------------------

    @rule()
    def close_and_reopen(self):
        trio.run(self.store.close)
        assert kharon.verify(self.where).closed or self.log.seq == self.opened_at  # else nothing to close
        self.reopen()

    @rule(torn=st.sampled_from([0, 1, 60, 91, 150, 10_000]))
    def kill_and_reopen(self, torn):
        """Abandon the queue as by SIGKILL, with all acknowledged records written; perhaps amid the next write."""
        self.log.abandon()
        if torn:
            self.write_beginning_of_a_commit(torn)
        self.reopen()

    def write_beginning_of_a_commit(self, length):
        tail = max((self.where / "log").iterdir())
        last = tail.read_bytes().splitlines(keepends=True)[-1]
        chain = Chain(self.log.seq, last[9:73].decode(), self.store.projection.at)
        unfinished = b"".join(
            chain.commit([e.TicketDeleted("never"), e.TicketDeleted("ever")], self.clock.now(), "app", 0)
        )
        with tail.open("ab") as file:
            file.write(unfinished[: min(length, len(unfinished) - 1)])

    def reopen(self):
        before, others = dict(self.tickets), self.store.projection.others()
        self.delivered.clear()
        self.open()
        assert self.store.projection.others() == others, "tubes and schedules are as they were"
        assert self.tickets.keys() == before.keys()
        for id, old in before.items():
            self.check_reopened(old, self.tickets[id], before)
        lapses = [effect for effect in self.delivered if isinstance(effect.event, e.TicketLapsed)]
        assert len(lapses) == sum(ticket.claim is not None for ticket in before.values())
        self.nobody_waits_for_ever()

    def nobody_waits_for_ever(self):
        """End every unblocked ticket until none is left, in a replayed projection, so that the queue goes on."""
        projection = kharon.replay(self.where)
        assert projection.groups == self.store.projection.groups
        while free := [t.id for t in projection.tickets.values() if t.status is Status.PENDING and not t.blocked]:
            commit = Commit(projection, c.Context(self.clock.now()))
            commit.run([c.Done(id, keep=True) for id in free])
            commit.keep()
        assert not [t for t in projection.tickets.values() if t.status is Status.PENDING]

    def check_reopened(self, old, new, before):
        waits = waits_of(old)
        if waits.blocked and any(isinstance(effect.event, e.TicketFailed) for effect in self.delivered):
            # Its blockers may be among the claims that lapsed for good; test_who_waits checks blocking.
            assert (new.id, new.status) in ((old.id, Status.PENDING), (old.id, Status.CANCELLED))
            assert new.status is Status.PENDING or waits.on_failure == "cancel"
            return
        left = self.left_by_lapses(old, before)
        if old.claim is None:
            for effect in left:
                old = evolve(old, effect.event, effect.seq, effect.at)
            assert new == old
            return
        assert (new.claim, new.worker, new.lease_until, new.successor) == (None,) * 4
        assert (new.blocked_by, new.blocked) == (waits.blocked_by, bool(waits.blocked_by) if left else waits.blocked)
        if old.successor is not None:
            assert new.order == old.successor.order
            assert (new.payload, new.nice, new.tube, new.attempts, new.runat) == (
                *(
                    old.successor.payload,
                    old.successor.nice,
                    old.successor.tube,
                    old.successor.attempts,
                    old.successor.runat,
                ),
            )
            return
        assert (new.payload, new.nice, new.attempts, new.order) == (old.payload, old.nice, old.attempts, old.order)
        if old.attempts >= self.settings.max_attempts:
            assert new.status is Status.FAILED
            assert new.error_reason.startswith("the process that ran it ended (no attempts left")
        else:
            assert new.status is Status.PENDING
            assert new.error_reason == "the process that ran it ended"
            assert new.runat > self.clock.now()

    def left_by_lapses(self, old, before):
        """The event by which a ticket was unblocked when a member's run ended and its successor left the group."""
        told = [
            effect
            for effect in self.delivered
            if isinstance(effect.event, e.TicketUnblocked) and effect.event.id == old.id
        ]
        for effect in told:
            lapsed = before[effect.event.ended]
            assert lapsed.claim is not None
            assert lapsed.group == effect.event.group == waits_of(old).after_group
            assert lapsed.successor.group != lapsed.group
        return told

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def the_indexes_say_what_the_tickets_say(self):
        if self.store is not None:
            self.store.projection.check()

    @invariant()
    def everything_acknowledged_is_written(self):
        if self.store is not None:
            assert self.log.written == self.log.seq == self.store.projection.seq
            if self.settings.fsync == "always":
                assert self.log.durable == self.log.seq

    @invariant()
    def no_record_is_ever_rewritten(self):
        """The log only grows: every earlier line is still in its place, byte by byte."""
        if self.store is not None:
            before = self.lines
            self.lines = [
                line
                for segment in segments(self.where)
                for line in segment.read_bytes().splitlines()
                if b'"event":' in line
            ]
            assert self.lines[: len(before)] == before
            assert len(self.lines) == self.log.seq

    def teardown(self):
        try:
            if self.store is None:
                return
            live = self.store.projection
            assert kharon.replay(self.where) == live
            trio.run(self.store.close)
            assert kharon.replay(self.where).tickets == live.tickets
            times = [record.at for record in kharon.read(self.where)]
            assert times == sorted(times)
        finally:
            shutil.rmtree(self.where.parent)


Reopening.TestCase.settings = settings(
    max_examples=80 * SCALE,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestReopening = Reopening.TestCase
