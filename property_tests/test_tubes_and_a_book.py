"""Tubes against a naive book: pauses, limits, moves, subscriptions, undone commits, restarts.

The book scans everything for each question. Besides, the records alone are checked against the limits, and the state is
compared with a replay and a loaded snapshot.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from kharon.errors import KharonError
from kharon.log.snapshot import Snapshot, _lines, read_snapshot
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.commit import Commit
from kharon.model.projection import Effect, Projection
from kharon.model.ticket import Status, Ticket
from kharon.testing import EPOCH

TUBES = ["x", "y"]

tubes = st.sampled_from(TUBES)
number = st.integers(0, 15)
nices = st.sampled_from([0, 512, 512])
offsets = st.integers(-9, 3)
per_period = st.tuples(st.none() | st.integers(1, 3), st.integers(1, 3), st.sampled_from([4.0, 4.0, 7.0]))
limits = st.one_of(
    st.just((None, None, None)), st.tuples(st.integers(1, 3), st.none(), st.none()), per_period, per_period
)
add = st.tuples(st.just("add"), nices, offsets, tubes)
claim = st.tuples(st.just("claim"))
command = st.one_of(
    add,
    claim,
    claim,
    claim,
    st.tuples(st.just("done"), number, st.booleans()),
    st.tuples(st.just("release"), number, st.none() | tubes),
    st.tuples(st.just("retry"), number, offsets, st.none() | tubes),
    st.tuples(st.just("again"), number, tubes),
    st.tuples(st.just("move"), number, tubes),
    st.tuples(st.just("delete"), number),
    st.tuples(st.just("pause"), tubes),
    st.tuples(st.just("resume"), tubes),
    st.tuples(st.just("limit"), tubes, limits),
)
claims = st.lists(claim, min_size=1, max_size=3)
ends = st.lists(st.tuples(st.just("done"), number, st.booleans()), min_size=1, max_size=2)
commands = st.lists(command, min_size=1, max_size=4)
step = st.one_of(
    st.tuples(st.just("commit"), claims, st.just(True)),
    st.tuples(st.just("commit"), commands, st.just(True)),
    st.tuples(st.just("commit"), commands | claims, st.just(False)),
    st.tuples(st.just("commit"), ends, st.just(True)),
    st.tuples(st.just("watch"), st.sampled_from([("x", "y"), ("y", "x"), ("x",), ()])),
    st.tuples(st.just("pass"), st.sampled_from([3, 4, 4, 7, 20])),
    st.tuples(st.just("pass"), st.sampled_from([-10, -1])),
    st.tuples(st.just("reopen"), st.booleans()),
)
beginning = st.tuples(
    st.lists(st.tuples(st.just("limit"), tubes, limits), min_size=1, max_size=3), st.lists(add, min_size=5, max_size=8)
)


@dataclass
class Fact:
    """A record of the log."""

    seq: int
    at: datetime
    event: e.Event


@dataclass
class Book:
    """The projection, and a list of its records."""

    projection: Projection = field(default_factory=Projection)
    records: list[Fact] = field(default_factory=list)
    watched: tuple[str, ...] = ("x", "y")
    now: float = 0
    names: int = 0

    # --- the naive side -----------------------------------------------------------------------------------------------

    def instant(self) -> datetime:
        """The time of a record written now."""
        now = EPOCH + timedelta(seconds=self.now)
        return max(now, self.records[-1].at) if self.records else now

    def told(self) -> dict[str, tuple[bool, tuple, list[datetime]]]:
        """Each tube by name: whether it is paused, its limit, and the claims that count, from the records alone."""
        paused: dict[str, bool] = defaultdict(bool)
        limit: dict[str, tuple] = defaultdict(lambda: (None, None, None))
        claims: dict[str, list[datetime]] = defaultdict(list)
        tube_of: dict[str, str] = {}
        then = Projection()
        for record in self.records:
            event = record.event
            if isinstance(event, e.TubeLimited):
                limit[event.tube] = (event.claimed, event.claims, event.period)
                claims[event.tube] = claims[event.tube][-event.claims :] if event.claims else []
            elif isinstance(event, e.TubePaused | e.TubeResumed):
                paused[event.tube] = isinstance(event, e.TubePaused)
            elif isinstance(event, e.TicketClaimed) and limit[tube_of[event.id]][1]:
                claims[tube_of[event.id]].append(record.at)
            effect = then.apply(event, record.seq, record.at)
            if effect.new is not None:
                tube_of[effect.new.id] = effect.new.tube
        return {tube: (paused[tube], limit[tube], claims[tube]) for tube in TUBES}

    def room(self, tube: str, told, instant: datetime) -> float:
        paused, (claimed, claims, period), times = told[tube]
        if paused:
            return 0
        free = float("inf")
        if claimed is not None:
            free = max(0, claimed - sum(ticket.tube == tube for ticket in self.having(claimed=True)))
        if claims is not None:
            age = timedelta(seconds=period)
            free = min(free, claims - sum(time + age > instant for time in times))
        return free

    def tickets(self) -> list[Ticket]:
        return [
            one for one in self.projection.tickets.values() if one is not None
        ]  # within a commit, the ticket may be removed

    def having(self, *, claimed: bool) -> list[Ticket]:
        return [one for one in self.tickets() if one.status is Status.PENDING and (one.claim is not None) is claimed]

    def ready(self) -> list[Ticket]:
        now = EPOCH + timedelta(seconds=self.now)
        found = [one for one in self.having(claimed=False) if one.runat <= now and one.tube in self.watched]
        return sorted(found, key=lambda one: (one.nice, one.runat, one.order))

    def count(self, ready: list[Ticket], told, instant: datetime) -> float:
        waiting = {tube: sum(one.tube == tube for one in ready) for tube in TUBES}
        return sum(min(waiting[tube], self.room(tube, told, instant)) for tube in TUBES)

    def compare(self) -> None:
        """Compare the answers of the projection and the book."""
        projection, told, instant = self.projection, self.told(), self.instant()
        projection.promote(EPOCH + timedelta(seconds=self.now))
        if projection._ready.watched == self.watched:
            next_instant = projection.next_instant(expiration=False)  # without any question before it
        else:
            projection.first_ready(self.watched)
            next_instant = projection.next_instant(expiration=False)
        ready = self.ready()
        count = self.count(ready, told, instant)
        assert projection.ready_count(self.watched) == count
        first = projection.first_ready(self.watched)
        expected = next((one for one in ready if self.room(one.tube, told, instant) > 0), None)
        assert first is expected
        assert (count > 0) == (first is not None), "else a worker would spin, or sleep beside a ticket"
        changes = sorted(
            time + timedelta(seconds=told[tube][1][2]) for tube in TUBES for time in told[tube][2] if told[tube][1][2]
        )
        more = next((one for one in changes if one > instant and self.count(ready, told, one) > count), None)
        now = EPOCH + timedelta(seconds=self.now)
        instants = [one.runat for one in self.having(claimed=False) if one.runat > now]
        instants += [one.lease_until for one in self.having(claimed=True)]
        assert next_instant == min([*instants, *([more] if more else [])], default=None)
        for tube in TUBES:
            value = projection.tube(tube)
            free = self.room(tube, told, instant)
            assert (value.open, value.paused_since is not None) == (free > 0, told[tube][0])
            assert value.claimed == sum(one.tube == tube for one in self.having(claimed=True))
            if value.reopens_at is not None:
                assert not value.open
                assert self.room(tube, told, value.reopens_at) > 0
                assert self.room(tube, told, value.reopens_at - timedelta(microseconds=1)) == 0
        projection.check()

    # --- the steps ----------------------------------------------------------------------------------------------------

    def command(self, verb, *arguments) -> c.Request | None:
        projection = self.projection
        if verb == "add":
            nice, offset, tube = arguments
            self.names += 1
            runat = EPOCH + timedelta(seconds=self.now + offset)
            return c.Add(f"t{self.names}", Ticket(f"t{self.names}", "t", nice=nice, runat=runat, tube=tube))
        if verb == "claim":
            first = projection.first_ready(self.watched)
            return None if first is None else c.Claim(first.id, "w")
        if verb in ("pause", "resume"):
            return (c.Pause if verb == "pause" else c.Resume)(*arguments)
        if verb == "limit":
            return c.Limit(arguments[0], *arguments[1])
        tickets = self.having(claimed=True) if verb in ("done", "release", "again") else self.tickets()
        if not tickets:
            return None
        ticket = tickets[arguments[0] % len(tickets)]
        if verb == "done":
            return c.Done(ticket.id, keep=arguments[1])
        if verb == "again":
            return c.Add(ticket.id, Ticket(ticket.id, "t", tube=arguments[1]))
        if verb == "retry":
            changes = None if arguments[2] is None else e.Changes(tube=arguments[2])
            return c.Retry(ticket.id, delay=max(0, arguments[1]), changes=changes)
        if verb == "move":
            return c.Update(ticket.id, e.Changes(tube=arguments[1]))
        if verb == "release":
            return c.Release(ticket.id, changes=None if arguments[1] is None else e.Changes(tube=arguments[1]))
        return c.Delete(ticket.id)

    def commit(self, verbs, kept) -> None:
        projection = self.projection
        now = EPOCH + timedelta(seconds=self.now)
        projection.promote(now)
        before = (projection.others(), dict(projection.tickets), projection.seq, projection.at)
        commit = Commit(projection, c.Context(now, lease=1000.0))
        for verb in verbs:
            command = self.command(*verb)
            if command is not None:
                try:
                    commit.run((command,))
                except KharonError:
                    kept = False
                    break
        effects: list[Effect] = commit.effects
        if kept:
            commit.keep()
            self.records += [Fact(effect.seq, effect.at, effect.event) for effect in effects]
        else:
            commit.undo()
            assert before == (projection.others(), dict(projection.tickets), projection.seq, projection.at)

    def watch(self, tubes) -> None:
        self.watched = tuple(tubes)

    def reopen(self, snapshot) -> None:
        """Go on from a replay or a snapshot."""
        again = Projection()
        if snapshot and self.records:
            projection = self.projection
            what = Snapshot(
                "ab" * 16,
                projection.seq,
                projection.at,
                "cd" * 32,
                list(projection.tickets.values()),
                projection.others(),
            )
            read = read_snapshot(io.BytesIO(b"".join(_lines(what))), "memory")
            assert read == what
            again.load(read.tickets, read.seq, read.at, read.others)
        else:
            again.fold(self.records)
        assert again == self.projection
        assert again.others() == self.projection.others()
        self.projection = again

    def run(self, step) -> None:
        verb, *arguments = step
        if verb == "pass":
            self.now += arguments[0]
        else:
            getattr(self, verb)(*arguments)
        self.compare()

    def check_limits(self) -> None:
        """Check the records against the limits: never too many claims in a window, nor claimed at once."""
        then = Projection()
        limit: dict[str, e.TubeLimited] = {}
        claims: dict[str, list[datetime]] = defaultdict(list)
        paused: set[str] = set()
        for record in self.records:
            event = record.event
            if isinstance(event, e.TubeLimited):
                limit[event.tube] = event
                claims[event.tube].clear()
            elif isinstance(event, e.TubePaused):
                paused.add(event.tube)
            elif isinstance(event, e.TubeResumed):
                paused.discard(event.tube)
            effect = then.apply(event, record.seq, record.at)
            if not isinstance(event, e.TicketClaimed):
                continue
            tube = effect.old.tube
            assert tube not in paused
            told = limit.get(tube)
            if told is None:
                continue
            if told.claimed is not None:
                assert sum(one.claim is not None and one.tube == tube for one in then.tickets.values()) <= told.claimed
            if told.claims is not None:
                claims[tube].append(record.at)
                window = record.at - timedelta(seconds=told.period)
                assert sum(time > window for time in claims[tube]) <= told.claims


@given(beginning, st.lists(step, min_size=10, max_size=30))
@settings(max_examples=2 * settings().max_examples)
def test_tubes_are_as_a_naive_book_has_them(beginning, steps):
    book = Book()
    for commands in beginning:
        book.commit(commands, kept=True)
    for step in steps:
        book.run(step)
    book.check_limits()
    for snapshot in (False, True):
        book.reopen(snapshot)
        book.compare()
