"""The facade: the `Kharon` that `kharon.open` gives.

It defines the methods that ask, run and wait; the verbs are in `requests`, which turns their arguments into commands.
The rules are in `model.decide`, the waits for durability in the store, the handlers in `workers`. A `Kharon` is a view
of one queue that acts in one actor's name; `acting_as` returns another view of the same queue.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar

import trio

from kharon.audit.explain import Explanation, explanation_of
from kharon.errors import InvalidTicket
from kharon.log.record import Record
from kharon.model import commands as c
from kharon.model.checks import check_name
from kharon.model.delays import as_seconds
from kharon.model.schedules import Schedule
from kharon.model.ticket import Status, Ticket
from kharon.model.tubes import Tube
from kharon.runtime.atomic import Atomic
from kharon.runtime.queue import Queue
from kharon.runtime.requests import Seconds, Verbs, id_of
from kharon.runtime.router import Router
from kharon.runtime.stats import Stats
from kharon.runtime.streams import RecordStream
from kharon.runtime.verbs import Awaited, Tickets, carry_out
from kharon.runtime.waits import Group, last_state, not_found, result_of
from kharon.settings import Settings

__all__ = ["Kharon"]

StatusName: TypeAlias = Literal["pending", "done", "failed", "cancelled"]
Records: TypeAlias = list[Record]
Schedules: TypeAlias = list[Schedule]
Tubes: TypeAlias = list[Tube]
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _checkpoint(method: Callable[_P, Awaitable[_T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Return a method that is a checkpoint even if it refuses its arguments before it calls the store."""

    @functools.wraps(method)
    async def checked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await method(*args, **kwargs)
        except InvalidTicket:
            await trio.lowlevel.checkpoint()
            raise

    return checked


