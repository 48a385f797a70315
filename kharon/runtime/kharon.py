"""The facade: the `Kharon` that `open` gives.

It checks what users pass, turns it into commands, and hands them to the store; the rules are in `model.decide`, the
waiting in the store, the handlers in `workers`. A `Kharon` is a view of one queue in one actor's name; `acting_as`
gives another view of the same queue.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ParamSpec, TypeAlias, TypeVar

import trio

from kharon.errors import InvalidTicket
from kharon.log.record import Record
from kharon.model import commands as c
from kharon.model.checks import check_name
from kharon.model.delays import Delay, as_seconds
from kharon.model.schedules import Schedule
from kharon.model.ticket import Status, Ticket
from kharon.model.tubes import Tube
from kharon.runtime import requests
from kharon.runtime.atomic import Atomic
from kharon.runtime.queue import Queue
from kharon.runtime.requests import CatchUp, OnConflict, OnFailure, Seconds, id_of
from kharon.runtime.router import Router
from kharon.runtime.stats import Stats
from kharon.runtime.streams import RecordStream
from kharon.runtime.waits import Group, last_state, not_found, result_of
from kharon.settings import Settings

__all__ = ["Kharon"]

Records: TypeAlias = list[Record]
Schedules: TypeAlias = list[Schedule]
Tubes: TypeAlias = list[Tube]
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _checkpoint(method: Callable[_P, Awaitable[_T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Make a method a checkpoint also when it refuses its arguments, before it has come to the store."""

    @functools.wraps(method)
    async def checked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await method(*args, **kwargs)
        except InvalidTicket:
            await trio.lowlevel.checkpoint()
            raise

    return checked


