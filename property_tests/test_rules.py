"""The rules against a second model: any sequence of commands and of time, decided by Kharon and by the book.

The second model is in `book`. The test combines everything that decides when a ticket runs: delays, claims and leases,
blocking by tickets and groups, paused and limited tubes, schedules, and a clock that goes both ways. In half of the
runs each commit is made twice, and undone the first time. Now and then the queue goes on from a replay or a snapshot.
"""

import io
from collections import Counter
from datetime import datetime, timedelta

from book import LEASE, Book, after, blocked, groups_of, waiting
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec import UNSET, Raw

from kharon.errors import KharonError
from kharon.log.snapshot import Snapshot, _lines, read_snapshot
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.commit import Commit
from kharon.model.delays import BackoffDelay, FixedDelay
from kharon.model.projection import Effect, Projection
from kharon.model.ticket import Status, Ticket, memberships, waits_of
from kharon.runtime import requests
from kharon.runtime.waits import GroupWaits
from kharon.store import calendar
from kharon.testing import EPOCH

IDS = ["a", "b", "c", "d"]
TUBES = ["x", "y"]
GROUPS = ["g", "h"]
NAMES = ["s", "t"]
TYPES = ["email", "sms"]
JITTER = 0.5
BACKOFF = BackoffDelay(2, 20, jitter=0.2)

# --- both sides -------------------------------------------------------------------------------------------------------

FIELDS = (
    "id",
    "type",
    "payload",
    "tube",
    "nice",
    "runat",
    "group",
    "status",
    "attempts",
    "ctime",
    "mtime",
    "lease_until",
    "expire_at",
    "error_reason",
    "result",
    "version",
    "claim",
    "worker",
    "order",
    "after",
    "after_group",
    "on_failure",
)
# A successor gets its version and mtime when it becomes the ticket.
SUCCESSOR_FIELDS = (
    "type",
    "payload",
    "tube",
    "nice",
    "runat",
    "group",
    "status",
    "attempts",
    "ctime",
    "order",
    "claim",
    "after",
    "after_group",
    "on_failure",
)


def seen(ticket: Ticket, names=FIELDS) -> dict:
    fields = {name: getattr(ticket, name) for name in names}
    successor = ticket.successor
    return fields | {"blocked_by": ticket.blocked_by, "successor": successor and seen(successor, SUCCESSOR_FIELDS)}


def expected(ticket: dict, names=FIELDS) -> dict:
    fields = {name: ticket[name] for name in names}
    blocked_by = tuple(id for id in ticket["after"] if id in ticket["ids"])
    successor = ticket["successor"]
    return fields | {"blocked_by": blocked_by, "successor": successor and expected(successor, SUCCESSOR_FIELDS)}


def as_json(value: int | None) -> bytes:
    return b"null" if value is None else str(value).encode()


def as_delay(delay):
    if delay == "backoff":
        return BACKOFF
    return FixedDelay(delay[1]) if isinstance(delay, tuple) else delay


def as_changes(changes: dict) -> e.Changes:
    payload = Raw(as_json(changes["payload"])) if "payload" in changes else UNSET
    others = {name: value for name, value in changes.items() if name != "payload"}
    return e.Changes(payload_json=payload, **others)


