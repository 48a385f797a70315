"""The rules of tickets, tubes and schedules a second time, as plain dicts, lists and scans, for `test_rules`.

The book states the table of commands, and the rules of blocking, tubes and schedules in the documentation. It shares no
code with Kharon, keeps no index and no count, and scans everything for each question. A blocked ticket has the ids of
its blockers, including members of groups; a tube has the instants of all claims since it was limited.

The book does not know the order in which the ends of blockers are recorded. It says which events must follow (`told`);
the reader of the records takes their seqs from there.
"""

from __future__ import annotations

from datetime import datetime, timedelta

TERMINAL = ("done", "failed", "cancelled")
LEASE = 30
GRACE = 60
"""How many seconds late a schedule with `catch_up="none"` may fire."""


def after(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)


def wait_of(delay, attempts: int) -> float:
    """The seconds of a delay that `test_rules` draws: a number, ("fixed", n), or "backoff"."""
    if delay == "backoff":
        return min(2**attempts, 20) * 0.9  # less half of the jitter of a fifth
    return delay[1] if isinstance(delay, tuple) else delay


def waiting(ticket: dict) -> dict:
    """The ticket that others may block: its successor, if it has one."""
    return ticket["successor"] or ticket


def blocked(ticket: dict) -> bool:
    return bool(ticket["ids"] or ticket["members"])


def groups_of(ticket: dict | None) -> set[str]:
    """The groups of which it is a pending member: its own, and its successor's."""
    if ticket is None or ticket["status"] != "pending":
        return set()
    return {one["group"] for one in (ticket, ticket["successor"]) if one is not None and one["group"] is not None}


