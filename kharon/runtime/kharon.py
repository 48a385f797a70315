"""The facade: `open`, and the `Kharon` that it gives.

It checks what users pass, turns it into commands, and hands them to the store; the rules are in `model.decide`, the
waiting in the store, the handlers in `workers`. A `Kharon` is a view of one queue in one actor's name; `acting_as`
gives another view of the same queue.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, Self, TypeAlias, TypeVar

import trio
from msgspec import Raw
from trio.lowlevel import enable_ki_protection

from kharon.errors import InvalidSettings, InvalidTicket, TicketNotFound
from kharon.log.directory import DirectoryLog
from kharon.log.memory import MemoryLog
from kharon.log.protocol import EventLog
from kharon.log.record import Record
from kharon.log.retention import Retention
from kharon.model import commands as c
from kharon.model.delays import Delay, as_seconds, delay_seconds
from kharon.model.events import Changes, TicketAdded, TicketEvent
from kharon.model.evolve import ended, evolve
from kharon.model.limits import check_instant, check_json, check_name, check_nice, check_reason
from kharon.model.ticket import Status, Ticket, draft_of, seal
from kharon.runtime.clock import WallClock
from kharon.runtime.retention import Keeper, policy_of
from kharon.runtime.router import Router
from kharon.runtime.snapshots import Snapshots
from kharon.runtime.stats import Collector, Stats
from kharon.runtime.workers import Crew
from kharon.settings import Settings
from kharon.store.local import LocalStore
from kharon.store.protocol import Clock, Effect, RecordReader, Store

__all__ = ["Kharon", "OnConflict", "RecordStream", "open_queue"]

OnConflict: TypeAlias = Literal["replace", "skip", "raise"]
Seconds: TypeAlias = float | timedelta
Records: TypeAlias = list[Record]
_P = ParamSpec("_P")
_T = TypeVar("_T")

MEMORY: Final = ":memory:"


class _Wait:
    """Somebody who waits for a ticket to end."""

    __slots__ = ("event", "ticket")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.ticket: Ticket | None = None


class _Queue:
    """What all views of one queue share."""

    def __init__(self, log: EventLog, settings: Settings, clock: Clock, *, in_thread: bool) -> None:
        self.settings = settings
        self.stats = Collector()
        self.waits: dict[str, set[_Wait]] = {}
        store = LocalStore(log, settings, clock, self._deliver, self._closed, in_thread=in_thread)
        self.store: Store = store
        self.snapshots: Snapshots | None = None
        self.keeper: Keeper | None = None
        if isinstance(log, DirectoryLog):
            self._keep(log, store, clock)
        self.crew = Crew(self.store, settings, clock, self.stats, lambda name: Kharon(self, name))

    def _keep(self, log: DirectoryLog, store: LocalStore, clock: Clock) -> None:
        """Set up what is done with the log in the background."""
        settings = self.settings
        policy = policy_of(settings)
        if settings.snapshot_bytes is not None:
            self.snapshots = Snapshots(log, settings.snapshot_bytes, trims=bool(policy.trim), taken=self._look_again)
        log.begun = self._begun
        if policy:
            archive = settings.archive_directory
            retention = Retention(log, policy, None if archive is None else Path(archive), self._may_trim)
            self.keeper = Keeper(retention, store.record, clock, settings.max_poll_interval)

    def _begun(self) -> None:
        if self.snapshots is not None:
            self.snapshots.look()
        self._look_again()

    def _may_trim(self, upto: int) -> bool:
        return self.snapshots is not None and self.snapshots.may_trim(upto)

    def _look_again(self) -> None:
        if self.keeper is not None:
            self.keeper.wake()

    def _deliver(self, effects: Sequence[Effect]) -> None:
        self.stats.deliver(effects)
        self.crew.deliver(effects)
        if self.waits:
            for effect in effects:
                self._end_waits(effect)

    def _closed(self) -> None:
        """Wake those who wait for a ticket that will not end here any more."""
        for waits in self.waits.values():
            for wait in waits:
                wait.event.set()

    def _end_waits(self, effect: Effect) -> None:
        event, old, new = effect.event, effect.old, effect.new
        if not isinstance(event, TicketEvent) or event.id not in self.waits:
            return
        if new is not None and new.status is Status.PENDING:
            return
        for wait in self.waits.pop(event.id):
            wait.ticket = new if new is not None or old is None else ended(old, event, effect.seq, effect.at)
            wait.event.set()


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
    decided, or after it is durable, when the next checkpoint raises it. Each can raise `Closed` when the queue is, and
    `CommitOutcomeUnknown` when the disk fails; that is not said again below. On a full disk whatever lets the queue
    grow (adding, extending, restarting, updating) raises `StorageFull` until there is room, and nothing of it is kept;
    settling and deleting go on from `Settings.reserve_bytes`. Where a ticket is settled, a `Ticket` that a handler
    received is fenced (`LeaseLost` if its claim is over), an id is not.
    """

    def __init__(self, queue: _Queue, by: str) -> None:
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
    async def add(self, ticket: Ticket, *, delay: Delay | None = None, on_conflict: OnConflict = "replace") -> Ticket:
        """Add a ticket.

        Args:
            ticket: the ticket; of one that the queue gave, only the fields that a user sets count.
            delay: when it is due, counted from now: seconds, a timedelta, FixedDelay or BackoffDelay. Not with `runat`.
            on_conflict: what to do if the id exists. "replace": the newest wins; a terminal ticket starts anew, a
                claimed one runs on and is pending again, with the new fields, when it settles. "skip": nothing.
                "raise": `TicketExists`.

        Returns:
            The ticket as it is in the queue now.

        Raises:
            InvalidTicket: an argument cannot be so.
            TicketExists: as above.

        Cost: O(log n).
        """
        return await self._pending(_add(ticket, delay, on_conflict))

    @_checkpoint
    async def add_many(
        self, tickets: Iterable[Ticket], *, delay: Delay | None = None, on_conflict: OnConflict = "replace"
    ) -> list[Ticket]:
        """Add tickets in one commit: all of them, or, if one is refused, none.

        Arguments, errors and cost per ticket are those of `add`. The whole commit is decided in one stretch, about
        15 µs a ticket, in which no other task runs: give a large import in parts.
        """
        commands = [_add(ticket, delay, on_conflict) for ticket in tickets]
        return [ticket for ticket in await self._store.submit(commands, self._by) if ticket is not None]

    @_checkpoint
    async def get(self, id: str) -> Ticket:
        """Return a ticket. O(1).

        Raises:
            TicketNotFound: there is none.
        """
        ticket = await self._store.get(_id(id))
        if ticket is None:
            raise _not_found(id)
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
        self, t: Ticket | str, *, keep: bool = False, result: Any = None, expire_in: Seconds | None = None
    ) -> Ticket | None:
        """The work is done: remove the ticket, or, with `keep`, do as `done` does.

        Returns:
            The ticket if it is still there: kept, or pending again because it was added while it ran. Else None.

        Raises:
            TicketNotFound, LeaseLost, InvalidTransition: there is no such ticket; its claim is over; it is terminal.
            InvalidTicket: `result` is no JSON, or given without `keep`.

        Cost: O(log n).
        """
        if keep:
            return await self.done(t, result=result, expire_in=expire_in)
        if result is not None or expire_in is not None:
            raise InvalidTicket("ack: a removed ticket has neither result nor expire_in; use done, or keep=True")
        return await self._one(c.Done(*_target(t)))

    @_checkpoint
    async def done(self, t: Ticket | str, *, result: Any = None, expire_in: Seconds | None = None) -> Ticket:
        """The work is done: keep the ticket, with its result.

        Args:
            t: the ticket that a handler received (fenced), or an id.
            result: any JSON value.
            expire_in: seconds, or a timedelta, after which it is removed; None: it is kept for good.

        Raises:
            TicketNotFound, LeaseLost, InvalidTransition: there is no such ticket; its claim is over; it is terminal.
            InvalidTicket: an argument cannot be so.

        Cost: O(log n).
        """
        data = None if result is None else check_json("result", result)
        return await self._pending(c.Done(*_target(t), keep=True, result=data, expire_in=_expire_in(expire_in)))

    @_checkpoint
    async def fail(
        self, t: Ticket | str, *, error_reason: str | None = None, expire_in: Seconds | None = None
    ) -> Ticket:
        """The ticket has failed for good, and is kept. Arguments, errors and cost as in `done`."""
        reason = check_reason("error_reason", error_reason)
        return await self._pending(c.Fail(*_target(t), error_reason=reason, expire_in=_expire_in(expire_in)))

    @_checkpoint
    async def cancel(
        self,
        t: Ticket | str,
        *,
        error_reason: str | None = None,
        keep: bool = False,
        expire_in: Seconds | None = None,
    ) -> Ticket | None:
        """The ticket is not wanted any more: remove it, or, with `keep`, keep it as cancelled.

        Returns:
            The ticket if it is still there, else None.

        Arguments, errors and cost as in `done`; `expire_in` goes with `keep` only.
        """
        if expire_in is not None and not keep:
            raise InvalidTicket("cancel: a removed ticket does not expire; expire_in goes with keep=True")
        reason = check_reason("error_reason", error_reason)
        return await self._one(c.Cancel(*_target(t), keep=keep, error_reason=reason, expire_in=_expire_in(expire_in)))

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
        if delay is not None and "runat" in changes:
            raise InvalidTicket("retry: give delay (a duration) or runat (an instant), not both")
        command = c.Retry(
            *_target(t),
            delay=self._queue.settings.backoff if delay is None else _checked(delay),
            error_reason=check_reason("error_reason", error_reason),
            changes=_changes("retry", changes) if changes else None,
        )
        return await self._pending(command)

    @_checkpoint
    async def release(self, t: Ticket | str) -> Ticket:
        """Give a claim back: the ticket is pending at once, the attempt is not counted. Errors, cost as in `done`."""
        return await self._pending(c.Release(*_target(t)))

    @_checkpoint
    async def extend(self, t: Ticket | str, seconds: Seconds) -> Ticket:
        """Let the lease of a claimed ticket end `seconds` (a number, or a timedelta) from now, if that is later.

        Errors and cost as in `done`.
        """
        lease = as_seconds("seconds", seconds)
        ticket = await self._pending(c.Extend(*_target(t), seconds=lease))
        self._queue.crew.extend(ticket, lease)
        return ticket

    # --- changing -----------------------------------------------------------------------------------------------------

    @_checkpoint
    async def restart(self, id: str) -> Ticket:
        """Make a done, failed or cancelled ticket pending again as if new: due now, no attempts. O(log n).

        Raises:
            TicketNotFound, InvalidTransition: there is no such ticket; it is pending.
        """
        return await self._pending(c.Restart(_id(id)))

    @_checkpoint
    async def update(self, id: str, **changes: Any) -> Ticket:
        """Change `nice`, `payload`, `tube`, `group` or `runat` of a ticket; its status stays. O(log n).

        Raises:
            TicketNotFound: there is no such ticket.
            InvalidTicket: there is nothing to change, or a value cannot be so.
        """
        return await self._pending(c.Update(_id(id), _changes("update", changes)))

    @_checkpoint
    async def delete(self, id: str) -> None:
        """Remove a ticket, whatever its status; if there is none, nothing happens. O(log n)."""
        await self._one(c.Delete(_id(id)))

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
        waits = self._queue.waits
        wait = _Wait()
        waits.setdefault(_id(id), set()).add(wait)
        try:
            ticket = await self._store.get(id)
            if ticket is None:
                return _last_state(id, await self.history(id))
            if ticket.status is not Status.PENDING:
                return ticket
            await wait.event.wait()
            return wait.ticket or await self.get(id)  # none: the queue is closed, and says so
        finally:
            if id in waits:
                waits[id].discard(wait)
                if not waits[id]:
                    del waits[id]

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
        reader = self._store.reader(0, _id(id))
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


