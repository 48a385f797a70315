"""Bugs in waiting: what an end means for those that wait for it, who is waited for, and commits of several commands."""

from __future__ import annotations

from typing import Final

from .mutant import Mutant
from .places import (
    ATOMIC,
    COMMIT,
    DECIDE,
    EVOLVE,
    GROUPS,
    LOCAL_STORE,
    PROJECTION,
    REQUESTS,
    SNAPSHOT,
    TEST_ATOMIC,
    TEST_COMMIT,
    TEST_GROUP_WAITS,
    TEST_GROUPS,
    TEST_GROUPS_DURABLE,
    TEST_SNAPSHOT,
    WAITS,
)

__all__ = ["MUTANTS"]


MUTANTS: Final = (
    # --- what unblocks ------------------------------------------------------------------------------------------------
    Mutant(
        name="only-what-is-kept-unblocks",
        thought="A ticket has ended when it is done, failed or cancelled.",
        file=COMMIT,
        before="        if new is None or new.status is not Status.PENDING:\n            for waiter",
        after="        if new is not None and new.status is not Status.PENDING:\n            for waiter",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="leaving-a-group-unblocks-nobody",
        thought="A member that has not ended is to be waited for.",
        file=COMMIT,
        before="        if not ended and not old.joined and old.successor is None:\n",
        after="        if not ended:\n",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="group-of-a-successor-not-left",
        thought="Only a ticket that is a member itself can leave a group.",
        file=COMMIT,
        before="        if not ended and not old.joined and old.successor is None:\n",
        after="        if not ended and not old.joined:\n",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="late-members-waited-for",
        thought="A finalizer runs when its group is empty.",
        file=GROUPS,
        before="        first: Any = members[0][0] if members else math.inf\n",
        after="        first: Any = 0 if members else math.inf\n",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="restarted-member-waited-for-again",
        thought="A ticket that runs once more is the member that it was.",
        file=EVOLVE,
        before="    draft.joined = _joined(None, draft.group, seq)\n",
        after="    draft.joined = 0 if draft.group is None else ticket.order\n",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="added-again-is-a-late-member",
        thought="The newest fields win, so the ticket is a member since now.",
        file=EVOLVE,
        before="        new.joined = _joined(ticket, event.group, seq)\n",
        after="        new.joined = seq\n",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="finalizer-added-again-waits-anew",
        thought="What is added now waits for who is there now.",
        file=COMMIT,
        before="        if group is not None and gate is not None and gate.after_group == group:\n",
        after="        if group is not None and gate is not None and gate.after_group != group:\n",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="blocked-behind-its-own-end",
        thought="Of those who wait for a ticket each is told once.",
        file=COMMIT,
        before="            for waiter in groups.unblocked(group):\n",
        after="            for waiter in () if new is None else groups.unblocked(group):\n",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="unblocked-in-the-order-of-the-index",
        thought="A dict is in the order in which they came.",
        file=GROUPS,
        before="sorted(behind, key=behind.__getitem__)",
        after="list(behind)",
        tests=(TEST_COMMIT,),
    ),
    # --- failure ------------------------------------------------------------------------------------------------------
    Mutant(
        name="leaving-a-group-is-a-failure",
        thought="What does not end well has failed.",
        file=COMMIT,
        before="failed=ended and type(event) in _FAILURES)",
        after="failed=not ended or type(event) in _FAILURES)",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="failed-member-cancels-when-the-group-ends",
        thought="What a group means for its finalizer shows when the group has ended.",
        file=COMMIT,
        before="            if failed:\n                for waiter in groups.finalizers(group, joined):\n",
        after="            if failed and not groups.pending_count(group):\n"
        "                for waiter in groups.finalizers(group, joined):\n",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="dropping-a-successor-ends-its-run",
        thought="A ticket that is not to run is cancelled.",
        file=DECIDE,
        before="    if ticket.successor is not None:\n        return (e.TicketUnblocked(",
        after="    if ticket.successor is not None and ticket.claim is None:\n        return (e.TicketUnblocked(",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="cascade-of-one-step",
        thought="What is cancelled was waiting, and nobody waits for that.",
        file=COMMIT,
        before="                    todo.extend(self._fold(next_event))\n",
        after="                    self._fold(next_event)\n",
        tests=(TEST_COMMIT,),
    ),
    # --- cycles -------------------------------------------------------------------------------------------------------
    Mutant(
        name="cycles-through-groups-not-seen",
        thought="Who waits for whom is said by ids.",
        file=COMMIT,
        before="if id in awaits and (id in after or (group is not None and groups.is_member(group, one))):\n",
        after="if id in awaits and id in after:\n",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="moved-into-the-group-it-waits-for",
        thought="Its own group was checked when it was added.",
        file=DECIDE,
        before="def _update(ticket: Ticket, command: c.Update, _context: c.Context) -> Events:\n"
        "    _check_group(ticket, command.changes)\n",
        after="def _update(ticket: Ticket, command: c.Update, _context: c.Context) -> Events:\n",
        tests=(TEST_COMMIT,),
    ),
    # --- one commit ---------------------------------------------------------------------------------------------------
    Mutant(
        name="refused-commit-half-done",
        thought="What was carried out before the refusal was right.",
        file=LOCAL_STORE,
        before="        except BaseException:\n            commit.undo()\n            raise\n        commit.keep()\n",
        after="        except BaseException:\n            commit.keep()\n            raise\n        commit.keep()\n",
        tests=(TEST_ATOMIC,),
    ),
    Mutant(
        name="undo-forgets-the-order-of-tickets",
        thought="A dict is equal to another whatever its order.",
        file=PROJECTION,
        before="        else:\n            self._removed.append(event.id)\n"
        "            self._tickets[event.id] = None  # type: ignore[assignment] # keeps its place\n",
        after="        else:\n            self._tickets.pop(event.id, None)\n",
        tests=(TEST_COMMIT,),
    ),
    Mutant(
        name="block-that-raises-is-carried-out",
        thought="A block ends when it ends.",
        file=ATOMIC,
        before="        if error is not None:\n"
        "            await trio.lowlevel.cancel_shielded_checkpoint()\n            return\n",
        after="",
        tests=(TEST_ATOMIC,),
    ),
    Mutant(
        name="iterator-of-ids-read-once",
        thought="What all of them are to wait for is passed on to each.",
        file=REQUESTS,
        before="    ids = _after(after)  # once: an iterator would be empty for the second ticket\n",
        after="    ids = after\n",
        tests=(TEST_GROUP_WAITS,),
    ),
    # --- groups as users see them -------------------------------------------------------------------------------------
    Mutant(
        name="count-of-what-is-not-durable",
        thought="A count is no more than a number.",
        file=LOCAL_STORE,
        before="            found = projection.groups.pending_count(group), projection.seq\n"
        "            if await self._confirmed():\n                return found\n",
        after="            await trio.lowlevel.checkpoint()\n"
        "            return projection.groups.pending_count(group), projection.seq\n",
        tests=(TEST_GROUPS_DURABLE,),
    ),
    Mutant(
        name="member-that-left-before-the-answer-is-forgotten",
        thought="The store says how many there are, and whoever leaves after that is told of.",
        file=WAITS,
        before="            if changed_at > seq:\n                self._add(difference)\n",
        after="            pass\n",
        tests=(TEST_GROUP_WAITS,),
    ),
    Mutant(
        name="member-that-left-is-counted-twice",
        thought="What is told is what has changed since.",
        file=WAITS,
        before="            if changed_at > seq:\n",
        after="            if changed_at > 0:\n",
        tests=(TEST_GROUP_WAITS,),
    ),
    Mutant(
        name="cancelled-wait-leaves-a-trace",
        thought="What waits leaves when it has been told.",
        file=WAITS,
        before="        try:\n            yield waiter\n        finally:\n            waiters = self.by_name[name]\n"
        "            waiters.remove(waiter)\n            if not waiters:\n                del self.by_name[name]\n",
        after="        yield waiter\n        waiters = self.by_name[name]\n        waiters.remove(waiter)\n"
        "        if not waiters:\n            del self.by_name[name]\n",
        tests=(TEST_GROUP_WAITS,),
    ),
    Mutant(
        name="names-of-groups-stay",
        thought="An empty line costs nothing.",
        file=GROUPS,
        before="    if not line:\n        del lines[group]  # groups come and go; their names must not stay\n",
        after="",
        tests=(TEST_GROUPS,),
    ),
    Mutant(
        name="an-end-looks-at-all-members",
        thought="The first of them is the one that joined first.",
        file=GROUPS,
        before="        first: Any = members[0][0] if members else math.inf\n",
        after="        first: Any = min(joined for joined, _ in members) if members else math.inf\n",
        tests=(TEST_GROUPS,),
    ),
    Mutant(
        name="snapshot-of-one-that-waits-for-ever",
        thought="Its chain is right, so it is what was written.",
        file=SNAPSHOT,
        before="                _check_waits(tickets)\n",
        after="",
        tests=(TEST_SNAPSHOT,),
    ),
    Mutant(
        name="snapshot-forgets-when-members-joined",
        thought="A ticket is a member since it was added.",
        file=SNAPSHOT,
        before="    if ticket.joined == ticket.order:\n        stored.joined = 0\n",
        after="    stored.joined = 0\n",
        tests=(TEST_SNAPSHOT,),
    ),
    Mutant(
        name="running-ticket-found-behind-itself",
        thought="A ticket does not wait for itself.",
        file=COMMIT,
        before="                if waiter != ticket.id and waiter not in awaits:\n",
        after="                if waiter not in awaits:\n",
        tests=(TEST_COMMIT,),
    ),
)