# Whole seconds, and few of them, so that instants often coincide.
seconds = st.integers(0, 40)
instants = st.integers(-20, 80).map(lambda offset: after(EPOCH, offset))
payloads = st.integers(0, 9) | st.none()
delays = seconds | st.tuples(st.just("fixed"), seconds) | st.just("backoff")
reasons = st.none() | st.sampled_from(["no route", "é\U0001f600"])
expiries = st.none() | st.integers(0, 5) | seconds
limits = st.none() | st.just(1) | st.integers(1, 3)
# One of the three ids added by hand; or a number, the place of an existing ticket, which a schedule may have added.
ids = st.sampled_from(IDS) | st.integers(0, 3)
groups = st.none() | st.sampled_from(GROUPS)
fields = st.fixed_dictionaries(
    {
        "type": st.sampled_from(TYPES),
        "payload": payloads,
        "tube": st.sampled_from(TUBES),
        "nice": st.integers(-1, 1),
        "group": groups,
    }
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "payload": payloads,
        "tube": st.sampled_from(TUBES),
        "nice": st.integers(-1, 1),
        "group": groups,
        "runat": instants,
    },
)
catch_ups = st.sampled_from(["one", "all", "none"])
gates = st.fixed_dictionaries(
    {
        "after": st.lists(ids, max_size=2),
        "after_group": groups,
        "on_failure": st.sampled_from(["run", "run", "cancel"]),
    }
)
workflow = {
    "group": st.sampled_from(GROUPS),
    "shape": st.sampled_from(["fan-in", "fan-in", "chain"]),
    "fields": fields,
    "on_failure": st.sampled_from(["run", "cancel"]),
    "running": st.integers(0, 3),
}
# Limits: tickets claimed at once, and claims per period. Each may be None, and is small otherwise.
told = st.tuples(
    st.sampled_from([None, None, 1, 2]), st.sampled_from([(None, None), (1, 7.0), (2, 7.0), (1, 30.0), (3, 30.0)])
).map(lambda pair: (pair[0], *pair[1]))
# Who settles: the holder of one of the present claims, or of one of the newest claims, even if it is over; or an
# operator, by id.
holders = st.tuples(st.just("holder"), st.integers(0, 1))
settlers = holders | holders | st.tuples(st.just("handed out"), st.integers(0, 5)) | ids


MET: Counter[str] = Counter()
LEAST = 10


def note(situation: str) -> None:
    """Count a situation that must occur often enough for the test to prove anything about it."""
    MET[situation] += 1
    event(situation)


class Counted:
    """A wait for a group: it keeps the number of members by the changes of each commit."""

    def __init__(self, count: int) -> None:
        self.count = count

    def changed(self, _seq: int, difference: int) -> None:
        assert difference
        self.count += difference


