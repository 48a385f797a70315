"""The rules against a second opinion: any sequence of commands and of time, decided by Kharon and by a small model.

The model is the design's table in plain dicts. It shares no code with `decide`, `evolve` and `Projection`, sorts where
they keep indexes, and knows tickets only by the fields that a user sees and those that say who is first.
"""

from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import UNSET, Raw

from kharon.errors import KharonError
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.commit import Commit
from kharon.model.delays import BackoffDelay, FixedDelay
from kharon.model.projection import Effect, Projection
from kharon.model.ticket import Ticket
from kharon.testing import EPOCH

IDS = ["a", "b", "c"]
TUBES = ["x", "y"]
TYPES = ["email", "sms"]
LEASE = 30
JITTER = 0.5
BACKOFF = BackoffDelay(2, 20, jitter=4)

# --- the model --------------------------------------------------------------------------------------------------------

TERMINAL = ("done", "failed", "cancelled")


def after(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)


def wait_of(delay, attempts: int) -> float:
    """Seconds of a delay as `draw` makes them: a number, ("fixed", n), or "backoff"."""
    if delay == "backoff":
        return min(2**attempts, 16) + 2  # half of the jitter of 4, which is kept free below the cap of 20
    return delay[1] if isinstance(delay, tuple) else delay


class Book:
    """The tickets by the design's table. A method returns the name of the error that it must come to, or None."""

    def __init__(self) -> None:
        self.tickets: dict[str, dict] = {}
        self.seq = 0
        self.now = EPOCH
        self.at: datetime | None = None

    # -- what all share

    def record(self, ticket: dict | None = None) -> None:
        """One more record; its time never goes back."""
        self.seq += 1
        self.at = self.now if self.at is None else max(self.at, self.now)
        if ticket is not None:
            ticket.update(version=self.seq, mtime=self.at)

    def find(self, id: str, *, claimed=None, terminal=False) -> tuple[dict | None, str | None]:
        """The ticket, if it is pending (claimed, or not, if that is said) or terminal; else the error."""
        ticket = self.tickets.get(id)
        if ticket is None:
            return None, "TicketNotFound"
        if (ticket["status"] in TERMINAL) is not terminal:
            return None, "InvalidTransition"
        if claimed is not None and (ticket["claim"] is not None) is not claimed:
            return None, "InvalidTransition"
        return ticket, None

    def lost(self, id: str, claim: int | None) -> bool:
        """Whether the claim that the caller names is over."""
        return claim is not None and (id not in self.tickets or self.tickets[id]["claim"] != claim)

    def settle(self, id: str, claim: int | None, effect, *, claimed=None) -> str | None:
        """End a claim: by its successor if the ticket was added again, else by the effect."""
        if self.lost(id, claim):
            return "LeaseLost"
        ticket, error = self.find(id, claimed=claimed)
        if ticket is None:
            return error
        successor = ticket["successor"]
        ticket.update(claim=None, worker=None, lease_until=None, successor=None)
        if successor is not None:
            self.tickets[id] = successor
            self.record(successor)
        else:
            self.record(ticket)
            effect(ticket)
        return None

    def end(self, ticket: dict, status: str, **fields) -> None:
        ticket.update(status=status, **fields)

    def expiry(self, expire_in: float | None) -> datetime | None:
        return None if expire_in is None else after(self.now, expire_in)

    # -- the table, row by row

    def add(self, id, fields, runat, delay, on_conflict) -> str | None:
        old = self.tickets.get(id)
        if old is not None and on_conflict == "skip":
            return None
        if old is not None and on_conflict == "raise":
            return "TicketExists"
        if runat is not None and delay is not None:
            return "InvalidTicket"
        due = runat if runat is not None else self.now if delay is None else after(self.now, wait_of(delay, 0))
        new = dict.fromkeys(
            ("claim", "worker", "lease_until", "successor", "expire_at", "error_reason", "result"), None
        )
        new.update(fields, id=id, runat=due, status="pending", attempts=0)
        self.record(new)
        new.update(order=self.seq, ctime=self.at)
        if old is not None and old["claim"] is not None:
            old.update(successor=new, version=self.seq, mtime=self.at)
        else:
            self.tickets[id] = new
        return None

    def due(self, now: datetime, tubes) -> list[dict]:
        """The tickets that may be claimed, in the order of claims."""
        found = [
            ticket
            for ticket in self.tickets.values()
            if ticket["status"] == "pending"
            and ticket["claim"] is None
            and ticket["runat"] <= now
            and ticket["tube"] in tubes
        ]
        return sorted(found, key=lambda ticket: (ticket["nice"], ticket["runat"], ticket["order"]))

    def claim(self, id, worker) -> str | None:
        ticket, error = self.find(id, claimed=False)
        if ticket is None:
            return error
        if ticket["runat"] > self.now:
            return "InvalidTransition"
        self.record(ticket)
        ticket["attempts"] += 1
        ticket.update(claim=self.seq, worker=worker, lease_until=after(self.now, LEASE))
        return None

    def extend(self, id, claim, seconds) -> str | None:
        if self.lost(id, claim):
            return "LeaseLost"
        ticket, error = self.find(id, claimed=True)
        if ticket is not None and after(self.now, seconds) > ticket["lease_until"]:
            self.record(ticket)
            ticket["lease_until"] = after(self.now, seconds)
        return error

    def done(self, id, claim, keep, result, expire_in) -> str | None:
        def effect(ticket):
            if keep:
                self.end(ticket, "done", result=result, error_reason=None, expire_at=self.expiry(expire_in))
            else:
                del self.tickets[id]

        return self.settle(id, claim, effect)

    def fail(self, id, claim, reason, expire_in) -> str | None:
        def effect(ticket):
            self.end(ticket, "failed", error_reason=reason, expire_at=self.expiry(expire_in))

        return self.settle(id, claim, effect)

    def cancel(self, id, claim, keep, reason, expire_in) -> str | None:
        def effect(ticket):
            if keep:
                self.end(ticket, "cancelled", error_reason=reason, expire_at=self.expiry(expire_in))
            else:
                del self.tickets[id]

        return self.settle(id, claim, effect)

    def retry(self, id, claim, delay, reason, changes, max_attempts) -> str | None:
        def effect(ticket):
            if max_attempts is not None and ticket["attempts"] >= max_attempts:
                why = f"{reason or 'retried'} (no attempts left after {ticket['attempts']})"
                self.end(ticket, "failed", error_reason=why)
            else:
                ticket.update(runat=after(self.now, wait_of(delay, ticket["attempts"])), error_reason=reason)
                ticket.update(changes)

        return self.settle(id, claim, effect)

    def release(self, id, claim) -> str | None:
        def effect(ticket):
            ticket["attempts"] -= 1

        return self.settle(id, claim, effect, claimed=True)

    def lapse(self, id, claim, max_attempts) -> str | None:
        def effect(ticket):
            if max_attempts is not None and ticket["attempts"] >= max_attempts:
                self.record(ticket)
                why = f"lapsed (no attempts left after {ticket['attempts']})"
                self.end(ticket, "failed", error_reason=why, runat=self.now)
            else:
                ticket.update(runat=after(self.now, wait_of("backoff", ticket["attempts"])), error_reason="lapsed")

        return self.settle(id, claim, effect, claimed=True)

    def restart(self, id) -> str | None:
        ticket, error = self.find(id, terminal=True)
        if ticket is not None:
            self.record(ticket)
            ticket.update(status="pending", attempts=0, runat=self.now, order=self.seq)
            ticket.update(error_reason=None, result=None, expire_at=None)
        return error

    def update(self, id, changes) -> str | None:
        ticket = self.tickets.get(id)
        if ticket is None:
            return "TicketNotFound"
        self.record(ticket)
        ticket.update(changes)
        if ticket["successor"] is not None:
            ticket["successor"].update(changes)
        return None

    def delete(self, id) -> None:
        if self.tickets.pop(id, None) is not None:
            self.record()

    def expire(self, id) -> str | None:
        ticket, error = self.find(id, terminal=True)
        if ticket is not None:
            if ticket["expire_at"] is None or ticket["expire_at"] > self.now:
                return "InvalidTransition"
            del self.tickets[id]
            self.record()
        return error


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
)
# A successor is no ticket yet: its version and mtime are those of the ticket that it will be.
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
)