class Kharon:
    """A queue, as `kharon.open` gives it.

    Every async method is a checkpoint; each returns, or raises, only once the events that it rests on are durable in
    the sense of `Settings.fsync`, and is either carried out or not: a cancellation is noticed before anything has been
    decided, or after it is durable, when the next checkpoint raises it. Each can raise `Closed` when the queue is,
    `CommitOutcomeUnknown` when the disk fails, and `InvalidTransition` in another thread than that which opened it, as
    a `def` handler's is (call it by `trio.from_thread.run` there); that is not said again below. On a full disk
    whatever lets the queue grow (adding, extending, restarting, updating, telling a tube something) raises
    `StorageFull` until there is room, and nothing of it is kept; settling and deleting go on from
    `Settings.reserve_bytes`. Where a ticket is settled, a `Ticket` that a handler received is fenced (`LeaseLost` if
    its claim is over), an id is not.
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
        """Return a view of the same queue whose records say that `actor` did it.

        Raises:
            InvalidTicket: `actor` is not 1 to 200 bytes of printable text.
        """
        return Kharon(self._queue, check_name("actor", actor))

    async def _one(self, command: c.Command) -> Ticket | None:
        return (await self._store.submit((command,), self._by))[0]

    async def _pending(self, command: c.Command) -> Ticket:
        ticket = await self._one(command)
        assert ticket is not None  # the command does not remove it
        return ticket

    # --- adding and asking --------------------------------------------------------------------------------------------

    @_checkpoint
    async def add(
        self,
        ticket: Ticket,
        *,
        delay: Delay | None = None,
        on_conflict: OnConflict = "replace",
        after: Iterable[str] = (),
        after_group: str | None = None,
        on_failure: OnFailure = "run",
    ) -> Ticket:
        """Add a ticket.

        Args:
            ticket: the ticket; of one that the queue gave, only the fields that a user sets count.
            delay: when it is due, counted from now: seconds, a timedelta, FixedDelay or BackoffDelay. Not with `runat`.
            on_conflict: what to do if the id exists. "replace": the newest wins; a terminal ticket starts anew, a
                claimed one runs on and is pending again, with the new fields, when it settles. "skip": nothing.
                "raise": `TicketExists`.
            after: ids of tickets, 1000 at the most, of which those that are pending now have to end first, in whatever
                way: done, failed, cancelled or removed. An id that no ticket has is not waited for.
            after_group: a group: its members that are pending now have to end first, or to leave it, however many they
                are. Those that join later are not waited for.
            on_failure: what becomes of this ticket if one that it waits for fails or is cancelled: "run" lets it run,
                "cancel" cancels it, at once, and keeps it.

        The ticket is blocked, and not claimed, until all that it waits for has ended; its delay runs meanwhile. The
        commit that ends the last one unblocks it. One that waits, and is added again with the same `after` and
        `after_group`, goes on waiting for what is left, and for nothing new.

        Returns:
            The ticket as it is in the queue now.

        Raises:
            InvalidTicket: an argument cannot be so; or the ticket would wait for one that waits for it.
            FinalizerInGroup: `after_group` is its own group.
            TicketExists: as above.

        Cost: O(log n); with `after` O(its length) at each end of one of them; and if others wait for a ticket that is
        added again, O(their number).
        """
        return await self._pending(requests.add(ticket, delay, on_conflict, after, after_group, on_failure))

    @_checkpoint
    async def add_many(
        self,
        tickets: Iterable[Ticket],
        *,
        delay: Delay | None = None,
        on_conflict: OnConflict = "replace",
        after: Iterable[str] = (),
        after_group: str | None = None,
        on_failure: OnFailure = "run",
    ) -> list[Ticket]:
        """Add tickets in one commit: all of them, or, if one is refused, none.

        Arguments, errors and cost per ticket are those of `add`; a refusal says which ticket it was. The whole commit
        is decided in one stretch, about 15 µs a ticket, in which no other task runs: give a large import in parts.
        """
        commands = requests.add_many(tickets, delay, on_conflict, after, after_group, on_failure)
        return [ticket for ticket in await self._store.submit(commands, self._by) if ticket is not None]

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
        status: Status | str | None = None,
        type: str | None = None,
        tube: str | None = None,
        group: str | None = None,
        limit: int | None = 1000,
    ) -> list[Ticket]:
        """Return the tickets that match, in the order in which their ids first came, as they all were at one moment.

        Args:
            status: "pending", "done", "failed" or "cancelled"; None: any.
            type: the type; None: any.
            tube: the tube; None: any.
            group: the group; None: any.
            limit: at most so many; None: all.

        Raises:
            InvalidTicket: there is no such status.

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
        return await self._store.list(status=wanted, type=type, tube=tube, group=group, limit=limit)

    # --- settling -----------------------------------------------------------------------------------------------------

    @_checkpoint
    async def ack(
        self,
        t: Ticket | str,
        *,
        keep: bool = False,
        result: Any = None,
        expire_in: Seconds | None = None,
        tube: str | None = None,
    ) -> Ticket | None:
        """The work is done: remove the ticket, or, with `keep`, do as `done` does.

        Returns:
            The ticket if it is still there: kept, or pending again because it was added while it ran. Else None.

        Raises:
            TicketNotFound, LeaseLost, InvalidTransition: there is no such ticket; its claim is over; it is terminal.
            InvalidTicket: `result` is no JSON; or it, `expire_in` or `tube` is given without `keep`.

        Cost: O(log n).
        """
        return await self._one(requests.ack(t, keep=keep, result=result, expire_in=expire_in, tube=tube))

    @_checkpoint
    async def done(
        self, t: Ticket | str, *, result: Any = None, expire_in: Seconds | None = None, tube: str | None = None
    ) -> Ticket:
        """The work is done: keep the ticket, with its result.

        Args:
            t: the ticket that a handler received (fenced), or an id.
            result: any JSON value.
            expire_in: seconds, or a timedelta, after which it is removed; None: it is kept for good.
            tube: the tube that it moves to, in the same commit; None: it stays. One that was added again while it ran
                is not moved: what was added is newer. On a full disk moving waits for room, so settle without it there.

        Raises:
            TicketNotFound, LeaseLost, InvalidTransition: there is no such ticket; its claim is over; it is terminal.
            InvalidTicket: an argument cannot be so.
            StorageFull: it is to move, and the disk is full.

        Cost: O(log n).
        """
        return await self._pending(requests.done(t, result=result, expire_in=expire_in, tube=tube))

    @_checkpoint
    async def fail(
        self,
        t: Ticket | str,
        *,
        error_reason: str | None = None,
        expire_in: Seconds | None = None,
        tube: str | None = None,
    ) -> Ticket:
        """The ticket has failed for good, and is kept. Arguments, errors and cost as in `done`."""
        return await self._pending(requests.fail(t, error_reason=error_reason, expire_in=expire_in, tube=tube))

    @_checkpoint
    async def cancel(
        self,
        t: Ticket | str,
        *,
        error_reason: str | None = None,
        keep: bool = False,
        expire_in: Seconds | None = None,
        tube: str | None = None,
    ) -> Ticket | None:
        """The ticket is not wanted any more: remove it, or, with `keep`, keep it as cancelled.

        By its id, one that is running is interrupted: its handler is cancelled at its next checkpoint (it sees
        `trio.Cancelled`), and what it settles afterwards is refused. A `def` handler runs on; it can ask
        `trio.from_thread.check_cancelled()`. If the ticket was added again while it ran, the new one runs. Given the
        ticket that it received, a handler cancels the ticket itself, and is not interrupted: it may clean up.

        Returns:
            The ticket if it is still there, else None.

        Arguments, errors and cost as in `done`; `expire_in` and `tube` go with `keep` only.
        """
        command = requests.cancel(t, error_reason=error_reason, keep=keep, expire_in=expire_in, tube=tube)
        with self._queue.crew.attempts.settling((command,)):
            return await self._one(command)

    @_checkpoint
    async def retry(
        self, t: Ticket | str, *, delay: Delay | None = None, error_reason: str | None = None, **changes: Any
    ) -> Ticket:
        """Let the ticket run again, after `delay`, whatever the number of its attempts.

        Args:
            t: the ticket that a handler received (fenced), or an id.
            delay: seconds, a timedelta, FixedDelay or BackoffDelay; None: `Settings.backoff`.
            error_reason: why.
            changes: new values of `nice`, `payload`, `tube`, `group`, or of `runat` in place of a delay.

        Raises:
            TicketNotFound, LeaseLost, InvalidTransition: there is no such ticket; its claim is over; it is terminal.
            InvalidTicket: an argument cannot be so.

        Cost: O(log n).
        """
        command = requests.retry(t, self._queue.settings.policy, delay=delay, error_reason=error_reason, **changes)
        return await self._pending(command)

    @_checkpoint
    async def release(self, t: Ticket | str, **changes: Any) -> Ticket:
        """Give a claim back: the ticket is pending at once, the attempt is not counted.

        Arguments, errors and cost as in `done`; `changes` as in `update`, so that it may move to another tube.
        """
        return await self._pending(requests.release(t, **changes))

    @_checkpoint
    async def extend(self, t: Ticket | str, seconds: Seconds) -> Ticket:
        """Let the lease of a claimed ticket end `seconds` (a number, or a timedelta) from now, if that is later.

        Errors and cost as in `done`.
        """
        command = requests.extend(t, seconds)
        ticket = await self._pending(command)
        self._queue.crew.attempts.extend(ticket, command.seconds)
        return ticket

    # --- changing -----------------------------------------------------------------------------------------------------

    @_checkpoint
    async def restart(self, id: str) -> Ticket:
        """Make a done, failed or cancelled ticket pending again as if new: due now, no attempts. O(log n).

        Raises:
            TicketNotFound, InvalidTransition: there is no such ticket; it is pending.
        """
        return await self._pending(requests.restart(id))

    @_checkpoint
    async def update(self, id: str, **changes: Any) -> Ticket:
        """Change `nice`, `payload`, `tube`, `group` or `runat` of a ticket; its status stays. O(log n).

        Raises:
            TicketNotFound: there is no such ticket.
            InvalidTicket: there is nothing to change, or a value cannot be so.
        """
        return await self._pending(requests.update(id, **changes))

    @_checkpoint
    async def delete(self, id: str) -> None:
        """Remove a ticket, whatever its status; if there is none, nothing happens. O(log n).

        If it is running, its handler is interrupted, as by `cancel` by id.
        """
        await self._one(requests.delete(id))

    # --- several at once ----------------------------------------------------------------------------------------------

    def atomic(self) -> Atomic:
        """Return a block in which commands gather, to be carried out when it ends: all of them, or none.

            async with kh.atomic() as tx:
                tx.done(ticket, result=42)
                tx.add(Ticket("next", "email"))

        Its verbs are those of the queue, with the same arguments, and are not awaited. See `Atomic`.
        """
        return Atomic(self._store, self._by, self._queue.settings, self._queue.crew.attempts)

    def group(self, name: str) -> Group:
        """Return a view of a group of tickets: how many of it are pending, and a wait until none is. O(1).

        Raises:
            InvalidTicket: `name` cannot be the name of a group.
        """
        return Group(check_name("group", name), self._store, self._queue.group_waits)

    # --- tubes --------------------------------------------------------------------------------------------------------

    @property
    def tubes(self) -> tuple[str, ...]:
        """The tubes that this process claims from: `Settings.tubes` at first."""
        return self._queue.crew.tubes

    def subscribe(self, *tubes: str) -> None:
        """Claim from these tubes, too, from now on; those that are subscribed to already stay so.

        A matter of this process, which no record tells of, so it does not wait: it is no async method. O(tubes).

        Raises:
            InvalidTicket: one of them is no name; then nothing has changed.
        """
        crew = self._queue.crew
        crew.tubes = tuple(dict.fromkeys((*crew.tubes, *(check_name("tube", tube) for tube in tubes))))

    def unsubscribe(self, *tubes: str) -> None:
        """Claim from these tubes no more; what runs goes on, and a tube that is not subscribed to is passed over.

        As `subscribe` otherwise. Without any tube left nothing is claimed, and workers wait.
        """
        crew = self._queue.crew
        unwanted = {check_name("tube", tube) for tube in tubes}
        crew.tubes = tuple(tube for tube in crew.tubes if tube not in unwanted)

    @_checkpoint
    async def pause(self, tube: str) -> None:
        """Let nothing be claimed from a tube, by anybody, until `resume`; what runs goes on. O(1).

        It is recorded, so it holds after a restart. Pausing a paused tube changes nothing, and writes nothing.

        Raises:
            InvalidTicket: `tube` is no name.
        """
        await self._store.submit((requests.pause(tube),), self._by)

    @_checkpoint
    async def resume(self, tube: str) -> None:
        """Let a paused tube be claimed from again; if it is not paused, nothing happens. Otherwise as `pause`."""
        await self._store.submit((requests.resume(tube),), self._by)

    @_checkpoint
    async def limit(
        self, tube: str, *, claimed: int | None = None, claims: int | None = None, period: Seconds | None = None
    ) -> None:
        """Limit how much is claimed from a tube, in place of the limit that it has; without any argument: not at all.

        It is recorded, and so is what counts against it, so it holds after a restart, and across one.

        Args:
            tube: the tube.
            claimed: at most so many of its tickets are claimed at once; None: any number. Those that are claimed
                already go on.
            claims: at most so many claims are made in any `period`, 10,000 at most; None: any number. By the times of
                the records, which a clock that is set back does not set back: until it has come there again they stand
                still. A claim that is released counts. Claims made before the tube had such a limit do not.
            period: seconds, or a timedelta; goes with `claims`.

        Raises:
            InvalidTicket: an argument cannot be so.

        Cost: O(claims).
        """
        await self._store.submit((requests.limit(tube, claimed=claimed, claims=claims, period=period),), self._by)

    @_checkpoint
    async def tube(self, name: str) -> Tube:
        """Return a tube: whether it is paused, limited, open, how many of its tickets are ready, and claimed. O(log n).

        Any name will do: a tube of which nobody has heard is open, and has no tickets.

        Raises:
            InvalidTicket: `name` is no name.
        """
        return await self._store.tube(check_name("tube", name))

    async def restricted_tubes(self) -> Tubes:
        """Return the tubes that are paused or limited, by name. O(their number)."""
        return await self._store.restricted()

    # --- schedules ----------------------------------------------------------------------------------------------------

    async def schedule(
        self,
        name: str,
        cron: str | None = None,
        *,
        every: Seconds | None = None,
        ticket: Ticket,
        tz: str = "UTC",
        catch_up: CatchUp = "one",
    ) -> None:
        """Add a ticket again and again: by a cron expression, or every so many seconds.

        The ticket of an instant is called after it, as `report@2026-11-24T13:05:00Z`, and that is its `runat`. It is
        added, by `clock`, in the commit that says that the schedule has fired: no crash and no step of the clock makes
        an instant fire twice. Schedules fire while `run` runs, here or at the next start. Whether the ticket before is
        still pending does not matter.

        Call it at each start: where nothing is different, nothing happens. Other values take the place of those there
        were; if neither `cron`, `every` nor `tz` is different, the next instant stays what it was.

        Args:
            name: what to call the schedule, and its tickets; 1 to 172 bytes of printable text.
            cron: five fields, as in Debian's cron (`kharon[cron]`). In a time zone whose clocks are put, a time that is
                skipped fires right after the gap, and one that comes twice fires once; an expression of which the
                minute or the hour begins with `*` goes by what the clock shows.
            every: seconds, 1 at the least, or a timedelta, in place of `cron`: elapsed time, first so long from now.
            ticket: what to add. Its `id` does not count, and it has no `runat`.
            tz: the time zone that `cron` is read in, as "Europe/Berlin".
            catch_up: what becomes of instants that were missed: because the queue was closed, not being run or without
                room, or because the clock was put forward. "one": one ticket, of the latest. "all": one each, oldest
                first, of the newest 1000. "none": one each of those not older than 60 s. An instant that has been
                passed over does not come again.

        Raises:
            InvalidTicket: an argument cannot be so; the expression never fires; there is no such time zone.
            KharonError: the cron library is not installed.

        Cost: O(log n).
        """
        await trio.lowlevel.checkpoint()  # first: what refuses an argument may not be an `InvalidTicket`
        since = self._store.fires_after
        command = requests.set_schedule(since, name, cron, every=every, ticket=ticket, tz=tz, catch_up=catch_up)
        await self._store.submit((command,), self._by)

    @_checkpoint
    async def unschedule(self, name: str) -> None:
        """Fire no more under this name; if nothing is scheduled so, nothing happens. Its tickets stay. O(log n)."""
        await self._store.submit((requests.remove_schedule(name),), self._by)

    @_checkpoint
    async def schedules(self) -> Schedules:
        """Return what is scheduled, by name, each with the instants at which it fires next, and fired last.

        Cost: O(n log n) for n schedules.
        """
        return await self._store.schedules()

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self, router: Router, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run handlers for due tickets, `Settings.workers` at once, until cancelled, or until `drain` has finished.

        Cancelling releases what runs: those tickets are pending again at once, and the attempt is not counted. What a
        handler raises is settled as a retry, and never leaves `run`.

        Args:
            router: which handler runs which type.
            task_status: `await nursery.start(kh.run, router)` returns when the workers are there.

        Raises:
            HandlerNotFound: the router is empty.
            QueueLocked: this queue is being run already.
        """
        await self._queue.crew.run(router, task_status)

    @_checkpoint
    async def drain(self, timeout: Seconds | None = None) -> None:  # noqa: ASYNC109 - it does not cancel, it releases
        """Claim no more, let the handlers that run finish, and return when they have; `run` then returns too.

        Returns at once if nothing runs yet: start `run` with `await nursery.start(kh.run, router)`, which it has begun
        by then. A handler that is a `def` cannot be cancelled, so it is waited for in any case.

        Args:
            timeout: seconds, or a timedelta, after which what still runs is cancelled and released; None: never.

        Raises:
            InvalidTransition: a handler called it, which would wait for itself.
        """
        await self._queue.crew.drain(None if timeout is None else as_seconds("timeout", timeout))

    @_checkpoint
    async def wait(self, id: str) -> Ticket:
        """Wait until a ticket is done, failed, cancelled or removed, and return it as it was then.

        A removed ticket is returned in its last state: `ack` makes it done. One that was removed before the wait began
        is found in its history. Cancelling the wait leaves no trace.

        Raises:
            TicketNotFound: there never was such a ticket.

        Cost: O(1); that of `history` if the ticket has been removed already.
        """
        with self._queue.waits.begin(id_of(id)) as wait:
            ticket = await self._store.get(id)
            if ticket is None:
                return last_state(id, await self.history(id))
            return await wait.end_of(ticket) or await self.get(id)  # the latter says that the queue is closed

    @_checkpoint
    async def run_and_wait(self, ticket: Ticket, **what: Any) -> Any:
        """Add a ticket, wait until it has ended, and return its result: what `done` was given; None after an `ack`.

        It is run by whoever runs its tube, perhaps not this process, or not yet. If it is added again meanwhile, the
        newest is waited for: this is about the id. If it is there and has ended, `on_conflict="skip"` answers at once,
        from what is kept. A handler that calls this keeps its worker while it waits: of handlers that wait for others
        there must be fewer than workers, or their leases end first.

        Cancelling it ends the wait, and nothing else: the ticket stays.

        Args:
            ticket: as `add` takes it.
            what: what else `add` takes.

        Raises:
            TicketFailedError: it failed, was cancelled, or was deleted; with the ticket and the reason.
            InvalidTicket, TicketExists: as `add`.

        Cost: that of `add`.
        """
        id = ticket.id if isinstance(ticket, Ticket) else ""  # which `add` refuses
        with self._queue.waits.begin(id) as wait:
            return result_of(await wait.end_of(await self.add(ticket, **what)) or await self.get(id))

    # --- history ------------------------------------------------------------------------------------------------------

    @_checkpoint
    async def history(self, id: str) -> Records:
        """Return every record about a ticket, oldest first; none if there never was such a ticket.

        A removed ticket keeps its history. That of the queue begins at `first_record`.

        Raises:
            CorruptLog: the log is not what was written.
            Closed: the queue is closed.
            KharonError: what comes next was trimmed meanwhile; or is compressed, and zstd is not installed.
            OSError: the log cannot be read.

        Cost: three small reads for each segment of a directory that is finished and has its index, which the process
        that takes snapshots writes; O(bytes) of all others; in slices between which other tasks run.
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
        """Return the durable records behind the seq `after`, as an async iterator.

        Args:
            after: a seq; 0: from the beginning.
            follow: whether to go on, waiting for new ones, rather than to end at the last.

        Use it in an `async with`, or read it to its end: it holds a file open until then.

        Raises:
            InvalidTicket: `after` is no seq.
        """
        if not isinstance(after, int) or after < 0:
            raise InvalidTicket(f"after: a seq, 0 or more; not {after!r}")
        return RecordStream(self._store.reader(after), follow=follow)

    @property
    def first_record(self) -> int:
        """The seq at which the history begins: 1, unless records were trimmed, or dropped by a ":memory:" queue."""
        return self._store.first

    # --- stats --------------------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Return what this process has counted since it opened the queue. O(number of (type, tube))."""
        return self._queue.stats.stats()

    def reset_stats(self) -> None:
        """Begin to count anew."""
        self._queue.stats.reset()