class Rules(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.book = Book(EPOCH, TUBES)
        self.projection = Projection()
        self.facts: list[Effect] = []
        self.claims: list[tuple[str, int]] = []
        self.commands_of: dict[str, list[c.ScheduleCommand]] = {}
        self.first: datetime | None = None  # of the schedule that is being set, as the book says
        self.twice = False

    # -- one step on both sides

    def step(self, commands: c.Request | list, error: str | None) -> None:
        """Make one commit; the book has decided already, and says which error is expected."""
        commands = commands if isinstance(commands, list) else [commands]
        watched = GroupWaits()
        counted = {group: Counted(self.projection.groups.pending_count(group)) for group in GROUPS}
        watched.by_name |= {group: {count} for group, count in counted.items()}
        if self.twice:
            tickets, others = list(self.projection.tickets.items()), self.projection.others()
            before = (self.projection.seq, self.projection.at)
            commit, _refused = self.decided(commands)
            self.projection.first_ready(TUBES)  # questions in between have changed nothing either
            commit.undo()
            assert (tickets, others) == (list(self.projection.tickets.items()), self.projection.others())
            assert (self.projection.seq, self.projection.at) == before
            self.projection.check()
        main = self.book.seq - self.projection.seq
        commit, refused = self.decided(commands)
        assert (refused and type(refused).__name__) == error, f"{commands}: {refused!r} {commit.effects}, not {error}"
        if refused is not None:
            commit.undo()
            assert repr(commands[0].id) in str(refused)
        else:
            commit.keep()
            self.facts += commit.effects
            self.check_what_follows(commit.effects[main:])
            if commit.effects:
                watched.deliver(commit.effects)
            assert {group: found.count for group, found in counted.items()} == {
                group: len(self.members(group)) for group in GROUPS
            }
        self.book.begin()

    def decided(self, commands: list) -> tuple[Commit, KharonError | None]:
        commit = Commit(self.projection, c.Context(self.book.now, JITTER, LEASE), self.first_firing)
        try:
            commit.run(commands)
        except KharonError as caught:
            return commit, caught
        return commit, None

    def first_firing(self, command: c.SetSchedule, since: datetime) -> datetime:
        found = calendar.first_firing(command, since)
        assert found == self.first
        return found

    def check_what_follows(self, effects: list[Effect]) -> None:
        """Compare the events that followed from a commit with the book's `told`, and take over their seqs."""
        found = []
        for effect in effects:
            told = effect.event
            assert isinstance(told, (e.TicketCancelled, e.TicketUnblocked)), f"nobody has asked for {told}"
            ticket = self.book.tickets[told.id]
            if isinstance(told, e.TicketCancelled):
                found.append(("cancelled", told.id))
                causes = self.book.reasons[told.id] & self.book.failures
                assert told.error_reason in [
                    f"ticket {id!r}, which it waited for, failed or was cancelled" for id in causes
                ]
                ticket["error_reason"] = told.error_reason
            else:
                found.append(("dropped", told.id) if told.dropped else ("unblocked", told.id, told.ended, told.group))
                if not self.book.room(waiting(ticket)["tube"], self.book.instant()):
                    note("unblocked in a tube that is shut")
            note(found[-1][0])
            self.book.record(ticket)
        # A cancelled ticket may have been unblocked by other ends before or not, depending on their order.
        gone = self.book.reasons.keys()
        for one in (found, self.book.told):
            one[:] = sorted((item for item in one if item[0] != "unblocked" or item[1] not in gone), key=repr)
        assert found == self.book.told

    def members(self, group) -> list[str]:
        return [id for id, ticket in self.book.tickets.items() if group in groups_of(ticket)]

    def named(self, id: str | int) -> str:
        """The id; for a number, the id of an existing ticket, counted from the newest."""
        if isinstance(id, str):
            return id
        present = list(self.book.tickets) or IDS
        return present[-1 - id % len(present)]

    def who(self, settler) -> tuple[str, int | None]:
        if not isinstance(settler, tuple):
            return self.named(settler), None
        whose, number = settler
        held = self.held()
        if whose == "holder" and len(held) <= number:
            self.claim_first(TUBES, "w6")
            held = self.held()
        claims = held if whose == "holder" and held else self.claims
        return claims[-1 - min(number, len(claims) - 1)] if claims else ("a", 10**6)  # a claim that never existed

    def held(self) -> list[tuple[str, int]]:
        return [(id, ticket["claim"]) for id, ticket in self.book.tickets.items() if ticket["claim"] is not None]

    def promote(self) -> None:
        self.projection.promote(self.book.now)
        assert self.projection.horizon == self.book.now
        self.asked = self.book.instant()

    # -- commands

    # Hypothesis leaves out some rules in each run. Adding and claiming are here more than once, at the beginning and in
    # two rules each, so that most runs have tickets and claims.

    @initialize(
        many=st.lists(st.tuples(ids, fields, st.none() | instants), min_size=2, max_size=6),
        claim=st.booleans(),
        limits=st.lists(st.tuples(st.sampled_from(TUBES), told), max_size=2),
        scheduled=st.lists(
            st.tuples(st.sampled_from(NAMES), fields, st.sampled_from([15, 40]), catch_ups, st.none()), max_size=2
        ),
        waiting=st.none() | st.fixed_dictionaries(workflow),
        twice=st.booleans(),
    )
    def begin(self, many, claim, limits, scheduled, waiting, twice):
        self.promote()
        self.twice = twice
        for tube, limit in limits:
            self.limit(tube, limit)
        for arguments in scheduled:
            self.schedule(*arguments)
        for id, fields, runat in many:
            self.add(id, fields, runat, None, "replace", None)
        if claim:
            self.claim_first(TUBES, "w0")
        if waiting is not None:
            self.build_a_workflow(**waiting)

    @rule(
        number=st.integers(0, 2),
        fields=fields,
        on_conflict=st.sampled_from(["replace", "replace", "refresh", "skip"]),
        gate=st.none() | gates,
    )
    def add_again(self, number, fields, on_conflict, gate):
        present = sorted((ticket["claim"] is None, id) for id, ticket in self.book.tickets.items())
        if present:
            self.add(present[min(number, len(present) - 1)][1], fields, None, None, on_conflict, gate)

    @rule(many=st.integers(1, 3), again=st.none() | fields)
    def claim_all_that_is_there(self, many, again):
        for _ in range(many):
            self.claim_first(TUBES, "w4")
        if again is not None:
            self.add_again(0, again, "replace", None)

    @rule(
        id=ids,
        fields=fields,
        runat=st.none() | instants,
        delay=st.none() | delays,
        on_conflict=st.sampled_from(["replace", "refresh", "skip", "raise"]),
        gate=st.none() | gates,
    )
    def add(self, id, fields, runat, delay, on_conflict, gate):
        id, others = self.named(id), {name: value for name, value in fields.items() if name != "type"}
        if gate is not None:
            gate = gate | {"after": tuple(dict.fromkeys(self.named(other) for other in gate["after"]))}
            gate = gate if gate["after"] or gate["after_group"] else None
        ticket = Ticket(id, fields["type"], runat=runat, **others)
        error = self.book.add(id, fields, runat, delay, on_conflict, gate)
        waits = () if gate is None else (gate["after"], gate["after_group"], gate["on_failure"])
        self.step(c.Add(id, ticket, None if delay is None else as_delay(delay), on_conflict, *waits), error)

    @rule(**workflow)
    def build_a_workflow(self, group, shape, fields, on_failure, running):
        """Add two members of a group and a ticket that it blocks; or three, each blocked by the one before.

        The claimed ones among them, if so many may be claimed, become that when they settle.
        """
        for _ in range(running):
            self.claim_first(TUBES, "w7")
        if shape == "chain":
            behind = [{"after": [id], "after_group": None, "on_failure": on_failure} for id in IDS]
            steps = [(group, None), (None, behind[0]), (None, behind[1])]
        else:
            steps = [
                (group, None),
                (group, None),
                (None, {"after": [], "after_group": group, "on_failure": on_failure}),
            ]
        for id, (member_of, gate) in zip(IDS, steps, strict=False):
            self.add(id, fields | {"group": member_of}, None, None, "replace", gate)

    @rule(
        number=st.integers(0, 2),
        verb=st.sampled_from(["done", "fail", "fail", "cancel", "delete", "move"]),
        keep=st.booleans(),
        group=groups,
    )
    def end_what_is_waited_for(self, number, verb, keep, group):
        waits = [waiting(ticket) for ticket in self.book.tickets.values()]
        waited = sorted({id for one in waits for id in one["ids"] | one["members"]})
        if not waited:
            return
        id = waited[number % len(waited)]
        if verb == "delete":
            self.step(c.Delete(id), self.book.delete(id))
        elif verb == "move":
            self.update(id, {"group": group})
        elif verb == "fail":
            self.fail(id, None, None)
        else:
            getattr(self, verb)(id, keep, None, None)

    @rule(tubes=st.sampled_from([["x"], ["y"], ["x", "y"]]), worker=st.sampled_from(["w1", "w2"]))
    def claim_first(self, tubes, worker):
        self.promote()
        line = self.line(self.book.now, tubes)
        first = self.projection.first_ready(tubes)
        assert (first and first.id) == (line[0]["id"] if line else None)
        for ticket in self.book.due(self.book.now, tubes)[:1]:
            self.note_what_shuts(ticket["tube"])
        if first:
            self.step(c.Claim(first.id, worker), self.book.claim(first.id, worker))
            self.claims.append((first.id, self.book.seq))

    def line(self, now, tubes) -> list[dict]:
        """The due tickets whose tube has room."""
        return [ticket for ticket in self.book.due(now, tubes) if self.book.room(ticket["tube"], self.asked)]

    def note_what_shuts(self, tube) -> None:
        told, (claimed, claims, _period) = self.book.tubes[tube], self.book.tubes[tube]["limit"]
        if told["paused"]:
            note("a claim met a paused tube")
        elif not self.book.room(tube, self.asked):
            at_once = claimed is not None and self.book.claimed_count(tube) >= claimed
            note("a claim met a tube with enough claimed" if at_once else "a claim met a tube claimed from enough")
        elif claims is not None and len(self.book.tubes[tube]["made"]) >= claims:
            note("a claim met a tube that has reopened")

    def claim_by_id(self, id):
        ticket = self.book.tickets.get(id)
        if ticket is not None and not self.book.room(ticket["tube"], self.book.instant()):
            return  # the question which to claim comes first, and would not give this one
        error = self.book.claim(id, "w3")
        self.step(c.Claim(id, "w3"), error)
        if error is None:
            self.claims.append((id, self.book.seq))

    @rule(settler=settlers, seconds=st.just(LEASE) | st.integers(0, 90))
    def extend(self, settler, seconds):
        id, claim = self.who(settler)
        self.step(c.Extend(id, claim, seconds=seconds), self.book.extend(id, claim, seconds))

    @rule(
        settler=settlers,
        keep=st.sampled_from([True, True, False]),
        result=st.none() | st.integers(0, 9),
        expire_in=expiries,
    )
    def done(self, settler, keep, result, expire_in):
        id, claim = self.who(settler)
        command = c.Done(id, claim, keep, None if result is None else as_json(result), expire_in)
        self.step(command, self.book.done(id, claim, keep, result, expire_in))

    @rule(settler=settlers, reason=reasons, expire_in=expiries)
    def fail(self, settler, reason, expire_in):
        id, claim = self.who(settler)
        self.step(c.Fail(id, claim, reason, expire_in), self.book.fail(id, claim, reason, expire_in))

    @rule(settler=settlers, keep=st.sampled_from([True, True, False]), reason=reasons, expire_in=expiries)
    def cancel(self, settler, keep, reason, expire_in):
        id, claim = self.who(settler)
        command = c.Cancel(id, claim, keep, reason, expire_in)
        self.step(command, self.book.cancel(id, claim, keep, reason, expire_in))

    @rule(settler=settlers, delay=delays, reason=reasons, changes=changes, max_attempts=limits)
    def retry(self, settler, delay, reason, changes, max_attempts):
        id, claim = self.who(settler)
        command = c.Retry(id, claim, as_delay(delay), reason, as_changes(changes) if changes else None, max_attempts)
        # In the book the attempts of a ticket with a successor do not count: the successor has none.
        self.step(command, self.book.retry(id, claim, delay, reason, changes, max_attempts))

    @rule(settler=settlers, changes=st.just({}) | changes)
    def release(self, settler, changes):
        id, claim = self.who(settler)
        self.step(c.Release(id, claim, as_changes(changes) if changes else None), self.book.release(id, claim, changes))

    @rule(max_attempts=limits, limit=st.integers(0, 3))
    def lapse_those_whose_lease_has_ended(self, max_attempts, limit):
        over = [
            (ticket["lease_until"], id)
            for id, ticket in self.book.tickets.items()
            if ticket["claim"] is not None and ticket["lease_until"] <= self.book.now
        ]
        lapsed = self.projection.lapsed(self.book.now, limit)
        assert [(ticket.lease_until, ticket.id) for ticket in lapsed] == sorted(over)[:limit]
        for ticket in lapsed:
            self.lapse(ticket.id, ticket.claim, max_attempts)

    @rule(settler=st.none() | settlers, max_attempts=limits)
    def lapse_any_or_all_as_after_a_crash(self, settler, max_attempts):
        if settler is not None:
            self.lapse(*self.who(settler), max_attempts)
            return
        for ticket in list(self.projection.claimed()):
            self.lapse(ticket.id, ticket.claim, max_attempts)
        assert not [id for id, ticket in self.book.tickets.items() if ticket["claim"] is not None]

    def lapse(self, id, claim, max_attempts):
        command = c.Lapse(id, claim, error_reason="lapsed", backoff=BACKOFF, max_attempts=max_attempts)
        self.step(command, self.book.lapse(id, claim, max_attempts))

    # One rule for these four: four rules would remove tickets faster than the others add and claim them.
    @rule(id=ids, verb=st.sampled_from(["claim", "claim", "restart", "restart", "expire", "expire", "delete"]))
    def operate(self, id, verb):
        id = self.named(id)
        if verb == "claim":
            self.claim_by_id(id)
        elif verb == "restart":
            self.step(c.Restart(id), self.book.restart(id))
        elif verb == "expire":
            self.step(c.Expire(id), self.book.expire(id))
        else:
            self.step(c.Delete(id), self.book.delete(id))

    @rule(id=ids, changes=changes)
    def update(self, id, changes):
        id = self.named(id)
        self.step(c.Update(id, as_changes(changes)), self.book.update(id, changes))

    @rule(limit=st.integers(0, 3))
    def expire_those_whose_time_has_come(self, limit):
        over = [
            (ticket["expire_at"], id)
            for id, ticket in self.book.tickets.items()
            if ticket["expire_at"] is not None and ticket["expire_at"] <= self.book.now
        ]
        expired = self.projection.expired(self.book.now, limit)
        assert [(ticket.expire_at, ticket.id) for ticket in expired] == sorted(over)[:limit]
        for ticket in expired:
            self.step(c.Expire(ticket.id), self.book.expire(ticket.id))

    @rule(many=st.integers(1, 4), keep=st.booleans(), seconds=st.sampled_from([0, 0, 3]))
    def work(self, many, keep, seconds):
        """A worker claims one ticket after the other, and settles each before the next."""
        for _ in range(many):
            count = len(self.claims)
            self.claim_first(TUBES, "w5")
            self.book.now = after(self.book.now, seconds)
            for id, claim in self.claims[count:]:
                self.step(c.Done(id, claim, keep), self.book.done(id, claim, keep, None, None))

    # -- tubes

    @rule(tube=st.sampled_from(TUBES), verb=st.sampled_from(["pause", "resume", "resume"]))
    def hold_back(self, tube, verb):
        getattr(self.book, verb)(tube)
        self.step(c.Pause(tube) if verb == "pause" else c.Resume(tube), None)

    @rule(tube=st.sampled_from(TUBES), told=told, worked=st.integers(0, 3))
    def limit_again(self, tube, told, worked):
        """Limit a tube from which several claims have just been made, some seconds apart."""
        self.work(worked, True, 3)
        self.limit(tube, told)

    def limit(self, tube, told):
        self.book.limit(tube, *told)
        self.step(c.Limit(tube, *told), None)

    # -- schedules

    @rule(
        name=st.sampled_from(NAMES),
        fields=fields,
        every=st.sampled_from([15, 15, 40, None]),
        catch_up=catch_ups,
        taken=st.none() | fields,
    )
    def schedule(self, name, fields, every, catch_up, taken):
        """Set or remove a schedule; the id of its next ticket may exist already."""
        self.commands_of.pop(name, None)
        if every is None:
            self.book.unschedule(name)
            self.step(c.RemoveSchedule(name), None)
            return
        ticket = Ticket(name, **fields)
        self.first = self.book.schedule(name, fields, every, catch_up)
        command = requests.schedule(name, every=every, ticket=ticket, catch_up=catch_up)
        self.step(command, None)
        if taken is not None:
            upcoming = self.book.schedules[name]["next"]
            self.add(f"{name}@{upcoming:%Y-%m-%dT%H:%M:%S}Z", taken, None, None, "replace", None)

    @rule(again=st.sampled_from(NAMES))
    def fire(self, again):
        """Fire the due schedules; then repeat a firing of one of them, now or before, which changes nothing."""
        due = sorted((schedule["next"], name) for name, schedule in self.book.schedules.items())
        due = [name for instant, name in due if instant <= self.book.now]
        schedules = self.projection.schedules.due(self.book.now)
        assert [schedule.name for schedule in schedules] == due
        for schedule in schedules:
            note(f"{schedule.catch_up} of {'many' if self.book.missed(schedule.name)[1:] else 'one'} caught up")
            commands = self.commands_of[schedule.name] = calendar.commands(schedule, self.book.now)
            self.book.fire(schedule.name)
            seq = self.book.seq
            self.step(commands, None)
            if any(isinstance(fact.event, e.ScheduleSkipped) for fact in self.facts[seq - self.book.seq :]):
                note("passed over")
        self.step(self.commands_of.get(again, []), None)

    # -- time

    @rule(seconds=seconds | st.just(100), promote=st.booleans(), fire=st.sampled_from([True, True, False]))
    def time_passes(self, seconds, promote, fire):
        self.book.now = after(self.book.now, seconds)
        if promote:
            self.promote()
        if fire:
            self.fire("s")

    @rule(seconds=st.integers(1, 60), promote=st.booleans())
    def the_clock_is_set_back(self, seconds, promote):
        self.book.now = after(self.book.now, -seconds)
        if promote:
            self.promote()

    @rule(early=st.sampled_from([0, 0, 1]), promote=st.booleans())
    def time_passes_until_something_happens(self, early, promote):
        instant = self.projection.next_instant(expiration=True)
        if instant is not None:
            self.book.now = max(self.book.now, instant - early * timedelta(microseconds=1))
        if promote:
            self.promote()

    # -- going on from the records

    @rule(by=st.sampled_from(["fold", "apply", "in two", "snapshot"]))
    def reopen(self, by):
        again = self.snapshot() if by == "snapshot" and self.facts else self.replayed(by)
        assert again == self.projection
        assert again.groups == self.projection.groups
        assert list(again.tickets) == list(self.projection.tickets)
        again.first_ready(TUBES)
        self.projection = again
        self.promote()

    def replayed(self, by) -> Projection:
        again = Projection()
        if by == "apply":
            for fact in self.facts:
                again.apply(fact.event, fact.seq, fact.at)
            return again
        half = len(self.facts) // 2 if by == "in two" else 0
        again.fold(self.facts[:half])
        again.promote(self.book.now)
        return again.fold(iter(self.facts[half:]))

    def snapshot(self) -> Projection:
        live, again = self.projection, Projection()
        saved = Snapshot("ab" * 16, live.seq, live.at, "cd" * 32, list(live.tickets.values()), live.others())
        read = read_snapshot(io.BytesIO(b"".join(_lines(saved))), "memory")
        again.load(read.tickets, read.seq, read.at, read.others)
        return again

    # -- invariants after every step

    @invariant()
    def the_indexes_say_what_the_tickets_say(self):
        self.projection.check()

    @invariant()
    def the_tickets_are_those_of_the_book(self):
        tickets = self.projection.tickets
        assert {id: seen(ticket) for id, ticket in tickets.items()} == {
            id: expected(ticket) for id, ticket in self.book.tickets.items()
        }
        assert (self.projection.seq, self.projection.at) == (self.book.seq, self.book.at)
        groups = self.projection.groups
        for id, ticket in self.book.tickets.items():
            assert set(groups.members(waits_of(tickets[id]))) == waiting(ticket)["members"]
            assert tickets[id].blocked == blocked(ticket)
        for group in GROUPS:
            assert groups.pending_count(group) == len(self.members(group))

    @invariant()
    def nobody_waits_for_what_has_ended(self):
        """By the tickets alone, without the book: each blocked ticket has a blocker that can still end."""
        tickets = self.projection.tickets
        pending = {id: ticket for id, ticket in tickets.items() if ticket.status is Status.PENDING}
        for ticket in tickets.values():
            waits = waits_of(ticket)
            assert all(id in pending for id in waits.blocked_by), f"{ticket} waits for {waits.blocked_by}"
            if waits.gate is not None and waits.gate.since:
                groups = [name for other in pending.values() for name, _ in memberships(other)]
                assert waits.after_group in groups, f"{ticket} waits for group {waits.after_group}"

    @invariant()
    def the_queries_say_what_sorting_says(self):
        horizon, book = self.projection.horizon, self.book
        for tubes in (["x"], ["y"], ["x", "y"]):
            line = self.line(horizon, tubes)
            first = self.projection.first_ready(tubes)
            assert (first and first.id) == (line[0]["id"] if line else None)
            counts = [min(self.ready(tube), book.room(tube, self.asked)) for tube in tubes]
            assert self.projection.ready_count(tubes) == sum(counts)
            instants = [
                book.reopens(tube, self.asked) for tube in tubes if self.ready(tube) > book.room(tube, self.asked)
            ]
            instants += [
                ticket["runat"]
                for ticket in book.tickets.values()
                if ticket["status"] == "pending" and ticket["claim"] is None and not blocked(ticket)
            ]
            instants = [instant for instant in instants if instant is not None and instant > horizon]
            instants += [one["lease_until"] for one in book.tickets.values() if one["claim"] is not None]
            assert self.projection.next_instant(expiration=False) == min(instants, default=None)
            instants += [one["expire_at"] for one in book.tickets.values() if one["expire_at"] is not None]
            assert self.projection.next_instant(expiration=True) == min(instants, default=None)

    def ready(self, tube) -> int:
        return len(self.book.due(self.projection.horizon, [tube]))

    @invariant()
    def the_tubes_are_those_of_the_book(self):
        for tube in TUBES:
            for now in (None, self.book.now):
                instant = self.asked if now is None else self.book.instant()
                told, room = self.book.tubes[tube], self.book.room(tube, instant)
                found = self.projection.tube(tube, now)
                assert (found.ready, found.claimed) == (self.ready(tube), self.book.claimed_count(tube))
                assert (found.paused_since, found.paused_seq) == (told["paused"] or (None, None))
                limit = found.limit and (found.limit.claimed, found.limit.claims, found.limit.period)
                assert limit == (None if told["limit"] == (None, None, None) else told["limit"])
                assert (found.open, found.reopens_at) == (room > 0, None if room else self.book.reopens(tube, instant))
            assert self.projection.room(tube, self.book.now) == (None if room == float("inf") else room)

    @invariant()
    def the_schedules_are_those_of_the_book(self):
        schedules, book = self.projection.schedules, self.book.schedules
        names = ("type", "payload", "tube", "nice", "group", "every", "catch_up", "next", "last")
        found = {each.name: {name: getattr(each, name) for name in names} for each in schedules.values()}
        assert found == book
        assert list(schedules.coming()) == sorted((schedule["next"], name) for name, schedule in book.items())

    # -- invariants at the end

    def teardown(self):
        for by in ("fold", "apply", "snapshot", "in two"):
            self.reopen(by)
            self.projection.check()
        self.everything_runs()

    def everything_runs(self):
        """No ticket is blocked for ever: claim and settle in turn, and let time go on to the next instant."""
        for tube in TUBES:
            self.hold_back(tube, "resume")
        for id, ticket in list(self.book.tickets.items()):
            if ticket["claim"] is not None:
                self.done(id, True, None, None)
        while [id for id in self.book.tickets if self.book.pending(id)]:
            count = len(self.claims)
            self.work(1, True, 0)
            if len(self.claims) == count:
                instant = self.projection.next_instant(expiration=False)
                assert instant is not None, "what is left waits for ever"
                assert instant > self.book.now
                self.book.now = instant
        assert not [ticket for ticket in self.projection.tickets.values() if ticket.status is Status.PENDING]


SITUATIONS = {
    *("a claim met a paused tube", "a claim met a tube claimed from enough", "a claim met a tube with enough claimed"),
    *("a claim met a tube that has reopened", "unblocked in a tube that is shut", "unblocked", "cancelled"),
    *("passed over", "one of many caught up", "all of many caught up", "none of many caught up"),
}


def test_the_rules_are_those_of_the_book():
    run = settings(max_examples=8 * settings().max_examples, stateful_step_count=60)
    MET.clear()
    run_state_machine_as_test(Rules, settings=run)
    seldom = {situation: MET[situation] for situation in SITUATIONS if MET[situation] < LEAST}
    assert not seldom, f"met less than {LEAST} times: {seldom}"
