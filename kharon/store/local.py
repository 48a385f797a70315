"""The store of one process: a projection, a log, and group commit between them.

There is one owner and no lock. Trio's tasks interleave at checkpoints only, so a command is decided, appended and
folded without a checkpoint (`_execute`). Its records join the open commit group, and its caller waits until that group
is durable (`group_commit`). Everything that leaves the store waits for that: replies, refusals, reads, claims.
`deliver` is called once a group is durable, before its callers go on.

Without room on the disk a group is undone, and the store stays open. Commands that let the queue grow (`Event.ends`)
are refused; commands that end something are decided once more, and use the space that the log has reserved. Reads are
repeated. If a write or a sync fails otherwise, the projection is ahead of the log, and the store is broken: callers in
flight are told that the outcome is unknown, and later callers that it is closed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

import trio
from trio.lowlevel import enable_ki_protection

from kharon.errors import Closed, CorruptLog, InvalidTransition, StorageFull
from kharon.log.messages import say
from kharon.log.protocol import EventLog, HasSnapshots
from kharon.log.record import CLOCK, Record
from kharon.model.commands import Claim, Command, Context, Expire, Release, Request, Settle
from kharon.model.commit import Commit
from kharon.model.events import Event, grows
from kharon.model.policy import LEASE_ENDED
from kharon.model.projection import Effect, Projection
from kharon.model.schedules import Schedule
from kharon.model.standing import Standing, standing_of
from kharon.model.ticket import Status, Ticket
from kharon.model.tubes import Tube
from kharon.settings import Settings
from kharon.store.background import Background
from kharon.store.calendar import Firing, first_firing
from kharon.store.group_commit import TRY_SECONDS, Commits, unknown_outcome
from kharon.store.listing import select
from kharon.store.protocol import Clock, Deliver
from kharon.store.reader import LocalReader
from kharon.store.sync_helper import Helper, Syncer

__all__ = ["LocalStore"]

_PROCESS_ENDED = "the process that ran it ended"
_REMEDY: Final = (
    "nothing was changed. kharon.repair(path) reports what a repair would lose, and kharon.repair(path, confirm=True) "
    "repairs it; a copy of the directory from before the damage may lose less"
)
_TICK_LIMIT = 200  # lapses, and expiries, of one tick: about 3 ms
_REPLAY_SLICE = 1000  # records between two checks for a cancellation of `open`


class LocalStore:
    """The state of a queue, in this process.

    Args:
        log: the log that keeps its records.
        settings: the settings of the queue.
        clock: gives the present time.
        deliver: called with the changes of each durable commit.
        closed: called when the store is closed or broken, so that nothing more is delivered; perhaps twice.
        in_thread: whether the log may be opened in a thread, so that a long replay does not stop the loop.
        helper: makes the helper that syncs outside of the loop; called once the disk has been found slow.
        background: snapshots and retention, which run from `open` to `close`; None: neither.
    """

    def __init__(
        self,
        log: EventLog,
        settings: Settings,
        clock: Clock,
        deliver: Deliver,
        closed: Callable[[], None],
        *,
        in_thread: bool,
        helper: Callable[[], Syncer] = Helper,
        background: Background | None = None,
    ) -> None:
        self._log = log
        self._settings = settings
        self._clock = clock
        self._notify_closed = closed
        self._policy = settings.policy()  # of a command that names neither a delay nor a duration
        self._in_thread = in_thread
        self._background = background
        self._projection = Projection()
        self._commits = Commits(
            log,
            self._projection,
            deliver,
            always=settings.fsync == "always",
            on_durable=self._on_durable,
            on_room=self._on_room,
            on_failure=self._on_failure,
            helper=helper,
        )
        self._firing = Firing(self._projection.schedules)
        self._opened = False
        self._closed: str | None = "the queue has not been opened"
        self._process = os.getpid()
        self._thread = threading.get_ident()
        self._without_room = trio.lowlevel.ParkingLot()  # workers whose settle had no room even in the reserve
        self._readers = trio.lowlevel.ParkingLot()
        self._idle = trio.lowlevel.ParkingLot()
        self._idle_tubes: Sequence[str] = ()
        self._waking = 0
        self._next_due: datetime | None = None
        self._earlier = trio.Event()

    # --- opening and closing ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Replay the log, and lapse the claims of a process that died.

        Raises:
            QueueLocked, CorruptLog, UnknownFormat, OSError: as the log's `open`.
            Closed: the store was opened before.

        Cost: O(records); with a snapshot, O(tickets in it) and O(records after it).
        """
        await trio.lowlevel.checkpoint()
        if self._opened:
            raise Closed("this queue was opened before; call kharon.open again for another")
        self._opened = True
        self._thread = threading.get_ident()
        now = self._clock.now()
        try:
            if self._in_thread:
                await trio.to_thread.run_sync(self._replay, now, trio.from_thread.check_cancelled)
            else:
                self._replay(now, None)
            self._closed = None
            await self._lapse_all()
        except BaseException as error:
            if isinstance(error, CorruptLog):
                error.add_note(_REMEDY)
            self._closed = "the queue could not be opened"
            try:
                await self._commits.stop()  # lapses on a slow disk may have started the helper
            finally:
                self._log.abandon()
            raise
        if self._settings.sync_interval is not None:
            self._commits.start(self._settings.sync_interval)
        if self._background is not None:
            self._background.start(self.record)

    def _replay(self, now: datetime, check_cancelled: Callable[[], None] | None) -> None:
        if isinstance(self._log, HasSnapshots) and (snapshot := self._log.load_snapshot()) is not None:
            self._projection.load(snapshot.tickets, snapshot.seq, snapshot.at, snapshot.others)
        self._projection.promote(now)
        self._projection.fold(_cancellable(self._log.open(now), check_cancelled))

    @enable_ki_protection
    async def _lapse_all(self) -> None:
        dead = list(self._projection.claimed())
        with contextlib.suppress(StorageFull):  # each claim then lapses when its lease ends
            for start in range(0, len(dead), _TICK_LIMIT):
                for ticket in dead[start : start + _TICK_LIMIT]:
                    self._lapse(ticket, _PROCESS_ENDED)
                await self._commits.durable()

    @enable_ki_protection
    async def close(self) -> None:
        """Make everything durable, record the closing in the log, and close it. Later calls raise `Closed`.

        Raises:
            CommitOutcomeUnknown: a write or a sync failed, now or before, and no user has been told yet.
        """
        if self._background is not None:
            await self._background.stop()
        commits = self._commits
        if self._closed is not None and commits.failure is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if os.getpid() != self._process:
            self._log.abandon()  # closes this process's copies of the files; the parent owns the queue
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        try:
            if commits.failure is None:
                self._closed = (
                    "the queue is closed: its `async with` block has ended"  # first, so that no new group begins
                )
            await commits.finish()
            self._close_log()
            if commits.failure is not None and not commits.told:
                raise unknown_outcome(commits.failure)
        finally:
            self._log.abandon()
            self._wake_everyone()
            await commits.stop()

    def _close_log(self) -> None:
        if self._commits.failure is not None:
            return
        try:
            self._log.close(self._clock.now())
        except StorageFull as full:  # every reported commit is kept; only the record of closing is missing
            say(logging.WARNING, "no room to record in the log that the queue was closed (%s)", full)
        except Exception as error:
            self._commits.fail(error)
            raise unknown_outcome(error) from error

    def _on_failure(self, error: BaseException) -> None:
        """Close the store for good, after a failed write."""
        self._closed = (
            f"the queue closed itself when a write failed ({error}); check the disk, then open the queue again"
        )
        self._wake_everyone()
        say(logging.ERROR, "%s", self._closed)

    def _on_durable(self) -> None:
        if self._readers:
            self._readers.unpark_all()

    def _on_room(self) -> None:
        self._without_room.unpark_all()
        if self._idle:
            self._wake()

    def _wake_everyone(self) -> None:
        """Wake every waiting task: each of them finds the store closed."""
        self._readers.unpark_all()
        self._idle.unpark_all()
        self._without_room.unpark_all()
        self._earlier.set()
        self._notify_closed()

    def _check_open(self) -> None:
        if self._closed is not None:
            self._commits.told = True
            raise Closed(self._closed) from self._commits.failure
        if os.getpid() != self._process:  # 0.3 µs
            raise Closed(
                f"the queue was opened by process {self._process}, and belongs to it; this is process {os.getpid()}, "
                f"forked from it. Open queues after forking"
            )
        self._check_thread()

    def _check_thread(self) -> None:
        """Refuse a call from another thread before it touches anything, since there are no locks."""
        if threading.get_ident() != self._thread:
            raise InvalidTransition(
                f"the queue was called in the thread {threading.current_thread().name!r}, and belongs to the thread "
                f"that runs Trio: call it through trio.from_thread.run(lambda: …), or trio.from_thread.run_sync"
            )

    async def _enter(self) -> None:
        """Begin an async method: raise if it is cancelled or the store is closed. A checkpoint if it raises."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._check_open()
        except (Closed, InvalidTransition):
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise

    # --- commands -----------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def submit(self, commands: Sequence[Request], by: str) -> list[Ticket | None]:
        """Decide commands as one commit, or refuse them all; return the ticket of each after it.

        That is None if the command removed it, or is not about a ticket.

        Raises:
            KharonError: `decide` refused a command; nothing has changed.
            StorageFull: there was no room; nothing has changed.
            CommitOutcomeUnknown: the write failed.
            Closed: the queue is closed.

        Cost: O(commands log n), and one wait for the commit group.
        """
        await self._enter()
        try:
            return await self._submit(commands, by)
        except StorageFull:
            # Commands that end something may have shared their group with others that let the queue grow: alone they
            # may use the reserve. For the rest, and for refusals that saw undone effects, the present state decides.
            return await self._submit(commands, by)

    async def _submit(self, commands: Sequence[Request], by: str) -> list[Ticket | None]:
        self._check_open()
        try:
            return self._execute(commands, by)
        finally:
            # A refusal shows a state, too, which has to be durable first.
            await self._commits.durable()

    @enable_ki_protection
    async def turn(
        self, worker: str, tubes: Sequence[str], settle: Settle | None, *, settle_by: str, claim: bool
    ) -> Ticket | None:
        """Settle a worker's last ticket and claim its next one, both in one commit group. Not cancellable.

        Without room nothing is claimed, and the settle uses the reserve. When the reserve is used up too, the settle
        waits for room. That wait is cancellable: the lease then lapses, and the work is done once more.

        Raises:
            StorageFull: there was no room to release a claim.

        Cost: O(log n), or O(tubes log n) if the tubes are not those of the last call; one wait for the commit group.
        """
        with_claim = claim
        while True:
            try:
                return await self._turn(worker, tubes, settle, settle_by, claim=with_claim)
            except StorageFull as full:
                if settle is None:
                    return None
                if with_claim or self._commits.group_grew:
                    with_claim = False
                    continue
                if isinstance(settle, Release):
                    raise
                await self._wait_for_room(settle, full)

    async def _wait_for_room(self, settle: Settle, full: StorageFull) -> None:
        try:
            await self._without_room.park()
        except trio.Cancelled:
            lost = "ticket %r: the outcome of its attempt is lost, so it will run again: %s"
            say(logging.WARNING, lost, settle.id, full)
            raise

    async def _turn(
        self, worker: str, tubes: Sequence[str], settle: Settle | None, settle_by: str, *, claim: bool
    ) -> Ticket | None:
        self._check_open()
        claimed: list[Ticket | None] = [None]
        try:
            if settle is not None:
                self._settle(settle, settle_by)
            if claim and self._commits.may_grow():
                now = self._clock.now()  # read once: the same instant for `promote` and the claim
                self._projection.promote(now)
                ticket = self._projection.first_ready(tubes)
                if ticket is not None:
                    lease = self._settings.policy(ticket.type).process_time
                    claimed = self._execute((Claim(ticket.id, worker),), worker, now, lease)
        finally:
            await self._commits.durable()
        return claimed[0]

    def _settle(self, settle: Settle, by: str) -> None:
        ticket = self._projection.get(settle.id)
        if ticket is not None and ticket.claim == settle.claim:
            self._execute((settle,), by)
        else:  # the handler settled it, or the lease lapsed; the log says which
            say(logging.DEBUG, "ticket %r: the claim of record %s is over already", settle.id, settle.claim)

    def _execute(
        self, commands: Sequence[Request], by: str, now: datetime | None = None, lease: float = 0.0
    ) -> list[Ticket | None]:
        """Decide, fold and append all commands without a checkpoint; or none of them, if one is refused.

        A claim among them gets a lease of `lease` seconds.
        """
        now = now or self._clock.now()
        projection = self._projection
        projection.promote(now)
        chance = random.random()  # noqa: S311 - spreads retries
        policy = self._policy
        commit = Commit(projection, Context(now, chance, lease, policy.backoff, policy.keep_failed), first_firing)
        try:
            commit.run(commands)
            growing = self._append(commit.effects, by)
        except BaseException:
            commit.undo()
            raise
        commit.keep()
        if commit.effects:
            self._join(commit.effects, growing=growing)
        return [projection.get(command.id) if isinstance(command, Command) else None for command in commands]

    def _append(self, effects: Sequence[Effect], by: str) -> bool:
        """Append the events of a commit to the log; return whether they let the queue grow."""
        if not effects:
            return False
        events = [effect.event for effect in effects]
        growing = grows(events)
        if growing and not self._commits.may_grow():
            raise self._commits.no_room()
        self._log.append(events, effects[0].at, by)
        return growing

    def _join(self, effects: Sequence[Effect], *, growing: bool) -> None:
        """Add an appended commit to the open group, and wake the tasks that it concerns."""
        self._commits.join(effects, grows=growing)
        if self._idle:
            self._wake()
        if self._next_due is not None:
            self._announce_earlier(self._next_due)

    # --- records about the log itself ---------------------------------------------------------------------------------

    @enable_ki_protection
    async def record(self, event: Event) -> None:
        """Append an event about the log itself, and wait until it is on disk, whatever `Settings.fsync` says.

        The caller is internal: a failure is still to be reported to a user.

        Raises:
            StorageFull: there was no room; nothing has changed.
            CommitOutcomeUnknown: the write failed.
            Closed: the queue is closed.

        Cost: one wait for the commit group, and another sync if `Settings.fsync` is not "always".
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            await self._record(event)
        except StorageFull:  # it may have shared its group with growth; alone it may use the reserve
            await self._record(event)

    async def _record(self, event: Event) -> None:
        if self._closed is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise Closed(self._closed) from self._commits.failure
        at = self._log.append([event], self._clock.now(), CLOCK)
        effect = self._projection.apply(event, self._projection.seq + 1, at)
        self._join([effect], growing=grows([event]))
        await self._commits.on_disk()

    # --- time and idle workers ----------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Wake an idle worker for each ready ticket for which none has been woken yet."""
        if not self._commits.may_grow():
            return
        ready = self._projection.ready_count(self._idle_tubes)
        count = min(ready - self._waking, self._settings.batch_size, len(self._idle))
        if count > 0:
            self._waking += count
            self._idle.unpark(count=count)

    async def wait_ready(self, tubes: Sequence[str]) -> None:
        """Wait until a claim from these tubes may succeed, or `wake_all` is called."""
        self._check_open()
        self._idle_tubes = tubes
        ready = self._projection.ready_count(tubes)
        if self._next_due is not None:  # a tube that was not asked for before may reopen earlier
            self._announce_earlier(self._next_due)
        if self._commits.may_grow() and ready > self._waking:
            await trio.lowlevel.checkpoint()
            return
        await self._idle.park()  # a task counted in `_waking` can no longer be cancelled here
        if self._waking > 0:  # else the store closed, and woke everyone
            self._waking -= 1
        self._check_open()

    def wake_all(self) -> None:
        """Make every `wait_ready` return."""
        self._check_thread()
        self._waking += len(self._idle)
        self._idle.unpark_all()

    def _lapse(self, ticket: Ticket, error_reason: str) -> None:
        self._execute((self._settings.policy(ticket.type).lapse(ticket, error_reason),), CLOCK)

    @enable_ki_protection
    async def tick(self) -> float:
        """Promote due tickets, lapse leases that have ended, expire kept tickets, and fire schedules.

        Returns:
            The seconds until something will be due, more than 0; `math.inf` if nothing will; 0 if more is due now than
            one call does.

        Cost: O(due log n), at most `_TICK_LIMIT` lapses, as many expiries, and about as many firings.
        """
        await self._enter()
        now = self._clock.now()
        least = 0.0
        try:
            if await self._do_due(now):
                return 0
        except StorageFull:  # the same is due still: at once from the reserve, or later if that is used up
            least = 0.0 if self._commits.group_grew else TRY_SECONDS
        self._earlier = trio.Event()
        self._next_due = self._next_instant()
        if self._next_due is None:
            self._next_due = datetime.max.replace(tzinfo=now.tzinfo)
            return math.inf
        # One microsecond more, since the difference is rounded: waking too early would cost another tick.
        return max(least, (self._next_due - self._clock.now()).total_seconds()) + 1e-6

    async def _do_due(self, now: datetime) -> bool:
        """Do the things that are due now, up to the limit; return whether more may be due."""
        projection = self._projection
        lapsed = projection.lapsed(now, _TICK_LIMIT)
        expired = projection.expired(now, _TICK_LIMIT) if self._settings.expiration else []
        try:
            projection.promote(now)
            for ticket in lapsed:
                self._lapse(ticket, LEASE_ENDED)
            for ticket in expired:
                self._execute((Expire(ticket.id),), CLOCK, now)  # as of `now`: the clock may have been set back since
            if self._commits.may_grow():
                for commands in self._firing.due(now, _TICK_LIMIT):
                    self._execute(commands, CLOCK)
            if self._idle:
                self._wake()
            if self._commits.may_grow():
                self._without_room.unpark_all()
        finally:
            await self._commits.durable()
        firing = self._firing_at()
        return _TICK_LIMIT in (len(lapsed), len(expired)) or (firing is not None and firing <= now)

    def _next_instant(self) -> datetime | None:
        """Return the instant at which something will be due; None: nothing will."""
        coming, firing = self._projection.next_instant(expiration=self._settings.expiration), self._firing_at()
        return coming if firing is None else firing if coming is None else min(coming, firing)

    def _announce_earlier(self, next_due: datetime) -> None:
        """End `wait_earlier` if something will be due earlier than the last `tick` returned."""
        coming = self._next_instant()
        if coming is not None and coming < next_due:
            self._next_due = None
            self._earlier.set()

    def _firing_at(self) -> datetime | None:
        """Return when a schedule will fire; without room, when it will be tried; None: no schedule will fire."""
        if not self._projection.schedules:
            return None
        now = self._clock.now()
        instant = self._firing.coming(now)
        if instant is None or self._commits.may_grow():
            return instant
        return max(instant, now + timedelta(seconds=TRY_SECONDS))

    async def wait_earlier(self) -> None:
        """Wait until something will be due earlier than the last `tick` returned."""
        await self._earlier.wait()

    async def _confirmed(self) -> bool:
        """Wait until the state that was just read is durable; return False if it was undone for want of room.

        Raises:
            CommitOutcomeUnknown: a write failed, so it may not be durable.
        """
        try:
            await self._commits.durable()
        except StorageFull:
            return False
        return True

    # --- reading ------------------------------------------------------------------------------------------------------

    async def get(self, id: str) -> Ticket | None:
        """Return a ticket in its present state, once that is durable; None if there is none. O(1)."""
        await self._enter()
        while True:
            ticket = self._projection.get(id)
            if await self._confirmed():
                return ticket

    async def tube(self, name: str) -> Tube:
        """Return a tube in its present state, once that is durable. O(log n)."""
        await self._enter()
        while True:
            self._projection.promote(self._clock.now())
            tube = self._projection.tube(name)
            if await self._confirmed():
                return tube

    async def restricted(self) -> list[Tube]:
        """Return the tubes that are paused or limited, by name, once that is durable. O(their number)."""
        await self._enter()
        while True:
            self._projection.promote(self._clock.now())
            tubes = [self._projection.tube(name) for name in self._projection.tubes.names()]
            if await self._confirmed():
                return tubes

    async def schedules(self) -> list[Schedule]:
        """Return the schedules, by name, once their state is durable. O(n log n)."""
        await self._enter()
        while True:
            found = self._projection.schedules.values()
            if await self._confirmed():
                return found

    async def list(
        self,
        *,
        status: Status | None,
        type: str | None,
        tube: str | None,
        group: str | None,
        limit: int | None,
        after: int,
    ) -> list[Ticket]:
        """Return the tickets that match, ascending by `order`, all as of one moment, once that is durable.

        Cost: O(n), in slices between which other tasks run.
        """
        await self._enter()
        tickets = deque(self._projection.tickets.values())  # tickets never change, so this is the state of one moment
        while not await self._confirmed():
            tickets = deque(self._projection.tickets.values())
        return await select(tickets, status=status, type=type, tube=tube, group=group, limit=limit, after=after)

    async def why(self, id: str, tubes: Sequence[str]) -> Standing:
        """Return where a ticket stands now, once that is durable. Cost: that of `standing_of`."""
        await self._enter()
        while True:
            now = self._clock.now()
            self._projection.promote(now)
            found = standing_of(self._projection, id, now, tubes)
            if await self._confirmed():
                return found

    async def pending_count(self, group: str) -> tuple[int, int]:
        """Return the number of pending members of a group, once that is durable, and the seq it is as of. O(1)."""
        await self._enter()
        while True:
            projection = self._projection
            found = projection.groups.pending_count(group), projection.seq
            if await self._confirmed():
                return found

    async def first(self) -> int:
        """Return the seq at which the history begins. O(1)."""
        await self._enter()
        await self._confirmed()
        return self._log.first

    def reader(self, after: int, id: str | None = None) -> LocalReader:
        """Return a reader of the durable records after a seq."""
        self._check_open()
        return LocalReader(self._log.reader(after, id), self._readable, self._wait_beyond)

    async def _readable(self) -> int:
        """Return the seq up to which records may be read, once all commits so far are durable."""
        await self._enter()
        await self._confirmed()  # undone commits have no records
        self._check_open()
        return self._readable_seq

    async def _wait_beyond(self, seq: int) -> None:
        """Wait until records after `seq` may be read."""
        while seq >= self._readable_seq:
            self._check_open()
            await self._readers.park()
        self._check_open()

    @property
    def _readable_seq(self) -> int:
        """The seq up to which records may be read: later ones may be written, but still in flight."""
        return self._log.durable if self._settings.fsync == "always" else self._log.written

    @property
    def projection(self) -> Projection:
        """The state itself, which may be ahead of the durable log: for tests only."""
        return self._projection


def _cancellable(records: Iterable[Record], check_cancelled: Callable[[], None] | None) -> Iterator[Record]:
    for number, record in enumerate(records):
        if check_cancelled is not None and number % _REPLAY_SLICE == 0:
            check_cancelled()
        yield record
