"""A commit: commands decided and folded one after the other, all or none of them.

`decide` sees one ticket. Rules about several tickets are here: which of the tickets named in `after` are pending,
and that no ticket blocks itself. When a ticket ends, those that it blocked are unblocked, or cancelled, which is an end
again. Likewise, a firing schedule adds its ticket. All of that belongs to the commit of the command that caused it.

    command ──▶ decide ──▶ event ──▶ projection ──▶ has it ended, or left a group? ──▶ Unblock, for each that waited
                  ▲                                                                      │
                  └──────────────────────────────────────────────────────────────────────┘

The projection itself changes, so each command sees the effects of those before it. `undo` takes all of them back, as
if they had never been.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final, TypeAlias

import msgspec

from kharon.errors import InvalidTicket, KharonError
from kharon.model import commands as c
from kharon.model import events as e
from kharon.model.decide import decide
from kharon.model.projection import Effect, Projection
from kharon.model.schedules import Schedule, decide_schedule
from kharon.model.ticket import Status, Ticket, memberships, waits_of
from kharon.model.tubes import decide_tube

__all__ = ["Commit", "FirstFiring"]

FirstFiring: TypeAlias = Callable[[c.SetSchedule, datetime], datetime]
"""Returns the first instant of a schedule after a given one; raises `KharonError` if there is none."""
_FAILURES: Final = (e.TicketFailed, e.TicketCancelled)


class Commit:
    """A commit that is being decided.

    Args:
        projection: the state, which changes as commands are carried out. Nothing else may change it until `keep` or
            `undo`.
        context: time, chance and the length of a lease; the same for all commands.
        first_firing: what asks a calendar, which the rules do not know; None: no schedule is set without its `first`.

    Attributes:
        effects: the effects so far.
    """

    def __init__(self, projection: Projection, context: c.Context, first_firing: FirstFiring | None = None) -> None:
        self.effects: list[Effect] = []
        self._projection = projection
        self._context = context
        self._first_firing = first_firing
        at = projection.at
        self._at = context.now if at is None or context.now > at else at  # as the log does: time never goes back there
        projection.begin()

    def run(self, commands: Sequence[c.Request]) -> None:
        """Carry out commands, one after the other, each with its consequences.

        Raises:
            KharonError: `decide` refuses a command; of several, the message begins with its number. Call `undo` then.

        Cost: O(log n) for each, and as much for each ticket that it unblocks.
        """
        for number, command in enumerate(commands, 1):
            try:
                self._run(command)
            except KharonError as error:
                if len(commands) > 1:
                    what = f"{type(command).__name__.lower()} of {_subject(command)}"
                    error.args = (f"command {number} of {len(commands)}, {what}, is refused, so none is: {error}",)
                raise

    def keep(self) -> None:
        """End a commit that was appended to the log. O(effects)."""
        self._projection.end(kept=True)

    def undo(self) -> None:
        """Take the commit back, as if it had never been. O(effects log n)."""
        for effect in reversed(self.effects):
            self._projection.undo(effect)
        self._projection.end(kept=False)

    def _run(self, command: c.Request) -> None:
        if isinstance(command, c.Command):  # first: nearly all are
            ticket = self._projection.get(command.id)
            if type(command) is c.Add and (command.after or command.after_group is not None):
                command = self._gated(ticket, command)
            for event in decide(ticket, command, self._context):
                self._apply(event)
        elif isinstance(command, c.TubeCommand):
            for told in decide_tube(self._projection.tubes.get(command.tube), command):
                self._fold(told)
        else:
            self._run_schedule(command)

    def _run_schedule(self, command: c.ScheduleCommand) -> None:
        schedule = self._projection.schedules.get(command.name)
        if type(command) is c.SetSchedule and command.first is None:
            command = self._timed(schedule, command)
        for event in decide_schedule(schedule, command):
            self._fold(event)
            if type(event) is e.ScheduleFired:
                assert schedule is not None
                ticket = schedule.ticket_at(event.due)
                self._run(c.Add(ticket.id, ticket, on_conflict="skip"))  # a ticket of that id was added on purpose

    def _timed(self, schedule: Schedule | None, command: c.SetSchedule) -> c.SetSchedule:
        """Return the command with its first instant: after now, and after the last firing."""
        now = self._context.now
        since = now if schedule is None or schedule.last is None else max(now, schedule.last)
        assert self._first_firing is not None
        return msgspec.structs.replace(command, first=self._first_firing(command, since))

    def _apply(self, event: e.TicketEvent) -> None:
        """Fold an event, and carry out its consequences, and theirs."""
        following = self._fold(event)
        if not following:
            return
        todo = deque(following)
        while todo:
            command = todo.popleft()
            ticket = self._projection.get(command.id)
            if ticket is not None and _waits(ticket, command):  # else an earlier consequence cancelled it
                for next_event in decide(ticket, command, self._context):
                    todo.extend(self._fold(next_event))

    def _fold(self, event: e.Event) -> Sequence[c.Unblock]:
        projection = self._projection
        effect = projection.apply(event, projection.seq + 1, self._at)
        self.effects.append(effect)
        old, new = effect.old, effect.new
        if old is None or old.status is not Status.PENDING:
            return ()
        ended = new is None or new.status is not Status.PENDING
        if not ended and not old.joined and old.successor is None:
            return ()
        return list(self._following(old, new, failed=ended and type(event) in _FAILURES))

    def _following(self, old: Ticket, new: Ticket | None, *, failed: bool) -> Iterator[c.Unblock]:
        """Yield the commands that the change of a pending ticket causes for the tickets that it blocks."""
        groups, id = self._projection.groups, old.id
        if new is None or new.status is not Status.PENDING:
            for waiter in groups.behind(id):
                yield c.Unblock(waiter, id, failed=failed and self._cancels(waiter))
        staying = () if new is None else memberships(new)
        for group, joined in memberships(old):
            if (group, joined) in staying:
                continue
            if failed:
                for waiter in groups.finalizers(group, joined):
                    if self._cancels(waiter):
                        yield c.Unblock(waiter, id, group, failed=True)
            for waiter in groups.unblocked(group):
                yield c.Unblock(waiter, id, group)

    def _cancels(self, waiter: str) -> bool:
        """Return whether a ticket is to be cancelled if a ticket that blocks it fails."""
        ticket = self._projection.get(waiter)
        return ticket is not None and waits_of(ticket).on_failure == "cancel"

    # --- what blocks a new ticket -------------------------------------------------------------------------------------

    def _gated(self, ticket: Ticket | None, command: c.Add) -> c.Add:
        """Return the command with the tickets and the group that block it as of now.

        A blocked ticket that is added again stays blocked by the rest, and by nothing that has come since.
        """
        if command.id in command.after:
            raise InvalidTicket(f"ticket {command.id!r} cannot be added after itself: it would wait for ever")
        if ticket is not None and command.on_conflict in ("skip", "raise"):
            return command
        waits = None if ticket is None or ticket.status is not Status.PENDING else waits_of(ticket)
        gate = None if waits is None or waits.claim is not None else waits.gate
        left: tuple[str, ...] = () if waits is None else waits.blocked_by
        blocked_by = tuple(
            id
            for id in dict.fromkeys(command.after)
            if (id in left if gate is not None and id in gate.after else self._is_pending(id))
        )
        group, since, new_group = command.after_group, False, None
        if group is not None and gate is not None and gate.after_group == group:
            since = gate.since > 0
        elif group is not None:
            groups = self._projection.groups
            since = groups.pending_count(group) > groups.is_member(group, ticket)
            new_group = group
        self._check_cycle(ticket, blocked_by, new_group)
        return msgspec.structs.replace(command, blocked_by=blocked_by, blocked_by_group=since)

    def _is_pending(self, id: str) -> bool:
        ticket = self._projection.get(id)
        return ticket is not None and ticket.status is Status.PENDING

    def _check_cycle(self, ticket: Ticket | None, after: tuple[str, ...], group: str | None) -> None:
        """Refuse to let a ticket be blocked by one that it blocks, directly or not.

        The search goes from the ticket to those that it blocks. These are finalizers, which are few: a ticket that
        blocks no other costs O(1).
        """
        if ticket is None or ticket.status is not Status.PENDING:
            return
        get, groups = self._projection.get, self._projection.groups
        awaits: dict[str, str] = {}  # a ticket → the one that it waits for
        way = [ticket.id]
        for id in way:
            one = get(id)
            assert one is not None
            if id in awaits and (id in after or (group is not None and groups.is_member(group, one))):
                ids = [id]
                while ids[-1] != ticket.id:
                    ids.append(awaits[ids[-1]])
                chain = ", which waits for ".join(repr(id) for id in ids[1:])
                raise InvalidTicket(f"ticket {ticket.id!r} cannot be added after {id!r}: that one waits for {chain}")
            for waiter in groups.waiters(one):
                if waiter != ticket.id and waiter not in awaits:
                    awaits[waiter] = id
                    way.append(waiter)


def _subject(command: c.Request) -> str:
    if isinstance(command, c.ScheduleCommand):
        return f"schedule {command.name!r}"
    return f"tube {command.tube!r}" if isinstance(command, c.TubeCommand) else f"ticket {command.id!r}"


def _waits(ticket: Ticket, command: c.Unblock) -> bool:
    """Return whether the ticket or group that a command names still blocks a ticket."""
    waits = waits_of(ticket)
    if command.group is None:
        return command.ended in waits.blocked_by
    return waits.gate is not None and waits.gate.since > 0 and waits.gate.after_group == command.group
