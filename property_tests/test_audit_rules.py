"""Timelines and explanations against the rules and the projection, for any sequence of commands and of time.

`Audited` decides commands as a queue does. Its tickets block each other and are in a group; its tubes are paused and
limited. After each step, `explain` of every ticket is compared with the next claim, and with the records of its tube.
At the end, each ticket's timeline is compared with the folded ticket, at every instant of a possible change and
between.

The test counts the answers that were met: a property that never asks about a tube at its limit proves nothing about
limits.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from datetime import datetime, timedelta

from hypothesis import event as met
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec import UNSET

import kharon
from kharon import Outcome, Phase, Reason, Who, explain, timeline
from kharon.errors import KharonError
from kharon.log.record import Record
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.commit import Commit
from kharon.model.decide import State, state_of
from kharon.model.delays import BackoffDelay, FixedDelay
from kharon.model.evolve import evolve
from kharon.model.projection import Projection
from kharon.model.ticket import Status, Ticket, memberships
from kharon.testing import EPOCH

IDS = ["a", "b", "c", "d"]
TUBES = ["x", "y"]
ids = st.sampled_from(IDS)
who = st.sampled_from(["app", "ann", "worker-1"])
seconds = st.integers(0, 40)
few = st.sampled_from([0, 0, 1, 5, 30])
instants = st.integers(-20, 80).map(lambda offset: EPOCH + timedelta(seconds=offset))
changes = st.fixed_dictionaries(
    {"nice": st.integers(-1, 1)}, optional={"tube": st.sampled_from(TUBES), "runat": instants}
)
limits = st.none() | st.integers(1, 3)
# Limits of each tube from the beginning, mostly small: tickets claimed at once, and claims per period.
told = st.tuples(
    st.sampled_from([None, 1, 1, 2]), st.sampled_from([(None, None), (None, None), (1, 5.0), (1, 30.0), (2, 30.0)])
)
delays = st.sampled_from([0, 1, 5, 30])
expiries = st.none() | seconds


def made(command, **fields):
    """Return a strategy of functions that make the command for an id."""
    return st.fixed_dictionaries(fields).map(lambda values: lambda name: command(name, **values))


def added(id, tube, nice, delay, group, gate):
    return c.Add(id, Ticket(id, "t", tube=tube, nice=nice, group=group), delay, "replace", *gate)


def lapsed(id, fixed, max_attempts):
    backoff = FixedDelay(0) if fixed else BackoffDelay(2, 20, jitter=0)
    return c.Lapse(id, error_reason="lapsed", backoff=backoff, max_attempts=max_attempts)


all_changes = changes.map(lambda values: e.Changes(**values))
gates = st.just(()) | st.tuples(
    st.lists(ids, max_size=2, unique=True).map(tuple), st.sampled_from([None, "g"]), st.sampled_from(["run", "cancel"])
)
add = made(
    added,
    tube=st.sampled_from(TUBES),
    nice=st.integers(-1, 1),
    delay=st.none() | few,
    group=st.sampled_from([None, None, "g"]),
    gate=gates,
)
claim = made(c.Claim, worker=st.sampled_from(["worker-1", "worker-2"]))
retry = made(c.Retry, delay=delays, error_reason=st.just("busy"), changes=st.none() | all_changes, max_attempts=limits)
done = made(c.Done, keep=st.sampled_from([True, True, False]), expire_in=expiries)
fail = made(c.Fail, error_reason=st.just("no"), expire_in=expiries)
cancel = made(c.Cancel, keep=st.booleans(), error_reason=st.just("why"))
update = made(c.Update, changes=all_changes)
lapse = made(lapsed, fixed=st.booleans(), max_attempts=limits)
delete = made(c.Delete)
terminal = st.one_of(made(c.Restart), made(c.Restart), update, made(c.Expire), delete, add)
commands = {  # commands that a ticket's state allows: drawn blindly, almost none would claim or settle
    State.ABSENT: add,
    State.UNCLAIMED: st.one_of(*[claim] * 6, retry, retry, update, update, add, done, fail, cancel, delete),
    State.CLAIMED: st.one_of(
        *(retry, retry, retry, lapse, lapse, made(c.Release), done, done, fail, cancel),
        *(made(c.Extend, seconds=seconds), add, update, delete),
    ),
    State.DONE: terminal,
    State.FAILED: terminal,
    State.CANCELLED: terminal,
}


# The words in the sentence for each reason.
IN_SENTENCE = {
    Reason.RUNNING: "is running: {0.worker!r} has it",
    Reason.LEASE_ENDED: "the lease of {0.worker!r}",
    Reason.NEXT: "a free worker claims it next",
    Reason.BEHIND: "will be claimed first",
    Reason.DELAYED: "is due at {0.due_at:%Y-%m-%d %H:%M:%S} UTC",
    Reason.BLOCKED: "it is blocked by ",
    Reason.NOT_SUBSCRIBED: "no worker claims from its tube {0.ticket.tube!r}",
    Reason.TUBE_PAUSED: "its tube {0.ticket.tube!r} has been paused since record {0.paused_seq}",
    Reason.TUBE_AT_LIMIT: "its tube {0.ticket.tube!r} is at its limit of ",
    Reason.DONE: "it has been done since",
    Reason.FAILED: "it has been failed since",
    Reason.CANCELLED: "it has been cancelled since",
    Reason.ABSENT: "There is no ticket {0.id!r}",
}
MET: Counter[str] = Counter()
ANSWERS = [
    *Reason,
    "behind what uses the limit up",
    "at its limit of claims",
    "at its limit of what is claimed at once",
]
LEAST = 50


class Audited(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.projection = Projection()
        self.now = EPOCH
        self.records: list[Record] = []
        self.claims: list[tuple[str, datetime, int]] = []  # the tube, when, and the seq

    def step(self, command: c.Request, by: str) -> None:
        if isinstance(command, c.Claim):
            by = command.worker
        elif isinstance(command, (c.Lapse, c.Expire)):
            by = "clock"
        at = max([self.now, *(record.at for record in self.records[-1:])])
        commit = Commit(self.projection, c.Context(self.now, 0.5, 10))
        try:
            commit.run([command])
        except KharonError:
            commit.undo()
            return
        commit.keep()
        for effect in commit.effects:
            self.records.append(Record(effect.seq, at, by, effect.event, "0" * 64, (1, 1), 0))
            if isinstance(effect.event, e.TicketClaimed):
                self.claims.append((effect.old.tube, at, effect.seq))

    # -- commands

    @initialize(limits=st.tuples(told, told), many=st.lists(st.tuples(ids, add), min_size=3, max_size=6))
    def begin(self, limits, many):
        for tube, (claimed, per) in zip(TUBES, limits, strict=True):
            self.step(c.Limit(tube, claimed, *per), "ann")
        for id, make in many:
            self.step(make(id), "app")

    # One rule for all of them, since Hypothesis leaves out some rules in each run.
    @rule(data=st.data(), id=ids, many=st.integers(1, 6))
    def act(self, data, id, many):
        for _ in range(many):
            make = data.draw(commands[state_of(self.projection.get(id))])
            self.step(make(id), data.draw(who))
            self.now += timedelta(seconds=data.draw(few))

    @rule(tubes=st.sampled_from([["x"], ["y"], TUBES]), many=st.integers(1, 3))
    def claim_next(self, tubes, many):
        for _ in range(many):
            self.projection.promote(self.now)
            ticket = self.projection.first_ready(tubes)
            if ticket is not None:
                self.step(c.Claim(ticket.id, "worker-1"), "worker-1")

    @rule(tube=st.sampled_from(TUBES), pause=st.sampled_from([True, False, False]))
    def pause_or_resume(self, tube, pause):
        self.step(c.Pause(tube) if pause else c.Resume(tube), "ann")

    @rule(tube=st.sampled_from(TUBES), told=told)
    def limit(self, tube, told):
        self.step(c.Limit(tube, told[0], *told[1]), "ann")

    # -- time

    @rule(seconds=seconds, promote=st.booleans())
    def time_passes(self, seconds, promote):
        self.now += timedelta(seconds=seconds)
        if promote:
            self.projection.promote(self.now)

    @rule(seconds=st.integers(1, 60), promote=st.booleans())
    def the_clock_is_set_back(self, seconds, promote):
        self.now -= timedelta(seconds=seconds)
        if promote:
            self.projection.promote(self.now)

    # -- explain agrees with the next claim

    @invariant()
    def an_explanation_is_what_a_claim_does(self):
        before = self.projection.horizon
        lines = {tubes: self.line([*tubes]) for tubes in ("", "x", "y", "xy")}
        for tubes in (None, "x", "xy"):
            for id in [*IDS, "nobody"]:
                ticket = self.projection.get(id)
                own = ticket.tube if ticket else ""
                self.check_explanation(id, ticket, tubes, lines[own if tubes is None else tubes])
        assert self.projection.horizon == before
        self.projection.check()

    def check_explanation(self, id: str, ticket: Ticket | None, tubes: str | None, told: tuple[list[str], set[str]]):
        line, full = told
        found = explain(self.projection, id, self.now, max_attempts=3, tubes=tubes)  # each letter is a tube
        assert (found.ticket, found.id, found.now) == (ticket, id, self.now)
        if id in line:
            assert found.reasons == (Reason.BEHIND if line.index(id) else Reason.NEXT,)
            assert found.ahead == line.index(id)
            assert found.attempts_left == max(0, 3 - ticket.attempts)
        elif found.reason is Reason.BEHIND:
            self.count("behind what uses the limit up")
            assert found.reasons == (Reason.BEHIND,)
            assert found.ahead == self.ahead(ticket, {ticket.tube} if tubes is None else {*tubes})
            assert found.ahead > 0
            assert ticket.tube in full, "only because the limit is used up by those before it"
            assert self.gates(ticket, tubes) == set()
        else:
            assert not {Reason.NEXT, Reason.BEHIND} & set(found.reasons)
            assert found.ahead is None
            self.check_reason(found, ticket, tubes)
        for reason in found.reasons:
            self.count(reason)
            assert IN_SENTENCE[reason].format(found) in found.sentence
        assert found.due_at == (ticket.runat if ticket and ticket.status is Status.PENDING else None)
        self.check_tube(found, ticket)

    def count(self, answer: str) -> None:
        MET[answer] += 1
        met(answer)

    def line(self, tubes: list[str]) -> tuple[list[str], set[str]]:
        """The ids in the order in which repeated claims take them now, and the tubes that are shut after them."""
        copy = Projection().fold(self.records)
        copy.promote(self.now)
        line = []
        while ticket := copy.first_ready(tubes):
            line.append(ticket.id)
            event = e.TicketClaimed(ticket.id, 1, datetime.max.replace(tzinfo=EPOCH.tzinfo), "w")
            copy.apply(event, copy.seq + 1, max(self.now, copy.at))
        return line, {tube for tube in tubes if not copy.tube(tube).open}

    def check_reason(self, found: kharon.Explanation, ticket: Ticket | None, tubes: str | None) -> None:
        """Check the reasons of a ticket that no claim takes now."""
        if ticket is None:
            assert found.reasons == (Reason.ABSENT,)
        elif ticket.status is not Status.PENDING:
            assert found.reasons == (Reason(ticket.status.value),)
            assert (found.terminal_since, found.expires_at) == (ticket.mtime, ticket.expire_at)
        elif ticket.claim is not None:
            running = self.now < ticket.lease_until
            assert found.reasons == (Reason.RUNNING if running else Reason.LEASE_ENDED,)
            assert (found.worker, found.lease_until) == (ticket.worker, ticket.lease_until)
        else:
            gates = self.gates(ticket, tubes)
            assert set(found.reasons) == gates
            blocked = Reason.BLOCKED in gates
            assert bool(found.blocked_by or found.members_left) == blocked
            assert (found.on_failure is not None) == blocked

    def gates(self, ticket: Ticket, tubes: str | None) -> set[Reason]:
        """The reasons that keep a ticket from being claimed, by the records and the pending tickets."""
        members = 0
        for other in self.projection.tickets.values():
            members += bool(
                ticket.gate is not None
                and ticket.gate.since
                and any(
                    name == ticket.after_group and joined < ticket.gate.since for name, joined in memberships(other)
                )
            )
        found = explain(self.projection, ticket.id, self.now, tubes=tubes)
        assert found.members_left == members
        paused = self.paused(ticket.tube) is not None
        shut = {
            Reason.BLOCKED: bool(members or ticket.blocked_by),
            Reason.NOT_SUBSCRIBED: tubes is not None and ticket.tube not in tubes,
            Reason.TUBE_PAUSED: paused,
            Reason.DELAYED: ticket.runat > self.now,
            Reason.TUBE_AT_LIMIT: not paused and self.room(ticket.tube, self.instant()) == 0,
        }
        return {reason for reason, so in shut.items() if so}

    def ahead(self, ticket: Ticket, tubes: set[str]) -> int:
        """How many tickets are claimed before it: all of its own tube, of other tubes as limits allow."""
        ahead = 0
        for tube in tubes:
            before = [
                other
                for other in self.projection.tickets.values()
                if (other.tube, other.status, other.claim) == (tube, Status.PENDING, None)
                and not other.blocked
                and other.runat <= self.now
                and (other.nice, other.runat, other.order) < (ticket.nice, ticket.runat, ticket.order)
            ]
            ahead += len(before) if tube == ticket.tube else min(len(before), self.room(tube, self.instant()))
        return ahead

    # -- a tube, by the records

    def check_tube(self, found: kharon.Explanation, ticket: Ticket | None) -> None:
        if ticket is None or ticket.status is not Status.PENDING:
            fields = (found.paused_since, found.paused_seq, found.limit, found.tube_claimed, found.reopens_at)
            assert fields == (None,) * 5
            return
        paused = self.paused(ticket.tube)
        assert (found.paused_since, found.paused_seq) == ((paused.at, paused.seq) if paused else (None, None))
        told, instant = self.told(ticket.tube), self.instant()
        limit = found.limit and (found.limit.claimed, found.limit.claims, found.limit.period)
        assert limit == (None if told is None else (told.event.claimed, told.event.claims, told.event.period))
        assert found.tube_claimed == self.claimed_count(ticket.tube)
        ends = [end for end in self.ends(ticket.tube) if end > instant and self.room(ticket.tube, end)]
        shut = self.room(ticket.tube, instant) == 0
        assert found.reopens_at == (min(ends, default=None) if shut else None)
        if Reason.TUBE_AT_LIMIT in found.reasons:
            self.count("at its limit of claims" if ends else "at its limit of what is claimed at once")
            assert ("claimed at once" in found.sentence) is not bool(ends)

    def instant(self) -> datetime:
        """The time of a record written now."""
        return max([self.now, *(record.at for record in self.records[-1:])])

    def paused(self, tube: str) -> Record | None:
        """The record that paused it."""
        told = [one for one in self.records if isinstance(one.event, (e.TubePaused, e.TubeResumed))]
        told = [one for one in told if one.event.tube == tube]
        return told[-1] if told and isinstance(told[-1].event, e.TubePaused) else None

    def told(self, tube: str) -> Record | None:
        """The record of its limit."""
        told = [one for one in self.records if isinstance(one.event, e.TubeLimited) and one.event.tube == tube]
        return told[-1] if told and (told[-1].event.claimed or told[-1].event.claims) else None

    def ends(self, tube: str) -> list[datetime]:
        """When each of the counted claims will stop counting. A new limit keeps as many as it allows."""
        made: list[datetime] = []
        limit = None
        for record in self.records:
            if isinstance(record.event, e.TubeLimited) and record.event.tube == tube:
                limit = record.event
                made = made[-limit.claims :] if limit.claims else []
            elif limit and limit.claims and (tube, record.at, record.seq) in self.claims:
                made = [*made, record.at][-limit.claims :]
        return [at + timedelta(seconds=limit.period) for at in made]

    def claimed_count(self, tube: str) -> int:
        return len([one for one in self.projection.tickets.values() if one.tube == tube and one.claim is not None])

    def room(self, tube: str, instant: datetime) -> float:
        told = self.told(tube)
        if self.paused(tube):
            return 0
        if told is None:
            return float("inf")
        claimed, claims = told.event.claimed, told.event.claims
        at_once = float("inf") if claimed is None else claimed - self.claimed_count(tube)
        per_period = float("inf") if claims is None else claims - len([end for end in self.ends(tube) if end > instant])
        return max(0, min(at_once, per_period))

    # -- a timeline is the ticket at every instant

    def teardown(self):
        for id in IDS:
            mine = [record for record in self.records if getattr(record.event, "id", None) == id]
            if mine:
                for now in (None, mine[-1].at, self.now, mine[-1].at + timedelta(seconds=100)):
                    check_timeline(mine, now)


def check_timeline(records: list[Record], now: datetime | None) -> None:
    found = timeline(records, now)
    end = max([records[-1].at] + ([now] if now else []))
    assert (found.now, found.before) == (end, ())
    assert [step.record for life in found.lives for step in life.steps] == records
    for life in found.lives:
        check_spans(life)
    for life, following in zip(found.lives, [*found.lives[1:], None], strict=True):
        assert life.removed or following is None
        assert life.removed == (life.steps[-1].ticket is None)
        assert life.end == (life.steps[-1].record.at if life.removed else end)
        assert [span.open for span in life.spans if span.open] == ([True] if life_is_open(life) else [])
    check_phases(found, records)
    check_attempts(found, records)
    for life in found.lives:
        for step in life.steps:
            assert (step.who is Who.CLOCK) == (step.record.by == "clock")
            assert (step.who is Who.WORKER) == step.record.by.startswith("worker")


def life_is_open(life: kharon.Life) -> bool:
    return not life.removed and life.steps[-1].record.at < life.end


def check_spans(life: kharon.Life) -> None:
    """The spans are contiguous and cover the life: total = end - begin."""
    spans = list(life.spans)
    edges = [life.begin] + [span.end for span in spans]
    assert [span.begin for span in spans] == edges[:-1]
    assert edges[-1] == life.end
    assert all(span.length > timedelta(0) for span in spans)
    assert life.totals.all == life.end - life.begin
    for phase in Phase:
        of_phase = sum((span.length for span in spans if span.phase is phase), timedelta(0))
        assert getattr(life.totals, phase.name.lower()) == of_phase
    for step in life.steps:
        assert all(span.seq == step.record.seq for span in step.spans)


def check_phases(found: kharon.Timeline, records: list[Record]) -> None:
    """At any instant, the span that covers it agrees with the ticket folded up to there."""
    instants = sorted({record.at for record in records} | {found.now})
    spans = [span for life in found.lives for span in life.spans]
    instants = sorted({*instants, *(span.begin for span in spans)})
    halves = [one + (two - one) / 2 for one, two in itertools.pairwise(instants)]
    for instant in sorted({*instants[:-1], *halves}):
        ticket, backs_off = state_at(records, instant)
        covering = [span for span in spans if span.begin <= instant < span.end]
        if ticket is None:
            assert covering == []
            continue
        (span,) = covering
        assert span.phase is phase_of(ticket, instant, backs_off=backs_off), (instant, span)
        assert span.status is ticket.status
        numbered = span.phase in (Phase.RUNNING, Phase.BACKING_OFF)
        assert span.attempt == (ticket.attempts if numbered else None)


def phase_of(ticket: Ticket, instant: datetime, *, backs_off: bool) -> Phase:
    if ticket.status is not Status.PENDING:
        return Phase.KEPT
    if ticket.claim is not None:
        return Phase.RUNNING
    if ticket.blocked:
        return Phase.BLOCKED
    if ticket.runat <= instant:
        return Phase.READY
    return Phase.BACKING_OFF if backs_off else Phase.DELAYED


def state_at(records: list[Record], instant: datetime) -> tuple[Ticket | None, bool]:
    """The ticket, and whether the end of an attempt set its runat."""
    ticket, backs_off = None, False
    for record in records[: bisect.bisect_right(records, instant, key=lambda record: record.at)]:
        event, old = record.event, ticket
        ticket = evolve(old, event, record.seq, record.at)
        added_again = old is not None and old.successor is not None
        if isinstance(event, (e.TicketRetried, e.TicketLapsed)):
            backs_off = not added_again and old.attempts > 0
        elif isinstance(event, (e.TicketAdded, e.TicketRestarted)):
            backs_off = backs_off and isinstance(event, e.TicketAdded) and ticket.claim is not None
        elif isinstance(event, e.TicketUpdated):
            backs_off = backs_off and event.changes.runat is UNSET
        elif added_again and not isinstance(event, (e.LeaseExtended, e.TicketUnblocked)):
            backs_off = False  # any end of the claim
    return ticket, backs_off


OUTCOMES = {
    "TicketFailed": Outcome.FAILED,
    "TicketCancelled": Outcome.CANCELLED,
    "TicketRetried": Outcome.RETRIED,
    "TicketReleased": Outcome.RELEASED,
    "TicketLapsed": Outcome.LAPSED,
    "TicketDeleted": Outcome.DELETED,
}


def check_attempts(found: kharon.Timeline, records: list[Record]) -> None:
    attempts = [attempt for life in found.lives for attempt in life.attempts]
    claims = [record for record in records if isinstance(record.event, e.TicketClaimed)]
    assert [(attempt.claim, attempt.number) for attempt in attempts] == [(r.seq, r.event.attempt) for r in claims]
    for attempt, claim in zip(attempts, claims, strict=True):
        ticket, ending = None, None
        for record in records:
            ticket = evolve(ticket, record.event, record.seq, record.at)
            if record.seq > claim.seq and (ticket is None or ticket.claim != claim.seq):
                ending = record
                break
        assert (attempt.worker, attempt.begin) == (claim.event.worker, claim.at)
        if ending is None:
            assert (attempt.end, attempt.outcome, attempt.by, attempt.who) == (None, Outcome.RUNNING, None, None)
            continue
        assert (attempt.end, attempt.by) == (ending.at, ending.by)
        assert attempt.error_reason == getattr(ending.event, "error_reason", None)
        name = type(ending.event).__name__
        if name == "TicketDone":
            assert attempt.outcome is (Outcome.DONE if ending.event.keep else Outcome.ACKED)
        else:
            assert attempt.outcome is OUTCOMES[name]


def test_explanations_and_timelines_are_what_happens():
    MET.clear()
    run_state_machine_as_test(
        Audited, settings=settings(max_examples=2 * settings().max_examples, stateful_step_count=20)
    )
    seldom = {answer: MET[answer] for answer in ANSWERS if MET[answer] < LEAST}
    assert not seldom, f"met less than {LEAST} times: {seldom}"