class RecordStream:
    """Durable records as an async iterator; closed at its end, and by `aclose` or `async with` before that.

    Raises, from its iteration:
        CorruptLog: the log is not what was written.
        Closed: the queue was closed.
        KharonError: what comes next was trimmed, or dropped by a ":memory:" queue, before it was read; or is
            compressed, and zstd is not installed.
        OSError: the log cannot be read.
    """

    def __init__(self, reader: RecordReader, *, follow: bool) -> None:
        self._reader = reader
        self._follow = follow
        self._next: list[Record] = []
        self._ended = False

    def __aiter__(self) -> RecordStream:
        return self

    async def __anext__(self) -> Record:
        if self._next:
            await trio.lowlevel.checkpoint()
            return self._next.pop()
        try:
            while not self._ended:
                self._next = (await self._reader.read())[::-1]
                if self._next:
                    return self._next.pop()
                if self._reader.at_end:
                    if not self._follow:
                        break
                    await self._reader.wait()
        except Exception:
            self._close()
            raise
        await self.aclose()
        raise StopAsyncIteration

    def _close(self) -> None:
        self._ended = True
        self._next = []
        self._reader.close()

    async def aclose(self) -> None:
        """Stop, and give back what the stream holds."""
        self._close()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._close()
        await trio.lowlevel.cancel_shielded_checkpoint()