class Kharon(Verbs, Awaited):
    """A queue, as `kharon.open` gives it.

    Every async method is a checkpoint. Each returns, or raises, only once the events that it depends on are durable in
    the sense of `Settings.fsync`. A cancellation acts before the decision, or after durability, at the next checkpoint.

    Each method can raise `Closed` if the queue is closed, `CommitOutcomeUnknown` if the disk fails, and
    `InvalidTransition` in a thread other than the one that opened the queue. A `def` handler runs in such a thread, and
    calls methods through `trio.from_thread.run`.

    On a full disk, verbs that let the queue grow (adding, extending, restarting, updating, and verbs about tubes and
    schedules) raise `StorageFull` until there is room, and change nothing. Settling and deleting still work: they use
    the space of `Settings.reserve_bytes`.

    A verb that settles a ticket takes the `Ticket` that a handler received, which is fenced (`LeaseLost` if its claim
    is over), or an id, which is not.
    """

    def __init__(self, queue: Queue, by: str) -> None:
        self._queue = queue
        self._store = queue.store
        self._by = by

    def __repr__(self) -> str:
        return f"<Kharon acting as {self._by!r}>"

    @property
    def settings(self) -> Settings:
        """The settings that the queue was opened with."""
        return self._queue.settings

    def acting_as(self, actor: str) -> Kharon:
        """Return a view of the same queue, whose records name `actor` as the one who acted.

        Raises:
            InvalidTicket: `actor` is not 1 to 200 bytes of printable text.
        """
        return Kharon(self._queue, check_name("actor", actor))

    async def _carry_out(self, commands: Sequence[c.Request]) -> Tickets:
        return await carry_out(self._store, self._queue.workers.attempts, commands, self._by)

    # --- asking -------------------------------------------------------------------------------------------------------

    @_checkpoint
    async def get(self, id: str) -> Ticket:
        """Return a ticket. O(1).

        Raises:
            TicketNotFound: there is none.
        """
        ticket = await self._store.get(id_of(id))
        if ticket is None:
            raise not_found(id)
        return ticket

    @_checkpoint
    async def list(
        self,
        status: Status | StatusName | None = None,
        type: str | None = None,
        tube: str | None = None,
        group: str | None = None,
        limit: int | None = None,
        after: Ticket | None = None,
    ) -> list[Ticket]:
        """Return the tickets that match, as they all were at one moment, in the order of adding.

        Restarting a ticket counts as adding it, and so does adding it again unless it was pending and unclaimed.

        Args:
            status: "pending", "done", "failed" or "cancelled"; None: any.
            type: the type; None: any.
            tube: the tube; None: any.
            group: the group; None: any.
            limit: the number of tickets to return, at most; None: all.
            after: a ticket that an earlier `list` returned; only tickets added after it are returned. To page through
                the tickets, give the last ticket of the page before. Tickets that are added or removed meanwhile do not
                shift the pages, and `after` itself may have been removed: its `order` decides.

        Raises:
            InvalidTicket: there is no such status, or `after` is not a ticket that the queue gave.

        Cost: O(n) for n tickets, in slices between which other tasks run.
        """
        wanted: Status | None = None
        if status is not None:
            try:
                wanted = Status(status)
            except ValueError:
                known = ", ".join(repr(known.value) for known in Status)
                raise InvalidTicket(f"status: {status!r} is none of {known}") from None
        if limit is not None and (not isinstance(limit, int) or limit < 0):
            raise InvalidTicket(f"limit: a whole number, 0 or more, or None; not {limit!r}")
        if after is not None and (not isinstance(after, Ticket) or not after.order):
            raise InvalidTicket(f"after: a ticket that list returned, or None; not {after!r}")
        order = 0 if after is None else after.order
        return await self._store.list(status=wanted, type=type, tube=tube, group=group, limit=limit, after=order)

    @_checkpoint
    async def why(self, id: str) -> Explanation:
        """Return why a ticket is, or is not, running now: the `Explanation` that `kharon.explain` gives for a log.

        It assumes the `tubes` that this process claims from, and the settings' `max_attempts`. An id without a ticket
        is explained, too.

        Raises:
            InvalidTicket: `id` is not a str.

        Cost: O(log n).
        """
        standing = await self._store.why(id_of(id), self.tubes)
        type = None if standing.ticket is None else standing.ticket.type
        return explanation_of(standing, self.settings.policy(type).max_attempts)

    # --- several at once ----------------------------------------------------------------------------------------------

    def atomic(self) -> Atomic:
        """Return a block that collects commands; when it ends, all of them are carried out, or none.

            async with kh.atomic() as tx:
                tx.done(ticket, result=42)
                tx.add(Ticket("next", "email"))

        Its verbs are those of the queue, with the same arguments, and are not awaited. See `Atomic`.
        """
        return Atomic(self._store, self._by, self._queue.workers.attempts)

    def group(self, name: str) -> Group:
        """Return a view of a group of tickets, which counts its pending members and waits for their end. O(1).

        Raises:
            InvalidTicket: `name` is not a name.
        """
        return Group(check_name("group", name), self._store, self._queue.group_waits)

    # --- tubes --------------------------------------------------------------------------------------------------------

    @property
    def tubes(self) -> tuple[str, ...]:
        """The tubes that this process claims from: `Settings.tubes` at first."""
        return self._queue.workers.tubes

    def subscribe(self, *tubes: str) -> None:
        """Claim from these tubes, too, from now on. A tube that is subscribed to already stays so.

        It affects only this process and is not recorded, so it is not async. O(tubes).

        Raises:
            InvalidTicket: one of them is not a name; nothing has changed.
        """
        workers = self._queue.workers
        workers.tubes = tuple(dict.fromkeys((*workers.tubes, *(check_name("tube", tube) for tube in tubes))))

    def unsubscribe(self, *tubes: str) -> None:
        """Stop claiming from these tubes. Running tickets go on; a tube that is not subscribed to is ignored.

        Otherwise as `subscribe`. If no tube is left, nothing is claimed, and workers are idle.
        """
        workers = self._queue.workers
        unwanted = {check_name("tube", tube) for tube in tubes}
        workers.tubes = tuple(tube for tube in workers.tubes if tube not in unwanted)

    @_checkpoint
    async def tube(self, name: str) -> Tube:
        """Return a tube: whether it is paused, limited or open, and its numbers of ready and claimed tickets. O(log n).

        A name that no ticket has used is an open tube without tickets.

        Raises:
            InvalidTicket: `name` is not a name.
        """
        return await self._store.tube(check_name("tube", name))

    async def restricted_tubes(self) -> Tubes:
        """Return the tubes that are paused or limited, by name. O(their number)."""
        return await self._store.restricted()

    # --- schedules ----------------------------------------------------------------------------------------------------

    @_checkpoint
    async def schedules(self) -> Schedules:
        """Return the schedules, by name, each with its next and its last instant.

        Cost: O(n log n) for n schedules.
        """
        return await self._store.schedules()

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self, router: Router, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run handlers for ready tickets, `Settings.workers` at once, until cancelled or drained.

        Cancelling it releases the running tickets: they are pending again at once, and the attempt is not counted. An
        exception of a handler is settled as a retry, and never leaves `run`.

        Args:
            router: maps each type to its handler.
            task_status: `await nursery.start(kh.run, router)` returns when the workers have started.

        Raises:
            HandlerNotFound: the router is empty.
            QueueLocked: this queue is being run already.
        """
        await self._queue.workers.run(router, task_status)

    @_checkpoint
    async def drain(self, timeout: Seconds | None = None) -> None:  # noqa: ASYNC109 - it does not cancel, it releases
        """Stop claiming, and return once the running handlers have finished; `run` then returns, too.

        It returns at once if `run` has not begun: start that with `await nursery.start(kh.run, router)`. A `def`
        handler cannot be cancelled, so `drain` waits for it in any case.

        Args:
            timeout: seconds, or a timedelta, after which handlers are cancelled and their tickets released; None:
                never.

        Raises:
            InvalidTransition: a handler called it, and would wait for itself.
        """
        await self._queue.workers.drain(None if timeout is None else as_seconds("timeout", timeout))

    @_checkpoint
    async def wait(self, id: str) -> Ticket:
        """Wait until a ticket is done, failed, cancelled or removed, and return it in that state.

        A removed ticket is returned in its last state; after an `ack` that is done. A ticket removed before the call is
        read from its history. Cancelling the wait changes nothing.

        Raises:
            TicketNotFound: there never was such a ticket.

        Cost: O(1); that of `history` if the ticket has been removed already.
        """
        with self._queue.waits.begin(id_of(id)) as wait:
            ticket = await self._store.get(id)
            if ticket is None:
                return last_state(id, await self.history(id))
            return await wait.end_of(ticket) or await self.get(id)  # if the queue was closed, `get` raises that

    @_checkpoint
    async def run_and_wait(self, ticket: Ticket, **options: Any) -> Any:
        """Add a ticket, wait until it has ended, and return the result of its `done`; None after an `ack`.

        The ticket runs when a worker claims it, perhaps later. If it is added again meanwhile, the wait is for the
        newest. With `on_conflict="skip"`, the result of a kept ticket that has ended already is returned at once. A
        handler that calls this occupies its worker while it waits. There must be more workers than such handlers, or
        their leases end first.

        Cancelling it ends only the wait; the ticket stays.

        Args:
            ticket: the ticket, as for `add`.
            options: the other arguments of `add`.

        Raises:
            TicketFailedError: the ticket failed, was cancelled, or was deleted; it has the ticket and the reason.
            InvalidTicket, TicketExists: as `add` raises them.

        Cost: that of `add`.
        """
        id = ticket.id if isinstance(ticket, Ticket) else ""  # `add` refuses the argument
        with self._queue.waits.begin(id) as wait:
            return result_of(await wait.end_of(await self.add(ticket, **options)) or await self.get(id))

    # --- history ------------------------------------------------------------------------------------------------------

    @_checkpoint
    async def history(self, id: str) -> Records:
        """Return every record about a ticket, oldest first; an empty list if there never was such a ticket.

        The history of a removed ticket stays. Records before `first_record` are gone.

        Raises:
            CorruptLog: the log is damaged.
            Closed: the queue is closed.
            KharonError: the next records were trimmed meanwhile; or they are compressed, and zstd is not installed.
            OSError: the log cannot be read.

        Cost: three small reads for each finished segment with an index (written when a snapshot is taken), and O(bytes)
        for other segments; in slices between which other tasks run.
        """
        records: Records = []
        await trio.lowlevel.checkpoint()
        reader = self._store.reader(0, id_of(id))
        try:
            records += await reader.read()
            while not reader.at_end:
                records += await reader.read()
        finally:
            reader.close()
        return records

    def records(self, after: int = 0, *, follow: bool = False) -> RecordStream:
        """Return the durable records after the seq `after`, as an async iterator.

        Args:
            after: a seq; 0: from the beginning.
            follow: whether to wait for new records after the last one, rather than to end.

        Use it in an `async with`, or read it to its end: until then it keeps a file open.

        Raises:
            InvalidTicket: `after` is not a seq.
        """
        if not isinstance(after, int) or after < 0:
            raise InvalidTicket(f"after: a seq, 0 or more; not {after!r}")
        return RecordStream(self._store.reader(after), follow=follow)

    async def first_record(self) -> int:
        """Return the seq of the oldest record: 1, unless records were trimmed, or dropped by a ":memory:" queue.

        Cost: O(1).
        """
        return await self._store.first()

    # --- stats --------------------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Return the counts since this process opened the queue. O(number of (type, tube))."""
        return self._queue.tally.stats()

    def reset_stats(self) -> None:
        """Set all counts to zero."""
        self._queue.tally.reset()