class Book:
    """Tickets, tubes and schedules. A command's method returns the name of the expected error, or None.

    Attributes:
        told: the events that must follow from the last command: ("unblocked", id, ended, group or None), ("dropped",
            id) for the successor of a running ticket, and ("cancelled", id).
        reasons: for each ticket that is cancelled so, the ids of its blockers.
        failures: the ids that failed in that command, and because of it.
    """

    def __init__(self, now: datetime, tubes) -> None:
        self.tickets: dict[str, dict] = {}
        self.tubes = {tube: {"paused": None, "limit": (None, None, None), "made": []} for tube in tubes}
        self.schedules: dict[str, dict] = {}
        self.seq = 0
        self.now = now
        self.at: datetime | None = None
        self.begin()

    def begin(self) -> None:
        """Forget the events of the last command."""
        self.told: list[tuple] = []
        self.reasons: dict[str, set[str]] = {}
        self.failures: set[str] = set()

    # -- helpers

    def instant(self) -> datetime:
        """The time of a record written now; it never goes back."""
        return self.now if self.at is None else max(self.at, self.now)

    def record(self, ticket: dict | None = None) -> None:
        self.at = self.instant()
        self.seq += 1
        if ticket is not None:
            ticket.update(version=self.seq, mtime=self.at)

    def find(self, id: str, *, claimed=None, terminal=False) -> tuple[dict | None, str | None]:
        """The ticket, if it is pending (and claimed, or not, if that is asked) or terminal; otherwise the error."""
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

    def settle(self, id: str, claim: int | None, effect, *, claimed=None, changes=None, count=None, both=False):
        """End a claim: its successor replaces the ticket if it was added again; otherwise the effect does.

        `count` returns the attempts of a successor that counts on, from those that it has. `both`: the successor ends,
        too, and what is kept has its fields.
        """
        if self.lost(id, claim):
            return "LeaseLost"
        ticket, error = self.find(id, claimed=claimed)
        if ticket is None:
            return error
        if self.would_wait_for_itself(ticket, changes):
            return "FinalizerInGroup"
        groups, successor = groups_of(ticket), ticket["successor"]
        ticket.update(claim=None, worker=None, lease_until=None, successor=None)
        failed = False
        if successor is not None and both:
            ticket, successor = successor, None
            self.tickets[id] = ticket
        if successor is not None:
            self.tickets[id] = successor
            self.record(successor)
            successor["attempts"] = (count or int)(successor["attempts"])
        else:
            self.record(ticket)
            effect(ticket)
            failed = ticket["status"] in ("failed", "cancelled")
        self.tell(id, groups, pending=True, failed=failed)
        return None

    def end(self, ticket: dict, status: str, *, keep=True, **fields) -> None:
        ticket.update(status=status, ids=set(), members=set(), **fields)
        if not keep:
            del self.tickets[ticket["id"]]

    def expiry(self, expire_in: float | None) -> datetime | None:
        return None if expire_in is None else after(self.now, expire_in)

    # -- blocking

    def pending(self, id: str) -> bool:
        return id in self.tickets and self.tickets[id]["status"] == "pending"

    def would_wait_for_itself(self, ticket: dict, changes: dict | None) -> bool:
        """Whether these changes move a ticket into the group that blocks it."""
        waits = waiting(ticket)
        return bool(waits["members"]) and changes is not None and changes.get("group") == waits["after_group"]

    def tell(self, id: str, groups: set[str], *, pending: bool, failed: bool) -> None:
        """Unblock or cancel other tickets, given whether this one was pending before, and its groups before."""
        ended, left = pending and not self.pending(id), groups - groups_of(self.tickets.get(id))
        failed = failed and ended
        if failed:
            self.failures.add(id)
        dropped = []
        for name, ticket in self.tickets.items():
            waits = waiting(ticket)
            by_id, as_member = ended and id in waits["ids"], waits["after_group"] in left and id in waits["members"]
            if (by_id or as_member) and failed and waits["on_failure"] == "cancel":
                dropped.append(name)
                continue
            if by_id:
                waits["ids"].discard(id)
                self.told.append(("unblocked", name, id, None))
            if as_member:
                waits["members"].discard(id)
                if not waits["members"]:
                    self.told.append(("unblocked", name, id, waits["after_group"]))
        for name in dropped:
            self.drop(name)

    def drop(self, name: str) -> None:
        """Cancel a ticket, or its successor, because a blocker has failed."""
        ticket = self.tickets[name]
        groups = groups_of(ticket)
        if ticket["successor"] is not None:
            ticket["successor"] = None
            self.told.append(("dropped", name))
        elif blocked(ticket):  # else another blocker's failure dropped it
            self.told.append(("cancelled", name))
            self.reasons[name] = ticket["ids"] | ticket["members"]
            self.end(ticket, "cancelled")
        self.tell(name, groups, pending=True, failed=ticket["status"] == "cancelled")

    def gate(self, id: str, new: dict) -> None:
        """Fill in the blockers of a new ticket. A ticket that is blocked already keeps its remaining blockers."""
        old, group = self.tickets.get(id), new["after_group"]
        waits = None
        if old is not None and old["status"] == "pending" and (old["claim"] is None or old["successor"] is not None):
            waits = waiting(old)
        for other in new["after"]:
            known = waits is not None and other in waits["after"]
            if other in waits["ids"] if known else self.pending(other):
                new["ids"].add(other)
        if group is None:
            return
        if waits is not None and waits["after_group"] == group:
            new["members"] = set(waits["members"])
        else:
            new["members"] = {name for name, ticket in self.tickets.items() if group in groups_of(ticket)} - {id}

    def cycle(self, new: dict, id: str) -> bool:
        """Whether this ticket would block one of its own blockers, directly or not."""
        seen, todo = set(), list((new["ids"] | new["members"]) - {id})  # a wait for its own run to end is not a cycle
        while todo:
            other = todo.pop()
            if other == id:
                return True
            if other not in seen:
                seen.add(other)
                waits = waiting(self.tickets[other])
                todo += waits["ids"] | waits["members"]
        return False

    # -- the table, row by row

    def add(self, id, fields, runat, delay, on_conflict, gate=None) -> str | None:
        old = self.tickets.get(id)
        if gate is not None and id in gate["after"]:
            return "InvalidTicket"
        if old is not None and on_conflict == "skip":
            return None
        if old is not None and on_conflict == "raise":
            return "TicketExists"
        new = dict.fromkeys(
            ("claim", "worker", "lease_until", "successor", "expire_at", "error_reason", "result", "after_group")
        )
        new.update(fields, id=id, status="pending", attempts=0, after=(), on_failure="run", ids=set(), members=set())
        if gate is not None:
            new.update(gate)
            self.gate(id, new)
        if self.cycle(new, id) or (runat is not None and delay is not None):
            return "InvalidTicket"
        if new["after_group"] is not None and new["after_group"] == new["group"]:
            return "FinalizerInGroup"
        new["runat"] = runat if runat is not None else after(self.now, 0 if delay is None else wait_of(delay, 0))
        self.record(new)
        new.update(order=self.seq, ctime=self.at)
        if old is not None and old["status"] == "pending":
            before = waiting(old)
            if before["claim"] is None:  # it keeps its place, and is not due later unless somebody says so
                new.update(order=before["order"], ctime=before["ctime"])
                new["runat"] = min(new["runat"], before["runat"]) if runat is delay is None else new["runat"]
            if on_conflict == "refresh":
                new["attempts"] = before["attempts"]
        self.enter(old, new)
        return None

    def enter(self, old: dict | None, new: dict) -> None:
        id, groups, pending = new["id"], groups_of(old), old is not None and old["status"] == "pending"
        if old is None or old["claim"] is None:
            self.tickets[id] = new
            self.tell(id, groups, pending=pending, failed=False)
            return
        known = old["successor"] is not None and old["successor"]["after_group"] == new["after_group"]
        old.update(successor=new, version=self.seq, mtime=self.at)
        self.tell(id, groups, pending=pending, failed=False)
        if not known and new["members"] and new["after_group"] == old["group"]:
            new["members"].add(id)  # its run is a member of the group that will block it, and has to end like any other

    def due(self, now: datetime, tubes) -> list[dict]:
        """The due and unblocked tickets, whatever room their tubes have, in the order of claims."""
        found = [
            ticket
            for ticket in self.tickets.values()
            if ticket["status"] == "pending"
            and ticket["claim"] is None
            and not blocked(ticket)
            and ticket["runat"] <= now
            and ticket["tube"] in tubes
        ]
        return sorted(found, key=lambda ticket: (ticket["nice"], ticket["runat"], ticket["order"]))

    def claim(self, id, worker) -> str | None:
        ticket, error = self.find(id, claimed=False)
        if ticket is None:
            return error
        if ticket["runat"] > self.now or blocked(ticket):
            return "InvalidTransition"
        self.record(ticket)
        ticket["attempts"] += 1
        ticket.update(claim=self.seq, worker=worker, lease_until=after(self.now, LEASE))
        self.tubes[ticket["tube"]]["made"].append(self.at)
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
            self.end(ticket, "done", keep=keep, result=result, error_reason=None, expire_at=self.expiry(expire_in))

        return self.settle(id, claim, effect, count=lambda attempts: 0)

    def fail(self, id, claim, reason, expire_in) -> str | None:
        def effect(ticket):
            self.end(ticket, "failed", error_reason=reason, expire_at=self.expiry(expire_in))

        return self.settle(id, claim, effect)

    def cancel(self, id, claim, keep, reason, expire_in) -> str | None:
        def effect(ticket):
            self.end(ticket, "cancelled", keep=keep, error_reason=reason, expire_at=self.expiry(expire_in))

        return self.settle(id, claim, effect, both=claim is None)

    def retry(self, id, claim, delay, reason, changes, max_attempts) -> str | None:
        def effect(ticket):
            if max_attempts is not None and ticket["attempts"] >= max_attempts:
                why = f"{reason or 'retried'} (no attempts left after {ticket['attempts']})"
                self.end(ticket, "failed", error_reason=why)
            else:
                ticket.update(runat=after(self.now, wait_of(delay, ticket["attempts"])), error_reason=reason)
                ticket.update(changes)

        return self.settle(id, claim, effect, changes=changes)

    def release(self, id, claim, changes) -> str | None:
        def effect(ticket):
            ticket["attempts"] -= 1
            ticket.update(changes)

        return self.settle(
            id, claim, effect, claimed=True, changes=changes, count=lambda attempts: attempts and attempts - 1
        )

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
        if self.would_wait_for_itself(ticket, changes):
            return "FinalizerInGroup"
        groups = groups_of(ticket)
        self.record(ticket)
        ticket.update(changes)
        if ticket["successor"] is not None:
            ticket["successor"].update(changes)
        self.tell(id, groups, pending=self.pending(id), failed=False)
        return None

    def delete(self, id) -> None:
        ticket = self.tickets.pop(id, None)
        if ticket is not None:
            self.record()
            self.tell(id, groups_of(ticket), pending=ticket["status"] == "pending", failed=False)

    def expire(self, id) -> str | None:
        ticket, error = self.find(id, terminal=True)
        if ticket is not None:
            if ticket["expire_at"] is None or ticket["expire_at"] > self.now:
                return "InvalidTransition"
            del self.tickets[id]
            self.record()
        return error

    # -- tubes

    def pause(self, tube) -> None:
        if self.tubes[tube]["paused"] is None:
            self.record()
            self.tubes[tube]["paused"] = (self.at, self.seq)

    def resume(self, tube) -> None:
        if self.tubes[tube]["paused"] is not None:
            self.record()
            self.tubes[tube]["paused"] = None

    def limit(self, tube, claimed, claims, period) -> None:
        """Of the earlier claims that still count, keep the newest, at most as many as the new limit allows."""
        told = self.tubes[tube]
        if told["limit"] != (claimed, claims, period):
            self.record()
            counted = min(told["limit"][1] or 0, claims or 0)
            told.update(limit=(claimed, claims, period), made=told["made"][-counted:] if counted else [])

    def claimed_count(self, tube) -> int:
        return len([one for one in self.tickets.values() if one["tube"] == tube and one["claim"] is not None])

    def room(self, tube, instant) -> float:
        """How many claims may be made from a tube, with records of this instant."""
        paused, (claimed, claims, period) = self.tubes[tube]["paused"], self.tubes[tube]["limit"]
        if paused is not None:
            return 0
        at_once = float("inf") if claimed is None else claimed - self.claimed_count(tube)
        if claims is None:
            return max(0, at_once)
        return max(
            0, min(at_once, claims - len([at for at in self.tubes[tube]["made"] if after(at, period) > instant]))
        )

    def reopens(self, tube, instant) -> datetime | None:
        """When time alone will make room for more claims than at this instant."""
        period, now = self.tubes[tube]["limit"][2], self.room(tube, instant)
        ends = [] if period is None else [after(at, period) for at in self.tubes[tube]["made"]]
        return min([end for end in ends if end > instant and self.room(tube, end) > now], default=None)

    # -- schedules

    def schedule(self, name, fields, every, catch_up) -> datetime:
        """Set a schedule; return its first instant, a period after the next full second, which has never fired."""
        old = self.schedules.get(name)
        last = None if old is None else old["last"]
        since = self.now if last is None else max(self.now, last)
        first = after(since.replace(microsecond=0), every if since.microsecond == 0 else every + 1)
        upcoming = first if old is None or old["every"] != every else old["next"]
        new = {**fields, "every": every, "catch_up": catch_up, "next": upcoming, "last": last}
        if old != new:
            self.record()
            self.schedules[name] = new
        return first

    def unschedule(self, name) -> None:
        if self.schedules.pop(name, None) is not None:
            self.record()

    def missed(self, name) -> list[datetime]:
        """The instants of a schedule that have come by now, and are neither fired nor skipped."""
        found, instant = [], self.schedules[name]["next"]
        while instant <= self.now:
            found.append(instant)
            instant = after(instant, self.schedules[name]["every"])
        return found

    def fire(self, name) -> None:
        """Add tickets for missed instants as `catch_up` says, and skip the rest for good."""
        schedule, missed = self.schedules[name], self.missed(name)
        wanted = {
            "one": missed[-1:],
            "all": missed,
            "none": [instant for instant in missed if instant >= after(self.now, -GRACE)],
        }[schedule["catch_up"]]
        if len(wanted) < len(missed) and schedule["catch_up"] == "none":
            self.record()
        schedule["next"] = after(missed[-1], schedule["every"])
        for instant in wanted:
            self.record()
            schedule["last"] = instant
            fields = {field: schedule[field] for field in ("type", "payload", "tube", "nice", "group")}
            self.add(f"{name}@{instant:%Y-%m-%dT%H:%M:%S}Z", fields, instant, None, "skip")