def seen(ticket: Ticket) -> dict:
    fields = {name: getattr(ticket, name) for name in FIELDS}
    successor = ticket.successor
    fields["successor"] = successor and {name: getattr(successor, name) for name in SUCCESSOR_FIELDS}
    return fields


def expected(ticket: dict) -> dict:
    fields = {name: ticket[name] for name in FIELDS}
    successor = ticket["successor"]
    fields["successor"] = successor and {name: successor[name] for name in SUCCESSOR_FIELDS}
    return fields


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


# Whole seconds, and few of them: what matters is which instants fall together.
seconds = st.integers(0, 40)
instants = st.integers(-20, 80).map(lambda offset: after(EPOCH, offset))
payloads = st.integers(0, 9) | st.none()
delays = seconds | st.tuples(st.just("fixed"), seconds) | st.just("backoff")
reasons = st.none() | st.sampled_from(["no route", "é\U0001f600"])
expiries = st.none() | st.integers(0, 5) | seconds
limits = st.none() | st.just(1) | st.integers(1, 3)
ids = st.sampled_from(IDS)
groups = st.none() | st.sampled_from(["g", "h"])
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
# Who settles: the holder of one of the present claims (the last one, if there are not so many), or of one of the newest
# that were handed out, over or not; or an operator by id.
holders = st.tuples(st.just("holder"), st.integers(0, 2))
settlers = holders | holders | st.tuples(st.just("handed out"), st.integers(0, 5)) | ids