class open_queue(AbstractAsyncContextManager[Kharon]):  # noqa: N801 - it is `kharon.open`
    """Open a queue: `async with kharon.open("queue") as kh:`.

    Args:
        where: a directory, made if it does not exist; ":memory:" for a queue that ends with the block; or an `EventLog`
            of your own.
        settings: the queue's.
        clock: what tells the time; None: the machine's clock.

    Raises, on entering:
        QueueLocked: the directory is open already, here or in another process.
        CorruptLog: its log is damaged; or its beginning was trimmed, and no snapshot of it is usable.
        UnknownFormat: a later version of Kharon wrote it.
        KharonError: the directory is no queue, or should not be trusted with one: somebody else owns it or may write
            it, it is read-only, or on a network file system; or some of it is compressed, and zstd is not installed.
            The message says what to do.
        OSError: it cannot be read or written.

    Leaving the block stops the workers, releasing what they run, and closes the log. What the block raised leaves it
    unchanged. A queue that a process died with is opened as it was, but for its claims, which lapse: those attempts
    count, so that a ticket which kills its process comes to an end.

    Cost: to open, O(tickets) of the newest snapshot and O(records) behind it; without one O(records).
    """

    def __init__(
        self,
        where: str | os.PathLike[str] | EventLog,
        settings: Settings | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        settings = Settings() if settings is None else settings
        if not isinstance(settings, Settings):
            raise InvalidSettings(f"settings: a kharon.Settings, not {type(settings).__name__}")
        log, in_thread = _log(where, settings)
        self._queue = _Queue(log, settings, clock or WallClock(), in_thread=in_thread)

    @enable_ki_protection  # what has been opened is closed, in good order, whenever a Ctrl-C comes
    async def __aenter__(self) -> Kharon:
        await self._queue.store.open()
        if self._queue.snapshots is not None:
            self._queue.snapshots.start()
        if self._queue.keeper is not None:
            self._queue.keeper.start()
        return Kharon(self._queue, self._queue.settings.actor)

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._queue.crew.stop()
        finally:
            if self._queue.snapshots is not None:
                await self._queue.snapshots.stop()
            if self._queue.keeper is not None:
                await self._queue.keeper.stop()
            await self._queue.store.close()


def _log(where: str | os.PathLike[str] | EventLog, settings: Settings) -> tuple[EventLog, bool]:
    """Return the log for a place, and whether it may be opened in a thread."""
    if isinstance(where, (str, os.PathLike)):
        name = os.fspath(where)
        if name == MEMORY:
            return MemoryLog(settings.memory_records), False
        if not name or "://" in name:
            raise InvalidSettings(f'where: {name!r} is neither a directory nor ":memory:"')
        log = DirectoryLog(
            name,
            settings.segment_bytes,
            reserve_bytes=settings.reserve_bytes,
            allow_network_filesystem=settings.allow_network_filesystem,
        )
        return log, True
    if not callable(getattr(where, "append", None)) or not callable(getattr(where, "sync", None)):
        raise InvalidSettings(f'where: a directory, ":memory:", or an EventLog; not {type(where).__name__}')
    return where, False


def _not_found(id: str) -> TicketNotFound:
    return TicketNotFound(f"ticket {id!r}: there is none; it was never added, or has been removed")


def _last_state(id: str, records: Records) -> Ticket:
    """Return the ticket as it was when it was last removed, from all that is known of its history."""
    ticket = last = None
    for record in records:
        event = record.event
        if isinstance(event, TicketAdded if ticket is None else TicketEvent):  # memory may have dropped the beginning
            old, ticket = ticket, evolve(ticket, event, record.seq, record.at)
            if ticket is None and old is not None:
                last = ended(old, event, record.seq, record.at)
    if last is None:
        raise _not_found(id)
    return last


# --- from what users pass to commands ---------------------------------------------------------------------------------


def _add(ticket: Ticket, delay: Delay | None, on_conflict: str) -> c.Add:
    if not isinstance(ticket, Ticket):
        raise InvalidTicket(f"add takes a kharon.Ticket, not {type(ticket).__name__}")
    if on_conflict not in ("replace", "skip", "raise"):
        raise InvalidTicket(f'on_conflict: {on_conflict!r} is none of "replace", "skip", "raise"')
    if delay is not None:
        if ticket.version:  # the queue gave it, and its runat too: the user's word is the delay
            ticket = _undated(ticket)
        if ticket.runat is not None:
            raise InvalidTicket(f"ticket {ticket.id!r}: give runat (an instant) or delay (a duration), not both")
        _checked(delay)
    return c.Add(ticket.id, ticket, delay, on_conflict)


def _undated(ticket: Ticket) -> Ticket:
    draft = draft_of(ticket)
    draft.runat = None
    return seal(draft)


def _id(id: object) -> str:
    if not isinstance(id, str):
        raise InvalidTicket(f"id: a str, not {type(id).__name__}")
    return id


def _target(t: Ticket | str) -> tuple[str, int | None]:
    """Return a ticket's id and, if it was received under a claim, that claim."""
    return (t.id, t.claim) if isinstance(t, Ticket) else (_id(t), None)


def _checked(delay: Delay) -> Delay:
    delay_seconds(delay, 0, 0.0)
    return delay


def _expire_in(value: Seconds | None) -> float | None:
    return None if value is None else as_seconds("expire_in", value)


def _changes(verb: str, values: dict[str, Any]) -> Changes:
    checks: dict[str, Any] = {
        "nice": check_nice,
        "payload": lambda field, value: Raw(check_json(field, value)),
        "tube": check_name,
        "group": lambda field, value: None if value is None else check_name(field, value),
        "runat": check_instant,
    }
    unknown = sorted(set(values) - set(checks))
    if unknown:
        raise InvalidTicket(f"{verb}: {unknown[0]!r} cannot be changed; {', '.join(checks)} can")
    if not values:
        raise InvalidTicket(f"{verb}: nothing to change; give one of {', '.join(checks)}")
    checked = {name: checks[name](name, value) for name, value in values.items()}
    if "payload" in checked:
        checked["payload_json"] = checked.pop("payload")
    return Changes(**checked)