class Rules(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        self.projection = Projection()
        self.facts: list[Effect] = []
        self.claims: list[tuple[str, int]] = []

    # -- one step on both sides

    def step(self, command: c.Command, error: str | None) -> None:
        """Carry out the command; the book has had its turn, and says which error is due."""
        commit, refused = Commit(self.projection, c.Context(self.book.now, JITTER, LEASE)), None
        try:
            commit.run([command])
        except KharonError as caught:
            refused = caught
            commit.undo()
        else:
            commit.keep()
            self.facts += commit.effects
        assert (refused and type(refused).__name__) == error, f"{command}: {refused!r} {commit.effects}, not {error}"
        assert refused is None or repr(command.id) in str(refused)

    def who(self, settler) -> tuple[str, int | None]:
        if isinstance(settler, str):
            return settler, None
        whose, number = settler
        held = [(id, ticket["claim"]) for id, ticket in self.book.tickets.items() if ticket["claim"] is not None]
        claims = held if whose == "holder" and held else self.claims
        return claims[-1 - min(number, len(claims) - 1)] if claims else ("a", 10**6)  # a claim that never was

    def promote(self) -> None:
        self.projection.promote(self.book.now)
        assert self.projection.horizon == self.book.now

    # -- commands

    # Hypothesis leaves some of the rules out of each run. So that there are tickets and claims in most of them, what
    # makes these stands here more than once: at the beginning, and in two rules each.

    @initialize(
        many=st.lists(st.tuples(ids, fields, st.none() | instants), min_size=1, max_size=5), claim=st.booleans()
    )
    def begin(self, many, claim):
        for id, fields, runat in many:
            self.add(id, fields, runat, None, "replace")
        if claim:
            self.claim_first(TUBES, "w0")

    @rule(
        number=st.integers(0, 2), fields=fields, on_conflict=st.sampled_from(["replace", "replace", "replace", "skip"])
    )
    def add_again(self, number, fields, on_conflict):
        present = sorted((ticket["claim"] is None, id) for id, ticket in self.book.tickets.items())
        if present:
            self.add(present[min(number, len(present) - 1)][1], fields, None, None, on_conflict)

    @rule(many=st.integers(1, 3), again=st.none() | fields)
    def claim_all_that_is_there(self, many, again):
        for _ in range(many):
            self.claim_first(TUBES, "w4")
        if again is not None:
            self.add_again(0, again, "replace")

    @rule(
        id=ids,
        fields=fields,
        runat=st.none() | instants,
        delay=st.none() | delays,
        on_conflict=st.sampled_from(["replace", "replace", "skip", "raise"]),
    )
    def add(self, id, fields, runat, delay, on_conflict):
        others = {name: value for name, value in fields.items() if name != "type"}
        ticket = Ticket(id, fields["type"], runat=runat, **others)
        error = self.book.add(id, fields, runat, delay, on_conflict)
        self.step(c.Add(id, ticket, None if delay is None else as_delay(delay), on_conflict), error)

    @rule(tubes=st.sampled_from([["x"], ["y"], ["x", "y"]]), worker=st.sampled_from(["w1", "w2"]))
    def claim_first(self, tubes, worker):
        self.promote()
        line = self.book.due(self.book.now, tubes)
        first = self.projection.first_ready(tubes)
        assert (first and first.id) == (line[0]["id"] if line else None)
        if first:
            self.step(c.Claim(first.id, worker), self.book.claim(first.id, worker))
            self.claims.append((first.id, self.book.seq))

    @rule(id=ids)
    def claim_by_id(self, id):
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
        # By the book a ticket with a successor is not asked how many attempts it has had: the successor has had none.
        self.step(command, self.book.retry(id, claim, delay, reason, changes, max_attempts))

    @rule(settler=settlers)
    def release(self, settler):
        id, claim = self.who(settler)
        self.step(c.Release(id, claim), self.book.release(id, claim))

    @rule(settler=settlers, max_attempts=limits)
    def lapse_any(self, settler, max_attempts):
        self.lapse(*self.who(settler), max_attempts)

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

    @rule(max_attempts=limits)
    def lapse_all_claims_as_after_a_crash(self, max_attempts):
        for ticket in list(self.projection.claimed()):
            self.lapse(ticket.id, ticket.claim, max_attempts)
        assert not [id for id, ticket in self.book.tickets.items() if ticket["claim"] is not None]

    def lapse(self, id, claim, max_attempts):
        command = c.Lapse(id, claim, error_reason="lapsed", backoff=BACKOFF, max_attempts=max_attempts)
        self.step(command, self.book.lapse(id, claim, max_attempts))

    # One rule for these three: as one each they would remove tickets faster than the others add and claim them.
    @rule(id=ids, verb=st.sampled_from(["restart", "restart", "expire", "expire", "delete"]))
    def operate(self, id, verb):
        if verb == "restart":
            self.step(c.Restart(id), self.book.restart(id))
        elif verb == "expire":
            self.step(c.Expire(id), self.book.expire(id))
        else:
            self.step(c.Delete(id), self.book.delete(id))

    @rule(id=ids, changes=changes)
    def update(self, id, changes):
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

    # -- time

    @rule(seconds=seconds, promote=st.booleans())
    def time_passes(self, seconds, promote):
        self.book.now = after(self.book.now, seconds)
        if promote:
            self.promote()

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

    # -- what must hold after every step

    @invariant()
    def the_indexes_say_what_the_tickets_say(self):
        self.projection.check()

    @invariant()
    def the_tickets_are_those_of_the_book(self):
        assert {id: seen(ticket) for id, ticket in self.projection.tickets.items()} == {
            id: expected(ticket) for id, ticket in self.book.tickets.items()
        }
        assert (self.projection.seq, self.projection.at) == (self.book.seq, self.book.at)

    @invariant()
    def the_queries_say_what_sorting_says(self):
        horizon = self.projection.horizon
        for tubes in (["x"], ["y"], ["x", "y"]):
            line = self.book.due(horizon, tubes)
            first = self.projection.first_ready(tubes)
            assert (first and first.id) == (line[0]["id"] if line else None)
            assert self.projection.ready_count(tubes) == len(line)
        tickets = self.book.tickets.values()
        instants = [
            ticket["runat"]
            for ticket in tickets
            if ticket["status"] == "pending" and ticket["claim"] is None and ticket["runat"] > horizon
        ]
        instants += [ticket["lease_until"] for ticket in tickets if ticket["claim"] is not None]
        assert self.projection.next_instant(expiration=False) == min(instants, default=None)
        instants += [ticket["expire_at"] for ticket in tickets if ticket["expire_at"] is not None]
        assert self.projection.next_instant(expiration=True) == min(instants, default=None)

    # -- what must hold at the end

    def teardown(self):
        folded = Projection().fold(self.facts)
        applied = Projection()
        for fact in self.facts:
            applied.apply(fact.event, fact.seq, fact.at)
        half = len(self.facts) // 2
        in_two = Projection().fold(self.facts[:half])
        in_two.promote(self.book.now)
        in_two.fold(iter(self.facts[half:]))
        replayed = [folded, applied, in_two]
        line = [ticket["id"] for ticket in self.book.due(self.book.now, TUBES)]
        claimed = [ticket.id for ticket in self.projection.claimed()]
        for one in (self.projection, *replayed):
            assert one == self.projection
            one.promote(self.book.now)
            one.check()
            assert [ticket.id for ticket in one.claimed()] == claimed
            assert one.next_instant(expiration=True) == self.projection.next_instant(expiration=True)
        for one in replayed:  # not the live one, which the others are compared with
            assert drained(one) == line


def drained(projection: Projection) -> list[str]:
    """Claim until nothing is ready: the ids in the order of claims."""
    line = []
    while ticket := projection.first_ready(TUBES):
        line.append(ticket.id)
        event = e.TicketClaimed(ticket.id, ticket.attempts + 1, after(EPOCH, 10**6), "w")
        projection.apply(event, projection.seq + 1, EPOCH)
        projection.check()
    return line


TestRules = Rules.TestCase
TestRules.settings = settings(max_examples=8 * settings().max_examples, stateful_step_count=60)
